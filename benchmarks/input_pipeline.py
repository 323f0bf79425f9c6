"""Measures what the input pipeline delivers, beside what the training step takes.

    python benchmarks/input_pipeline.py --repeats=5 --nomemory                      pipeline, step
    python benchmarks/input_pipeline.py --repeats=3 --nomemory --groups=skipping    resuming

The images are drawn (JPEG, noisy backgrounds) at the size of the input, unless the title says
otherwise, and are read from TFRecords as in training: shuffled, augmented and labelled. A call
begins with an empty pipeline, so the first batches of a training are included. The step is that of
the experiment with the input size of the title and random weights, on a batch in memory.

The notes also give the time that all cores together spend on an image. Other work on the machine
hardly changes it, and its inverse is what one core delivers.
"""

import collections
import functools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator

import measuring  # isort: skip, sets what TensorFlow reads at import

import tensorflow as tf
from absl import flags
from official.core import base_task, exp_factory, task_factory
from official.core import config_definitions as cfg
from tensorflow.python.framework import config as tf_config

import libra_tf.registry_imports  # noqa: F401, registers the experiments
from comparison import Comparison
from libra_tf.compat import keras
from libra_tf.data import DetectionDataset, make_shapes, prepare_coco_folder
from libra_tf.runner.config import use_dataset

NUM_DRAWN = 64
# By input size: the experiment, its batch in the step, and the images that a call reads.
SIZES = {
    128: ("demo", 8, 512),
    320: ("small", 8, 256),
    640: ("resnetfpn_coco", 2, 32),
    1024: ("resnetfpn_coco", 1, 16),
}
# Has as many pixels as 640x480, a common size in COCO.
COCO_SIZE = 554

_INPUT_SIZES = flags.DEFINE_multi_enum(
    "input_sizes", list(map(str, SIZES)), list(map(str, SIZES)), "Heights and widths of the input."
)
_STEP = flags.DEFINE_bool("step", True, "Whether to measure the training step as well.")


def comparisons(detector: str) -> Iterator[Comparison]:
    """Yields the comparisons of a detector by input size."""
    for input_size in map(int, _INPUT_SIZES.value):
        yield _compare(detector, input_size, input_size, has_step=_STEP.value)
    if "1024" in _INPUT_SIZES.value:
        yield _compare(detector, 1024, COCO_SIZE, has_step=False)


def _compare(detector: str, input_size: int, drawn_size: int, has_step: bool) -> Comparison:
    experiment, batch_size, num_images = SIZES[input_size]
    experiment = f"libra_{detector}_{experiment}"
    make = functools.partial(_params, experiment, input_size, drawn_size)
    contestants = {
        "pipeline": functools.partial(_pipeline, make, num_images, None, False),
        "pipeline with --seed": functools.partial(_pipeline, make, num_images, 0, True),
    }
    if has_step:
        contestants["training step"] = functools.partial(_training_step, make, batch_size)
    images = {name: batch_size if name == "training step" else num_images for name in contestants}
    core_seconds = collections.defaultdict(list)

    def note(name: str, seconds: float) -> str:
        core_ms = 1e3 * statistics.median(core_seconds[name]) / images[name]
        return f"{images[name] / seconds:.2f} images/s, {core_ms:.1f} core-ms an image"

    return Comparison(
        f"{experiment} at {input_size}x{input_size}, images of {drawn_size}x{drawn_size}",
        {
            name: functools.partial(_timing_cores, build, core_seconds[name])
            for name, build in contestants.items()
        },
        note=note,
    )


def _timing_cores(
    build: Callable[[], Callable[[], object]], seconds: list[float]
) -> Callable[[], None]:
    call = build()

    def timed() -> None:
        start = time.process_time()
        call()
        seconds.append(time.process_time() - start)

    return timed


def skipping_comparisons() -> Iterator[Comparison]:
    """Yields how fast used images are skipped: ours, and preparing them as Model Garden would."""
    for experiment, input_size, drawn_size, skipped, prepared in (
        ("libra_retinanet_demo", 128, 128, 100_000, 500),
        ("libra_retinanet_resnetfpn_coco", 1024, COCO_SIZE, 20_000, 32),
    ):
        make = functools.partial(_params, experiment, input_size, drawn_size)
        for name, num_images, build in (
            ("skipping", skipped, functools.partial(_first_batch, make, skipped)),
            ("preparing", prepared, functools.partial(_pipeline, make, prepared, None, True)),
        ):
            yield Comparison(
                f"{experiment}: {name} {num_images} images",
                {name: build},
                note=functools.partial(_images_per_second, num_images),
            )


def _images_per_second(num_images: int, name: str, seconds: float) -> str:
    del name
    return f"{num_images / seconds:.0f} images/s"


@functools.cache
def _drawn(size: int) -> DetectionDataset:
    folder = _folder().name
    shapes = make_shapes(f"{folder}/shapes{size}", NUM_DRAWN, 1, size, report=str)
    return prepare_coco_folder(shapes, f"{folder}/cache", report=str)


@functools.cache
def _folder() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory()


def _params(experiment: str, input_size: int, drawn_size: int) -> cfg.ExperimentConfig:
    params = exp_factory.get_exp_config(experiment)
    use_dataset(params, _drawn(drawn_size))
    params.task.model.input_size = [input_size, input_size, 3]
    params.task.init_checkpoint = None
    return params


def _build_task(params: cfg.ExperimentConfig) -> base_task.Task:
    keras.utils.set_random_seed(0)
    return task_factory.get_task(params.task)


def _pipeline(
    make: Callable[[], cfg.ExperimentConfig],
    num_images: int,
    first_step: int | None,
    is_deterministic: bool,
) -> Callable[[], None]:
    params = make()
    data = params.task.train_data
    task = _build_task(params)
    task.first_step = first_step
    batches = task.build_inputs(data).take(num_images // data.global_batch_size)

    def read() -> None:
        if is_deterministic:
            tf.config.experimental.enable_op_determinism()
        for _ in batches:
            pass
        tf_config.disable_op_determinism()

    return read


def _first_batch(make: Callable[[], cfg.ExperimentConfig], num_used: int) -> Callable[[], None]:
    params = make()
    first_step = num_used // params.task.train_data.global_batch_size
    return _pipeline(lambda: params, params.task.train_data.global_batch_size, first_step, True)


def _training_step(
    make: Callable[[], cfg.ExperimentConfig], batch_size: int
) -> Callable[[], float]:
    params = make()
    params.task.train_data.global_batch_size = batch_size
    task = _build_task(params)
    batch = next(iter(task.build_inputs(params.task.train_data)))
    model = task.build_model()
    optimizer = task.create_optimizer(params.trainer.optimizer_config)
    step = tf.function(lambda inputs: task.train_step(inputs, model, optimizer))
    return lambda: float(step(batch)[task.loss])


GROUPS = {
    "retinanet": functools.partial(comparisons, "retinanet"),
    "fasterrcnn": functools.partial(comparisons, "fasterrcnn"),
    "skipping": skipping_comparisons,
}

if __name__ == "__main__":
    measuring.run(GROUPS, default=["retinanet", "fasterrcnn"])
