"""What the measures need from a detector, with one interface for one-stage and two-stage ones.

Images and labels come from the run's own training pipeline, without its augmentation and each image
once.
"""

import abc
import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from official.core import task_factory

from libra_tf.analysis.batches import Batch
from libra_tf.analysis.samples import Candidates
from libra_tf.balance import boxes, quotas, samples
from libra_tf.cli.errors import UsageError, first_line
from libra_tf.modeling.mmdetection import anchors as mmdetection_anchors
from libra_tf.runs.trained_run import TrainedRun

_MAX_BATCH_SIZE = 8


@dataclasses.dataclass(frozen=True)
class BoxHead:
    """The boxes that a head predicts, compared with their targets.

    Attributes:
      loss: the name of the loss that learns from them.
      boxes: the predictions and their errors.
    """

    loss: str
    boxes: boxes.BoxErrors


@dataclasses.dataclass(frozen=True)
class ClassHead:
    """The classes that a head predicts for its candidates, compared with their targets.

    Attributes:
      loss: the name of the loss that learns from them.
      logits: float, one tensor or one for each level, `[..., A * C]`: a score for each of the C
        classes, the background first, for each of the A candidates at a place.
      targets: of each, int or float `[..., A]`: the class, 0 or less for what is no object.
    """

    loss: str
    logits: list[tf.Tensor]
    targets: list[tf.Tensor]


@dataclasses.dataclass(frozen=True)
class TrainingStep:
    """What a training step computes from a batch.

    Attributes:
      losses: by name, multiplied by their weights.
      box_heads: the boxes that are predicted.
      class_heads: the classes that are predicted; the first is the head of the first stage.
    """

    losses: dict[str, tf.Tensor]
    box_heads: list[BoxHead]
    class_heads: list[ClassHead]


class Detector(abc.ABC):
    """A trained detector.

    Args:
      run: the run that trained it.

    Attributes:
      config: the config of its task.
      task: its task.
      model: the Keras model.
      levels: its pyramid levels.
      quotas: by kind of candidates, how many are sampled.
      losses: by name, the factor of each loss in the total loss.
      betas: by name of a box loss, the size of an error from which it is an outlier.
      modules: by name, the trainable weights of its parts; the first two are shared by the losses.
    """

    quotas: dict[str, quotas.Quota]
    losses: dict[str, float]
    betas: dict[str, float]
    modules: dict[str, list[tf.Variable]]

    def __init__(self, run: TrainedRun):
        self.config = run.params.task
        # Only with `analysis` do the labels of RetinaNet hold the objects.
        self.task = task_factory.get_task(self.config.replace(analysis={"enabled": True}))
        self.model = run.load_model()
        self.levels = list(range(self.config.model.min_level, self.config.model.max_level + 1))

    def read(self, input_path: str | None, max_num_instances: int = 0) -> Iterator[Batch]:
        """Reads training images.

        Args:
          input_path: pattern of TFRecord files; None for those that the run was trained on.
          max_num_instances: the largest number of objects in an image, if larger than in the run's
            config.

        Yields:
          The images with their labels.

        Raises:
          UsageError: if there are no such files, they cannot be read, or they hold no image.
        """
        data = self.config.train_data
        data = data.replace(
            input_path=input_path or data.input_path,
            drop_remainder=False,
            dtype="float32",
            # MMDetection's batches have one orientation, and incomplete ones are dropped.
            global_batch_size=1
            if self.config.model.compatibility
            else min(data.global_batch_size, _MAX_BATCH_SIZE),
            parser={
                "max_num_instances": max(data.parser.max_num_instances, max_num_instances),
            },
        )
        is_empty = True
        try:
            for images, labels in self.task.build_unaugmented_inputs(data):
                is_empty = False
                yield Batch(images, labels)
        except (ValueError, tf.errors.OpError) as error:
            raise UsageError(
                f"the training images {data.input_path} cannot be read ({first_line(error)}); name "
                "a folder with --dataset"
            ) from error
        if is_empty:
            raise UsageError(
                f"the training images {data.input_path} hold no image; name a folder with --dataset"
            )

    @abc.abstractmethod
    def candidates(self, batch: Batch) -> dict[str, list[Candidates]]:
        """Returns the candidates of each image, by kind of candidates.

        Args:
          batch: the images.
        """

    @abc.abstractmethod
    def take_step(self, images: tf.Tensor, labels: dict[str, Any]) -> TrainingStep:
        """Returns what a training step computes; it does not change the weights.

        Args:
          images: float `[B, height, width, 3]`.
          labels: as in training.
        """

    @property
    @abc.abstractmethod
    def _min_positive_iou(self) -> float:
        """The least IoU of an object's best anchor, where training is MMDetection's."""

    def _match_anchors(
        self, batch: Batch, match_threshold: float, unmatched_threshold: float, losses: np.ndarray
    ) -> list[Candidates]:
        """The anchors of each image as candidates; `losses` `[B, N]` are theirs."""
        by_level = [
            # All images have the same anchors.
            tf.reshape(batch.labels["anchor_boxes"][str(level)][0], [-1, 4])
            for level in self.levels
        ]
        levels = np.repeat(self.levels, [len(anchors) for anchors in by_level])
        anchors = tf.concat(by_level, axis=0)
        all_candidates = []
        for i, losses_of_image in enumerate(losses):
            thresholds = (match_threshold, unmatched_threshold)
            if self.config.model.compatibility:
                by_name = {level: x[i] for level, x in batch.labels["anchor_boxes"].items()}
                is_valid = mmdetection_anchors.is_valid(by_name, batch.labels["image_info"][i, 1])
                matches = samples.match_mmdetection_anchors(
                    anchors, batch.gt_boxes(i), *thresholds, self._min_positive_iou, is_valid
                )
            else:
                matches = samples.match_anchors(anchors, batch.gt_boxes(i), *thresholds)
            all_candidates.append(
                batch.candidates(i, anchors.numpy(), matches, levels, losses_of_image)
            )
        return all_candidates
