"""Times exported detectors against Model Garden's own export, and measures their peak memory.

    python benchmarks/serving.py --batch_sizes=1 --repeats=10
    python benchmarks/serving.py --batch_sizes=8 --repeats=4 --warm_up=1 --nomemory
    python benchmarks/serving.py --groups=retinanet_tpu_nms --repeats=1 --warm_up=1 --nomemory

Each call is one request to the signature for JPEG bytes: decoding, resizing, the network,
suppression. R-50, 640x640, 91 classes, random weights, float32 (ours in bfloat16 as well, which a
CPU without it emulates). All images are 640x480, because Model Garden's export takes only images of
the same size in a batch. Model Garden exports the same detector, with `nms_version: batched`, which
our export chooses by itself. The last command leaves its export as Model Garden makes it, with the
suppression for TPUs from the config. The exports are kept in --folder for the next call:
delete it after any change of the code.
"""

import functools
import io
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import measuring  # isort: skip, sets what TensorFlow reads at import

import numpy as np
import tensorflow as tf
from absl import flags
from official.core import exp_factory
from official.vision.serving import export_saved_model_lib
from PIL import Image

from building import NUM_CLASSES, SWITCHES_OFF
from comparison import Comparison
from detectors import INPUT_SIZE
from exporting import export_run
from libra_tf import precision

_FOLDER = flags.DEFINE_string(
    "folder",
    "runs/benchmark_serving",
    "Folder that keeps the exports; delete it after any change of the code.",
)
_BATCH_SIZES = flags.DEFINE_multi_integer("batch_sizes", [1, 8], "Images per request.")

# The head of the experiments here, as in the paper. Model Garden's own has four convolutions.
MODEL_GARDEN = {"retinanet": {}, "fasterrcnn": {"detection_head": {"num_convs": 0, "num_fcs": 2}}}
MODEL = {"num_classes": NUM_CLASSES, "input_size": [INPUT_SIZE, INPUT_SIZE, 3]}


def comparisons(detector: str) -> Iterator[Comparison]:
    """Yields one comparison per batch size."""
    contestants = {
        "ours": functools.partial(_ours, detector, {}),
        "ours, bfloat16": functools.partial(_ours, detector, {}, precision.BFLOAT16),
        "ours, Libra switched off": functools.partial(_ours, detector, SWITCHES_OFF[detector]),
        "Model Garden's export, batched": functools.partial(_model_garden, detector, "batched"),
    }
    for size in _BATCH_SIZES.value:
        images = tf.constant([_jpeg(seed) for seed in range(size)])
        calls = {
            name: functools.partial(_load, export, images) for name, export in contestants.items()
        }
        rate = functools.partial(_images_per_second, size)
        yield Comparison(f"batch {size}", calls, note=rate)


def slow_comparisons(detector: str) -> Iterator[Comparison]:
    """Yields the comparison with the TPU suppression, which takes most of the time on a CPU."""
    contestants = {
        "ours": functools.partial(_ours, detector, {}),
        "Model Garden's export": functools.partial(_model_garden, detector, "v2"),
    }
    images = tf.constant([_jpeg(0)])
    calls = {name: functools.partial(_load, export, images) for name, export in contestants.items()}
    yield Comparison("batch 1", calls, note=functools.partial(_images_per_second, 1))


def _images_per_second(size: int, name: str, seconds: float) -> str:
    del name
    return f"{size / seconds:.2f} images/s"


def _load(export: Callable[[], str], images: tf.Tensor) -> Callable[[], np.ndarray]:
    """Returns a call of the default signature of an export."""
    module = tf.saved_model.load(export())
    (argument,) = module.signatures["serving_default"].structured_input_signature[1]
    # The closure keeps the module alive.
    return lambda: module.signatures["serving_default"](**{argument: images})[
        "detection_boxes"
    ].numpy()


def _ours(detector: str, switches: Mapping[str, Any], computed_in: str = precision.FLOAT32) -> str:
    name = f"switched_off_{computed_in}" if switches else f"libra_{computed_in}"
    model = {**switches.get("model", {}), **MODEL}
    return export_run(
        os.path.join(_FOLDER.value, detector, name),
        f"libra_{detector}_resnetfpn_coco",
        {**switches, "model": model},
        computed_in=computed_in,
    )


def _model_garden(detector: str, nms_version: str) -> str:
    folder = os.path.join(_FOLDER.value, detector, f"model_garden_{nms_version}")
    if os.path.exists(folder):
        return folder
    params = exp_factory.get_exp_config(f"{detector}_resnetfpn_coco")
    generator = {"detection_generator": {"nms_version": nms_version}}
    params.task.override({"model": {**MODEL, **MODEL_GARDEN[detector], **generator}})
    export_saved_model_lib.export_inference_graph(
        "image_bytes",
        None,
        [INPUT_SIZE, INPUT_SIZE],
        params,
        None,
        folder,
        function_keys={"image_bytes": "serving_default"},
    )
    return folder


def _jpeg(seed: int) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).resize((640, 480)).save(buffer, format="JPEG", quality=90)
    return buffer.getvalue()


DETECTORS = ("retinanet", "fasterrcnn")
GROUPS = {name: functools.partial(comparisons, name) for name in DETECTORS}
GROUPS |= {f"{name}_tpu_nms": functools.partial(slow_comparisons, name) for name in DETECTORS}

if __name__ == "__main__":
    measuring.run(GROUPS, default=list(DETECTORS))
