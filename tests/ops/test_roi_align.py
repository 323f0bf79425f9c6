"""RoIAlign against MMDetection's numbers and against a loop over samples."""

import importlib
import math

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from libra_tf import ops

pytestmark = pytest.mark.one_lane

# The name of the module in `ops` is that of its function.
roi_align = importlib.import_module("libra_tf.ops.roi_align")

YX_FROM_XY = [1, 0, 3, 2]


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize(
    ("sampling_ratio", "jit_compile"),
    [
        (0, True),
        (2, False),
        pytest.param(0, False, marks=pytest.mark.slow),
        pytest.param(2, True, marks=pytest.mark.slow),
    ],
)
def test_golden(golden_blocks, sampling_ratio, aligned, jit_compile):
    path = golden_blocks / f"extras_roialign_sr{sampling_ratio}_aligned{int(aligned)}.npz"
    with np.load(path) as file:
        numbers = dict(file)
    rois = numbers["rois"]
    # Their RoIs name their image; ours are listed for both images and masked in the other one.
    boxes = np.tile(rois[:, 1:][:, YX_FROM_XY], (2, 1, 1))
    where = np.stack([rois[:, 0] == image for image in range(2)])
    features = tf.constant(numbers["feat"].transpose(0, 2, 3, 1))

    @tf.function(jit_compile=jit_compile)
    def crop(features):
        with tf.GradientTape() as tape:
            tape.watch(features)
            crops = ops.roi_align(
                features,
                boxes,
                float(numbers["spatial_scale"]),
                sampling_ratio=sampling_ratio,
                aligned=aligned,
                where=where,
            )
            crops = tf.reduce_sum(crops, axis=0)
            total = tf.reduce_sum(crops * numbers["cot"].transpose(0, 2, 3, 1))
        return crops, tape.gradient(total, features)

    crops, gradient = crop(features)
    np.testing.assert_allclose(crops.numpy().transpose(0, 3, 1, 2), numbers["out"], atol=2e-5)
    np.testing.assert_allclose(
        gradient.numpy().transpose(0, 3, 1, 2), numbers["grad_feat"], atol=2e-5
    )


def loop(features, box, output_size):
    """One crop of `[H, W]`, sample by sample, in float64."""
    height, width = features.shape
    y1, x1, y2, x2 = (np.float64(side) - 0.5 for side in box)
    cell_y, cell_x = (y2 - y1) / output_size, (x2 - x1) / output_size
    # In float32, as everywhere: a count must not depend on the precision.
    count_y, count_x = (
        math.ceil(np.float32(cell)) for cell in ((y2 - y1) / output_size, (x2 - x1) / output_size)
    )
    crop = np.zeros([output_size, output_size])
    for row, column in np.ndindex(output_size, output_size):
        samples = []
        for i, j in np.ndindex(count_y, count_x):
            y = y1 + (row + (i + 0.5) / count_y) * cell_y
            x = x1 + (column + (j + 0.5) / count_x) * cell_x
            samples.append(
                bilinear(features, y, x) if -1 <= y <= height and -1 <= x <= width else 0
            )
        crop[row, column] = np.mean(samples) if samples else 0
    return crop


def bilinear(features, y, x):
    height, width = features.shape
    y, x = np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    down, along = y - top, x - left
    upper = (1 - along) * features[top, left] + along * features[top, right]
    lower = (1 - along) * features[bottom, left] + along * features[bottom, right]
    return (1 - down) * upper + down * lower


# Away from whole and half pixels, where rounding decides whether a sample is on the map.
SIDES = st.integers(-30, 300).map(lambda eighths: eighths / 8 + 0.0313)


@hypothesis.settings(max_examples=30, deadline=None)
@hypothesis.given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    corners=st.tuples(SIDES, SIDES, SIDES, SIDES),
    output_size=st.integers(1, 7),
    seed=st.integers(0, 9),
)
def test_is_a_loop_over_samples(height, width, corners, output_size, seed):
    box = np.float32([*np.minimum(corners[:2], corners[2:]), *np.maximum(corners[:2], corners[2:])])
    features = np.random.default_rng(seed).normal(size=(height, width)).astype(np.float32)
    crop = ops.roi_align(
        tf.constant(features[np.newaxis, :, :, np.newaxis]),
        tf.constant(box[np.newaxis, np.newaxis]),
        1.0,
        output_size=output_size,
    )
    expected = loop(features, box, output_size)
    np.testing.assert_allclose(crop[0, 0, :, :, 0], expected, atol=1e-4)


