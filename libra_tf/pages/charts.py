"""Charts and tables as data: what to draw, and where. The page's templates draw them.

Positions and sizes are in the units of an SVG that is as wide as a phone's screen. They leave room
for text of the size that `templates/page.css` gives it, about that of the body.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import ClassVar

_WIDTH = 360
_NUM_TICKS = 5
_BAR, _BAR_CAPTION, _BAR_GAP = 18, 21, 10
# Of the text after a bar.
_VALUE_WIDTH = 72
# So that the end of a gauge's bar and its mark lie inside the gauge.
_GAUGE_MARGIN = 1.25


@dataclasses.dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
      kind: the macro in `templates/figures.html.j2` that draws it.
      title: what it shows.
      columns: the headings of the columns.
      rows: the cells of each row.
    """

    kind: ClassVar[str] = "table"
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclasses.dataclass(frozen=True)
class Value:
    """A cell of a table that can be sorted.

    Attributes:
      text: what is written in it.
      order: what it is sorted by, as numbers are; None for the text, or for a missing value, which
        is always last.
    """

    text: str
    order: float | None = None


@dataclasses.dataclass(frozen=True)
class SortableTable:
    """A table whose columns sort its rows, where the page has the script for it.

    Attributes:
      kind: see `Table`.
      title: what it shows.
      columns: the headings of the columns; the first has names, the others have numbers.
      rows: the cells of each row.
      total: a last row that stays where it is.
    """

    kind: ClassVar[str] = "sortable"
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Value]]
    total: Sequence[Value]


@dataclasses.dataclass(frozen=True)
class HeatCell:
    """A cell of a heat table.

    Attributes:
      text: what is written in it.
      share: how much colour it has, in 0..1.
      tip: what it means, for whoever points at it; empty for a cell without a value.
      is_expected: whether it lies on the diagonal.
    """

    text: str
    share: float
    tip: str
    is_expected: bool


@dataclasses.dataclass(frozen=True)
class HeatTable:
    """A table whose cells have the more colour, the larger their share is.

    Attributes:
      kind: see `Table`.
      title: what it shows.
      corner: what the rows and the columns are.
      columns: the headings of the columns.
      rows: heading and cells of each row.
      numbers: the shares as a table; None to leave them out.
    """

    kind: ClassVar[str] = "heat"
    title: str
    corner: str
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[HeatCell]]]
    numbers: Table | None


@dataclasses.dataclass(frozen=True)
class Label:
    """A text at a position on an axis: of a tick, or of the mark across a chart.

    Attributes:
      position: where it is, along the axis.
      text: what it says.
    """

    position: float
    text: str


@dataclasses.dataclass(frozen=True)
class Line:
    """A line of a chart.

    Attributes:
      name: what the legend calls it.
      points: its corners, x and y.
    """

    name: str
    points: Sequence[tuple[float, float]]


@dataclasses.dataclass(frozen=True)
class LineChart:
    """Lines in a frame of two axes; the vertical axis starts at 0.

    Attributes:
      kind: see `Table`.
      width: of the drawing.
      height: of the drawing.
      left: left edge of the frame.
      right: right edge of the frame.
      top: upper edge of the frame.
      bottom: lower edge of the frame.
      title: what it shows.
      x_label: what the horizontal axis shows.
      y_label: what the vertical axis shows.
      x_ticks: along the horizontal axis.
      y_ticks: along the vertical axis.
      lines: the lines, in the order of their colours.
      mark: a position to mark on the horizontal axis; None for none.
      numbers: the same data as a table.
      is_filled: whether the area under each line is filled, with those of the first lines on top.
    """

    kind: ClassVar[str] = "lines"
    width: ClassVar[int] = _WIDTH
    height: ClassVar[int] = 230
    left: ClassVar[int] = 58
    right: ClassVar[int] = 350
    top: ClassVar[int] = 10
    bottom: ClassVar[int] = 184
    title: str
    x_label: str
    y_label: str
    x_ticks: Sequence[Label]
    y_ticks: Sequence[Label]
    lines: Sequence[Line]
    mark: Label | None
    numbers: Table
    is_filled: bool = False


@dataclasses.dataclass(frozen=True)
class Bar:
    """A horizontal bar, followed by its value.

    Attributes:
      name: what the legend calls it.
      value: the value as text.
      top: upper edge of the bar.
      left: left edge of the bar.
      width: of the bar; None for a missing value, which has no bar.
      end: right edge of the bar, before the text.
    """

    name: str
    value: str
    top: int
    left: float
    width: float | None
    end: float


