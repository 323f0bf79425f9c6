"""MMDetection's preprocessing, against its numbers and against OpenCV."""

import cv2
import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from libra_tf.dataloaders import mmdetection_images

pytestmark = pytest.mark.one_lane

SIDES = st.integers(1, 150)


def test_golden(golden_blocks):
    with np.load(golden_blocks / "extras_preprocess.npz") as file:
        numbers = dict(file)
    image = tf.constant(numbers["bgr_uint8"][..., ::-1])
    prepared, info = mmdetection_images.prepare(image, shorter=128, longer=1333)
    np.testing.assert_array_equal(prepared.numpy().transpose(2, 0, 1), numbers["net_input"][0])
    np.testing.assert_allclose(
        info, [[97, 131], [128, 173], [128 / 97, 173 / 131], [0, 0]], rtol=1e-6
    )


@hypothesis.settings(max_examples=100, deadline=None)
@hypothesis.given(SIDES, SIDES, SIDES, SIDES, st.integers(0, 1000))
def test_resizes_as_opencv(height, width, new_height, new_width, seed):
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    resized = mmdetection_images.resize(tf.constant(image), tf.constant([new_height, new_width]))
    expected = cv2.resize(image, (new_width, new_height), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(resized, expected)


@pytest.mark.parametrize(
    ("size", "expected"),
    [((480, 640), (800, 1067)), ((640, 480), (1067, 800)), ((300, 1200), (333, 1333))],
)
def test_resized_size(size, expected):
    assert tuple(mmdetection_images.resized_size(tf.constant(size), 800, 1333)) == expected
