"""Holds what the report says of a detector against what each Libra component then gains.

    python benchmarks/verdicts.py                               reports on what `dials.py` trained
    python benchmarks/verdicts.py --report --plot=verdicts.svg  table and picture of the records

Every baseline that `dials.py` has trained gets a report. For each component, the number that
decides the verdict on its imbalance is paired with what the component gained on the same images
with the same seed. If the report is of use, the gain grows with the number: the table has
Spearman's rank correlation, and how often the component gained above a threshold and below it. The
threshold is the same for all reports, whichever the verdict had when they were made.

Reports that were made are recorded and not repeated. The first records have the numbers that
decided the verdicts and not those measured, so some lack the number that is asked for. The table
counts these.
"""

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib.figure
from absl import app, flags
from scipy import stats

from rows import BASELINE
from trainings import ROOT, append, folder, is_recorded, make_folder_of, read


@dataclasses.dataclass(frozen=True)
class Question:
    """What of a report is held against the gain of a component.

    Attributes:
      title: of the verdict on its imbalance.
      label: how the label of the verdict's number begins where it is the one that is asked for. A
        verdict may turn on another, which cannot be ranked with it.
      threshold: above it, the component should gain.
      number: returns the number from what was measured; None if there is none.
    """

    title: str
    label: str
    threshold: float
    number: Callable[[Mapping[str, Any]], float | None]


def _more_hard_picks(measured: Mapping[str, Any]) -> float | None:
    balanced, random = (measured["hard_shares"][name] for name in ("iou_balanced", "random"))
    return None if balanced is None or random is None else balanced - random


def _multiple_of_smallest_level(measured: Mapping[str, Any]) -> float | None:
    shares = measured["level_shares"]
    return max(shares) / min(shares) if min(shares) > 0 else None


def _gradient_from_outliers(measured: Mapping[str, Any]) -> float | None:
    share = measured["inlier_gradient_share"]
    return None if share is None else 1 - share


QUESTIONS = {
    "IoU-balanced sampling": Question(
        "Hard negatives among the proposals", "more hard picks if balanced", 0.1, _more_hard_picks
    ),
    "balanced pyramid": Question(
        "Levels of the pyramid", "share of", 3.0, _multiple_of_smallest_level
    ),
    "balanced L1": Question(
        "Inliers and outliers of the box errors",
        "gradient that comes from outliers",
        0.5,
        _gradient_from_outliers,
    ),
}

_STEPS = flags.DEFINE_integer("steps", 250, "Steps of the trainings.", lower_bound=1)
_BATCHES = flags.DEFINE_integer("batches", 4, "Batches that a report measures.", lower_bound=1)
_TRAININGS = flags.DEFINE_string(
    "trainings", str(ROOT / "benchmarks/records/dials.jsonl"), "Records of `dials.py`."
)
_RECORDS = flags.DEFINE_string(
    "records", str(ROOT / "benchmarks/records/verdicts.jsonl"), "Records of the reports."
)
_RUNS = flags.DEFINE_string("runs", str(ROOT / "runs/dials"), "Folder of the trainings.")
_REPORT = flags.DEFINE_bool("report", False, "Only print the table of the recorded reports.")
_PLOT = flags.DEFINE_string("plot", None, "SVG file to draw gains against numbers in.")


@dataclasses.dataclass(frozen=True)
class Pair:
    """What the report says of a baseline, and what a component gains on it.

    Attributes:
      value: the number that is asked for; None if the record lacks it.
      gain: AP with the component less AP without it.
    """

    value: float | None
    gain: float


def main(_: list[str]) -> None:
    """Makes the missing reports and prints the table."""
    if _PLOT.value:
        make_folder_of(_PLOT.value)
    trainings = [record for record in read(_TRAININGS.value) if record["steps"] == _STEPS.value]
    if not _REPORT.value:
        for training in trainings:
            if training["row"] == BASELINE:
                _report_once(training)
    measured = _STEPS.value, _BATCHES.value
    reports = [r for r in read(_RECORDS.value) if (r["steps"], r["batches"]) == measured]
    pairs = {component: pair(component, reports, trainings) for component in QUESTIONS}
    print("\n".join(table(pairs)))
    if _PLOT.value:
        picture(pairs).savefig(_PLOT.value)


