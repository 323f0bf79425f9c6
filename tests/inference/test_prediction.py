"""Detection in files: what is written, and what is said."""

import functools
import io
import json
import pathlib
import re
import shutil
import time
import types
import weakref

import numpy as np
import pytest
from PIL import Image
from pycocotools import coco, cocoeval

from libra_tf.cli import image_files
from libra_tf.cli.errors import UsageError
from libra_tf.data import prepare_coco_folder
from libra_tf.data.annotations import AnnotationFile
from libra_tf.inference import detecting, ground_truth, local, prediction
from libra_tf.inference.errors import RequestError
from tests.data.folders import CocoFolder, to_roboflow, to_voc
from tests.detectors import copy_run, encode

pytestmark = pytest.mark.one_lane

# What has nothing of the kind of detector in it.
one_detector = pytest.mark.parametrize("exported", ["retinanet"], indirect=True)


def predict(model, arguments, output_dir, **kwargs):
    """Returns the number of failures and what was reported."""
    lines = []
    images = image_files.find([str(argument) for argument in arguments])
    failures = prediction.predict(
        str(model), images, str(output_dir), report=lines.append, **kwargs
    )
    return failures, "\n".join(lines)


@pytest.fixture(scope="module", autouse=True)
def opened_once():
    """The same detector is asked again and again: loading it takes most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "open_detector", functools.cache(local.open_detector))
        yield


@pytest.fixture(scope="module")
def images_folder(tiny_shapes, val_images, tmp_path_factory):
    """The validation images in a folder, under the names that the annotations have."""
    folder = tmp_path_factory.mktemp("images")
    document = json.loads(pathlib.Path(tiny_shapes.val.annotation_file).read_text())
    for image in document["images"]:
        path = folder / image["file_name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(val_images[image["id"]])
    return folder


@pytest.fixture
def coco_folder(tmp_path):
    return CocoFolder(tmp_path / "dataset")


@pytest.fixture
def found_objects(exported, tiny_shapes, val_images, tmp_path):
    """Annotations near half of what the detector finds: of the shapes it finds nearly none."""
    document = json.loads(pathlib.Path(tiny_shapes.val.annotation_file).read_text())
    document["annotations"] = []
    rng = np.random.default_rng(0)
    for image_id, encoded in val_images.items():
        outputs = exported.serve([encoded])
        for index in range(0, outputs["num_detections"][0], 2):
            box = outputs["detection_boxes"][0, index].astype(float)
            size = np.tile(box[2:] - box[:2], 2)
            # Some near enough for any IoU threshold, others for the low ones only.
            box = np.clip(box + rng.normal(0, 0.05, 4) * size, 0, 64)
            height, width = box[2:] - box[:2]
            if min(height, width) > 1:
                document["annotations"].append(
                    {
                        "id": len(document["annotations"]) + 1,
                        "image_id": image_id,
                        "category_id": int(outputs["detection_classes"][0, index]),
                        "bbox": [box[1], box[0], width, height],
                        "area": width * height,
                        "iscrowd": 0,
                    }
                )
    path = tmp_path / "found.json"
    path.write_text(json.dumps(document))
    return str(path)


@pytest.mark.parametrize(
    "exported", ["retinanet", pytest.param("fasterrcnn", marks=pytest.mark.slow)], indirect=True
)
def test_precision_is_that_of_the_evaluation(
    exported, found_objects, images_folder, tmp_path, monkeypatch
):
    """Of the run and of its SavedModel, against the metrics of the task."""
    task, model = exported.task, exported.model
    monkeypatch.setattr(task.task_config, "annotation_file", found_objects)
    metrics, state = task.build_metrics(training=False), None
    for inputs in task.build_inputs(task.task_config.validation_data):
        state = task.aggregate_logs(state, task.validation_step(inputs, model, metrics))
    expected = task.reduce_aggregated_logs(state)
    assert 0.1 < expected["AP"] < expected["AP50"] < 0.9
    for name, path in (("run", exported.model_dir), ("export", exported.folder)):
        failures, said = predict(path, [images_folder], tmp_path / name, annotations=found_objects)
        assert failures == 0
        assert f"AP {expected['AP']:.4f}, AP50 {expected['AP50']:.4f}, " in said
        assert "on 6 of the 6 images" in said


@one_detector
def test_results_are_read_by_pycocotools(exported, found_objects, images_folder, tmp_path):
    _, said = predict(
        exported.folder,
        [images_folder],
        tmp_path,
        annotations=found_objects,
        more_metrics=["voc", "lvis"],
    )
    truth = coco.COCO(found_objects)
    evaluation = cocoeval.COCOeval(truth, truth.loadRes(str(tmp_path / "detections.json")), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert 0.1 < evaluation.stats[0] < evaluation.stats[1] < 0.9
    numbers = f"AP {evaluation.stats[0]:.4f}, AP50 {evaluation.stats[1]:.4f}, "
    lines = said.splitlines()
    assert any(line.startswith(numbers) for line in lines)
    # With so few detections and no federated annotations, LVIS' numbers are COCO's.
    (line,) = [line for line in lines if line.startswith("LVIS: ")]
    assert line.startswith(f"LVIS: {numbers}") and "APr" not in line
    assert any(line.startswith("VOC: AP 0.") for line in lines)


@one_detector
@pytest.mark.slow
def test_the_page_of_the_evaluation(exported, found_objects, images_folder, tmp_path):
    """With the pictures of the files, and beside another evaluation."""
    options = {"annotations": found_objects}
    first, second, third = (str(tmp_path / name) for name in ("first", "second", "third"))
    _, said = predict(exported.folder, [images_folder], first, **options)
    content = json.loads((tmp_path / "first" / "evaluation.json").read_text())
    (numbers,) = content["kinds"].values()
    assert f"AP {numbers['average_precision']['all']['AP']:.4f}, " in said
    assert f"evaluation page: {first}/evaluation.html" in said
    assert content["annotations"] == found_objects and content["num_images"] == 6
    assert "<image " in (tmp_path / "first" / "evaluation.html").read_text()
    predict(
        exported.folder, [images_folder], second, compare=first, report_threshold=0.2, **options
    )
    content = json.loads((tmp_path / "second" / "evaluation.json").read_text())
    assert content["kinds"]["bbox"]["score_threshold"] == 0.2
    assert content["compared"]["kinds"]["bbox"]["differences"]["AP"]["difference"] == 0
    options = {"annotations": found_objects, "writes_page": False}
    _, without = predict(exported.folder, [images_folder], third, **options)
    assert [line for line in without.splitlines() if line.startswith("AP ")] == [
        line for line in said.splitlines() if line.startswith("AP ")
    ]
    assert {path.name for path in (tmp_path / "third").iterdir()} == {"detections.json", "pictures"}


@one_detector
def test_another_evaluation_of_other_data_is_refused_before_detection(
    exported, found_objects, tiny_shapes, images_folder, tmp_path
):
    first, second = tmp_path / "first", tmp_path / "second"
    predict(exported.folder, [images_folder], first, annotations=found_objects)
    other = tiny_shapes.val.annotation_file
    with pytest.raises(UsageError, match="other images, objects or classes"):
        predict(exported.folder, [images_folder], second, annotations=other, compare=str(first))
    assert not second.exists()


@one_detector
@pytest.mark.slow
def test_ground_truth_of_a_voc_folder(exported, tiny_shapes, tmp_path):
    """The classes are in another order there, and are found by their names."""
    by_id = tiny_shapes.val.annotation_file
    _, expected = predict(
        exported.folder,
        [pathlib.Path(tiny_shapes.folder, "images")],
        tmp_path / "expected",
        annotations=by_id,
    )
    folder = to_voc(pathlib.Path(tiny_shapes.folder), tmp_path / "voc")
    _, said = predict(
        exported.folder,
        [folder / "JPEGImages"],
        tmp_path / "found",
        annotations=str(folder),
        more_metrics=["lvis"],
        frequency_limits=(0, 1),
    )
    # A folder has training images, so it is known how frequent a class is.
    assert re.search(r"LVIS: .*, APr -, APc .*, APf \d", said)
    precision = re.compile(r"AP \d\.\d{4}, .* on 6 of the 6 images of ")
    assert precision.search(said).group() == precision.search(expected).group()
    assert "8 images are not listed" in said


def test_of_the_only_split_what_was_set_aside_is_compared(coco_folder, tmp_path):
    """Of a run that trained on it; all images for another run, and for an export with a word."""
    (coco_folder.path / "annotations/instances_val.json").unlink()
    folder, lines = str(coco_folder.path), []
    for name, trained_on in {"own": folder, "other": "cells", "export": None}.items():
        (tmp_path / name).mkdir()
        if trained_on:
            (tmp_path / name / "params.yaml").touch()
            (tmp_path / name / "dataset.txt").write_text(f"{trained_on}\nval_share=0.7\n")
    data = prepare_coco_folder(folder, tmp_path / "cache", report=str, val_share=0.7)
    aside = json.loads(pathlib.Path(data.val.annotation_file).read_text())["images"]
    truth = ground_truth.read(folder, str(tmp_path / "own"), report=str)
    names = [image["file_name"] for image in truth.file.images]
    assert names == [image["file_name"] for image in aside] and len(names) == 2
    assert truth.image_root == coco_folder.path / "images"
    for name in ("other", "export"):
        truth = ground_truth.read(folder, str(tmp_path / name), lines.append)
        assert len(truth.file.images) == 3
        assert len(lines) == (name == "export")
    assert "its training images are among these" in lines[0]


@one_detector
def test_images_are_found_in_a_folder_by_their_place(exported, coco_folder, tmp_path):
    """Not by their names: those of the training images may be the same."""
    folder = to_roboflow(coco_folder.path, tmp_path / "roboflow")
    for copied, name in {"valid/d.jpg": "train/d.jpg", "train/a.jpg": "train/e.png"}.items():
        shutil.copy(folder / copied, folder / name)
    options = {"annotations": str(folder), "draw": False, "writes_page": False}
    with pytest.raises(UsageError, match=r"lists none of the images, .*; name .*roboflow/valid"):
        predict(exported.folder, [folder / "train"], tmp_path / "found", **options)
    images = image_files.find([str(folder)])
    truth = ground_truth.read(str(folder), exported.folder, report=str)
    found = prediction._listed_in(truth, images, report=str)
    assert {image.name.as_posix() for image in found} == {"valid/d.jpg", "valid/e.png"}


@pytest.mark.parametrize(
    ("others", "renumbered"),
    [
        ({1: "cat", 2: "dog"}, {}),
        # Detections of dogs stay, and the page says how many are of other classes.
        ({1: "cat", 3: "horse"}, {}),
        ({1: "cat", 2: "horse"}, {1: 1}),
        ({1: "dog", 2: "cat"}, {1: 2, 2: 1}),
        ({0: "cat", 1: "dog"}, {1: 0, 2: 1}),
    ],
    ids=["same", "other class", "other class with the same id", "exchanged", "from 0"],
)
def test_an_id_of_another_class_does_not_stay(others, renumbered):
    detector = types.SimpleNamespace(class_names={1: "cat", 2: "dog"})
    truth = AnnotationFile(pathlib.Path("val.json"), "", [], [], others)
    assert prediction._renumbering(detector, truth) == renumbered


def test_the_page_exports_the_classes_of_the_detector():
    """By the annotations' ids, those that the detector knows."""
    detector = types.SimpleNamespace(source="ckpt-7", class_names={1: "Traffic_Light", 5: "a, b"})
    names = {3: "a, b", 4: "traffic light", 5: "horse"}
    truth = AnnotationFile(pathlib.Path("val.json"), "", [], [], names)
    asked = prediction._Asked({}, None, "val.json", truth, None)
    found = prediction._Found(None, [], [])
    evaluation = prediction._evaluation(asked, found, "runs/a", detector, None)
    assert evaluation.export_names == {4: "Traffic_Light", 3: "5"}


