"""A run with one checkpoint, and what is exported of it."""

import dataclasses
import io
import json
import pathlib
import shutil

import numpy as np
import pytest
import tensorflow as tf
import yaml
from official.core import exp_factory, task_factory
from official.modeling import hyperparams
from PIL import Image

from libra_tf.compat import keras
from libra_tf.runs.folder import RunFolder
from libra_tf.serving import saved_model

SMALL = {
    "model": {
        "input_size": [64, 64, 3],
        "backbone": {"resnet": {"depth_multiplier": 0.25}},
        "decoder": {"libra_fpn": {"num_filters": 16}},
        "detection_generator": {"max_num_detections": 50},
    },
    "validation_data": {"global_batch_size": 4},
}


@dataclasses.dataclass(frozen=True)
class Exported:
    """A detector in three forms.

    Attributes:
      model_dir: the folder of its run.
      task: its task.
      model: the Keras model.
      folder: the folder of the SavedModel's version.
      serve: its default signature: list of bytes -> outputs as numpy arrays.
    """

    model_dir: str
    task: object
    model: object
    folder: str
    serve: object


def make_run(folder, experiment, dataset, **overrides):
    """Writes the folder of a run whose weights are random; returns its task and its model."""
    params = exp_factory.get_exp_config(experiment)
    params.task.override(SMALL)
    params.task.override(overrides)
    params.task.annotation_file = dataset.val.annotation_file
    for data, split in (
        (params.task.train_data, dataset.train),
        (params.task.validation_data, dataset.val),
    ):
        data.input_path = split.input_path
    RunFolder(folder).write_config(experiment, params, dataset.class_names)
    task = task_factory.get_task(params.task)
    keras.utils.set_random_seed(0)
    model = task.build_model()
    # Scores of all sizes, where an untrained detector has none above the threshold.
    for i, variable in enumerate(model.trainable_variables):
        if "head" in variable.name and "kernel" in variable.name:
            variable.assign(tf.random.stateless_normal(variable.shape, [0, i], stddev=0.05))
    tf.train.CheckpointManager(tf.train.Checkpoint(model=model), folder, 1).save()
    return task, model


def copy_run(model_dir, folder, **suppression):
    """Copies a run, with another suppression in its config; returns the folder."""
    shutil.copytree(model_dir, folder)
    path = pathlib.Path(folder, "params.yaml")
    params = hyperparams.read_yaml_to_params_dict(str(path)).as_dict()
    params["task"]["model"]["detection_generator"].update(suppression)
    path.write_text(yaml.dump(params))
    return str(folder)


def load(folder):
    """Returns the default signature as a function of a list of bytes."""
    function = tf.saved_model.load(folder).signatures["serving_default"]

    def serve(images):
        outputs = function(image_bytes=tf.constant(images))
        return {name: value.numpy() for name, value in outputs.items()}

    return serve


@pytest.fixture(scope="session", params=["retinanet", "fasterrcnn"])
def exported(request, tiny_shapes, tmp_path_factory):
    root = tmp_path_factory.mktemp(request.param)
    model_dir = str(root / "run")
    task, model = make_run(model_dir, f"libra_{request.param}_demo", tiny_shapes)
    folder = saved_model.export(model_dir, str(root / "served"), max_pixels=10_000, report=str)
    return Exported(model_dir, task, model, folder, load(folder))


@pytest.fixture(scope="session")
def val_images(tiny_shapes):
    """Image id -> the bytes of its file."""
    features = {
        "image/encoded": tf.io.FixedLenFeature([], tf.string),
        "image/source_id": tf.io.FixedLenFeature([], tf.string),
    }
    images = {}
    for record in tf.data.TFRecordDataset(tf.io.gfile.glob(tiny_shapes.val.input_path)):
        example = tf.io.parse_single_example(record, features)
        images[int(example["image/source_id"])] = example["image/encoded"].numpy()
    with open(tiny_shapes.val.annotation_file) as file:
        assert sorted(images) == sorted(image["id"] for image in json.load(file)["images"])
    return images


def encode(height, width, image_format="JPEG", mode="RGB", seed=0):
    """Bytes of a picture of smooth noise."""
    noise = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).resize((width, height)).convert(mode).save(buffer, format=image_format)
    return buffer.getvalue()
