"""What the measures are given is what the run learned from."""

import shutil
import types

import numpy as np
import pytest
import tensorflow as tf
from official.core import task_factory

from libra_tf.analysis import collect, detectors, report
from libra_tf.balance import samples
from libra_tf.cli.errors import UsageError
from libra_tf.compat import keras
from libra_tf.configs import fastrcnn, maskrcnn
from libra_tf.data import DatasetError, make_shapes, prepare_coco_folder
from libra_tf.dataloaders import rpn_sampling
from libra_tf.runs import trained_run
from tests.analysis.runs import RPN, make_run
from tests.detectors import predict_in_training

pytestmark = pytest.mark.one_lane

AUGMENTED = {"aug_rand_hflip": True, "aug_scale_min": 0.5, "aug_scale_max": 2.0}
NOT_AUGMENTED = {"aug_rand_hflip": False, "aug_scale_min": 1.0, "aug_scale_max": 1.0}
# All labelled anchors are sampled, so that no label depends on a draw.
ALL_ANCHORS = {"rpn_batch_size_per_im": 10**6, "rpn_fg_fraction": 1.0}


def read_run(folder, **parser):
    run = trained_run.read(folder)
    run.params.task.train_data.override({"parser": {**AUGMENTED, **parser}})
    return run


@pytest.fixture(scope="module")
def retinanet(report_of_both):
    return detectors.load(read_run(report_of_both.model_dirs[0]))


@pytest.fixture(scope="module")
def fasterrcnn(report_of_both):
    return detectors.load(read_run(report_of_both.model_dirs[1], **ALL_ANCHORS))


@pytest.fixture(scope="module")
def run_with_masks(tmp_path_factory):
    root = tmp_path_factory.mktemp("masks")
    folder = make_shapes(
        root / "shapes", num_train=4, num_val=2, image_size=64, report=str, with_masks=True
    )
    dataset = prepare_coco_folder(folder, root / "cache", report=str)
    return make_run(root / "run", "libra_maskrcnn_demo", dataset, RPN)


@pytest.fixture(params=["retinanet", "fasterrcnn"])
def detector(request):
    return request.getfixturevalue(request.param)


def split_batches(batches):
    """The images of batches with their labels, one by one."""
    for images, labels in batches:
        for i in range(len(images)):
            yield images[i].numpy(), tf.nest.map_structure(lambda x, i=i: x[i].numpy(), labels)


def training_images(config):
    """Images and labels of two batches of four, as a training without augmentation has them."""
    data = config.train_data
    data = data.replace(shuffle_buffer_size=1, global_batch_size=4, parser=NOT_AUGMENTED)
    return list(split_batches(task_factory.get_task(config).build_inputs(data).take(2)))


def test_labels_are_those_of_training(detector):
    """Every label of every image, although the run itself augments its images."""
    batches = detector.read(None)
    ours = list(split_batches((batch.images, batch.labels) for batch in batches))
    expected = training_images(detector.config)
    assert len(ours) == len(expected) == 8
    for image, labels in ours:
        ((_, of_training),) = (pair for pair in expected if np.array_equal(pair[0], image))
        assert set(of_training) <= set(labels)
        for name, label in of_training.items():
            tf.nest.map_structure(np.testing.assert_array_equal, labels[name], label)


def test_images_come_once_and_in_the_order_of_the_file(detector):
    images = np.concatenate([batch.images for batch in detector.read(None)])
    data = detector.config.train_data.replace(
        is_training=False, drop_remainder=False, dtype="float32"
    )
    evaluated = [images for images, _ in detector.task.build_inputs(data)]
    np.testing.assert_array_equal(images, np.concatenate(evaluated))


def test_images_that_cannot_be_read(retinanet, tmp_path):
    (tmp_path / "damaged").write_bytes(b"no record at all")
    tf.io.TFRecordWriter(str(tmp_path / "empty")).close()
    for name in ("gone", "damaged"):
        with pytest.raises(UsageError, match=rf"{name} cannot be read .*--dataset"):
            list(retinanet.read(str(tmp_path / name)))
    with pytest.raises(UsageError, match=r"empty hold no image.*--dataset"):
        list(retinanet.read(str(tmp_path / "empty")))


