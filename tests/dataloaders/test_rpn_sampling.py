import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from official.vision.configs import maskrcnn
from official.vision.ops import anchor, iou_similarity

from libra_tf.configs import components
from libra_tf.dataloaders import rpn_sampling

pytestmark = pytest.mark.one_lane

SIZE = 128
LEVELS = {"min_level": 2, "max_level": 4}
PARSER = maskrcnn.Parser(rpn_batch_size_per_im=60, rpn_match_threshold=0.5)
GT_BOXES = np.float32([[10, 10, 42, 42], [60, 50, 100, 120], [8, 90, 24, 100], [-1] * 4, [-1] * 4])
NO_OBJECTS = np.full_like(GT_BOXES, -1)
IS_IGNORED = -1


def balanced(**kwargs):
    return components.RPNSampler(type="iou_balanced", **kwargs)


def at_random(**kwargs):
    return components.RPNSampler(type="random", **kwargs)


def parser(**kwargs):
    return dataclasses.replace(PARSER, **kwargs)


def multilevel_anchors():
    generate = anchor.build_anchor_generator(
        **LEVELS, num_scales=3, aspect_ratios=[0.5, 1.0, 2.0], anchor_size=4.0
    )
    return generate(image_size=(SIZE, SIZE))


def labelled_levels(gt_boxes, num_samples=100_000, fraction=1.0):
    """Model Garden's labels of a sample, by default of all anchors."""
    labeler = anchor.RpnAnchorLabeler(
        PARSER.rpn_match_threshold, PARSER.rpn_unmatched_threshold, num_samples, fraction
    )
    real = tf.constant(gt_boxes[gt_boxes[:, 0] >= 0])
    targets, _ = labeler.label_anchors(multilevel_anchors(), real, tf.ones([len(real), 1]))
    return targets


def joined(levels, last=1):
    flat = [tf.reshape(level, [-1, last]) for level in levels.values()]
    return tf.squeeze(tf.concat(flat, axis=0), axis=1) if last == 1 else tf.concat(flat, axis=0)


ANCHORS = joined(multilevel_anchors(), last=4)
LABELS = joined(labelled_levels(GT_BOXES)).numpy()
IOUS = iou_similarity.IouSimilarity()(ANCHORS, tf.constant(GT_BOXES[:3])).numpy()


def sample(config, parser=PARSER, seed=(0, 0), gt_boxes=GT_BOXES, labels=LABELS):
    """What is left of the labels of all anchors, int32 [N]."""
    return rpn_sampling.sample_anchors(
        tf.constant(labels), tf.constant(gt_boxes), ANCHORS, config, parser, seed
    ).numpy()


def sample_often(config, parser, seeds):
    """What `sample` gives for each seed, traced once."""

    @tf.function
    def draw(seed):
        return rpn_sampling.sample_anchors(
            tf.constant(LABELS), tf.constant(GT_BOXES), ANCHORS, config, parser, seed
        )

    return [draw(tf.constant(seed)).numpy() for seed in seeds]


def test_model_garden_can_be_asked_for_all_anchors():
    data = maskrcnn.DataConfig(parser=maskrcnn.Parser(rpn_batch_size_per_im=7, aug_scale_min=0.5))
    data.lock()
    asked = rpn_sampling.label_all_anchors(data).parser
    assert data.parser.rpn_batch_size_per_im == 7
    assert asked.aug_scale_min == 0.5
    targets = joined(labelled_levels(GT_BOXES, asked.rpn_batch_size_per_im, asked.rpn_fg_fraction))
    np.testing.assert_array_equal(targets, LABELS)
    is_forced = (IOUS[:, :, None] == IOUS.max(0)).any((1, 2))  # The best anchor of an object.
    best = IOUS.max(1)
    certain = ~is_forced
    expected = np.where(best >= 0.5, 1, np.where(best < 0.3, 0, IS_IGNORED))
    np.testing.assert_array_equal(targets.numpy()[certain], expected[certain])
    assert set(expected) == {1, 0, IS_IGNORED}


