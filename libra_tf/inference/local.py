"""A detector in this process, asked for detections as a server is."""

import json
import os
import pathlib
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from libra_tf.cli.errors import UsageError
from libra_tf.inference import tflite_detector
from libra_tf.inference.client import answers, errors
from libra_tf.inference.client.target import INPUT, SIGNATURE
from libra_tf.runs import trained_run
from libra_tf.runs.folder import PARAMS
from libra_tf.serving import images as serving_images
from libra_tf.serving import saved_model, tflite

_GRAPH = "saved_model.pb"


class LocalDetector:
    """Detects with a function of TensorFlow; may be used by several threads.

    Args:
      function: takes image files, string `[B]`, and gives the outputs of
        `libra_tf.serving.detection.DetectionModule`.
      source: what it was made from.
      normalized_boxes: whether its boxes are shares of the image's height and width.
    """

    def __init__(
        self,
        function: Callable[..., dict[str, tf.Tensor]],
        source: str,
        normalized_boxes: bool = False,
    ):
        self._function = function
        self.source = source
        self.normalized_boxes = normalized_boxes

    def predict(self, images: Sequence[bytes]) -> dict[str, np.ndarray]:
        """Returns the outputs for image files.

        Raises:
          RefusedError: if one of them is damaged, too large, or neither a JPEG nor a PNG file.
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
    path: str, checkpoint: str | None = None, max_pixels: int | None = None
) -> LocalDetector | tflite_detector.TFLiteDetector:
    """Makes a detector of a run or of what was exported of it.

    Args:
      path: folder of a run of `run.py`, of a SavedModel, or of its versions (the newest is taken),
        or a TensorFlow Lite file.
      checkpoint: a checkpoint of the run, such as `ckpt-9000`; None for the newest.
      max_pixels: images with more pixels are refused; None for `images.MAX_PIXELS`, or for what
        a SavedModel was exported with.

    Raises:
      UsageError: if it is none of these, or cannot be loaded, or a SavedModel is to have another
        limit than its own.
    """
    if os.path.exists(os.path.join(path, PARAMS)):
        return _of_run(path, checkpoint, max_pixels or serving_images.MAX_PIXELS)
    if checkpoint:
        raise UsageError(
            f"--checkpoint={checkpoint} chooses among those of a run, and --model={path} is none; "
            "leave it out"
        )
    if os.path.isfile(path):
        return tflite_detector.TFLiteDetector(path, max_pixels or serving_images.MAX_PIXELS)
    folder = _saved_model_in(path) if os.path.isdir(path) else None
    if not folder:
        raise UsageError(
            f"--model={path} is neither the folder of a run (with {PARAMS}) nor of a SavedModel "
            f"(with {_GRAPH}) nor a {tflite.SUFFIX} file"
        )
    if max_pixels:
        raise UsageError(
            f"--max_pixels={max_pixels}: the limit of --model={path} is in its graph; leave the "
            "flag out, or export again with it"
        )
    return _of_saved_model(folder)


def _of_run(model_dir: str, checkpoint: str | None, max_pixels: int) -> LocalDetector:
    run = trained_run.read(model_dir, checkpoint)
    saved_model.check_servable(run)
    module = saved_model.build_module(run, max_pixels=max_pixels)
    function = tf.function(module.serve_bytes, input_signature=[tf.TensorSpec([None], tf.string)])
    return LocalDetector(function, run.checkpoint)


def _saved_model_in(path: str) -> str | None:
    if os.path.exists(os.path.join(path, _GRAPH)):
        return path
    versions = [version for version in os.listdir(path) if version.isdecimal()]
    folders = (os.path.join(path, version) for version in sorted(versions, key=int, reverse=True))
    return next((folder for folder in folders if os.path.exists(f"{folder}/{_GRAPH}")), None)


def _of_saved_model(folder: str) -> LocalDetector:
    try:
        signature = tf.saved_model.load(folder).signatures[SIGNATURE]
        thresholds = pathlib.Path(folder, "assets", saved_model.THRESHOLDS)
        normalized_boxes = json.loads(thresholds.read_text())["normalized_boxes"]
    # Loading a damaged or foreign folder raises all sorts of things.
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UsageError(
            f"--model={folder} cannot be loaded ({reason}); name a folder that "
            "export/saved_model.py wrote"
        ) from error
    return LocalDetector(
        lambda images: signature(**{INPUT: images}), folder, normalized_boxes=normalized_boxes
    )
