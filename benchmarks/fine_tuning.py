"""Fine-tunes small detectors here and in MMDetection, and draws the losses of both.

    python benchmarks/fine_tuning.py --dataset=bccd --mmdet_python=mmdet/bin/python

`mmdetection.py` explains how to install the environment with MMDetection. --dataset is a folder
in any layout of docs/data.md, with at most five classes. Both start from the weights of
tests/golden/models (a sixteenth of the width, random) and get the same batches, which the input
pipeline of `task.model.compatibility=mmdetection` draws: 60 times 4 images of at most 256x320. Both
train with SGD of the same rate, momentum and weight decay.

The losses of every step go to benchmarks/records/fine_tuning.json, and their curves to
docs/images/fine_tuning.svg. RetinaNet's first step agrees to rounding, which then grows from step
to step, as it does when the images of one framework change by 1e-7 of themselves. Faster R-CNN
draws its samples at random, so its curves agree only in the mean.
"""

import json
import os
import pathlib
import subprocess
import tempfile
from collections.abc import Mapping, Sequence

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import matplotlib
import matplotlib.figure
import numpy as np
from absl import app, flags
from official.core import task_factory

import mmdet_python
from libra_tf.checkpoints import importing
from libra_tf.cli import program, quiet
from libra_tf.cli.errors import UsageError
from libra_tf.compat import keras
from libra_tf.data import DetectionDataset, prepare_coco_folder
from libra_tf.modeling.mmdetection.anchors import own_padded_size
from libra_tf.modeling.torch_sgd import TorchSGD

ROOT = pathlib.Path(__file__).resolve().parents[1]
RECORD = ROOT / "benchmarks/records/fine_tuning.json"
PICTURE = ROOT / "docs/images/fine_tuning.svg"
DETECTORS = {
    "libra_retinanet_r50": "Libra RetinaNet",
    "libra_faster_rcnn_r50": "Libra Faster R-CNN",
}
OURS, THEIRS = "libra_tf", "MMDetection"
STEPS, BATCH_SIZE, INPUT_SIZE = 60, 4, (256, 320, 3)
LEARNING_RATE, WARMUP_STEPS = 0.001, 5
# First and last steps of which means are printed.
WINDOWS = ((1, 5), (21, 25), (56, 60))

_DATASET = flags.DEFINE_string(
    "dataset", None, "Folder in any layout of docs/data.md.", required=True
)
_MMDET_PYTHON = mmdet_python.define(required=True)
flags.declare_key_flag("mmdet_python")

# By framework, the loss of every step.
Losses = Mapping[str, Sequence[float]]


def main(_: list[str]) -> int:
    """Trains, records, prints and draws."""
    quiet.silence_libraries()
    return program.exit_status(_compare)


def _compare() -> None:
    dataset = prepare_coco_folder(_DATASET.value)
    losses = {}
    for detector in DETECTORS:
        checkpoint = str(ROOT / f"tests/golden/models/{detector}.pth")
        with tempfile.TemporaryDirectory() as folder:
            ours = _train(checkpoint, dataset, folder)
            losses[detector] = {OURS: ours, THEIRS: _train_in_mmdetection(checkpoint, folder)}
        _print(detector, losses[detector])
    RECORD.write_text(json.dumps(losses, indent=1) + "\n")
    draw(losses, PICTURE)
    print(PICTURE)


def _train(checkpoint: str, dataset: DetectionDataset, folder: str) -> list[float]:
    """Fine-tunes a detector in TensorFlow.

    Operation by operation: what TensorFlow makes of a whole graph rounds differently.

    Args:
      checkpoint: the detector's weights.
      dataset: its training images are used.
      folder: gets the batches, one file a step, for `fine_tuning_mmdetection.py`.

    Returns:
      The loss of every step.

    Raises:
      UsageError: if the data set has more classes than the detector.
    """
    imported = importing.import_detector(checkpoint)
    unknown = set(dataset.class_names) - set(imported.category_ids)
    if unknown:
        raise UsageError(
            f"--dataset={_DATASET.value} has the category ids {sorted(unknown)}, but the "
            f"detector only has {list(imported.category_ids)}"
        )
    config = imported.params.task
    config.model.input_size = list(INPUT_SIZE)
    data = config.train_data
    data.input_path, data.global_batch_size = dataset.train.input_path, BATCH_SIZE
    keras.utils.set_random_seed(0)
    task = task_factory.get_task(config)
    # Makes the batches repeatable.
    task.first_step = 0
    optimizer = TorchSGD(momentum=0.9, weight_decay=1e-4)
    losses = []
    for step, (images, labels) in enumerate(task.build_inputs(data).take(STEPS)):
        rate = LEARNING_RATE * min((step + 1) / WARMUP_STEPS, 1)
        sizes = labels["image_info"][:, 1].numpy().astype(np.int64)
        np.savez(
            f"{folder}/{step:02}.npz",
            images=images.numpy().transpose(0, 3, 1, 2),
            boxes=labels["gt_boxes"].numpy()[..., [1, 0, 3, 2]],
            # Category ids from 1 are labels from 0; padding stays negative.
            classes=labels["gt_classes"].numpy().astype(np.int64) - 1,
            img_shapes=sizes,
            pad_shapes=own_padded_size(sizes),
            learning_rate=rate,
        )
        optimizer.learning_rate = rate
        logs = task.train_step((images, labels), imported.model, optimizer)
        losses.append(float(logs[task.loss]))
    return losses


def _train_in_mmdetection(checkpoint: str, folder: str) -> list[float]:
    """Fine-tunes a detector in MMDetection; see `_train` for the arguments and the result."""
    program = pathlib.Path(__file__).with_name("fine_tuning_mmdetection.py")
    command = [_MMDET_PYTHON.value, program, checkpoint, folder]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def _print(detector: str, losses: Losses) -> None:
    print(detector)
    for name, values in losses.items():
        means = (f"{np.mean(values[a - 1 : b]):.3f} (steps {a}-{b})" for a, b in WINDOWS)
        print(f"  mean loss, {name}: {', '.join(means)}")
    ours, theirs = (np.array(losses[name]) for name in (OURS, THEIRS))
    differences = np.abs(ours - theirs) / theirs
    for last in (WARMUP_STEPS, STEPS):
        mean = differences[:last].mean()
        print(f"  mean absolute relative difference, steps 1-{last}: {mean:.2g}", flush=True)


def draw(losses: Mapping[str, Losses], path: pathlib.Path) -> None:
    """Draws a panel for each detector, with a curve for each framework.

    Args:
      losses: by detector.
      path: of the picture.
    """
    figure = matplotlib.figure.Figure(figsize=(10, 3.6), layout="constrained")
    panels = figure.subplots(1, len(DETECTORS))
    for axes, (detector, title) in zip(panels, DETECTORS.items(), strict=True):
        # The dashed curve lies on the other one where they agree.
        for name, style in ((THEIRS, "-"), (OURS, "--")):
            values = losses[detector][name]
            axes.plot(range(1, len(values) + 1), values, style, label=name, linewidth=1.8)
        axes.set(title=title, xlabel="step", ylabel="total loss", ylim=(0, None))
        axes.grid(alpha=0.3)
        axes.legend()
    # Text stays text in the SVG, and the same figure gives the same file.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "libra"}):
        figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    app.run(main)