def test_weights_that_are_not_finite():
    variables = [tf.Variable(1.0, name="sound"), tf.Variable(np.nan, name="broken")]
    run = types.SimpleNamespace(checkpoint="runs/cells/ckpt-7")
    detector = types.SimpleNamespace(model=types.SimpleNamespace(variables=variables[:1]))
    collect._check_finite(detector, run)
    detector.model.variables = variables
    with pytest.raises(UsageError, match=r"runs/cells/ckpt-7 .* such as broken:0"):
        collect._check_finite(detector, run)


def test_anchors_of_retinanet_are_of_the_kinds_of_their_labels(retinanet):
    for batch in retinanet.read(None):
        for i, candidates in enumerate(retinanet.candidates(batch)["anchors"]):
            is_positive = batch.labels["box_weights"][i] > 0
            np.testing.assert_array_equal(candidates.kinds == samples.POSITIVE, is_positive)
            is_ignored = batch.labels["cls_weights"][i] == 0
            np.testing.assert_array_equal(candidates.kinds == samples.IGNORED, is_ignored)
            classes = [tf.reshape(level[i], [-1]) for level in batch.labels["cls_targets"].values()]
            np.testing.assert_array_equal(
                candidates.classes[is_positive], tf.concat(classes, 0)[is_positive]
            )


def test_anchors_of_an_rpn_are_of_the_kinds_of_their_labels(fasterrcnn):
    for batch in fasterrcnn.read(None):
        targets = batch.labels["rpn_score_targets"].values()
        for i, candidates in enumerate(fasterrcnn.candidates(batch)["rpn_anchors"]):
            # 1, 0 and -1 as in Model Garden.
            expected = tf.concat([tf.reshape(level[i], [-1]) for level in targets], axis=0)
            np.testing.assert_array_equal(candidates.kinds, expected)


def test_proposals_are_of_the_kinds_that_the_sampler_sees(fasterrcnn):
    """Model Garden's sampler that keeps all boxes, as later stages of Cascade R-CNN do."""
    sampler = type(fasterrcnn.model.roi_sampler[0])(mix_gt_boxes=False, skip_subsampling=True)
    batch = next(iter(fasterrcnn.read(None)))
    for i, candidates in enumerate(fasterrcnn.candidates(batch)["proposals"]):
        objects = batch.labels["gt_boxes"][i : i + 1], batch.labels["gt_classes"][i : i + 1]
        _, _, classes, _ = sampler(tf.constant(candidates.boxes[None]), *objects)
        is_positive = candidates.kinds == samples.POSITIVE
        assert is_positive.any() and len(candidates.boxes) > is_positive.sum()
        np.testing.assert_array_equal(is_positive, classes[0] > 0)
        np.testing.assert_array_equal(candidates.classes[is_positive], classes[0][is_positive])


def read_seeded(detector):
    keras.utils.set_random_seed(0)
    return next(iter(detector.read(None)))


@pytest.mark.parametrize(
    "sampler", [{"type": "random"}, {"type": "iou_balanced", "max_negatives_per_positive": 2}]
)
@pytest.mark.slow
def test_anchors_are_sampled_as_in_training(report_of_both, sampler):
    run = read_run(report_of_both.model_dirs[1])
    run.params.task.model.override({"rpn_sampler": sampler})
    number = run.params.task.train_data.parser.rpn_batch_size_per_im
    limit = run.params.task.model.rpn_sampler.max_negatives_per_positive
    detector = detectors.load(run)
    batch, again = (read_seeded(detector) for _ in range(2))
    tf.nest.map_structure(np.testing.assert_array_equal, batch.labels, again.labels)
    targets = [tf.reshape(x, [x.shape[0], -1]) for x in batch.labels["rpn_score_targets"].values()]
    targets = tf.concat(targets, axis=1).numpy()
    num_positives = (targets == 1).sum(axis=1)
    num_negatives = (targets == 0).sum(axis=1)
    assert (num_positives > 0).all()
    if rpn_sampling.is_model_gardens(run.params.task.model.rpn_sampler):
        np.testing.assert_array_equal(num_positives + num_negatives, [number] * len(targets))
    else:
        expected = np.minimum(number - num_positives, limit * num_positives)
        np.testing.assert_array_equal(num_negatives, expected)


