"""Average precision by several rules at once, and what is said about it."""

import pathlib

import pytest

from libra_tf.data.annotations import AnnotationFile
from libra_tf.evaluation import lvis_ap, metrics, subject, voc_ap

pytestmark = pytest.mark.one_lane

SQUARE = [[1, 1, 5, 1, 5, 5, 1, 5]]


def made(with_masks):
    masks = {"segmentation": SQUARE} if with_masks else {}
    image = {"id": 1, "file_name": "1.jpg", "width": 9, "height": 9}
    entry = {"image_id": 1, "category_id": 1, "bbox": [1, 1, 4, 4]}
    objects = [{"id": id_, **entry, **masks} for id_ in (1, 2)]
    masks = {"segmentation": {"size": [9, 9], "counts": "@1"}} if with_masks else {}
    file = AnnotationFile(pathlib.Path("val.json"), "", [image], objects, {1: "cat"})
    return subject.make(file, [{**entry, "score": 0.5, **masks}])


@pytest.mark.parametrize("with_masks", [False, True])
def test_every_name_has_its_numbers(with_masks):
    this = made(with_masks)
    found = metrics.measure(this, ["coco", "voc", "lvis"], {1: 5}, (10, 100))
    expected = {f"voc_{name}": value for name, value in voc_ap.evaluate(this).items()}
    for kind, prefix in zip(this.kinds, ("lvis_", "lvis_mask_"), strict=False):
        values = lvis_ap.evaluate(this, kind, {1: 5})
        expected |= {prefix + name: value for name, value in values.items()}
    assert found == expected and ("lvis_mask_AP" in found) == with_masks
    assert metrics.measure(this, ["coco"], None, (10, 100)) == {}


def test_what_is_said():
    found = metrics.measure(made(True), ["voc", "lvis"], {1: 5}, (10, 100))
    assert metrics.lines({"AP": 0.3, **found, "precision": "float32"}) == [
        "VOC: AP 0.5000 (area), 0.5455 (11 points), at an IoU of 0.5",
        "LVIS: AP 0.5050, AP50 0.5050, AP75 0.5050, APs 0.5050, APm -, APl -, APr 0.5050, APc -, "
        "APf -",
        "LVIS, masks: AP 0.0000, AP50 0.0000, AP75 0.0000, APs 0.0000, APm -, APl -, APr 0.0000, "
        "APc -, APf -",
    ]
    assert metrics.lines({"AP": 0.3}) == []
