"""What fails before a run is under way is one message, and its traceback is in the log."""

import io
import signal

import gin
import pytest
import rich.console
import tensorflow as tf

from libra_tf.cli.errors import TrainingError, UsageError
from libra_tf.compat import keras
from libra_tf.runner import session
from libra_tf.runner.stages import Stage, Stages, cause
from libra_tf.runner.startup import StartUp


def _error(block):
    with pytest.raises(Exception) as raised:
        block()
    return raised.value


class _Adding(keras.layers.Layer):
    def call(self, one):
        return one + tf.zeros([3, 3])


@tf.function
def _in_a_graph():
    _Adding()(tf.zeros([2, 2]))


@tf.function
def _lookup():
    return {}["boxes"]


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (_in_a_graph, r"^ValueError: Dimensions must be equal, but are 2 and 3"),
        (lambda: _Adding()(tf.zeros([2, 2])), r"^InvalidArgumentError: .*Incompatible shapes"),
        (_lookup, r"^KeyError: 'boxes'$"),
        (
            lambda: tf.data.Dataset.range(3).shuffle(0),
            r"^InvalidArgumentError: buffer_size must be",
        ),
        (lambda: [].pop(), r"^IndexError: pop from empty list$"),
        (lambda: next(iter([])), r"^StopIteration$"),
    ],
)
def test_the_cause_is_the_line_that_says_what_is_wrong(block, message):
    error = _error(block)
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(cause(error))


@pytest.mark.parametrize("stage", Stage)
def test_a_stage_is_explained(stage):
    stages = Stages()
    stages.current = stage
    message = rf"^demo failed while {stage}: KeyError: 'a'\. .*in runs/demo/log\.txt$"
    with pytest.raises(UsageError, match=message), stages.explained("demo", "runs/demo/log.txt"):
        raise KeyError("a")


@pytest.mark.parametrize(
    ("stage", "error"), [(None, KeyError), (Stage.STEP, TrainingError), (Stage.MODEL, UsageError)]
)
def test_what_is_clear_or_comes_later_passes(stage, error):
    stages = Stages()
    stages.current = stage
    with pytest.raises(error) as raised, stages.explained("demo", "runs/demo/log.txt"):
        raise error("as it is")
    assert raised.value.args == ("as it is",)


@pytest.fixture
def run(parse, tiny_shapes, tmp_path):
    """Returns a function that runs a session in this process, as `run.py` does."""
    handler = signal.getsignal(signal.SIGTERM)

    def run(override):
        flag_values = parse(
            f"--dataset={tiny_shapes.folder}",
            f"--cache_dir={tmp_path / 'cache'}",
            "--params_override=task.model.input_size=[64,64,3],runtime.mixed_precision_dtype="
            f"float32,task.train_data.global_batch_size=2,{override}",
        )
        console = rich.console.Console(file=io.StringIO())
        session.run("libra_retinanet_demo", str(tmp_path / "run"), flag_values, console, StartUp())

    yield run
    signal.signal(signal.SIGTERM, handler)
    gin.clear_config()


def test_a_value_that_fails_in_building_is_one_message(run, tmp_path):
    message = r"^libra_retinanet_demo failed while building the model: ValueError: .*filters"
    with pytest.raises(UsageError, match=message) as raised:
        run("task.model.backbone.resnet.depth_multiplier=0.0001")
    log = tmp_path / "run" / "log.txt"
    assert "\n" not in str(raised.value) and str(log) in str(raised.value)
    assert "Traceback (most recent call last)" in log.read_text()
    assert "build_model" in log.read_text()
