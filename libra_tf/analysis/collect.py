"""Runs the detector of a run over batches of its training images and measures."""

import dataclasses
import os
from collections.abc import Callable
from typing import Any

import numpy as np
from official.vision.ops import preprocess_ops

from libra_tf.analysis import detectors, gradients, pyramid, samples
from libra_tf.compat import keras
from libra_tf.runs import trained_run

_PICTURED_IMAGES = 3


@dataclasses.dataclass(frozen=True)
class Picture:
    """An image with what is to be drawn on it.

    Attributes:
      pixels: uint8 array `[height, width, 3]`.
      objects: float array `[M, 4]`, `[ymin, xmin, ymax, xmax]` in pixels.
      negatives: by way of sampling, the boxes `[N, 4]` and IoUs `[N]` of the sampled negatives.
    """

    pixels: np.ndarray
    objects: np.ndarray
    negatives: dict[str, tuple[np.ndarray, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Attention:
    """What one point of an image looks at.

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
    """What was measured of a run.

    Attributes:
      numbers: all numbers, ready for JSON.
      pictures: images with the negatives that are sampled.
      attention: None without a non-local block.
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
      run: which one.
      input_path: pattern of TFRecord files; None for the training images of the run.
      num_batches: how many batches of at most 8 images.
      point: whose attention to show, y and x as shares of height and width; None for the middle of
        the largest object of the first image.
      max_num_instances: the most objects of an image, if more than the run's config says.
      report: is given lines about the progress.

    Raises:
      UsageError: if the detector or the images cannot be read.
    """
    # Sampling draws are part of a training step; the same report comes out each time.
    keras.utils.set_random_seed(0)
    report(f"{run.model_dir}: loading {os.path.basename(run.checkpoint)}")
    detector = detectors.load(run)
    names = run.read_class_names()
    tallies = {
        kind: samples.SampleTally(detector.levels, names, quota)
        for kind, quota in detector.quotas.items()
    }
    of_pyramid = pyramid.PyramidTally(detector)
    of_gradients = gradients.GradientTally(detector)
    pictures, attention, num_images = [], None, 0
    for index, batch in enumerate(detector.read(input_path, max_num_instances)):
        if index == num_batches:
            break
        report(f"{run.model_dir}: batch {index + 1} of {num_batches}")
        first_kind = next(iter(tallies))
        for kind, candidates in detector.candidates(batch).items():
            for i, of_image in enumerate(candidates):
                picks = tallies[kind].add(of_image)
                if kind == first_kind and len(pictures) < _PICTURED_IMAGES:
                    pictures.append(_picture(batch, i, of_image, picks))
        of_pyramid.add(batch.images)
        of_gradients.add(batch.images, batch.labels)
        if attention is None:
            attention = _attention(of_pyramid, batch, point)
        num_images += len(batch.boxes)
    numbers = {
        "model_dir": run.model_dir,
        "checkpoint": os.path.basename(run.checkpoint),
        "step": _step(run),
        "kind": "two_stage" if "proposals" in tallies else "one_stage",
        "num_images": num_images,
        "settings": _settings(run),
        "samples": {kind: tally.result() for kind, tally in tallies.items()},
        "features": of_pyramid.result(),
        "objective": of_gradients.result(),
    }
    return Analysis(_plain(numbers), pictures, attention)


def _settings(run):
    """The keys of the config that the verdicts are about."""
    task = run.params.task
    settings = {
        "task.model.anchor.num_scales": task.model.anchor.num_scales,
        "task.model.decoder.type": task.model.decoder.type,
        "task.losses.box_loss": task.losses.box_loss,
        "task.losses.balanced_l1": task.losses.balanced_l1.as_dict(),
    }
    if "roi_sampler" in task.model:
        for sampler in ("roi_sampler", "rpn_sampler"):
            for key in ("type", "bin_range", "instance_balanced", "num_bins"):
                settings[f"task.model.{sampler}.{key}"] = task.model.get(sampler).get(key)
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


def _step(run):
    """The step that the checkpoint's name says, None where it says none."""
    number = os.path.basename(run.checkpoint).rsplit("-", 1)[-1]
    return int(number) if number.isdigit() else None


def _picture(batch, index, candidates, picks):
    negatives = {
        name: (candidates.boxes[picks[name]], candidates.max_ious[picks[name]])
        for name in ("random", "iou_balanced", "mmdet")
    }
    return Picture(_pixels(batch.images[index]), batch.boxes[index], negatives)


def _attention(of_pyramid, batch, point):
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


def _pixels(image):
    """Undoes the normalisation of Model Garden's parsers."""
    values = image.numpy() * preprocess_ops.STDDEV_RGB + preprocess_ops.MEAN_RGB
    return np.clip(values.round(), 0, 255).astype(np.uint8)


def _plain(value):
    """Numbers and containers as JSON knows them."""
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