@pytest.mark.parametrize("make_config", [balanced, at_random])
@pytest.mark.parametrize("instance_balanced", [True, False])
@pytest.mark.parametrize(
    ("num_samples", "fraction", "limit"),
    [(60, 0.5, 0), (60, 0.1, 0), (60, 0.1, 3), (400, 0.5, 0), (400, 0.5, 2), (9000, 1.0, 0)],
)
def test_quotas(num_samples, fraction, limit, instance_balanced, make_config):
    sampled = sample(
        make_config(max_negatives_per_positive=limit, instance_balanced=instance_balanced),
        parser(rpn_batch_size_per_im=num_samples, rpn_fg_fraction=fraction),
    )
    num_positives = min((LABELS == 1).sum(), int(num_samples * fraction))
    num_negatives = min((LABELS == 0).sum(), num_samples - num_positives)
    if limit:
        num_negatives = min(num_negatives, limit * num_positives)
    assert (sampled == 1).sum() == num_positives > 0
    assert (sampled == 0).sum() == num_negatives
    is_sampled = sampled != IS_IGNORED
    np.testing.assert_array_equal(sampled[is_sampled], LABELS[is_sampled])


@pytest.mark.parametrize("make_config", [balanced, at_random])
@pytest.mark.parametrize(("limit", "expected"), [(0, 60), (5, 5)])
def test_images_without_objects_give_negatives(limit, expected, make_config):
    labels = joined(labelled_levels(NO_OBJECTS)).numpy()
    assert not labels.any()
    config = make_config(max_negatives_per_positive=limit)
    sampled = sample(config, gt_boxes=NO_OBJECTS, labels=labels)
    assert (sampled == 0).sum() == expected
    assert (sampled == 1).sum() == 0


def bin_counts(sampled, edges):
    return np.histogram(IOUS.max(1)[sampled == 0], edges)[0]


def test_negatives_are_spread_evenly_over_their_ious():
    edges = [0, 0.1, 0.2, 0.3]
    negatives_only = parser(rpn_fg_fraction=0.0)
    theirs = joined(labelled_levels(GT_BOXES, num_samples=60, fraction=0.0)).numpy()
    for seed in range(5):
        sampled = sample(balanced(), negatives_only, (seed, 0))
        np.testing.assert_array_equal(bin_counts(sampled, edges), [20, 20, 20])
    assert bin_counts(theirs, edges)[0] > 32


def test_at_random_every_negative_is_as_likely():
    config = at_random(max_negatives_per_positive=5)
    draws = sample_often(config, PARSER, [(seed, 0) for seed in range(200)])
    counts = sum((sampled == 0).astype(int) for sampled in draws)
    negatives = LABELS == 0
    expected = (
        counts.sum()
        / negatives.sum()
        * np.bincount(np.digitize(IOUS.max(1), [0.1, 0.2])[negatives])
    )
    actual = np.bincount(np.digitize(IOUS.max(1), [0.1, 0.2]), counts)
    np.testing.assert_allclose(actual, expected, rtol=0.1)


def test_options_reach_the_sampler():
    negatives_only = parser(rpn_fg_fraction=0.0)
    sampled = sample(balanced(bin_range="all", num_bins=4), negatives_only)
    top = IOUS.max()
    assert bin_counts(sampled, [0, top / 4, 0.3])[1] >= 15
    # Bins of the negatives alone would take 20 from each tenth, the first of these 15 and the rest.
    assert bin_counts(sampled, [0, 0.1])[0] > 25
    assert (sampled != sample(balanced(bin_range="all"), negatives_only)).any()
    sampled = sample(balanced(floor_threshold=0.1, floor_fraction=0.5), negatives_only)
    np.testing.assert_array_equal(bin_counts(sampled, [0, 0.1, 0.3]), [30, 30])


def test_positives_are_spread_evenly_over_the_objects():
    few_positives = parser(rpn_fg_fraction=0.15)
    counts = {True: [], False: []}
    for is_balanced, per_object in counts.items():
        config = balanced(instance_balanced=is_balanced)
        seeds = [(seed, int(is_balanced)) for seed in range(100)]
        for sampled in sample_often(config, few_positives, seeds):
            per_object.append(np.bincount(IOUS.argmax(1)[sampled == 1], minlength=3))
    available = np.bincount(IOUS.argmax(1)[LABELS == 1], minlength=3)
    # round(9 / 3) + 1 = 4 are drawn of each object (fewer where it has fewer); what is too much is
    # dropped at random.
    drawn = np.minimum(available, 4)
    np.testing.assert_allclose(np.mean(counts[True], 0), drawn * 9 / drawn.sum(), atol=0.4)
    np.testing.assert_allclose(np.mean(counts[False], 0), available * 9 / available.sum(), atol=0.5)
    assert available.max() > 3 * available.min()


