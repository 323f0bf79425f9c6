"""The page of an evaluation and its numbers, as a user gets them."""

import dataclasses
import functools
import io
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
from html import unescape

import numpy as np
import pytest
import rich.console
from PIL import Image

from libra_tf.cli.errors import UsageError
from libra_tf.cli.progress import Progress
from libra_tf.data.annotations import FEDERATED_KEYS
from libra_tf.evaluation import (
    average_precision,
    coco_errors,
    export_command,
    figures,
    matching,
    pictures,
    records,
    report,
)
from libra_tf.evaluation import page as pages
from libra_tf.evaluation import subject as subjects
from libra_tf.pages import charts, templates
from libra_tf.serving import class_thresholds
from tests import browser
from tests.evaluation import scenes

pytestmark = pytest.mark.one_lane

ROOT = pathlib.Path(__file__).resolve().parents[2]


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
    subject, returned = report.write(
        evaluation, str(folder), Progress(rich.console.Console(quiet=True))
    )

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    text = (folder / "evaluation.json").read_text()
    numbers = json.loads(text, parse_constant=refuse)
    assert subject.image_ids == numbers["image_ids"]
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
        root / "run", objects, detections, num_images=12, masks=True, read_compared=lambda: record
    )
    return html, numbers


@browser.needs_chromium
@pytest.mark.parametrize(
    ("width", "scheme"),
    [
        (390, "dark"),
        (1280, "light"),
        pytest.param(390, "light", marks=pytest.mark.slow),
        pytest.param(1280, "dark", marks=pytest.mark.slow),
    ],
)
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
        cells = numbers["confusion"]["counts"]
        assert sum(count for row, _, count in cells if row) == counts["objects"]
        assert sum(count for _, column, count in cells if column) == counts["detections"]
        unmatched = totals["false"] + totals["badly_placed"] + totals["duplicate"]
        assert sum(count for row, _, count in cells if row is None) == unmatched
        mixed_up = [count for row, column, count in cells if row and column and row != column]
        assert sum(mixed_up) == totals["mixed_up"]


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


def test_nothing_is_matched_twice(tmp_path, monkeypatch):
    """Matching is most of the work."""
    matched = []

    def watch(subject, kind, progress=None):
        matched.append(subject)
        return match(subject, kind, progress)

    match = matching.match
    monkeypatch.setattr(matching, "match", watch)
    objects, detections = scenes.random(3)
    write(tmp_path / "other", objects, detections)
    for images, number in (((1, 2, 3, 4), 2), ((1, 2, 3), 3)):
        record = dataclasses.replace(records.read(str(tmp_path / "other")), image_ids=list(images))
        truth = scenes.annotation_file(objects, 3, 4)
        record = dataclasses.replace(record, truth_digest=records.digest_of_truth(truth, images))
        matched.clear()
        write(tmp_path / "run", objects, detections, read_compared=lambda record=record: record)
        assert len(matched) == number


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


