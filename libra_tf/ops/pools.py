"""Random draws from pools of candidates. A draw is a sort.

A pool says which candidates are drawn evenly over which groups, and how a shortfall is filled up.
"""

import collections.abc
import dataclasses

import tensorflow as tf

# The int64 sort keys of `_RandomOrder` are -group | random | reversed index, with 18 bits for the
# group.
_NUM_RANDOM = 2**24
MAX_CANDIDATES = 2**21


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


def draw_once(candidates, num_samples, seed=None):
    """Draws at random, in one sort.

    Args:
      candidates: Bool tensor [B, N].
      num_samples: Int32 tensor [B].
      seed: As in `libra_tf.ops.sample_random`.

    Returns:
      Bool tensor [B, N].
    """
    (noise,) = _noise(candidates, 1, seed)
    return _RandomOrder(tf.where(candidates, 0, 1), 1, noise).take(num_samples[:, None])


def draw_mask(pool, seed=None):
    """Draws from one pool.

    Args:
      pool: A `Pool`.
      seed: As in `libra_tf.ops.sample_random`.

    Returns:
      Bool tensor [B, N].
    """
    order, quotas = _draw([pool], tf.zeros_like(pool.groups), 0, seed)
    return order.take(quotas)


def draw_indices(pools, num_samples, others, num_others, seed=None, row_keys=None):
    """Draws from several pools at once, in the two sorts that one pool takes.

    Where the pools give fewer than `num_samples`, what is in no pool comes next, in the order of
    `others` and then of the index, and after that what the pools have left.

    Args:
      pools: List of `Pool`s without an element in common.
      num_samples: Int, how many indices to return.
      others: Int32 tensor [B, N] in [0, num_others), when to fill up with an element that is in no
        pool; lower numbers come first.
      num_others: Int.
      seed: As in `libra_tf.ops.sample_random`.
      row_keys: Int32 tensor [B] or None. With it the draw of a row depends on the seed and its key
        alone, not on which row it is: the same on one device and on several.

    Returns:
      Int32 tensor [B, num_samples] of distinct indices in [0, N); N must be at least that large.
    """
    order, quotas = _draw(pools, others, num_others, seed, row_keys)
    taken = tf.minimum(tf.concat([quotas, order.sizes[:, -num_others:]], axis=1), order.sizes)
    starts = tf.concat([order.starts, order.starts + taken], axis=1)
    lengths = tf.concat([taken, order.sizes - taken], axis=1)
    return order.elements(_join_ranges(starts, lengths, num_samples))


def _draw(pools, others, num_others, seed, row_keys=None):
    """Draws evenly within each pool, then puts what is taken first in a second random order.

    Returns:
      The order, of three groups per pool (drawn evenly, the rest of the groups, the floor) and
      `num_others` more, and how many to take of the pools' groups, int32 [B, 3 * number of pools].
    """
    even_noise, fill_noise = _noise(others, 2, seed, row_keys)
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


def _noise(elements, num_draws, seed, row_keys=None):
    """Random numbers for `num_draws` independent orders of the elements, each int64 [B, N]."""
    if seed is None:
        seed = tf.random.uniform([2], maxval=tf.int32.max, dtype=tf.int32)
    else:
        seed = tf.cast(seed, tf.int32)
        seed = tf.stack([seed, 0]) if seed.shape.rank == 0 else seed
    num_rows, num_columns = tf.unstack(tf.shape(elements))
    shape = [num_draws, num_rows if row_keys is None else 1, num_columns]
    # One algorithm everywhere: what TensorFlow chooses by itself depends on the device.
    noise = tf.random.stateless_uniform(shape, seed, 0, _NUM_RANDOM, tf.int32, alg="philox")
    if row_keys is not None:
        # Shifted around a circle, uniform numbers are as uniform; the rows share them.
        noise = tf.bitwise.bitwise_and(noise + row_keys[:, None], _NUM_RANDOM - 1)
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
        index = tf.range(MAX_CANDIDATES - 1, MAX_CANDIDATES - 1 - tf.shape(groups)[1], -1)
        major = noise - tf.cast(groups, tf.int64) * _NUM_RANDOM
        self._keys = major * MAX_CANDIDATES + tf.cast(index, tf.int64)
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
        # One more column, which a row without elements has to have.
        last_key = tf.gather(tf.pad(self._ordered, [[0, 0], [0, 1]]), last, batch_dims=1)
        limits = tf.where(taken > 0, last_key, tf.int64.max)
        # One more column for what cannot be taken.
        limits = tf.pad(limits, [[0, 0], [0, 1]], constant_values=tf.int64.max)
        return self._keys >= tf.gather(limits, self._groups, batch_dims=1)

    def elements(self, positions):
        """Returns the indices int32 [B, K] of the elements at positions [B, K] of the order."""
        keys = tf.gather(self._ordered, positions, batch_dims=1)
        reversed_index = tf.cast(tf.bitwise.bitwise_and(keys, MAX_CANDIDATES - 1), tf.int32)
        return MAX_CANDIDATES - 1 - reversed_index


def _group_sizes(groups, num_groups):
    """The number of elements of each group in [0, num_groups), int32 [B, num_groups]."""
    batch = tf.shape(groups)[0]
    segments = groups + tf.range(batch)[:, None] * (num_groups + 1)
    counts = tf.math.unsorted_segment_sum(
        tf.ones_like(segments), segments, batch * (num_groups + 1)
    )
    return tf.reshape(counts, [batch, num_groups + 1])[:, :-1]
