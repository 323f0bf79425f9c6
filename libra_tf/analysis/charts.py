"""Charts as SVG inside HTML: they need nothing from a network and follow the page's colours.

Each chart comes with the table of its numbers. Sizes are in the pixels of a phone's width, so that
the letters stay readable there.
"""

import html
import itertools
from collections.abc import Mapping, Sequence

_WIDTH, _HEIGHT = 360, 210
_LEFT, _RIGHT, _TOP, _BOTTOM = 42, 10, 10, 36
_DASHES = ("", "6 3", "2 3", "8 3 2 3", "", "4 4")


def histogram(
    title: str,
    edges: Sequence[float],
    series: Mapping[str, Sequence[float]],
    x_label: str,
    mark: tuple[float, str] | None = None,
) -> str:
    """Draws shares over bins, one outline for each series.

    Args:
      title: what is shown.
      edges: ascending, one more than there are bins.
      series: name to the share of each bin.
      x_label: what the bins are of.
      mark: a place on the x axis to mark, and what it is.

    Returns:
      A `figure` element.
    """
    top = _ceiling(max((max(shares) for shares in series.values()), default=0))
    axes = _Axes(edges[0], edges[-1], top)
    lines = []
    for index, (name, shares) in enumerate(series.items()):
        points = []
        for left, right, share in zip(edges, edges[1:], shares, strict=False):
            points += [(left, share), (right, share)]
        lines.append(axes.line(points, index, name))
    columns = [f"{a:.3g} to {b:.3g}" for a, b in itertools.pairwise(edges)]
    rows = {name: [_share(s) for s in shares] for name, shares in series.items()}
    drawing = axes.draw(lines, x_label, "share", _percent_label, mark)
    cells = [list(row) for row in zip(columns, *rows.values(), strict=True)]
    return _figure(title, drawing, list(series), _table([x_label, *rows], cells))


def curves(
    title: str,
    x: Sequence[float],
    series: Mapping[str, Sequence[float]],
    x_label: str,
    y_label: str,
    mark: tuple[float, str] | None = None,
) -> str:
    """Draws functions.

    Args:
      title: what is shown.
      x: ascending.
      series: name to the values at `x`.
      x_label: what x is.
      y_label: what the values are.
      mark: as in `histogram`.

    Returns:
      A `figure` element.
    """
    axes = _Axes(x[0], x[-1], _ceiling(max(max(values) for values in series.values())))
    lines = [
        axes.line(list(zip(x, values, strict=True)), index, name)
        for index, (name, values) in enumerate(series.items())
    ]
    rows = [
        [f"{at:.3g}", *(f"{values[i]:.3g}" for values in series.values())] for i, at in enumerate(x)
    ]
    drawing = axes.draw(lines, x_label, y_label, lambda value: f"{value:.2g}", mark)
    return _figure(title, drawing, list(series), _table([x_label, *series], rows))


