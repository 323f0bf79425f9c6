"""The served graph: images in, detections in pixels of the original images out."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf
from official.core import config_definitions as cfg
from official.core import export_base
from official.modeling import hyperparams
from official.vision.ops import box_ops, preprocess_ops

from libra_tf.compat import keras
from libra_tf.serving import images as serving_images

# Signature -> the name of its only input.
SIGNATURES = {
    tf.saved_model.DEFAULT_SERVING_SIGNATURE_DEF_KEY: "image_bytes",
    "serving_image_tensor": "image_tensor",
    "serving_tf_example": "examples",
}


class _Network(tf.Module):
    """A detector reduced to its variables and its call.

    A SavedModel of the Keras model itself would also hold the training graph of every layer.
    Serving does not need it, and for a Mask R-CNN it cannot be traced without training masks.
    """

    def __init__(self, model: keras.Model) -> None:
        super().__init__()
        self._weights = model.variables
        # An attribute that is the model itself would be tracked and saved.
        self._call = functools.partial(model, training=False)

    def __call__(self, images: tf.Tensor, **kwargs: Any) -> Mapping[str, tf.Tensor]:
        return self._call(images, **kwargs)


class DetectionModule(export_base.ExportModule):
    """A detector with its preprocessing and class names.

    For a batch of `B` images with up to `N` detections each, every signature returns:

    * `detection_boxes`: float32 `[B, N, 4]`, `[ymin, xmin, ymax, xmax]` in pixels of the original
      image, or as fractions of its height and width (`normalized_boxes`). They are the boxes of an
      evaluation, so they may extend slightly beyond an image whose aspect ratio differs from the
      network input's;
    * `detection_scores`: float32 `[B, N]`, in descending order;
    * `detection_classes`: int32 `[B, N]`, category ids;
    * `detection_class_names`: string `[B, N]`;
    * `num_detections`: int32 `[B]`; rows after that many are zero or empty (`trim_padding`: the
      signatures cut off the rows that are so for all images of the batch);
    * `image_size`: int32 `[B, 2]`, height and width of the original image;
    * `detection_masks`, if the detector predicts masks: float32 `[B, N, h, w]`, the probability in
      each cell of a regular grid over the box.

    Args:
      params: config of the run.
      model: the detector.
      class_names: the names of all classes that the detector can return, by category id.
      normalized_boxes: whether boxes are fractions of the image's height and width.
      max_pixels: the most pixels an image file may declare; see `libra_tf.serving.images`.
      score_thresholds: category id -> the score below which its detections are dropped; None or
        empty for no more than the detector drops itself. The ids are those of `class_names`.
      trim_padding: whether `N` of the signatures' outputs is the largest number of detections in
        the batch, instead of the detector's limit.
    """

    def __init__(
        self,
        params: cfg.ExperimentConfig,
        model: keras.Model,
        class_names: Mapping[int, str],
        normalized_boxes: bool = False,
        max_pixels: int = serving_images.MAX_PIXELS,
        score_thresholds: Mapping[int, float] | None = None,
        trim_padding: bool = False,
    ) -> None:
        super().__init__(params=params, model=_Network(model))
        names = list_class_names(class_names)
        self._class_names = tf.constant(names)
        self._score_thresholds = None
        if score_thresholds:
            by_id = [score_thresholds.get(category, 0.0) for category in range(len(names))]
            self._score_thresholds = tf.constant(by_id, tf.float32)
        self._trim_padding = trim_padding
        self._normalized_boxes = normalized_boxes
        self._max_pixels = max_pixels

    def serve(self, images: tf.Tensor, image_info: tf.Tensor) -> dict[str, tf.Tensor]:
        """Detects objects.

        Args:
          images: float32 `[B, height, width, 3]`, letterboxed.
          image_info: float32 `[B, 4, 2]`; see `libra_tf.serving.images.letterbox`.

        Returns:
          The outputs that the class lists.
        """
        outputs = self.model(images, image_shape=image_info[:, 1])
        names = ("detection_boxes", "detection_scores", "detection_classes", "detection_masks")
        served = {name: outputs[name] for name in names if name in outputs}
        served["detection_boxes"] = self._in_original(served["detection_boxes"], image_info)
        served["detection_classes"] = tf.cast(served["detection_classes"], tf.int32)
        num_detections = outputs["num_detections"]
        if self._score_thresholds is not None:
            served, num_detections = self._above_thresholds(served, num_detections)
        served["detection_class_names"] = tf.gather(self._class_names, served["detection_classes"])
        is_detection = tf.sequence_mask(num_detections, served["detection_scores"].shape[1])
        served = {name: _only_where(is_detection, rows) for name, rows in served.items()}
        served["num_detections"] = num_detections
        served["image_size"] = tf.cast(image_info[:, 0], tf.int32)
        return served

    def _above_thresholds(
        self, served: dict[str, tf.Tensor], num_detections: tf.Tensor
    ) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        """Moves the rows that reach the thresholds of their classes to the front, in their order.

        Returns the rows and how many of them count.
        """
        scores = served["detection_scores"]
        thresholds = tf.gather(self._score_thresholds, served["detection_classes"])
        is_kept = tf.sequence_mask(num_detections, scores.shape[1]) & (scores >= thresholds)
        order = tf.argsort(tf.cast(is_kept, tf.int32), direction="DESCENDING", stable=True)
        rows = {name: tf.gather(values, order, batch_dims=1) for name, values in served.items()}
        return rows, tf.math.count_nonzero(is_kept, axis=1, dtype=tf.int32)

    def _in_original(self, boxes: tf.Tensor, image_info: tf.Tensor) -> tf.Tensor:
        """Converts boxes `[B, N, 4]` from network input to original image coordinates."""
        boxes /= tf.tile(image_info[:, 2:3], [1, 1, 2])
        if self._normalized_boxes:
            boxes = box_ops.normalize_boxes(boxes, image_info[:, 0:1])
        return boxes

    def serve_bytes(self, image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        """Detects objects in JPEG and PNG files of any size, string `[B]`."""
        return self.serve(
            *serving_images.decode_and_letterbox(
                image_bytes, max_pixels=self._max_pixels, **letterbox_kwargs(self.params.task)
            )
        )

    def serve_image_tensor(self, image_tensor: tf.Tensor) -> dict[str, tf.Tensor]:
        """Detects objects in decoded images of one size, uint8 `[B, height, width, 3]`."""
        kwargs = letterbox_kwargs(self.params.task)
        return self.serve(
            *tf.map_fn(
                lambda image: serving_images.letterbox(image, **kwargs),
                image_tensor,
                fn_output_signature=serving_images.letterbox_specs(kwargs["padded_size"]),
            )
        )

    def serve_examples(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
        """Detects objects in serialized tf.Examples with `image/encoded`, string `[B]`."""
        features = {"image/encoded": tf.io.FixedLenFeature([], tf.string)}
        return self.serve_bytes(tf.io.parse_example(examples, features)["image/encoded"])

    def get_inference_signatures(
        self, function_keys: Mapping[str, str]
    ) -> dict[str, tf.types.experimental.ConcreteFunction]:
        """Traces the served functions.

        Args:
          function_keys: the name of an input (see `SIGNATURES`) -> its signature.

        Returns:
          Signature -> the function that serves it.
        """
        inputs = {
            "image_bytes": (self.serve_bytes, tf.TensorSpec([None], tf.string)),
            "image_tensor": (self.serve_image_tensor, tf.TensorSpec([None] * 3 + [3], tf.uint8)),
            "examples": (self.serve_examples, tf.TensorSpec([None], tf.string)),
        }
        signatures = {}
        for name, key in function_keys.items():
            function, spec = inputs[name]
            spec = tf.TensorSpec(spec.shape, spec.dtype, name=name)
            if self._trim_padding:
                function = _trimmed(function)
            signatures[key] = tf.function(function, autograph=False).get_concrete_function(spec)
        return signatures


def list_class_names(class_names: Mapping[int, str]) -> list[str]:
    """Returns class names, given by category id, as a list: "" for the background and for gaps."""
    return [class_names.get(i, "") for i in range(max(class_names) + 1)]


def letterbox_kwargs(task: cfg.TaskConfig) -> dict[str, Any]:
    """Returns the arguments of `libra_tf.serving.images.letterbox` that evaluation uses."""
    size, parser = list(task.model.input_size[:2]), task.validation_data.parser
    padded_size = size
    if parser.pad:
        padded_size = preprocess_ops.compute_padded_size(size, 2**task.model.max_level)
    kwargs = {"output_size": size, "padded_size": [int(length) for length in padded_size]}
    # Older Model Garden releases do not offer the choice.
    if not getattr(parser, "keep_aspect_ratio", True):
        kwargs["keep_aspect_ratio"] = False
    return kwargs


def special_suppression(generator: hyperparams.Config) -> str:
    """Returns the key that makes suppression keep other boxes than TensorFlow's, or ""."""
    if generator.nms_version == "v1" and generator.soft_nms_sigma:
        return "soft_nms_sigma"
    # Two-stage detectors do not offer the choice.
    if generator.nms_version == "v2" and getattr(generator, "use_class_agnostic_nms", False):
        return "use_class_agnostic_nms"
    return ""


def _trimmed(
    function: Callable[[tf.Tensor], dict[str, tf.Tensor]],
) -> Callable[[tf.Tensor], dict[str, tf.Tensor]]:
    """Returns a function whose answers end with the last row that is a detection in any image."""

    def answer(inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        outputs = function(inputs)
        most = tf.reduce_max(outputs["num_detections"])
        return {
            name: values[:, :most] if name.startswith("detection_") else values
            for name, values in outputs.items()
        }

    return answer


def _only_where(is_detection: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
    """Zeroes the rows of `[B, N, ...]` that hold no detection."""
    ones = [1] * (rows.shape.rank - 2)
    mask = tf.reshape(is_detection, tf.concat([tf.shape(is_detection), ones], axis=0))
    return tf.where(mask, rows, tf.zeros([], rows.dtype))