@dataclasses.dataclass(frozen=True)
class BarGroup:
    """Bars under a heading.

    Attributes:
      name: the heading.
      top: upper edge of the heading.
      bars: the bars, in the order of their colours.
    """

    name: str
    top: int
    bars: Sequence[Bar]


@dataclasses.dataclass(frozen=True)
class BarChart:
    """Groups of horizontal bars.

    Attributes:
      kind: see `Table`.
      width: of the drawing.
      left: left edge of the texts, and of the bars if no value is negative.
      thickness: of a bar.
      title: what it shows.
      label: what the values are.
      names: the names of the bars in each group.
      groups: from top to bottom.
      bottom: lower edge of the last group.
      even: a horizontal position to mark across all groups; None for none.
      numbers: the same data as a table.
    """

    kind: ClassVar[str] = "bars"
    width: ClassVar[int] = _WIDTH
    left: ClassVar[int] = 4
    thickness: ClassVar[int] = _BAR - 2
    title: str
    label: str
    names: Sequence[str]
    groups: Sequence[BarGroup]
    bottom: int
    even: float | None
    numbers: Table


@dataclasses.dataclass(frozen=True)
class Gauge:
    """A bar for one number, with a mark at a threshold.

    Attributes:
      label: what the number is.
      value: the number as text.
      threshold: the threshold as text.
      width: length of the bar, in percent of the gauge.
      mark: where the threshold is, in percent of the gauge.
    """

    label: str
    value: str
    threshold: str
    width: float
    mark: float


def histogram(
    title: str,
    edges: Sequence[float],
    series: Mapping[str, Sequence[float]],
    x_label: str,
    mark: tuple[float, str] | None = None,
) -> LineChart:
    """Lays out shares over bins, one outline for each series.

    Args:
      title: what is shown.
      edges: of the bins, ascending, one more than there are bins.
      series: by name, the share of each bin.
      x_label: the quantity that is binned.
      mark: a value on the horizontal axis to mark, and its label.
    """
    outlines = {}
    for name, shares in series.items():
        bins = zip(itertools.pairwise(edges), shares, strict=True)
        outlines[name] = [(edge, share) for bin_edges, share in bins for edge in bin_edges]
    rows = [
        [f"{low:.3g} to {high:.3g}", *(percent(shares[i]) for shares in series.values())]
        for i, (low, high) in enumerate(itertools.pairwise(edges))
    ]
    numbers = Table(title, [x_label, *series], rows)
    return _line_chart(
        outlines, x_label, "share", lambda y: f"{100 * y:.3g} %", mark, numbers, _ticks
    )


def curves(
    title: str,
    x: Sequence[float],
    series: Mapping[str, Sequence[float | None]],
    x_label: str,
    y_label: str,
    mark: tuple[float, str] | None = None,
    drawn: Collection[str] | None = None,
    is_filled: bool = False,
    is_whole: bool = False,
) -> LineChart:
    """Lays out functions of one variable.

    Args:
      title: what is shown.
      x: the values of the variable, ascending.
      series: by name, the values of a function at `x`, None where it is undefined.
      x_label: what x is.
      y_label: what the functions return.
      mark: as in `histogram`.
      drawn: the names of the series to draw; None for all. The table has all of them.
      is_filled: see `LineChart`.
      is_whole: whether both axes count something, so that their ticks are whole numbers.
    """
    points = {
        name: [(at, y) for at, y in zip(x, values, strict=True) if y is not None]
        for name, values in series.items()
        if drawn is None or name in drawn
    }
    rows = [
        [number(at), *(number(values[i]) for values in series.values())] for i, at in enumerate(x)
    ]
    numbers = Table(title, [x_label, *series], rows)
    ticks = _whole_ticks if is_whole else _ticks
    chart = _line_chart(points, x_label, y_label, number, mark, numbers, ticks)
    return dataclasses.replace(chart, is_filled=is_filled)


