import hashlib
import json
import multiprocessing
import pathlib
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from libra_tf.data import DatasetError, make_shapes, prepare_coco_folder, shape_images, shapes
from libra_tf.data.dials import AT_ZERO

pytestmark = pytest.mark.one_lane

_PROCESSES = multiprocessing.get_context("spawn")


def _make(folder: pathlib.Path, **changes: Any) -> str:
    arguments = {"num_train": 12, "num_val": 6, "image_size": 96, "seed": 3} | changes
    return make_shapes(folder, **arguments, report=str)


def _digests(folder: pathlib.Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def _training_annotations(folder: pathlib.Path) -> dict[str, Any]:
    return json.loads((folder / "annotations" / "instances_train.json").read_text())


def test_same_arguments_give_the_same_bytes(tmp_path):
    assert _make(tmp_path / "one") == str(tmp_path / "one")
    _make(tmp_path / "two")
    assert _digests(tmp_path / "one") == _digests(tmp_path / "two")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]


def test_images_are_those_of_the_drawing_version():
    """If this fails on purpose, raise the drawing version."""
    pixels = [
        shape_images.draw_image([0, 0, image_id], 128, AT_ZERO)[0].tobytes()
        for image_id in range(1, 9)
    ]
    assert shapes._DRAWING_VERSION == 3
    assert (
        hashlib.sha256(b"".join(pixels)).hexdigest()
        == "e125defe8bd22db7515e3a541c9c6fc41604bd67b68d589fc65c8b3e8bcc2ca2"
    )


def test_images_do_not_depend_on_how_many_there_are(tmp_path):
    _make(tmp_path / "few", num_train=3)
    _make(tmp_path / "more", num_train=5)
    few, more = _digests(tmp_path / "few"), _digests(tmp_path / "more")
    images = [name for name in few if name.startswith("images/")]
    assert len(images) == 9
    assert {name: more[name] for name in images} == {name: few[name] for name in images}


def test_no_image_occurs_twice(tmp_path):
    for seed in (0, 1):
        _make(tmp_path / str(seed), seed=seed)
    digests = [
        digest
        for seed in (0, 1)
        for name, digest in _digests(tmp_path / str(seed)).items()
        if name.startswith("images/")
    ]
    assert len(set(digests)) == len(digests) == 36


def test_finished_folder_is_reused(tmp_path):
    _make(tmp_path / "shapes")
    before = (tmp_path / "shapes").stat().st_ino
    _make(tmp_path / "shapes")
    assert (tmp_path / "shapes").stat().st_ino == before


