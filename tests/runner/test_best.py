"""The best checkpoint, and the end of a training that no longer gains."""

import json

import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from official.core import exp_factory

import libra_tf.registry_imports  # noqa: F401, registers the experiments
from libra_tf.cli.errors import UsageError
from libra_tf.runner import best
from tests.runner import test_run

pytestmark = pytest.mark.one_lane


class _Evaluations:
    """Evaluations with these APs, ten steps apart."""

    def __init__(self, aps):
        self.evaluations = [{"step": 10 * (i + 1), "AP": ap} for i, ap in enumerate(aps)]


@given(
    aps=st.lists(st.sampled_from([-1.0, 0.0, 0.1, 0.2, 0.3]), max_size=8),
    patience=st.integers(1, 4),
)
def test_ends_after_the_last_gain(aps, patience):
    stop = best.StopWithoutGain(patience, _Evaluations(aps))
    gains = [i for i, ap in enumerate(aps) if all(ap > earlier for earlier in aps[:i])]
    if aps and len(aps) - 1 - gains[-1] >= patience:
        with pytest.raises(best.NoGainError, match=f"at step {10 * (gains[-1] + 1)}$"):
            stop({})
    else:
        stop({})


def test_a_run_that_evaluates_too_rarely_is_refused():
    params = exp_factory.get_exp_config("libra_retinanet_demo")
    best.check_patience(1, params, "train_and_eval")
    with pytest.raises(UsageError, match=r"--patience=2: .*only 2 evaluations.*of .* steps"):
        best.check_patience(2, params, "train_and_eval")
    with pytest.raises(UsageError, match="needs evaluations while it trains"):
        best.check_patience(1, params, "train")
    params.trainer.validation_interval = 0
    with pytest.raises(UsageError, match="validation_interval is 0"):
        best.check_patience(1, params, "train_and_eval")


def test_the_best_checkpoint_bears_its_step_and_needs_a_metric_that_is_measured(tmp_path):
    params = exp_factory.get_exp_config("libra_retinanet_demo")
    checkpoint = tf.train.Checkpoint(global_step=tf.Variable(0, dtype=tf.int64))
    exporter = best.exporter(params, str(tmp_path))
    for step, ap in ((10, 0.2), (20, 0.1), (30, 0.3)):
        checkpoint.global_step.assign(step)
        exporter.maybe_export_checkpoint(checkpoint, {"AP": ap}, step)
    assert [path.name for path in (tmp_path / "best").glob("*.index")] == ["ckpt-30.index"]
    # Resumed with another metric, which none of its evaluations has.
    params.trainer.best_checkpoint_eval_metric = "VOC"
    checkpoint.global_step.assign(40)
    best.exporter(params, str(tmp_path)).maybe_export_checkpoint(checkpoint, {"VOC": 0.1}, 40)
    assert [path.name for path in (tmp_path / "best").glob("*.index")] == ["ckpt-40.index"]
    params.trainer.best_checkpoint_eval_metric = "foo"
    exporter = best.exporter(params, str(tmp_path))
    with pytest.raises(
        UsageError, match="eval_metric is foo, which is not measured; choose one of AP"
    ):
        exporter.maybe_export_checkpoint(checkpoint, {"AP": 0.5}, 40)


def test_evaluations_by_others_do_not_count():
    evaluations = _Evaluations([0.1, 0.9, 0.2])
    for entry, is_of_training in zip(evaluations.evaluations, (True, False, True), strict=True):
        entry["is_of_training"] = is_of_training
    evaluations.evaluations.append(dict(evaluations.evaluations[-1]))
    best.StopWithoutGain(1, evaluations)({})


@pytest.mark.slow
def test_patience_and_the_best_checkpoint_of_a_run(tiny_shapes, tmp_path):
    """With a learning rate of 0 nothing gains after the first evaluation."""
    overrides = (
        f"{test_run.TINY.format(steps=12)},"
        "trainer.optimizer_config.learning_rate.cosine.initial_learning_rate=1e-30,"
        "trainer.optimizer_config.warmup.linear.warmup_learning_rate=0.0"
    )
    arguments = (
        "--mode=train_and_eval",
        "--experiment=libra_retinanet_demo",
        f"--dataset={tiny_shapes.folder}",
        f"--cache_dir={tmp_path / 'cache'}",
        f"--model_dir={tmp_path / 'run'}",
        "--patience=2",
        f"--params_override={overrides}",
    )
    result = test_run.run(*arguments)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "training ended at step 6: AP has not gained for 2 evaluations" in result.stdout
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert [entry["step"] for entry in results["evaluations"]] == [2, 4, 6]
    assert results["best_AP"] == results["evaluations"][0]["AP"]
    assert tf.train.latest_checkpoint(tmp_path / "run/best").endswith("ckpt-2")
    again = test_run.run(*arguments)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "a larger --patience goes on" in again.stdout
