from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libra_tf.data import boxes

pytestmark = pytest.mark.one_lane

_COORDINATES = st.integers(-40, 60)
_SIZES = st.integers(1, 20)


def _mask(box: Sequence[int], width: int, height: int) -> np.ndarray:
    """Rasterizes a box of integer coordinates, inside the image, on a larger canvas."""
    x, y, w, h = box
    rows, columns = np.mgrid[-100:100, -100:100]
    inside_box = (columns >= x) & (columns < x + w) & (rows >= y) & (rows < y + h)
    inside_image = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    return inside_box & inside_image


@given(
    st.tuples(_COORDINATES, _COORDINATES, st.integers(-5, 60), st.integers(-5, 60)), _SIZES, _SIZES
)
def test_clip_box_covers_the_pixels_in_the_image(box, width, height):
    expected = _mask(box, width, height)
    clipped = boxes.clip_box(box, width, height)
    if clipped is None:
        assert not expected.any()
    else:
        np.testing.assert_array_equal(_mask(clipped, width, height), expected)
        assert clipped[2] * clipped[3] == expected.sum()


@given(
    st.tuples(*[st.floats(-1e6, 1e6)] * 4),
    st.integers(1, 5000),
    st.integers(1, 5000),
)
def test_clipped_box_is_inside_and_stays(box, width, height):
    clipped = boxes.clip_box(box, width, height)
    if clipped is not None:
        x, y, w, h = clipped
        assert x >= 0 and y >= 0 and w > 0 and h > 0
        np.testing.assert_array_less([x + w, y + h], [width * (1 + 1e-12), height * (1 + 1e-12)])
        again = boxes.clip_box(clipped, width, height)
        np.testing.assert_allclose(again, clipped, rtol=1e-9, atol=1e-9)


@given(
    st.tuples(st.floats(0, 50), st.floats(0, 50), st.floats(0.5, 50), st.floats(0.5, 50)),
)
def test_box_inside_keeps_its_exact_numbers(box):
    clipped = boxes.clip_box(box, 100, 100)
    assert clipped == list(box)
    assert not boxes.crosses_border(box, clipped)


def test_rounding_does_not_count_as_crossing():
    for overshoot, crosses in ((0.0005, False), (0.01, True)):
        box = [90, 0, 10 + overshoot, 5]
        assert boxes.crosses_border(box, boxes.clip_box(box, 100, 100)) is crosses
