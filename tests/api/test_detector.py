"""`libra_tf.load`: the same detections as the SavedModel's, whatever the images come in."""

import io
import json
import os
import pathlib
import re

import numpy as np
import pytest
from PIL import Image

import libra_tf
from libra_tf.cli import image_files
from libra_tf.inference import answers, coco_results, ground_truth, prediction
from tests.detectors import encode

pytestmark = [
    pytest.mark.one_lane,
    pytest.mark.parametrize("exported", ["retinanet"], indirect=True),
]


@pytest.fixture(scope="module")
def detector(exported):
    return libra_tf.load(exported.folder)


@pytest.fixture
def photos(tmp_path):
    """A folder of two images, the second in a subfolder."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    (folder / "a.png").write_bytes(encode(50, 90, "PNG"))
    (folder / "more/b.png").write_bytes(encode(70, 40, "PNG", seed=1))
    return folder


def expected(exported, encoded):
    (answer,) = answers.from_outputs(exported.serve([encoded]), is_normalized=False)
    return answer


def assert_same(found, answer):
    assert len(found) == len(answer.scores) > 3
    np.testing.assert_allclose(found.boxes, answer.boxes, atol=1e-2)
    np.testing.assert_allclose(found.scores, answer.scores, atol=1e-5)
    np.testing.assert_array_equal(found.class_ids, answer.category_ids)
    assert (found.height, found.width) == (answer.height, answer.width)


def test_a_saved_model_and_its_versions(exported):
    encoded = encode(50, 90, "PNG")
    image = np.asarray(Image.open(io.BytesIO(encoded)))
    for model in (exported.folder, pathlib.Path(exported.folder).parent):
        detector = libra_tf.load(model)
        assert detector.class_names == {1: "circle", 2: "square", 3: "triangle", 4: "star"}
        found = detector.predict(image)
        assert_same(found, expected(exported, encoded))
        assert list(found.names) == [detector.class_names[i] for i in found.class_ids]


def test_every_kind_of_image(exported, detector, photos):
    path = photos / "a.png"
    answer = expected(exported, path.read_bytes())
    picture = Image.open(path)
    pixels = np.asarray(picture)
    for one in (path, str(path), picture, pixels):
        assert_same(detector.predict(one), answer)
    for several in ([path, pixels, picture], (path, path, path), np.stack([pixels] * 3)):
        found = detector.predict(several, batch_size=2)
        assert len(found) == 3
        for one in found:
            assert_same(one, answer)
    other = expected(exported, (photos / "more/b.png").read_bytes())
    for several in (photos, str(photos / "**/*.png")):
        for one, its_answer in zip(detector.predict(several), (answer, other), strict=True):
            assert_same(one, its_answer)


def test_a_generator_is_read_as_its_results_are(detector):
    taken = []

    def images():
        for number in range(100):
            taken.append(number)
            yield np.full([40, 50, 3], number, np.uint8)

    results = detector.predict(images(), batch_size=3)
    assert not taken
    next(results)
    assert len(taken) == 3
    next(results)
    next(results)
    assert len(taken) == 3
    next(results)
    assert len(taken) == 6


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ("nowhere.jpg", "nowhere.jpg does not exist"),
        (["PHOTO", "nowhere.jpg"], r"nowhere\.jpg does not exist"),
        (["PHOTO", "DAMAGED"], r"damaged\.jpg is truncated or damaged"),
        (["PHOTO", "TEXT"], r"text\.png is not a JPEG or PNG file"),
        ("EMPTY", "empty holds no file that ends in"),
        (
            np.zeros([4, 5, 3]),
            r"^the image is an array of float64 with the shape",
        ),
        (np.zeros([4, 5], np.uint8), r"^the image is an array of uint8 with the shape \[4, 5\]"),
        ([np.zeros([0, 5, 3], np.uint8)], r"^images\[0\] is an array"),
        (np.zeros([2, 4, 5, 4], np.uint8), r"^images\[0\] is an array"),
        ([Image.new("L", (9, 9)), Image.new("I", (9, 9))], r"^images\[1\] has the mode I"),
        (iter([None]), r"^images\[0\] is of type NoneType; give the path"),
        (5, "^images is of type int; give the path"),
        (
            [np.zeros([101, 101, 3], np.uint8)],
            r"^images\[0\] has \[101 101\] pixels",
        ),
    ],
)
def test_a_bad_image_is_named(detector, tmp_path, images, message):
    places = {name: tmp_path / name for name in ("photo.jpg", "damaged.jpg", "text.png", "empty")}
    places["photo.jpg"].write_bytes(encode(40, 40))
    places["damaged.jpg"].write_bytes(encode(40, 40)[:300])
    places["text.png"].write_bytes(b"text")
    places["empty"].mkdir()
    named = {name.split(".")[0].upper(): path for name, path in places.items()}
    if isinstance(images, str):
        images = named.get(images, images)
    elif isinstance(images, list):
        images = [named.get(one, one) if isinstance(one, str) else one for one in images]
    with pytest.raises(libra_tf.UsageError, match=message):
        list(detector.predict(images, batch_size=2))


def test_batches_have_at_least_one_image(detector, photos):
    with pytest.raises(libra_tf.UsageError, match="batch_size=0 must be a whole number"):
        detector.predict(photos, batch_size=0)


def test_photographs_are_upright(exported, detector, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = Image.open(io.BytesIO(encode(60, 90, "PNG")))
    stored.save(tmp_path / "phone.png", exif=exif)
    shown = np.asarray(stored.transpose(Image.Transpose.ROTATE_270))
    found = detector.predict([tmp_path / "phone.png", Image.open(tmp_path / "phone.png"), shown])
    assert [(one.height, one.width) for one in found] == [(90, 60)] * 3
    for one in found[:2]:
        np.testing.assert_array_equal(one.boxes, found[2].boxes)
        assert one.draw().size == (60, 90)


def test_draw_leaves_out_the_unsure(detector, photos, tmp_path):
    found = detector.predict(photos / "a.png")
    threshold = float(found.scores[2])
    picture = found.draw(tmp_path / "found.png", threshold)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "found.png")), picture)
    untouched = np.asarray(Image.open(photos / "a.png"))
    np.testing.assert_array_equal(found.draw(threshold=1.1), untouched)
    assert (np.asarray(picture) != untouched).any()
    with pytest.raises(libra_tf.UsageError, match=r"path=.*found\.odd cannot be written"):
        found.draw(tmp_path / "found.odd")
    os.remove(photos / "a.png")
    with pytest.raises(libra_tf.UsageError, match=r"a\.png cannot be read"):
        found.draw()


def test_to_coco_is_what_the_command_writes(exported, detector, photos, tmp_path):
    images = image_files.find([str(photos)])
    prediction.predict(exported.folder, images, str(tmp_path / "found"), report=str)
    written = json.loads((tmp_path / "found/detections.json").read_text())
    results = [
        result
        for image_id, found in enumerate(detector.predict(photos), start=1)
        for result in found.to_coco(image_id)
    ]
    assert results == [{k: v for k, v in row.items() if k != "file_name"} for row in written]


@pytest.fixture
def own_folder(detector, photos):
    """A folder whose objects are nearly those that the detector finds, with other category ids."""
    names = {9: "circle", 7: "square", 5: "triangle", 3: "star"}
    ids = {name: category for category, name in names.items()}
    images, objects = [], []
    for image_id, found in enumerate(detector.predict(photos), start=1):
        name = os.path.relpath(found.image.name, photos)
        size = {"width": found.width, "height": found.height}
        images.append({"id": image_id, "file_name": name, **size})
        for place, result in enumerate(found.to_coco(image_id)[::2]):
            x, y, width, height = result["bbox"]
            x, y = max(0, x), max(0, y)
            category = ids[detector.class_names[result["category_id"]]]
            shift = 1 + 0.1 * (place % 3)
            box = [x, y, min(width, size["width"] - x) / shift, min(height, size["height"] - y)]
            objects.append({"image_id": image_id, "category_id": category, "bbox": box})
    objects = [{"id": number, **entry} for number, entry in enumerate(objects, start=1)]
    folder = photos.parent / "own"
    (folder / "annotations").mkdir(parents=True)
    (folder / "images").symlink_to(photos)
    document = {
        "images": images,
        "annotations": objects,
        "categories": [{"id": category, "name": name} for category, name in names.items()],
    }
    for split in ("train", "val"):
        (folder / f"annotations/instances_{split}.json").write_text(json.dumps(document))
    return folder


def test_evaluate_is_pycocotools_on_the_folder(detector, own_folder, photos, tmp_path, capsys):
    truth = ground_truth.read_file(str(own_folder / "annotations/instances_val.json"))
    by_name = {name: category for category, name in truth.class_names.items()}
    results = [
        {**result, "category_id": by_name[detector.class_names[result["category_id"]]]}
        for image_id, found in enumerate(detector.predict(photos), start=1)
        for result in found.to_coco(image_id)
    ]
    metrics = detector.evaluate(own_folder, cache_dir=tmp_path / "cache")
    assert metrics == pytest.approx(coco_results.evaluate(truth, results, [1, 2]))
    assert 0.1 < metrics["AP"] < metrics["AP50"] < 1
    assert set(metrics) == {"AP", "AP50", "AP75", "APs", "APm", "APl"}
    assert "evaluating: image 2/2" in capsys.readouterr().out


def test_evaluate_refuses_an_unknown_class(detector, own_folder, tmp_path):
    for path in (own_folder / "annotations").iterdir():
        path.write_text(path.read_text().replace('"star"', '"moon"'))
    with pytest.raises(libra_tf.UsageError, match=r"does not know moon, which dataset=.*own has"):
        detector.evaluate(own_folder, cache_dir=tmp_path / "cache")


def test_evaluate_refuses_what_is_no_data_set(detector, tmp_path):
    with pytest.raises(libra_tf.DatasetError, match="nowhere is not a folder"):
        detector.evaluate(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "nowhere"}, "^model=nowhere: there is no such file or folder"),
        ({"model": "."}, "^model=. is neither the folder of a run"),
        ({"checkpoint": "ckpt-1"}, "^checkpoint=ckpt-1 selects a checkpoint of a run, but model="),
        ({"precision": "float32"}, "^precision=float32 is for the folder of a run"),
        ({"precision": "float8"}, "^precision=float8 must be one of auto, float32, bfloat16"),
        ({"model": "RUN", "checkpoint": "ckpt-7"}, "^checkpoint=ckpt-7: "),
    ],
)
def test_what_cannot_be_loaded(exported, arguments, message):
    arguments = {"model": exported.folder, **arguments}
    if arguments["model"] == "RUN":
        arguments["model"] = exported.model_dir
    with pytest.raises(libra_tf.UsageError, match=message) as raised:
        libra_tf.load(**arguments)
    assert not re.search(r"--[a-z]", str(raised.value))


def test_an_export_is_not_exported_again(exported, detector, tmp_path):
    with pytest.raises(libra_tf.UsageError, match="is an export already; load the run that"):
        detector.export(tmp_path / "served")
    assert not (tmp_path / "served").exists()
    assert detector.results is None