def many_classes(num_classes):
    """An object of each class, 20 in an image; half of them are found, and some mixed up."""
    rng = np.random.default_rng(0)
    objects, detections = [], []
    for number in range(num_classes):
        image, place = divmod(number, 20)
        box = [5.0 + 19 * (place % 5), 5.0 + 24 * (place // 5), 15.0, 18.0]
        objects.append((image + 1, number + 1, box))
        category = number + 1 if place % 3 else int(rng.integers(num_classes)) + 1
        detections.append((image + 1, category, [v + place / 20 for v in box], rng.random()))
    return objects, detections


@pytest.mark.parametrize(
    ("num_classes", "masks", "page", "numbers"),
    [(20, False, 0.5e6, 0.5e6), (80, True, 1.5e6, 2e6), (1203, False, 2e6, 15e6)],
)
def test_a_page_of_many_classes_is_small(tmp_path, num_classes, masks, page, numbers):
    num_images = -(-num_classes // 20)
    scene = many_classes(num_classes)
    document, content = write(
        tmp_path, *scene, num_classes=num_classes, num_images=num_images, masks=masks
    )
    assert len(content["classes"]) == num_classes
    assert all(f">class {number + 1}<" in document for number in range(num_classes))
    sizes = len(document.encode()), (tmp_path / "evaluation.json").stat().st_size
    assert sizes[0] < page and sizes[1] < numbers
    is_said = "these, and evaluation.json has all" in document
    assert is_said == (num_classes > 20)
    assert ("classes with the most confusions" in document) == (num_classes > 40)


OBJECTS = [(1, 1, [10, 10, 20, 20]), (2, 2, [30, 30, 40, 40])]


@pytest.mark.parametrize(
    ("scene", "words"),
    [
        ((OBJECTS, []), ["Nothing was detected at all", "none of the 2 objects is found"]),
        (([], [(1, 1, [10, 10, 20, 20], 0.9)]), ["There are no objects with boxes to find"]),
        (([], []), ["There are no objects with boxes to find"]),
        ((OBJECTS, [(1, 1, [60, 60, 9, 9], 0.9)]), ["No detection is right"]),
        ((OBJECTS[:1], []), ["No detection is right: the only object is not found."]),
        ((OBJECTS, [(1, 1, [11, 10, 20, 20], 0.9)]), ["There are no objects of class 3"]),
    ],
    ids=[
        "no detections",
        "no objects",
        "nothing",
        "all wrong",
        "one object",
        "a class without objects",
    ],
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
    known, other = (1, 1, [10, 10, 20, 20], 0.9), (1, 9, [10, 10, 20, 20], 0.9)
    html, content = write(tmp_path, OBJECTS, [known, other])
    assert content["num_detections"] == content["num_detections_of_other_classes"] == 1
    assert "1 further one is of a class that the annotations do not list, and is left out." in html
    html, _ = write(tmp_path, OBJECTS, [known, other, other])
    assert "2 further ones are of classes that the annotations do not list, and are left" in html


@pytest.mark.parametrize("key", FEDERATED_KEYS)
def test_of_federated_annotations_it_is_said_what_counts(tmp_path, key):
    said = "--metrics=lvis leaves them out"
    html, _ = write(tmp_path, *scenes.random(3))
    assert said not in html
    evaluation = make(*scenes.random(3))
    evaluation.truth.images[0][key] = []
    report.write(evaluation, str(tmp_path), Progress(rich.console.Console(quiet=True)))
    assert said in (tmp_path / "evaluation.html").read_text()


def test_the_gain_of_tide_is_that_of_its_own_ap50(written):
    """Its unit is that of the summary."""
    html, content = written
    measured = content["kinds"]["bbox"]["tide"]
    assert f"TIDE's AP50 is {measured['AP50']:.3f}:" in html
    gains, _ = figures.tide_bars(content["kinds"]["bbox"])
    shown = [bar.value for group in gains.groups for bar in group.bars]
    assert shown == [charts.number(measured["dAP"][name]) for name in figures.TIDE]


def test_an_object_without_a_mask_is_said(tmp_path):
    evaluation = make(*scenes.random(3), masks=True)
    del evaluation.truth.annotations[0]["segmentation"]
    report.write(evaluation, str(tmp_path), Progress(rich.console.Console(quiet=True)))
    content = json.loads((tmp_path / "evaluation.json").read_text())
    assert list(content["kinds"]) == ["bbox"]
    html = (tmp_path / "evaluation.html").read_text()
    assert "Masks are not measured, since 1 of the objects has none." in html


def test_masks_are_not_compared_with_boxes(tmp_path):
    objects, detections = scenes.random(3)
    # The same objects; masks make no difference to what is the same.
    write(tmp_path / "other", objects, detections, name="boxes")
    record = records.read(str(tmp_path / "other"))
    html, content = write(
        tmp_path / "run", objects, detections, masks=True, read_compared=lambda: record
    )
    assert list(content["kinds"]) == ["bbox", "segm"]
    assert list(content["compared"]["kinds"]) == ["bbox"]
    assert "Masks are not compared, since boxes has none." in html


def test_what_cannot_be_reported_on_leaves_nothing(tmp_path):
    with pytest.raises(UsageError, match="does not list image_id 99"):
        write(tmp_path, OBJECTS, [(99, 1, [10, 10, 20, 20], 0.9)])
    with pytest.raises(UsageError, match="scores are numbers from 0 to 1"):
        write(tmp_path, OBJECTS, [], score_threshold=2.0)
    assert not any(tmp_path.iterdir())


def test_a_comparison_that_fails_leaves_the_page(tmp_path):
    """The files of the other may change during a training; and crowds tell nothing apart."""
    other = str(tmp_path / "other")
    write(tmp_path / "other", OBJECTS[:1], [])
    crowd = [(1, 1, [10, 10, 20, 20], True)]
    write(tmp_path / "crowd", crowd, [])
    cases = {
        "other images, objects or classes": (OBJECTS, other),
        "nothing to compare": (crowd, str(tmp_path / "crowd")),
        "detections.json is damaged": (OBJECTS[:1], other),
    }
    for number, (reason, (objects, folder)) in enumerate(cases.items()):
        if "damaged" in reason:
            (tmp_path / "other" / "evaluation.json").write_text("{")
        read = functools.partial(records.read, folder)
        html, content = write(tmp_path / str(number), objects, [], read_compared=read)
        assert content["compared"] is None and reason in content["why_not_compared"]
        assert "There is no comparison: " in html and reason in html
        assert '<a href="#compared">' in html and 'id="compared"' in html


def test_classes_with_one_name_are_told_apart(tmp_path):
    evaluation = make(OBJECTS, [])
    evaluation.truth.class_names[3] = "class 1"
    report.write(evaluation, str(tmp_path), Progress(rich.console.Console(quiet=True)))
    content = json.loads((tmp_path / "evaluation.json").read_text())
    assert list(content["classes"].values()) == ["class 1 (1)", "class 2", "class 1 (3)"]


def numbers_of(best):
    classes = {id_: {"best": value and {"threshold": value}} for id_, value in best.items()}
    return {"curves": {"scores": {"classes": classes}}}


def command_of(best, names, model="runs/cells/ckpt-7"):
    return export_command.of(numbers_of(best), names, model)


def test_the_scores_of_an_export():
    """Rounded down, so that the detection with the best score stays."""
    names = {1: "red cell", 2: "b", 3: "c"}
    command = command_of({1: 0.45678, 2: None, 3: 0.5}, names)
    assert command.endswith(" '--score_thresholds=red cell=0.456,c=0.5'")
    assert command_of(dict.fromkeys(names), names) is None
    small = command_of({1: 0.00012345, 2: 0.1, 3: 1.0}, names)
    assert small.endswith("=red cell=0.000123,b=0.1,c=1'")


def test_what_the_flag_cannot_name_is_named_by_its_id():
    """Commas, and names that several classes share."""
    odd = {1: "a, b", 2: "cell", 3: "cell (7)", 4: "cell"}
    assert export_command.names_in_flag(odd) == {1: "1", 2: "2", 3: "cell (7)", 4: "4"}


def test_the_command_has_the_names_of_the_detector(tmp_path):
    """The annotations may number and spell them otherwise."""
    names = {1: "Class_1", 2: "77"}
    scene = scenes.random(3, num_images=12)
    page, _ = write(tmp_path, *scene, num_images=12, export_names=names)
    (command,) = re.findall("<code>(.*?)</code>", page)
    thresholds = class_thresholds.read(shlex.split(unescape(command))[-1].partition("=")[2])
    assert thresholds.keys() == {"Class_1", "77"}


@pytest.mark.parametrize(
    ("model", "flags"),
    [
        ("runs/cells/ckpt-7", "--model_dir=runs/cells --checkpoint=ckpt-7"),
        ("runs/cells/ckpt-7 in float32", "--model_dir=runs/cells --checkpoint=ckpt-7"),
        (
            "/in a box/ckpt-1/ckpt-70 in bfloat16, in tiles of 800x800 pixels",
            "'--model_dir=/in a box/ckpt-1' --checkpoint=ckpt-70",
        ),
        (
            "gs://b/cells/best/best_ckpt-7",
            "--model_dir=gs://b/cells --checkpoint=gs://b/cells/best/best_ckpt-7",
        ),
        ("served/cells/1", "--model_dir=RUN"),
        ("cells.tflite", "--model_dir=RUN"),
    ],
)
def test_what_to_export(model, flags):
    command = command_of({1: 0.5}, {1: "a"}, model)
    assert command.startswith(f"libra-tf export {flags} --export_dir=served/")
    assert export_command.is_of_run(model) == ("RUN" not in command)


def test_the_command_of_the_page_can_be_run(tmp_path, written):
    """It has all flags that it needs: what is missing is the run."""
    commands = [unescape(found) for found in re.findall("<code>(.*?)</code>", written[0])]
    assert len(commands) == 2
    for command, noun in zip(commands, ("boxes", "masks"), strict=True):
        assert f"that is best for {noun}:" in " ".join(written[0].split())
        program, *arguments = shlex.split(command)
        assert program == "libra-tf"
        called = subprocess.run(
            [sys.executable, "-m", "libra_tf", *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert "--model_dir=runs/cells" in called.stderr and "no such folder" in called.stderr
        thresholds = class_thresholds.read(arguments[-1].partition("=")[2])
        assert thresholds and set(thresholds) <= {f"class {number}" for number in (1, 2, 3)}


def test_an_export_is_exported_again_from_its_run(tmp_path):
    page, _ = write(tmp_path, *many_classes(20), num_classes=20, model="served/cells/1")
    assert "served/cells/1 is an export already, so export its run again" in page


def curves_of(num_classes, mean=0.5):
    names = {id_: f"class {id_}" for id_ in range(1, num_classes + 1)}
    curves = {id_: [id_ / num_classes] * 101 for id_ in names}
    precision = {"mean": [mean] * 101, "classes": curves}
    numbers = {"curves": {"recall": [i / 100 for i in range(101)], "precision": {"0.5": precision}}}
    return numbers, names


def test_of_many_classes_some_are_drawn_and_all_in_the_numbers():
    numbers, names = curves_of(20)
    (chart,) = figures.precision_recall(numbers, names)
    drawn = [line.name for line in chart.lines]
    assert set(drawn) == {"mean", "class 20", "class 19", "class 18", "class 1", "class 2"}
    assert chart.numbers.columns == ["recall", "mean", *names.values()]
    assert len(chart.numbers.rows) == 101


def test_of_very_many_classes_the_numbers_are_those_of_what_is_drawn():
    numbers, names = curves_of(21)
    (chart,) = figures.precision_recall(numbers, names)
    drawn = [line.name for line in chart.lines]
    assert drawn == ["mean", "class 1", "class 2", "class 19", "class 20", "class 21"]
    assert chart.numbers.columns == ["recall", *drawn]


def test_a_class_may_be_called_as_something_else_on_the_page():
    """Each name is told from what the page itself calls so."""
    numbers, names = curves_of(2, mean=0.75)
    names[1] = "mean"
    (chart,) = figures.precision_recall(numbers, names)
    assert chart.numbers.columns == ["recall", "(mean)", "mean", "class 2"]
    assert chart.numbers.rows[0] == ["0", "0.75", "0.5", "1"]
    assert [line.name for line in chart.lines] == ["(mean)", "mean", "class 2"]

    areas = dict.fromkeys(coco_errors.NAMES, 0.5)
    errors = {
        "all": areas,
        "classes": {1: dict.fromkeys(coco_errors.NAMES, 0.25)},
        "sizes": {"small": areas},
    }
    table = figures.coco_error_table({"coco_errors": errors}, {1: "small objects"})
    shown = [(row[0].text, row[1].order) for row in table.rows]
    assert shown == [("(small objects)", 0.5), ("small objects", 0.25)]

    names = {1: "background", 2: "cat"}
    counts = [[1, 2, 1], [2, 1, 3], [2, None, 2], [None, 1, 4]]
    table = figures.confusion({"confusion": {"counts": counts}}, names)
    assert table.columns == ["background", "cat", "(background)"]
    tips = [cell.tip.partition(":")[0] for _, cells in table.rows for cell in cells if cell.text]
    assert tips == [
        "background detected as cat",
        "cat detected as background",
        "cat not detected",
        "background detected where there is none",
    ]


def test_a_large_confusion_matrix_has_the_classes_with_the_most_confusions():
    names = {id_: f"class {id_}" for id_ in range(1, 51)}
    mixed_up = [[id_, 51 - id_, 2] for id_ in range(11, 41)]
    missed = [[id_, None, id_] for id_ in names]
    right = [[id_, id_, 5] for id_ in names]
    table = figures.confusion({"confusion": {"counts": mixed_up + missed + right}}, names)
    # Those that are mixed up, and of the others those that are missed most.
    expected = [*range(11, 41), *range(41, 51)]
    assert table.columns == [*(names[id_] for id_ in expected), "background"]
    assert [name for name, _ in table.rows] == table.columns
    assert "the 40 classes with the most confusions, of 50" in table.title
    assert table.numbers is None
    # The share is that of all objects of the class.
    (of_row,) = (cells for name, cells in table.rows if name == "class 20")
    assert of_row[expected.index(31)].share == 2 / (2 + 20 + 5)


@pytest.mark.parametrize(
    ("gain", "count", "said", "unsaid"),
    [
        (0.0005, 1, "0.400, would be 0.001 higher. Mixed up most: a, taken for b once.", "times"),
        (0.0004, 2, "Mixed up most: a, taken for b 2 times.", "higher"),
        (None, 2, "Mixed up most", "higher"),
    ],
)
def test_the_summary(gain, count, said, unsaid):
    all_ = dict.fromkeys(["AP", "AP50", "AP75"], 0.5)
    numbers = {
        "average_precision": {"all": all_},
        "counts": {"all": {"objects": 3}},
        "curves": {"scores": {"classes": {1: {"best": {"f1": 0.5}}}}},
        "tide": {"AP50": 0.4, "dAP": dict.fromkeys(figures.TIDE, gain)},
        "confusion": {"pairs": [{"category_id": 1, "taken_for": 2, "count": count}]},
    }
    summary = " ".join(pages._summary(numbers, {1: "a", 2: "b"}, "boxes"))
    assert said in summary and unsaid not in summary


def test_images_with_the_same_number_of_objects_are_a_table():
    row = {"objects": 2, "images": 7, "mean_detections": 2.5}
    rows = [row, {**row, "objects": 3}]
    figure = figures.detections_per_image({"counts": {"by_number_of_objects": rows[:1]}})
    assert isinstance(figure, charts.Table) and figure.rows == [["2", "7", "2.5"]]
    figure = figures.detections_per_image({"counts": {"by_number_of_objects": rows}})
    assert isinstance(figure, charts.LineChart) and len(figure.numbers.rows) == 2


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
