"""Choice of training samples, the sample level of Libra R-CNN (section 3.1 of the paper).

Everything here is a random subset of a given size from each of several groups, drawn once (random),
or drawn evenly first and filled up at random then (by IoU, by instance). What is drawn how is said
by a `Pool`; `libra_tf.ops.pools` draws.
"""

import tensorflow as tf

from libra_tf.ops import pools

BIN_RANGES = ("candidates", "all")


def sample_random(candidates, num_samples, seed=None):
    """Samples candidates uniformly at random.

    Args:
      candidates: Bool tensor [B, N], what may be sampled.
      num_samples: Int or int tensor [B], how many to sample.
      seed: None for a new draw each time (repeatable with `tf.random.set_seed`); an int or an int
        tensor [2] for the same draw each time, compiled or not.

    Returns:
      Bool tensor [B, N] with exactly min(num_samples, number of candidates) True in each row, all
      of them candidates.

    Raises:
      ValueError: If `candidates` is not a bool tensor of rank 2.
    """
    candidates = _validated_candidates(candidates)
    return pools.draw_once(candidates, _per_row(candidates, num_samples), seed)


def sample_iou_balanced(
    max_ious,
    candidates,
    num_samples,
    num_bins=3,
    floor_threshold=-1.0,
    floor_fraction=0.0,
    bin_range="candidates",
    iou_limit=None,
    seed=None,
):
    """Samples candidates (negatives) evenly over the range of their IoUs.

    The range is split into `num_bins` bins of equal width, and every bin gives the same number of
    samples; a bin with fewer candidates gives all, and the shortfall is filled at random from the
    other candidates (equation 2 of the paper). Candidates with an IoU below `floor_threshold` can
    be kept out of the bins: of those, about `floor_fraction` of the samples are taken at random,
    and more where the others do not suffice, as in MMDetection.

    Args:
      max_ious: Float tensor [B, N], the largest IoU of each box with any instance. NaN counts as 0.
      candidates: Bool tensor [B, N], what may be sampled.
      num_samples: Int or int tensor [B], how many to sample.
      num_bins: Positive int, the number K of bins.
      floor_threshold: Float. Positive: candidates with a lower IoU form the floor. 0: those with
        an IoU of exactly 0 do. -1: there is no floor, all candidates are balanced.
      floor_fraction: Float in [0, 1], the share of the samples to take from the floor.
      bin_range: "candidates" (the paper): the bins end at `iou_limit`. "all" (MMDetection): they
        end at the maximum of `max_ious` over the whole row, candidate or not. With ground truth
        among the boxes that is 1, so that negatives fill only the lower bins.
      iou_limit: Float, the upper end of the bins, such as the IoU below which a box is negative;
        above their lower end, which is `floor_threshold` or 0. None: the largest IoU of a
        candidate in the row. The last bin holds what lies above, too.
      seed: As in `sample_random`.

    Returns:
      Bool tensor [B, N] with exactly min(num_samples, number of candidates) True in each row, all
      of them candidates.

    Raises:
      ValueError: If an argument is outside its range, `candidates` is not a bool tensor of rank 2,
        or `iou_limit` is given with `bin_range` "all".
    """
    validate_iou_balanced(num_bins, floor_threshold, floor_fraction, bin_range, iou_limit)
    candidates = _validated_candidates(candidates)
    pool = iou_pool(
        max_ious,
        candidates,
        num_samples,
        num_bins,
        floor_threshold,
        floor_fraction,
        bin_range,
        iou_limit,
    )
    return pools.draw_mask(pool, seed)


