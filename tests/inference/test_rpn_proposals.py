"""Proposals of a trained detector, from its folder to what Fast R-CNN is given."""

import json
import shutil

import numpy as np
import pytest
import tensorflow as tf
from official.core import exp_factory, task_factory

import libra_tf.registry_imports  # noqa: F401, registers the experiments
from libra_tf.dataloaders import fastrcnn_input
from libra_tf.inference import rpn_proposals
from libra_tf.runner import rpn_proposals as program
from libra_tf.runs.folder import RunFolder

pytestmark = pytest.mark.one_lane

SMALL = {
    "task": {
        "annotation_file": None,
        "model": {
            "input_size": [128, 128, 3],
            "backbone": {"resnet": {"model_id": 10, "depth_multiplier": 0.25}},
            "decoder": {"libra_fpn": {"num_filters": 16}},
        },
        "validation_data": {"global_batch_size": 4},
    }
}


@pytest.fixture(scope="module")
def run(tiny_shapes, tmp_path_factory):
    """The folder of a run of one checkpoint, its task and its model."""
    folder = str(tmp_path_factory.mktemp("run"))
    params = exp_factory.get_exp_config("libra_fasterrcnn_demo")
    params.override(SMALL)
    params.task.train_data.input_path = tiny_shapes.train.input_path
    params.task.validation_data.input_path = tiny_shapes.val.input_path
    RunFolder(folder).write_config("libra_fasterrcnn_demo", params, {})
    task = task_factory.get_task(params.task)
    model = task.build_model()
    # Scores that differ by more than rounding does.
    for variable in model.rpn_head.trainable_variables:
        if "kernel" in variable.name:
            variable.assign(tf.random.stateless_normal(variable.shape, [0, 1], stddev=0.1))
    tf.train.CheckpointManager(tf.train.Checkpoint(model=model), folder, 1).save()
    return folder, task, model


@pytest.mark.slow
def test_fast_rcnn_is_given_what_the_rpn_proposes(run, tiny_shapes, tmp_path):
    model_dir, task, model = run
    lines = []
    rpn_proposals.write_proposals(model_dir, str(tmp_path), 100, lines.append)
    assert f"{model_dir}/ckpt-1" in lines[0]
    for name, split in (("train", tiny_shapes.train), ("val", tiny_shapes.val)):
        with open(split.annotation_file) as file:
            ids = [image["id"] for image in json.load(file)["images"]]
        written = {int(path.stem): np.load(path) for path in (tmp_path / name).iterdir()}
        assert sorted(written) == sorted(ids)
        for boxes in written.values():
            assert 0 < len(boxes) <= 100
            # Of the original images, which are half as large as the network's input.
            assert boxes.min() >= 0 and boxes.max() <= 64
            assert np.all(boxes[:, 2:] > boxes[:, :2])

    data = task.task_config.validation_data
    images, labels = next(iter(task.build_inputs(data)))
    seen = []
    generate = model.roi_generator.call
    model.roi_generator.call = lambda *args: seen.append(generate(*args)) or seen[-1]
    model(images, image_shape=labels["image_info"][:, 1], training=False)
    parser = fastrcnn_input.Parser(str(tmp_path / "val"), 100, max_level=4, output_size=[128, 128])
    for row, source_id in enumerate(labels["groundtruths"]["source_id"].numpy()):
        example = {
            "image": tf.zeros([64, 64, 3], tf.uint8),
            "source_id": tf.constant(str(source_id)),
            "height": 64,
            "width": 64,
            "groundtruth_classes": tf.zeros([0], tf.int64),
            "groundtruth_is_crowd": tf.zeros([0], tf.bool),
            "groundtruth_area": tf.zeros([0]),
            "groundtruth_boxes": tf.zeros([0, 4]),
        }
        _, parsed = parser.parse_fn(is_training=False)(example)
        rois = seen[0][0][row].numpy()
        rois = rois[np.all(rois[:, 2:] > rois[:, :2], axis=-1)]
        assert len(rois)
        np.testing.assert_allclose(parsed["proposals"][: len(rois)], rois, atol=1e-3)


@pytest.mark.parametrize(("number", "before_nms"), [(300, 1000), (2000, 2000)])
def test_fewer_proposals_are_the_best_of_as_many_as_before(number, before_nms):
    generator = exp_factory.get_exp_config("libra_fasterrcnn_demo").task.model.roi_generator
    generator.test_pre_nms_top_k = 1000
    rpn_proposals.ask_for(generator, number)
    assert (generator.test_num_proposals, generator.test_pre_nms_top_k) == (number, before_nms)


def test_no_work_is_begun_that_cannot_be_finished(run, tmp_path, capsys):
    model_dir, _, _ = run
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / "1.npy").write_text("")
    arguments = [str(tmp_path), f"--model_dir={model_dir}"]
    assert program.main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{tmp_path / 'val'} already exists" in line
    assert not (tmp_path / "train").exists()


@pytest.mark.parametrize("number", [0, -5])
def test_no_proposals_at_all(run, tmp_path, capsys, number):
    model_dir, _, _ = run
    arguments = [str(tmp_path / "made"), f"--model_dir={model_dir}", f"--num_proposals={number}"]
    assert program.main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"error: --num_proposals={number} must be at least 1"
    assert not (tmp_path / "made").exists()


def test_images_that_are_gone(run, tmp_path, capsys):
    model_dir, _, _ = run
    shutil.copytree(model_dir, tmp_path / "run")
    params = tmp_path / "run" / "params.yaml"
    params.write_text(params.read_text().replace("val-*.tfrecord", "none-*.tfrecord"))
    arguments = [str(tmp_path / "made"), f"--model_dir={tmp_path / 'run'}"]
    assert program.main(arguments) == 2
    assert "none-*.tfrecord" in capsys.readouterr().err
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("experiment", "message"),
    [
        (None, "holds no params.yaml; name the folder of a run"),
        ("libra_retinanet_demo", "holds a detector without an RPN"),
        ("libra_fastrcnn_resnetfpn_coco", "holds a detector without an RPN"),
    ],
)
def test_a_folder_without_an_rpn(tmp_path, capsys, experiment, message):
    if experiment:
        params = exp_factory.get_exp_config(experiment)
        RunFolder(str(tmp_path)).write_config(experiment, params, {})
        tf.train.CheckpointManager(tf.train.Checkpoint(), str(tmp_path), 1).save()
    arguments = [str(tmp_path / "made"), f"--model_dir={tmp_path}"]
    assert program.main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and message in line
    assert not (tmp_path / "made").exists()
