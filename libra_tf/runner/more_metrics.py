"""What an evaluation measures beside COCO's average precision, if --metrics asks for it."""

import filecmp
import functools
import json
from collections.abc import Callable, Collection, Mapping

from absl import flags
from official.core import config_definitions as cfg

from libra_tf.cli import flags as run_flags
from libra_tf.cli.errors import UsageError
from libra_tf.data import DetectionDataset
from libra_tf.data.annotations import AnnotationFile
from libra_tf.evaluation import lvis_ap, metrics, subject
from libra_tf.runner.detections import read_truth, to_results
from libra_tf.tasks.coco_metric import Detections

# From the detections by image id to metrics by name.
Measure = Callable[[Mapping[int, Detections]], dict[str, float]]


def build(
    flag_values: flags.FlagValues, params: cfg.ExperimentConfig, dataset: DetectionDataset | None
) -> Measure | None:
    """Reads what the metrics in --metrics need.

    Args:
      flag_values: parsed flags; this uses `metrics` and `frequency_limits`.
      params: config of the run.
      dataset: the data set, whose training images tell how frequent a class is; None if there are
        only the files that the config names.

    Returns:
      What measures them; None if there are none but COCO's.

    Raises:
      UsageError: if there is no annotation file.
      DatasetError: if it cannot be read.
    """
    names = run_flags.more_metrics(flag_values.metrics)
    if not names:
        return None
    path = params.task.annotation_file
    if not path:
        raise UsageError(
            f"--metrics={','.join(names)} needs an annotation file of the validation images: set "
            "task.annotation_file, or name a folder with --dataset"
        )
    return functools.partial(
        _measure,
        read_truth(path),
        names,
        _count_training_images(dataset) if dataset and metrics.LVIS in names else None,
        run_flags.frequency_limits(flag_values.frequency_limits),
    )


def _count_training_images(dataset: DetectionDataset) -> dict[int, int] | None:
    """Counts in how many training images each class is; None if all images are evaluated."""
    path = dataset.train.annotation_file
    # A folder with one split that is not the run's own: nothing was trained on these images.
    if filecmp.cmp(path, dataset.val.annotation_file, shallow=False):
        return None
    with open(path, "rb") as file:
        return lvis_ap.images_per_class(json.load(file)["annotations"])


def _measure(
    truth: AnnotationFile,
    names: Collection[str],
    training_images: Mapping[int, int] | None,
    limits: tuple[int, int],
    detections: Mapping[int, Detections],
) -> dict[str, float]:
    results = subject.of_listed_classes(to_results(detections, truth), truth)
    made = subject.make(truth, results, detections)
    return metrics.measure(made, names, training_images, limits)
