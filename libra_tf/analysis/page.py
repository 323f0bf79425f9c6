"""The report as one HTML page that needs nothing else: no network, no script.

The markup, the style and the words around the figures are in `templates/`; `figures.py` makes the
figures of each section.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jinja2

from libra_tf.analysis import charts, figures, verdicts
from libra_tf.analysis.collect import Analysis

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
    """

    name: str
    analysis: Analysis
    verdicts: list[verdicts.Verdict]
    metrics: dict[str, float]
    metrics_step: int | None


def render(runs: Sequence[Run]) -> str:
    """Renders the page.

    Args:
      runs: the run to report on, then those to compare it with.

    Returns:
      An HTML document.
    """
    return (
        _templates()
        .get_template("page.html.j2")
        .render(
            runs=runs,
            state_classes=_STATE_CLASSES,
            key_figures=_key_figures(runs),
            samples=[_samples(kind, runs) for kind in _kinds(runs)],
            features=_rows(runs, figures.features),
            objective=_rows(runs, figures.objective),
        )
    )


@functools.cache
def _templates() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("libra_tf.analysis"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    # A tenth of a pixel is more than can be seen.
    environment.filters["px"] = lambda position: f"{position:.1f}"
    return environment


def _key_figures(runs: Sequence[Run]) -> charts.Table:
    by_run = [figures.key_figures(run.analysis.numbers) for run in runs]
    keys = list(dict.fromkeys(key for of_run in by_run for key in of_run))
    rows = [[key, *(of_run.get(key, "-") for of_run in by_run)] for key in keys]
    for name in dict.fromkeys(name for run in runs for name in run.metrics):
        cells = [f"{run.metrics[name]:.3f}" if name in run.metrics else "-" for run in runs]
        rows.append([f"{name}, measured by the run's evaluation", *cells])
    return charts.Table("Runs side by side", ["", *(run.name for run in runs)], rows)


def _kinds(runs: Sequence[Run]) -> list[str]:
    return list(dict.fromkeys(kind for run in runs for kind in run.analysis.numbers["samples"]))


def _samples(kind: str, runs: Sequence[Run]) -> dict[str, Any]:
    runs = [run for run in runs if kind in run.analysis.numbers["samples"]]
    # A detector's pictures show its first kind of candidates, which is never the RPN's anchors.
    has_pictures = kind != "rpn_anchors"
    return {
        "kind": verdicts.NOUNS[kind],
        "charts": _rows(runs, lambda analysis: figures.samples(kind, analysis)),
        "pictures": _rows(runs, figures.sample_pictures) if has_pictures else [],
    }


def _rows(runs: Sequence[Run], draw: Callable[[Analysis], Iterator[figures.Figure]]) -> list[_Row]:
    """Arranges the figures of one run in a single row, those of several runs side by side."""
    drawn = [list(draw(run.analysis)) for run in runs]
    if len(runs) == 1:
        return [[(None, figure) for figure in drawn[0]]]
    return [
        [
            (run.name, of_run[column])
            for run, of_run in zip(runs, drawn, strict=True)
            if column < len(of_run)
        ]
        for column in range(max(map(len, drawn)))
    ]
