"""The page of an evaluation and its numbers, as a user gets them."""

import io
import json
import re

import numpy as np
import pytest
import rich.console
from PIL import Image

from libra_tf.cli.errors import UsageError
from libra_tf.cli.progress import Progress
from libra_tf.evaluation import average_precision, figures, matching, pictures, records, report
from libra_tf.evaluation import subject as subjects
from libra_tf.pages import charts, templates
from tests import browser
from tests.evaluation import scenes

pytestmark = pytest.mark.one_lane


def photographs(image_ids):
    """Noise, which JPEG cannot make small."""
    rng = np.random.default_rng(0)
    for id_ in image_ids:
        buffer = io.BytesIO()
        noise = rng.integers(0, 256, (scenes.SIDE, scenes.SIDE, 3), np.uint8)
        Image.fromarray(noise).save(buffer, "JPEG")
        yield id_, buffer.getvalue()


def make(objects, detections, num_classes=3, num_images=4, masks=False, **changes):
    truth = scenes.annotation_file(objects, num_classes, num_images)
    results = scenes.results(detections)
    if masks:
        scenes.with_masks(truth, results)
    options = {
        "name": "cells",
        "model": "runs/cells/ckpt-7",
        "annotations": "data/cells",
        "truth": truth,
        "results": results,
        "image_ids": range(1, num_images + 1),
        "read_images": lambda ids: dict(photographs(ids)),
        "training_objects": dict.fromkeys(truth.class_names, 70),
    }
    return report.Evaluation(**{**options, **changes})


