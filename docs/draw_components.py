"""Draws the pictures of docs/layers.md into docs/images/.

    python docs/draw_components.py --model_dir=runs/libra_fasterrcnn_demo

The picture of the pyramid needs a trained demo (`python run.py --mode=train_and_eval`).
"""

import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import matplotlib.figure
import numpy as np
import tensorflow as tf
from absl import app, flags
from official.vision.dataloaders import tf_example_decoder
from official.vision.ops import preprocess_ops

from libra_tf import ops
from libra_tf.runs import trained_run

_MODEL_DIR = flags.DEFINE_string("model_dir", None, "A trained demo.", required=True)

IMAGES = pathlib.Path(__file__).parent / "images"
NUM_NEGATIVES, NUM_SAMPLES = 1800, 384
BINS = np.linspace(0, 0.5, 31)


def main(_: list[str]) -> None:
    """Draws all pictures."""
    IMAGES.mkdir(exist_ok=True)
    _save(_draw_sampling(), "sampling.png")
    _save(_draw_loss(), "balanced_l1.png")
    _save(_draw_pyramid(_MODEL_DIR.value), "pyramid.png")


def _save(figure: matplotlib.figure.Figure, name: str) -> None:
    figure.savefig(IMAGES / name, dpi=80)
    print(IMAGES / name)


def _draw_sampling() -> matplotlib.figure.Figure:
    """Draws the IoUs of sampled negatives: the mean of 200 images with mostly easy negatives."""
    rng = np.random.default_rng(0)
    below = 1 - np.exp(-0.5 / 0.08)  # An exponential distribution that ends at 0.5.
    negatives = -0.08 * np.log(1 - below * rng.uniform(size=(200, NUM_NEGATIVES)))
    # Positives and ground truth, whose IoUs of up to 1 stretch MMDetection's bins.
    ious = np.concatenate([negatives, rng.uniform(0.5, 1, (200, 80)), np.ones((200, 20))], axis=1)
    ious = tf.constant(ious, tf.float32)
    candidates = ious < 0.5
    picks = {
        "random": ops.sample_random(candidates, NUM_SAMPLES, seed=1),
        "IoU-balanced (paper, the default)": ops.sample_iou_balanced(
            ious, candidates, NUM_SAMPLES, iou_limit=0.5, seed=1
        ),
        "IoU-balanced, bin_range='all' (MMDetection)": ops.sample_iou_balanced(
            ious, candidates, NUM_SAMPLES, bin_range="all", seed=1
        ),
    }
    figure = matplotlib.figure.Figure(figsize=(12, 3.4), layout="constrained")
    for axes, (name, mask) in zip(figure.subplots(1, 3, sharey=True), picks.items(), strict=True):
        sampled = ious.numpy()[mask.numpy()]
        axes.hist(sampled, BINS, weights=np.full(sampled.size, 1 / 200), color="tab:blue")
        hard = (sampled > 0.05).mean()
        axes.set_title(f"{name}\n{hard:.0%} above an IoU of 0.05", fontsize=10)
        axes.set_xlabel("IoU with the nearest object")
        for edge in {1: (1 / 6, 1 / 3), 2: (1 / 3,)}.get(list(picks).index(name), ()):
            axes.axvline(edge, color="tab:orange", linestyle="--", linewidth=1)
    figure.axes[0].set_ylabel(f"negatives, of {NUM_SAMPLES} an image")
    return figure


def _draw_loss() -> matplotlib.figure.Figure:
    """Draws value and gradient for several constants, and for both forms."""
    error = tf.constant(np.concatenate([[0], np.geomspace(1e-6, 2, 1000)]), tf.float32)
    kinds = {
        "alpha 0.2": {"alpha": 0.2},
        "alpha 0.5 (published)": {},
        "alpha 1.0": {"alpha": 1.0},
        "gamma 1.0": {"gamma": 1.0},
        "beta 0.11, form='paper'": {"beta": 0.11},
        "beta 0.11, form='mmdet'": {"beta": 0.11, "form": "mmdet"},
    }
    figure = matplotlib.figure.Figure(figsize=(11, 4), layout="constrained")
    value_axes, gradient_axes = figure.subplots(1, 2)
    for name, kwargs in kinds.items():
        with tf.GradientTape() as tape:
            tape.watch(error)
            value = ops.balanced_l1(tf.zeros_like(error), error, **kwargs)
        style = {"label": name, "linestyle": "--" if "mmdet" in name else "-"}
        value_axes.plot(error, value, **style)
        gradient_axes.plot(error, tape.gradient(value, error), **style)
    smooth_l1 = tf.minimum(error, 1.0)
    gradient_axes.plot(error, smooth_l1, color="black", linestyle=":", label="smooth L1")
    value_axes.plot(
        error, tf.where(error < 1, error**2 / 2, error - 0.5), color="black", linestyle=":"
    )
    for axes, title in ((value_axes, "loss"), (gradient_axes, "gradient")):
        axes.set(title=title, xlabel="|prediction - target|", ylim=(0, None))
        axes.grid(alpha=0.3)
    gradient_axes.legend(fontsize=8, loc="upper right")
    return figure


def _draw_pyramid(model_dir: str) -> matplotlib.figure.Figure:
    """Draws the levels of a trained demo before and after the pyramid, on a validation image."""
    run = trained_run.read(model_dir)
    model, task = run.load_model(), run.params.task
    image = _first_image(task.validation_data.input_path)
    size = task.model.input_size[:2]
    normalized = preprocess_ops.normalize_image(tf.image.resize(image, size))
    libra_fpn = model.decoder
    fpn = next(layer for layer in libra_fpn.layers if layer.name.startswith("fpn"))
    before = fpn(model.backbone(normalized[None], training=False), training=False)
    after = libra_fpn.get_layer("balanced_feature_pyramid")(before)

    figure = matplotlib.figure.Figure(figsize=(12, 6.4), layout="constrained")
    grid = figure.subplots(2, len(before) + 1)
    for axes in grid.flat:
        axes.set_axis_off()
    grid[0, 0].imshow(image)
    grid[0, 0].set_title("image")
    added = after["2"] - before["2"]
    grid[1, 0].imshow(_strength(added))
    grid[1, 0].set_title("what is added to P2")
    for column, level in enumerate(sorted(before), start=1):
        for row, (name, levels) in enumerate((("before", before), ("after", after))):
            grid[row, column].imshow(_strength(levels[level]))
            grid[row, column].set_title(f"P{level} {name}")
    return figure


def _strength(features: tf.Tensor) -> tf.Tensor:
    """Returns the root mean square over the channels of the first image."""
    return tf.sqrt(tf.reduce_mean(features[0] ** 2, axis=-1))


def _first_image(records: str) -> tf.Tensor:
    example = next(iter(tf.data.TFRecordDataset(sorted(tf.io.gfile.glob(records)))))
    return tf_example_decoder.TfExampleDecoder().decode(example)["image"]


if __name__ == "__main__":
    app.run(main)
