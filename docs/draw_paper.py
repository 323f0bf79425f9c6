"""Draws the figures of docs/paper.md and writes the numbers into it.

    python docs/draw_paper.py

It first trains the baseline detector of the figures on the built-in shapes (once, a few minutes on
two cores), and measures it as `python -m libra_tf.analysis` does.
"""

import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import matplotlib
import matplotlib.figure
import numpy as np
import tensorflow as tf
from absl import app, flags

from libra_tf import ops
from libra_tf.analysis import collect, objective
from libra_tf.cli import quiet
from libra_tf.runs import trained_run

ROOT = pathlib.Path(__file__).resolve().parents[1]
DOCUMENT = ROOT / "docs/paper.md"
IMAGES = ROOT / "docs/images"
BASELINE = (
    "task.model.roi_sampler.type=random,task.model.decoder.type=fpn,task.losses.box_loss=huber"
)
WAYS = {"random": "random", "iou_balanced": "IoU-balanced", "hardest": "hard (largest loss)"}
KINDS = {"rpn_anchors": "anchors of the RPN", "proposals": "proposals"}
ALPHAS = (0.2, 0.3, 0.5, 1.0)

_MODEL_DIR = flags.DEFINE_string(
    "model_dir",
    str(ROOT / "runs/paper"),
    "Folder of the baseline detector, which is trained if it does not exist.",
)


def main(_: list[str]) -> None:
    """Draws all figures and writes all tables."""
    quiet.silence_libraries()
    if not tf.io.gfile.exists(os.path.join(_MODEL_DIR.value, "params.yaml")):
        _train(_MODEL_DIR.value)
    numbers = collect.analyse(trained_run.read(_MODEL_DIR.value), num_batches=16).numbers
    # Text stays text in the SVG, and the same figure gives the same file.
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "libra"})
    _save(_draw_sampling(numbers["samples"]), "paper_sampling.svg")
    _save(_draw_loss(), "paper_loss.svg")
    _save(_draw_errors(numbers["objective"]["box_errors"]["frcnn_box"]), "paper_errors.svg")
    _replace("sampling", _sampling_table(numbers["samples"]))
    _replace("errors", _errors_table(numbers["objective"]["box_errors"]["frcnn_box"]))


def _train(model_dir: str) -> None:
    command = [
        sys.executable,
        str(ROOT / "run.py"),
        "--mode=train_and_eval",
        "--experiment=libra_fasterrcnn_demo",
        f"--model_dir={model_dir}",
        "--seed=0",
        f"--params_override={BASELINE}",
    ]
    subprocess.run(command, check=True)


def _save(figure: matplotlib.figure.Figure, name: str) -> None:
    figure.savefig(IMAGES / name, metadata={"Date": None})
    print(IMAGES / name)


def _replace(name: str, lines: Sequence[str]) -> None:
    """Replaces what is between `<!-- name -->` and `<!-- end of name -->` in the document."""
    text = DOCUMENT.read_text()
    pattern = rf"(<!-- {name} -->\n).*?(<!-- end of {name} -->)"
    content = "\n".join([*lines, ""])
    new, found = re.subn(pattern, lambda m: m[1] + content + m[2], text, flags=re.S)
    if found != 1:
        sys.exit(f"error: {DOCUMENT} has no place for the {name}")
    DOCUMENT.write_text(new)


def _draw_sampling(samples: Mapping[str, Any]) -> matplotlib.figure.Figure:
    figure = matplotlib.figure.Figure(figsize=(9, 3.2), layout="constrained")
    for axes, (kind, title) in zip(figure.subplots(1, 2), KINDS.items(), strict=True):
        measured = samples[kind]
        edges = np.array(measured["bin_edges"])
        for way, label in WAYS.items():
            counts = np.array(measured["picks"][way]["histogram"], float)
            last = max(counts.nonzero()[0], default=0) + 1
            axes.stairs(counts[:last] / counts.sum(), edges[: last + 1], label=label, linewidth=1.6)
        axes.axvline(0.05, color="grey", linestyle=":", linewidth=1)
        axes.set(title=title, xlabel="IoU with the nearest object", xlim=(0, 0.5))
        axes.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1, 0))
    figure.axes[0].set_ylabel("share of the sampled negatives")
    figure.axes[0].legend(fontsize=8)
    return figure