def test_a_draw_depends_on_the_seed_alone():
    first = sample(balanced(), seed=(3, 4))
    np.testing.assert_array_equal(sample(balanced(), seed=(3, 4)), first)
    for other in ((3, 5), (4, 4)):
        assert (sample(balanced(), seed=other) != first).any()


def batches(gt_boxes, batch_size, drop_remainder=True):
    """Batches with what the sampling takes of Model Garden's labels."""
    images = [
        {
            "rpn_score_targets": labelled_levels(boxes),
            "anchor_boxes": multilevel_anchors(),
            "gt_boxes": boxes,
            "image_info": tf.fill([4, 2], float(index)),
        }
        for index, boxes in enumerate(gt_boxes)
    ]
    labels = tf.nest.map_structure(lambda *tensors: tf.stack(tensors), *images)
    dataset = tf.data.Dataset.from_tensor_slices((tf.zeros([len(images), 1]), labels))
    return dataset.batch(batch_size, drop_remainder=drop_remainder)


def joined_batch(levels):
    return tf.concat([tf.reshape(x, [x.shape[0], -1]) for x in levels.values()], 1).numpy()


def test_every_level_gets_its_own_sample():
    gt_boxes = [GT_BOXES, NO_OBJECTS, GT_BOXES[::-1][[2, 3, 4, 0, 1]]]
    dataset = batches(gt_boxes, batch_size=3)
    sampled = rpn_sampling.sample_dataset(dataset, balanced(), PARSER, seed=5)
    assert sampled.element_spec[1]["rpn_score_targets"] == dict(
        dataset.element_spec[1]["rpn_score_targets"]
    )
    (_, before), (_, after) = next(iter(dataset)), next(iter(sampled))
    for level, labels in before["rpn_score_targets"].items():
        left = after["rpn_score_targets"][level].numpy()
        np.testing.assert_array_equal(np.where(left == IS_IGNORED, left, labels), left)
    for index in range(3):
        labels = joined(labelled_levels(gt_boxes[index]))
        alone = sample(balanced(), PARSER, (5, index), gt_boxes[index], labels)
        np.testing.assert_array_equal(joined_batch(after["rpn_score_targets"])[index], alone)
    for name in ("anchor_boxes", "gt_boxes", "image_info"):
        tf.nest.map_structure(np.testing.assert_array_equal, after[name], before[name])


@pytest.mark.slow
def test_the_batch_size_changes_nothing():
    """Replicas take turns, each with its share of a batch."""

    def draw_all(batch_size, seed=5, drop_remainder=True):
        dataset = batches([GT_BOXES] * 4, batch_size, drop_remainder)
        sampled = rpn_sampling.sample_dataset(dataset, balanced(), PARSER, seed)
        return np.concatenate([joined_batch(y["rpn_score_targets"]) for _, y in sampled])

    together = draw_all(4)
    np.testing.assert_array_equal(draw_all(2), together)
    np.testing.assert_array_equal(draw_all(4, drop_remainder=False), together)
    assert (draw_all(4, seed=6) != together).any()
    assert (together[0] != together[1]).any()


def test_inclusion_frequencies_of_the_published_sampler():
    """Of 200 positives and 900 negatives 128 each; of 4 positives all, and 20 negatives."""
    parser, config = maskrcnn.Parser(), at_random(max_negatives_per_positive=5)
    for num_positives, expected in ((200, (128 / 200, 128 / 900)), (4, (1, 20 / 900))):
        targets = tf.constant([1] * num_positives + [0] * 900 + [IS_IGNORED] * 50)
        draw = tf.function(
            lambda seed, targets=targets: rpn_sampling.sample_anchors(
                targets, tf.constant(NO_OBJECTS), tf.zeros([0, 4]), config, parser, [7, seed]
            )
        )
        draws = np.stack([draw(tf.constant(seed)) for seed in range(400)])
        assert (draws[:, -50:] == IS_IGNORED).all()
        positives, negatives = draws[:, :num_positives] == 1, draws[:, num_positives:-50] == 0
        for drawn, probability in zip((positives, negatives), expected, strict=True):
            np.testing.assert_allclose(drawn.mean(), probability, rtol=1e-6)
            deviation = np.sqrt(probability * (1 - probability) / len(draws))
            assert np.abs(drawn.mean(axis=0) - probability).max() <= 4.5 * deviation + 1e-9
