import collections
import dataclasses
import inspect

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from libra_tf import ops
from libra_tf.ops import pools, sampling

pytestmark = pytest.mark.one_lane

# Rows are independent draws: many rows of the same scene are many repetitions.
REPETITIONS = 2000
GOLDEN_SCENES = [
    f"{scene}_thr{options}"
    for scene in ("fewpos_unbalanced1800", "mostlyzero1000", "nogt1100", "skewed1500")
    for options in (
        "-1_frac0_bins3_fresh",
        "-1_frac0_bins3_persistent",
        "0_frac0.25_bins5_persistent",
        "0.1_frac0_bins3_persistent",
        "0.1_frac0.25_bins3_persistent",
    )
]
NUM_CANDIDATES = 24
IOUS = st.sampled_from([0.0, 0.05, 0.1, 0.2, 0.3, 0.49, 0.5, 0.9, float("nan")])
ROWS = st.lists(st.tuples(IOUS, st.booleans()), min_size=NUM_CANDIDATES, max_size=NUM_CANDIDATES)
FLOORS = st.sampled_from([(-1.0, 0.0), (0.0, 0.0), (0.0, 0.5), (0.2, 0.25), (0.2, 1.0)])


def repeat(row, repetitions=REPETITIONS):
    return tf.repeat(tf.constant(row)[None], repetitions, axis=0)


def assert_frequencies(mask, expected):
    """Compares how often each candidate was taken with its probability."""
    frequencies = mask.numpy().mean(0)
    variance = expected * (1 - expected) / len(mask)
    certain = variance < 1e-12
    np.testing.assert_allclose(frequencies[certain], expected[certain])
    z = (frequencies[~certain] - expected[~certain]) / np.sqrt(variance[~certain])
    if z.size:
        assert np.abs(z).max() < 5.5
    if z.size > 100:
        assert abs((z**2).mean() - 1) < 0.25


@pytest.mark.parametrize("scene", GOLDEN_SCENES)
def test_inclusion_probabilities_of_mmdetection(golden_blocks, scene):
    golden = np.load(golden_blocks / f"sampler_{scene}.npz")
    negatives = golden["full_gt_inds"] == 0
    threshold = float(golden["floor_thr"])
    if str(golden["state"]) == "persistent":
        threshold = max(threshold, 0.0)
    # MMDetection's draws differ in their number of negatives, because positives can fall short.
    wanted = np.resize(golden["num_neg"], REPETITIONS)
    tf.random.set_seed(1)
    mask = ops.sample_iou_balanced(
        repeat(golden["full_max_overlaps"]),
        repeat(negatives),
        wanted,
        int(golden["num_bins"]),
        threshold,
        float(golden["floor_fraction"]),
        bin_range="all",
    )
    np.testing.assert_array_equal(tf.reduce_sum(tf.cast(mask, tf.int32), 1), wanted)
    assert_frequencies(mask, np.where(negatives, golden["expected_inclusion"], 0))


def test_the_largest_iou_of_a_row_is_in_no_bin_of_mmdetection():
    """3 of 9 come from the lowest bin, and 6 at random from the rest, with or without a bin."""
    ious = np.float32([0.1] * 110 + [0.9] * 10)
    mask = ops.sample_iou_balanced(
        repeat(ious), tf.ones([REPETITIONS, 120], tf.bool), 9, bin_range="all", seed=5
    )
    others = 6 / 117
    expected = np.array([3 / 110 + 107 / 110 * others] * 110 + [others] * 10)
    assert_frequencies(mask, expected)


def test_bins_of_the_paper_share_evenly():
    """Bins [0, 1/6), [1/6, 1/3), [1/3, 1/2] of 60, 30 and 2 candidates give 10, 10 and 2 of 30."""
    ious = np.float32([0.1] * 60 + [0.2] * 30 + [0.4] * 2 + [0.9] * 8)
    candidates = ious < 0.5
    tf.random.set_seed(2)
    mask = ops.sample_iou_balanced(repeat(ious), repeat(candidates), 30, iou_limit=0.5)
    # The remaining 8 come from the 70 candidates left, whatever their bin.
    expected = np.concatenate(
        [
            np.full(60, (10 + 8 * 50 / 70) / 60),
            np.full(30, (10 + 8 * 20 / 70) / 30),
            [1] * 2,
            [0] * 8,
        ]
    )
    assert_frequencies(mask, expected)


