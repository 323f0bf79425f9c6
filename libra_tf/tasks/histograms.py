"""Histograms of what a training step samples and errs, for TensorBoard.

The same as in the report of `libra_tf.analysis`, of the first image of every replica's batch, at
every `interval`-th step. A step counts on the device; the counts are read and written between two
loops of steps, so that a compiled or distributed step stays what it is.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping

import tensorflow as tf
from official.vision.ops import iou_similarity
from tensorboard.plugins.histogram import metadata

from libra_tf import ops
from libra_tf.compat import keras
from libra_tf.configs import components
from libra_tf.ops import sampling

NUM_BINS = 20
_IOU_STEP = 1 / NUM_BINS
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

# By name, what to count: values, and how much each counts.
Counted = Mapping[str, tuple[tf.Tensor, tf.Tensor]]


class TrainingHistograms(tf.Module):
    """Counts that a training step adds to.

    Made in the scope of the distribution strategy, whose replicas' counts are added up.

    Args:
      interval: every how many steps to count.
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
        """Counts what is offered while the block builds a training step.

        Args:
          step: the number of the step.
          model: what it trains.
        """
        self._step, self.model = step, model
        try:
            yield
        finally:
            self._step = self.model = None

    def offer(self, measure: Callable[[tf.Tensor], Counted]) -> None:
        """Counts at the steps of the interval, inside of `during` alone.

        Args:
          measure: function of the step to what to count; it is called when the step is built.
        """
        if self._step is None:
            return
        variable = self._step

        def count():
            step = tf.cast(variable, tf.int32)
            for name, (values, amounts) in measure(step).items():
                self._counts[name].assign_add(_histogram(values, amounts, _NAMES[name]))
            return True

        tf.cond(tf.equal(variable % self._interval, 0), count, lambda: False)

    def write(self, step: int) -> None:
        """Writes the counts to the default summary writer and starts anew, if it records.

        Args:
          step: the number of the step.
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
    boxes: tf.Tensor,
    gt_boxes: tf.Tensor,
    sampler: components.IoUBalancing,
    num_samples: int,
    positive_fraction: float,
    positive_iou: float,
    negative_iou: float,
    step: tf.Tensor,
) -> Counted:
    """Counts the IoUs of the candidates of an image, and of those that sampling takes.

    Args:
      boxes: `[N, 4]`, `[ymin, xmin, ymax, xmax]` in pixels; boxes of -1 are padding.
      gt_boxes: `[M, 4]`, likewise.
      sampler: how IoU-balanced sampling bins the negatives.
      num_samples: how many candidates are sampled.
      positive_fraction: the largest share of positives among them.
      positive_iou: the IoU from which a candidate is positive.
      negative_iou: the IoU below which it is negative.
      step: the training step, which the draws depend on.

    Returns:
      What to count, by name.
    """
    boxes, gt_boxes = (tf.cast(tf.stop_gradient(x), tf.float32) for x in (boxes, gt_boxes))
    is_box, is_object = (tf.reduce_max(x, axis=-1) >= 0 for x in (boxes, gt_boxes))
    ious = iou_similarity.IouSimilarity()(boxes, gt_boxes)
    ious = tf.where(is_object, ious, 0.0)
    max_ious = tf.reduce_max(ious, axis=-1)
    positives = is_box & (max_ious >= positive_iou)
    negatives = (is_box & (max_ious < negative_iou))[tf.newaxis]
    num_positives = tf.reduce_sum(tf.cast(positives, tf.int32))
    number = num_samples - tf.minimum(num_positives, int(num_samples * positive_fraction))
    seed, row = tf.stack([0, step]), max_ious[tf.newaxis]
    picks = {"random": ops.sample_random(negatives, number, seed)}
    for name, bin_range in (("iou_balanced", "candidates"), ("mmdet_bins", "all")):
        bins = sampler.replace(bin_range=bin_range).bins(negative_iou)
        picks[name] = sampling.draw_iou_balanced(row, negatives, number, bins, seed)
    of_object = tf.math.unsorted_segment_sum(
        tf.cast(positives, tf.float32), tf.argmax(ious, axis=-1), tf.shape(ious)[1]
    )
    return {
        "iou/candidates": (max_ious, is_box),
        **{f"iou/negatives_{name}": (max_ious, mask[0]) for name, mask in picks.items()},
        "positives_of_an_object": (of_object, is_object),
    }


def of_boxes(
    errors: tf.Tensor, is_positive: tf.Tensor, losses: components.BalancedL1, huber: float | None
) -> Counted:
    """Counts the errors of predicted boxes, and the gradient of the box loss by error.

    Args:
      errors: `[...]`, prediction - target.
      is_positive: `[...]`, bool, which of them the loss counts.
      losses: the constants of the balanced L1 loss.
      huber: the knee of the Huber loss where that is the run's loss, else None.

    Returns:
      What to count, by name.
    """
    errors = tf.stop_gradient(errors)
    beta = losses.beta if huber is None else huber
    if huber is None:
        with tf.GradientTape() as tape:
            tape.watch(errors)
            loss = ops.balanced_l1(tf.zeros_like(errors), errors, **losses.as_dict())
        slopes = tf.abs(tape.gradient(loss, errors))
    else:
        slopes = tf.minimum(tf.abs(errors), huber)
    amounts = tf.cast(is_positive, tf.float32)
    relative = tf.abs(errors) / beta
    return {
        "box_error_over_beta": (relative, amounts),
        "box_gradient_by_error_over_beta": (relative, amounts * slopes),
    }


def proposals_of_first_image(model: keras.Model, outputs: Mapping, labels: Mapping) -> tf.Tensor:
    """Returns what the sampler of a two-stage detector chose from, for the first image.

    Args:
      model: Model Garden's `MaskRCNNModel`.
      outputs: its outputs in training.
      labels: its labels.

    Returns:
      `[N, 4]`, `[ymin, xmin, ymax, xmax]` in pixels.
    """
    first = tf.nest.map_structure(
        lambda tensor: tf.stop_gradient(tensor[:1]),
        (
            dict(outputs.get("rpn_boxes", {})),
            dict(outputs.get("rpn_scores", {})),
            labels["anchor_boxes"],
            labels["image_info"][:, 1],
        ),
    )
    rois, _ = model.roi_generator(*first, True)
    if model.roi_sampler[0].get_config()["mix_gt_boxes"]:
        rois = tf.concat([rois, tf.cast(labels["gt_boxes"][:1], rois.dtype)], axis=1)
    return rois[0]


def _histogram(values, amounts, bin_width):
    """How much falls into each bin `(k w, (k + 1) w]`; the first holds 0, the last all above."""
    bins = tf.cast(tf.math.ceil(tf.reshape(values, [-1]) / bin_width), tf.int32) - 1
    bins = tf.clip_by_value(bins, 0, NUM_BINS - 1)
    amounts = tf.reshape(tf.cast(amounts, tf.float32), [-1])
    return tf.math.unsorted_segment_sum(amounts, bins, NUM_BINS)
