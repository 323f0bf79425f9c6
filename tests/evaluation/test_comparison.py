"""Differences of AP and their intervals, against pycocotools on images that are really repeated."""

import contextlib
import io
import json
import pathlib
import re

import numpy as np
import pytest
import rich.console
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pycocotools import cocoeval

from libra_tf.cli.errors import UsageError
from libra_tf.cli.progress import Progress
from libra_tf.data.annotations import AnnotationFile
from libra_tf.evaluation import comparison, matching, subject

pytestmark = pytest.mark.one_lane

SIZE = 120
CLASSES = {2: "dog", 5: "cat", 9: "owl"}


def world(generator, num_images, num_objects=6):
    """Images with objects, some of them crowds."""
    images = [
        {"id": 3 * number + 1, "file_name": f"{number}.jpg", "width": SIZE, "height": SIZE}
        for number in range(num_images)
    ]
    objects = [
        {
            "image_id": image["id"],
            "category_id": int(generator.choice(list(CLASSES))),
            "bbox": box(generator),
            "iscrowd": int(generator.random() < 0.1),
        }
        for image in images
        for _ in range(generator.integers(num_objects))
    ]
    objects = [{"id": number, **entry} for number, entry in enumerate(objects, start=1)]
    return AnnotationFile(pathlib.Path("val.json"), "", images, objects, CLASSES)


def box(generator):
    return [float(v) for v in [*generator.integers(0, 60, 2), *generator.integers(8, 60, 2)]]


def detect(generator, truth, noise, num_false=2):
    """Finds most objects, and some that are not there; scores are equal between images only."""
    found = []
    for entry in truth.annotations:
        if generator.random() < 0.85:
            moved = np.add(entry["bbox"], generator.normal(0, noise, 4))
            found.append({**entry, "bbox": [*moved[:2], *np.maximum(moved[2:], 1)]})
    for image in truth.images:
        for _ in range(generator.integers(num_false + 1)):
            class_id = int(generator.choice(list(CLASSES)))
            found.append({"image_id": image["id"], "category_id": class_id, "bbox": box(generator)})
    keys = ("image_id", "category_id", "bbox")
    scores = generator.integers(1, 9, len(found)) / 10
    taken = {}
    for entry, score in zip(found, scores, strict=True):
        place = entry["image_id"], entry["category_id"]
        while score in taken.setdefault(place, set()):
            score = score / 2
        taken[place].add(score)
        entry["score"] = float(score)
    return [{key: entry[key] for key in (*keys, "score")} for entry in found]


def repeated(truth, results, counts):
    """The data set and the results with each image as many times as it was drawn."""
    images, objects, found = [], [], []
    for image, count in zip(truth.images, counts, strict=True):
        for _ in range(count):
            new = {"image_id": len(images) + 1}
            images.append({**image, "id": new["image_id"]})
            for target, entries in ((objects, truth.annotations), (found, results)):
                target += [{**e, **new} for e in entries if e["image_id"] == image["id"]]
    objects = [{**entry, "id": number} for number, entry in enumerate(objects, start=1)]
    return AnnotationFile(truth.path, "", images, objects, CLASSES), found


