"""Detection in tiles: where they lie, and that merging gives each object once."""

import dataclasses
import io
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from libra_tf.cli.errors import UsageError
from libra_tf.inference import answers, local, tiling
from libra_tf.inference.errors import RefusedError

pytestmark = pytest.mark.one_lane

TILE = 64


@given(length=st.integers(1, 5000), tile=st.integers(64, 1024))
def test_tiles_cover_an_axis_and_share_a_quarter(length, tile):
    begins = tiling.starts(length, tile)
    assert begins[0] == 0
    assert begins[-1] == max(0, length - tile)
    shared = [first + tile - second for first, second in itertools.pairwise(begins)]
    assert all(overlap >= int(tile * tiling.OVERLAP) for overlap in shared)
    # One tile fewer could not cover the axis with that overlap.
    step = tile - int(np.ceil(tile * tiling.OVERLAP))
    assert length > tile + (len(begins) - 2) * step or len(begins) == 1


@pytest.fixture(scope="module")
def detector(exported):
    return local.open_detector(exported.model_dir)


def encoded(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def noise(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def detect(detector, *images):
    outputs = detector.predict([encoded(image) for image in images])
    return answers.from_outputs(outputs, is_normalized=False)


def test_a_small_image_is_one_tile(detector):
    image = noise(50, TILE)
    (expected,) = detect(detector, image)
    (found,) = detect(tiling.TiledDetector(detector, TILE), image)
    assert len(found.scores)
    for field in dataclasses.fields(found):
        np.testing.assert_array_equal(getattr(found, field.name), getattr(expected, field.name))


def test_merged_detections_are_those_of_the_tiles(detector):
    """Whatever a tile finds is kept, or something of its class in the same place is."""
    image = noise(100, 150)
    (found,) = detect(tiling.TiledDetector(detector, TILE), image)
    assert (found.height, found.width) == image.shape[:2]
    assert (np.diff(found.scores) <= 0).all()
    for y in tiling.starts(100, TILE):
        for x in tiling.starts(150, TILE):
            (part,) = detect(detector, image[y : y + TILE, x : x + TILE])
            for box, category in zip(
                part.boxes + np.array([y, x, y, x]), part.category_ids, strict=True
            ):
                if _area(box) < 1:
                    # Untrained detectors also give boxes without area, which nothing covers.
                    continue
                same = found.boxes[found.category_ids == category]
                assert (_covered(box, same) > 0.4).any()
    for category in set(found.category_ids):
        boxes = found.boxes[found.category_ids == category]
        for i, box in enumerate(boxes):
            assert (_iou(box, np.delete(boxes, i, 0)) <= 0.5 + 1e-6).all()


def _area(boxes):
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def _intersection(box, others):
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    return np.prod(np.maximum(high - low, 0), axis=-1)


def _iou(box, others):
    shared = _intersection(box, others)
    return shared / np.maximum(_area(box) + _area(others) - shared, 1e-6)


def _covered(box, others):
    return _intersection(box, others) / np.maximum(np.minimum(_area(box), _area(others)), 1e-6)


def test_a_file_that_is_no_image_is_refused_as_ever(detector):
    with pytest.raises(RefusedError):
        tiling.TiledDetector(detector, TILE).predict([b"text"])


def test_a_truncated_image_is_refused_at_its_place(detector):
    file = encoded(noise(100, 150))
    with pytest.raises(RefusedError) as refusal:
        tiling.TiledDetector(detector, TILE).predict([file, file[:-200]])
    assert refusal.value.problems == {1: "is truncated or damaged"}


def test_an_image_with_too_many_pixels_is_refused(detector):
    with pytest.raises(RefusedError, match="has 15000 pixels, more than --max_pixels=14999"):
        tiling.TiledDetector(detector, TILE, 14_999).predict([encoded(noise(100, 150))])


class Nothing:
    """Detects nothing, in images of any size."""

    source, normalized_boxes, class_names = "nothing", False, {1: "cell"}

    def predict(self, images):
        empty = answers.Answer(
            TILE, TILE, np.zeros([0, 4], np.float32), np.zeros(0), np.zeros(0), np.zeros(0, str)
        )
        return answers.to_outputs([empty] * len(images))


def test_the_limit_of_pillow_gives_way(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    image = encoded(noise(100, 150))
    with pytest.raises(RefusedError, match="has more pixels than --max_pixels=5000"):
        tiling.TiledDetector(Nothing(), TILE, 5000).predict([image])
    outputs = tiling.TiledDetector(Nothing(), TILE, 15_000).predict([image])
    assert outputs["image_size"].tolist() == [[100, 150]]


def test_deep_grey_is_scaled_as_without_tiles(detector):
    deep = np.linspace(0, 65535, 100 * 150).reshape(100, 150).astype(np.uint16)
    eight = np.repeat((deep >> 8).astype(np.uint8)[..., np.newaxis], 3, axis=-1)
    (found,), (expected,) = (
        detect(tiling.TiledDetector(detector, TILE), image) for image in (deep, eight)
    )
    np.testing.assert_array_equal(found.boxes, expected.boxes)


def test_tiles_that_are_too_small_are_refused(detector):
    with pytest.raises(UsageError, match="--tiles=5: tiles must have from 64 to 4096 pixels"):
        tiling.TiledDetector(detector, 5)
