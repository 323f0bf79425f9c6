"""Means over seeds, gains over pairs of trainings, and the table and picture of a dial's gains."""

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence

import matplotlib.figure

# By setting, then by row, then by seed: the AP.
Results = Mapping[float, Mapping[str, Mapping[int, float]]]


@dataclasses.dataclass(frozen=True)
class Mean:
    """A mean over seeds.

    Attributes:
      value: the mean; NaN without seeds.
      error: its standard error: the sample standard deviation over the root of the number of seeds.
        NaN with fewer than two seeds.
      seeds: how many there are.
    """

    value: float
    error: float
    seeds: int

    def cell(self, sign: str = ".3f") -> str:
        """Returns the mean and its standard error, as a cell of a table.

        Args:
          sign: how to format the mean.
        """
        if not self.seeds:
            return "-"
        value = format(self.value, sign)
        return value if math.isnan(self.error) else f"{value} ± {self.error:.3f}"


def mean(values: Sequence[float]) -> Mean:
    """Returns the mean of values, one per seed, with its standard error.

    Args:
      values: one per seed, or none.
    """
    number = len(values)
    return Mean(
        statistics.mean(values) if number else math.nan,
        statistics.stdev(values) / math.sqrt(number) if number > 1 else math.nan,
        number,
    )


def gain(row: Mapping[int, float], baseline: Mapping[int, float]) -> Mean:
    """Returns the mean of the differences between trainings with the same seed.

    Args:
      row: by seed, the AP with a component.
      baseline: by seed, the AP without it.
    """
    return mean([value - baseline[seed] for seed, value in row.items() if seed in baseline])


def table(dial: str, results: Results, baseline: str, components: Sequence[str]) -> list[str]:
    """Returns the lines of a Markdown table with a row for each setting of a dial.

    Args:
      dial: its name.
      results: the AP of the trainings; a row or a seed may be missing.
      baseline: the row that components are compared with.
      components: the rows to compare.
    """
    lines = [
        f"| {dial} | {baseline} AP | {' | '.join(f'gain of {name}' for name in components)} |",
        f"| --- |{' --- |' * (len(components) + 1)}",
    ]
    for setting, rows in sorted(results.items()):
        without = rows.get(baseline, {})
        cells = [mean(list(without.values())).cell()]
        cells += [gain(rows.get(name, {}), without).cell("+.3f") for name in components]
        lines.append(f"| {setting:g} | {' | '.join(cells)} |")
    return lines


def picture(
    results: Mapping[str, Results], baseline: str, components: Sequence[str]
) -> matplotlib.figure.Figure:
    """Draws the gains against each dial, with their standard errors.

    Args:
      results: by dial, the AP of the trainings.
      baseline: the row that components are compared with.
      components: the rows to compare, a line for each.

    Returns:
      A figure with a panel for each dial.
    """
    figure = matplotlib.figure.Figure(figsize=(4.5 * len(results), 3.6), layout="constrained")
    panels = figure.subplots(1, len(results), sharey=True, squeeze=False)[0]
    for axes, (dial, of_dial) in zip(panels, results.items(), strict=True):
        settings = sorted(of_dial)
        for name in components:
            gains = [
                gain(of_dial[setting].get(name, {}), of_dial[setting].get(baseline, {}))
                for setting in settings
            ]
            # Without an error there is no bar, but still a point.
            axes.errorbar(
                settings,
                [g.value for g in gains],
                yerr=[0 if math.isnan(g.error) else g.error for g in gains],
                marker="o",
                capsize=3,
                label=name,
            )
        axes.axhline(0, color="grey", linewidth=0.8)
        axes.set_xlabel(dial.replace("_", " "))
    panels[0].set_ylabel("AP gained on the baseline")
    # All panels have the same lines. Above them, it hides none.
    handles = panels[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper center", ncols=len(components))
    return figure