def bars(
    title: str,
    groups: Mapping[str, Mapping[str, float | None]],
    label: str,
    is_share: bool = True,
    even: float | None = None,
) -> BarChart:
    """Lays out groups of horizontal bars, one below the other.

    Args:
      title: what is shown.
      groups: by name of the group and of the bar, the value; None for a missing value. All groups
        have the same bars.
      label: what the values are.
      is_share: whether they are shares, to be written in percent.
      even: a value to mark, the one that all would have if they were equal.
    """
    names = list(next(iter(groups.values())))
    values = [v for group in groups.values() for v in group.values() if v is not None]
    low, high = min([0.0, *values]), _ceiling(max([even or 0.0, *values]))
    # Leaves room for the text after the longest bar.
    place = _scale((low, high), (BarChart.left, _WIDTH - _VALUE_WIDTH))
    write = percent if is_share else number
    laid_out, top = [], 2
    for group, row in groups.items():
        first = top + _BAR_CAPTION
        laid_out.append(
            BarGroup(
                group,
                top,
                [
                    _bar(name, row[name], write(row[name]), first + _BAR * i, place)
                    for i, name in enumerate(names)
                ],
            )
        )
        top = first + _BAR * len(names) + _BAR_GAP
    rows = [[group, *(write(row[name]) for name in names)] for group, row in groups.items()]
    mark = None if even is None else place(even)
    return BarChart(title, label, names, laid_out, top, mark, Table(title, ["", *names], rows))


def gauge(label: str, value: float, threshold: float, is_share: bool) -> Gauge:
    """Lays out one number beside its threshold.

    Args:
      label: what the number is.
      value: the number; a negative one has a bar of no length.
      threshold: what it is compared with, not negative.
      is_share: whether both are shares, to be written in percent.
    """
    place = _scale((0.0, _GAUGE_MARGIN * max(value, threshold)), (0.0, 100.0))
    write = percent if is_share else number
    return Gauge(label, write(value), write(threshold), place(max(value, 0.0)), place(threshold))


def percent(share: float | None) -> str:
    """Formats a share in percent, "-" for None."""
    return "-" if share is None else f"{100 * share:.1f} %"


def number(value: float | None) -> str:
    """Formats a number with three significant digits, or all before the point; "-" for None."""
    if value is None:
        return "-"
    # Three digits would make 1e+03 of what is rounded to 1000.
    return f"{value:.0f}" if abs(value) >= 999.5 else f"{value:.3g}"


def _line_chart(
    series: Mapping[str, Sequence[tuple[float, float]]],
    x_label: str,
    y_label: str,
    write_y: Callable[[float], str],
    mark: tuple[float, str] | None,
    numbers: Table,
    ticks: Callable[[float, float], Sequence[float]],
) -> LineChart:
    points = [point for line in series.values() for point in line]
    first, last = min((x for x, _ in points), default=0.0), max((x for x, _ in points), default=1.0)
    highest = _ceiling(max((y for _, y in points), default=0.0))
    place_x = _scale((first, last), (LineChart.left, LineChart.right))
    place_y = _scale((0.0, highest), (LineChart.bottom, LineChart.top))
    return LineChart(
        numbers.title,
        x_label,
        y_label,
        [Label(place_x(x), number(x)) for x in ticks(first, last)],
        [Label(place_y(y), write_y(y)) for y in ticks(0.0, highest)],
        [
            Line(name, [(place_x(x), place_y(y)) for x, y in points])
            for name, points in series.items()
        ],
        Label(place_x(mark[0]), mark[1]) if mark and first <= mark[0] <= last else None,
        numbers,
    )


def _ticks(first: float, last: float) -> list[float]:
    """Returns where the ticks of an axis are: at its ends, and evenly in between."""
    return [first + (last - first) * i / (_NUM_TICKS - 1) for i in range(_NUM_TICKS)]


def _whole_ticks(first: float, last: float) -> Sequence[int]:
    """Returns where the ticks of an axis that counts are: at multiples of a round number."""
    step = math.ceil(_ceiling((last - first) / (_NUM_TICKS - 1)))
    return range(math.ceil(first / step) * step, math.floor(last) + 1, step)


def _bar(
    name: str, value: float | None, written: str, top: int, place: Callable[[float], float]
) -> Bar:
    left, right = sorted((place(0.0), place(value or 0.0)))
    # Even a value of 0 has a visible bar.
    width = None if value is None else max(right - left, 0.5)
    return Bar(name, written, top, left, width, right)


def _scale(values: tuple[float, float], positions: tuple[float, float]) -> Callable[[float], float]:
    """Returns the linear function that maps the two values to the two positions."""
    (low, high), (start, end) = values, positions
    return lambda value: start + (value - low) / ((high - low) or 1) * (end - start)


def _ceiling(value: float) -> float:
    """Returns the smallest of 1, 1.5, 2, 3, 4, 5, 6 and 8 times a power of ten from `value` on."""
    if value <= 0:
        return 1.0
    power = 1.0
    while power > value:
        power /= 10
    while power * 10 <= value:
        power *= 10
    return next(step * power for step in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if step * power >= value)
