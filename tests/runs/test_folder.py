import pathlib
import re

import pytest
import tensorflow as tf
from official.core import exp_factory

import libra_tf.registry_imports  # noqa: F401
from libra_tf import atomic
from libra_tf.cli.errors import UsageError
from libra_tf.runs import results, trained_run
from libra_tf.runs.folder import RunFolder


def experiment(name="libra_retinanet_demo", **overrides):
    params = exp_factory.get_exp_config(name)
    params.override(overrides)
    return params


@pytest.fixture
def used(tmp_path):
    folder = RunFolder(str(tmp_path))
    folder.write_config("libra_retinanet_demo", experiment(), {})
    tf.train.CheckpointManager(
        tf.train.Checkpoint(step=tf.Variable(1)), folder.path, max_to_keep=1
    ).save()
    return folder


def test_the_same_experiment_may_go_on(used):
    longer = experiment(trainer={"train_steps": 9999})
    for mode in ("train", "eval", "train_and_eval"):
        used.check_continues(mode, longer, "cells")


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
        used.check_continues("train_and_eval", params, "cells")
    assert key in str(error.value)


def test_a_key_that_came_later_had_its_default(used):
    params = experiment("libra_fasterrcnn_demo")
    used.write_config("libra_fasterrcnn_demo", params, {})
    path = pathlib.Path(used.path, "params.yaml")
    text = path.read_text()
    path.write_text(text.replace("      class_balanced: false\n", ""))
    assert path.read_text() != text
    used.check_continues("train", params, "cells")
    params.task.model.roi_sampler.class_balanced = True
    with pytest.raises(UsageError, match="class_balanced was False and would be True"):
        used.check_continues("train", params, "cells")


def test_other_data_may_be_evaluated(used):
    other = experiment(task={"train_data": {"input_path": "other*"}})
    used.check_continues("eval", other, "cells")


def test_an_evaluation_may_change_how_detections_are_chosen(used):
    key = "task.model.detection_generator.pre_nms_score_threshold"
    lower = experiment(task={"model": {"detection_generator": {"pre_nms_score_threshold": 0.001}}})
    assert used.check_continues("eval", experiment(), "cells") == {}
    assert used.check_continues("eval", lower, "cells") == {key: 0.001}
    # What the training evaluates itself with stays the same.
    with pytest.raises(UsageError, match=f"{key} was 0.05 and would be 0.001"):
        used.check_continues("train_and_eval", lower, "cells")
    # Then it chooses no boxes.
    raw = experiment(task={"model": {"detection_generator": {"apply_nms": False}}})
    with pytest.raises(UsageError, match="apply_nms was True and would be False"):
        used.check_continues("eval", raw, "cells")


def test_a_training_may_take_another_implementation_of_the_suppression(used):
    other = experiment(task={"model": {"detection_generator": {"nms_version": "v2"}}})
    key = "task.model.detection_generator.nms_version"
    assert used.check_continues("train", other, "cells") == {key: "v2"}


def test_an_evaluation_may_change_how_many_proposals_there_are(used):
    used.write_config("libra_fasterrcnn_demo", experiment("libra_fasterrcnn_demo"), {})
    model = {"roi_generator": {"test_num_proposals": 300}}
    more = experiment("libra_fasterrcnn_demo", task={"model": model})
    changed = used.check_continues("eval", more, "cells")
    assert changed == {"task.model.roi_generator.test_num_proposals": 300}


def test_the_cache_may_have_moved(used):
    def of(path):
        return experiment(task={"train_data": {"input_path": path}})

    old = f"/old/cache/entries/{'a1' * 16}/train-*.tfrecord"
    used.write_config("libra_retinanet_demo", of(old), {})
    moved = f"/new/place/entries/{'a1' * 16}/train-*.tfrecord"
    used.check_continues("train", of(moved), "cells")
    for other in (moved.replace("a1", "b2"), moved.replace("train-", "val-")):
        with pytest.raises(UsageError, match="another experiment"):
            used.check_continues("train", of(other), "cells")


def test_a_class_of_another_name(used):
    used.write_config(
        "libra_retinanet_demo", experiment(), {1: "RBC", 2: "traffic_light", 3: "3", 4: "WBC"}
    )
    # Another spelling, a class that the import of a detector has no name for, and none.
    used.check_classes({1: "rbc", 2: "traffic light", 3: "Platelets"}, "cells")
    used.check_classes({}, "cells")
    with pytest.raises(
        UsageError, match=r"class 1 is 'RBC', and in cells it is 'WBC'.*names\.json"
    ):
        used.check_classes({1: "WBC", 4: "RBC"}, "cells")


def test_names_say_nothing_without_a_checkpoint_or_a_file(used, tmp_path):
    used.check_classes({1: "a"}, "cells")
    empty = RunFolder(str(tmp_path / "empty"))
    empty.write_config("libra_retinanet_demo", experiment(), {1: "b"})
    empty.check_classes({1: "a"}, "cells")


@pytest.mark.parametrize("kept", [0, 0.3, 0.5])
def test_a_config_that_breaks_off(used, kept):
    path = pathlib.Path(used.path, "params.yaml")
    text = path.read_text()
    path.write_text(text[: int(kept * len(text))])
    for read in (
        lambda: used.check_continues("train", experiment(), "cells"),
        lambda: trained_run.read(used.path),
    ):
        with pytest.raises(UsageError, match=r"params\.yaml is damaged.*delete it") as error:
            read()
        assert len(str(error.value).splitlines()) == 1


