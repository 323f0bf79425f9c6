"""Times whole detectors against those of Model Garden, and measures their peak memory.

    python benchmarks/detectors.py --repeats=10                    RetinaNet and Faster R-CNN
    python benchmarks/detectors.py --repeats=10 --groups=cascade   another detector

The baseline is the same experiment with every Libra component switched off, which is Model Garden's
own detector. R-50, 640x640, float32, random weights. The images are drawn, and go through Model
Garden's input pipeline once. Both infer with TensorFlow's suppression, because Model Garden's own
(`--nms_version=v2`) is made for TPUs.
`--mmdet_python` names the interpreter of an environment with MMDetection. Its published config then
takes turns with the others in inference. `mmdetection.py` explains how to install such an
environment.
"""

import functools
import pathlib
import shutil
import subprocess
import tempfile

import measuring  # isort: skip, sets what TensorFlow reads at import

import tensorflow as tf
from absl import flags
from official.core import exp_factory, task_factory

import libra_tf.registry_imports  # noqa: F401, registers the experiments
from comparison import Comparison
from libra_tf.compat import keras
from libra_tf.data import make_shapes, prepare_coco_folder
from libra_tf.runner.config import use_dataset

INPUT_SIZE = 640
NUM_CLASSES = 91
TRAINING_BATCH = 2
RANDOM_SAMPLING = {"roi_sampler": {"type": "random"}}
SWITCHES_OFF = {
    "retinanet": {
        "model": {"decoder": {"type": "fpn"}},
        "losses": {"box_loss": "huber", "box_loss_weight": 50},
    },
    "fasterrcnn": {
        "model": {"decoder": {"type": "fpn"}, **RANDOM_SAMPLING},
        "losses": {"box_loss": "huber"},
    },
}
SWITCHES_OFF["cascadercnn"] = SWITCHES_OFF["fasterrcnn"]

_NMS_VERSION = flags.DEFINE_string(
    "nms_version", "batched", "task.model.detection_generator.nms_version in inference."
)
_MMDET_PYTHON = flags.DEFINE_string(
    "mmdet_python", None, "A Python that can import mmdet, to include MMDetection in inference."
)


@flags.validator(
    "mmdet_python", "It must be a Python with mmdet; mmdetection.py explains how to install it."
)
def _has_mmdet(python):
    if python is None:
        return True
    find = "import importlib.util, sys; sys.exit(not importlib.util.find_spec('mmdet'))"
    return bool(shutil.which(python)) and not subprocess.run([python, "-c", find]).returncode


def comparisons(detector):
    """Yields the comparisons of the training step and of inference."""
    switches = {"ours": {}, "Model Garden": SWITCHES_OFF[detector]}
    if detector == "fasterrcnn":
        switches["ours with random sampling"] = {"model": RANDOM_SAMPLING}
    yield Comparison(
        f"training step, batch {TRAINING_BATCH}",
        {name: functools.partial(_training_step, detector, s) for name, s in switches.items()},
    )
    models = {"ours": {}, "Model Garden": SWITCHES_OFF[detector]["model"]}
    inference = {
        name: functools.partial(_inference, detector, model) for name, model in models.items()
    }
    if _MMDET_PYTHON.value and detector != "cascadercnn":
        inference["MMDetection"] = functools.partial(_mmdetection, detector)
    yield Comparison("inference, batch 1", inference, other_processes={"MMDetection"})


def _build(detector, switches, is_training, batch_size):
    """Returns the task, the model, the experiment's config and one batch."""
    params = exp_factory.get_exp_config(f"libra_{detector}_resnetfpn_coco")
    with tempfile.TemporaryDirectory() as folder:
        shapes = make_shapes(f"{folder}/shapes", 4, 4, INPUT_SIZE, report=str)
        use_dataset(params, prepare_coco_folder(shapes, f"{folder}/cache", report=str))
        task_config = params.task
        task_config.override(switches)
        task_config.model.num_classes = NUM_CLASSES
        task_config.model.input_size = [INPUT_SIZE, INPUT_SIZE, 3]
        task_config.init_checkpoint = None
        data = task_config.train_data if is_training else task_config.validation_data
        data.global_batch_size, data.dtype = batch_size, "float32"
        keras.utils.set_random_seed(0)
        task = task_factory.get_task(task_config)
        batch = next(iter(task.build_inputs(data)))
    return task, task.build_model(), params, batch


def _training_step(detector, switches):
    task, model, params, batch = _build(detector, switches, True, TRAINING_BATCH)
    optimizer = task.create_optimizer(params.trainer.optimizer_config)
    step = tf.function(lambda inputs: task.train_step(inputs, model, optimizer))
    return lambda: float(step(batch)[task.loss])


def _inference(detector, model_switches):
    suppression = {"detection_generator": {"nms_version": _NMS_VERSION.value}}
    switches = {"model": {**model_switches, **suppression}}
    _, model, _, (images, labels) = _build(detector, switches, False, 1)
    shape = labels["image_info"][:, 1, :]
    infer = tf.function(
        lambda images: model(
            images, image_shape=shape, anchor_boxes=labels["anchor_boxes"], training=False
        )["detection_boxes"]
    )
    return lambda: infer(images).numpy()


def _mmdetection(detector):
    # MMDetection's Faster R-CNN adds the background class itself.
    num_classes = NUM_CLASSES if detector == "retinanet" else NUM_CLASSES - 1
    program = pathlib.Path(__file__).with_name("mmdetection.py")
    process = subprocess.Popen(
        [_MMDET_PYTHON.value, program, detector, str(INPUT_SIZE), str(num_classes)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )

    def infer():
        print(file=process.stdin, flush=True)
        if not process.stdout.readline():
            raise RuntimeError(f"{program} has ended; run it alone to see why.")

    return infer


GROUPS = {name: functools.partial(comparisons, name) for name in SWITCHES_OFF}

if __name__ == "__main__":
    measuring.run(GROUPS, default=["retinanet", "fasterrcnn"])
