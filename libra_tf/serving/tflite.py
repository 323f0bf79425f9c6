"""Exports one-stage detectors as TensorFlow Lite files, for phones and small computers.

A file takes one image of the network's input size and returns what the SavedModel returns, in
pixels of that input. `labels.txt` and `detector.json` are appended to it as a zip archive, as is
usual for TensorFlow Lite metadata (https://ai.google.dev/edge/litert/models/metadata): `unzip
cells.tflite labels.txt` extracts them.
"""

import io
import json
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from official.vision.ops import anchor, preprocess_ops

from libra_tf import atomic
from libra_tf.cli import image_files, outputs, quiet
from libra_tf.cli.errors import UsageError
from libra_tf.compat import keras, tflite_interpreter
from libra_tf.data import images as data_images
from libra_tf.ops.boxes import is_empty
from libra_tf.precision import FLOAT16, FLOAT32, computing_in
from libra_tf.runs import trained_run
from libra_tf.serving import images as serving_images
from libra_tf.serving.detection import (
    letterbox_kwargs,
    list_class_names,
    special_suppression,
)

INT8 = "int8"
SUFFIX = ".tflite"
# More images hardly change the activation ranges, and take long.
MOST_CALIBRATION_IMAGES = 200

# The number of best (box, class) pairs that NMS considers: Model Garden's default for
# `pre_nms_top_k`.
_NUM_CANDIDATES = 5000
LABELS = "labels.txt"
DETECTOR = "detector.json"
_INPUT = "image"
_SCOPE = "select_detections"


def export(
    model_dir: str,
    path: str,
    precision: str = FLOAT32,
    calibration_images: Sequence[image_files.ImageFile] = (),
    checkpoint: str | None = None,
    score_threshold: float | None = None,
    report: Callable[[str], None] = print,
) -> None:
    """Converts the detector of a run.

    Args:
      model_dir: folder of a run; experiment, config, classes and weights are read from it.
      path: the file to write.
      precision: `float32`; `float16` for weights of half the size; `int8` for convolutions with
        8-bit weights and activations. Boxes and scores are always computed in float32.
      calibration_images: for `int8`, images like those the detector will be used on; the activation
        ranges are measured on them.
      checkpoint: a checkpoint of the run, such as `ckpt-9000`; None for the newest.
      score_threshold: detections with a lower score are dropped; None for the run's own threshold.
      report: receives progress lines.

    Raises:
      UsageError: if the run cannot be converted, a calibration image cannot be read, or the file
        already exists or cannot be written.
    """
    outputs.require_new_file("--output", path, SUFFIX)
    run = trained_run.read(model_dir, checkpoint)
    _check_convertible(run)
    if precision == INT8 and not calibration_images:
        raise UsageError(
            "--precision=int8 needs images to measure the activation ranges on; name files or "
            f"folders (at most {MOST_CALIBRATION_IMAGES} images are used)"
        )
    if precision != INT8 and calibration_images:
        raise UsageError(f"--precision={precision} uses no images; leave them out")
    generator = run.params.task.model.detection_generator
    if score_threshold is not None:
        generator.pre_nms_score_threshold = score_threshold
    kwargs = letterbox_kwargs(run.params.task)
    samples = _read_samples(calibration_images[:MOST_CALIBRATION_IMAGES], kwargs)
    function, model = _build_function(run, kwargs["padded_size"])
    report(f"converting {run.checkpoint} to {precision} (about a minute) ...")
    content = _convert(function, model, precision, samples)
    _write(path, content, _describe(run, precision, kwargs))


def _check_convertible(run: trained_run.TrainedRun) -> None:
    if not run.params.task.converts_to_tflite:
        raise UsageError(
            f"--model_dir={run.folder} holds a two-stage detector, and only one-stage detectors "
            "(Libra RetinaNet) can be converted: TensorFlow Lite has no operations for the NMS "
            "between the stages; use libra-tf export"
        )
    if run.params.task.model.compatibility:
        raise UsageError(
            f"--model_dir={run.folder} holds a detector of MMDetection, which takes images in "
            "their own shapes, but a TensorFlow Lite file takes images of one size; use "
            "libra-tf export"
        )
    key = special_suppression(run.params.task.model.detection_generator)
    if key:
        raise UsageError(
            f"--model_dir={run.folder}: task.model.detection_generator.{key} is set, but a "
            "TensorFlow Lite file can only use ordinary per-class NMS; set it to null in "
            "params.yaml if that will do"
        )