def test_instances_share_evenly():
    """8 from 3 instances: round(8/3) + 1 = 4 each, but the third has only one."""
    instances = np.int32([0] * 20 + [4] * 6 + [7] + [0] * 5)
    candidates = np.arange(32) < 27
    tf.random.set_seed(3)
    mask = ops.sample_instance_balanced(repeat(instances), repeat(candidates), 8, 10)
    # 4 + 4 + 1 are drawn, and one of the nine is dropped at random.
    share = 8 / 9
    expected = np.concatenate([[share * 4 / 20] * 20, [share * 4 / 6] * 6, [share], [0] * 5])
    assert_frequencies(mask, expected)


def test_instances_fill_a_shortfall_at_random():
    """9 from 4 instances: round(9/4) + 1 = 3 each, so 3 + 1 + 1 + 1, then 3 of the 17 left."""
    instances = np.int32([0] * 20 + [1, 2, 3])
    tf.random.set_seed(4)
    mask = ops.sample_instance_balanced(
        repeat(instances), repeat(np.ones(23, bool)), 9, max_instances=4
    )
    expected = np.concatenate([[(9 - 3) / 20] * 20, [1] * 3])
    assert_frequencies(mask, expected)


def test_classes_share_evenly():
    """7 from 3 classes: 3 from one of the large two, and 2 from each other; then over instances."""
    instances = np.int32([0] * 20 + [1] * 5 + [2] * 6 + [3, 3] + [2] * 2)
    candidates = np.arange(35) < 33
    # The first two instances have the same class.
    classes = tf.repeat([[4, 4, 1, 7, -1]], REPETITIONS, axis=0)
    tf.random.set_seed(8)
    mask = ops.sample_class_balanced(repeat(instances), classes, repeat(candidates), 7).numpy()
    assert (mask[:, instances == 3].sum(1) == 2).all()
    # Each of the two instances gives one, and a third is of either.
    share = 2.5 / 2
    expected = np.concatenate([[share / 20] * 20, [share / 5] * 5, [2.5 / 6] * 6, [1] * 2, [0] * 2])
    assert_frequencies(tf.constant(mask), expected)


def test_instances_of_rare_classes_are_not_outnumbered():
    """Nine objects of one class and one of another: half of the samples are of the one."""
    instances = np.repeat(np.arange(10, dtype=np.int32), 10)
    classes = [[1] * 9 + [2]]
    candidates = tf.ones([1, 100], tf.bool)
    by_class = ops.sample_class_balanced(instances[None], classes, candidates, 18, seed=0)
    by_instance = ops.sample_instance_balanced(instances[None], candidates, 18, 10, seed=0)
    rare = instances == 9
    assert by_class.numpy()[0, rare].sum() == 9
    assert by_instance.numpy()[0, rare].sum() <= 3
    np.testing.assert_array_equal(
        np.bincount(instances[by_class.numpy()[0]], minlength=10), [1] * 9 + [9]
    )


def test_random_is_uniform():
    candidates = np.arange(40) % 3 > 0
    tf.random.set_seed(5)
    mask = ops.sample_random(repeat(candidates), 10)
    assert_frequencies(mask, candidates * 10 / candidates.sum())


@pytest.mark.parametrize(
    "sample",
    [
        lambda none: ops.sample_random(none, 3),
        lambda none: ops.sample_iou_balanced(tf.zeros([2, 0]), none, 3),
        lambda none: ops.sample_instance_balanced(tf.zeros([2, 0], tf.int32), none, 3, 5),
        lambda none: ops.sample_class_balanced(
            tf.zeros([2, 0], tf.int32), tf.ones([2, 5], tf.int32), none, 3
        ),
        lambda none: ops.sample_class_balanced(
            tf.zeros([2, 0], tf.int32), tf.ones([2, 0], tf.int32), none, 3
        ),
    ],
    ids=["random", "iou_balanced", "instance_balanced", "class_balanced", "no_instances"],
)
def test_no_elements(sample):
    assert sample(tf.zeros([2, 0], tf.bool)).shape == [2, 0]


@tf.function(reduce_retracing=True)
def sample_ious(ious, candidates, num_samples, floor_threshold, floor_fraction, bin_range):
    return ops.sample_iou_balanced(
        ious, candidates, num_samples, 3, floor_threshold, floor_fraction, bin_range
    )