@one_detector
def test_unreadable_files_are_passed_over_and_listed(exported, tmp_path):
    folder = tmp_path / "in"
    (folder / "more").mkdir(parents=True)
    (folder / "a.jpg").write_bytes(encode(64, 80))
    (folder / "b.jpg").write_bytes(encode(64, 80)[:300])
    (folder / "c.png").write_bytes(b"text")
    (folder / "more/a.jpg").write_bytes(encode(50, 50, seed=1))
    for batch_size in (1, 3):
        output = tmp_path / f"out{batch_size}"
        failures, said = predict(
            exported.folder, [folder], output, draw_threshold=0.05, batch_size=batch_size
        )
        assert failures == 2
        assert "2 of 4 images had problems:" in said
        assert f"{folder}/b.jpg: is truncated or damaged" in said
        assert f"{folder}/c.png: is not a JPEG or PNG file" in said
        pictures = sorted(path for path in (output / "pictures").rglob("*") if path.is_file())
        assert [str(path.relative_to(output / "pictures")) for path in pictures] == [
            "a.jpg",
            "more/a.jpg",
        ]
        drawn = np.asarray(Image.open(pictures[0]), int)
        assert drawn.shape == (64, 80, 3)
        assert np.abs(drawn - np.asarray(Image.open(folder / "a.jpg"), int)).max() > 50
        detections = json.loads((output / "detections.json").read_text())
        assert {(d["image_id"], d["file_name"]) for d in detections} == {
            (1, "a.jpg"),
            (4, "more/a.jpg"),
        }
        outputs = exported.serve([encode(64, 80)])
        (ymin, xmin, ymax, xmax) = outputs["detection_boxes"][0, 0].astype(float)
        first = detections[0]
        np.testing.assert_allclose(first["bbox"], [xmin, ymin, xmax - xmin, ymax - ymin], atol=2e-3)
        assert first["category_id"] == outputs["detection_classes"][0, 0]


