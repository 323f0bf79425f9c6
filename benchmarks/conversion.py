"""Time and memory of converting a folder in COCO's layout, with masks and without.

    python benchmarks/conversion.py
    python benchmarks/conversion.py --images=2000,8000,32000 --size=96x72

It draws images of smooth noise with polygons at random places, and converts each folder in a fresh
process, once with the polygons and once without. Processor time is that of all threads; other work
on the machine changes it less than the clock's. Peak memory includes what TensorFlow takes to
start; the last column is what each further image adds to it.
"""

import json
import os
import pathlib
import re
import resource
import subprocess
import sys
import tempfile
import time

import numpy as np
from absl import app, flags
from PIL import Image

from libra_tf.data import prepare_coco_folder

# As in COCO's train2017, which has 860,001 objects in 118,287 images, and outlines of 44 numbers.
_OBJECTS, _POINTS = 7, 22
_DISTINCT = 64

_IMAGES = flags.DEFINE_list("images", ["1000", "4000"], "Numbers of training images.")
_SIZE = flags.DEFINE_string("size", "640x480", "Width and height of the images.")
flags.register_validator(
    "images",
    lambda numbers: all(re.fullmatch("[1-9][0-9]*", number) for number in numbers),
    message="must be numbers of images with commas between them, such as 1000,4000",
)
flags.register_validator(
    "size",
    lambda size: re.fullmatch("[1-9][0-9]*x[1-9][0-9]*", size) is not None,
    message="must be WIDTHxHEIGHT in pixels, such as 640x480",
)
_FOLDER = flags.DEFINE_string("folder", None, "For internal use: convert it and print the cost.")


def main(_: list[str]) -> None:
    """Measures all numbers of images, or one folder in this process."""
    if _FOLDER.value:
        _convert(_FOLDER.value)
        return
    print("images  masks   wall s   CPU ms an image   peak MB   KB a further image")
    width, height = map(int, _SIZE.value.split("x"))
    peaks: dict[bool, tuple[int, float]] = {}
    for number in map(int, _IMAGES.value):
        with tempfile.TemporaryDirectory() as folder:
            _draw(pathlib.Path(folder), number, width, height)
            for with_masks in (False, True):
                _annotate(pathlib.Path(folder), number, width, height, with_masks)
                cost = _measure(folder)
                before = peaks.get(with_masks)
                peaks[with_masks] = number, cost["peak MB"]
                further = "" if before is None else _slope(before, peaks[with_masks])
                print(
                    f"{number:6}  {'yes' if with_masks else 'no':>5} {cost['wall s']:8.1f}"
                    f"   {1e3 * cost['CPU s'] / number:15.2f} {cost['peak MB']:9.0f}"
                    f"   {further:>18}",
                    flush=True,
                )


def _slope(one: tuple[int, float], other: tuple[int, float]) -> str:
    (few, less), (many, more) = one, other
    return f"{1e3 * (more - less) / (many - few):.1f}"


def _draw(folder: pathlib.Path, number: int, width: int, height: int) -> None:
    """Writes the images, of which only a few have different pixels."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir()
    encoded = []
    for _ in range(_DISTINCT):
        noise = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        path = folder / "image.jpg"
        Image.fromarray(noise).resize((width, height)).save(path)
        encoded.append(path.read_bytes())
    for index in range(number + 1):
        (folder / f"images/{index}.jpg").write_bytes(encoded[index % _DISTINCT])


def _annotate(folder: pathlib.Path, number: int, width: int, height: int, with_masks: bool) -> None:
    """Writes the annotations of all images but the last for training, and its own for val."""
    rng = np.random.default_rng(1)
    (folder / "annotations").mkdir(exist_ok=True)
    for split, indices in (("train", range(number)), ("val", [number])):
        annotations = []
        for index in indices:
            for _ in range(_OBJECTS):
                entry = _object(rng, width, height, with_masks)
                entry |= {"id": len(annotations) + 1, "image_id": index + 1}
                annotations.append(entry)
        coco = {
            "images": [
                {"id": i + 1, "file_name": f"{i}.jpg", "width": width, "height": height}
                for i in indices
            ],
            "annotations": annotations,
            "categories": [{"id": i, "name": f"class {i}"} for i in range(1, 81)],
        }
        (folder / f"annotations/instances_{split}.json").write_text(json.dumps(coco))


def _object(rng: np.random.Generator, width: int, height: int, with_masks: bool) -> dict:
    """Returns an annotation with a star-shaped outline."""
    angles = np.sort(rng.uniform(0, 2 * np.pi, _POINTS))
    radius = rng.uniform(0.02, 0.2) * min(width, height) * rng.uniform(0.6, 1, _POINTS)
    centre = rng.uniform(0.2, 0.8, 2) * [width, height]
    points = centre + radius[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    points = np.round(points, 2)
    low, high = points.min(axis=0), points.max(axis=0)
    entry = {
        "category_id": int(rng.integers(1, 81)),
        "bbox": np.round([*low, *(high - low)], 2).tolist(),
        "area": float(np.round(0.7 * np.prod(high - low), 2)),
        "iscrowd": 0,
    }
    return entry | ({"segmentation": [points.ravel().tolist()]} if with_masks else {})


def _measure(folder: str) -> dict[str, float]:
    command = [sys.executable, __file__, f"--folder={folder}"]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment).stdout
    return json.loads(printed.splitlines()[-1])


def _convert(folder: str) -> None:
    # Imported first, so that its start is not counted; conversion imports it when all is checked.
    import tensorflow as tf  # noqa: F401
    from official.vision.data import tfrecord_lib  # noqa: F401

    before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    with tempfile.TemporaryDirectory() as cache:
        prepare_coco_folder(folder, cache, report=str)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    cost = {
        "wall s": time.perf_counter() - start,
        "CPU s": usage.ru_utime + usage.ru_stime - before.ru_utime - before.ru_stime,
        "peak MB": usage.ru_maxrss / 1e3,
    }
    print(json.dumps(cost))


if __name__ == "__main__":
    app.run(main)
