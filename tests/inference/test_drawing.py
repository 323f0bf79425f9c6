"""Pictures of detections: the right pixels, nothing outside, nothing that cannot be drawn."""

import subprocess
import sys

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest
from PIL import Image

from libra_tf.inference.drawing import draw_detections

pytestmark = pytest.mark.one_lane

GREY = (90, 90, 90)


def changed(picture, background=GREY):
    return (np.asarray(picture) != background).any(axis=-1)


def test_box_and_label_are_where_they_belong():
    image = Image.new("RGB", (300, 200), GREY)
    picture = draw_detections(image, [[60, 40, 150, 250]], ["cat"], [0.987])
    touched = changed(picture)
    assert touched[60, 40:251].all() and touched[150, 40:251].all()
    assert touched[60:151, 40].all() and touched[60:151, 250].all()
    assert not touched[62:149, 42:249].any(), "the object itself stays visible"
    assert touched[45:60, 40:80].any(), "the label is above the box"
    assert not changed(image).any(), "the given image is not changed"


def test_a_label_has_one_colour_in_every_picture():
    image = Image.new("RGB", (100, 100), GREY)
    corner = (30, 90)

    def color(label, *more):
        boxes = [[30, 10, 90, 90], *([[0, 0, 10, 10]] * len(more))]
        labels = [label, *more]
        return draw_detections(image, boxes, labels, [0.5] * len(labels)).getpixel(corner[::-1])

    colors = {label: color(label) for label in ("circle", "square", "triangle", "star")}
    assert len(set(colors.values())) == 4
    assert color("star", "square", "star") == colors["star"]


def test_a_label_without_room_above_or_to_the_right_stays_inside_and_readable():
    image = Image.new("RGB", (200, 100), GREY)
    free = draw_detections(image, [[50, 20, 99, 90]], ["elephant"], [1.0])
    pressed = draw_detections(image, [[0, 150, 99, 199]], ["elephant"], [1.0])
    # The label's area is one colour but for its letters; it is as wide, and has as many letters.
    (color,) = {picture.getpixel((x, 98)) for picture, x in ((free, 20), (pressed, 150))}
    contrasts = []
    for picture in (free, pressed):
        rows = changed(picture).sum(axis=1)
        assert rows.max() > 60
        distance = np.abs(np.asarray(picture, int) - color).max(axis=-1)
        contrasts.append(((distance > 100) & changed(picture)).sum())
    assert min(contrasts) > 100
    assert contrasts[0] == pytest.approx(contrasts[1], rel=0.1)


def test_the_best_is_on_top():
    image = Image.new("RGB", (100, 100), GREY)
    boxes, labels = [[30, 10, 90, 90]] * 2, ["circle", "square"]
    alone = draw_detections(image, boxes[:1], labels[:1], [0.9])
    for order in ([0, 1], [1, 0]):
        scores = [[0.9, 0.3][i] for i in order]
        both = draw_detections(image, boxes, [labels[i] for i in order], scores)
        assert both.getpixel((10, 60)) == alone.getpixel((10, 60))


@pytest.mark.parametrize("top", [0, 60], ids=["at_the_upper_edge", "with_room_above"])
def test_labels_hide_no_other(top):
    """One object is found as three classes; all three names can be read."""
    image = Image.new("RGB", (300, 200), GREY)
    box, names = [top, 40, top + 90, 140], ["cat", "dog", "elephant"]

    def letters(*names):
        picture = draw_detections(image, [box] * len(names), names, [0.5] * len(names))
        pixels = np.asarray(picture)
        return ((pixels == 0) | (pixels == 255)).all(axis=-1).sum()

    assert letters(*names) == sum(map(letters, names)) > 0


def test_lines_and_letters_grow_with_the_picture():
    def height_of_label(side):
        image = Image.new("RGB", (side, side), GREY)
        picture = draw_detections(image, [[side // 2] * 2 + [side - 1] * 2], ["cat"], [0.5])
        return changed(picture)[: side // 2].any(axis=1).sum()

    assert height_of_label(2000) > 1.8 * height_of_label(1000) > 1.8 * height_of_label(200)


def test_masks_tint_their_half_of_the_box():
    image = Image.new("RGB", (100, 100), GREY)
    mask = np.zeros([1, 28, 28], np.float32)
    mask[:, :, 14:] = 1
    picture = draw_detections(image, [[20, 20, 80, 80]], ["cat"], [0.5], masks=mask)
    touched = changed(picture)
    assert not touched[40:79, 22:49].any()
    assert touched[40:79, 51:79].all()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_any_mode(mode):
    picture = draw_detections(Image.new(mode, (40, 30)), np.zeros([0, 4]), [], [])
    assert (picture.mode, picture.size) == ("RGB", (40, 30))


@pytest.mark.parametrize(("mode", "kind"), [("I;16", "<u2"), ("I;16B", ">u2"), ("I", "<i4")])
def test_grey_of_16_bits_is_drawn_as_detectors_see_it(mode, kind):
    grey = np.arange(0, 2**16, 16).reshape(64, 64)
    image = Image.frombytes(mode, (64, 64), grey.astype(kind).tobytes())
    picture = draw_detections(image, np.zeros([0, 4]), [], [])
    np.testing.assert_array_equal(picture, np.repeat(grey[..., np.newaxis] // 256, 3, axis=-1))


def test_numbers_that_differ_are_refused():
    image = Image.new("RGB", (40, 30))
    with pytest.raises(ValueError, match="argument 2 is longer than argument 1"):
        draw_detections(image, [[0, 0, 9, 9]], ["a", "b"], [0.5])


BOXES = hnp.arrays(np.float32, (3, 4), elements=st.floats(width=32))


@hypothesis.settings(deadline=None, max_examples=60)
@hypothesis.given(
    boxes=BOXES | hnp.arrays(np.float32, (3, 4), elements=st.floats(-30, 90, width=32)),
    labels=st.lists(st.text(max_size=60), min_size=3, max_size=3),
    size=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    with_masks=st.booleans(),
)
def test_whatever_a_detector_gives_can_be_drawn(boxes, labels, size, with_masks):
    masks = np.full([3, 5, 4], 0.7, np.float32) if with_masks else None
    picture = draw_detections(Image.new("RGB", size, GREY), boxes, labels, [0.1, 1, 0], masks)
    assert picture.size == size


def test_no_tensorflow_is_imported():
    code = "import sys, libra_tf.inference.drawing; sys.exit('tensorflow' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
