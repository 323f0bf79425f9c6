"""Histograms of the samples and box errors of a training, for TensorBoard.

They are measured with `libra_tf.balance`, as in the report of `libra_tf.analysis`, on the first
image of each replica's batch at every `interval`-th step. A step counts on the device. The counts
are read and written between two loops of steps, so compiled and distributed steps stay as they are.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import tensorflow as tf
from tensorboard.plugins.histogram import metadata

from libra_tf.balance import bins, boxes, quotas, samples
from libra_tf.compat import keras
from libra_tf.modeling import roi_sampler
from libra_tf.ops.boxes import is_object

NUM_BINS = samples.NUM_IOU_BINS
_IOU_STEP = samples.HARD_IOU
# Errors are counted in tenths of the knee of the loss; the last bin holds all above.
_ERROR_STEP = 0.1
_NAMES = {
    "iou/candidates": _IOU_STEP,
    "iou/negatives_random": _IOU_STEP,
    "iou/negatives_iou_balanced": _IOU_STEP,
    "iou/negatives_mmdet_bins": _IOU_STEP,
    "positives_of_an_object": 1.0,
    "box_error_over_beta": _ERROR_STEP,
    "box_gradient_by_error_over_beta": _ERROR_STEP,
}

# By name: the values to count, and the weight of each.
Counted = Mapping[str, tuple[tf.Tensor, tf.Tensor]]


class TrainingHistograms(tf.Module):
    """Counts that a training step adds to.

    Create it in the scope of the distribution strategy: the counts of all replicas are added up.

    Args:
      interval: count at every step that is a multiple of this.
    """

    def __init__(self, interval: int):
        super().__init__(name="histograms")
        self._interval = interval
        self._counts = {
            name: tf.Variable(
                tf.zeros([NUM_BINS]),
                trainable=False,
                synchronization=tf.VariableSynchronization.ON_READ,
                aggregation=tf.VariableAggregation.SUM,
            )
            for name in _NAMES
        }
        self._step = None
        self.model = None

    @contextlib.contextmanager
    def during(self, step: tf.Variable, model: keras.Model) -> Iterator[None]:
        """Accepts offers while the block builds a training step.

        Args:
          step: the training step.
          model: the model that it trains.
        """
        self._step, self.model = step, model
        try:
            yield
        finally:
            self._step = self.model = None

    def offer(self, measure: Callable[[tf.Tensor], Counted]) -> None:
        """Counts at the steps of the interval; does nothing outside of `during`.

        Args:
          measure: function from the step, a scalar int32, to what to count. It is called when the
            training step is built.
        """
        if self._step is None:
            return
        variable = self._step

        def count() -> bool:
            step = tf.cast(variable, tf.int32)
            for name, counted in measure(step).items():
                self._counts[name].assign_add(bins.histogram(*counted, _NAMES[name], NUM_BINS))
            return True

        tf.cond(tf.equal(variable % self._interval, 0), count, lambda: False)

    def write(self, step: int) -> None:
        """Writes the counts to the default summary writer and, if it records, resets them.

        Args:
          step: the training step.
        """
        for name, variable in self._counts.items():
            counts = variable.read_value()
            if not tf.reduce_any(counts > 0):
                continue
            left = tf.range(NUM_BINS, dtype=tf.float32) * _NAMES[name]
            buckets = tf.stack([left, left + _NAMES[name], counts], axis=1)
            summary = metadata.create_summary_metadata(display_name=None, description=None)
            if tf.summary.write(f"analysis/{name}", buckets, step, summary):
                variable.assign(tf.zeros([NUM_BINS]))


def of_samples(
    matches: samples.Matches, gt_boxes: tf.Tensor, quota: quotas.Quota, step: tf.Tensor
) -> Counted:
    """Counts the IoUs of the candidates of an image, and of those that sampling takes.

    Args:
      matches: the candidates `[N]`.
      gt_boxes: float `[M, 4]`, the objects that they match; boxes of -1 are padding.
      quota: how many are sampled.
      step: the training step, a scalar int32, which the draws depend on.

    Returns:
      What to count, by name.
    """
    picks = samples.pick_negatives(matches, quota, seed=tf.stack([0, step]))
    of_object = samples.count_by_instance(
        tf.equal(matches.kinds, samples.POSITIVE), matches.instances, tf.shape(gt_boxes)[0]
    )
    return {
        "iou/candidates": (matches.ious, matches.kinds > samples.NO_CANDIDATE),
        "iou/negatives_random": (matches.ious, picks["random"]),
        "iou/negatives_iou_balanced": (matches.ious, picks["iou_balanced"]),
        "iou/negatives_mmdet_bins": (matches.ious, picks["mmdet"]),
        "positives_of_an_object": (of_object, is_object(gt_boxes)),
    }


def of_boxes(boxes_of_head: boxes.BoxErrors, loss: boxes.BoxLoss) -> Counted:
    """Counts the errors of predicted boxes, and the gradient of the box loss by error.

    Args:
      boxes_of_head: the coordinates of an image.
      loss: the box loss of the run.

    Returns:
      What to count, by name.
    """
    errors, is_positive = (
        tf.concat([tf.reshape(tensor, [-1]) for tensor in tensors], axis=0)
        for tensors in (boxes_of_head.errors, boxes_of_head.is_positive)
    )
    errors = tf.stop_gradient(errors)
    relative, amounts = tf.abs(errors) / loss.beta, tf.cast(is_positive, tf.float32)
    return {
        "box_error_over_beta": (relative, amounts),
        "box_gradient_by_error_over_beta": (relative, amounts * loss.slopes(errors)),
    }


def proposals_of_first_image(
    model: keras.Model, outputs: Mapping[str, Any], labels: Mapping[str, Any]
) -> tf.Tensor:
    """Returns the proposals of the first image that the RoI sampler chose from.

    Args:
      model: Model Garden's `MaskRCNNModel`.
      outputs: its outputs in training.
      labels: its labels.

    Returns:
      float `[N, 4]`, `[ymin, xmin, ymax, xmax]` in pixels; boxes of -1 are padding.
    """
    first = tf.nest.map_structure(
        lambda tensor: tf.stop_gradient(tensor[:1]),
        (
            dict(outputs.get("rpn_boxes", {})),
            dict(outputs.get("rpn_scores", {})),
            {name: labels[name] for name in ("anchor_boxes", "image_info", "gt_boxes")},
        ),
    )
    return roi_sampler.propose(model, *first)[0]
