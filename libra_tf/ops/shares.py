"""Fair division: a total is shared out over groups of limited size, as evenly as the sizes allow.

What a small group cannot give is shared out over the others in the same way. This is max-min
fairness (Bertsekas and Gallager, Data Networks, 1992, section 6.5.2) in whole numbers.
"""

import tensorflow as tf


def share_evenly(sizes: tf.Tensor, totals: tf.Tensor, priorities: tf.Tensor) -> tf.Tensor:
    """Shares a total out over groups.

    Args:
      sizes: int32 `[B, G]`, how much each group can give, not negative.
      totals: int32 `[B]`, how much all groups of a row give, not negative.
      priorities: int64 `[B, G]` in `[0, 2**31)`. Of groups with equal claims to a remainder, those
        with the largest give one more; equal ones in the order of their index.

    Returns:
      int32 `[B, G]`. Each row sums to min(`totals`, sum of `sizes`). Of two groups in a row, one
      gives at most one more than the other, unless the other gives all it has.
    """
    totals = tf.minimum(totals, tf.reduce_sum(sizes, axis=1))[:, tf.newaxis]
    levels = tf.minimum(sizes, _level(sizes, totals))
    remainders = totals - tf.reduce_sum(levels, axis=1, keepdims=True)
    return levels + tf.cast(_is_first(priorities, levels < sizes, remainders), tf.int32)


def share_over_classes(
    sizes: tf.Tensor, classes: tf.Tensor, totals: tf.Tensor, priorities: tf.Tensor
) -> tf.Tensor:
    """Shares a total out over classes, and the share of each class over its instances.

    Args:
      sizes: int32 `[B, M]`, how much each instance can give, not negative.
      classes: int `[B, M]`, the class of each instance.
      totals: int32 `[B]`, how much all instances of a row give, not negative.
      priorities: int64 `[2, B, M]` in `[0, 2**31)`, for the remainders over classes and over
        instances, as in `share_evenly`.

    Returns:
      int32 `[B, M]`: `share_evenly` holds for the sums of the classes in a row, and for the
      instances of a class.
    """
    is_same = tf.equal(classes[:, :, tf.newaxis], classes[:, tf.newaxis, :])
    num_instances = tf.shape(sizes)[1]
    index = tf.range(num_instances)
    # The first instance of a class stands for it, whatever numbers classes have.
    is_earlier = index[tf.newaxis, :] < index[:, tf.newaxis]
    stands_for_class = ~tf.reduce_any(is_same & is_earlier, axis=2)
    sizes_in_class = tf.where(is_same, sizes[:, tf.newaxis, :], 0)
    class_sizes = tf.where(stands_for_class, tf.reduce_sum(sizes_in_class, axis=2), 0)
    class_shares = share_evenly(class_sizes, totals, priorities[0])
    shares_of_own = tf.reduce_sum(tf.where(is_same, class_shares[:, tf.newaxis, :], 0), axis=2)
    # Every instance shares out the part of its class, and takes what is its own.
    per_instance = [tf.size(sizes), num_instances]
    shares = share_evenly(
        tf.reshape(sizes_in_class, per_instance),
        tf.reshape(shares_of_own, [-1]),
        tf.reshape(tf.repeat(priorities[1], num_instances, axis=0), per_instance),
    )
    return tf.linalg.diag_part(tf.reshape(shares, tf.shape(sizes_in_class)))


def _level(sizes: tf.Tensor, totals: tf.Tensor) -> tf.Tensor:
    """Returns the largest number of which no group need give more, int32 `[B, 1]`.

    Groups smaller than that give all they have.
    """
    largest_first = tf.sort(sizes, axis=1, direction="DESCENDING")
    of_smaller = tf.reduce_sum(sizes, axis=1, keepdims=True) - tf.cumsum(largest_first, axis=1)
    num_larger = tf.range(1, tf.shape(sizes)[1] + 1)
    return tf.reduce_max((totals - of_smaller) // num_larger, axis=1, keepdims=True)


def _is_first(priorities: tf.Tensor, eligible: tf.Tensor, numbers: tf.Tensor) -> tf.Tensor:
    """Returns the eligible elements of largest priority, bool `[B, G]`.

    Args:
      priorities: int64 `[B, G]`.
      eligible: bool `[B, G]`.
      numbers: int32 `[B, 1]`, how many of each row, at most as many as are eligible.
    """
    num_groups = tf.shape(priorities, tf.int64)[1]
    # The index makes the keys distinct, and hence the numbers exact.
    keys = priorities * num_groups + tf.range(num_groups - 1, -1, -1)
    keys = tf.where(eligible, keys, -1)
    ordered = tf.sort(keys, axis=1, direction="DESCENDING")
    # One more column, because a row without groups must have one to look up.
    last = tf.gather(tf.pad(ordered, [[0, 0], [0, 1]]), tf.maximum(numbers - 1, 0), batch_dims=1)
    return eligible & (numbers > 0) & (keys >= last)