def test_folder_with_something_else_is_refused(tmp_path):
    _make(tmp_path / "shapes")
    with pytest.raises(DatasetError, match=r"'seed': 3.*not the shapes data set with.*'seed': 4"):
        _make(tmp_path / "shapes", seed=4)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("")
    with pytest.raises(DatasetError, match="contains something else"):
        _make(tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_two_processes_at_once(tmp_path):
    processes = [_PROCESSES.Process(target=_make, args=(tmp_path / "shapes",)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]
    assert [path.name for path in tmp_path.iterdir()] == ["shapes"]
    _make(tmp_path / "alone")
    assert _digests(tmp_path / "shapes") == _digests(tmp_path / "alone")


@pytest.mark.parametrize(
    ("argument", "value"),
    [("num_train", 0), ("num_val", 1.5), ("image_size", 32), ("seed", -1)],
)
def test_bad_arguments(tmp_path, argument, value):
    with pytest.raises(ValueError, match=f"{argument} must be an integer of at least"):
        _make(tmp_path / "shapes", **{argument: value})


def test_unwritable_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match=r"cannot be written to .*file/shapes"):
        _make(tmp_path / "file" / "shapes")


def test_is_a_valid_coco_folder(tmp_path):
    dataset = prepare_coco_folder(_make(tmp_path / "shapes"), tmp_path / "cache", str)
    assert dataset.class_names == shapes.CLASS_NAMES
    assert dataset.train.num_examples == 12
    assert dataset.val.num_examples == 6
    assert dataset.issues == ()


def test_masks_are_what_is_visible_and_change_nothing_else(tmp_path):
    arguments = {"num_train": 12, "num_val": 6, "image_size": 96}
    plain, masked = tmp_path / "plain", tmp_path / shapes.folder_name(**arguments, with_masks=True)
    assert masked.name != shapes.folder_name(**arguments)
    _make(plain, **arguments)
    _make(masked, **arguments, with_masks=True)
    before, after = _digests(plain), _digests(masked)
    images = {name for name in before if name.startswith("images/")}
    assert {name: after[name] for name in images} == {name: before[name] for name in images}
    with pytest.raises(DatasetError, match=r"not the shapes data set with.*'with_masks': True"):
        _make(plain, **arguments, with_masks=True)

    coco = _training_annotations(masked)
    masks = {a["id"]: coco_mask.decode(a.pop("segmentation")) for a in coco["annotations"]}
    overlaps = 0
    for annotation, given in zip(
        coco["annotations"], _training_annotations(plain)["annotations"], strict=True
    ):
        mask = masks[annotation["id"]]
        assert annotation.pop("area") == mask.sum() > 0
        del given["area"]
        assert annotation == given
        x, y, width, height = given["bbox"]
        rows, columns = np.nonzero(mask)
        assert columns.min() >= x - 1 and columns.max() + 1 <= x + width + 1
        assert rows.min() >= y - 1 and rows.max() + 1 <= y + height + 1
        others = [
            masks[a["id"]]
            for a in coco["annotations"]
            if a["image_id"] == given["image_id"] and a["id"] != given["id"]
        ]
        boxes = np.zeros_like(mask)
        boxes[round(y) : round(y + height), round(x) : round(x + width)] = 1
        overlaps += any((other & boxes).any() for other in others)
        assert not any((other & mask).any() for other in others)
    assert overlaps > 3


def test_variety(tmp_path):
    """Sizes from 12 px to half the image, classes equally often, crowds and empty images."""
    _make(tmp_path / "shapes", num_train=200, image_size=128)
    coco = _training_annotations(tmp_path / "shapes")
    extents = np.array([max(a["bbox"][2:]) for a in coco["annotations"]])
    assert 12 * 0.6 - 1 <= extents.min() < 14
    assert 60 < extents.max() <= 64.01
    classes = np.array([a["category_id"] for a in coco["annotations"]])
    assert all(np.mean(classes == key) > 0.18 for key in shapes.CLASS_NAMES)
    per_image = np.bincount([a["image_id"] for a in coco["annotations"]], minlength=201)[1:]
    assert per_image.min() == 0 and per_image.max() == 7


def test_boxes_fit_what_is_drawn():
    """A box spans its shape's pixels; where the border cuts the shape, it may be a bit larger."""
    placed = [
        shape
        for seed in range(40)
        for shape in shape_images.place_shapes(np.random.default_rng(seed), 128, AT_ZERO).shapes
    ]
    num_whole = 0
    for shape in placed:
        rows, columns = np.nonzero(shape.alpha > 0)
        drawn = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        x, y, width, height = shapes._annotation(shape, 128)["bbox"]
        box = [x, y, x + width, y + height]
        if min(box) > 0 and max(box) < 128:
            num_whole += 1
            np.testing.assert_allclose(drawn, box, atol=1.5)
        else:
            assert np.all(np.less_equal(box[:2], np.add(drawn[:2], 1)))
            assert np.all(np.greater_equal(box[2:], np.subtract(drawn[2:], 1)))
            assert np.prod(np.subtract(drawn[2:], drawn[:2])) > 0.75 * width * height
    assert 20 < num_whole < len(placed) - 20


def test_no_shape_is_hidden_too_much():
    """Redraws every image's shapes in turn and measures how much of each stays visible."""
    for seed in range(30):
        placed = shape_images.place_shapes(np.random.default_rng(seed), 128, AT_ZERO).shapes
        visible = [shape.alpha for shape in placed]
        for index, shape in enumerate(placed):
            for behind in range(index):
                visible[behind] = visible[behind] * (1 - shape.alpha)
        for shape, left in zip(placed, visible, strict=True):
            assert left.sum() >= 0.6 * shape.area