def turned(encoded, orientation):
    """A file with the pixels of another, to be shown turned."""
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    Image.open(io.BytesIO(encoded)).save(buffer, format="PNG", exif=exif)
    return buffer.getvalue()


@one_detector
def test_photographs_are_detected_upright(exported, tmp_path):
    """The boxes are those of the same picture with its pixels turned."""
    (tmp_path / "in").mkdir()
    pixels = encode(64, 96, "PNG")
    upright = Image.open(io.BytesIO(pixels)).transpose(Image.Transpose.ROTATE_270)
    (tmp_path / "in/phone.png").write_bytes(turned(pixels, 6))
    upright.save(tmp_path / "in/upright.bmp")
    failures, _ = predict(exported.folder, [tmp_path / "in"], tmp_path, draw_threshold=0.05)
    assert failures == 0
    detections = json.loads((tmp_path / "detections.json").read_text())
    by_image = [
        [{**d, "image_id": 0, "file_name": ""} for d in detections if d["image_id"] == image_id]
        for image_id in (1, 2)
    ]
    assert by_image[0] == by_image[1] != []
    pictures = [
        np.asarray(Image.open(tmp_path / "pictures" / name))
        for name in ("phone.png", "upright.png")
    ]
    assert pictures[0].shape == (96, 64, 3)
    np.testing.assert_array_equal(*pictures)


