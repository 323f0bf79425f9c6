"""The page of a run's evaluation, from the detections that the run keeps and its TFRecords."""

import functools
import os
from collections.abc import Collection, Iterable, Iterator, Mapping

import tensorflow as tf
from official.core import config_definitions as cfg

from libra_tf.cli.errors import UsageError, first_line
from libra_tf.cli.progress import Progress
from libra_tf.data import DetectionDataset
from libra_tf.evaluation import export_command, records, report
from libra_tf.runner import input_data
from libra_tf.runner.detections import read_truth, to_results
from libra_tf.runs.folder import RunFolder
from libra_tf.tasks.coco_metric import Detections

_ID, _IMAGE = "image/source_id", "image/encoded"


def check_compared(folder: str, params: cfg.ExperimentConfig) -> None:
    """Checks the evaluation to compare with, before any long work.

    Args:
      folder: of `--compare`.
      params: config of the run that is about to be evaluated.

    Raises:
      UsageError: if it has no page, or was of other images or objects.
    """
    record = records.read(folder)
    if not params.task.annotation_file:
        raise UsageError(
            f"--compare={folder} needs the annotations of the evaluated images: set "
            "task.annotation_file, or name a folder with --dataset"
        )
    truth = read_truth(params.task.annotation_file)
    records.check_same_truth(record, truth, [image["id"] for image in truth.images])


def write(
    folder: RunFolder,
    params: cfg.ExperimentConfig,
    detections: Mapping[int, Detections] | None,
    dataset: DetectionDataset | None,
    checkpoint: str,
    score_threshold: float | None,
    compare: str | None,
    progress: Progress,
) -> bool:
    """Writes the page, its numbers and the detections into the folder of the run.

    What it cannot be written for is said, and is no error: the evaluation itself is done.

    Args:
      folder: the folder of the run.
      params: its config.
      detections: of the last evaluation, by image id.
      dataset: the data of the run; None if its config names them.
      checkpoint: what was evaluated.
      score_threshold: see `measures.measure`.
      compare: folder of an evaluation to compare with; None for none.
      progress: shows what is being done.

    Returns:
      Whether there is a page.
    """
    try:
        if not detections:
            raise UsageError("nothing was evaluated")
        if not params.task.annotation_file:
            raise UsageError("task.annotation_file is not set, which names the ground truth")
        truth = read_truth(params.task.annotation_file)
        evaluation = report.Evaluation(
            name=os.path.basename(os.path.abspath(folder.path)),
            model=checkpoint,
            annotations=dataset.folder if dataset else str(params.task.annotation_file),
            truth=truth,
            results=list(to_results(detections, truth)),
            image_ids=list(detections),
            read_images=_reader(params.task.validation_data),
            training_objects=_training_objects(folder, dataset),
            score_threshold=score_threshold,
            export_names=_export_names(folder, truth.class_names),
            # Only now, since its detections would fill the memory during a training.
            read_compared=functools.partial(records.read, compare) if compare else None,
        )
        report.write(evaluation, folder.path, progress)
    except (UsageError, OSError, tf.errors.OpError) as reason:
        progress.note(f"no evaluation page: {first_line(reason)}")
        return False
    return True


def _training_objects(
    folder: RunFolder, dataset: DetectionDataset | None
) -> Mapping[int, int] | None:
    if dataset is None or not folder.is_own(dataset.folder):
        return None
    return dataset.train.num_objects


def _export_names(folder: RunFolder, ids: Iterable[int]) -> dict[int, str]:
    """Returns what the export of the run calls its classes; those without a name by their ids."""
    names = export_command.names_in_flag(folder.read_class_names())
    return {id_: names.get(id_, str(id_)) for id_ in ids}


def _reader(data: cfg.DataConfig) -> report.ReadImages:
    def read(image_ids: Collection[int]) -> dict[int, bytes]:
        return {} if data.tfds_name else dict(_read_images(data, image_ids))

    return read


def _read_images(data: cfg.DataConfig, image_ids: Collection[int]) -> Iterator[tuple[int, bytes]]:
    """Yields the ids and the files of some images, and reads no further than the last of them."""
    features = {name: tf.io.FixedLenFeature([], tf.string) for name in (_ID, _IMAGE)}
    missing = set(image_ids)
    for record in input_data.read_records(data):
        if not missing:
            return
        example = tf.io.parse_single_example(record, features)
        image_id = int(example[_ID].numpy())
        if image_id in missing:
            missing.remove(image_id)
            yield image_id, example[_IMAGE].numpy()
