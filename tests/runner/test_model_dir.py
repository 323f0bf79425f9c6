import pathlib

import pytest
import tensorflow as tf
from official.core import exp_factory, train_utils

import libra_tf.registry_imports  # noqa: F401
from libra_tf.cli.errors import UsageError
from libra_tf.runs import model_dir, run_files, trained_run


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
        model_dir.check(used, mode, longer, "cells")


@pytest.mark.parametrize(
    ("params", "key"),
    [
        (experiment("libra_fasterrcnn_demo"), "task.model.anchor"),
        (experiment(task={"model": {"num_classes": 3}}), "task.model.num_classes was 5"),
        (
            experiment(task={"train_data": {"input_path": "other*"}}),
            "input_path was '' and would be 'other*', the training images of cells",
        ),
    ],
)
def test_another_experiment_is_refused(used, params, key):
    with pytest.raises(UsageError, match="another experiment") as error:
        model_dir.check(used, "train_and_eval", params, "cells")
    assert key in str(error.value)


def test_other_data_may_be_evaluated(used):
    other = experiment(task={"train_data": {"input_path": "other*"}})
    model_dir.check(used, "eval", other, "cells")


def test_the_cache_may_have_moved(used):
    def of(path):
        return experiment(task={"train_data": {"input_path": path}})

    run_files.write_params(used, of(f"/old/cache/entries/{'a1' * 16}/train-*.tfrecord"))
    moved = f"/new/place/entries/{'a1' * 16}/train-*.tfrecord"
    model_dir.check(used, "train", of(moved), "cells")
    for other in (moved.replace("a1", "b2"), moved.replace("train-", "val-")):
        with pytest.raises(UsageError, match="another experiment"):
            model_dir.check(used, "train", of(other), "cells")


def test_a_class_of_another_name(used):
    trained_run.write_class_names(used, {1: "RBC", 2: "traffic_light", 3: "3", 4: "WBC"})
    # Another spelling, a class that the import of a detector has no name for, and none.
    model_dir.check_classes(used, {1: "rbc", 2: "traffic light", 3: "Platelets"}, "cells")
    model_dir.check_classes(used, {}, "cells")
    with pytest.raises(
        UsageError, match=r"class 1 is 'RBC', and in cells it is 'WBC'.*names\.json"
    ):
        model_dir.check_classes(used, {1: "WBC", 4: "RBC"}, "cells")


def test_names_say_nothing_without_a_checkpoint_or_a_file(used, tmp_path):
    model_dir.check_classes(used, {1: "a"}, "cells")
    empty = tmp_path / "empty"
    empty.mkdir()
    trained_run.write_class_names(str(empty), {1: "b"})
    model_dir.check_classes(str(empty), {1: "a"}, "cells")


@pytest.mark.parametrize("kept", [0, 0.3, 0.5])
def test_a_config_that_breaks_off(used, kept):
    path = pathlib.Path(used, "params.yaml")
    text = path.read_text()
    path.write_text(text[: int(kept * len(text))])
    for read in (
        lambda: model_dir.check(used, "train", experiment(), "cells"),
        lambda: trained_run.read(used),
    ):
        with pytest.raises(UsageError, match=r"params\.yaml is damaged.*delete it") as error:
            read()
        assert len(str(error.value).splitlines()) == 1


def test_names_that_break_off(used):
    pathlib.Path(used, "class_names.json").write_text('{"1": "RB')
    with pytest.raises(UsageError, match=r"class_names\.json is damaged.*delete it"):
        model_dir.check_classes(used, {1: "RBC"}, "cells")


def test_a_config_of_something_else(used):
    pathlib.Path(used, "params.yaml").write_text("- 1\n- 2\n")
    with pytest.raises(UsageError, match=r"params\.yaml is damaged, or not of a run"):
        trained_run.read(used)


def test_nothing_is_seen_half_written(used):
    """A process that is killed while it writes leaves what was there."""
    before = pathlib.Path(used, "params.yaml").read_text()
    killed = pytest.raises(KeyboardInterrupt)
    with killed, run_files.written_whole(f"{used}/params.yaml") as path:
        pathlib.Path(path).write_text("half")
        raise KeyboardInterrupt
    assert pathlib.Path(used, "params.yaml").read_text() == before


def test_nothing_to_evaluate(tmp_path):
    with pytest.raises(UsageError, match="holds no checkpoint"):
        model_dir.check(str(tmp_path), "eval", experiment(), "cells")
    model_dir.check(str(tmp_path), "train", experiment(), "cells")
