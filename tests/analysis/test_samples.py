import dataclasses

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from libra_tf.analysis import samples
from libra_tf.balance.quotas import Quota
from libra_tf.balance.samples import IGNORED, NEGATIVE, POSITIVE

pytestmark = pytest.mark.one_lane


def make_candidates(ious, instances=None, losses=None, negative_iou=0.5, positive_iou=0.5):
    ious = np.asarray(ious, np.float32)
    kinds = np.select(
        [ious >= positive_iou, ious < negative_iou],
        [POSITIVE, NEGATIVE],
        IGNORED,
    )
    instances = np.zeros(len(ious), np.int64) if instances is None else np.asarray(instances)
    return samples.Candidates(
        boxes=np.zeros((len(ious), 4)),
        max_ious=ious,
        kinds=kinds,
        instances=instances,
        classes=np.where(ious > 0, 1 + instances % 2, 0),
        levels=np.full(len(ious), 3),
        losses=np.arange(len(ious), dtype=float) if losses is None else np.asarray(losses),
        num_instances=int(instances.max(initial=0)) + 1,
    )


some_ious = st.lists(st.floats(0, 1, width=32), min_size=1, max_size=60)
QUOTA = Quota(num_samples=12, positive_fraction=0.25, negative_iou=0.5)


@hypothesis.given(some_ious, st.integers(0, 9))
@hypothesis.settings(max_examples=30, deadline=None)
def test_every_way_takes_its_number_of_negatives(ious, seed):
    candidates = make_candidates(ious)
    negatives = candidates.kinds == NEGATIVE
    positives = int((candidates.kinds == POSITIVE).sum())
    expected = min(negatives.sum(), 12 - min(positives, 3))
    for name, mask in samples.pick(candidates, QUOTA, seed).items():
        if name not in ("candidates", "negatives"):
            assert mask.sum() == expected
            assert not (mask & ~negatives).any()


@pytest.mark.parametrize(("num_positives", "expected"), [(0, 5), (1, 5), (2, 10), (3, 9), (9, 9)])
def test_a_limit_of_negatives_for_each_positive(num_positives, expected):
    quota = dataclasses.replace(QUOTA, max_negatives_per_positive=5)
    candidates = make_candidates([0.9] * num_positives + [0.2] * 30)
    picks = samples.pick(candidates, quota, 0)
    assert {picks[name].sum() for name in ("random", "iou_balanced", "hardest")} == {expected}


@hypothesis.given(some_ious, st.randoms())
@hypothesis.settings(max_examples=30, deadline=None)
def test_the_hardest_have_no_harder_one_beside_them(ious, random):
    losses = list(range(len(ious)))
    random.shuffle(losses)
    candidates = make_candidates(ious, losses=losses)
    taken = samples.pick(candidates, QUOTA, 0)["hardest"]
    left = (candidates.kinds == NEGATIVE) & ~taken
    if taken.any() and left.any():
        assert candidates.losses[taken].min() > candidates.losses[left].max()


@hypothesis.given(some_ious)
@hypothesis.settings(max_examples=30, deadline=None)
def test_bins_are_filled_as_counted_by_hand(ious):
    candidates = make_candidates(ious)
    fill = samples.fill_of_bins(candidates, QUOTA, "candidates")
    negatives = candidates.max_ious[candidates.kinds == NEGATIVE]
    edges = np.float32([1 / 6, 1 / 3])
    by_hand = [
        (negatives < edges[0]).sum(),
        ((negatives >= edges[0]) & (negatives < edges[1])).sum(),
        (negatives >= edges[1]).sum(),
    ]
    assert fill["held"] == by_hand
    positives = int((candidates.kinds == POSITIVE).sum())
    assert fill["wanted"] == (12 - min(positives, 3)) // 3


def test_mmdetections_upper_bin_starves():
    candidates = make_candidates([*np.linspace(0, 0.49, 50), 1.0])
    fill = samples.fill_of_bins(candidates, QUOTA, "all")
    assert fill["held"] == [34, 16, 0]  # Up to 1/3, up to 2/3, above.


def test_a_tally_counts_what_was_put_in():
    tally = samples.SampleTally([2, 3], {1: "cat", 2: "dog"}, QUOTA)
    tally.add(make_candidates([0, 0.02, 0.2, 0.3, 0.7], instances=[0, 0, 0, 1, 1]))
    tally.add(make_candidates([0, 0.06, 0.9]))
    result = tally.result()
    assert result["picks"]["negatives"]["count"] == 6
    assert result["picks"]["negatives"]["hard_share"] == pytest.approx(3 / 6)
    assert result["picks"]["negatives"]["zero_share"] == pytest.approx(2 / 6)
    # Fewer negatives than are wanted: each way takes all.
    assert result["picks"]["random"] == result["picks"]["iou_balanced"]
    assert result["picks"]["candidates"]["histogram"][:5] == [3, 1, 0, 1, 0]
    assert result["by_level"]["2"]["candidates"]["count"] == 0
    assert result["by_class"]["dog"]["candidates"]["count"] == 2
    assert result["by_class"]["no object"]["candidates"]["count"] == 2
    assert result["positives"]["per_image"] == 1
    assert result["positives"]["all"]["without"] == pytest.approx(1 / 3)


def test_instance_balance_evens_out_positives():
    ious = np.full(60, 0.8)
    instances = np.repeat([0, 1, 2], [50, 5, 5])
    quota = dataclasses.replace(QUOTA, positive_fraction=1.0)
    counts = samples.positives_per_instance(make_candidates(ious, instances), quota, seed=1)
    assert counts["all"].tolist() == [50, 5, 5]
    # round(12 / 3) + 1 = 5 of each at first, then thinned out.
    assert counts["instance_balanced"].sum() == 12
    assert counts["instance_balanced"].std() < counts["random"].std()


def test_no_candidates_at_all():
    tally = samples.SampleTally([3], {1: "cat"}, QUOTA)
    empty = make_candidates([])
    tally.add(empty)
    result = tally.result()
    assert result["picks"]["random"]["hard_share"] is None
