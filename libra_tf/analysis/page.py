"""The report as one HTML page that needs nothing else: no network, no script.

The markup and the words around the figures are in `templates/`, and those of all pages in
`libra_tf/pages/templates/`; `figures.py` makes the figures of each section.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from libra_tf.analysis import commands, figures, verdicts
from libra_tf.analysis.collect import Analysis
from libra_tf.pages import charts, templates

_STATE_CLASSES = {verdicts.FINE: "fine", verdicts.LOOK: "look", verdicts.ACT: "act"}

# The figures of a row, each with the name of its run where there are several.
_Row = list[tuple[str | None, figures.Figure]]


@dataclasses.dataclass(frozen=True)
class Run:
    """A run on the page.

    Attributes:
      name: what the page calls it.
      analysis: what was measured.
      verdicts: what that means.
      metrics: the average precisions of the run's newest evaluation, by name; empty without one.
      metrics_step: the step of that evaluation.
      training: how it was trained; None if that is unknown.
    """

    name: str
    analysis: Analysis
    verdicts: list[verdicts.Verdict]
    metrics: dict[str, float]
    metrics_step: int | None
    training: commands.Training | None = None

    def command(self, verdict: verdicts.Verdict) -> str | None:
        """Returns the command that follows a verdict's advice; None where it changes no config.

        Args:
          verdict: one of the run's.
        """
        return commands.train_with(verdict.config, self.training) if verdict.config else None


def render(runs: Sequence[Run]) -> str:
    """Renders the page.

    Args:
      runs: the run to report on, then those to compare it with.

    Returns:
      An HTML document.
    """
    return (
        templates.environment("libra_tf.analysis")
        .get_template("page.html.j2")
        .render(
            runs=runs,
            state_classes=_STATE_CLASSES,
            summarise=verdicts.summarise,
            lay_out=_gauge,
            key_figures=_key_figures(runs),
            samples=[_samples(kind, runs) for kind in _kinds(runs)],
            features=_rows(runs, figures.features),
            objective=_rows(runs, figures.objective),
            classes=_rows(runs, figures.classes),
        )
    )


def _gauge(gauge: verdicts.Gauge) -> charts.Gauge:
    return charts.gauge(gauge.label, gauge.value, gauge.threshold, gauge.is_share)


def _key_figures(runs: Sequence[Run]) -> charts.Table:
    levels = {level for run in runs for level in run.analysis.numbers["features"]["levels"]}
    by_run = [figures.key_figures(run.analysis.numbers, sorted(levels, key=int)) for run in runs]
    keys = list(dict.fromkeys(key for of_run in by_run for key in of_run))
    rows = [[key, *(of_run.get(key, "-") for of_run in by_run)] for key in keys]
    for name in dict.fromkeys(name for run in runs for name in run.metrics):
        cells = [f"{run.metrics[name]:.3f}" if name in run.metrics else "-" for run in runs]
        rows.append([f"{name}, measured by the run's evaluation", *cells])
    return charts.Table("Runs side by side", ["", *(run.name for run in runs)], rows)


def _kinds(runs: Sequence[Run]) -> list[str]:
    return list(dict.fromkeys(kind for run in runs for kind in run.analysis.numbers["samples"]))


def _samples(kind: str, runs: Sequence[Run]) -> dict[str, Any]:
    return {
        "id": kind,
        "kind": verdicts.NOUNS[kind],
        "charts": _rows(runs, functools.partial(figures.samples, kind)),
        "pictures": _rows(runs, functools.partial(figures.sample_pictures, kind)),
    }


def _rows(
    runs: Sequence[Run], draw: Callable[[Analysis], Iterable[figures.OnSubject]]
) -> list[_Row]:
    """Arranges the figures of one run in a single row, those of several runs by subject."""
    drawn = [dict(draw(run.analysis)) for run in runs]
    if len(runs) == 1:
        return [[(None, figure) for figure in drawn[0].values()]]
    return [
        [
            (run.name, of_run[subject])
            for run, of_run in zip(runs, drawn, strict=True)
            if subject in of_run
        ]
        for subject in dict.fromkeys(subject for of_run in drawn for subject in of_run)
    ]
