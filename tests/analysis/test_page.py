"""The page as its templates make it."""

import copy
import html.parser
import re
import typing

import jinja2
import pytest

from libra_tf.analysis import collect, figures, page, verdicts
from libra_tf.pages import templates

pytestmark = pytest.mark.one_lane


class Elements(html.parser.HTMLParser):
    """Collects the tags with their attributes' names, the text between them, ids and links."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self.ids, self.links = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, *(name for name, _ in attrs)))
        values = dict(attrs)
        self.ids += [values["id"]] if "id" in values else []
        self.links += [values["href"]] if tag == "a" else []

    def handle_data(self, data):
        self.texts.append(data)


def make_run(numbers, name, metrics):
    analysis = collect.Analysis(numbers, [], None)
    return page.Run(name, analysis, verdicts.judge(numbers), metrics, 9)


def rename_class(numbers, name):
    """Gives a class that objects have another name, in all kinds of samples."""
    numbers = copy.deepcopy(numbers)
    for measured in numbers["samples"].values():
        by_class = measured["by_class"]
        by_class[name] = by_class.pop("circle")
    by_class = numbers["classes"]["by_class"]
    by_class[name] = by_class.pop("circle")
    return numbers


def with_classes(numbers, number, precisions):
    """Numbers of a run with as many classes as given, from no object to one less than that."""
    numbers = copy.deepcopy(numbers)
    row = next(iter(numbers["classes"]["by_class"].values()))
    numbers["classes"]["by_class"] = {
        f"class {k}": {**row, "objects": k, "AP": precision}
        for k, precision in zip(range(number), precisions, strict=True)
    }
    return numbers


@pytest.mark.parametrize("run", [0, 1])
def test_many_classes_are_in_the_numbers_and_the_extremes_in_the_charts(report_of_both, run):
    numbers = with_classes(report_of_both.runs[run], 30, [None] * 29 + [0.5])
    drawn = dict(figures.classes(collect.Analysis(numbers, [], None)))
    assert set(drawn) == {"shares", "quotients", "AP"}
    extremes = [*range(6), *range(24, 30)]
    for chart in drawn.values():
        assert [int(group.name.split()[1]) for group in chart.groups] == extremes
        assert [int(row[0].split()[1]) for row in chart.numbers.rows] == list(range(30))
    # 0 + 1 + ... + 29 objects.
    assert drawn["shares"].numbers.rows[29][1] == f"{100 * 29 / 435:.1f} %"
    assert [row[1] for row in drawn["AP"].numbers.rows[-2:]] == ["-", "0.5"]


def test_a_run_without_an_evaluation_shows_no_ap_of_classes(report_of_both):
    numbers = with_classes(report_of_both.runs[0], 3, [None] * 3)
    assert "AP" not in dict(figures.classes(collect.Analysis(numbers, [], None)))


@pytest.mark.parametrize("with_other", [False, True])
def test_names_are_text(report_of_both, with_other):
    other = [make_run(report_of_both.runs[1], "other", {})] * with_other

    def render(name):
        numbers = rename_class(report_of_both.runs[0], name)
        return page.render([make_run({**numbers, "model_dir": name}, name, {name: 0.5}), *other])

    hostile = """</style><b class="c">"&amp;'{{ runs }}</b><script>"""
    tame, wild = Elements(render("harmless")), Elements(render(hostile))
    assert wild.tags == tame.tags
    assert wild.texts == [text.replace("harmless", hostile) for text in tame.texts]
    assert sum(hostile in text for text in wild.texts) > 5


def test_every_figure_has_a_macro():
    kinds = {figure.kind for figure in typing.get_args(figures.Figure)}
    environment = templates.environment("libra_tf.analysis")
    macros = environment.get_template("figures.html.j2").module.drawings
    assert kinds <= macros.keys()


def test_a_wrong_name_in_a_template_is_an_error():
    template = templates.environment("libra_tf.analysis").from_string("{{ run.nonsense }}")
    with pytest.raises(jinja2.UndefinedError, match="nonsense"):
        template.render(run=page.Run("name", None, [], {}, None))


def test_headings_keep_their_capitals(report_of_both):
    texts = Elements(page.render([make_run(report_of_both.runs[1], "plain", {})])).texts
    assert {"Proposals", "RPN anchors"} <= set(texts)


def test_the_page_opens_with_a_summary_and_a_list_of_contents(report_of_both):
    run = make_run(report_of_both.runs[1], "plain", {})
    html = page.render([run])
    found = Elements(html)
    assert {link.removeprefix("#") for link in found.links} == set(found.ids)
    assert len(found.ids) == len(set(found.ids)) >= 8
    summary = html.index(verdicts.summarise(run.verdicts))
    assert summary < html.index("<nav") < html.index('class="verdict')