def sample_instance_balanced(instance_ids, candidates, num_samples, max_instances, seed=None):
    """Samples candidates (positives) evenly over the instances that they belong to.

    Each of the n instances that have candidates gives round(num_samples / n) + 1 of its own at
    random; an excess is thinned out at random, a shortfall filled at random from the other
    candidates (section 3.1 of the paper; the rounding is MMDetection's).

    Args:
      instance_ids: Int tensor [B, N], the instance of each box, in [0, max_instances) for
        candidates; what is outside counts as the nearest instance.
      candidates: Bool tensor [B, N], what may be sampled.
      num_samples: Int or int tensor [B], how many to sample.
      max_instances: Positive int or scalar int tensor, the number of instances a row can have.
      seed: As in `sample_random`.

    Returns:
      Bool tensor [B, N] with exactly min(num_samples, number of candidates) True in each row, all
      of them candidates.

    Raises:
      ValueError: If `candidates` is not a bool tensor of rank 2 or `max_instances` is not positive.
    """
    if not tf.is_tensor(max_instances) and max_instances < 1:
        raise ValueError(f"`max_instances` must be positive, got {max_instances}.")
    candidates = _validated_candidates(candidates)
    pool = instance_pool(instance_ids, candidates, num_samples, max_instances)
    return pools.draw_mask(pool, seed)


def validate_iou_balanced(num_bins, floor_threshold, floor_fraction, bin_range, iou_limit=None):
    """Checks the arguments of `sample_iou_balanced` that are fixed for a training.

    Args:
      num_bins: See `sample_iou_balanced`.
      floor_threshold: See `sample_iou_balanced`.
      floor_fraction: See `sample_iou_balanced`.
      bin_range: See `sample_iou_balanced`.
      iou_limit: See `sample_iou_balanced`.

    Raises:
      ValueError: If one of them is outside its range.
    """
    if num_bins < 1:
        raise ValueError(f"`num_bins` must be at least 1, got {num_bins}.")
    if floor_threshold != -1 and not 0 <= floor_threshold < 1:
        raise ValueError(
            "`floor_threshold` must be an IoU in [0, 1), or -1 for no floor, got "
            f"{floor_threshold}."
        )
    if not 0 <= floor_fraction <= 1:
        raise ValueError(f"`floor_fraction` must be in [0, 1], got {floor_fraction}.")
    if bin_range not in BIN_RANGES:
        raise ValueError(f"`bin_range` must be one of {BIN_RANGES}, got {bin_range!r}.")
    if iou_limit is not None and bin_range != "candidates":
        raise ValueError(
            "`iou_limit` ends the bins where `bin_range` is 'candidates'; leave it out for "
            f"{bin_range!r}."
        )
    bottom = max(floor_threshold, 0.0)
    if iou_limit is not None and iou_limit <= bottom:
        raise ValueError(
            f"`iou_limit` must be above {bottom}, where the bins begin, got {iou_limit}."
        )


def random_pool(candidates, num_samples):
    """The pool of `sample_random`.

    Args:
      candidates: As in `sample_random`.
      num_samples: As in `sample_random`.

    Returns:
      A `libra_tf.ops.pools.Pool`.
    """
    num_samples = _per_row(candidates, num_samples)
    return pools.Pool(
        groups=tf.where(candidates, 0, 1),
        num_groups=1,
        share=lambda sizes: num_samples[:, None],
        num_grouped=num_samples,
        floor=tf.zeros_like(candidates),
        num_floor=tf.zeros_like(num_samples),
    )


