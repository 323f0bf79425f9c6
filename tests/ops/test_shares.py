import collections

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from libra_tf.ops import shares

pytestmark = pytest.mark.one_lane

NUM_GROUPS = 7
SIZES = st.lists(st.integers(0, 9), min_size=NUM_GROUPS, max_size=NUM_GROUPS)
PRIORITIES = st.lists(st.integers(0, 3), min_size=NUM_GROUPS, max_size=NUM_GROUPS)
CLASSES = st.lists(st.sampled_from([-1, 1, 2, 900]), min_size=NUM_GROUPS, max_size=NUM_GROUPS)

share_evenly = tf.function(shares.share_evenly)
share_over_classes = tf.function(shares.share_over_classes)


def one_by_one(sizes, total, priorities):
    """Gives one after the other to a group that has least and is not exhausted."""
    given_so_far = [0] * len(sizes)
    for _ in range(min(total, sum(sizes))):
        able = [g for g in range(len(sizes)) if given_so_far[g] < sizes[g]]
        chosen = min(able, key=lambda g: (given_so_far[g], -priorities[g], g))
        given_so_far[chosen] += 1
    return given_so_far


@given(st.tuples(SIZES, SIZES), st.tuples(st.integers(0, 70), st.integers(0, 70)), PRIORITIES)
@settings(deadline=None, max_examples=200)
def test_sharing_is_giving_one_after_the_other(sizes, totals, priorities):
    shared = share_evenly(
        tf.constant(sizes), tf.constant(totals), tf.constant([priorities] * 2, tf.int64)
    )
    for row, size, total in zip(shared.numpy(), sizes, totals, strict=True):
        assert row.tolist() == one_by_one(size, total, priorities)


@given(SIZES, CLASSES, st.integers(0, 70), st.tuples(PRIORITIES, PRIORITIES))
@settings(deadline=None, max_examples=200)
def test_classes_share_first_and_then_the_instances_of_each(sizes, classes, total, priorities):
    (row,) = share_over_classes(
        tf.constant([sizes]),
        tf.constant([classes]),
        tf.constant([total]),
        tf.constant(priorities, tf.int64)[:, None],
    ).numpy()
    members = collections.defaultdict(list)
    for instance, label in enumerate(classes):
        members[label].append(instance)
    # The first instance of a class has the priority of the class.
    of_classes = one_by_one(
        [sum(sizes[i] for i in instances) for instances in members.values()],
        total,
        [priorities[0][instances[0]] for instances in members.values()],
    )
    for instances, number in zip(members.values(), of_classes, strict=True):
        expected = one_by_one(
            [sizes[i] for i in instances], number, [priorities[1][i] for i in instances]
        )
        assert row[instances].tolist() == expected


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("num_groups", [0, 1])
def test_few_groups(num_groups, jit_compile):
    share = tf.function(shares.share_over_classes, jit_compile=jit_compile)
    sizes = tf.fill([2, num_groups], 5)
    priorities = tf.zeros([2, 2, num_groups], tf.int64)
    shared = share(sizes, tf.ones_like(sizes), tf.constant([3, 9]), priorities)
    np.testing.assert_array_equal(shared, np.array([[3], [5]])[:, :num_groups])
