"""Small detectors with random weights: the folder of a run, its export, and images to try them."""

import dataclasses
import io
import pathlib
import shutil

import numpy as np
import tensorflow as tf
import yaml
from official.core import exp_factory, task_factory
from official.modeling import hyperparams
from PIL import Image

from libra_tf.compat import keras
from libra_tf.runs.folder import RunFolder

SMALL = {
    "model": {
        "input_size": [64, 64, 3],
        "backbone": {"resnet": {"model_id": 10, "depth_multiplier": 0.25}},
        "decoder": {"libra_fpn": {"num_filters": 16}},
        "detection_generator": {"max_num_detections": 50},
    },
    "validation_data": {"global_batch_size": 4},
}
MAX_PIXELS = 10_000


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


def write_run(folder, experiment, dataset, overrides, randomize):
    """Writes the folder of a run whose weights are random; returns its task and its model.

    Args:
      folder: the folder.
      experiment: name of the experiment.
      dataset: its data set.
      overrides: what to change in the config of the task, in order.
      randomize: is given the number and the variable of every trainable weight.
    """
    params = exp_factory.get_exp_config(experiment)
    # The same on every machine.
    params.runtime.mixed_precision_dtype = "float32"
    for override in overrides:
        params.task.override(override)
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
    for number, variable in enumerate(model.trainable_variables):
        randomize(number, variable)
    tf.train.CheckpointManager(tf.train.Checkpoint(model=model), folder, 1).save()
    return task, model


def make_run(folder, experiment, dataset, **overrides):
    """Writes a run with scores of all sizes, where an untrained detector has none to show."""

    def randomize(number, variable):
        if "head" in variable.name and "kernel" in variable.name:
            values = tf.random.stateless_normal(variable.shape, [0, number], stddev=0.05)
            variable.assign(values)

    return write_run(folder, experiment, dataset, (SMALL, overrides), randomize)


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


def predict_in_training(model, images, labels):
    """The outputs of a training step, of a detector of one stage or of two."""
    if "rpn_score_targets" not in labels:
        return model(images, training=True)
    return model(
        images,
        image_shape=labels["image_info"][:, 1],
        anchor_boxes=labels["anchor_boxes"],
        gt_boxes=labels["gt_boxes"],
        gt_classes=labels["gt_classes"],
        gt_masks=labels.get("gt_masks"),
        training=True,
    )


def encode(height, width, image_format="JPEG", mode="RGB", seed=0):
    """Bytes of a picture of smooth noise."""
    noise = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).resize((width, height)).convert(mode).save(buffer, format=image_format)
    return buffer.getvalue()


def assert_same(one, other):
    """Compares the outputs for one batch of images.

    Returns the number of detections that had to be found in the other.
    """
    assert set(one) == set(other)
    for name in ("num_detections", "image_size"):
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)
    names = ("boxes", "scores", "classes", "class_names")
    return sum(
        assert_same_detections(
            *([outputs[f"detection_{name}"][image] for name in names] for outputs in (one, other))
        )
        for image in range(len(one["num_detections"]))
    )


def assert_same_detections(one, other):
    """Compares `(boxes, scores, *exact)`, rounded differently: equal scores may change places.

    Returns the number of detections that had to be found in the other.
    """
    (boxes, scores, *exact), (other_boxes, other_scores, *other_exact) = one, other
    np.testing.assert_allclose(scores, other_scores, atol=1e-4)
    same = np.abs(scores[:, None] - other_scores) < 2e-4
    same &= np.all(np.abs(boxes[:, None] - other_boxes) < 1e-3, axis=-1)
    for values, other_values in zip(exact, other_exact, strict=True):
        same &= values[:, None] == other_values
    # The last one may have made way for another of its score.
    must_match = scores > scores[-1] + 2e-4
    assert same.any(axis=1)[must_match].all()
    assert same.any(axis=0)[other_scores > other_scores[-1] + 2e-4].all()
    return np.count_nonzero(must_match)


def filtered(outputs, thresholds):
    """The outputs of a detector, without the rows below the threshold of their class.

    Args:
      outputs: of a batch.
      thresholds: by category id.
    """
    num_rows = outputs["detection_scores"].shape[1]
    result = {name: np.zeros_like(values) for name, values in outputs.items()}
    result["image_size"] = outputs["image_size"]
    for image, num in enumerate(outputs["num_detections"]):
        scores, classes = (outputs[f"detection_{name}"][image] for name in ("scores", "classes"))
        kept = [row for row in range(num) if scores[row] >= thresholds[classes[row]]]
        result["num_detections"][image] = len(kept)
        for name in outputs:
            if name.startswith("detection_") and num_rows:
                result[name][image, : len(kept)] = outputs[name][image, kept]
    return result