@given(ROWS, st.integers(0, 30), FLOORS, st.sampled_from(["candidates", "all"]))
@settings(deadline=None, max_examples=60)
def test_counts_and_quotas(row, num_samples, floor, bin_range):
    ious, candidates = np.float32([r[0] for r in row]), np.array([r[1] for r in row])
    mask = sample_ious(
        repeat(ious, 4), repeat(candidates, 4), tf.constant(num_samples), *floor, bin_range
    ).numpy()
    ious = np.nan_to_num(ious)
    assert not mask[:, ~candidates].any()
    assert (mask.sum(1) == min(num_samples, candidates.sum())).all()

    floor_threshold, floor_fraction = floor
    in_floor = ious < floor_threshold if floor_threshold > 0 else ious <= floor_threshold
    balanced = candidates & ~in_floor
    wanted = int(num_samples * (1 - floor_fraction))
    top = ious.max() if bin_range == "all" else ious[candidates].max(initial=0)
    edges = np.linspace(max(floor_threshold, 0), max(top, floor_threshold, 0), 4)[1:3]
    bins = (ious[:, None] >= edges.astype(np.float32)).sum(1)
    near_edge = np.isclose(ious[:, None], edges, atol=1e-5).any()
    for k in range(3):
        in_bin = balanced & (bins == k)
        if not near_edge:
            assert (mask[:, in_bin].sum(1) >= min(wanted // 3, in_bin.sum())).all()
    floor_size = (candidates & in_floor).sum()
    taken_floor = min(floor_size, num_samples - min(balanced.sum(), wanted))
    assert (mask[:, in_floor].sum(1) == taken_floor).all()


@tf.function(reduce_retracing=True)
def sample_instances(instances, candidates, num_samples):
    return ops.sample_instance_balanced(instances, candidates, num_samples, 5)


@given(
    st.lists(
        st.tuples(st.integers(0, 4), st.booleans()),
        min_size=NUM_CANDIDATES,
        max_size=NUM_CANDIDATES,
    ),
    st.integers(0, 30),
)
@settings(deadline=None, max_examples=40)
def test_instance_counts(row, num_samples):
    instances, candidates = np.int32([r[0] for r in row]), np.array([r[1] for r in row])
    mask = sample_instances(
        repeat(instances, 4), repeat(candidates, 4), tf.constant(num_samples)
    ).numpy()
    assert not mask[:, ~candidates].any()
    assert (mask.sum(1) == min(num_samples, candidates.sum())).all()
    sizes = collections.Counter(instances[candidates])
    share = round(num_samples / max(len(sizes), 1)) + 1
    if sum(min(size, share) for size in sizes.values()) <= num_samples:
        for instance, size in sizes.items():
            taken = mask[:, candidates & (instances == instance)].sum(1)
            assert (taken >= min(size, share)).all()


@tf.function(reduce_retracing=True)
def sample_classes(instances, classes, candidates, num_samples):
    return ops.sample_class_balanced(instances, classes, candidates, num_samples)


def assert_shared_evenly(taken, sizes):
    """One gives at most one more than another, unless that gives all it has."""
    for less, size in zip(taken, sizes, strict=True):
        assert less == size or less >= max(taken) - 1


@given(
    st.lists(
        st.tuples(st.integers(0, 4), st.booleans()),
        min_size=NUM_CANDIDATES,
        max_size=NUM_CANDIDATES,
    ),
    st.lists(st.integers(1, 3), min_size=5, max_size=5),
    st.integers(0, 30),
)
@settings(deadline=None, max_examples=60)
def test_class_counts(row, classes, num_samples):
    instances, candidates = np.int32([r[0] for r in row]), np.array([r[1] for r in row])
    mask = sample_classes(
        repeat(instances, 4),
        repeat(np.int32(classes), 4),
        repeat(candidates, 4),
        tf.constant(num_samples),
    ).numpy()
    assert not mask[:, ~candidates].any()
    assert (mask.sum(1) == min(num_samples, candidates.sum())).all()
    sizes = np.bincount(instances[candidates], minlength=5)
    for drawn in mask:
        taken = np.bincount(instances[drawn], minlength=5)
        assert_shared_evenly(*(np.bincount(classes, weights=n) for n in (taken, sizes)))
        for label in set(classes):
            of_class = np.array(classes) == label
            assert_shared_evenly(taken[of_class], sizes[of_class])


def all_samplers(candidates, num_samples, seed):
    ious = tf.random.stateless_uniform(tf.shape(candidates), [0, 1])
    instances = tf.cast(ious * 6, tf.int32)
    return [
        ops.sample_random(candidates, num_samples, seed),
        ops.sample_iou_balanced(ious, candidates, num_samples, seed=seed),
        ops.sample_instance_balanced(instances, candidates, num_samples, 6, seed),
        ops.sample_class_balanced(
            instances,
            tf.repeat([[1, 1, 1, 2, 2, 3]], tf.shape(candidates)[0], axis=0),
            candidates,
            num_samples,
            seed,
        ),
    ]


def test_seeds():
    candidates = tf.ones([3, 50], tf.bool)

    def draws(seed):
        return tf.stack(all_samplers(candidates, 20, seed)).numpy()

    np.testing.assert_array_equal(draws(7), draws(7))
    np.testing.assert_array_equal(draws(tf.constant([7, 1])), draws(tf.constant([7, 1])))
    for mask_a, mask_b in ((draws(7), draws(8)), (draws(None), draws(None))):
        assert all((a != b).any() for a, b in zip(mask_a, mask_b, strict=True))
    tf.random.set_seed(11)
    first = draws(None)
    tf.random.set_seed(11)
    np.testing.assert_array_equal(first, draws(None))


def test_rows_want_different_numbers():
    candidates = tf.ones([3, 50], tf.bool)
    for mask in all_samplers(candidates, tf.constant([0, 20, 60]), None):
        np.testing.assert_array_equal(tf.reduce_sum(tf.cast(mask, tf.int32), 1), [0, 20, 50])


def test_compiles():
    candidates = tf.random.stateless_uniform([3, 50], [0, 2]) < 0.8
    compiled = tf.function(all_samplers, jit_compile=True)
    for mask in compiled(candidates, 20, tf.constant([7, 1])):
        assert not tf.reduce_any(mask & ~candidates)
        np.testing.assert_array_equal(tf.reduce_sum(tf.cast(mask, tf.int32), 1), [20] * 3)


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"num_bins": 0}, "num_bins"),
        ({"floor_threshold": -0.5}, "floor_threshold"),
        ({"floor_fraction": 1.5}, "floor_fraction"),
        ({"bin_range": "negatives"}, "bin_range"),
        ({"bin_range": "all", "iou_limit": 0.5}, "iou_limit"),
        ({"iou_limit": 0.0}, r"`iou_limit` must be above 0\.0"),
        ({"floor_threshold": 0.5, "iou_limit": 0.5}, r"`iou_limit` must be above 0\.5"),
    ],
)
def test_bad_arguments(kwargs, match):
    with pytest.raises(ValueError, match=match):
        ops.sample_iou_balanced(tf.zeros([1, 4]), tf.ones([1, 4], tf.bool), 2, **kwargs)