def by_pycocotools(truth, results):
    made = subject.make(truth, results)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = cocoeval.COCOeval(made.truth, made.detections, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    with np.errstate(invalid="ignore"):
        of_classes = np.where(precision[0, 0] < 0, np.nan, precision.mean(axis=(0, 1)))
    overall = np.where(evaluation.stats[:3] < 0, np.nan, evaluation.stats[:3])
    return np.concatenate([overall, of_classes])


def ranking(truth, results):
    return comparison._Ranking(matching.match(subject.make(truth, results), "bbox").classes)


@given(st.integers(0, 2**32 - 1), st.integers(1, 12))
@settings(deadline=None, max_examples=25)
def test_a_draw_is_what_pycocotools_finds_in_repeated_images(seed, num_images):
    generator = np.random.default_rng(seed)
    truth = world(generator, num_images)
    results = detect(generator, truth, noise=4)
    ranked = ranking(truth, results)
    drawn = np.bincount(generator.integers(num_images, size=num_images), minlength=num_images)
    for counts in (np.ones(num_images, int), drawn):
        expected = by_pycocotools(*repeated(truth, results, counts))
        np.testing.assert_allclose(ranked.summary(counts), expected, atol=1e-6)


@given(st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=5)
def test_the_difference_is_that_of_pycocotools(seed):
    generator = np.random.default_rng(seed)
    truth = world(generator, 25)
    pair = [detect(generator, truth, noise) for noise in (2, 5)]
    found = comparison.compare(*(subject.make(truth, r) for r in pair), "bbox", num_samples=100)
    first, second = (by_pycocotools(truth, results) for results in pair)
    names = ["AP", "AP50", "AP75", "AP/dog", "AP/cat", "AP/owl"]
    expected = dict(zip(names, first - second, strict=True))
    for name, difference in found.items():
        assert difference["difference"] == pytest.approx(expected[name], abs=1e-6)
        assert difference["low"] <= difference["high"]
    assert {"AP", "AP50", "AP75"} <= set(found)


@given(st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=5)
def test_a_detector_does_not_differ_from_itself(seed):
    generator = np.random.default_rng(seed)
    truth = world(generator, 20)
    assume(not all(entry["iscrowd"] for entry in truth.annotations))
    results = detect(generator, truth, noise=4)
    found = comparison.compare(*(subject.make(truth, results) for _ in range(2)), "bbox", 100)
    for difference in found.values():
        assert difference == {"difference": 0, "low": 0, "high": 0, "is_significant": False}


def test_a_better_detector_is_significant_and_its_interval_holds_the_difference():
    generator = np.random.default_rng(0)
    truth = world(generator, 150)
    good, bad = (subject.make(truth, detect(generator, truth, noise)) for noise in (1, 6))
    better = comparison.compare(good, bad, "bbox", num_samples=200)["AP"]
    worse = comparison.compare(bad, good, "bbox", num_samples=200)["AP"]
    assert 0 < better["low"] < better["difference"] < better["high"] and better["is_significant"]
    # The draws are the same, so nothing but the sign differs.
    assert worse["difference"] == -better["difference"] and worse["is_significant"]
    assert worse["low"] == pytest.approx(-better["high"])


def test_masks_are_compared_as_masks():
    truth = world(np.random.default_rng(1), 12)
    squares = [
        {**e, "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]]}
        for e in truth.annotations
        for x, y, w, h in [e["bbox"]]
    ]
    truth = AnnotationFile(truth.path, "", truth.images, squares, CLASSES)
    made = subject.make(truth, [])
    exact = [
        {**{k: e[k] for k in ("image_id", "category_id", "bbox")}, "score": 0.5, "segmentation": m}
        for e in made.truth.anns.values()
        for m in [made.truth.annToRLE(e)]
    ]
    empty = [{**e, "segmentation": squares[0]["segmentation"]} for e in exact]
    empty = [{**e, "segmentation": exact[0]["segmentation"]} for e in empty]
    pair = [subject.make(truth, results) for results in (exact, empty)]
    assert comparison.compare(*pair, "bbox", num_samples=100)["AP"]["difference"] == 0
    assert comparison.compare(*pair, "segm", num_samples=100)["AP"]["difference"] > 0.5


def test_few_images_of_a_class_have_no_interval():
    truth = world(np.random.default_rng(2), 30)
    of_owls = [entry["image_id"] for entry in truth.annotations if entry["category_id"] == 9][:3]
    kept = [e for e in truth.annotations if e["category_id"] != 9 or e["image_id"] in of_owls]
    rare = AnnotationFile(truth.path, "", truth.images, kept, CLASSES)
    made = subject.make(rare, [])
    assert set(comparison.compare(made, made, "bbox", 100)) == {
        "AP", "AP50", "AP75", "AP/dog", "AP/cat",
    }  # fmt: skip


def changed(truth, **changes):
    return AnnotationFile(**{**vars(truth), **changes})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: changed(t, images=t.images[:-1], annotations=[]), "different images.*1 belong"),
        (lambda t: changed(t, class_names={**CLASSES, 11: "elk"}), "different classes"),
        (lambda t: changed(t, annotations=t.annotations[1:]), "different objects"),
    ],
)
def test_other_ground_truth_is_refused(change, message):
    truth = world(np.random.default_rng(0), 5)
    with pytest.raises(UsageError, match=f"{message}.*same annotations"):
        comparison.compare(subject.make(truth, []), subject.make(change(truth), []), "bbox")