def iou_pool(
    max_ious,
    candidates,
    num_samples,
    num_bins=3,
    floor_threshold=-1.0,
    floor_fraction=0.0,
    bin_range="candidates",
    iou_limit=None,
):
    """The pool of `sample_iou_balanced`, whose groups are the bins.

    Args:
      max_ious: As in `sample_iou_balanced`.
      candidates: As in `sample_iou_balanced`.
      num_samples: As in `sample_iou_balanced`.
      num_bins: As in `sample_iou_balanced`.
      floor_threshold: As in `sample_iou_balanced`.
      floor_fraction: As in `sample_iou_balanced`.
      bin_range: As in `sample_iou_balanced`.
      iou_limit: As in `sample_iou_balanced`.

    Returns:
      A `libra_tf.ops.pools.Pool`.
    """
    max_ious = tf.cast(max_ious, tf.float32)
    max_ious = tf.where(tf.math.is_nan(max_ious), tf.zeros_like(max_ious), max_ious)
    num_samples = _per_row(candidates, num_samples)
    floor = candidates & _is_floor(max_ious, floor_threshold)
    balanced = candidates & ~floor
    # In float64, as Python computes it: 10 * (1 - 0.9) is 0 in float32.
    wanted = tf.cast(tf.cast(num_samples, tf.float64) * (1 - floor_fraction), tf.int32)
    num_balanced = _count(balanced)
    num_floor = tf.minimum(_count(floor), num_samples - tf.minimum(num_balanced, wanted))
    top = _top_of_bins(max_ious, candidates, bin_range, iou_limit)
    bins = _bin_indices(max_ious, floor_threshold, top, num_bins)
    return pools.Pool(
        groups=tf.where(balanced, bins, num_bins),
        num_groups=num_bins,
        share=lambda sizes: (wanted // num_bins)[:, None],
        num_grouped=tf.minimum(num_balanced, num_samples - num_floor),
        floor=floor,
        num_floor=num_floor,
    )


def instance_pool(instance_ids, candidates, num_samples, max_instances):
    """The pool of `sample_instance_balanced`, whose groups are the instances.

    Args:
      instance_ids: As in `sample_instance_balanced`.
      candidates: As in `sample_instance_balanced`.
      num_samples: As in `sample_instance_balanced`.
      max_instances: As in `sample_instance_balanced`.

    Returns:
      A `libra_tf.ops.pools.Pool`.
    """
    num_samples = _per_row(candidates, num_samples)

    def share(sizes):
        num_instances = tf.maximum(_count(sizes > 0), 1)
        # tf.round rounds halves to even, as Python does.
        return tf.cast(tf.round(num_samples / num_instances), tf.int32)[:, None] + 1

    # A group that there is not would break the quotas.
    instance_ids = tf.clip_by_value(tf.cast(instance_ids, tf.int32), 0, max_instances - 1)
    return pools.Pool(
        groups=tf.where(candidates, instance_ids, max_instances),
        num_groups=max_instances,
        share=share,
        num_grouped=num_samples,
        floor=tf.zeros_like(candidates),
        num_floor=tf.zeros_like(num_samples),
    )


def _validated_candidates(candidates):
    candidates = tf.convert_to_tensor(candidates)
    if candidates.dtype != tf.bool or candidates.shape.rank != 2:
        raise ValueError(
            "`candidates` must be a bool tensor [B, N], got one of shape "
            f"{candidates.shape} and type {candidates.dtype.name}."
        )
    if (candidates.shape[1] or 0) > pools.MAX_CANDIDATES:
        raise ValueError(
            f"There are {candidates.shape[1]} candidates a row; at most {pools.MAX_CANDIDATES} "
            "can be sampled from."
        )
    return candidates


def _per_row(candidates, num_samples):
    """`num_samples`, an int or [B], as an int32 tensor [B]."""
    return tf.broadcast_to(tf.cast(num_samples, tf.int32), tf.shape(candidates)[:1])


def _count(mask):
    return tf.reduce_sum(tf.cast(mask, tf.int32), axis=1)


def _is_floor(max_ious, floor_threshold):
    if floor_threshold > 0:
        return max_ious < floor_threshold
    # An IoU is never negative: a threshold of -1 leaves the floor empty.
    return tf.maximum(max_ious, 0) <= floor_threshold


def _top_of_bins(max_ious, candidates, bin_range, iou_limit):
    """Upper end of the bins of each row, broadcastable to [B, 1]."""
    if bin_range == "all":
        return tf.reduce_max(max_ious, axis=1, keepdims=True)
    if iou_limit is not None:
        return tf.constant(iou_limit, max_ious.dtype, [1, 1])
    of_candidates = tf.where(candidates, max_ious, tf.zeros_like(max_ious))
    return tf.reduce_max(of_candidates, axis=1, keepdims=True)


def _bin_indices(max_ious, floor_threshold, top, num_bins):
    """The bin in [0, num_bins) of every IoU; the outer bins are open to the outside."""
    bottom = max(floor_threshold, 0.0)
    width = (tf.maximum(top, bottom) - bottom) / num_bins
    inner_edges = bottom + tf.range(1, num_bins, dtype=max_ious.dtype) * width
    inner_edges = tf.broadcast_to(inner_edges, [tf.shape(max_ious)[0], num_bins - 1])
    return tf.searchsorted(inner_edges, max_ious, side="right")
