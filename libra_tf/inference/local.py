"""Runs a detector in this process, behind the same interface as a server."""

import json
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import tensorflow as tf
from official.core import config_definitions as cfg

from libra_tf import precision
from libra_tf.cli.errors import UsageError, first_line
from libra_tf.configs.backbones import DEPTHWISE_BACKBONES
from libra_tf.inference import answers, errors, tflite_detector
from libra_tf.inference.signature import INPUT, SIGNATURE
from libra_tf.runs import trained_run
from libra_tf.runs.folder import CLASS_NAMES, PARAMS
from libra_tf.serving import images as serving_images
from libra_tf.serving import saved_model, tflite

_GRAPH = "saved_model.pb"


class LocalDetector:
    """Detects objects with a TensorFlow function; several threads may use it at once.

    Args:
      function: takes image files, string `[B]`, and returns the outputs of
        `libra_tf.serving.detection.DetectionModule`.
      source: what is behind the function, for the user: a checkpoint or a SavedModel.
      class_names: the names of the classes by category id.
      normalized_boxes: whether boxes are fractions of the image's height and width.
    """

    def __init__(
        self,
        function: Callable[..., dict[str, tf.Tensor]],
        source: str,
        class_names: Mapping[int, str],
        normalized_boxes: bool = False,
    ) -> None:
        self._function = function
        self.source = source
        self.class_names = class_names
        self.normalized_boxes = normalized_boxes

    def predict(self, images: Sequence[bytes]) -> dict[str, np.ndarray]:
        """Returns the outputs for image files.

        Args:
          images: the content of each file.

        Raises:
          RefusedError: if a file is damaged, too large, or neither JPEG nor PNG.
        """
        try:
            outputs = self._function(tf.constant(images))
        except tf.errors.InvalidArgumentError as error:
            refusal = errors.find_refusal(error.message)
            if not refusal:
                raise
            raise refusal from error
        return {name: answers.with_text(value.numpy()) for name, value in outputs.items()}


def open_detector(
    path: str,
    checkpoint: str | None = None,
    max_pixels: int | None = None,
    asked_precision: str | None = None,
) -> LocalDetector | tflite_detector.TFLiteDetector:
    """Opens the detector of a run or of an export.

    Args:
      path: the folder of a run, of a SavedModel, or of its versions (the newest is
        used), or a TensorFlow Lite file.
      checkpoint: a checkpoint of the run, such as `ckpt-9000`; None for the newest.
      max_pixels: images with more pixels are refused; None for `images.MAX_PIXELS`, or for the
        limit that a SavedModel was exported with.
      asked_precision: what the network of a run computes in: `auto`, `float32` or `bfloat16`;
        None for that of the run's evaluations.

    Raises:
      UsageError: if the path is none of these or cannot be loaded, if `max_pixels` is given for a
        SavedModel, which has its own limit, or a precision for anything but a run.
    """
    if os.path.exists(os.path.join(path, PARAMS)):
        max_pixels = max_pixels or serving_images.MAX_PIXELS
        return _of_run(path, checkpoint, max_pixels, asked_precision)
    if checkpoint:
        raise UsageError(
            f"--checkpoint={checkpoint} selects a checkpoint of a run, but --model={path} is not "
            "the folder of a run; leave --checkpoint out"
        )
    if asked_precision:
        raise UsageError(
            f"--precision={asked_precision} is for the folder of a run, but --model={path} is an "
            "export, which computes as it was exported; leave the flag out, or export again with it"
        )
    if os.path.isfile(path):
        return tflite_detector.TFLiteDetector(path, max_pixels or serving_images.MAX_PIXELS)
    folder = _saved_model_in(path) if os.path.isdir(path) else None
    if not folder:
        raise UsageError(
            f"--model={path} is neither the folder of a run (with {PARAMS}) nor of a SavedModel "
            f"(with {_GRAPH}) nor a {tflite.SUFFIX} file; name one of these"
        )
    if max_pixels:
        raise UsageError(
            f"--max_pixels={max_pixels}: the limit of --model={path} is fixed in its graph; leave "
            "the flag out, or export again with it"
        )
    return _of_saved_model(folder)


def _of_run(
    model_dir: str, checkpoint: str | None, max_pixels: int, asked_precision: str | None
) -> LocalDetector:
    run = trained_run.read(model_dir, checkpoint)
    saved_model.check_servable(run)
    chosen = _choose_precision(run.params, asked_precision)
    module = saved_model.build_module(run, max_pixels=max_pixels, policy=chosen.policy)
    function = tf.function(
        module.serve_bytes,
        input_signature=[tf.TensorSpec([None], tf.string)],
        autograph=False,
    )
    return LocalDetector(function, f"{run.checkpoint} in {chosen}", run.read_class_names())


def _choose_precision(params: cfg.ExperimentConfig, asked: str | None) -> precision.Precision:
    if asked:
        return precision.choose(asked, "--precision")
    return precision.choose(
        params.runtime.mixed_precision_dtype,
        f"the run's {PARAMS}",
        trains_depthwise=params.task.model.backbone.type in DEPTHWISE_BACKBONES,
    )


def _saved_model_in(path: str) -> str | None:
    """Returns the folder itself or its newest version, whichever holds a SavedModel."""
    if os.path.exists(os.path.join(path, _GRAPH)):
        return path
    versions = [version for version in os.listdir(path) if version.isdecimal()]
    folders = (os.path.join(path, version) for version in sorted(versions, key=int, reverse=True))
    return next((folder for folder in folders if os.path.exists(f"{folder}/{_GRAPH}")), None)


def _of_saved_model(folder: str) -> LocalDetector:
    try:
        signature = tf.saved_model.load(folder).signatures[SIGNATURE]
        assets = pathlib.Path(folder, "assets")
        thresholds = json.loads((assets / saved_model.THRESHOLDS).read_text())
        normalized_boxes = thresholds["normalized_boxes"]
        class_names = json.loads((assets / CLASS_NAMES).read_text())
    # TensorFlow raises all kinds of errors for a damaged or foreign folder.
    except Exception as error:
        reason = first_line(error)
        raise UsageError(
            f"--model={folder} cannot be loaded ({reason}); name a folder that "
            "libra-tf export wrote"
        ) from error
    return LocalDetector(
        lambda images: signature(**{INPUT: images}),
        folder,
        {int(category): name for category, name in class_names.items()},
        normalized_boxes,
    )
