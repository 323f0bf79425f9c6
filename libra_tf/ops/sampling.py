"""Choice of training samples, the sample level of Libra R-CNN (section 3.1 of the paper).

Everything here is a random subset of a given size from each of several groups, drawn once (random),
or drawn evenly first and filled up at random then (by IoU, by instance). A draw is a sort.
"""

import collections.abc
import dataclasses

import tensorflow as tf

BIN_RANGES = ("candidates", "all")

# The int64 sort keys of `_RandomOrder` are -group | random | reversed index, with 18 bits for the
# group.
_NUM_RANDOM = 2**24
_NUM_INDICES = 2**21


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
    return _draw_mask(pool, seed)


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
    pool = instance_pool(instance_ids, candidates, num_samples, max_instances)
    return _draw_mask(pool, seed)


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


@dataclasses.dataclass(frozen=True)
class Pool:
    """Candidates that are drawn evenly over groups first, and filled up at random then.

    Attributes:
      groups: Int32 tensor [B, N], the group of each candidate, in [0, num_groups); num_groups for
        what is not drawn evenly.
      num_groups: Int or scalar int tensor, the number G of groups.
      share: Function of the sizes of the groups, int32 [B, G], to how many each group gives,
        int32 [B, 1].
      num_grouped: Int32 tensor [B], how many are taken of the groups altogether.
      floor: Bool tensor [B, N], candidates outside of the groups.
      num_floor: Int32 tensor [B], how many of those are taken.
    """

    groups: tf.Tensor
    num_groups: int | tf.Tensor
    share: collections.abc.Callable[[tf.Tensor], tf.Tensor]
    num_grouped: tf.Tensor
    floor: tf.Tensor
    num_floor: tf.Tensor


