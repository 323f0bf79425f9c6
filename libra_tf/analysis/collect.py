"""Runs the detector of a run over batches of its training images and measures it."""

import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from official.vision.ops import preprocess_ops

from libra_tf.analysis import classes, detectors, gradients, pyramid, samples
from libra_tf.analysis.batches import Batch
from libra_tf.analysis.detector import Detector
from libra_tf.cli.errors import UsageError
from libra_tf.compat import keras
from libra_tf.data import annotations
from libra_tf.runs import results, trained_run

_PICTURED_IMAGES = 3


@dataclasses.dataclass(frozen=True)
class Picture:
    """An image and the boxes to draw on it.

    Attributes:
      pixels: uint8 array `[height, width, 3]`.
      objects: float array `[M, 4]`, `[ymin, xmin, ymax, xmax]` in pixels.
      negatives: for each way of sampling, the boxes `[N, 4]` and IoUs `[N]` of the negatives that
        it takes.
    """

    pixels: np.ndarray
    objects: np.ndarray
    negatives: dict[str, tuple[np.ndarray, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Attention:
    """The attention of one point of an image.

    Attributes:
      pixels: uint8 array `[height, width, 3]`.
      point: y and x in pixels.
      weights: float array `[H, W]` that sums to 1.
    """

    pixels: np.ndarray
    point: tuple[float, float]
    weights: np.ndarray


@dataclasses.dataclass(frozen=True)
class Analysis:
    """The measures of a run.

    Attributes:
      numbers: all numbers, ready for JSON.
      pictures: images with the negatives that are sampled.
      attention: the attention of one point, None without a non-local block.
    """

    numbers: dict[str, Any]
    pictures: list[Picture]
    attention: Attention | None


def analyse(
    run: trained_run.TrainedRun,
    input_path: str | None = None,
    num_batches: int = 8,
    point: tuple[float, float] | None = None,
    max_num_instances: int = 0,
    report: Callable[[str], None] = print,
) -> Analysis:
    """Measures a run.

    Args:
      run: the run to measure.
      input_path: pattern of TFRecord files; None for the training images of the run.
      num_batches: how many batches of at most 8 images to read.
      point: the point whose attention to show, y and x as shares of height and width; None for the
        middle of the largest object of the first image.
      max_num_instances: the largest number of objects in an image, if larger than in the run's
        config.
      report: called with lines about the progress.

    Raises:
      UsageError: if the detector or the images cannot be read, or a weight is NaN or infinite.
    """
    # A training step draws samples. Seeded, the report is the same each time.
    keras.utils.set_random_seed(0)
    report(f"{run.folder}: loading {os.path.basename(run.checkpoint)}")
    detector = detectors.load(run)
    _check_finite(detector, run)
    measures = _Measures(detector, annotations.distinct(run.read_class_names()), point)
    for index, batch in enumerate(detector.read(input_path, max_num_instances)):
        if index == num_batches:
            break
        report(f"{run.folder}: batch {index + 1} of {num_batches}")
        measures.add(batch)
    of_run = {
        "model_dir": run.folder.path,
        "checkpoint": os.path.basename(run.checkpoint),
        "step": _step(run),
        "settings": _settings(run),
    }
    precisions = results.of_classes(results.of_run(run.folder, of_run["step"]))
    numbers = _plain({**of_run, **measures.result(precisions)})
    return Analysis(numbers, measures.pictures, measures.attention)


def _check_finite(detector: Detector, run: trained_run.TrainedRun) -> None:
    broken = [v.name for v in detector.model.variables if not np.isfinite(v.numpy()).all()]
    if broken:
        raise UsageError(
            f"{run.checkpoint} has weights that are NaN or infinite, such as {broken[0]}, so there "
            "is nothing to measure: choose a checkpoint from before the training diverged with "
            "--checkpoint"
        )


class _Measures:
    """The measures of a detector over many batches.

    Args:
      detector: the detector.
      class_names: category id to name.
      point: see `analyse`.

    Attributes:
      pictures: see `Analysis`.
      attention: see `Analysis`.
    """

    def __init__(
        self,
        detector: Detector,
        class_names: dict[int, str],
        point: tuple[float, float] | None,
    ):
        self._detector = detector
        self._point = point
        self._samples = {
            kind: samples.SampleTally(detector.levels, class_names, quota)
            for kind, quota in detector.quotas.items()
        }
        self._pyramid = pyramid.PyramidTally(detector)
        self._gradients = gradients.GradientTally(detector)
        self._classes = classes.ClassTally(class_names)
        self._num_images = 0
        self.pictures: list[Picture] = []
        self.attention: Attention | None = None

    def add(self, batch: Batch) -> None:
        """Adds a batch."""
        pictured_kind = next(iter(self._samples))
        by_kind = self._detector.candidates(batch)
        for kind, candidates in by_kind.items():
            for i, of_image in enumerate(candidates):
                picks = self._samples[kind].add(of_image)
                if kind == pictured_kind and len(self.pictures) < _PICTURED_IMAGES:
                    self.pictures.append(_picture(batch, i, of_image, picks))
        for i, categories in enumerate(batch.classes):
            self._classes.add_image(categories, {kind: of[i] for kind, of in by_kind.items()})
        self._pyramid.add(batch.images)
        self._gradients.add(batch.images, batch.labels)
        if self.attention is None:
            self.attention = _attention(self._pyramid, batch, self._point)
        self._num_images += len(batch.boxes)

    def result(self, precisions: Mapping[str, float]) -> dict[str, Any]:
        """Returns all numbers.

        Args:
          precisions: see `libra_tf.analysis.classes.ClassTally.result`.
        """
        return {
            "kind": "two_stage" if "proposals" in self._samples else "one_stage",
            "num_images": self._num_images,
            "samples": {kind: tally.result() for kind, tally in self._samples.items()},
            "features": self._pyramid.result(),
            "objective": self._gradients.result(),
            "classes": self._classes.result(self._gradients.of_classes(), precisions),
        }


def _settings(run: trained_run.TrainedRun) -> dict[str, Any]:
    """The values of the config that the verdicts are about, by key."""
    task = run.params.task
    settings = {
        "task.model.anchor.num_scales": task.model.anchor.num_scales,
        "task.model.decoder.type": task.model.decoder.type,
        "task.model.compatibility": task.model.compatibility,
        "task.losses.box_loss": task.losses.box_loss,
        "task.losses.balanced_l1": task.losses.balanced_l1.as_dict(),
        "task.train_data.repeat_threshold": task.train_data.get("repeat_threshold", 0.0),
    }
    if "roi_sampler" in task.model:
        for sampler in ("roi_sampler", "rpn_sampler"):
            for key in ("type", "bin_range", "instance_balanced", "num_bins"):
                settings[f"task.model.{sampler}.{key}"] = task.model.get(sampler).get(key)
        is_balanced = task.model.roi_sampler.class_balanced
        settings["task.model.roi_sampler.class_balanced"] = is_balanced
        settings.update(
            {
                "task.model.roi_generator.num_proposals": task.model.roi_generator.num_proposals,
                "task.losses.frcnn_box_weight": task.losses.frcnn_box_weight,
                "task.losses.box_loss_normalizer": task.losses.box_loss_normalizer,
            }
        )
    else:
        settings["task.losses.box_loss_weight"] = task.losses.box_loss_weight
    return settings


def _step(run: trained_run.TrainedRun) -> int | None:
    """The step in the checkpoint's name, None if it has none."""
    number = os.path.basename(run.checkpoint).rsplit("-", 1)[-1]
    return int(number) if number.isdigit() else None


def _picture(
    batch: Batch, index: int, candidates: samples.Candidates, picks: dict[str, np.ndarray]
) -> Picture:
    negatives = {
        name: (candidates.boxes[picks[name]], candidates.max_ious[picks[name]])
        for name in ("random", "iou_balanced", "hardest")
    }
    return Picture(_pixels(batch.images[index]), batch.boxes[index], negatives)


def _attention(
    of_pyramid: pyramid.PyramidTally, batch: Batch, point: tuple[float, float] | None
) -> Attention | None:
    image = batch.images[0]
    height, width = image.shape[:2]
    if point is not None:
        point = (point[0] * height, point[1] * width)
    elif len(batch.boxes[0]):
        boxes = batch.boxes[0]
        largest = boxes[np.argmax((boxes[:, 2:] - boxes[:, :2]).prod(-1))]
        point = (float(largest[[0, 2]].mean()), float(largest[[1, 3]].mean()))
    else:
        point = (height / 2, width / 2)
    weights = of_pyramid.attention_at(image, point)
    return None if weights is None else Attention(_pixels(image), point, weights)


def _pixels(image: tf.Tensor) -> np.ndarray:
    """Undoes the normalisation of Model Garden's parsers."""
    values = image.numpy() * preprocess_ops.STDDEV_RGB + preprocess_ops.MEAN_RGB
    return np.clip(values.round(), 0, 255).astype(np.uint8)


def _plain(value: Any) -> Any:
    """Converts to numbers and containers that JSON has."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
