"""Random draws from pools of candidates. Each draw is implemented as a sort.

A pool says over which groups its candidates are drawn evenly, and how a shortfall is filled.

An example: 4 of the candidates a, b, c, d in bin 0 and e in bin 1, so 2 of each bin.

* The first sort puts each bin in random order, say `c a d b | e`. Bin 0 gives its first two, c and
  a. Bin 1 gives e, which is all it has. One is missing.
* The second sort puts what was drawn evenly before the rest of the bins, each in a new random
  order, say `e c a | d b`. All of the first part is taken, and one of the second: e, c, a and d.
  Candidates of the floor would be a third part.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import TypeAlias

import tensorflow as tf

# The int64 sort keys of `_RandomOrder` are -group | random | reversed index, with 18 bits for the
# group.
_NUM_RANDOM = 2**24
MAX_CANDIDATES = 2**21
# The parts of a pool in the second order: what is drawn evenly over the groups, what else is in
# them, and the floor.
_EVEN, _REST, _FLOOR = range(3)
_NUM_PARTS = 3

Seed: TypeAlias = int | Sequence[int] | tf.Tensor


@dataclasses.dataclass(frozen=True)
class Pool:
    """Candidates to draw evenly over groups, with a shortfall filled at random.

    Attributes:
      groups: int32 `[B, N]`, the group of each candidate, in `[0, num_groups)`; `num_groups` for
        elements that are not drawn evenly.
      num_groups: the number G of groups, an int or an int scalar.
      share: maps the sizes of the groups, int32 `[B, G]`, to how many elements each group gives,
        int32, broadcastable to `[B, G]`.
      num_grouped: int32 `[B]`, how many elements the groups give in total.
      floor: bool `[B, N]`, candidates outside the groups.
      num_floor: int32 `[B]`, how many elements the floor gives.
    """

    groups: tf.Tensor
    num_groups: int | tf.Tensor
    share: Callable[[tf.Tensor], tf.Tensor]
    num_grouped: tf.Tensor
    floor: tf.Tensor
    num_floor: tf.Tensor


def draw_once(candidates: tf.Tensor, num_samples: tf.Tensor, seed: Seed | None = None) -> tf.Tensor:
    """Draws at random, in one sort.

    Args:
      candidates: bool `[B, N]`.
      num_samples: int32 `[B]`.
      seed: as in `libra_tf.ops.sample_random`.

    Returns:
      bool `[B, N]`, what is drawn.
    """
    (noise,) = _noise(candidates, 1, seed)
    return _RandomOrder(tf.where(candidates, 0, 1), 1, noise).take(num_samples[:, None])


def draw_mask(pool: Pool, seed: Seed | None = None) -> tf.Tensor:
    """Draws from one pool.

    Args:
      pool: what to draw.
      seed: as in `libra_tf.ops.sample_random`.

    Returns:
      bool `[B, N]`, what is drawn.
    """
    order, quotas = _draw([pool], tf.zeros_like(pool.groups), 0, seed)
    return order.take(quotas)


def draw_indices(
    pools: Sequence[Pool],
    num_samples: int,
    others: tf.Tensor,
    num_others: int,
    seed: Seed | None = None,
    row_keys: tf.Tensor | None = None,
) -> tf.Tensor:
    """Draws from several pools at once, in the two sorts that one pool takes.

    If the pools give fewer than `num_samples`, elements in no pool come next, in the order of
    `others` and then of their index, and after those whatever is left in the pools.

    Args:
      pools: what to draw; no element may be in two of them.
      num_samples: how many indices to return per row.
      others: int32 `[B, N]` in `[0, num_others)`, the priority of an element in no pool; lower
        numbers come first.
      num_others: the number of priorities.
      seed: as in `libra_tf.ops.sample_random`.
      row_keys: int32 `[B]`. The draw of a row then depends only on the seed and the row's key, not
        on its place in the batch: it is the same on one device and on several. None: it depends on
        the place.

    Returns:
      int32 `[B, num_samples]`, distinct indices in `[0, N)`; N must be at least `num_samples`.
    """
    order, quotas = _draw(pools, others, num_others, seed, row_keys)
    taken = tf.minimum(tf.concat([quotas, order.sizes[:, -num_others:]], axis=1), order.sizes)
    starts = tf.concat([order.starts, order.starts + taken], axis=1)
    lengths = tf.concat([taken, order.sizes - taken], axis=1)
    return order.elements(_join_ranges(starts, lengths, num_samples))


def draw_priorities(
    elements: tf.Tensor, num_draws: int, seed: Seed | None = None, row_keys: tf.Tensor | None = None
) -> tf.Tensor:
    """Draws random numbers, independent of what the same seed draws from pools.

    Args:
      elements: a tensor `[B, N]`, of which only the shape matters.
      num_draws: how many independent draws to return.
      seed: as in `libra_tf.ops.sample_random`.
      row_keys: as in `draw_indices`.

    Returns:
      int64 `[num_draws, B, N]`, uniform in `[0, 2**24)`.
    """
    if seed is not None:
        seed = tf.random.stateless_uniform(
            [2], _seed_pair(seed), minval=None, maxval=None, dtype=tf.int32, alg="philox"
        )
    return tf.stack(_noise(elements, num_draws, seed, row_keys))


def _draw(
    pools: Sequence[Pool],
    others: tf.Tensor,
    num_others: int,
    seed: Seed | None,
    row_keys: tf.Tensor | None = None,
) -> tuple["_RandomOrder", tf.Tensor]:
    """Draws evenly within each pool, then moves what was drawn to the front of a second order.

    Returns:
      The second order, whose groups are the parts of each pool (`_EVEN`, `_REST`, `_FLOOR`)
      followed by `num_others` more, and how many elements to take from the parts of the pools,
      int32 `[B, 3 * number of pools]`.
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

    num_pooled = _NUM_PARTS * len(pools)
    groups, quotas = num_pooled + others, []
    for index, (pool, share) in enumerate(zip(pools, shares, strict=True)):
        own = _NUM_PARTS * index
        grouped = tf.where(is_even, own + _EVEN, own + _REST)
        groups = tf.where(pool.floor, own + _FLOOR, groups)
        groups = tf.where(pool.groups < pool.num_groups, grouped, groups)
        num_even = tf.minimum(tf.reduce_sum(share, axis=1), pool.num_grouped)
        # In the order of the parts.
        quotas += [num_even, pool.num_grouped - num_even, pool.num_floor]
    fill_noise = tf.where(groups < num_pooled, fill_noise, 0)  # The others keep their order.
    return _RandomOrder(groups, num_pooled + num_others, fill_noise), tf.stack(quotas, axis=1)