def test_bins_cannot_change_after_they_were_checked():
    bins = sampling.IoUBins(iou_limit=0.5)
    with pytest.raises(dataclasses.FrozenInstanceError):
        bins.num_bins = 0
    with pytest.raises(ValueError, match="num_bins"):
        dataclasses.replace(bins, num_bins=0)


def test_bins_have_the_defaults_of_the_function():
    parameters = inspect.signature(ops.sample_iou_balanced).parameters
    defaults = dataclasses.asdict(sampling.IoUBins())
    assert {name: parameters[name].default for name in defaults} == defaults


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_bins": 5, "iou_limit": 0.7},
        {"floor_threshold": 0.3, "floor_fraction": 0.2, "bin_range": "all"},
    ],
)
def test_drawing_with_bins_is_sampling_with_their_values(options):
    ious = tf.random.stateless_uniform([2, 60], [0, 1])
    bins = sampling.IoUBins(**options)
    drawn = sampling.draw_iou_balanced(ious, ious < 0.8, 20, bins, seed=3)
    sampled = ops.sample_iou_balanced(ious, ious < 0.8, 20, **options, seed=3)
    np.testing.assert_array_equal(drawn, sampled)
    if options:
        assert (drawn != ops.sample_iou_balanced(ious, ious < 0.8, 20, seed=3)).numpy().any()


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16, tf.float64])
def test_ious_of_other_types(dtype):
    ious = tf.cast([[0.0, 0.125, 0.25, 0.4375]], dtype)
    mask = ops.sample_iou_balanced(ious, ious < 0.25, 2)
    np.testing.assert_array_equal(mask, [[True, True, False, False]])


def test_unknown_instances_keep_the_quotas():
    ids = tf.constant([[0, 1, 9, 9, -3, 0]])
    mask = ops.sample_instance_balanced(ids, tf.ones([1, 6], tf.bool), 5, 2, seed=0)
    assert tf.math.count_nonzero(mask) == 5


def test_seeds_of_any_kind():
    candidates = tf.ones([2, 50], tf.bool)
    pairs = [[3, 4], (3, 4), np.array([3, 4]), tf.constant([3, 4]), tf.constant([3, 4], tf.int64)]
    first, *others = (ops.sample_random(candidates, 9, seed) for seed in pairs)
    for mask in others:
        np.testing.assert_array_equal(mask, first)
    np.testing.assert_array_equal(
        ops.sample_random(candidates, 9, 3), ops.sample_random(candidates, 9, [3, 0])
    )


