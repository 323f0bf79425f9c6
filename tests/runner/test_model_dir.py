import pytest
import tensorflow as tf
from official.core import exp_factory, train_utils

import libra_tf.registry_imports  # noqa: F401
from libra_tf.runner import model_dir
from libra_tf.runner.errors import UsageError


def experiment(name="libra_retinanet_demo", **overrides):
    params = exp_factory.get_exp_config(name)
    params.override(overrides)
    return params


@pytest.fixture
def used(tmp_path):
    train_utils.serialize_config(experiment(), str(tmp_path))
    tf.train.CheckpointManager(
        tf.train.Checkpoint(step=tf.Variable(1)), str(tmp_path), max_to_keep=1
    ).save()
    return str(tmp_path)


def test_the_same_experiment_may_go_on(used):
    longer = experiment(trainer={"train_steps": 9999})
    for mode in ("train", "eval", "train_and_eval"):
        model_dir.check(used, mode, longer)


@pytest.mark.parametrize(
    ("params", "key"),
    [
        (experiment("libra_fasterrcnn_demo"), "task.model.anchor"),
        (experiment(task={"model": {"num_classes": 3}}), "task.model.num_classes was 5"),
        (
            experiment(task={"train_data": {"input_path": "other*"}}),
            "task.train_data.input_path was '' and would be 'other*'",
        ),
    ],
)
def test_another_experiment_is_refused(used, params, key):
    with pytest.raises(UsageError, match="another experiment") as error:
        model_dir.check(used, "train_and_eval", params)
    assert key in str(error.value)


def test_other_data_may_be_evaluated(used):
    model_dir.check(used, "eval", experiment(task={"train_data": {"input_path": "other*"}}))


def test_nothing_to_evaluate(tmp_path):
    with pytest.raises(UsageError, match="holds no checkpoint"):
        model_dir.check(str(tmp_path), "eval", experiment())
    model_dir.check(str(tmp_path), "train", experiment())
