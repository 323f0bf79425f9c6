"""Where charts draw what they show."""

import re

import pytest

from libra_tf.pages import charts, templates

pytestmark = pytest.mark.one_lane


def test_a_histogram_is_an_outline_between_the_axes():
    chart = charts.histogram("Title", [0, 0.5, 1], {"a": [0, 1], "b": [0.25, 0.25]}, "IoU")
    left, middle, right = 58, 204, 350
    assert (chart.left, chart.right) == (left, right)
    a, b = chart.lines
    assert a.points == [(left, 184), (middle, 184), (middle, 10), (right, 10)]
    assert [y for _, y in b.points] == [140.5] * 4
    assert [tick.text for tick in chart.x_ticks] == ["0", "0.25", "0.5", "0.75", "1"]
    assert [tick.text for tick in chart.y_ticks] == ["0 %", "25 %", "50 %", "75 %", "100 %"]
    assert chart.numbers.columns == ["IoU", "a", "b"]
    assert chart.numbers.rows[1] == ["0.5 to 1", "100.0 %", "25.0 %"]


@pytest.mark.parametrize(("place", "position"), [(0.0, 58), (0.5, 204), (1.1, None), (-0.1, None)])
def test_a_mark_is_drawn_only_between_the_axes(place, position):
    chart = charts.curves("Title", [0, 1], {"a": [0, 1]}, "x", "y", (place, "knee"))
    assert (chart.mark and chart.mark.position) == position


def test_bars_start_at_zero_on_either_side():
    groups = {"first": {"a": -1.0, "b": 1.0}, "second": {"a": 0.0, "b": None}}
    chart = charts.bars("Title", groups, "norm", is_share=False, even=0.5)
    (negative, positive), (zero, missing) = (group.bars for group in chart.groups)
    # From -1 to 1 there are 284 pixels.
    assert (negative.left, negative.width, negative.end) == (4, 142, 146)
    assert (positive.left, positive.width, positive.end) == (146, 142, 288)
    assert chart.even == 146 + 142 / 2
    assert (zero.left, zero.width) == (146, 0.5)
    assert (missing.width, missing.value) == (None, "-")
    assert chart.numbers.rows == [["first", "-1", "1"], ["second", "0", "-"]]


def test_bars_lie_below_each_other():
    groups = {"first": {"a": 0.1, "b": 0.2}, "second": {"a": 0.3, "b": 0.4}}
    chart = charts.bars("Title", groups, "share")
    tops = [group.top for group in chart.groups]
    for group in chart.groups:
        tops += [bar.top for bar in group.bars]
    assert sorted(tops) == [2, 23, 41, 69, 90, 108]
    assert chart.bottom == 108 + 18 + 10


@pytest.mark.parametrize(
    ("highest", "top"),
    [
        (0.0, "1"),
        (0.031, "0.04"),
        (1.0, "1"),
        (1.2, "1.5"),
        (9.0, "10"),
        (640.0, "800"),
        (1200.0, "1500"),
    ],
)
def test_the_axis_ends_at_a_round_number(highest, top):
    chart = charts.curves("Title", [0, 1], {"a": [0, highest]}, "x", "y")
    assert chart.y_ticks[-1].text == top


def test_ticks_are_as_exact_as_the_numbers_below():
    chart = charts.curves("Title", [0, 9000], {"a": [0, 150]}, "x", "y")
    assert [tick.text for tick in chart.y_ticks] == ["0", "37.5", "75", "112", "150"]
    assert [tick.text for tick in chart.x_ticks] == ["0", "2250", "4500", "6750", "9000"]
    shown = [charts.number(value) for value in (None, 99.96, 999.4, 999.6, -1000)]
    assert shown == ["-", "100", "999", "1000", "-1000"]


@pytest.mark.parametrize(
    ("first", "last", "highest", "x_texts", "y_texts"),
    [
        (1, 8, 0.5, ["2", "4", "6", "8"], ["0"]),
        (0, 2, 5.0, ["0", "1", "2"], ["0", "2", "4"]),
        (3, 40, 150.0, ["10", "20", "30", "40"], ["0", "40", "80", "120"]),
    ],
)
def test_what_is_counted_has_whole_ticks(first, last, highest, x_texts, y_texts):
    chart = charts.curves("Title", [first, last], {"a": [0, highest]}, "x", "y", is_whole=True)
    assert [tick.text for tick in chart.x_ticks] == x_texts
    assert [tick.text for tick in chart.y_ticks] == y_texts
    # Where they say.
    place = chart.right - (last - int(x_texts[0])) / (last - first) * (chart.right - chart.left)
    assert chart.x_ticks[0].position == pytest.approx(place)


@pytest.mark.parametrize(
    ("value", "threshold", "width", "mark"),
    [(0.4, 0.1, 80, 20), (0.1, 0.4, 20, 80), (-0.2, 0.1, 0, 80), (0.0, 0.0, 0, 0)],
)
def test_a_gauge_holds_its_number_and_its_mark(value, threshold, width, mark):
    gauge = charts.gauge("gain", value, threshold, is_share=True)
    assert (gauge.width, gauge.mark) == pytest.approx((width, mark))
    assert (gauge.value, gauge.threshold) == (charts.percent(value), charts.percent(threshold))


# The inside of a figure: in a column of a wide window, and on a phone 390 pixels wide.
@pytest.mark.parametrize("width", [1000, 334])
def test_text_in_charts_is_about_as_large_as_that_around_them(width):
    css = templates.environment("libra_tf.analysis").get_template("page.css").render()
    body = int(re.search(r"font: (\d+)px", css).group(1))
    text = int(re.search(r"svg text {[^}]*font-size: (\d+)px", css).group(1))
    widest = body * int(re.search(r"figure svg {[^}]*max-width: (\d+)rem", css).group(1))
    drawn = text * min(width, widest) / charts.LineChart.width
    assert drawn == pytest.approx(body, rel=0.15)


def test_text_does_not_overlap():
    """A line of text is as high as its font, and a digit or a sign about 0.55 times as wide."""
    css = templates.environment("libra_tf.analysis").get_template("page.css").render()
    height = int(re.search(r"svg text {[^}]*font-size: (\d+)px", css).group(1))
    chart = charts.bars("Title", {"first": {"a": 1.0, "b": 0.2}}, "share")
    first, second = chart.groups[0].bars
    assert second.top - first.top >= height
    assert first.top - chart.groups[0].top >= height
    assert first.end + 4 + 0.55 * height * len(first.value) <= chart.width
    line = charts.histogram("Title", [0, 0.5, 1], {"a": [0, 0.1]}, "IoU")
    assert max(len(tick.text) for tick in line.y_ticks) * 0.55 * height <= line.left - 4