def write(folder, *scene, **changes):
    """Returns the page and the content of the JSON file."""
    folder.mkdir(exist_ok=True)
    evaluation = make(*scene, **changes)
    returned = report.write(evaluation, str(folder), Progress(rich.console.Console(quiet=True)))

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    text = (folder / "evaluation.json").read_text()
    numbers = json.loads(text, parse_constant=refuse)
    assert returned.keys() == numbers["kinds"].keys()
    assert json.loads((folder / "detections.json").read_text()) == evaluation.results
    return (folder / "evaluation.html").read_text(), numbers


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The page of boxes and masks, compared with another evaluation."""
    root = tmp_path_factory.mktemp("page")
    objects, detections = scenes.random(3, num_images=12)
    others = [(*d[:3], score * score) for *d, score in detections[::2]]
    write(root / "other", objects, others, num_images=12, masks=True, name="plain")
    record = records.read(str(root / "other"))
    html, numbers = write(
        root / "run", objects, detections, num_images=12, masks=True, compared=record
    )
    return html, numbers


@browser.needs_chromium
@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1280, "light")])
def test_the_page_in_a_browser(written, tmp_path, width, scheme):
    browser.check_page(written[0], tmp_path, width, scheme)


@browser.needs_chromium
def test_a_click_sorts_the_table(written, tmp_path):
    """Ascending at first, then descending; what is missing is last both times."""
    html = written[0]
    click = """<script>
    const table = [...document.querySelectorAll('table.sortable')].find(
      t => t.tHead.textContent.includes('objects here'));
    const column = [...table.tHead.rows[0].cells].findIndex(c => c.textContent === 'APl');
    const rows = () => [...table.tBodies[0].rows].map(r => r.cells[0].textContent).join(',');
    const states = [rows()];
    for (const _ of [1, 2]) {
      table.tHead.rows[0].cells[0].querySelector('button').click(); states.push(rows());
    }
    table.tHead.rows[0].cells[column].querySelector('button').click(); states.push(rows());
    document.title = states.join('|');
    </script></body>"""
    page = tmp_path / "page.html"
    page.write_text(html.replace("</body>", click))
    dom, console = browser.open_in_chromium(page, tmp_path)
    assert not console
    names = ["class 1", "class 2", "class 3"]
    first, up, down, by_size = re.search("<title>(.*?)</title>", dom).group(1).split("|")
    assert first.split(",") == up.split(",") == names
    assert down.split(",") == names[::-1]
    # No object is large, so nothing can be sorted.
    assert sorted(by_size.split(",")) == names


def test_the_numbers_are_those_of_the_parts(written):
    html, content = written
    assert set(content["kinds"]) == {"bbox", "segm"}
    objects, detections = scenes.random(3, num_images=12)
    truth, results = scenes.with_masks(
        scenes.annotation_file(objects, 3, 12), scenes.results(detections)
    )
    subject = subjects.make(truth, results)
    for kind, numbers in content["kinds"].items():
        expected = average_precision.measure(matching.match(subject, kind))["all"]
        assert numbers["average_precision"]["all"] == expected
        best = numbers["curves"]["scores"]["all"]["best"]
        assert numbers["score_threshold"] == best["threshold"]
        assert f"AP of {'boxes' if kind == 'bbox' else 'masks'} is {expected['AP']:.3f}" in html
    # What counts at the threshold is told by every part in the same way.
    for numbers in content["kinds"].values():
        totals, counts = numbers["worst_images"]["totals"], numbers["counts"]["all"]
        matrix = np.array(numbers["confusion"]["counts"])
        assert matrix[:-1].sum() == counts["objects"]
        assert matrix[:, :-1].sum() == counts["detections"]
        assert matrix[-1].sum() == totals["false"] + totals["badly_placed"] + totals["duplicate"]
        assert matrix[:-1, :-1].sum() - np.trace(matrix) == totals["mixed_up"]


def test_two_runs_are_side_by_side(written):
    html, content = written
    compared = content["compared"]
    assert compared["name"] == "plain" and compared["num_images"] == 12
    for of_kind in compared["kinds"].values():
        both = of_kind["average_precision"]
        gap = both["this"]["all"]["AP"] - both["other"]["all"]["AP"]
        assert of_kind["differences"]["AP"]["difference"] == pytest.approx(gap)
        assert of_kind["differences"]["AP"]["low"] <= gap <= of_kind["differences"]["AP"]["high"]
    assert "Compared with plain" in html
    assert "AP, 95 % between" in html and "more than chance" in html


def test_every_link_and_every_figure_is_there(written):
    html, _ = written
    links = set(re.findall(r'<a href="#([^"]*)"', html))
    ids = re.findall(r' id="([^"]*)"', html)
    assert links == set(ids) and len(ids) == len(set(ids)) >= 20
    drawings = templates.environment("libra_tf.evaluation").get_template("figures.html.j2").module
    kinds = (charts.Table, charts.SortableTable, charts.HeatTable, charts.LineChart)
    kinds += (charts.BarChart, pictures.ErrorPicture)
    assert {kind.kind for kind in kinds} <= drawings.drawings.keys()


def test_names_are_text(tmp_path):
    hostile = """</style><b class="c">"&amp;'{{ content }}</b><script>"""
    objects, detections = scenes.random(1)

    def render(name, folder):
        evaluation = make(objects, detections, name=name, model=name, annotations=name)
        evaluation.truth.class_names[2] = name
        for image in evaluation.truth.images:
            image["file_name"] = name
        folder.mkdir()
        report.write(evaluation, str(folder), Progress(rich.console.Console(quiet=True)))
        return (folder / "evaluation.html").read_text()

    tame, wild = render("harmless", tmp_path / "tame"), render(hostile, tmp_path / "wild")
    assert hostile not in wild
    assert len(re.findall("<[a-z/]", wild)) == len(re.findall("<[a-z/]", tame))


def test_a_page_of_20_classes_is_small(tmp_path):
    objects, detections = scenes.random(0, num_classes=20, num_images=60)
    html, content = write(tmp_path, objects, detections, num_classes=20, num_images=60)
    assert len(content["classes"]) == 20
    assert len(html.encode()) < 2e6


OBJECTS = [(1, 1, [10, 10, 20, 20]), (2, 2, [30, 30, 40, 40])]


@pytest.mark.parametrize(
    ("scene", "words"),
    [
        ((OBJECTS, []), ["Nothing was detected at all", "none of the 2 objects is found"]),
        (([], [(1, 1, [10, 10, 20, 20], 0.9)]), ["There are no objects with boxes to find"]),
        (([], []), ["There are no objects with boxes to find"]),
        ((OBJECTS, [(1, 1, [60, 60, 9, 9], 0.9)]), ["No detection is right"]),
        ((OBJECTS, [(1, 1, [11, 10, 20, 20], 0.9)]), ["There are no objects of class 3"]),
    ],
    ids=["no detections", "no objects", "nothing", "all wrong", "a class without objects"],
)
def test_what_is_not_there_is_said(tmp_path, scene, words):
    html, _ = write(tmp_path, *scene)
    assert all(word in html for word in words)
    assert "None" not in re.sub("<script>.*</script>", "", html, flags=re.S)
    assert "nan" not in re.findall(r">\s*(nan)\s*<", html)