def test_what_cannot_be_compared_is_refused():
    truth = world(np.random.default_rng(0), 5)
    made = subject.make(truth, [])
    with pytest.raises(UsageError, match=r"first .* no 'segm' detections .* compare 'bbox'"):
        comparison.compare(made, made, "segm")
    with pytest.raises(UsageError, match="at least 100 times"):
        comparison.compare(made, made, "bbox", num_samples=99)
    empty = subject.make(changed(truth, annotations=[]), [])
    with pytest.raises(UsageError, match="no objects"):
        comparison.compare(empty, empty, "bbox")


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ((0.0081, 0.002, 0.0138, True), "+0.8 AP, 95 % between +0.2 and +1.4: more than chance"),
        ((-0.0001, -0.02, 0.001, False), "+0.0 AP, 95 % between -2.0 and +0.1: may be chance"),
    ],
)
def test_sentence(values, text):
    difference = dict(zip(["difference", "low", "high", "is_significant"], values, strict=True))
    assert comparison.sentence("AP", difference) == text


def test_progress_is_shown():
    made = subject.make(world(np.random.default_rng(0), 60), [])
    console = rich.console.Console(file=io.StringIO(), force_terminal=True, width=100)
    comparison.compare(made, made, "bbox", num_samples=100, progress=Progress(console))
    shown = console.file.getvalue()
    assert "matching" in shown and "comparing" in shown and "100/100" in shown


def test_the_example_of_the_documentation(tmp_path, monkeypatch, capsys):
    page = pathlib.Path(__file__).resolve().parents[2] / "docs" / "evaluation.md"
    (example,) = re.findall(r"^```py\n(.*?)^```", page.read_text(), re.M | re.S)
    generator = np.random.default_rng(0)
    truth = world(generator, 30)
    categories = [{"id": id_, "name": name} for id_, name in CLASSES.items()]
    sections = {"images": truth.images, "annotations": truth.annotations}
    files = {"cells/annotations/instances_val.json": {**sections, "categories": categories}}
    for folder, noise in (("libra", 1), ("plain", 6)):
        files[f"found/{folder}/detections.json"] = detect(generator, truth, noise)
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(content))
    monkeypatch.chdir(tmp_path)
    exec(compile(example, str(page), "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6 and re.match(r"\+\d+\.\d AP, 95 % between .*: more than", lines[0])


@pytest.mark.slow
def test_the_interval_holds_the_difference_on_other_images():
    """On many drawn sets of images, as often as it says."""
    generator = np.random.default_rng(1)
    everything = world(generator, 2000)
    pair = [detect(generator, everything, noise) for noise in (4, 4.5)]
    weights = np.ones(2000, int)
    true = comparison._differences([ranking(everything, results) for results in pair], weights)[0]
    is_inside = []
    for _ in range(60):
        images = [everything.images[i] for i in generator.choice(2000, 60, replace=False)]
        ids = {image["id"] for image in images}
        few = changed(
            everything,
            images=images,
            annotations=[e for e in everything.annotations if e["image_id"] in ids],
        )
        found = ([r for r in results if r["image_id"] in ids] for results in pair)
        made = (subject.make(few, results) for results in found)
        interval = comparison.compare(*made, "bbox", num_samples=200)["AP"]
        is_inside.append(interval["low"] <= true <= interval["high"])
    # 57 of 60 are expected; 52 or fewer would be seen once in 100 times.
    assert sum(is_inside) > 52
