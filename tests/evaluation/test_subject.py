"""Ground truth and detections, put together."""

import copy
import dataclasses
import json
import pathlib

import pytest

from libra_tf.cli.errors import UsageError
from libra_tf.data.annotations import AnnotationFile, read_annotation_file
from libra_tf.data.problems import FindingLog
from libra_tf.evaluation import subject

pytestmark = pytest.mark.one_lane

SQUARE = [[1, 1, 5, 1, 5, 5, 1, 5]]


def annotation_file():
    images = [{"id": id_, "file_name": f"{id_}.jpg", "width": 10, "height": 10} for id_ in (7, 3)]
    objects = [
        {"id": 1, "image_id": 7, "category_id": 2, "bbox": [1, 1, 4, 4]},
        {"id": 2, "image_id": 3, "category_id": 5, "bbox": [1, 1, 20, 4]},
    ]
    return AnnotationFile(pathlib.Path("val.json"), "", images, objects, {5: "cat", 2: "dog"})


def detection(**changes):
    result = {"image_id": 7, "category_id": 2, "bbox": [1, 1, 4, 4], "score": 0.5}
    return {**result, **changes}


def test_only_the_wanted_images_are_in_it():
    made = subject.make(annotation_file(), [detection(), detection(image_id=3)], [3])
    assert made.image_ids == [3]
    assert [entry["bbox"] for entry in made.truth.anns.values()] == [[1, 1, 9, 4]]
    assert [entry["image_id"] for entry in made.detections.anns.values()] == [3]
    assert made.class_names == {2: "dog", 5: "cat"}


def test_arguments_stay_as_they_are():
    truth, results = annotation_file(), [detection()]
    before = copy.deepcopy((truth, results))
    subject.make(truth, results)
    assert (truth, results) == before


def test_no_detections_are_no_error():
    made = subject.make(annotation_file(), [])
    assert made.image_ids == [3, 7] and not made.detections.anns


@pytest.mark.parametrize(
    ("of_objects", "of_detections", "kinds", "missing"),
    [
        (2, True, ("bbox", "segm"), 0),
        (1, True, ("bbox",), 1),
        (0, True, ("bbox",), 2),
        (2, False, ("bbox",), 0),
        (0, False, ("bbox",), 0),
    ],
)
def test_masks_count_if_all_have_them(of_objects, of_detections, kinds, missing):
    truth = annotation_file()
    for entry in truth.annotations[:of_objects]:
        entry["segmentation"] = SQUARE
    encoded = {"size": [10, 10], "counts": "]1c02"}
    found = [detection(**({"segmentation": encoded} if of_detections else {}))]
    made = subject.make(truth, found)
    assert made.kinds == kinds
    assert made.num_objects_without_masks == missing


def test_ids_of_objects_begin_at_1():
    truth = annotation_file()
    for entry in truth.annotations:
        entry["id"] -= 3
    made = subject.make(truth, [])
    assert sorted(made.truth.anns) == [1, 2] and made.truth.anns[1]["image_id"] == 7


def test_classes_with_the_same_name_are_told_apart():
    truth = dataclasses.replace(annotation_file(), class_names={5: "cat", 2: "dog", 3: "dog"})
    assert subject.make(truth, []).class_names == {2: "dog (2)", 3: "dog (3)", 5: "cat"}


@pytest.mark.parametrize(
    ("class_names", "others", "same"),
    [
        ({1: "cat", 2: "dog"}, {1: "cat", 2: "dog"}, {1: 1, 2: 2}),
        # Ids below 1 are moved up for training.
        ({1: "none", 2: "cat", 3: "dog"}, {0: "none", 1: "cat", 2: "dog"}, {1: 0, 2: 1, 3: 2}),
        ({1: "cat", 2: "dog", 3: "car"}, {1: "dog"}, {2: 1}),
        ({1: "1", 2: "2"}, {1: "cat", 2: "dog"}, {1: 1, 2: 2}),
        ({1: "dog", 2: "dog"}, {1: "dog", 2: "dog"}, {1: 1, 2: 2}),
        ({1: "cat"}, {1: "dog"}, {}),
        # What only differs in case is the same where nothing fits better.
        ({1: "A", 2: "a"}, {0: "A", 1: "a"}, {1: 0, 2: 1}),
        ({1: "A"}, {1: "b", 2: "a"}, {1: 2}),
        ({1: "A"}, {2: "a", 3: "a_", 4: "a "}, {1: 2}),
        ({1: "a b"}, {2: "a-b", 3: "A B"}, {}),
        # As MMDetection has written one class.
        ({1: "traffic_light", 2: "dog"}, {2: "Dog", 10: "traffic light"}, {1: 10, 2: 2}),
    ],
)
def test_classes_are_the_same_if_their_names_are(class_names, others, same):
    assert subject.same_classes(class_names, others) == same


@pytest.mark.parametrize("key", ["image_id", "category_id"])
def test_detections_of_something_else_are_refused(key):
    with pytest.raises(UsageError, match=f"val.json does not list {key} 99"):
        subject.make(annotation_file(), [detection(**{key: 99})])


def test_supercategories_of_a_file(tmp_path):
    coco = {
        "images": [{"id": 3, "file_name": "3.jpg", "width": 10, "height": 10}],
        "annotations": [],
        "categories": [
            {"id": 5, "name": "cat", "supercategory": "animal"},
            {"id": 2, "name": "dog", "supercategory": ""},
            {"id": 9, "name": "car", "supercategory": 3},
            {"id": 4, "name": "bus"},
        ],
    }
    path = tmp_path / "val.json"
    path.write_text(json.dumps(coco))
    made = subject.make(read_annotation_file(path, FindingLog()), [])
    assert made.supercategories == {5: "animal"}
    assert list(made.class_names) == [2, 4, 5, 9]
