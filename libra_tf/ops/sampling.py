"""Choice of training samples, the sample level of Libra R-CNN (section 3.1 of the paper).

Everything here is a random subset of a given size from each of several groups, drawn once (random),
or drawn evenly first and filled up at random then (by IoU, by instance).
"""

import tensorflow as tf

BIN_RANGES = ("candidates", "all")

# The int64 sort keys of `_RandomOrder` are group | random | index, with 18 bits for the group.
_NUM_RANDOM = 2**24
_NUM_INDICES = 2**21


def sample_random(candidates, num_samples, seed=None):
    """Samples candidates uniformly at random.

    Args:
      candidates: Bool tensor [B, N], what may be sampled.
      num_samples: Int or int tensor [B], how many to sample.
      seed: None for a new draw each time (repeatable with `tf.random.set_seed`); an int or an int
        tensor [2] for the same draw each time.

    Returns:
      Bool tensor [B, N] with exactly min(num_samples, number of candidates) True in each row, all
      of them candidates.

    Raises:
      ValueError: If `candidates` is not a bool tensor of rank 2.
    """
    candidates = _validated_candidates(candidates)
    (noise,) = _noise(candidates, 1, seed)
    order = _RandomOrder(tf.where(candidates, 0, 1), 1, noise)
    return order.take(_per_row(candidates, num_samples)[:, None])


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
      iou_limit: Float, the upper end of the bins, such as the IoU below which a box is negative.
        None: the largest IoU of a candidate in the row. The last bin holds what lies above, too.
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
    max_ious = tf.where(tf.math.is_nan(max_ious), tf.zeros_like(max_ious), max_ious)
    num_samples = _per_row(candidates, num_samples)
    in_floor = candidates & _is_floor(max_ious, floor_threshold)
    balanced = candidates & ~in_floor
    # In float64, as Python computes it: 10 * (1 - 0.9) is 0 in float32.
    wanted_balanced = tf.cast(
        tf.cast(num_samples, tf.float64) * (1 - floor_fraction), num_samples.dtype
    )
    num_balanced, num_floor = _count(balanced), _count(in_floor)
    take_floor = tf.minimum(num_floor, num_samples - tf.minimum(num_balanced, wanted_balanced))
    take_balanced = tf.minimum(num_balanced, num_samples - take_floor)

    even_noise, fill_noise = _noise(candidates, 2, seed)
    top = _top_of_bins(max_ious, candidates, bin_range, iou_limit)
    bins = tf.where(balanced, _bin_indices(max_ious, floor_threshold, top, num_bins), num_bins)
    even = _RandomOrder(bins, num_bins, even_noise).take((wanted_balanced // num_bins)[:, None])

    groups = tf.where(balanced & ~even, 0, tf.where(in_floor, 1, 2))
    quotas = tf.stack([take_balanced - _count(even), take_floor], axis=1)
    return even | _RandomOrder(groups, 2, fill_noise).take(quotas)


def sample_instance_balanced(instance_ids, candidates, num_samples, max_instances, seed=None):
    """Samples candidates (positives) evenly over the instances that they belong to.

    Each of the n instances that have candidates gives round(num_samples / n) + 1 of its own at
    random; an excess is thinned out at random, a shortfall filled at random from the other
    candidates (section 3.1 of the paper; the rounding is MMDetection's).

    Args:
      instance_ids: Int tensor [B, N], the instance of each box, in [0, max_instances) for
        candidates.
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
    num_samples = _per_row(candidates, num_samples)
    even_noise, fill_noise = _noise(candidates, 2, seed)

    instances = tf.where(candidates, tf.cast(instance_ids, tf.int32), max_instances)
    order = _RandomOrder(instances, max_instances, even_noise)
    num_instances = tf.maximum(_count(order.sizes > 0), 1)
    # tf.round rounds halves to even, as Python does.
    share = tf.cast(tf.round(num_samples / num_instances), tf.int32) + 1
    even = order.take(share[:, None])

    take_even = tf.minimum(_count(even), num_samples)
    groups = tf.where(even, 0, tf.where(candidates, 1, 2))
    quotas = tf.stack([take_even, num_samples - take_even], axis=1)
    return _RandomOrder(groups, 2, fill_noise).take(quotas)


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


def _validated_candidates(candidates):
    candidates = tf.convert_to_tensor(candidates)
    if candidates.dtype != tf.bool or candidates.shape.rank != 2:
        raise ValueError(
            "`candidates` must be a bool tensor [B, N], got one of shape "
            f"{candidates.shape} and type {candidates.dtype.name}."
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
    reached = max_ious[:, :, None] >= inner_edges[:, None, :]
    return tf.reduce_sum(tf.cast(reached, tf.int32), axis=2)


def _noise(candidates, num_draws, seed):
    """Random numbers for `num_draws` independent orders of the candidates, each int64 [B, N]."""
    if seed is None:
        seed = tf.random.uniform([2], maxval=tf.int32.max, dtype=tf.int32)
    elif not tf.is_tensor(seed) or seed.shape.rank == 0:
        seed = tf.stack([tf.cast(seed, tf.int32), 0])
    shape = tf.concat([[num_draws], tf.shape(candidates)], axis=0)
    noise = tf.random.stateless_uniform(shape, seed, 0, _NUM_RANDOM, tf.int32)
    return tf.unstack(tf.cast(noise, tf.int64), num=num_draws)


class _RandomOrder:
    """The elements of each row in random order within their group.

    Args:
      groups: Int32 tensor [B, N], the group of each element; those in [0, num_groups) can be taken.
      num_groups: Int, the number G of groups.
      noise: Int64 tensor [B, N] of random numbers in [0, _NUM_RANDOM).
    """

    def __init__(self, groups, num_groups, noise):
        # Sorted by group, then at random; the index makes the keys distinct, hence the counts
        # exact.
        index = tf.range(tf.shape(groups)[1], dtype=tf.int64)
        keys = (tf.cast(groups, tf.int64) * _NUM_RANDOM + noise) * _NUM_INDICES + index
        starts = tf.range(num_groups + 1, dtype=tf.int64) * (_NUM_RANDOM * _NUM_INDICES)
        self._groups = tf.minimum(groups, num_groups)
        self._keys = keys
        self._ordered = tf.sort(keys, axis=1)
        bounds = tf.searchsorted(
            self._ordered, tf.broadcast_to(starts, [tf.shape(groups)[0], num_groups + 1])
        )
        self._first = bounds[:, :-1]
        self.sizes = bounds[:, 1:] - bounds[:, :-1]

    def take(self, quotas):
        """Takes the first of every group.

        Args:
          quotas: Int32 tensor broadcastable to [B, G], how many to take of each group; all of a
            smaller group.

        Returns:
          Bool tensor [B, N].
        """
        taken = tf.maximum(tf.minimum(quotas, self.sizes), 0)
        last = tf.maximum(self._first + taken - 1, 0)
        last_key = tf.gather(self._ordered, last, batch_dims=1)
        limits = tf.where(taken > 0, last_key, -1)
        # One more column for what cannot be taken.
        limits = tf.pad(limits, [[0, 0], [0, 1]], constant_values=-1)
        return self._keys <= tf.gather(limits, self._groups, batch_dims=1)
