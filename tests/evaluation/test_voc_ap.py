"""AP as PASCAL VOC defines it, against MMDetection and against the rules, step by step."""

import pathlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libra_tf.data.annotations import AnnotationFile
from libra_tf.evaluation import subject, voc_ap

pytestmark = pytest.mark.one_lane

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "blocks"
SIZE = 200


def make(objects, results, num_images, num_classes):
    images = [
        {"id": number, "file_name": f"{number}.jpg", "width": SIZE, "height": SIZE}
        for number in range(num_images)
    ]
    keys = ("image_id", "category_id", "bbox", "iscrowd")
    objects = [
        {"id": number, **dict(zip(keys, entry, strict=True))}
        for number, entry in enumerate(objects, start=1)
    ]
    keys = ("image_id", "category_id", "bbox", "score")
    results = [dict(zip(keys, entry, strict=True)) for entry in results]
    names = {number: f"class {number}" for number in range(num_classes)}
    file = AnnotationFile(pathlib.Path("val.json"), "", images, objects, names)
    return subject.make(file, results)


@pytest.mark.parametrize("scene", ["few", "difficult", "crowded"])
def test_mmdetection(scene):
    with np.load(GOLDEN / f"voc_{scene}.npz") as file:
        golden = {name: array.tolist() for name, array in file.items()}
    objects, detections = (
        zip(*(golden[f"{prefix}_{name}"] for name in ("images", "classes", "boxes")), strict=True)
        for prefix in ("object", "detection")
    )
    found = voc_ap.evaluate(
        make(
            [(*entry, int(d)) for entry, d in zip(objects, golden["is_difficult"], strict=True)],
            [(*entry, score) for entry, score in zip(detections, golden["scores"], strict=True)],
            golden["num_images"],
            golden["num_classes"],
        )
    )
    areas = {f"AP/class {number}": area for number, area in enumerate(golden["areas"])}
    expected = {
        "AP": np.mean(golden["areas"]), "AP_11_points": np.mean(golden["of_11_points"]), **areas
    }  # fmt: skip
    assert found == pytest.approx(expected, abs=1e-6)


def corners(bbox):
    """The development kit's: pixels are counted from 1, and the last one belongs to the box."""
    x, y, width, height = bbox
    return x + 1, y + 1, x + width, y + height


def overlap(first, second):
    width = min(first[2], second[2]) - max(first[0], second[0]) + 1
    height = min(first[3], second[3]) - max(first[1], second[1]) + 1
    if width <= 0 or height <= 0:
        return 0
    area = sum((b[2] - b[0] + 1) * (b[3] - b[1] + 1) for b in (first, second))
    return width * height / (area - width * height)


def by_the_rules(objects, results):
    """AP of one class both ways, in words of the development kit."""
    taken, points, right, wrong = set(), [], 0, 0
    count = sum(not is_difficult for *_, is_difficult in objects)
    for image, _, bbox, _ in sorted(results, key=lambda entry: -entry[3]):
        most, nearest = -1, None
        for index, (other, _, of_object, _) in enumerate(objects):
            if other == image and overlap(corners(bbox), corners(of_object)) > most:
                most, nearest = overlap(corners(bbox), corners(of_object)), index
        if nearest is None or most < 0.5 or (not objects[nearest][3] and nearest in taken):
            wrong += 1
        elif not objects[nearest][3]:
            right += 1
            taken.add(nearest)
        if right + wrong:
            points.append((right / count, right / (right + wrong)))
    area, last = 0, 0
    for recall in sorted({recall for recall, _ in points}):
        area += (recall - last) * max(p for r, p in points if r >= recall)
        last = recall
    tenths = [max((p for r, p in points if r >= t), default=0) for t in np.arange(0, 1.1, 0.1)]
    return area, sum(tenths) / 11


@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(1, 12))
@settings(deadline=None, max_examples=100)
def test_the_rules(seed, num_images, num_objects):
    generator = np.random.default_rng(seed)

    def box():
        return [float(v) for v in [*generator.integers(0, 60, 2), *generator.integers(8, 60, 2)]]

    # The first is not difficult: there must be something to find.
    objects = [
        (
            int(generator.integers(num_images)),
            0,
            box(),
            int(number > 0 and generator.random() < 0.3),
        )
        for number in range(num_objects)
    ]
    places = [o for o in objects for _ in range(generator.integers(3))]
    places += [(int(generator.integers(num_images)), 0, box(), 0) for _ in range(5)]
    scores = generator.permutation(len(places)) / len(places)
    results = [
        (image, 0, [float(v) for v in np.maximum(np.add(bbox, generator.normal(0, 4, 4)), 1)], s)
        for (image, _, bbox, _), s in zip(places, scores.tolist(), strict=True)
    ]
    found = voc_ap.evaluate(make(objects, results, num_images, 1))
    area, of_11_points = by_the_rules(objects, results)
    assert found == pytest.approx(
        {"AP": area, "AP_11_points": of_11_points, "AP/class 0": area}, abs=1e-9
    )


def test_a_class_with_difficult_objects_only_is_left_out():
    bbox = [10, 10, 20, 20]
    objects, results = [(0, 0, bbox, 0), (0, 1, bbox, 1)], [(0, 1, bbox, 0.9)]
    found = voc_ap.evaluate(make(objects, results, 1, 3))
    assert found == {"AP": 0, "AP_11_points": 0, "AP/class 0": 0}
    assert voc_ap.evaluate(make(objects[1:], results, 1, 3)) == {"AP": -1, "AP_11_points": -1}


def test_classes_with_one_name_are_two_classes():
    bbox = [10, 10, 20, 20]
    made = make([(0, 0, bbox, 0), (0, 1, bbox, 0)], [(0, 0, bbox, 0.9)], 1, 2)
    for category in made.truth.cats.values():
        category["name"] = "cell"
    found = voc_ap.evaluate(made)
    assert (found["AP"], found["AP_11_points"]) == (0.5, 0.5)


def test_an_overlap_of_exactly_a_half_counts():
    found = voc_ap.evaluate(make([(0, 0, [0, 0, 10, 10], 0)], [(0, 0, [0, 0, 10, 5], 0.5)], 1, 1))
    assert found["AP"] == 1