def test_urgent_verdicts_come_first(report_of_both):
    html = page.render([make_run(report_of_both.runs[1], "plain", {})])
    classes = re.findall(r'class="verdict (\w+)"', html)
    assert classes == sorted(classes, key=["act", "look", "fine"].index)
    assert len(set(classes)) > 1


def test_a_verdict_leads_with_its_headline(report_of_both):
    run = make_run(report_of_both.runs[1], "plain", {})
    (verdict, *_) = (v for v in run.verdicts if v.config and v.gauge)
    texts = [" ".join(text.split()) for text in Elements(page.render([run])).texts]
    shown = (verdict.headline, verdict.suggestion, run.command(verdict), verdict.text)
    places = [texts.index(text) for text in shown]
    assert places == sorted(places)
    gauge = f"{verdict.gauge.label}: "
    assert any(text.startswith(gauge) for text in texts[places[0] : places[1]])


def test_charts_of_two_detectors_are_paired_by_subject(report_of_both):
    runs = [
        make_run(numbers, name, {})
        for numbers, name in zip(report_of_both.runs, ("one", "two"), strict=True)
    ]
    rows = page._rows(runs, figures.objective)
    titles = [[(name, figure.title.split(":")[0]) for name, figure in row] for row in rows]
    errors = [row for row in titles if row[0][1] in ("box", "rpn_box", "frcnn_box")]
    assert errors.count([("one", "box"), ("two", "frcnn_box")]) == 5
    # RetinaNet has no RPN.
    assert errors.count([("two", "rpn_box")]) == 3
    assert len(errors) == 8


def test_a_chart_that_stands_alone_names_its_run(report_of_both):
    runs = [
        make_run(numbers, name, {})
        for numbers, name in zip(report_of_both.runs, ("one", "two"), strict=True)
    ]
    for kind, name in (("anchors", "one"), ("proposals", "two"), ("rpn_anchors", "two")):
        rows = page._samples(kind, runs)["charts"]
        assert rows and all([run for run, _ in row] == [name] for row in rows)
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", page.render(runs))
    # All but the table that has a column for each run.
    assert sum(not caption.startswith("<b>") for caption in captions) == 1


def with_levels(numbers, counts):
    """Numbers of a run with as many negatives at each level as given, however sampled."""
    numbers = copy.deepcopy(numbers)
    for measured in numbers["samples"].values():
        of_level = next(iter(measured["by_level"].values()))
        measured["by_level"] = {
            level: {name: {**share, "count": count} for name, share in of_level.items()}
            for level, count in counts.items()
        }
    return numbers


@pytest.mark.parametrize(("run", "kind"), [(0, "anchors"), (1, "proposals"), (1, "rpn_anchors")])
def test_levels_are_in_the_order_of_their_numbers(report_of_both, run, kind):
    numbers = with_levels(report_of_both.runs[run], {"2": 1, "3": 9, "4": 5})
    drawn = dict(figures.samples(kind, collect.Analysis(numbers, [], None)))
    for subject in ("level", "hard by level"):
        assert [group.name for group in drawn[subject].groups] == ["P2", "P3", "P4"]


def test_levels_of_all_runs_are_in_order_in_the_key_figures(report_of_both):
    numbers = copy.deepcopy(report_of_both.runs[0])
    numbers["features"]["levels"] = ["5", "6", "7"]
    runs = [
        page.Run(name, collect.Analysis(of_run, [], None), [], {}, None)
        for name, of_run in (("high", numbers), ("low", report_of_both.runs[1]))
    ]
    rows = page._key_figures(runs).rows
    levels = [row for row in rows if "integrated map" in row[0]]
    assert [row[0][:2] for row in levels] == ["P2", "P3", "P4", "P5", "P6", "P7"]
    assert [row[1] == "-" for row in levels] == [True] * 3 + [False] * 3
    # Boxes are compared with boxes, whatever a detector calls their loss.
    assert [row[0] for row in rows if "-" not in row[1:] and "outliers of" in row[0]] == [
        "outliers of boxes"
    ]


def test_a_detector_without_a_sampler_shows_no_sample(report_of_both):
    def texts_of(kind, run):
        numbers = report_of_both.runs[run]
        rows = page._samples(kind, [make_run(numbers, "name", {})])["charts"]
        written = [str(figure) for row in rows for _, figure in row]
        keys = figures.key_figures(numbers, [])
        return " ".join([*written, *(key for key in keys if verdicts.NOUNS[kind] in key)])

    words = ("random", "IoU-balanced", "MMDetection", "instance-balanced")
    assert not any(word in texts_of("anchors", 0) for word in words)
    assert all(word in texts_of("rpn_anchors", 1) for word in words)
