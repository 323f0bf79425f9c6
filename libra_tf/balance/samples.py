"""The sample level of one image: its candidates, and what each way of sampling takes.

A candidate is an anchor or a proposal. Paper section 3.1: most hard negatives overlap an object,
and random sampling takes few of these.
"""

from typing import NamedTuple

import tensorflow as tf
from official.vision.modeling.layers import roi_sampler
from official.vision.ops import anchor

from libra_tf import ops
from libra_tf.balance import bins
from libra_tf.balance.quotas import Quota
from libra_tf.ops import assignment, sampling
from libra_tf.ops.boxes import is_object

# The paper calls negatives above this IoU "hard". IoUs are counted in bins of this width.
HARD_IOU = 0.05
NUM_IOU_BINS = round(1 / HARD_IOU)
POSITIVE, NEGATIVE, IGNORED, NO_CANDIDATE = 1, 0, -1, -2


class Matches(NamedTuple):
    """How the boxes of an image match its objects.

    Attributes:
      ious: float32 `[N]`, the IoU of each box with its object, 0 without objects.
      kinds: int32 `[N]`: `POSITIVE`, `NEGATIVE`, `IGNORED` or, for padding and what training
        leaves out altogether, `NO_CANDIDATE`.
      instances: int32 `[N]`, the index of its object: the one of largest IoU, except that an object
        below the threshold of a positive may still claim its best anchor.
    """

    ious: tf.Tensor
    kinds: tf.Tensor
    instances: tf.Tensor


def match_anchors(
    anchors: tf.Tensor, gt_boxes: tf.Tensor, match_threshold: float, unmatched_threshold: float
) -> Matches:
    """Matches anchors as Model Garden's parsers label them.

    Args:
      anchors: float `[N, 4]`, `[ymin, xmin, ymax, xmax]` in pixels.
      gt_boxes: float `[M, 4]`, likewise, M at least 1; boxes of -1 are padding.
      match_threshold: the IoU from which an anchor is positive.
      unmatched_threshold: the IoU below which it is negative.

    Returns:
      The matches `[N]`.
    """
    labeler = anchor.AnchorLabeler(match_threshold, unmatched_threshold)
    is_real = is_object(gt_boxes)
    ious = tf.where(is_real, labeler.similarity_calc(anchors, gt_boxes), -1.0)
    # The matcher lets every box of `gt_boxes` claim an anchor. Padding claims this row, which is
    # not an anchor; objects never do.
    decoy = tf.where(is_real, -1.0, 0.0)[tf.newaxis]
    instances, indicators = labeler.matcher(tf.concat([decoy, ious], axis=0))
    instances, indicators = instances[1:], indicators[1:]
    ious = tf.gather(ious, instances, batch_dims=1)
    return Matches(tf.maximum(ious, 0), _kinds(indicators), instances)


def match_mmdetection_anchors(
    anchors: tf.Tensor,
    gt_boxes: tf.Tensor,
    match_threshold: float,
    unmatched_threshold: float,
    min_positive_iou: float,
    is_valid: tf.Tensor,
) -> Matches:
    """Matches anchors as MMDetection's training does.

    Args:
      anchors: as in `match_anchors`.
      gt_boxes: as in `match_anchors`.
      match_threshold: as in `match_anchors`.
      unmatched_threshold: as in `match_anchors`.
      min_positive_iou: see `libra_tf.ops.assignment`.
      is_valid: bool `[N]`, whether an anchor lies on the image and its own padding. The others are
        no candidates.

    Returns:
      The matches `[N]`.
    """
    assigned, _ = assignment.assign_max_iou(
        anchors, gt_boxes, match_threshold, unmatched_threshold, min_positive_iou, is_valid
    )
    ious = tf.where(is_object(gt_boxes), assignment.pairwise_iou(anchors, gt_boxes), 0.0)
    nearest = tf.argmax(ious, axis=-1, output_type=tf.int32)
    instances = tf.where(assigned > 0, assigned - 1, nearest)
    kinds = tf.where(is_valid, tf.minimum(assigned, POSITIVE), NO_CANDIDATE)
    return Matches(tf.gather(ious, instances, batch_dims=1), kinds, instances)