@pytest.mark.slow
def test_rpn_and_levels_are_those_of_mmdetection(tiny_shapes, tmp_path):
    changes = {"model": {"compatibility": "mmdetection", "max_level": 6}, **RPN}
    fixed = {"validation_data": {"global_batch_size": 1}, "losses": {"l2_weight_decay": 0.0}}
    folder = make_run(tmp_path / "run", "libra_fasterrcnn_demo", tiny_shapes, changes, fixed)
    detector = detectors.load(read_run(folder, **NOT_AUGMENTED))
    batch = read_seeded(detector)
    step = detector.take_step(batch.images, batch.labels)
    sampled = [np.sum(x == 1) for x in batch.labels["rpn_score_targets"].values()]
    found = [np.sum(x) // 4 for x in step.box_heads[0].boxes.is_positive]
    assert sum(sampled) > 0 and found == sampled
    assert detector.betas["rpn_box"] == detector.config.losses.balanced_l1.beta
    levels = np.concatenate([x.levels for x in detector.candidates(batch)["proposals"]])
    assert set(levels) <= {2, 3, 4, 5}


@pytest.mark.slow
def test_losses_of_mask_rcnn_are_those_of_its_training_step(run_with_masks):
    """Model Garden's own sum of them, with the same draws."""
    detector = detectors.load(read_run(run_with_masks))
    batch = read_seeded(detector)
    keras.utils.set_random_seed(0)
    step = detector.take_step(batch.images, batch.labels)
    keras.utils.set_random_seed(0)
    outputs = predict_in_training(detector.model, batch.images, batch.labels)
    expected = detector.task.build_losses(outputs, batch.labels)
    assert step.losses["mask"] == expected["mask_loss"] > 0
    total = sum(float(loss) for loss in step.losses.values())
    assert total == pytest.approx(float(expected["model_loss"]), rel=1e-5)
    assert detector.modules["mask_head"]


@pytest.mark.slow
def test_masks_that_the_images_lack(run_with_masks, report_of_both, tiny_shapes, tmp_path):
    boxes, output = report_of_both.model_dirs[1], tmp_path / "report"
    message = f"{run_with_masks} predicts masks, but the training images of {boxes} have none; "
    with pytest.raises(UsageError, match=f"{message}name that run first, or name a folder with"):
        report.write([boxes, run_with_masks], str(output), report=str)
    moved = tmp_path / "moved"
    shutil.copytree(run_with_masks, moved)
    config = moved / "params.yaml"
    with_masks = trained_run.read(run_with_masks).params.task.train_data.input_path
    config.write_text(config.read_text().replace(with_masks, tiny_shapes.train.input_path))
    with pytest.raises(UsageError, match=f"images of {moved} have none; name a folder with"):
        report.write([str(moved)], str(output), report=str)
    assert not output.exists()
    for model_dirs, instead in (
        ([boxes, run_with_masks], "leave out that run"),
        ([run_with_masks], "leave out --dataset"),
    ):
        message = f"{tiny_shapes.folder} has no segmentations, and the detector in .*{instead}"
        with pytest.raises(DatasetError, match=message):
            report.write(model_dirs, str(output), tiny_shapes.folder, str(tmp_path), report=str)
    report._check_masks([trained_run.read(folder) for folder in (run_with_masks, boxes)])


@pytest.mark.slow
def test_a_report_on_mask_rcnn(run_with_masks):
    numbers = collect.analyse(trained_run.read(run_with_masks), num_batches=1, report=str).numbers
    norms = numbers["objective"]["gradient_norms"]["mask"]["all"]
    assert norms["mask_head"] > 0 and norms["shared"] > 0
    # A mask learns from its RoI, not from its class.
    assert norms["detection_head"] == norms["rpn_head"] == 0


def test_what_is_not_covered_is_refused(report_of_both):
    run = trained_run.read(report_of_both.model_dirs[1])
    run.params.task = fastrcnn.LibraFastRCNNTask()
    with pytest.raises(UsageError, match="holds a Fast R-CNN with given proposals, which"):
        detectors.load(run)

    class Unknown(maskrcnn.LibraMaskRCNNTask):
        pass

    run.params.task = Unknown()
    with pytest.raises(UsageError, match="holds a Unknown, which"):
        detectors.load(run)
