"""What the pictures of an evaluation show, read from their pixels."""

import base64
import io
import pathlib
import tracemalloc

import numpy as np
import pytest
from PIL import Image, ImageColor
from pycocotools import mask

from libra_tf.data.annotations import AnnotationFile
from libra_tf.evaluation import confusion, pictures, subject
from libra_tf.evaluation.outcomes import Outcome
from tests.evaluation import scenes

pytestmark = pytest.mark.one_lane

GREY = 90


def grey(width, height):
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (GREY,) * 3).save(buffer, "PNG")
    return buffer.getvalue()


def rectangle(x, y, width, height):
    return [[x, y, x + width, y, x + width, y + height, x, y + height]]


def find(width, height, objects, detections=()):
    """Masks that fill their boxes; `(category, box)` each, and a score of 0.9."""
    entries = [
        {"image_id": 1, "category_id": category, "bbox": box, "segmentation": rectangle(*box)}
        for category, box in (*objects, *detections)
    ]
    truth = [
        {"id": id_, "iscrowd": 0, **entry}
        for id_, entry in enumerate(entries[: len(objects)], start=1)
    ]
    found = [{**entry, "score": 0.9} for entry in entries[len(objects) :]]
    for entry in found:
        entry["segmentation"] = mask.frPyObjects(entry["segmentation"], height, width)[0]
    images = [{"id": 1, "file_name": "1.png", "width": width, "height": height}]
    file = AnnotationFile(pathlib.Path("val.json"), "", images, truth, {1: "dog", 2: "cat"})
    return scenes.find_outcomes(subject.make(file, found), subject.MASKS, 0.5)


def pixels_of(picture):
    encoded = base64.b64decode(picture.background.partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(encoded)), float)


def tinted(outcome):
    colour = np.array(ImageColor.getrgb(pictures.LOOKS[outcome].colour), float)
    return 0.55 * GREY + 0.45 * colour


@pytest.mark.parametrize("size", [(640, 320), (320, 160)], ids=["its size", "half its size"])
def test_masks_of_what_is_wrong_are_coloured(size):
    # The last one is right.
    found = find(
        640, 320, [(1, [100, 40, 200, 80]), (1, [400, 200, 80, 80])], [(1, [400, 200, 80, 80])]
    )
    picture = pictures.whole(found, 1, grey(*size), "title")
    pixels = pixels_of(picture)
    assert pixels.shape == (160, 320, 3) == (picture.height, picture.width, 3)
    (missed, _) = sorted(picture.marks, key=lambda mark: mark.box.left)[:2]
    assert (missed.box.left, missed.box.top, missed.box.width) == (50, 20, 100)
    # JPEG is not exact, least at edges.
    inside, edge = np.zeros([2, 160, 320], bool)
    inside[20:60, 50:150] = True
    edge[12:68, 42:158] = True
    edge[28:52, 58:142] = False
    assert pixels[inside & ~edge] == pytest.approx(
        np.broadcast_to(tinted(Outcome.MISSED), [24 * 84, 3]), abs=4
    )
    assert pixels[~inside & ~edge] == pytest.approx(GREY, abs=4)


def test_a_crop_has_the_part_of_the_mask():
    found = find(640, 320, [(1, [500, 200, 100, 100])], [(2, [500, 200, 100, 80])])
    (pair,) = confusion.measure(found)["pairs"]
    picture = pictures.crop(found, pair["examples"][0], grey(640, 320), "title")
    # From 475, 175 to 625, 320, which is where the image ends.
    assert (picture.width, picture.height) == (320, round(145 * 320 / 150))
    pixels = pixels_of(picture)
    scale = 320 / 150
    row, column = round(65 * scale), round(75 * scale)
    # Both are named: the object is tinted in white, and then the detection in its colour.
    white = 0.55 * GREY + 0.45 * 255
    colour = np.array(ImageColor.getrgb(pictures.LOOKS[Outcome.MIXED_UP].colour))
    assert pixels[row, column] == pytest.approx(0.55 * white + 0.45 * colour, abs=4)
    assert pixels[round(115 * scale), column] == pytest.approx(white, abs=4)
    assert pixels[5, 5] == pytest.approx(GREY, abs=4)


def test_a_large_image_with_many_masks_takes_little_memory():
    width, height = 3000, 2000
    boxes = [(1, [float(90 * number), float(60 * number), 800, 500]) for number in range(20)]
    found = find(width, height, boxes, [(1, [2900, 10, 20, 20])])
    encoded = grey(width, height)
    tracemalloc.start()
    pictures.whole(found, 1, encoded, "title")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # NumPy's arrays: one of the image's size and floats would have 72 MB.
    assert peak < 4 * width * height
