import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf
from official.core import exp_factory

import libra_tf.registry_imports  # noqa: F401, registers the experiments
from libra_tf.cli.errors import TrainingError, UsageError
from libra_tf.data import DatasetError
from libra_tf.dataloaders.proposals import read_proposals
from libra_tf.runner import proposals

pytestmark = pytest.mark.one_lane


@pytest.fixture
def params():
    return exp_factory.get_exp_config("libra_fastrcnn_resnetfpn_coco")


def image_ids(split):
    with open(split.annotation_file) as file:
        return [image["id"] for image in json.load(file)["images"]]


@pytest.fixture
def complete(params, tiny_shapes, tmp_path):
    """The config of a run whose images all have proposals."""
    params.task.annotation_file = tiny_shapes.val.annotation_file
    for name, split in (("train_data", tiny_shapes.train), ("validation_data", tiny_shapes.val)):
        folder = tmp_path / name
        folder.mkdir()
        for image_id in image_ids(split):
            np.save(folder / f"{image_id}.npy", np.zeros((0, 4), np.float32))
        getattr(params.task, name).proposals = str(folder)
    return params


def test_complete(complete, tiny_shapes):
    for mode in ("train", "eval", "train_and_eval"):
        proposals.check_folders(complete, mode)
        proposals.check_files(complete, mode, tiny_shapes)


@pytest.mark.parametrize(
    ("mode", "key"),
    [
        ("train", "task.train_data.proposals"),
        ("eval", "task.validation_data.proposals"),
        ("train_and_eval", "task.train_data.proposals"),
    ],
)
def test_a_folder_that_is_not_set(params, mode, key):
    with pytest.raises(UsageError, match=rf"^{key} is not set.*--params_override={key}=FOLDER"):
        proposals.check_folders(params, mode)


def test_a_folder_that_is_not_there(complete, tmp_path):
    complete.task.train_data.proposals = str(tmp_path / "none")
    proposals.check_folders(complete, "eval")
    with pytest.raises(UsageError, match=r"^task\.train_data\.proposals is '.*none', but there is"):
        proposals.check_folders(complete, "train")


@pytest.mark.parametrize("name", ["train_data", "validation_data"])
def test_images_without_a_file(complete, tiny_shapes, tmp_path, name):
    split = dataclasses.asdict(tiny_shapes)["train" if name == "train_data" else "val"]
    for image_id in (2, 4):
        (tmp_path / name / f"{image_id}.npy").unlink()
    message = rf"^task\.{name}\.proposals is .* 2 of the {split['num_examples']} .*: 2\.npy, 4\.npy"
    with pytest.raises(UsageError, match=message):
        proposals.check_files(complete, "train_and_eval", tiny_shapes)
    if name == "train_data":
        # Nothing is known of the images of TFRecords.
        proposals.check_files(complete, "train_and_eval", None)


def test_annotations_that_are_not_coco(complete, tmp_path):
    complete.task.annotation_file = str(tmp_path / "other.json")
    (tmp_path / "other.json").write_text('{"pictures": []}')
    with pytest.raises(DatasetError, match=r"other\.json is not a COCO annotation file"):
        proposals.check_files(complete, "eval", None)


def test_other_experiments_need_none():
    params = exp_factory.get_exp_config("libra_fasterrcnn_resnetfpn_coco")
    proposals.check_folders(params, "train_and_eval")
    proposals.check_files(params, "train_and_eval", None)


def test_what_training_says(tmp_path):
    message = rf"there is no file of proposals {tmp_path}/5\.npy"
    with pytest.raises(TrainingError, match=message), proposals.explained():
        read_proposals(str(tmp_path), tf.constant("5"))
    with pytest.raises(tf.errors.NotFoundError), proposals.explained():
        tf.io.read_file(str(tmp_path / "5.tfrecord"))