def _join_ranges(starts: tf.Tensor, lengths: tf.Tensor, num_elements: int) -> tf.Tensor:
    """Joins ranges `[B, R]` end to end; returns the first elements, `[B, num_elements]`."""
    ends = tf.cumsum(lengths, axis=1)
    position = tf.broadcast_to(tf.range(num_elements), [tf.shape(ends)[0], num_elements])
    current = tf.searchsorted(ends, position, side="right")
    return position + tf.gather(starts - (ends - lengths), current, batch_dims=1)


def _noise(
    elements: tf.Tensor, num_draws: int, seed: Seed | None, row_keys: tf.Tensor | None = None
) -> list[tf.Tensor]:
    """Returns random numbers int64 `[B, N]`, for each of `num_draws` independent orders."""
    if seed is None:
        seed = tf.random.uniform([2], maxval=tf.int32.max, dtype=tf.int32)
    else:
        seed = _seed_pair(seed)
    num_rows, num_columns = tf.unstack(tf.shape(elements))
    shape = [num_draws, num_rows if row_keys is None else 1, num_columns]
    # One algorithm everywhere: TensorFlow's default choice depends on the device.
    noise = tf.random.stateless_uniform(shape, seed, 0, _NUM_RANDOM, tf.int32, alg="philox")
    if row_keys is not None:
        # The rows share the numbers; shifted around a circle, they remain uniform.
        noise = tf.bitwise.bitwise_and(noise + row_keys[:, None], _NUM_RANDOM - 1)
    return tf.unstack(tf.cast(noise, tf.int64), num=num_draws)