def test_one_class_alone(tmp_path):
    html, content = write(tmp_path, *scenes.random(2, num_classes=1), num_classes=1)
    assert content["kinds"]["bbox"]["confusion"]["pairs"] == []
    assert "No object was taken for one of another class" in html


def test_pictures_that_cannot_be_read_are_left_out(tmp_path):
    html, _ = write(tmp_path, *scenes.random(3), read_images=lambda ids: {})
    assert "<image " not in html
    assert "The images cannot be read." in html


def test_detections_of_other_classes_are_left_out_and_said(tmp_path):
    detections = [(1, 1, [10, 10, 20, 20], 0.9), (1, 9, [10, 10, 20, 20], 0.9)]
    html, content = write(tmp_path, OBJECTS, detections)
    assert content["num_detections"] == content["num_detections_of_other_classes"] == 1
    assert "1 further ones are of classes that the annotations do not list" in html


def test_what_cannot_be_reported_on_leaves_nothing(tmp_path):
    with pytest.raises(UsageError, match="does not list image_id 99"):
        write(tmp_path, OBJECTS, [(99, 1, [10, 10, 20, 20], 0.9)])
    with pytest.raises(UsageError, match="scores are numbers from 0 to 1"):
        write(tmp_path, OBJECTS, [], score_threshold=2.0)
    write(tmp_path / "other", OBJECTS[:1], [])
    record = records.read(str(tmp_path / "other"))
    with pytest.raises(UsageError, match="other images, objects or classes"):
        write(tmp_path, OBJECTS, [], compared=record)
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_classes_with_one_name_are_told_apart(tmp_path):
    evaluation = make(OBJECTS, [])
    evaluation.truth.class_names[3] = "class 1"
    report.write(evaluation, str(tmp_path), Progress(rich.console.Console(quiet=True)))
    content = json.loads((tmp_path / "evaluation.json").read_text())
    assert list(content["classes"].values()) == ["class 1 (1)", "class 2", "class 1 (3)"]


def numbers_of(best):
    classes = {id_: {"best": value and {"threshold": value}} for id_, value in best.items()}
    return {"curves": {"scores": {"classes": classes}}}


def test_the_flag_for_an_export():
    """Rounded down, so that the detection with the best score stays."""
    names = {1: "red cell", 2: "b", 3: "c"}
    flag = figures.thresholds_flag(numbers_of({1: 0.45678, 2: None, 3: 0.5}), names)
    assert flag == "'--score_thresholds=red cell=0.456,c=0.5'"
    assert figures.thresholds_flag(numbers_of(dict.fromkeys(names)), names) is None
    # What the flag cannot name is named by its id: commas, and names that several classes share.
    odd = {1: "a, b", 2: "cell (2)", 3: "cell (7)"}
    flag = figures.thresholds_flag(numbers_of(dict.fromkeys(odd, 0.5)), odd)
    assert flag == "'--score_thresholds=1=0.5,2=0.5,cell (7)=0.5'"


def test_of_many_classes_some_are_drawn_and_all_in_the_numbers():
    names = {id_: f"class {id_}" for id_ in range(1, 21)}
    curves = {id_: [id_ / 20] * 101 for id_ in names}
    precision = {"mean": [0.5] * 101, "classes": curves}
    numbers = {"curves": {"recall": [i / 100 for i in range(101)], "precision": {"0.5": precision}}}
    (chart,) = figures.precision_recall(numbers, names)
    drawn = [line.name for line in chart.lines]
    assert set(drawn) == {"mean", "class 20", "class 19", "class 18", "class 1", "class 2"}
    assert chart.numbers.columns == ["recall", "mean", *names.values()][:2] + sorted(
        names.values(), key=lambda name: int(name.split()[1])
    )
    assert len(chart.numbers.rows) == 101


def test_each_error_has_a_look_and_a_name_on_the_page(written):
    html, _ = written
    for outcome, look in pictures.LOOKS.items():
        assert look.name == outcome.value.replace("_", " ")
        assert f"{look.name}: {look.meaning}" in html
    colours = [look.colour for look in pictures.LOOKS.values()]
    assert len(set(colours)) == len(colours)


def test_pictures_show_what_is_there(tmp_path):
    html, _ = write(tmp_path, OBJECTS, [(1, 1, [60, 60, 9, 9], 0.9)])
    tips = re.findall(r'class="mark-box[^>]*><title>(.*?)</title>', html)
    assert sorted(tips) == ["false: class 1 0.90", "missed: class 1", "missed: class 2"]