def _draw_loss() -> matplotlib.figure.Figure:
    error = tf.constant(np.linspace(0, 2, 101), tf.float32)
    figure = matplotlib.figure.Figure(figsize=(9, 3.2), layout="constrained")
    gradient_axes, loss_axes = figure.subplots(1, 2)
    for alpha in ALPHAS:
        loss = ops.balanced_l1(tf.zeros_like(error), error, alpha)
        slopes = objective.balanced_l1_slopes(error, alpha, 1.5, 1.0)
        gradient_axes.plot(error, slopes, label=f"balanced L1, alpha {alpha}")
        loss_axes.plot(error, loss)
    smooth = {"color": "black", "linestyle": ":"}
    gradient_axes.plot(error, tf.minimum(error, 1.0), label="smooth L1", **smooth)
    loss_axes.plot(error, tf.where(error < 1, error**2 / 2, error - 0.5), **smooth)
    for axes, title in ((gradient_axes, "gradient"), (loss_axes, "loss")):
        axes.set(title=title, xlabel="error", xlim=(0, 2), ylim=(0, None))
        axes.grid(alpha=0.3)
    gradient_axes.legend(fontsize=8)
    return figure


def _draw_errors(errors: Mapping[str, Any]) -> matplotlib.figure.Figure:
    histogram = errors["histogram"]
    edges = [*histogram["edges"], histogram["edges"][-1] + errors["beta"] / 10]
    figure = matplotlib.figure.Figure(figsize=(5, 3), layout="constrained")
    axes = figure.subplots()
    axes.stairs(histogram["count_share"], edges, label="coordinates", linewidth=1.6)
    axes.stairs(histogram["gradient_share"], edges, label="their gradient", linewidth=1.6)
    axes.axvline(errors["beta"], color="grey", linestyle=":", linewidth=1)
    axes.set(xlabel="error (last bin: all above)", ylabel="share")
    axes.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1, 0))
    axes.legend(fontsize=8)
    return figure


def _sampling_table(samples: Mapping[str, Any]) -> list[str]:
    lines = ["| negatives above an IoU of 0.05 | paper | anchors of the RPN | proposals |"]
    lines.append("| --- | --- | --- | --- |")
    rows = {
        "among the hard ones": ("more than 60 %", "hardest"),
        "sampled at random": ("about 30 %", "random"),
        "sampled IoU-balanced": ("-", "iou_balanced"),
        "of all there are": ("-", "negatives"),
    }
    for title, (of_paper, way) in rows.items():
        cells = [f"{samples[kind]['picks'][way]['hard_share']:.0%}" for kind in KINDS]
        lines.append(f"| {title} | {of_paper} | {' | '.join(cells)} |")
    return lines


def _errors_table(errors: Mapping[str, Any]) -> list[str]:
    by_constants = {(row["alpha"], row["gamma"]): row for row in errors["grid"]}
    rows = {"smooth L1 (this detector's loss)": errors}
    for alpha in (0.5, 0.2):
        rows[f"balanced L1, alpha {alpha}, gamma 1.5, of the same errors"] = by_constants[
            alpha, 1.5
        ]
    lines = [
        "| loss | gradient from inliers | an inlier's gradient over an outlier's |",
        "| --- | --- | --- |",
    ]
    for title, row in rows.items():
        shares = (row["inlier_gradient_share"], row["inlier_over_outlier"])
        lines.append(f"| {title} | {' | '.join(f'{share:.0%}' for share in shares)} |")
    return lines


if __name__ == "__main__":
    app.run(main)