def _read_samples(
    calibration_images: Sequence[image_files.ImageFile], letterbox: Mapping[str, Any]
) -> list[np.ndarray]:
    samples = []
    for file in calibration_images:
        try:
            encoded = data_images.as_jpeg_or_png(file.path.read_bytes())
        except OSError as error:
            raise UsageError(f"{file.path} cannot be read ({error.strerror})") from error
        except data_images.ImageError as error:
            raise UsageError(f"{file.path}: {error}") from error
        pixels, _, problem = to_input(encoded, serving_images.MAX_PIXELS, letterbox)
        if problem:
            raise UsageError(f"{file.path} {problem}; leave it out or replace it")
        samples.append(pixels)
    return samples


def _build_function(
    run: trained_run.TrainedRun, size: Sequence[int]
) -> tuple[tf.types.experimental.ConcreteFunction, keras.Model]:
    """Returns the function to convert, and the model that owns its weights."""
    task = run.params.task.model
    generator = task.detection_generator
    limits = {
        "num_detections": generator.max_num_detections,
        "score_threshold": generator.pre_nms_score_threshold,
        "iou_threshold": generator.nms_iou_threshold,
    }
    generator.apply_nms = False
    with computing_in(FLOAT32):
        model = run.load_model()
    anchors = anchor.Anchor(
        task.min_level,
        task.max_level,
        task.anchor.num_scales,
        task.anchor.aspect_ratios,
        task.anchor.anchor_size,
        size,
    ).multilevel_boxes

    @tf.function(input_signature=[tf.TensorSpec([1, *size, 3], tf.float32, name=_INPUT)])
    def detect(image: tf.Tensor) -> dict[str, tf.Tensor]:
        normalized = preprocess_ops.normalize_image(
            image, preprocess_ops.MEAN_RGB, preprocess_ops.STDDEV_RGB
        )
        scores, boxes, _ = model.head(model.decoder(model.backbone(normalized)))
        # The int8 conversion finds these operations by this name, and leaves them in float32.
        with tf.name_scope(_SCOPE):
            decoded = model.detection_generator(
                boxes,
                scores,
                {level: boxes[tf.newaxis] for level, boxes in anchors.items()},
                tf.constant([task.input_size[:2]], tf.float32),
            )
            return select_detections(
                decoded["decoded_boxes"][0, :, 0], decoded["decoded_box_scores"][0], **limits
            )

    return detect.get_concrete_function(), model