@one_detector
def test_annotations_belong_to_the_pixels_as_stored(
    exported, found_objects, images_folder, tmp_path
):
    lines = []
    for orientation in (1, 6):
        folder = tmp_path / f"stored{orientation}"
        shutil.copytree(images_folder, folder)
        for path in filter(pathlib.Path.is_file, folder.rglob("*")):
            path.write_bytes(turned(path.read_bytes(), orientation))
        _, said = predict(exported.folder, [folder], tmp_path, annotations=found_objects)
        lines += [line for line in said.splitlines() if line.startswith("AP ")]
    assert lines[0] == lines[1]
    assert not lines[0].startswith("AP 0.0")


@one_detector
def test_no_detections_at_all(exported, tiny_shapes, images_folder, tmp_path):
    """An empty list of results, which pycocotools cannot load by itself."""
    model_dir = copy_run(exported.model_dir, tmp_path / "run", pre_nms_score_threshold=1.0)
    annotations = tiny_shapes.val.annotation_file
    failures, said = predict(model_dir, [images_folder], tmp_path, annotations=annotations)
    assert failures == 0
    assert "6 images, 0 detections" in said
    assert "AP 0.0000, AP50 0.0000" in said
    assert json.loads((tmp_path / "detections.json").read_text()) == []


@one_detector
def test_answers_are_not_kept(exported, tmp_path, monkeypatch):
    """With masks they are megabytes for each image."""
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(4):
        (folder / f"{number}.jpg").write_bytes(encode(64, 80))
    answers, kept = [], []
    to_results = prediction.coco_results.to_results

    def watch(answer, *arguments):
        kept.append(sum(seen() is not None for seen in answers))
        answers.append(weakref.ref(answer))
        return to_results(answer, *arguments)

    monkeypatch.setattr(prediction.coco_results, "to_results", watch)
    predict(exported.folder, [folder], tmp_path / "found")
    assert len(kept) == 4
    assert max(kept) <= 1


