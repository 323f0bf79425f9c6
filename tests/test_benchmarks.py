"""What the benchmarks compute from the times they measure, and what they record of trainings."""

import json
import pathlib
import subprocess

import pytest

from benchmarks import side_by_side, trainings

pytestmark = pytest.mark.one_lane


def test_ratios_compare_the_same_precision_and_the_fastest_ones():
    seconds = {
        "ours in float32": 2.0,
        "ours in bfloat16": 1.0,
        "MMDetection in float32": 3.0,
        "MMDetection in bfloat16": 6.0,
    }
    assert side_by_side.ratios(seconds).splitlines() == [
        "bfloat16 / float32: ours 0.50, MMDetection 2.00",
        "MMDetection / ours: 1.50 in float32, 6.00 in bfloat16, 3.00 with each at its fastest",
    ]


def test_ratios_of_one_precision():
    seconds = {"ours in float32": 2.0, "Model Garden in float32": 3.0}
    assert side_by_side.ratios(seconds) == "Model Garden / ours: 1.50 in float32"


@pytest.fixture
def train(tmp_path, monkeypatch):
    """Returns a function that trains once, with figures instead of a training, and records it.

    Its arguments are those of `run.py`. It returns the records.
    """

    def run(command, **_):
        (model_dir,) = (a.removeprefix("--model_dir=") for a in command if "--model_dir" in a)
        pathlib.Path(model_dir).mkdir(parents=True)
        metrics = dict.fromkeys(trainings.METRICS + trainings.SIZE_METRICS, 0.5)
        (pathlib.Path(model_dir) / "results.json").write_text(json.dumps(metrics))

    def train_once(*arguments):
        records = str(tmp_path / "records.jsonl")
        trainings.train_once(records, str(tmp_path / "runs"), {"row": "baseline"}, arguments)
        return trainings.read(records)

    monkeypatch.setattr(subprocess, "run", run)
    return train_once


@pytest.mark.parametrize(("variable", "is_on"), [(None, True), ("1", True), ("0", False)])
def test_a_record_says_how_it_was_trained(train, monkeypatch, variable, is_on):
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS", raising=False)
    if variable:
        monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", variable)
    (record,) = train("--seed=0", "--dataset=somewhere")
    assert (record["arguments"], record["onednn"]) == (["--seed=0"], is_on)


def test_a_record_of_another_training_is_not_taken_for_this_one(train):
    train("--seed=0", "--dataset=somewhere")
    # The same data set may lie elsewhere.
    assert len(train("--seed=0", "--dataset=elsewhere")) == 1
    with pytest.raises(SystemExit, match="arguments are --seed=0, and those of this one --seed=1"):
        train("--seed=1", "--dataset=somewhere")


def test_a_record_without_arguments_counts_as_done(train, tmp_path):
    trainings.append(str(tmp_path / "records.jsonl"), {"row": "baseline", "AP": 0.1})
    assert train("--seed=0") == [{"row": "baseline", "AP": 0.1}]
