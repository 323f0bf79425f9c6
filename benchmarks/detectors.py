"""Times whole detectors against those of Model Garden, and measures their peak memory.

    python benchmarks/detectors.py --repeats=10                        RetinaNet and Faster R-CNN
    python benchmarks/detectors.py --repeats=10 --groups=cascadercnn   another detector

The baseline is the same experiment with every Libra component switched off, which is Model Garden's
own detector. R-50, 640x640, random weights. The images are drawn, and go through Model Garden's
input pipeline once. Both infer with TensorFlow's suppression, because Model Garden's own
(`--nms_version=v2`) is made for TPUs.
Every contestant has a row in float32, and one in bfloat16 if the device computes that natively.
`--precisions=float32 --precisions=bfloat16` asks for both anywhere; emulated, bfloat16 is slow.
`--mmdet_python` names the interpreter of an environment with MMDetection. Its published config then
takes turns with the others, with the same images and objects. `mmdetection.py` explains how to
install such an environment.
"""

import functools
import pathlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import measuring  # isort: skip, sets what TensorFlow reads at import

import numpy as np
from absl import flags

import mmdet_python
import other_process
import side_by_side
from building import (
    NUM_CLASSES,
    RANDOM_SAMPLING,
    SWITCHES_OFF,
    inference,
    prepare,
    training_step,
)
from comparison import Comparison
from libra_tf import precision

INPUT_SIZE = 640
TRAINING_BATCH = 2

_NMS_VERSION = flags.DEFINE_string(
    "nms_version", "batched", "task.model.detection_generator.nms_version in inference."
)
_PRECISIONS = flags.DEFINE_multi_enum(
    "precisions",
    [precision.FLOAT32, precision.AUTO],
    [precision.FLOAT32, precision.BFLOAT16, precision.AUTO],
    "What to compute in; auto is bfloat16 where the device has it, else float32.",
)
_MMDET_PYTHON = mmdet_python.define()
flags.declare_key_flag("mmdet_python")


def comparisons(detector: str) -> Iterator[Comparison]:
    """Yields the comparisons of the training step and of inference."""
    switches = {"ours": {}, "Model Garden": SWITCHES_OFF[detector]}
    if detector == "fasterrcnn":
        switches["ours with random sampling"] = {"model": RANDOM_SAMPLING}
    training = {
        name: functools.partial(_training_step, detector, s) for name, s in switches.items()
    }
    models = {"ours": {}, "Model Garden": SWITCHES_OFF[detector]["model"]}
    detection = {
        name: functools.partial(_inference, detector, model) for name, model in models.items()
    }
    if _MMDET_PYTHON.value and detector != "cascadercnn":
        training["MMDetection"] = functools.partial(_mmdetection, detector, True)
        detection["MMDetection"] = functools.partial(_mmdetection, detector, False)
    yield _in_every_precision(f"training step, batch {TRAINING_BATCH}", training)
    yield _in_every_precision("inference, batch 1", detection)


def _in_every_precision(
    title: str, contestants: Mapping[str, Callable[[precision.Precision], Callable[[], object]]]
) -> Comparison:
    chosen = {p.dtype: p for p in (precision.choose(a, "--precisions") for a in _PRECISIONS.value)}
    emulated = {dtype for dtype, p in chosen.items() if p.is_emulated}
    return Comparison(
        title,
        {
            side_by_side.name(contestant, dtype): functools.partial(build, p)
            for contestant, build in contestants.items()
            for dtype, p in chosen.items()
        },
        other_processes={side_by_side.name("MMDetection", dtype) for dtype in chosen},
        note=lambda name, _: "emulated" if name.endswith(tuple(emulated)) else "",
        summary=side_by_side.ratios,
    )


def _training_step(
    detector: str, switches: Mapping[str, Any], computed_in: precision.Precision
) -> Callable[[], float]:
    experiment = f"libra_{detector}_resnetfpn_coco"
    return training_step(experiment, switches, TRAINING_BATCH, INPUT_SIZE, computed_in)


def _inference(
    detector: str, model_switches: Mapping[str, Any], computed_in: precision.Precision
) -> Callable[[], np.ndarray]:
    suppression = {"detection_generator": {"nms_version": _NMS_VERSION.value}}
    switches = {"model": {**model_switches, **suppression}}
    return inference(f"libra_{detector}_resnetfpn_coco", switches, INPUT_SIZE, computed_in)


def _mmdetection(
    detector: str, is_training: bool, computed_in: precision.Precision
) -> Callable[[], str]:
    # MMDetection's Faster R-CNN adds the background class itself.
    num_classes = NUM_CLASSES if detector == "retinanet" else NUM_CLASSES - 1
    program = pathlib.Path(__file__).with_name("mmdetection.py")
    command = [_MMDET_PYTHON.value, program, detector, f"--num_classes={num_classes}"]
    command.append(f"--dtype={computed_in.dtype}")
    if is_training:
        command.append("--train")
    with tempfile.TemporaryDirectory() as folder:
        batch = f"{folder}/batch.npz"
        np.savez(batch, **_mmdetection_batch(is_training))
        return other_process.start([*command, f"--batch={batch}"])


def _mmdetection_batch(is_training: bool) -> dict[str, np.ndarray]:
    """Returns the images and objects of the others' batch as `mmdetection.py` reads them."""
    # Faster R-CNN's batch holds the objects. RetinaNet's has the same images.
    batch_size = TRAINING_BATCH if is_training else 1
    _, _, (images, labels) = prepare(
        "libra_fasterrcnn_resnetfpn_coco", {}, is_training, batch_size, INPUT_SIZE, "float32"
    )
    boxes, classes = np.zeros([1, 0, 4], np.float32), np.zeros([1, 0], np.int64)
    if is_training:
        boxes = labels["gt_boxes"].numpy()[..., [1, 0, 3, 2]]
        classes = labels["gt_classes"].numpy().astype(np.int64) - 1
    return {"images": images.numpy().transpose(0, 3, 1, 2), "boxes": boxes, "classes": classes}


GROUPS = {name: functools.partial(comparisons, name) for name in SWITCHES_OFF}

if __name__ == "__main__":
    measuring.run(GROUPS, default=["retinanet", "fasterrcnn"])
