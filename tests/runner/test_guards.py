"""What SIGTERM, Ctrl-C and a bad loss do to a training and to an evaluation."""

import os
import signal

import pytest
import tensorflow as tf
from official.core import config_definitions as cfg
from official.core import exp_factory

import libra_tf.registry_imports  # noqa: F401, registers the experiments
from libra_tf.cli.errors import PreemptedError, TrainingError
from libra_tf.runner import config, guards, training
from libra_tf.runs import results
from libra_tf.runs.folder import RunFolder


@pytest.fixture(autouse=True)
def own_handlers():
    """Puts back what pytest does on these signals."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


def test_what_has_nothing_to_save_ends_at_once():
    guards.StopWhenTold(tf.distribute.get_strategy())
    with pytest.raises(PreemptedError, match="rerun the same command to resume"):
        try:
            terminate()
        except Exception:
            pytest.fail("a library would take it for an error of its own")


def test_a_training_ends_where_it_can_be_saved():
    stop = guards.StopWhenTold(tf.distribute.get_strategy())
    with stop.saving_first():
        stop({})
        terminate()
        with pytest.raises(PreemptedError):
            stop({})
    with pytest.raises(PreemptedError):
        terminate()


def test_ctrl_c_saves_first_and_a_second_one_does_not(capfd):
    stop = guards.StopWhenTold(tf.distribute.get_strategy())
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
    with stop.saving_first():
        os.kill(os.getpid(), signal.SIGINT)
        assert "Ctrl-C again stops without saving" in capfd.readouterr().out
        with pytest.raises(PreemptedError) as told:
            stop({})
        assert told.value.status == 130
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def check_losses(folder, losses, **trainer):
    """Checks one loss after another, at steps 10, 20 and so on, as a training does."""
    step = tf.Variable(0, dtype=tf.int64)
    stop = guards.StopOnBadLoss(
        RunFolder(str(folder)), tf.train.Checkpoint(step=step), step, cfg.TrainerConfig(**trainer)
    )
    for loss in losses:
        step.assign_add(10)
        stop({"training_loss": tf.constant(loss), "learning_rate": 0.1})


@pytest.mark.parametrize(
    ("losses", "trainer", "message"),
    [
        ([2.0, float("nan")], {}, "diverged by step 20: training_loss is nan"),
        ([float("inf")], {}, "diverged by step 10: training_loss is inf"),
        # Model Garden's own check would end this in a traceback.
        (
            [5.0, 2e6],
            {},
            r"step 20: training_loss is 2e\+06, above trainer\.loss_upper_bound=1e\+06",
        ),
        ([5.0], {"loss_upper_bound": 4.0}, "training_loss is 5, above trainer.loss_upper_bound=4"),
        ([2e6, 5.0, 2e6], {"recovery_begin_steps": 15}, "diverged by step 30"),
        ([2e6, 3e6, 4e6], {"recovery_max_trials": 2}, "diverged by step 30: training_loss is 4e"),
        ([2e6, float("nan")], {"recovery_max_trials": -1}, "diverged by step 20"),
    ],
)
def test_a_loss_that_explodes_ends_the_training(tmp_path, losses, trainer, message):
    with pytest.raises(TrainingError, match=message) as error:
        check_losses(tmp_path, losses, **trainer)
    step = 10 * len(losses)
    saved = tf.train.load_checkpoint(str(tmp_path / "diverged" / f"step-{step}"))
    assert saved.get_tensor("step/.ATTRIBUTES/VARIABLE_VALUE") == step
    assert "\n" not in str(error.value) and "lower learning rate" in str(error.value)


@pytest.mark.parametrize(
    ("losses", "trainer"),
    [
        ([1e6, 3.0], {}),
        ([2e6] * 3, {"loss_upper_bound": float("inf")}),
        ([2e6] * 3, {"recovery_max_trials": -1}),
        ([2e6, 2.0], {"recovery_begin_steps": 15}),
        ([float("nan"), 2.0], {"recovery_max_trials": 1}),
    ],
)
def test_a_loss_that_is_no_reason_to_end(tmp_path, losses, trainer):
    check_losses(tmp_path, losses, **trainer)
    assert not list(tmp_path.iterdir())


class _EndingIn:
    """Progress that ends the process when a phase begins."""

    def __init__(self, phase):
        self._phase = phase

    def start(self, phase, *args, **kwargs):
        if phase == self._phase:
            terminate()

    def __getattr__(self, name):
        return lambda *args, **kwargs: None


@pytest.mark.one_lane
@pytest.mark.slow
def test_a_signal_in_an_evaluation_saves_the_weights_of_the_training(tiny_shapes, tmp_path):
    """The evaluation is one of their averages, which stay zero here."""
    params = exp_factory.get_exp_config("libra_retinanet_demo")
    config.use_dataset(params, tiny_shapes)
    params.task.override(
        {
            "model": {
                "input_size": [64, 64, 3],
                "backbone": {"resnet": {"model_id": 10, "depth_multiplier": 0.25}},
                "decoder": {"libra_fpn": {"num_filters": 16}},
            },
            "train_data": {"global_batch_size": 2, "shuffle_buffer_size": 1},
            "validation_data": {"global_batch_size": 2},
        }
    )
    ema = {"average_decay": 1.0, "dynamic_decay": False}
    params.trainer.override(
        {
            "train_steps": 4,
            "validation_interval": 2,
            "steps_per_loop": 1,
            # The first step is saved in any case, the second is not.
            "checkpoint_interval": 100,
            # So few steps are done sooner than a graph is built.
            "train_tf_while_loop": False,
            "train_tf_function": False,
            "eval_tf_function": False,
            "optimizer_config": {"ema": ema},
        }
    )
    folder = RunFolder(str(tmp_path))
    record = results.Results(folder, "libra_retinanet_demo", "shapes", "float32")
    strategy = tf.distribute.OneDeviceStrategy("/cpu:0")
    progress = _EndingIn("evaluating")
    with pytest.raises(PreemptedError, match="step 2 is saved"):
        training.run(params, strategy, "train_and_eval", folder, progress, record)
    assert not record.evaluations
    reader = tf.train.load_checkpoint(str(tmp_path / "ckpt-2"))
    shapes = reader.get_variable_to_shape_map()
    averages = [name for name in shapes if "/.OPTIMIZER_SLOT/optimizer/average/" in name]
    kernels = [name.split("/.OPTIMIZER_SLOT")[0] for name in averages if "kernel" in name]
    assert not any(reader.get_tensor(name).any() for name in averages)
    assert all(reader.get_tensor(f"{name}/.ATTRIBUTES/VARIABLE_VALUE").any() for name in kernels)
    assert kernels
