import itertools

import numpy as np
import pytest
import tensorflow as tf

from libra_tf.compat import keras
from libra_tf.layers import IoUBalancedROISampler
from tests import arguments

roi_sampler = pytest.importorskip("official.vision.modeling.layers.roi_sampler")

BATCH, NUM_PROPOSALS, NUM_INSTANCES, MAX_INSTANCES = 2, 300, 5, 10


def scene(seed=0, num_proposals=NUM_PROPOSALS):
    """Instances, proposals near them and anywhere, and padding like Model Garden's."""
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 300, (BATCH, NUM_INSTANCES, 2))
    instances = np.concatenate([corners, corners + rng.uniform(60, 200, corners.shape)], -1)
    nearest = instances[:, rng.integers(0, NUM_INSTANCES, num_proposals)]
    spread = rng.choice([3, 20, 60, 300], (BATCH, num_proposals, 1))
    proposals = np.maximum(nearest + rng.normal(size=nearest.shape) * spread, 0)
    proposals[..., 2:] = np.maximum(proposals[..., 2:], proposals[..., :2] + 1)
    padding = MAX_INSTANCES - NUM_INSTANCES
    gt_boxes = np.pad(instances, [(0, 0), (0, padding), (0, 0)], constant_values=-1)
    classes = np.pad(
        rng.integers(1, 9, (BATCH, NUM_INSTANCES)), [(0, 0), (0, padding)], constant_values=-1
    )
    return [
        tf.constant(proposals, tf.float32),
        tf.constant(gt_boxes, tf.float32),
        tf.constant(classes, tf.int32),
    ]


def all_boxes_with_targets(inputs, **kwargs):
    """Model Garden's targets for every box, before any sampling."""
    return roi_sampler.ROISampler(skip_subsampling=True, **kwargs)(*inputs)


def assert_targets_are_model_gardens(inputs, outputs, all_outputs):
    """Every sampled RoI is one of the boxes, with the targets Model Garden gives that box."""
    for row in range(len(outputs[0])):
        known = {box.tobytes(): i for i, box in enumerate(all_outputs[0][row].numpy())}
        positions = [known[box.tobytes()] for box in outputs[0][row].numpy()]
        for output, expected in zip(outputs[1:], all_outputs[1:], strict=True):
            np.testing.assert_array_equal(output[row], expected[row].numpy()[positions])


@pytest.mark.parametrize("with_outer_boxes", [False, True])
@pytest.mark.parametrize("mix_gt_boxes", [False, True])
def test_same_interface_and_targets_as_model_gardens(mix_gt_boxes, with_outer_boxes):
    inputs = scene()
    if with_outer_boxes:
        inputs.append(inputs[1] * 1.5)
    kwargs = {"mix_gt_boxes": mix_gt_boxes, "num_sampled_rois": 64}
    outputs = IoUBalancedROISampler(**kwargs)(*inputs)
    theirs = roi_sampler.ROISampler(**kwargs)(*inputs)
    assert [(o.shape, o.dtype) for o in outputs] == [(o.shape, o.dtype) for o in theirs]
    all_outputs = all_boxes_with_targets(inputs, mix_gt_boxes=mix_gt_boxes)
    assert_targets_are_model_gardens(inputs, outputs, all_outputs)
    num_positives = (all_outputs[-1].numpy() >= 0).sum(1)
    sampled_positives = (outputs[-1].numpy() >= 0).sum(1)
    np.testing.assert_array_equal(sampled_positives, np.minimum(num_positives, 16))
    np.testing.assert_array_equal(sampled_positives, (theirs[-1].numpy() >= 0).sum(1))


def iou_histogram(outputs, inputs, edges):
    ious = roi_sampler.iou_similarity.IouSimilarity()(outputs[0], inputs[1])
    background = outputs[2].numpy() == 0
    return np.histogram(tf.reduce_max(ious, -1).numpy()[background], edges)[0]