def test_images_are_answered_only_a_little_ahead(tmp_path):
    for number in range(30):
        (tmp_path / f"{number}.jpg").write_bytes(encode(20, 20))
    asked = []

    class Busy:
        def predict(self, images):
            asked.append(images)
            raise RequestError("is busy")

    results = detecting.detect(Busy(), image_files.find([str(tmp_path)]), concurrency=2)
    assert next(results).problem == "is busy"
    time.sleep(0.2)
    assert len(asked) <= 4
    assert len(list(results)) == 29


@one_detector
def test_the_most_pixels_of_an_image(exported, tmp_path):
    (tmp_path / "a.jpg").write_bytes(encode(64, 80))
    failures, said = predict(exported.model_dir, [tmp_path], tmp_path / "found", max_pixels=5000)
    assert failures == 1
    assert "a.jpg: has [64 80] pixels (height, width), and at most 5000 in all are" in said


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (None, "ckpt-1 in float32 (set by the run's params.yaml)"),
        pytest.param("float32", "ckpt-1 in float32 (set by --precision)", marks=pytest.mark.slow),
        ("bfloat16", "ckpt-1 in bfloat16 ("),
    ],
)
@one_detector
def test_the_precision_of_a_run(exported, asked, said):
    detector = local.open_detector(exported.model_dir, asked_precision=asked)
    assert said in detector.source
    scores = detector.predict([encode(64, 64)])["detection_scores"]
    expected = exported.serve([encode(64, 64)])["detection_scores"]
    assert np.array_equal(scores, expected) == (asked != "bfloat16")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "nowhere"}, "--model=nowhere is neither the folder of a run"),
        ({"model": "EMPTY"}, r"neither the folder of a run \(with params\.yaml\) nor of a Saved"),
        ({"model": "FILE"}, r"cannot be loaded \(.*\); name a file that libra-tf tflite wrote"),
        ({"model": "DAMAGED"}, r"cannot be loaded \(.*\); name a folder that libra-tf export"),
        ({"checkpoint": "ckpt-1"}, "--checkpoint=ckpt-1 selects a checkpoint of a run"),
        ({"output_dir": "/proc/found"}, "--output_dir=/proc/found cannot be created"),
        ({"output_dir": "gs://found"}, "--output_dir=gs://found is not on this machine"),
        ({"max_pixels": 5000}, "--max_pixels=5000: the limit of --model=.* is fixed in its graph"),
        ({"asked_precision": "auto"}, "--precision=auto is for the folder of a run, but --model="),
        ({"annotations": "UNRELATED"}, r"lists none of the images, such as a\.jpg"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
@one_detector
def test_what_cannot_be_predicted(exported, tmp_path, change, message):
    (tmp_path / "a.jpg").write_bytes(encode(64, 80))
    empty, damaged = tmp_path / "empty", tmp_path / "damaged"
    empty.mkdir()
    damaged.mkdir()
    (damaged / "saved_model.pb").write_bytes(b"damaged")
    unrelated = tmp_path / "unrelated.json"
    image = {"id": 1, "file_name": "b.jpg", "width": 80, "height": 64}
    category = {"id": 1, "name": "circle"}
    document = {"images": [image], "annotations": [], "categories": [category]}
    unrelated.write_text(json.dumps(document))
    places = {
        "EMPTY": str(empty),
        "DAMAGED": str(damaged),
        "FILE": str(unrelated),
        "UNRELATED": str(unrelated),
    }
    arguments = {"model": exported.folder, "output_dir": tmp_path / "found"}
    arguments |= {key: places.get(value, value) for key, value in change.items()}
    with pytest.raises(UsageError, match=message):
        predict(arguments.pop("model"), [tmp_path / "a.jpg"], **arguments)
    assert not (tmp_path / "found").exists()


@one_detector
def test_interruption_keeps_what_was_found(exported, tmp_path, monkeypatch):
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        (tmp_path / name).write_bytes(encode(64, 80))

    detect = prediction.detecting.detect
    monkeypatch.setattr(
        prediction.detecting,
        "detect",
        lambda *args, **kwargs: _interrupted_after_one(detect(*args, **kwargs)),
    )
    with pytest.raises(KeyboardInterrupt):
        predict(exported.folder, [tmp_path], tmp_path / "found")
    detections = json.loads((tmp_path / "found/detections.json").read_text())
    assert {detection["file_name"] for detection in detections} == {"a.jpg"}


def _interrupted_after_one(results):
    yield next(results)
    raise KeyboardInterrupt
