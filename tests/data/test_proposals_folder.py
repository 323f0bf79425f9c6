"""Folders of proposals from COCO's results format."""

import json
import pathlib
import subprocess
import sys
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from pycocotools.coco import COCO

from libra_tf.data import DatasetError, proposals

pytestmark = pytest.mark.one_lane

IMAGE_IDS = [7, 3, 12]
RESULTS = [
    {"image_id": 3, "bbox": [1, 2, 10, 20], "score": 0.2},
    {"image_id": 12, "bbox": [0.5, 0, 3, 4], "score": 0.1, "category_id": 1},
    {"image_id": 3, "bbox": [5, 6, 7, 8], "score": 0.9},
    {"image_id": 3, "bbox": [9, 9, 9, 9], "score": 0.2},
]


@pytest.fixture
def annotations(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "instances.json"
    images = [{"id": image_id, "width": 40, "height": 40} for image_id in IMAGE_IDS]
    path.write_text(json.dumps({"images": images, "annotations": [], "categories": []}))
    return path


@pytest.fixture
def convert(
    tmp_path: pathlib.Path, annotations: pathlib.Path
) -> Callable[..., tuple[pathlib.Path, list[str]]]:
    """Converts results given as a document or as text; returns the folder and the report."""

    def convert(
        results: object, folder: pathlib.Path = tmp_path / "made" / "train"
    ) -> tuple[pathlib.Path, list[str]]:
        path = tmp_path / "results.json"
        path.write_text(results if isinstance(results, str) else json.dumps(results))
        lines = []
        proposals.convert_results(path, folder, annotations, lines.append)
        return folder, lines

    return convert


def test_best_first_in_our_coordinates(convert):
    folder, lines = convert(RESULTS)
    files = {path.name: np.load(path) for path in folder.iterdir()}
    assert set(files) == {"7.npy", "3.npy", "12.npy"}
    for boxes in files.values():
        assert boxes.dtype == np.float32 and boxes.flags.c_contiguous
    # Equal scores stay in the file's order.
    np.testing.assert_array_equal(files["3.npy"], [[6, 5, 14, 12], [2, 1, 22, 11], [9, 9, 18, 18]])
    np.testing.assert_allclose(files["12.npy"], [[0, 0.5, 4, 3.5]])
    assert files["7.npy"].shape == (0, 4)
    assert "4 proposals for 2 of 3 images" in lines


def test_what_pycocotools_reads(convert, annotations, tmp_path):
    detections = COCO(str(annotations)).loadRes([{"category_id": 1, **entry} for entry in RESULTS])
    folder, _ = convert(list(detections.anns.values()))
    assert len(np.load(folder / "3.npy")) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 8}, r"image_id is not listed in .*instances\.json \(1\)"),
        ({"image_id": [3]}, "image_id is not listed in"),
        ({"bbox": [1, 2, 3]}, "bbox must be four finite numbers"),
        ({"bbox": [1, 2, float("nan"), 3]}, "bbox must be four finite numbers"),
        ({"bbox": [1, 2, float("inf"), 3]}, "bbox must be four finite numbers"),
        ({"bbox": [1, 2, 10**400, 3]}, "bbox must be four finite numbers"),
        ({"bbox": [1, 2, "3", 3]}, "bbox must be four finite numbers"),
        ({"bbox": [1, 2, 0, 3]}, "bbox must have a positive width and height"),
        ({"bbox": [1, 2, 3, -1]}, "bbox must have a positive width and height"),
        ({"score": None}, "score must be a finite number"),
    ],
)
def test_bad_entries(convert, tmp_path, change, message):
    with pytest.raises(DatasetError, match=message) as raised:
        convert([*RESULTS, {**RESULTS[0], **change}])
    assert "results.json[4]: " in str(raised.value)
    assert not (tmp_path / "made").exists()


def test_every_kind_of_mistake_at_once(convert):
    with pytest.raises(DatasetError) as raised:
        convert([*RESULTS, "a text", {"image_id": 3}, *[{**RESULTS[0], "image_id": 9}] * 8])
    for text in ("not a JSON object (1)", "missing bbox, score (1)", "is not listed", "3 more"):
        assert text in str(raised.value)


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ("{", r"results\.json is not JSON"),
        (
            {"annotations": []},
            r"results\.json does not contain a list of proposals: it must look like \[\{",
        ),
        ([], "does not contain a list of proposals"),
    ],
)
def test_no_results(convert, results, message):
    with pytest.raises(DatasetError, match=message):
        convert(results)


def test_annotations_that_cannot_be_read(convert, annotations):
    annotations.write_text("[1, 2]")
    with pytest.raises(DatasetError, match=r"instances\.json is not a COCO annotation file"):
        convert(RESULTS)
    annotations.unlink()
    with pytest.raises(DatasetError, match=r"instances\.json cannot be read: No such file"):
        convert(RESULTS)


@pytest.mark.parametrize("image_id", ["../evil", [1], "7", None])
def test_an_image_id_that_is_not_an_integer_names_no_file(convert, annotations, tmp_path, image_id):
    annotations.write_text(json.dumps({"images": [{"id": image_id}]}))
    before = sorted(tmp_path.iterdir())
    with pytest.raises(DatasetError, match=r"instances\.json cannot be used(.|\n)*an integer"):
        convert([{**RESULTS[0], "image_id": image_id}])
    assert sorted(p for p in tmp_path.iterdir() if p.name != "results.json") == before


def test_nothing_is_overwritten(convert, tmp_path):
    folder, _ = convert(RESULTS)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(DatasetError, match="train already exists"):
        convert(RESULTS[:1])
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    (tmp_path / "empty").mkdir()
    convert(RESULTS, tmp_path / "empty")


def test_nothing_is_half_written(tmp_path):
    def fail_at_the_second() -> Iterator[tuple[int, np.ndarray]]:
        yield 1, np.ones((2, 4))
        raise RuntimeError

    with pytest.raises(RuntimeError):
        proposals.write_folder(tmp_path / "made" / "train", fail_at_the_second(), report=str)
    assert list((tmp_path / "made").iterdir()) == []


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match=r"cannot be written to .*choose another folder"):
        proposals.write_folder(tmp_path / "file" / "train", [], report=str)


def test_the_program(tmp_path, annotations):
    results = tmp_path / "results.json"
    results.write_text(json.dumps(RESULTS))
    command = [sys.executable, "-W", "error", "-m", "libra_tf.data.proposals", str(results)]
    command += [str(tmp_path / "made"), f"--annotations={annotations}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(list((tmp_path / "made").iterdir())) == 3
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 2
    assert again.stderr.startswith("error: ") and len(again.stderr.splitlines()) == 1