def test_bad_candidates():
    with pytest.raises(ValueError, match="2097153 candidates"):
        ops.sample_random(tf.ones([1, 2**21 + 1], tf.bool), 2)
    with pytest.raises(ValueError, match="candidates"):
        ops.sample_random(tf.ones([4], tf.bool), 2)
    with pytest.raises(ValueError, match="candidates"):
        ops.sample_random(tf.ones([1, 4]), 2)
    with pytest.raises(ValueError, match="max_instances"):
        ops.sample_instance_balanced(tf.zeros([1, 4]), tf.ones([1, 4], tf.bool), 2, 0)


BOXES = st.lists(
    st.tuples(st.sampled_from(["positive", "negative", "ignored", "padding"]), st.integers(0, 4)),
    min_size=NUM_CANDIDATES,
    max_size=NUM_CANDIDATES,
)


@tf.function(reduce_retracing=True)
def draw_indices(instances, ious, positives, negatives, others, num_positives, num_negatives):
    both = [
        sampling.instance_pool(instances, positives, num_positives, 5),
        sampling.iou_pool(ious, negatives, num_negatives, sampling.IoUBins(iou_limit=0.5)),
    ]
    return pools.draw_indices(both, 16, others, 2)


@given(BOXES, st.integers(0, 16))
@settings(deadline=None, max_examples=40)
def test_several_pools_at_once(boxes, num_positives):
    """The quotas of each pool, then elements in no pool in their order, then the rest."""
    kinds, instances = np.array([b[0] for b in boxes]), np.int32([b[1] for b in boxes])
    positives, negatives = kinds == "positive", kinds == "negative"
    take_positives = min(num_positives, positives.sum())
    indices = draw_indices(
        repeat(instances, 4),
        repeat(np.float32(instances / 10), 4),
        repeat(positives, 4),
        repeat(negatives, 4),
        repeat(np.int32(kinds == "ignored"), 4),
        tf.constant(num_positives),
        tf.constant(16 - take_positives, tf.int32),
    ).numpy()
    for row in indices:
        assert len(set(row)) == 16
        counts = collections.Counter(kinds[row])
        take_negatives = min(16 - take_positives, negatives.sum())
        assert counts["negative"] == take_negatives
        missing = 16 - take_positives - take_negatives
        padding = np.flatnonzero(kinds == "padding")
        ignored = np.flatnonzero(kinds == "ignored")
        filled = np.concatenate([padding, ignored])[:missing]
        np.testing.assert_array_equal(row[16 - missing :][: len(filled)], filled)
        assert counts["positive"] == take_positives + missing - len(filled)


def test_several_pools_draw_as_each_alone():
    """The scenes of two tests above, drawn together, have the same inclusion probabilities."""
    instances = np.int32([0] * 20 + [4] * 6 + [7] + [0] * 92)
    ious = np.float32([0.9] * 27 + [0.1] * 60 + [0.2] * 30 + [0.4] * 2)
    positives, negatives = np.arange(119) < 27, np.arange(119) >= 27
    tf.random.set_seed(6)
    indices = pools.draw_indices(
        [
            sampling.instance_pool(repeat(instances), repeat(positives), 8, 10),
            sampling.iou_pool(repeat(ious), repeat(negatives), 30, sampling.IoUBins(iou_limit=0.5)),
        ],
        38,
        tf.zeros([REPETITIONS, 119], tf.int32),
        1,
    )
    mask = tf.reduce_any(indices[:, :, None] == tf.range(119), axis=1)
    share = 8 / 9
    expected = np.concatenate(
        [
            [share * 4 / 20] * 20,
            [share * 4 / 6] * 6,
            [share],
            [(10 + 8 * 50 / 70) / 60] * 60,
            [(10 + 8 * 20 / 70) / 30] * 30,
            [1] * 2,
        ]
    )
    assert_frequencies(mask, expected)


@pytest.mark.parametrize("value", [0.0, 0.3, float("nan")])
def test_equal_ious_are_drawn_uniformly(value):
    candidates = np.arange(30) % 3 > 0
    tf.random.set_seed(7)
    mask = ops.sample_iou_balanced(
        repeat(np.full(30, value, np.float32)), repeat(candidates), 7, iou_limit=0.5
    )
    assert_frequencies(mask, candidates * 7 / candidates.sum())


@pytest.mark.parametrize("num_candidates", [0, 1])
def test_no_candidate_and_one(num_candidates):
    candidates = tf.range(9)[None] < num_candidates
    for mask in all_samplers(candidates, 4, None):
        np.testing.assert_array_equal(mask, candidates)