def select_detections(
    boxes: tf.Tensor,
    scores: tf.Tensor,
    num_detections: int,
    score_threshold: float,
    iou_threshold: float,
) -> dict[str, tf.Tensor]:
    """Applies NMS per class, with operations that TensorFlow Lite has.

    Args:
      boxes: float32 `[N, 4]`, `[ymin, xmin, ymax, xmax]`.
      scores: float32 `[N, C]`, without the background.
      num_detections: the most detections to return.
      score_threshold: detections with a lower score are dropped.
      iou_threshold: a box is dropped if it overlaps a better one of its class by more.

    Returns:
      `detection_boxes` `[1, num_detections, 4]`, `detection_scores` and `detection_classes` (int32)
      `[1, num_detections]`, all zero after the last detection, and `num_detections` int32 `[1]`.
    """
    num_boxes, num_classes = scores.shape
    candidates, index = tf.math.top_k(
        tf.reshape(scores, [-1]), min(_NUM_CANDIDATES, num_boxes * num_classes)
    )
    classes, boxes = index % num_classes, tf.gather(boxes, index // num_classes)
    apart = _with_empty_boxes_apart(boxes)
    kept, kept_scores = [], []
    for number in range(num_classes):
        # The only NMS that TensorFlow Lite has as an operation.
        indices, num_kept = tf.raw_ops.NonMaxSuppressionV4(
            boxes=apart,
            scores=tf.where(classes == number, candidates, 0.0),
            max_output_size=num_detections,
            iou_threshold=iou_threshold,
            score_threshold=score_threshold,
            pad_to_max_output_size=True,
        )
        is_kept = tf.sequence_mask(num_kept, num_detections)
        kept.append(indices)
        kept_scores.append(tf.where(is_kept, tf.gather(candidates, indices), -1.0))
    best, order = tf.math.top_k(tf.concat(kept_scores, axis=0), num_detections)
    kept = tf.gather(tf.concat(kept, axis=0), order)
    is_detection = best > score_threshold
    return {
        "detection_boxes": tf.where(is_detection[:, tf.newaxis], tf.gather(boxes, kept), 0.0)[None],
        "detection_scores": tf.where(is_detection, best, 0.0)[None],
        "detection_classes": tf.where(is_detection, tf.gather(classes, kept) + 1, 0)[None],
        "num_detections": tf.reduce_sum(tf.cast(is_detection, tf.int32))[None],
    }


def _with_empty_boxes_apart(boxes: tf.Tensor) -> tf.Tensor:
    """Replaces each empty box with a square that overlaps nothing.

    A box without area overlaps nothing either, but TensorFlow Lite's NMS returns it repeatedly.
    """
    places = tf.reduce_max(boxes) + 2.0 * tf.range(1.0, boxes.shape[0] + 1.0)
    squares = places[:, tf.newaxis] + [0.0, 0.0, 1.0, 1.0]
    return tf.where(is_empty(boxes)[:, tf.newaxis], squares, boxes)


def _convert(
    function: tf.types.experimental.ConcreteFunction,
    model: keras.Model,
    precision: str,
    samples: Sequence[np.ndarray],
) -> bytes:
    with quiet.stderr_closed():
        converter = tf.lite.TFLiteConverter.from_concrete_functions([function], model)
        if precision == FLOAT16:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.target_spec.supported_types = [tf.float16]
        content = converter.convert()
        if precision == INT8:
            names = _names_of_selection(content)
            # A converter can be used only once.
            converter = tf.lite.TFLiteConverter.from_concrete_functions([function], model)
            content = _convert_to_int8(converter, samples, names)
    return content


def _names_of_selection(content: bytes) -> list[str]:
    """Lists the operations after the heads, by the names of their output tensors."""
    tensors = tflite_interpreter(content, num_threads=1).get_tensor_details()
    return sorted({tensor["name"] for tensor in tensors if _SCOPE in tensor["name"]})


def _convert_to_int8(
    converter: tf.lite.TFLiteConverter, samples: Sequence[np.ndarray], float_names: Sequence[str]
) -> bytes:
    """Converts all operations except those named in `float_names`.

    A single 8-bit scale for all coordinates would round boxes to whole pixels of a 256-pixel image.
    The only public way to exclude operations is the quantization debugger's list of names.
    """

    def representative_dataset() -> Iterator[list[np.ndarray]]:
        for sample in samples:
            yield [sample[np.newaxis]]

    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = representative_dataset
    debugger = tf.lite.experimental.QuantizationDebugger(
        converter=converter,
        debug_dataset=representative_dataset,
        debug_options=tf.lite.experimental.QuantizationDebugOptions(
            denylisted_nodes=list(float_names)
        ),
    )
    return debugger.get_nondebug_quantized_model()


def _describe(
    run: trained_run.TrainedRun, precision: str, kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns the content of `detector.json`."""
    generator = run.params.task.model.detection_generator
    return {
        "class_names": run.read_class_names(),
        "precision": precision,
        "score_threshold": generator.pre_nms_score_threshold,
        "nms_iou_threshold": generator.nms_iou_threshold,
        "padding_rgb": list(preprocess_ops.MEAN_RGB),
        "letterbox": dict(kwargs),
    }


def _write(path: str, content: bytes, description: Mapping[str, Any]) -> None:
    labels = list_class_names(description["class_names"])
    buffer = io.BytesIO(content)
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr(LABELS, "\n".join(labels) + "\n")
        archive.writestr(DETECTOR, json.dumps(description, indent=2) + "\n")
    with outputs.writing(path):
        atomic.write_file(path, buffer.getvalue())


def to_input(
    encoded: bytes, max_pixels: int, letterbox: Mapping[str, Any]
) -> tuple[np.ndarray, np.ndarray, str]:
    """Prepares an image file as the input of a converted detector.

    Args:
      encoded: the bytes of a JPEG or PNG file.
      max_pixels: the largest height times width that is accepted.
      letterbox: the arguments of `libra_tf.serving.images.letterbox`.

    Returns:
      pixels: float32 `[height, width, 3]`, RGB in 0..255. The image is at the top left; the rest
        is filled with the mean colour, which normalisation turns into zeros.
      image_info: float32 `[4, 2]`; see `libra_tf.serving.images.letterbox`.
      problem: what is wrong with the file, empty if nothing is.
    """
    image, problem = serving_images.decode(tf.constant(encoded), max_pixels)
    resized, image_info = serving_images.resize_to_fit(
        image, letterbox["output_size"], letterbox.get("keep_aspect_ratio", True)
    )
    pixels = np.empty([*letterbox["padded_size"], 3], np.float32)
    pixels[:] = preprocess_ops.MEAN_RGB
    height, width, _ = resized.shape
    pixels[:height, :width] = resized
    return pixels, image_info.numpy(), problem.numpy().decode()