def test_many_boxes_of_several_images_keep_their_places():
    rng = np.random.default_rng(0)
    features = tf.constant(rng.normal(size=(2, 20, 30, 3)).astype(np.float32))
    corners = rng.uniform(0, 20, size=(2, 70, 2)).astype(np.float32)
    boxes = np.concatenate([corners, corners + 5], axis=-1)
    together = ops.roi_align(features, boxes, 1.0, output_size=2).numpy()
    for image, box in ((0, 0), (1, 31), (1, 32), (0, 69)):
        alone = ops.roi_align(
            features[image : image + 1], boxes[image : image + 1, box : box + 1], 1.0, output_size=2
        )
        np.testing.assert_allclose(together[image, box], alone[0, 0], atol=1e-5)


@pytest.mark.parametrize(
    ("jit_compile", "dtype"),
    [
        (False, "float32"),
        (True, "bfloat16"),
        pytest.param(True, "float32", marks=pytest.mark.slow),
        pytest.param(False, "bfloat16", marks=pytest.mark.slow),
    ],
)
def test_windows_give_what_the_whole_map_gives(monkeypatch, jit_compile, dtype):
    """Values and gradients, of blocks that need every size of window."""
    rng = np.random.default_rng(0)
    shape = (2, 130, 140, 2)
    features = tf.cast(rng.normal(size=shape), dtype)
    # By size, as in a detector, and a block of all sizes at the end.
    size = np.sort(np.exp(rng.uniform(np.log(2), np.log(150), size=(2, 150))), axis=1)
    size = np.concatenate([size, size[:, ::20]], axis=1)[..., np.newaxis] * [1.0, 0.9]
    corner = rng.uniform(-10, 140, size=size.shape) - size / 2
    boxes = np.concatenate([corner, corner + size], axis=-1).astype(np.float32)
    where = rng.uniform(size=boxes.shape[:2]) < 0.9
    upstream = tf.cast(rng.normal(size=(*boxes.shape[:2], 3, 3, 2)), dtype)

    def crop():
        @tf.function(jit_compile=jit_compile)
        def compute():
            with tf.GradientTape() as tape:
                tape.watch(features)
                crops = ops.roi_align(features, boxes, 1.0, output_size=3, where=where)
            return crops, tape.gradient(crops, features, upstream)

        return [x.numpy().astype(np.float32) for x in compute()]

    start, size = (tf.constant(x, tf.float32) for x in (corner - 0.5, size))
    map_size = tf.constant(shape[1:3])
    first, last = roi_align._pixels_of(start, size, map_size)
    window = roi_align._smallest_window(first, last, map_size)
    sampling = roi_align._Sampling(3, 0)
    blocks = roi_align._in_blocks(window, first, start, size, map_size, sampling, tf.float32)
    assert set(blocks.window.numpy().ravel()) == {1, 2, 3, 4}

    crops, gradient = crop()
    monkeypatch.setattr(roi_align, "_WORTHWHILE", 1000)
    expected, expected_gradient = crop()
    tolerance = 1e-5 if dtype == "float32" else 0.03
    np.testing.assert_allclose(crops, expected, atol=tolerance)
    np.testing.assert_allclose(gradient, expected_gradient, atol=10 * tolerance)


@pytest.mark.parametrize("number", [0, 1, 16, 17])
def test_any_number_of_boxes(number):
    boxes = tf.tile([[[1.0, 1.0, 4.0, 6.0]]], [2, number, 1])
    crops = ops.roi_align(tf.ones([2, 40, 40, 3]), boxes, 1.0, output_size=2)
    np.testing.assert_allclose(crops, np.ones([2, number, 2, 2, 3]), rtol=1e-6)


def test_empty_boxes_give_zeros():
    boxes = tf.constant([[[-1.0, -1.0, -1.0, -1.0], [3.0, 3.0, 3.0, 9.0]]])
    assert not ops.roi_align(tf.ones([1, 8, 8, 2]), boxes, 1.0).numpy().any()
