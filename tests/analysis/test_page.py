"""The page as its templates make it."""

import copy
import html.parser
import typing

import jinja2
import pytest

from libra_tf.analysis import collect, figures, page, verdicts

pytestmark = pytest.mark.one_lane


class Elements(html.parser.HTMLParser):
    """Collects the tags with their attributes' names, and the text between them."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, *(name for name, _ in attrs)))

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
    return numbers


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
    macros = page._templates().get_template("figures.html.j2").module.drawings
    assert macros.keys() == kinds


def test_a_wrong_name_in_a_template_is_an_error():
    template = page._templates().from_string("{{ run.nonsense }}")
    with pytest.raises(jinja2.UndefinedError, match="nonsense"):
        template.render(run=page.Run("name", None, [], {}, None))


def test_headings_keep_their_capitals(report_of_both):
    texts = Elements(page.render([make_run(report_of_both.runs[1], "plain", {})])).texts
    assert {"Proposals", "RPN anchors"} <= set(texts)