def match_proposals(
    proposals: tf.Tensor, gt_boxes: tf.Tensor, sampler: roi_sampler.ROISampler
) -> Matches:
    """Matches proposals as the RoI sampler of a detector does.

    In an image without objects no proposal is a candidate: the sampler counts none as negative,
    unless it is that of `compatibility: mmdetection`.

    Args:
      proposals: float `[N, 4]`, `[ymin, xmin, ymax, xmax]` in pixels; boxes of -1 are padding.
      gt_boxes: float `[M, 4]`, likewise, M at least 1.
      sampler: the sampler whose thresholds are used.

    Returns:
      The matches `[N]`.
    """
    is_padding = [~is_object(boxes)[..., tf.newaxis] for boxes in (proposals, gt_boxes)]
    # Model Garden's layer does not expose its matching.
    ious = sampler._sim_calc(proposals, gt_boxes, *is_padding)
    instances, indicators = sampler._box_matcher(ious)
    return Matches(tf.maximum(tf.reduce_max(ious, axis=-1), 0), _kinds(indicators), instances)


def pick_negatives(matches: Matches, quota: Quota, seed: int | tf.Tensor) -> dict[str, tf.Tensor]:
    """Samples the negatives of an image in every way.

    Args:
      matches: the candidates `[N]`.
      quota: how many to sample.
      seed: fixes the draws; an int, or an int tensor `[2]`.

    Returns:
      By name, bool `[N]`: `random`; `iou_balanced` with the paper's bins; `mmdet`, IoU-balanced
      with MMDetection's bins, which reach up to the largest IoU of all candidates.
    """
    negatives = tf.equal(matches.kinds, NEGATIVE)[tf.newaxis]
    number = quota.num_negatives(tf.equal(matches.kinds, POSITIVE))
    picks = {"random": ops.sample_random(negatives, number, seed)}
    for name, bin_range in (("iou_balanced", "candidates"), ("mmdet", "all")):
        picks[name] = sampling.draw_iou_balanced(
            matches.ious[tf.newaxis], negatives, number, quota.bins(bin_range), seed
        )
    return {name: mask[0] for name, mask in picks.items()}


def pick_positives(
    matches: Matches, quota: Quota, num_instances: int | tf.Tensor, seed: int | tf.Tensor
) -> dict[str, tf.Tensor]:
    """Samples the positives of an image in every way.

    Args:
      matches: the candidates `[N]`.
      quota: how many to sample.
      num_instances: how many objects the image has, at least 1.
      seed: as in `pick_negatives`.

    Returns:
      By name, bool `[N]`: `all` positives, a `random` sample of them, an `instance_balanced` one.
    """
    positives = tf.equal(matches.kinds, POSITIVE)[tf.newaxis]
    picks = {
        "all": positives,
        "random": ops.sample_random(positives, quota.max_positives, seed),
        "instance_balanced": ops.sample_instance_balanced(
            matches.instances[tf.newaxis], positives, quota.max_positives, num_instances, seed
        ),
    }
    return {name: mask[0] for name, mask in picks.items()}


def count_by_instance(
    mask: tf.Tensor, instances: tf.Tensor, num_instances: int | tf.Tensor
) -> tf.Tensor:
    """Counts candidates by their object.

    Args:
      mask: bool `[N]`, which candidates to count.
      instances: int `[N]`, the object of each.
      num_instances: the number M of objects.

    Returns:
      int32 `[M]`.
    """
    return tf.math.unsorted_segment_sum(tf.cast(mask, tf.int32), instances, num_instances)


def iou_bins(ious: tf.Tensor) -> tf.Tensor:
    """Returns the bin of each IoU; all bins but the first are of hard candidates.

    Args:
      ious: float `[...]`, from 0 to 1.

    Returns:
      int32 `[...]`, in `[0, NUM_IOU_BINS)`.
    """
    return bins.bin_indices(ious, HARD_IOU, NUM_IOU_BINS)


def _kinds(indicators: tf.Tensor) -> tf.Tensor:
    """Kinds of the indicators of Model Garden's matchers.

    These are 1 for positives, -1 for negatives, -2 for ignored boxes and -3 for all others.
    """
    return tf.where(indicators > 0, POSITIVE, indicators + 1)
