"""Holds what the report says of a detector against what each Libra component then gains.

    python benchmarks/verdicts.py                               reports on what `dials.py` trained
    python benchmarks/verdicts.py --report --plot=verdicts.svg  table and picture of the records

Every baseline that `dials.py` has trained gets a report. For each component, the number that
decides the verdict on its imbalance is paired with what the component gained on the same images
with the same seed. If the report is of use, the gain grows with the number: the table has
Spearman's rank correlation, and how often the component gained above the threshold that the verdict
had at the time, and below it.

Reports that were made are recorded and not repeated.
"""

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.figure
from absl import app, flags
from scipy import stats

from rows import BASELINE
from trainings import ROOT, append, folder, is_recorded, make_folder_of, read

# Of each component, the title of the verdict on its imbalance, and how the label of its number
# begins: a verdict may turn on other numbers, which cannot be ranked with it.
VERDICTS = {
    "IoU-balanced sampling": ("Hard negatives among the proposals", "more hard picks if balanced"),
    "balanced pyramid": ("Levels of the pyramid", "share of"),
    "balanced L1": ("Inliers and outliers of the box errors", "gradient that comes from outliers"),
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
      value: the number that decides the verdict.
      threshold: of the number; see `libra_tf.analysis.verdicts.Gauge`.
      gain: AP with the component less AP without it.
    """

    value: float
    threshold: float
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
    pairs = {
        component: pair(component, title, label, reports, trainings)
        for component, (title, label) in VERDICTS.items()
    }
    print("\n".join(table(pairs)))
    if _PLOT.value:
        picture(pairs).savefig(_PLOT.value)


def _report_once(training: Mapping[str, Any]) -> None:
    """Reports on a baseline and records what decides its verdicts, unless that is recorded."""
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
    gauges = {v["title"]: v["gauge"] for v in run["verdicts"] if v["gauge"]}
    append(_RECORDS.value, {**key, "gauges": gauges})


def pair(
    component: str,
    title: str,
    label: str,
    reports: Sequence[Mapping[str, Any]],
    trainings: Sequence[Mapping[str, Any]],
) -> list[Pair]:
    """Pairs what a verdict says of the baselines with what a component gains on them.

    Args:
      component: a key of `VERDICTS`.
      title: of the verdict.
      label: how that of its number begins.
      reports: what was recorded of them.
      trainings: what was recorded of those, all with the same number of steps.

    Returns:
      A pair for every report that has such a number and both trainings.
    """
    precisions = {(t["dataset"], t["seed"], t["row"]): t["AP"] for t in trainings}
    pairs = []
    for report in reports:
        of_run = report["dataset"], report["seed"]
        without, with_it = (precisions.get((*of_run, row)) for row in (BASELINE, component))
        gauge = report["gauges"].get(title)
        is_same = gauge and gauge["label"].startswith(label)
        if is_same and without is not None and with_it is not None:
            pairs.append(Pair(gauge["value"], gauge["threshold"], with_it - without))
    return pairs


def table(pairs: Mapping[str, Sequence[Pair]]) -> list[str]:
    """Returns the lines of a Markdown table with a row for each component.

    Args:
      pairs: by component; see `pair`.
    """
    lines = [
        "| component | verdict | rank correlation | gained above the threshold | and below it |",
        "| --- | --- | --- | --- | --- |",
    ]
    for component, of_component in pairs.items():
        above = [p.gain for p in of_component if p.value > p.threshold]
        below = [p.gain for p in of_component if p.value <= p.threshold]
        cells = [component, VERDICTS[component][0], _correlation(of_component)]
        cells += [
            f"{sum(gain > 0 for gain in of_side)} of {len(of_side)}" for of_side in (above, below)
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


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
        axes.scatter([p.value for p in of_component], [p.gain for p in of_component])
        axes.axhline(0, color="grey", linewidth=0.8)
        axes.set_title(component)
        axes.set_xlabel(VERDICTS[component][1].removesuffix(" of"))
    panels[0].set_ylabel("AP gained on the baseline")
    return figure


if __name__ == "__main__":
    app.run(main)