def random_pool(candidates, num_samples):
    """The pool of `sample_random`.

    Args:
      candidates: As in `sample_random`.
      num_samples: As in `sample_random`.

    Returns:
      A `Pool`.
    """
    num_samples = _per_row(candidates, num_samples)
    return Pool(
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
      A `Pool`.
    """
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
    return Pool(
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
      A `Pool`.
    """
    num_samples = _per_row(candidates, num_samples)

    def share(sizes):
        num_instances = tf.maximum(_count(sizes > 0), 1)
        # tf.round rounds halves to even, as Python does.
        return tf.cast(tf.round(num_samples / num_instances), tf.int32)[:, None] + 1

    return Pool(
        groups=tf.where(candidates, tf.cast(instance_ids, tf.int32), max_instances),
        num_groups=max_instances,
        share=share,
        num_grouped=num_samples,
        floor=tf.zeros_like(candidates),
        num_floor=tf.zeros_like(num_samples),
    )


def draw_indices(pools, num_samples, others, num_others, seed=None):
    """Draws from several pools at once, in the two sorts that one pool takes.

    Where the pools give fewer than `num_samples`, what is in no pool comes next, in the order of
    `others` and then of the index, and after that what the pools have left.

    Args:
      pools: List of `Pool`s without an element in common.
      num_samples: Int, how many indices to return.
      others: Int32 tensor [B, N] in [0, num_others), when to fill up with an element that is in no
        pool; lower numbers come first.
      num_others: Int.
      seed: As in `sample_random`.

    Returns:
      Int32 tensor [B, num_samples] of distinct indices in [0, N); N must be at least that large.
    """
    order, quotas = _draw(pools, others, num_others, seed)
    taken = tf.minimum(tf.concat([quotas, order.sizes[:, -num_others:]], axis=1), order.sizes)
    starts = tf.concat([order.starts, order.starts + taken], axis=1)
    lengths = tf.concat([taken, order.sizes - taken], axis=1)
    return order.elements(_join_ranges(starts, lengths, num_samples))


def _draw_mask(pool, seed):
    order, quotas = _draw([pool], tf.zeros_like(pool.groups), 0, seed)
    return order.take(quotas)


def _draw(pools, others, num_others, seed):
    """Draws evenly within each pool, then puts what is taken first in a second random order.

    Returns:
      The order, of three groups per pool (drawn evenly, the rest of the groups, the floor) and
      `num_others` more, and how many to take of the pools' groups, int32 [B, 3 * number of pools].
    """
    even_noise, fill_noise = _noise(others, 2, seed)
    num_groups = sum(pool.num_groups for pool in pools)
    groups, first = num_groups, 0
    for pool in pools:
        groups = tf.where(pool.groups < pool.num_groups, first + pool.groups, groups)
        first += pool.num_groups
    order = _RandomOrder(groups, num_groups, even_noise)
    sizes = tf.split(order.sizes, [pool.num_groups for pool in pools], axis=1)
    shares = [tf.minimum(pool.share(size), size) for pool, size in zip(pools, sizes, strict=True)]
    is_even = order.take(tf.concat(shares, axis=1))

    groups, quotas = 3 * len(pools) + others, []
    for index, (pool, share) in enumerate(zip(pools, shares, strict=True)):
        grouped = tf.where(is_even, 3 * index, 3 * index + 1)
        groups = tf.where(pool.floor, 3 * index + 2, groups)
        groups = tf.where(pool.groups < pool.num_groups, grouped, groups)
        num_even = tf.minimum(tf.reduce_sum(share, axis=1), pool.num_grouped)
        quotas += [num_even, pool.num_grouped - num_even, pool.num_floor]
    num_pooled = 3 * len(pools)
    fill_noise = tf.where(groups < num_pooled, fill_noise, 0)  # The others stay as they come.
    return _RandomOrder(groups, num_pooled + num_others, fill_noise), tf.stack(quotas, axis=1)


def _join_ranges(starts, lengths, num_elements):
    """The first elements [B, num_elements] of the ranges [B, R], one after the other."""
    ends = tf.cumsum(lengths, axis=1)
    position = tf.broadcast_to(tf.range(num_elements), [tf.shape(ends)[0], num_elements])
    current = tf.searchsorted(ends, position, side="right")
    return position + tf.gather(starts - (ends - lengths), current, batch_dims=1)


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
    inner_edges = tf.broadcast_to(inner_edges, [tf.shape(max_ious)[0], num_bins - 1])
    return tf.searchsorted(inner_edges, max_ious, side="right")


def _noise(candidates, num_draws, seed):
    """Random numbers for `num_draws` independent orders of the candidates, each int64 [B, N]."""
    if seed is None:
        seed = tf.random.uniform([2], maxval=tf.int32.max, dtype=tf.int32)
    elif not tf.is_tensor(seed) or seed.shape.rank == 0:
        seed = tf.stack([tf.cast(seed, tf.int32), 0])
    shape = tf.concat([[num_draws], tf.shape(candidates)], axis=0)
    # One algorithm everywhere: what TensorFlow chooses by itself depends on the device.
    noise = tf.random.stateless_uniform(shape, seed, 0, _NUM_RANDOM, tf.int32, alg="philox")
    return tf.unstack(tf.cast(noise, tf.int64), num=num_draws)


class _RandomOrder:
    """The elements of each row in random order within their group.

    Args:
      groups: Int32 tensor [B, N], the group of each element; those in [0, num_groups) can be taken.
      num_groups: Int or scalar int tensor, the number G of groups.
      noise: Int64 tensor [B, N] of random numbers in [0, _NUM_RANDOM).

    Attributes:
      sizes: Int32 tensor [B, G], the number of elements of each group.
      starts: Int32 tensor [B, G], where each group starts in the order.
    """

    def __init__(self, groups, num_groups, noise):
        # Sorted by group, then at random, then by index, which makes the keys distinct and hence
        # the counts exact. Descending, as TensorFlow sorts; ascending takes three more operations.
        index = tf.range(_NUM_INDICES - 1, _NUM_INDICES - 1 - tf.shape(groups)[1], -1)
        major = noise - tf.cast(groups, tf.int64) * _NUM_RANDOM
        self._keys = major * _NUM_INDICES + tf.cast(index, tf.int64)
        self._ordered = tf.sort(self._keys, axis=1, direction="DESCENDING")
        self._groups = tf.minimum(groups, num_groups)
        self.sizes = _group_sizes(self._groups, num_groups)
        self.starts = tf.cumsum(self.sizes, axis=1, exclusive=True)

    def take(self, quotas):
        """Takes the first of every group.

        Args:
          quotas: Int32 tensor broadcastable to [B, G], how many to take of each group; all of a
            smaller group.

        Returns:
          Bool tensor [B, N].
        """
        taken = tf.maximum(tf.minimum(quotas, self.sizes), 0)
        last = tf.maximum(self.starts + taken - 1, 0)
        last_key = tf.gather(self._ordered, last, batch_dims=1)
        limits = tf.where(taken > 0, last_key, tf.int64.max)
        # One more column for what cannot be taken.
        limits = tf.pad(limits, [[0, 0], [0, 1]], constant_values=tf.int64.max)
        return self._keys >= tf.gather(limits, self._groups, batch_dims=1)

    def elements(self, positions):
        """Returns the indices int32 [B, K] of the elements at positions [B, K] of the order."""
        keys = tf.gather(self._ordered, positions, batch_dims=1)
        reversed_index = tf.cast(tf.bitwise.bitwise_and(keys, _NUM_INDICES - 1), tf.int32)
        return _NUM_INDICES - 1 - reversed_index


def _group_sizes(groups, num_groups):
    """The number of elements of each group in [0, num_groups), int32 [B, num_groups]."""
    batch = tf.shape(groups)[0]
    segments = groups + tf.range(batch)[:, None] * (num_groups + 1)
    counts = tf.math.unsorted_segment_sum(
        tf.ones_like(segments), segments, batch * (num_groups + 1)
    )
    return tf.reshape(counts, [batch, num_groups + 1])[:, :-1]