def test_names_that_break_off(used):
    pathlib.Path(used.path, "class_names.json").write_text('{"1": "RB')
    with pytest.raises(UsageError, match=r"class_names\.json is damaged.*delete it"):
        used.check_classes({1: "RBC"}, "cells")


def test_a_config_of_something_else(used):
    pathlib.Path(used.path, "params.yaml").write_text("- 1\n- 2\n")
    with pytest.raises(UsageError, match=r"params\.yaml is damaged, or does not belong to a run"):
        trained_run.read(used.path)


def test_nothing_is_seen_half_written(used):
    """A process that is killed while it writes leaves what was there."""
    before = pathlib.Path(used.path, "params.yaml").read_text()
    killed = pytest.raises(KeyboardInterrupt)
    with killed, atomic.unfinished_file(used.file("params.yaml")) as path:
        pathlib.Path(path).write_text("half")
        raise KeyboardInterrupt
    assert pathlib.Path(used.path, "params.yaml").read_text() == before


def test_nothing_to_evaluate(tmp_path):
    with pytest.raises(UsageError, match="holds no checkpoint"):
        RunFolder(str(tmp_path)).check_continues("eval", experiment(), "cells")
    RunFolder(str(tmp_path)).check_continues("train", experiment(), "cells")


def test_the_experiment_says_what_the_config_is_of(used):
    """No key of the config is needed to tell, so a task may have any keys."""
    assert used.read_experiment() == "libra_retinanet_demo"
    used.write_config("libra_fasterrcnn_demo", experiment("libra_fasterrcnn_demo"), {})
    task = trained_run.read(used.path).params.task
    assert type(task) is type(experiment("libra_fasterrcnn_demo").task)


def test_a_run_of_an_earlier_version_says_its_experiment_in_its_results(used):
    pathlib.Path(used.path, "experiment.txt").unlink()
    with pytest.raises(UsageError, match=r"has no experiment\.txt.*rerun the command"):
        trained_run.read(used.path)
    record = results.Results(used, "libra_retinanet_demo", "cells", "float32")
    record.add(1, {}, {})
    assert trained_run.read(used.path).params.task.as_dict() == experiment().task.as_dict()


def test_an_experiment_that_does_not_exist(used):
    pathlib.Path(used.path, "experiment.txt").write_text("libra_unknown\n")
    with pytest.raises(UsageError, match=r"experiment\.txt names 'libra_unknown'"):
        trained_run.read(used.path)


def test_the_best_checkpoint(used):
    with pytest.raises(UsageError, match=r"--checkpoint=best: .* no folder best.*train_and_eval"):
        used.find_checkpoint("best")
    best = pathlib.Path(used.path, "best")
    checkpoint = tf.train.Checkpoint(step=tf.Variable(7))
    tf.train.CheckpointManager(checkpoint, best, 1, checkpoint_name="best_ckpt").save()
    assert used.find_checkpoint("best") == str(best / "best_ckpt-1")
    assert used.find_checkpoint() == used.find_checkpoint("ckpt-1") == used.file("ckpt-1")


def test_a_folder_without_a_checkpoint_is_named_as_every_command_can(used):
    pathlib.Path(used.path, "checkpoint").unlink()
    with pytest.raises(UsageError, match=f"^{re.escape(used.path)} is a folder that lists no"):
        used.find_checkpoint()


def test_what_a_run_was_trained_on(used):
    """An evaluation on other images does not change it."""
    assert used.is_known() and used.read_dataset() is None
    # All that earlier versions wrote down.
    results.Results(used, "libra_retinanet_demo", "cells", "float32").add(1, {}, {})
    assert used.read_dataset() == "cells"
    used.write_config("libra_retinanet_demo", experiment(), {}, "/data/cells")
    results.Results(used, "libra_retinanet_demo", "others", "float32").add(1, {}, {})
    assert used.read_dataset() == "/data/cells"
    pathlib.Path(used.path, "experiment.txt").unlink()
    assert used.is_known() and used.read_experiment() == "libra_retinanet_demo"
    pathlib.Path(used.path, "params.yaml").unlink()
    assert not used.is_known()


def test_a_remote_folder():
    """TensorFlow's file system in memory stands for a store such as gs://."""
    folder = RunFolder("ram://folder/cells")
    assert folder.read_params() is None and folder.read_results() is None
    folder.write_config("libra_retinanet_demo", experiment(), {1: "RBC"})
    tf.train.CheckpointManager(tf.train.Checkpoint(step=tf.Variable(1)), folder.path, 1).save()
    results.Results(folder, "libra_retinanet_demo", "cells", "float32").add(1, {"AP": 0.5}, {})
    assert folder.read_class_names() == {1: "RBC"}
    assert folder.read_results()["AP"] == 0.5
    assert trained_run.read(folder.path).checkpoint == "ram://folder/cells/ckpt-1"
    folder.check_continues("train", experiment(), "cells")
    left = [name for name in tf.io.gfile.listdir(folder.path) if "unfinished" in name]
    assert not left