def _report_once(training: Mapping[str, Any]) -> None:
    """Reports on a baseline and records what was measured, unless that is recorded."""
    of_training = {name: training[name] for name in ("dataset", "seed", "steps")}
    key = {**of_training, "batches": _BATCHES.value}
    if is_recorded(_RECORDS.value, key):
        return
    names = ("dataset", "row", "seed", "steps")
    model_dir = folder(_RUNS.value, {name: training[name] for name in names})
    command = [sys.executable, "-m", "libra_tf", "report", f"--model_dir={model_dir}"]
    subprocess.run([*command, f"--batches={_BATCHES.value}"], check=True, cwd=ROOT)
    with open(os.path.join(model_dir, "analysis", "report.json")) as file:
        (run,) = json.load(file)["runs"]
    append(_RECORDS.value, {**key, "measured": _measured(run)})


def _measured(run: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the numbers of a report that the questions are about."""
    errors = run["objective"]["box_errors"]["frcnn_box"]
    picks = run["samples"]["proposals"]["picks"]
    return {
        "hard_shares": {name: of_pick["hard_share"] for name, of_pick in picks.items()},
        "level_shares": run["features"]["share"],
        "inlier_count_share": errors["inlier_count_share"],
        "inlier_gradient_share": errors["inlier_gradient_share"],
    }


def pair(
    component: str,
    reports: Sequence[Mapping[str, Any]],
    trainings: Sequence[Mapping[str, Any]],
) -> list[Pair]:
    """Pairs what the report says of the baselines with what a component gains on them.

    Args:
      component: a key of `QUESTIONS`.
      reports: what was recorded of them.
      trainings: what was recorded of those, all with the same number of steps.

    Returns:
      A pair for every report on a baseline that has both trainings.
    """
    precisions = {(t["dataset"], t["seed"], t["row"]): t["AP"] for t in trainings}
    pairs = []
    for report in reports:
        of_run = report["dataset"], report["seed"]
        without, with_it = (precisions.get((*of_run, row)) for row in (BASELINE, component))
        if without is not None and with_it is not None:
            pairs.append(Pair(_number(report, QUESTIONS[component]), with_it - without))
    return pairs


def _number(report: Mapping[str, Any], question: Question) -> float | None:
    """Returns the number that is asked for; None if the record lacks it."""
    if "measured" in report:
        return question.number(report["measured"])
    gauge = report["gauges"].get(question.title)
    return gauge["value"] if gauge and gauge["label"].startswith(question.label) else None


def table(pairs: Mapping[str, Sequence[Pair]]) -> list[str]:
    """Returns the lines of a Markdown table with a row for each component.

    Args:
      pairs: by component; see `pair`.
    """
    lines = [
        "| component | verdict | threshold | rank correlation | gained above the threshold "
        "| and below it | left out, as the record lacks the number |",
        f"|{' --- |' * 7}",
    ]
    for component, of_component in pairs.items():
        question, known = QUESTIONS[component], _with_number(of_component)
        above = [p.gain for p in known if p.value > question.threshold]
        below = [p.gain for p in known if p.value <= question.threshold]
        cells = [component, question.title, f"{question.threshold:g}", _correlation(known)]
        cells += [
            f"{sum(gain > 0 for gain in of_side)} of {len(of_side)}" for of_side in (above, below)
        ]
        cells.append(str(len(of_component) - len(known)))
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _with_number(pairs: Sequence[Pair]) -> list[Pair]:
    return [p for p in pairs if p.value is not None]


def _correlation(pairs: Sequence[Pair]) -> str:
    """Returns Spearman's rank correlation with its p-value, as a cell of a table."""
    if len({p.value for p in pairs}) < 3 or len({p.gain for p in pairs}) < 3:
        return "-"
    found = stats.spearmanr([p.value for p in pairs], [p.gain for p in pairs])
    return f"{found.statistic:+.2f} (p = {found.pvalue:.2g}, {len(pairs)} runs)"


def picture(pairs: Mapping[str, Sequence[Pair]]) -> matplotlib.figure.Figure:
    """Draws what each component gained against the number that decides its verdict.

    Args:
      pairs: by component; see `pair`.

    Returns:
      A figure with a panel for each component.
    """
    figure = matplotlib.figure.Figure(figsize=(4.5 * len(pairs), 3.6), layout="constrained")
    panels = figure.subplots(1, len(pairs), sharey=True, squeeze=False)[0]
    for axes, (component, of_component) in zip(panels, pairs.items(), strict=True):
        known = _with_number(of_component)
        axes.scatter([p.value for p in known], [p.gain for p in known])
        axes.axhline(0, color="grey", linewidth=0.8)
        axes.set_title(component)
        axes.set_xlabel(QUESTIONS[component].label.removesuffix(" of"))
    panels[0].set_ylabel("AP gained on the baseline")
    return figure


if __name__ == "__main__":
    app.run(main)
