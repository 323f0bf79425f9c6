"""Bringing images to the size of the network's input."""

import inspect

import numpy as np
import pytest
import tensorflow as tf
from official.vision.ops import preprocess_ops

from libra_tf.dataloaders import mmdetection_images
from libra_tf.serving import images

OUTPUT_SIZE, PADDED_SIZE = [96, 128], [128, 160]


# Not every Model Garden has the choice.
STRETCHED = pytest.param(
    {"keep_aspect_ratio": False},
    marks=pytest.mark.skipif(
        "keep_aspect_ratio"
        not in inspect.signature(preprocess_ops.resize_and_crop_image).parameters,
        reason="this Model Garden always keeps the aspect ratio",
    ),
)


@pytest.mark.parametrize("kwargs", [{}, STRETCHED])
@pytest.mark.parametrize("size", [(1, 1), (97, 129), (300, 200), (33, 500), (1, 255), (190, 1)])
def test_letterbox_is_that_of_model_garden(size, kwargs):
    image = np.random.default_rng(0).integers(0, 256, [*size, 3], dtype=np.uint8)
    expected, expected_info = preprocess_ops.resize_and_crop_image(
        preprocess_ops.normalize_image(tf.constant(image)), OUTPUT_SIZE, PADDED_SIZE, **kwargs
    )
    letterboxed, info = images.letterbox(image, OUTPUT_SIZE, PADDED_SIZE, **kwargs)
    np.testing.assert_array_equal(info, expected_info)
    np.testing.assert_allclose(letterboxed, expected, atol=1e-4)


def test_a_side_too_thin_for_model_garden_becomes_one_pixel():
    for size, scaled in (((1, 300), (1, 128)), ((5, 2000), (1, 128)), ((900, 2), (96, 1))):
        letterboxed, info = images.letterbox(
            np.full([*size, 3], 255, np.uint8), OUTPUT_SIZE, PADDED_SIZE
        )
        scale = [scaled[0] / size[0], scaled[1] / size[1]]
        np.testing.assert_allclose(info, [size, OUTPUT_SIZE, scale, [0, 0]], rtol=1e-6)
        is_image = letterboxed.numpy().all(axis=-1)
        assert is_image[: scaled[0], : scaled[1]].all() and is_image.sum() == np.prod(scaled)


def test_a_side_too_thin_for_mmdetection_becomes_one_pixel():
    prepared, info = mmdetection_images.prepare(
        tf.fill([1, 3000, 3], tf.constant(255, tf.uint8)), shorter=800, longer=1333
    )
    assert prepared.shape == [32, 1344, 3]
    np.testing.assert_allclose(info, [[1, 3000], [1, 1333], [1, 1333 / 3000], [0, 0]], rtol=1e-6)
    is_image = prepared.numpy().all(axis=-1)
    assert is_image[0, :1333].all() and is_image.sum() == 1333
