"""Exports the detector of a run as a SavedModel that TensorFlow Serving loads as it is."""

import json
import math
import os
import pathlib
import tempfile
from collections.abc import Callable, Mapping

import tensorflow as tf
from official.core import config_definitions as cfg
from official.core import export_base

from libra_tf import atomic, precision
from libra_tf.cli import outputs
from libra_tf.cli.errors import UsageError
from libra_tf.runs import trained_run
from libra_tf.runs.folder import CLASS_NAMES
from libra_tf.serving import class_thresholds, images, warmup
from libra_tf.serving.class_thresholds import Thresholds
from libra_tf.serving.detection import SIGNATURES, DetectionModule, special_suppression
from libra_tf.serving.mmdetection import MMDetectionModule

THRESHOLDS = "thresholds.json"


def export(
    model_dir: str,
    export_dir: str,
    checkpoint: str | None = None,
    normalized_boxes: bool = False,
    score_threshold: float | None = None,
    max_pixels: int = images.MAX_PIXELS,
    asked_precision: str = precision.FLOAT32,
    report: Callable[[str], None] = print,
    score_thresholds: Thresholds | None = None,
    trim_padding: bool = False,
) -> str:
    """Writes the next version of a model: `export_dir/1`, then `export_dir/2` and so on.

    The folder appears once it is complete. Besides the graph (see `DetectionModule`) and its
    weights it holds `assets/class_names.json` (category id -> name), `assets/thresholds.json`, and
    warm-up requests for every signature.

    Args:
      model_dir: folder of a run; experiment, config, classes and weights are read from it.
      export_dir: folder of the model's versions; created if it does not exist.
      checkpoint: a checkpoint of the run, such as `ckpt-9000`; None for the newest.
      normalized_boxes: whether boxes are fractions of the image's size instead of pixels.
      score_threshold: detections with a lower score are dropped; None for the run's own threshold.
      max_pixels: images with more pixels are refused.
      asked_precision: what the network computes in: `auto`, `float32` or `bfloat16`. Boxes,
        scores and the stored weights are float32 in any case.
      report: receives progress lines.
      score_thresholds: thresholds of single classes, by name or category id, instead of the
        general one.
      trim_padding: see `DetectionModule`.

    Returns:
      The path of the version's folder.

    Raises:
      UsageError: if the run cannot be exported or the folder cannot be written.
    """
    outputs.require_local("--export_dir", export_dir)
    run = trained_run.read(model_dir, checkpoint)
    check_servable(run)
    generator = run.params.task.model.detection_generator
    if score_threshold is not None:
        generator.pre_nms_score_threshold = score_threshold
    thresholds = _thresholds_of_all(run, score_thresholds or {})
    outputs.make_folder("--export_dir", export_dir)
    parent = pathlib.Path(export_dir)
    chosen = precision.choose(asked_precision, "--precision")
    module = build_module(
        run, normalized_boxes, max_pixels, chosen.policy, thresholds, trim_padding
    )
    report(f"exporting {run.checkpoint}; the network computes in {chosen}")
    with (
        outputs.writing(export_dir),
        tempfile.TemporaryDirectory() as assets,
        atomic.unfinished_folder(parent) as folder,
    ):
        module.assets = _write_assets(assets, run, normalized_boxes, chosen.dtype, thresholds)
        export_base.export(
            module, {name: key for key, name in SIGNATURES.items()}, str(folder), timestamped=False
        )
        warmup.write_requests(str(folder), _warmup_requests(run.params, max_pixels))
        atomic.make_durable(folder)
        return str(_publish(folder, parent))


def build_module(
    run: trained_run.TrainedRun,
    normalized_boxes: bool = False,
    max_pixels: int = images.MAX_PIXELS,
    policy: str = precision.FLOAT32,
    score_thresholds: Mapping[int, float] | None = None,
    trim_padding: bool = False,
) -> DetectionModule:
    """Builds the module to serve for a run, with TensorFlow's own NMS.

    Model Garden's NMS (`nms_version` `v1` and `v2`), designed for TPUs, keeps the same boxes but
    takes several times as long on a CPU. It is left in place if TensorFlow's own would keep others.

    Args:
      run: the run; its config is changed in place.
      normalized_boxes: see `export`.
      max_pixels: see `export`.
      policy: the Keras policy that the network computes with.
      score_thresholds: see `DetectionModule`.
      trim_padding: see `DetectionModule`.
    """
    generator = run.params.task.model.detection_generator
    if generator.nms_version in ("v1", "v2") and not special_suppression(generator):
        generator.nms_version = "batched"
    with precision.computing_in(policy):
        model = run.load_model()
    module_class = MMDetectionModule if run.params.task.model.compatibility else DetectionModule
    return module_class(
        run.params,
        model,
        run.read_class_names(),
        normalized_boxes,
        max_pixels,
        score_thresholds,
        trim_padding,
    )