def _seed_pair(seed: Seed) -> tf.Tensor:
    """Returns a seed as int32 `[2]`."""
    seed = tf.cast(seed, tf.int32)
    return tf.stack([seed, 0]) if seed.shape.rank == 0 else seed


class _RandomOrder:
    """The elements of each row in random order within their group.

    Args:
      groups: int32 `[B, N]`, the group of each element; those in `[0, num_groups)` can be taken.
      num_groups: the number G of groups, an int or an int scalar.
      noise: int64 `[B, N]`, random numbers in `[0, _NUM_RANDOM)`.

    Attributes:
      sizes: int32 `[B, G]`, the number of elements of each group.
      starts: int32 `[B, G]`, where each group starts in the order.
    """

    def __init__(self, groups: tf.Tensor, num_groups: int | tf.Tensor, noise: tf.Tensor) -> None:
        # Sorted by group, then at random, then by index, which makes the keys distinct and hence
        # the counts exact. Descending, as TensorFlow sorts; ascending takes three more operations.
        index = tf.range(MAX_CANDIDATES - 1, MAX_CANDIDATES - 1 - tf.shape(groups)[1], -1)
        major = noise - tf.cast(groups, tf.int64) * _NUM_RANDOM
        self._keys = major * MAX_CANDIDATES + tf.cast(index, tf.int64)
        self._ordered = tf.sort(self._keys, axis=1, direction="DESCENDING")
        self._groups = tf.minimum(groups, num_groups)
        self.sizes = _group_sizes(self._groups, num_groups)
        self.starts = tf.cumsum(self.sizes, axis=1, exclusive=True)

    def take(self, quotas: tf.Tensor) -> tf.Tensor:
        """Takes the first elements of every group.

        Args:
          quotas: int32, broadcastable to `[B, G]`, how many to take from each group. A smaller
            group gives all it has.

        Returns:
          bool `[B, N]`, what is taken.
        """
        taken = tf.maximum(tf.minimum(quotas, self.sizes), 0)
        last = tf.maximum(self.starts + taken - 1, 0)
        # One more column, because a row without elements must have one to look up.
        last_key = tf.gather(tf.pad(self._ordered, [[0, 0], [0, 1]]), last, batch_dims=1)
        limits = tf.where(taken > 0, last_key, tf.int64.max)
        # One more column for elements that cannot be taken.
        limits = tf.pad(limits, [[0, 0], [0, 1]], constant_values=tf.int64.max)
        return self._keys >= tf.gather(limits, self._groups, batch_dims=1)

    def elements(self, positions: tf.Tensor) -> tf.Tensor:
        """Returns the indices int32 `[B, K]` of the elements at positions `[B, K]` of the order."""
        keys = tf.gather(self._ordered, positions, batch_dims=1)
        reversed_index = tf.cast(tf.bitwise.bitwise_and(keys, MAX_CANDIDATES - 1), tf.int32)
        return MAX_CANDIDATES - 1 - reversed_index


def _group_sizes(groups: tf.Tensor, num_groups: int | tf.Tensor) -> tf.Tensor:
    """Returns how many elements each group in `[0, num_groups)` has, int32 `[B, num_groups]`."""
    batch = tf.shape(groups)[0]
    segments = groups + tf.range(batch)[:, None] * (num_groups + 1)
    counts = tf.math.unsorted_segment_sum(
        tf.ones_like(segments), segments, batch * (num_groups + 1)
    )
    return tf.reshape(counts, [batch, num_groups + 1])[:, :-1]
