"""Where charts draw what they show."""

import pytest

from libra_tf.analysis import charts

pytestmark = pytest.mark.one_lane


def test_a_histogram_is_an_outline_between_the_axes():
    chart = charts.histogram("Title", [0, 0.5, 1], {"a": [0, 1], "b": [0.25, 0.25]}, "IoU")
    left, middle, right = 42, 196, 350
    assert (chart.left, chart.right) == (left, right)
    a, b = chart.lines
    assert a.points == [(left, 174), (middle, 174), (middle, 10), (right, 10)]
    assert [y for _, y in b.points] == [133] * 4
    assert [tick.text for tick in chart.x_ticks] == ["0", "0.25", "0.5", "0.75", "1"]
    assert [tick.text for tick in chart.y_ticks] == ["0 %", "25 %", "50 %", "75 %", "100 %"]
    assert chart.numbers.columns == ["IoU", "a", "b"]
    assert chart.numbers.rows[1] == ["0.5 to 1", "100.0 %", "25.0 %"]


@pytest.mark.parametrize(("place", "position"), [(0.0, 42), (0.5, 196), (1.1, None), (-0.1, None)])
def test_a_mark_is_drawn_only_between_the_axes(place, position):
    chart = charts.curves("Title", [0, 1], {"a": [0, 1]}, "x", "y", (place, "knee"))
    assert (chart.mark and chart.mark.position) == position


def test_bars_start_at_zero_on_either_side():
    groups = {"first": {"a": -1.0, "b": 1.0}, "second": {"a": 0.0, "b": None}}
    chart = charts.bars("Title", groups, "norm", is_share=False, even=0.5)
    (negative, positive), (zero, missing) = (group.bars for group in chart.groups)
    # From -1 to 1 there are 302 pixels.
    assert (negative.left, negative.width, negative.end) == (4, 151, 155)
    assert (positive.left, positive.width, positive.end) == (155, 151, 306)
    assert chart.even == 155 + 151 / 2
    assert (zero.left, zero.width) == (155, 0.5)
    assert (missing.width, missing.value) == (None, "-")
    assert chart.numbers.rows == [["first", "-1", "1"], ["second", "0", "-"]]


def test_bars_lie_below_each_other():
    groups = {"first": {"a": 0.1, "b": 0.2}, "second": {"a": 0.3, "b": 0.4}}
    chart = charts.bars("Title", groups, "share")
    tops = [group.top for group in chart.groups]
    for group in chart.groups:
        tops += [bar.top for bar in group.bars]
    assert sorted(tops) == [2, 17, 28, 47, 62, 73]
    assert chart.bottom == 73 + 11 + 8


@pytest.mark.parametrize(
    ("highest", "top"),
    [(0.0, "1"), (0.031, "0.04"), (1.0, "1"), (1.2, "1.5"), (9.0, "10"), (640.0, "8e+02")],
)
def test_the_axis_ends_at_a_round_number(highest, top):
    chart = charts.curves("Title", [0, 1], {"a": [0, highest]}, "x", "y")
    assert chart.y_ticks[-1].text == top