def check_servable(run: trained_run.TrainedRun) -> None:
    """Refuses a run whose detector cannot be served.

    Raises:
      UsageError: if the detector needs more than images, returns no detections, or uses soft NMS.
    """
    task = run.params.task
    if task.takes_proposals:
        raise UsageError(
            f"{run.folder} holds a detector that needs proposals for every image, so it cannot be "
            "served; export a detector with an RPN, such as Faster R-CNN"
        )
    if not task.model.detection_generator.apply_nms:
        raise UsageError(
            f"{run.folder}: task.model.detection_generator.apply_nms is false, so there are no "
            "detections to serve; set it to true in params.yaml"
        )
    if special_suppression(task.model.detection_generator) == "soft_nms_sigma":
        raise UsageError(
            f"{run.folder}: task.model.detection_generator.soft_nms_sigma is set, and Model "
            "Garden's soft NMS works with one fixed batch size only, so it cannot be served; set "
            "it to null in params.yaml to use ordinary NMS"
        )


def _thresholds_of_all(run: trained_run.TrainedRun, given: Thresholds) -> dict[int, float]:
    """Returns the threshold of every class by category id; none if none is given.

    A class may have a lower one than the run: then the detector's own is lowered in the config.
    """
    class_thresholds.check_numbers(given)
    names = run.read_class_names()
    found = class_thresholds.by_category(given, names)
    if not found:
        return {}
    generator = run.params.task.model.detection_generator
    general = generator.pre_nms_score_threshold
    generator.pre_nms_score_threshold = min(general, *found.values())
    return {category: found.get(category, general) for category in names}


def _publish(folder: pathlib.Path, parent: pathlib.Path) -> pathlib.Path:
    """Renames a complete folder to the next version and returns its path."""
    while True:
        version = parent / str(_next_version(parent))
        try:
            atomic.rename_durably(folder, version)
        except OSError:
            # Another export may have taken the number in the meantime.
            if not atomic.is_occupied(version):
                raise
        else:
            return version


def _next_version(parent: pathlib.Path) -> int:
    return 1 + max(
        (int(path.name) for path in parent.iterdir() if path.name.isdecimal()), default=0
    )


def _write_assets(
    folder: str,
    run: trained_run.TrainedRun,
    normalized_boxes: bool,
    dtype: str,
    thresholds: Mapping[int, float],
) -> list[tf.saved_model.Asset]:
    generator = run.params.task.model.detection_generator
    of_classes = {"score_thresholds": thresholds} if thresholds else {}
    documents = {
        CLASS_NAMES: run.read_class_names(),
        THRESHOLDS: {
            "score_threshold": generator.pre_nms_score_threshold,
            **of_classes,
            "nms_iou_threshold": generator.nms_iou_threshold,
            "max_detections": generator.max_num_detections,
            "normalized_boxes": normalized_boxes,
            "precision": dtype,
        },
    }
    for name, document in documents.items():
        pathlib.Path(folder, name).write_text(json.dumps(document, indent=2) + "\n")
    return [tf.saved_model.Asset(os.path.join(folder, name)) for name in documents]


def _warmup_requests(
    params: cfg.ExperimentConfig, max_pixels: int
) -> dict[str, dict[str, tf.Tensor]]:
    """Returns a request with one grey image for every signature."""
    # If a warm-up request is refused, the server does not make the version available.
    longest = math.isqrt(max_pixels)
    size = [min(side, longest) for side in params.task.model.input_size[:2]]
    pixels = tf.fill([*size, 3], tf.constant(128, tf.uint8))
    encoded = tf.io.encode_jpeg(pixels)
    feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[encoded.numpy()]))
    features = tf.train.Features(feature={"image/encoded": feature})
    inputs = {
        "image_bytes": encoded[tf.newaxis],
        "image_tensor": pixels[tf.newaxis],
        "examples": tf.constant([tf.train.Example(features=features).SerializeToString()]),
    }
    return {signature: {name: inputs[name]} for signature, name in SIGNATURES.items()}