def test_negatives_are_balanced_over_the_range_of_negatives():
    inputs, edges = scene(num_proposals=1000), [0, 1 / 6, 1 / 3, 0.5]
    kwargs = {"num_sampled_rois": 64, "foreground_fraction": 0.0}
    for seed in range(3):
        balanced = iou_histogram(IoUBalancedROISampler(seed=seed, **kwargs)(*inputs), inputs, edges)
        assert balanced.min() >= BATCH * (64 // 3)
    random = iou_histogram(
        IoUBalancedROISampler(iou_balanced=False, instance_balanced=False, **kwargs)(*inputs),
        inputs,
        edges,
    )
    assert random.sum() == balanced.sum() and random[0] > balanced[0]


def test_positives_are_balanced_over_the_instances():
    inputs = scene(num_proposals=1000)
    available = all_boxes_with_targets(inputs)[-1].numpy()
    # Several draws, because one at random may be as even by chance.
    for seed in range(5):
        sampler = IoUBalancedROISampler(num_sampled_rois=100, foreground_fraction=0.4, seed=seed)
        outputs = sampler(*inputs)
        for row in range(BATCH):
            share = [(outputs[-1].numpy()[row] == i).sum() for i in range(NUM_INSTANCES)]
            sizes = [(available[row] == i).sum() for i in range(NUM_INSTANCES)]
            # 9 are drawn from each instance, and at most 5 of the 45 are dropped.
            assert min(sizes) > 9
            assert sum(share) == 40
            assert all(s >= min(size, 9) - 5 for s, size in zip(share, sizes, strict=True))
            assert max(share) <= 9


@pytest.mark.parametrize("jit_compile", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_positives_are_balanced_over_the_classes(jit_compile):
    """Of five objects one is rare: half of the positives show it, instead of a fifth."""
    proposals, gt_boxes, gt_classes = scene(num_proposals=1000)
    gt_classes = tf.constant([[3] * 4 + [7] + [-1] * 5] * BATCH)
    inputs = (proposals, gt_boxes, gt_classes)
    available = all_boxes_with_targets(inputs)[-1].numpy()
    assert all((row == i).sum() >= 20 for row in available for i in range(NUM_INSTANCES))
    sampler = IoUBalancedROISampler(
        num_sampled_rois=128, foreground_fraction=0.25, class_balanced=True
    )
    outputs = tf.function(sampler, jit_compile=jit_compile, autograph=False)(*inputs)
    assert_targets_are_model_gardens(inputs, outputs, all_boxes_with_targets(inputs))
    for indices in outputs[-1].numpy():
        np.testing.assert_array_equal(np.bincount(indices[indices >= 0]), [4, 4, 4, 4, 16])


def test_every_object_of_a_class_gets_its_turn():
    """Four positives over five objects of one class: which one has none is random."""
    proposals, gt_boxes, gt_classes = scene()
    gt_classes = tf.where(gt_classes < 0, -1, 3)
    counts = np.zeros([BATCH, NUM_INSTANCES])
    step = tf.Variable(0)
    sampler = IoUBalancedROISampler(num_sampled_rois=16, seed=0, class_balanced=True)
    sampler.step = lambda: step
    sample = tf.function(sampler, autograph=False)
    num_steps = 200
    for _ in range(num_steps):
        step.assign_add(1)
        for row, indices in enumerate(sample(proposals, gt_boxes, gt_classes)[-1].numpy()):
            counts[row] += np.bincount(indices[indices >= 0], minlength=NUM_INSTANCES)
    z = (counts / num_steps - 0.8) / np.sqrt(0.8 * 0.2 / num_steps)
    assert np.abs(z).max() < 4.5


@pytest.mark.parametrize(
    "kwargs", [{"bin_range": "all"}, {"floor_threshold": 0.1, "floor_fraction": 0.5}]
)
def test_options_reach_the_sampler(kwargs):
    inputs = scene()
    sampler = IoUBalancedROISampler(num_sampled_rois=30, foreground_fraction=0, seed=0, **kwargs)
    outputs = sampler(*inputs)
    counts = iou_histogram(outputs, inputs, [0, 0.1, 1 / 3, 0.5])
    if "bin_range" in kwargs:
        assert counts[2] >= BATCH * 10
        # The bins of the negatives would give 10 to each half of the first bin of all.
        assert iou_histogram(outputs, inputs, [1 / 6, 1 / 3])[0] < BATCH * 10
    else:
        assert counts[0] == BATCH * 15


def test_padding_fills_up_as_background():
    """15 proposals and 5 instances for 28 RoIs: 8 of the 10 padding boxes fill the rest."""
    proposals, gt_boxes, gt_classes = scene(num_proposals=20)
    proposals = tf.concat([proposals[:, :15], tf.fill([BATCH, 5, 4], -1.0)], 1)
    inputs = (proposals, gt_boxes, gt_classes)
    kwargs = {"num_sampled_rois": 28, "foreground_fraction": 1.0}
    outputs = IoUBalancedROISampler(**kwargs)(*inputs)
    theirs = roi_sampler.ROISampler(**kwargs)(*inputs)
    assert_targets_are_model_gardens(inputs, outputs, all_boxes_with_targets(inputs))
    np.testing.assert_array_equal(tf.sort(outputs[2]), tf.sort(theirs[2]))
    np.testing.assert_array_equal(outputs[0][:, -8:], np.full((BATCH, 8, 4), -1))
    for target, background in zip(outputs[1:], (0, 0, -1), strict=True):
        assert (target[:, -8:].numpy() == background).all()


def test_surplus_positives_fill_up_last_with_their_own_targets():
    gt_boxes = tf.constant([[[0.0, 0, 100, 100], [-1, -1, -1, -1]]])
    boxes = tf.constant([[[0.0, 0, 100, 100 - i] for i in range(10)] + [[-1.0] * 4]])
    sampler = IoUBalancedROISampler(False, num_sampled_rois=8, foreground_fraction=0.5)
    _, _, classes, indices = sampler(boxes, gt_boxes, tf.constant([[3, -1]]))
    np.testing.assert_array_equal(classes[0], [3, 3, 3, 3, 0, 3, 3, 3])
    np.testing.assert_array_equal(indices[0], [0, 0, 0, 0, -1, 0, 0, 0])


def test_ignored_boxes_fill_up_as_background():
    gt_boxes = tf.constant([[[0.0, 0, 100, 100]]])
    boxes = tf.constant([[[0.0, 0, 100, 45]] * 4 + [[0.0, 0, 100, 20]] * 2])
    sampler = IoUBalancedROISampler(False, num_sampled_rois=4, background_iou_high_threshold=0.4)
    rois, gt, classes, indices = sampler(boxes, gt_boxes, tf.constant([[3]]))
    np.testing.assert_array_equal(rois[0, :, 3], [20, 20, 45, 45])
    assert not gt.numpy().any() and not classes.numpy().any() and (indices.numpy() == -1).all()


def test_images_without_instances():
    proposals, gt_boxes, gt_classes = scene()
    for class_balanced, targets in itertools.product(
        [False, True],
        [
            (-tf.ones_like(gt_boxes), -tf.ones_like(gt_classes)),
            (gt_boxes[:, :0], gt_classes[:, :0]),
        ],
    ):
        sampler = IoUBalancedROISampler(num_sampled_rois=64, class_balanced=class_balanced)
        outputs = sampler(proposals, *targets)
        assert not outputs[2].numpy().any() and (outputs[3].numpy() == -1).all()
        assert (outputs[0].numpy() >= 0).all()


def test_skip_subsampling_is_model_gardens():
    inputs = scene()
    ours = IoUBalancedROISampler(skip_subsampling=True)(*inputs)
    for a, b in zip(ours, all_boxes_with_targets(inputs), strict=True):
        np.testing.assert_array_equal(a, b)


def test_fillers_can_be_ignored():
    """15 proposals, 5 instances and 8 fillers; then one positive wanted and no negatives."""
    proposals, gt_boxes, gt_classes = scene(num_proposals=20)
    proposals = tf.concat([proposals[:, :15], tf.fill([BATCH, 5, 4], -1.0)], 1)
    kwargs = {"num_sampled_rois": 28, "foreground_fraction": 1.0, "ignore_fillers": True}
    classes = IoUBalancedROISampler(**kwargs)(proposals, gt_boxes, gt_classes)[2].numpy()
    np.testing.assert_array_equal(classes[:, -8:], np.full((BATCH, 8), -1))
    assert (classes[:, :-8] >= 0).all()
    # Without objects, every proposal is a negative.
    nothing = (tf.fill([BATCH, 8, 4], -1.0), tf.fill([BATCH, 8], -1))
    for no_objects in (nothing, [x[:, :0] for x in nothing]):
        enough = tf.concat([proposals, tf.fill([BATCH, 8, 4], -1.0)], 1)
        classes = IoUBalancedROISampler(**kwargs)(enough, *no_objects)[2].numpy()[:, :15]
        np.testing.assert_array_equal(classes, np.zeros((BATCH, 15)))
    # Objects alone, all of them positive: beyond the quota they are not sampled.
    kwargs = {"num_sampled_rois": 4, "foreground_fraction": 0.25, "ignore_fillers": True}
    classes = IoUBalancedROISampler(**kwargs)(gt_boxes[:, :0], gt_boxes, gt_classes)[2].numpy()
    assert (classes[:, 0] > 0).all()
    np.testing.assert_array_equal(classes[:, 1:], np.full((BATCH, 3), -1))


def test_objects_with_the_same_box_keep_their_classes():
    gt_boxes = tf.constant([[[10.0, 10, 60, 60], [10, 10, 60, 60], [-1, -1, -1, -1]]])
    sampler = IoUBalancedROISampler(
        num_sampled_rois=3, foreground_fraction=1.0, ignore_fillers=True
    )
    inputs = (gt_boxes[:, :0], gt_boxes, tf.constant([[4, 7, -1]]))
    _, targets, classes, instances = sampler(*inputs)
    assert sorted(classes[0].numpy()) == [-1, 4, 7]
    assert sorted(instances[0].numpy()) == [-1, 0, 1]
    np.testing.assert_array_equal(targets[0, :2], gt_boxes[0, :2])


@pytest.mark.parametrize("jit_compile", [False, True])
def test_unknown_batch_size_and_compilation(jit_compile):
    inputs = scene()
    sampler = IoUBalancedROISampler(num_sampled_rois=64)
    signature = [tf.TensorSpec([None, *x.shape[1:]], x.dtype) for x in inputs]
    compiled = tf.function(sampler, jit_compile=jit_compile, input_signature=signature)
    outputs = compiled(*inputs)
    assert_targets_are_model_gardens(inputs, outputs, all_boxes_with_targets(inputs))


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_keeps_the_coordinates(policy):
    inputs = scene()
    outputs = IoUBalancedROISampler(num_sampled_rois=64, dtype=policy)(*inputs)
    assert outputs[0].dtype == tf.float32
    assert_targets_are_model_gardens(inputs, outputs, all_boxes_with_targets(inputs))


def test_without_a_seed_each_draw_is_new():
    sampler = IoUBalancedROISampler(num_sampled_rois=64)
    draw = tf.function(lambda *x: sampler(*x)[0])
    assert (draw(*scene()) != draw(*scene())).numpy().any()


@pytest.mark.parametrize(
    ("jit_compile", "class_balanced"),
    [
        (False, True),
        pytest.param(True, False, marks=pytest.mark.slow),
        pytest.param(False, False, marks=pytest.mark.slow),
        pytest.param(True, True, marks=pytest.mark.slow),
    ],
)
def test_a_seeded_draw_depends_on_seed_step_and_image_alone(jit_compile, class_balanced):
    inputs = scene()
    step = tf.Variable(0, dtype=tf.int64)

    def make_sample(seed):
        sampler = IoUBalancedROISampler(
            num_sampled_rois=64, seed=seed, class_balanced=class_balanced
        )
        sampler.step = lambda: step
        compiled = tf.function(sampler, jit_compile=jit_compile, autograph=False)
        return lambda inputs: compiled(*inputs)[0].numpy()

    sample = make_sample(3)
    first = sample(inputs)
    np.testing.assert_array_equal(make_sample(3)(inputs), first)
    assert (make_sample(4)(inputs) != first).any()
    # Another place in the batch, or another batch, changes nothing.
    np.testing.assert_array_equal(sample([x[::-1] for x in inputs]), first[::-1])
    np.testing.assert_array_equal(sample([x[1:] for x in inputs]), first[1:])
    step.assign_add(1)
    assert (sample(inputs) != first).any()


def test_rows_that_share_random_numbers_are_uniform():
    """Every candidate of a bin is equally likely, in each row of a batch."""
    num_rows, num_boxes, num_steps = 5, 400, 400
    ious = tf.random.stateless_uniform([num_rows, num_boxes, 1], [0, 1], 0.0, 0.01)
    indicators = -tf.ones([num_rows, num_boxes], tf.int32)
    classes = tf.ones([num_rows, 1], tf.int32)
    sampler = IoUBalancedROISampler(num_sampled_rois=100, num_bins=1, seed=0)
    step = tf.Variable(0)
    sampler.step = lambda: step
    choose = tf.function(sampler.choose, autograph=False)
    counts = np.zeros([num_rows, num_boxes])
    for _ in range(num_steps):
        step.assign_add(1)
        chosen = choose(ious, tf.zeros_like(indicators), indicators, classes).numpy()
        for row in range(num_rows):
            counts[row, chosen[row]] += 1
    z = (counts / num_steps - 0.25) / np.sqrt(0.25 * 0.75 / num_steps)
    assert np.abs(z).max() < 4.5
    assert abs((z**2).mean() - 1) < 0.3


def test_config_round_trip():
    sampler = IoUBalancedROISampler(
        False,
        32,
        0.5,
        0.6,
        0.4,
        0.1,
        False,
        4,
        0.2,
        0.3,
        "all",
        False,
        False,
        True,
        9,
        True,
        name="sampler",
        dtype="float64",
    )
    restored = keras.layers.deserialize(keras.layers.serialize(sampler))
    assert isinstance(restored, IoUBalancedROISampler)
    assert restored.get_config() == sampler.get_config()
    names = arguments.names(IoUBalancedROISampler)
    # One that is skipped has no use for the others, so its own argument keeps its default here.
    assert arguments.kept(sampler, IoUBalancedROISampler()) == names - {"skip_subsampling"}
    skipping = IoUBalancedROISampler(skip_subsampling=True)
    assert arguments.kept(skipping, IoUBalancedROISampler()) == {"skip_subsampling"}
    defaults = IoUBalancedROISampler().get_config()
    same = {k for k, v in defaults.items() if sampler.get_config()[k] == v}
    assert same == {"skip_subsampling", "trainable"}


def test_bad_arguments():
    with pytest.raises(ValueError, match="num_bins"):
        IoUBalancedROISampler(num_bins=0)
    with pytest.raises(ValueError, match="num_sampled_rois"):
        IoUBalancedROISampler(num_sampled_rois=0)
    with pytest.raises(ValueError, match="foreground_fraction"):
        IoUBalancedROISampler(foreground_fraction=1.5)
    with pytest.raises(ValueError, match=r"`iou_limit` must be above 0\.5"):
        IoUBalancedROISampler(floor_threshold=0.5)
    with pytest.raises(ValueError, match="cannot sample 512 RoIs from 310 boxes"):
        IoUBalancedROISampler()(*scene())


def test_on_two_replicas(two_devices):
    inputs = scene()
    sampler = IoUBalancedROISampler(num_sampled_rois=64)
    results = two_devices.run(tf.function(lambda *x: sampler(*x)), inputs)
    all_outputs = all_boxes_with_targets(inputs)
    for outputs in zip(*map(two_devices.experimental_local_results, results), strict=True):
        assert_targets_are_model_gardens(inputs, outputs, all_outputs)


def test_in_a_saved_model(tmp_path):
    inputs = scene()
    module = tf.Module()
    module.sampler = IoUBalancedROISampler(num_sampled_rois=64)
    module.sample = tf.function(
        lambda *x: module.sampler(*x),
        input_signature=[tf.TensorSpec([None, *x.shape[1:]], x.dtype) for x in inputs],
    )
    tf.saved_model.save(module, str(tmp_path))
    outputs = tf.saved_model.load(str(tmp_path)).sample(*inputs)
    assert_targets_are_model_gardens(inputs, outputs, all_boxes_with_targets(inputs))