def bars(
    title: str,
    groups: Mapping[str, Mapping[str, float | None]],
    label: str,
    is_share: bool = True,
    even: float | None = None,
) -> str:
    """Draws horizontal bars, a group for each row.

    Args:
      title: what is shown.
      groups: name of the group to its bars; all groups have the same bars. None for no value.
      label: what the values are.
      is_share: whether they are shares, written in per cent.
      even: a value to mark, at which all would be alike.

    Returns:
      A `figure` element.
    """
    names = list(next(iter(groups.values())))
    values = [v for group in groups.values() for v in group.values() if v is not None]
    low, high = min([0.0, *values]), _ceiling(max([even or 0.0, *values]))
    write = _share if is_share else (lambda value: "-" if value is None else f"{value:.3g}")
    thickness, gap, caption = 11, 8, 15
    height = len(groups) * (len(names) * thickness + gap + caption) + 26
    right = _WIDTH - 54

    def at(value):
        return 4 + (value - low) / ((high - low) or 1) * (right - 4)

    shapes, y = [], 2
    for group, row in groups.items():
        shapes.append(_text(4, y + 11, group, "start", "group"))
        y += caption
        for index, name in enumerate(names):
            value = row[name]
            if value is not None:
                left, end = sorted((at(0), at(value)))
                tip = html.escape(f"{group}, {name}: {write(value)}")
                shapes.append(
                    f'<rect class="b{index % 6}" x="{left:.1f}" y="{y}" '
                    f'width="{max(end - left, 0.5):.1f}" height="{thickness - 2}">'
                    f"<title>{tip}</title></rect>"
                )
            shapes.append(_text(max(at(value or 0), at(0)) + 4, y + 9, write(value), "start"))
            y += thickness
        y += gap
    if even is not None:
        shapes.append(
            f'<line class="mark" x1="{at(even):.1f}" x2="{at(even):.1f}" y1="0" y2="{y}"/>'
        )
    shapes.append(_text(4, y + 12, label, "start"))
    rows = [[group, *(write(row[name]) for name in names)] for group, row in groups.items()]
    legend = names if len(names) > 1 else []
    drawing = _svg(height, shapes, title)
    return _figure(title, drawing, legend, _table(["", *names], rows), lines=False)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Writes a table that is to be seen at once."""
    caption = f"<figcaption>{html.escape(title)}</figcaption>"
    return f'<figure class="wide">{caption}{_table(columns, rows)}</figure>'


class _Axes:
    """The frame of a chart whose y axis starts at 0."""

    def __init__(self, left, right, top):
        self._left, self._right, self._top = left, right, top

    def x(self, value):
        span = (self._right - self._left) or 1
        return _LEFT + (value - self._left) / span * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value):
        return _HEIGHT - _BOTTOM - value / self._top * (_HEIGHT - _TOP - _BOTTOM)

    def line(self, points, index, name):
        path = " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in points)
        dash = _DASHES[index % len(_DASHES)]
        dash = f' stroke-dasharray="{dash}"' if dash else ""
        return (
            f'<polyline class="s{index % 6}"{dash} points="{path}">'
            f"<title>{html.escape(name)}</title></polyline>"
        )

    def draw(self, lines, x_label, y_label, write_y, mark):
        shapes = []
        for i in range(5):
            y = self._top * i / 4
            shapes.append(
                f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" '
                f'y1="{self.y(y):.1f}" y2="{self.y(y):.1f}"/>'
            )
            shapes.append(_text(_LEFT - 4, self.y(y) + 4, write_y(y), "end"))
        for i in range(5):
            x = self._left + (self._right - self._left) * i / 4
            anchor = "middle" if i < 4 else "end"
            shapes.append(_text(self.x(x), _HEIGHT - _BOTTOM + 14, f"{x:.3g}", anchor))
        middle = (_LEFT + _WIDTH - _RIGHT) / 2
        shapes.append(_text(middle, _HEIGHT - 6, x_label, "middle"))
        shapes.append(_text(_WIDTH - _RIGHT, _TOP + 8, y_label, "end"))
        if mark and self._left <= mark[0] <= self._right:
            x = self.x(mark[0])
            shapes.append(
                f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" '
                f'y2="{_HEIGHT - _BOTTOM}"><title>{html.escape(mark[1])}</title></line>'
            )
            anchor, shift = ("end", -3) if x > _WIDTH - 110 else ("start", 3)
            shapes.append(_text(x + shift, _TOP + 20, mark[1], anchor))
        return _svg(_HEIGHT, [*shapes, *lines], x_label)


def _ceiling(value):
    """The least of 1, 1.5, 2, 3, 4, 5, 6, 8 times a power of ten that is not below `value`."""
    if value <= 0:
        return 1.0
    power = 1.0
    while power > value:
        power /= 10
    while power * 10 <= value:
        power *= 10
    return next(step * power for step in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if step * power >= value)


def _svg(height, shapes, label):
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{html.escape(label)}">'
        f"{''.join(shapes)}</svg>"
    )


def _text(x, y, text, anchor, css=""):
    css = f' class="{css}"' if css else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{css}>{html.escape(text)}</text>'


def _figure(title, drawing, legend, table_html, lines=True):
    entries = "".join(
        f"<li>{_swatch(index, lines)}{html.escape(name)}</li>" for index, name in enumerate(legend)
    )
    legend_html = f'<ul class="legend">{entries}</ul>' if legend else ""
    return (
        f"<figure><figcaption>{html.escape(title)}</figcaption>{drawing}{legend_html}"
        f"<details><summary>Numbers</summary>{table_html}</details></figure>"
    )


def _swatch(index, is_line):
    if not is_line:
        shape = f'<rect class="b{index % 6}" width="22" height="8" y="1"/>'
    else:
        dash = _DASHES[index % len(_DASHES)]
        dash = f' stroke-dasharray="{dash}"' if dash else ""
        shape = f'<line class="s{index % 6}"{dash} x1="0" x2="22" y1="5" y2="5"/>'
    return f'<svg class="swatch" viewBox="0 0 22 10" aria-hidden="true">{shape}</svg>'


def _table(columns, rows):
    head = "".join(f"<th>{html.escape(str(column))}</th>" for column in columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>"
        for row in rows
    )
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
        "</div>"
    )


def _share(value):
    return "-" if value is None else f"{100 * value:.1f} %"


def _percent_label(value):
    return f"{100 * value:.3g} %"
