"""The average precision of a detector on a folder's validation images."""

import os
from collections.abc import Iterator, Mapping

import rich.console
import tensorflow as tf

from libra_tf.cli.errors import UsageError, listed
from libra_tf.cli.progress import Progress
from libra_tf.data import DetectionDataset, prepare_coco_folder
from libra_tf.evaluation import subject
from libra_tf.inference import answers, coco_results, ground_truth
from libra_tf.inference.local import LocalDetector
from libra_tf.inference.tflite_detector import TFLiteDetector

_MOST_NAMES = 10


def evaluate(
    detector: LocalDetector | TFLiteDetector,
    dataset: str | os.PathLike[str],
    batch_size: int,
    cache_dir: str | os.PathLike[str] | None,
    console: rich.console.Console,
    val_share: float | None = None,
) -> dict[str, float]:
    """Measures the average precision; see `Detector.evaluate`.

    Args:
      detector: a detector in this process.
      dataset: the folder.
      batch_size: how many images the network computes at once.
      cache_dir: folder for converted data sets; None for the default.
      console: where to show progress.
      val_share: what the detector's run has set aside; see `prepare_coco_folder`.
    """
    progress = Progress(console)
    data = prepare_coco_folder(
        dataset,
        cache_dir,
        report=lambda message: progress.note(f"data: {message}"),
        val_share=val_share,
        share_of_run=True,
    )
    category_ids = _category_ids(detector.class_names, data)
    progress.start("evaluating", data.val.num_examples, unit="image")
    results, image_ids = [], []
    try:
        for ids, encoded in _batches(data.val.input_path, batch_size):
            outputs = detector.predict(encoded)
            found = answers.from_outputs(outputs, detector.normalized_boxes)
            for image_id, answer in zip(ids, found, strict=True):
                of_image = coco_results.to_results(answer, image_id, file_name="")
                results += coco_results.renumber(of_image, category_ids)
            image_ids += ids
            progress.advance(len(image_ids), images=1)
    finally:
        progress.stop()
    truth = ground_truth.read_file(data.val.annotation_file)
    return coco_results.evaluate(truth, results, image_ids)


def _category_ids(class_names: Mapping[int, str], data: DetectionDataset) -> dict[int, int]:
    """Returns the folder's id of each category that the detector and the folder have.

    Args:
      class_names: the detector's, by id.
      data: the folder.

    Raises:
      UsageError: if the detector does not know one of the folder's classes.
    """
    same = subject.same_classes(class_names, data.class_names)
    unknown = [name for id_, name in data.class_names.items() if id_ not in same.values()]
    if unknown:
        raise UsageError(
            f"the detector does not know {listed(unknown, _MOST_NAMES)}, which "
            f"dataset={data.folder} has; it knows {listed(list(class_names.values()), _MOST_NAMES)}"
            ". Name a folder with its classes"
        )
    return same


def _batches(input_path: str, batch_size: int) -> Iterator[tuple[list[int], list[bytes]]]:
    """Yields the ids and the files of a split's images, as they are in the records."""
    features = {
        name: tf.io.FixedLenFeature([], tf.string) for name in ("image/source_id", "image/encoded")
    }
    records = tf.data.TFRecordDataset(sorted(tf.io.gfile.glob(input_path)))
    for batch in records.batch(batch_size):
        parsed = tf.io.parse_example(batch, features)
        ids = [int(source_id) for source_id in parsed["image/source_id"].numpy()]
        yield ids, list(parsed["image/encoded"].numpy())
