"""Reading an annotation file whose boxes are not needed."""

import json

import pytest
import tensorflow as tf

from libra_tf.data import DatasetError, annotations
from libra_tf.data.problems import FindingLog

pytestmark = pytest.mark.one_lane

_OPENERS = {"python": open, "tensorflow": tf.io.gfile.GFile}
_READERS = {
    "images": annotations.read_image_ids,
    "categories": annotations.read_category_names,
}
# What a file may contain instead of COCO, and the message about it.
_OTHER_FILES = {
    "{": r"is not JSON \(Expecting .*\): export it again",
    "[1, 2]": "is not a COCO annotation file: the top level is a list;.* a list 'SECTION'",
    "{}": "is not a COCO annotation file: 'SECTION' is missing;.* an object with a list 'SECTION'",
    '{"SECTION": {"1": 2}}': "is not a COCO annotation file: 'SECTION' is a dict;.* list 'SECTION'",
    '{"SECTION": [5]}': r"entry is not a JSON object \(1\):\s+file\.json: SECTION\[0\] is 5",
    '{"SECTION": [{"name": "a"}]}': r"is missing id \(1\):\s+file\.json: SECTION\[0\]",
    '{"SECTION": [{"id": "../evil", "name": "a"}]}': r"id must be an integer(.|\n)*'\.\./evil'",
    '{"SECTION": [{"id": [1], "name": "a"}]}': r"id must be an integer(.|\n)*\[1\]",
    '{"SECTION": [{"id": true, "name": "a"}]}': "id must be an integer",
}


@pytest.mark.parametrize("opener", _OPENERS)
def test_images_and_categories_of_a_whole_file(coco_folder, opener):
    path = str(coco_folder.annotation_path("train"))
    assert annotations.read_image_ids(path, _OPENERS[opener]) == [10, 11, 12]
    assert annotations.read_category_names(path, _OPENERS[opener]) == {1: "cat", 3: "dog"}


def test_nothing_else_is_needed(tmp_path):
    """As in COCO's lists of test images, which have no annotations."""
    path = tmp_path / "file.json"
    path.write_text(json.dumps({"images": [{"id": 3}, {"id": 1}, {"id": 3}]}))
    assert annotations.read_image_ids(path) == [3, 1]


@pytest.mark.parametrize("section", _READERS)
@pytest.mark.parametrize("content", _OTHER_FILES)
def test_a_file_that_is_not_coco(tmp_path, section, content):
    path = tmp_path / "file.json"
    path.write_text(content.replace("SECTION", section))
    message = _OTHER_FILES[content].replace("SECTION", section)
    with pytest.raises(DatasetError, match=f"^{path} (.|\n)*{message}"):
        _READERS[section](path)


@pytest.mark.parametrize("opener", _OPENERS)
def test_a_file_that_cannot_be_read(tmp_path, opener):
    for path in (tmp_path, tmp_path / "none.json"):
        with pytest.raises(DatasetError, match=f"^{path} cannot be read: .*(directory|file)"):
            annotations.read_image_ids(str(path), _OPENERS[opener])


@pytest.mark.parametrize("key", annotations.FEDERATED_KEYS)
@pytest.mark.parametrize("value", [5, ["cat"], [True]])
def test_lists_of_a_federated_data_set_that_are_none(coco_folder, key, value):
    coco_folder.coco["val"]["images"][0][key] = value
    coco_folder.write()
    problems = FindingLog()
    annotations.read_annotation_file(coco_folder.annotation_path("val"), problems)
    (complaint,) = problems.by_kind
    assert complaint == f"{key} must be a list of category ids, or be omitted"


@pytest.mark.parametrize("value", [12, "often", None, ["r"]])
def test_another_frequency_than_that_of_lvis_is_not_read(coco_folder, value):
    cat, dog = coco_folder.coco["val"]["categories"]
    cat["frequency"], dog["frequency"] = value, "c"
    coco_folder.write()
    file = annotations.read_annotation_file(coco_folder.annotation_path("val"), FindingLog())
    assert file.frequencies == {3: "c"}
