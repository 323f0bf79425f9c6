"""What the dials of the shapes data set change, and what they leave as it is."""

import json
import pathlib

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from libra_tf.data import make_shapes, shape_images, shapes
from libra_tf.data.dials import AT_ZERO, Dials

pytestmark = pytest.mark.one_lane

_NAMES = ("look_alikes", "size_spread", "unclear_borders")
_SIZE = 96
_SEEDS = st.tuples(st.integers(0, 2**20), st.integers(0, 1), st.integers(1, 2**20))
_DIAL = st.floats(0, 1)
_EXAMPLES = settings(max_examples=20, deadline=None)


def _boxes(objects):
    return [(shape.category_id, shape.vertices.tolist()) for shape in objects]


def _files(folder):
    paths = sorted(pathlib.Path(folder).rglob("*.*"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@_EXAMPLES
@given(_SEEDS, _DIAL, _DIAL)
def test_what_is_added_has_no_annotation_and_moves_no_object(seed, look_alikes, unclear_borders):
    _, before = shape_images.draw_image(seed, _SIZE, AT_ZERO)
    dials = Dials(look_alikes=look_alikes, unclear_borders=unclear_borders)
    _, pile = shape_images.draw_image(seed, _SIZE, dials)
    assert _boxes(pile.objects) == _boxes(before.objects)


@_EXAMPLES
@given(_SEEDS)
def test_look_alikes_change_only_the_pixels_that_they_cover(seed):
    before, _ = shape_images.draw_image(seed, _SIZE, AT_ZERO)
    after, pile = shape_images.draw_image(seed, _SIZE, Dials(look_alikes=1))
    covered = np.zeros([_SIZE, _SIZE], bool)
    for shape in pile.shapes:
        covered |= (shape.alpha > 0) & (not shape.is_object)
    changed = (np.asarray(before) != np.asarray(after)).any(axis=-1)
    assert not (changed & ~covered).any()
    assert changed.any() == covered.any()


@_EXAMPLES
@given(_SEEDS)
def test_look_alikes_are_whole_and_no_object_is_hidden_too_much(seed):
    _, pile = shape_images.draw_image(seed, _SIZE, Dials(look_alikes=1))
    for shape, visible in zip(pile.shapes, pile.visible, strict=True):
        assert visible.sum() >= (0.7 if shape.is_object else 0.95) * shape.area


def _share_of_overlapping(pile):
    boxes = [(s.vertices.min(axis=0), s.vertices.max(axis=0)) for s in pile.objects]
    others = [shape for shape in pile.shapes if not shape.is_object]
    return [
        any(
            np.all(low < other.vertices.max(axis=0)) and np.all(high > other.vertices.min(axis=0))
            for low, high in boxes
        )
        for other in others
    ]


def test_each_dial_adds_to_more_objects_the_higher_it_is():
    for name in ("look_alikes", "unclear_borders"):
        per_object = []
        for value in (0, 0.25, 0.5, 1):
            dials = Dials(**{name: value})
            piles = [shape_images.draw_image([0, 0, k], _SIZE, dials)[1] for k in range(1, 21)]
            num_objects = sum(len(pile.objects) for pile in piles)
            per_object.append(sum(len(pile.shapes) for pile in piles) / num_objects - 1)
            overlapping = [overlaps for pile in piles for overlaps in _share_of_overlapping(pile)]
            assert value == 0 or np.mean(overlapping) > 0.9
        assert per_object[0] == 0
        assert np.all(np.diff(per_object) > 0.1) and per_object[-1] > 0.75


@_EXAMPLES
@given(_SEEDS, _DIAL)
def test_half_of_an_object_stays_visible_behind_bars(seed, unclear_borders):
    """Puts the shapes on top of each other anew, in their order."""
    _, pile = shape_images.draw_image(seed, _SIZE, Dials(unclear_borders=unclear_borders))
    for index, shape in enumerate(pile.shapes):
        visible = shape.alpha
        for front in pile.shapes[index + 1 :]:
            visible = visible * (1 - front.alpha)
        assert not shape.is_object or visible.sum() >= 0.5 * shape.area - 1e-6


def test_edges_get_softer():
    """Measured by the steepest step between two pixels."""
    pixels = np.zeros([64, 64])
    pixels[16:48, 16:48] = 1
    steps = [np.abs(np.diff(shape_images._blurred(pixels, blur))).max() for blur in (0, 0.5, 1, 2)]
    assert steps[0] == 1
    assert np.all(np.diff(steps) < 0)


@_EXAMPLES
@given(st.floats(12, 48), _DIAL, _DIAL)
def test_sizes_move_apart_but_stay_in_their_range(extent, one, other):
    """The range is from 12 px to half the image."""
    low, high = sorted((one, other))
    nearer, farther = (shape_images.spread(extent, 96, dial) for dial in (low, high))
    assert 12 <= farther <= 48 + 1e-9
    assert abs(farther - 30) >= abs(nearer - 30) - 1e-9
    assert shape_images.spread(extent, 96, 0) == extent


def test_sizes_within_an_image_differ_more_the_higher_the_dial():
    deviations = []
    for value in (0, 0.25, 0.5, 0.75, 1):
        piles = [
            shape_images.place_shapes(np.random.default_rng(k), 128, Dials(size_spread=value))
            for k in range(100)
        ]
        logs = [np.log2([shape.extent() for shape in pile.shapes]) for pile in piles]
        deviations.append(np.mean([np.std(sizes) for sizes in logs if len(sizes) > 1]))
    assert np.all(np.diff(deviations) > 0.02)
    assert deviations[-1] > 1.3 * deviations[0]


@pytest.mark.parametrize("name", _NAMES)
def test_dials_are_reproducible_and_change_the_images(tmp_path, name):
    dials = Dials(**{name: 0.5})
    for folder, setting in (("zero", AT_ZERO), ("one", dials), ("two", dials)):
        make_shapes(tmp_path / folder, 6, 2, 64, report=str, dials=setting)
    assert _files(tmp_path / "one") == _files(tmp_path / "two")
    pictures = [p for p in _files(tmp_path / "one") if p.startswith("images/train")]
    zero, one = _files(tmp_path / "zero"), _files(tmp_path / "one")
    assert any(zero[path] != one[path] for path in pictures)
    coco = json.loads((tmp_path / "one" / "annotations" / "instances_train.json").read_text())
    assert coco["info"]["shapes"][name] == 0.5


@pytest.mark.parametrize("name", _NAMES)
@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), "0.5", None])
def test_a_dial_out_of_range(name, value):
    with pytest.raises(ValueError, match=f"{name} must be a number from 0 to 1, got {value!r}"):
        Dials(**{name: value})


@pytest.mark.parametrize("value", [0, 0.9, float("nan"), float("inf"), "5", None])
def test_a_class_ratio_out_of_range(value):
    with pytest.raises(ValueError, match=f"class_ratio must be a number from 1 on, got {value!r}"):
        Dials(class_ratio=value)


@given(st.floats(1, 1000), st.integers(2, 20))
def test_shares_of_classes_fall_by_the_same_factor(ratio, num_classes):
    shares = np.array(Dials(class_ratio=ratio).class_shares(num_classes))
    assert shares.sum() == pytest.approx(1)
    assert shares[0] / shares[-1] == pytest.approx(ratio)
    np.testing.assert_allclose(shares[1:] / shares[:-1], ratio ** (-1 / (num_classes - 1)))


@pytest.mark.parametrize("ratio", [5, 20, 50])
def test_objects_of_each_class_are_as_frequent_as_wanted(ratio):
    """As far as chance allows: a worse fit has a probability of a hundredth."""
    dials = Dials(class_ratio=ratio)
    counts = np.zeros(len(shape_images.CLASS_NAMES))
    for k in range(300):
        rng = np.random.default_rng(k)
        for shape in shape_images.place_shapes(rng, _SIZE, dials).objects:
            counts[shape.category_id - 1] += 1
    expected = counts.sum() * np.array(dials.class_shares(len(counts)))
    assert scipy.stats.chisquare(counts, expected).pvalue > 0.01


def test_the_ratio_of_classes_changes_training_images_only(tmp_path):
    folders = {ratio: tmp_path / str(ratio) for ratio in (1, 50)}
    for ratio, folder in folders.items():
        make_shapes(folder, 12, 6, 64, report=str, dials=Dials(class_ratio=ratio))
    even, rare = (_files(folder) for folder in folders.values())
    for split, is_same in (("val", True), ("train", False)):
        names = [name for name in even if name.startswith(f"images/{split}")]
        assert names and ([even[name] for name in names] == [rare[name] for name in names]) == (
            is_same
        )
    annotations = [json.loads(files["annotations/instances_val.json"]) for files in (even, rare)]
    assert annotations[0]["annotations"] == annotations[1]["annotations"]
    assert annotations[1]["info"]["shapes"]["class_ratio"] == 50


@_EXAMPLES
@given(_SEEDS)
def test_equally_frequent_classes_are_those_of_the_plain_data_set(seed):
    _, before = shape_images.draw_image(seed, _SIZE, AT_ZERO)
    _, after = shape_images.draw_image(seed, _SIZE, Dials(class_ratio=1))
    assert _boxes(after.objects) == _boxes(before.objects)


@pytest.mark.parametrize(("ratio", "num_streams"), [(1, 0), (5, 1)])
def test_only_rare_classes_need_a_stream_of_their_own(ratio, num_streams):
    rng = np.random.default_rng(0)
    shape_images.place_shapes(rng, _SIZE, Dials(class_ratio=ratio))
    assert rng.bit_generator.seed_seq.n_children_spawned == num_streams


def test_names_of_folders():
    plain = shapes.folder_name(1024, 128, 128)
    assert plain == f"shapes-1024-128-128px-v{shapes._DRAWING_VERSION}"
    assert shapes.folder_name(1024, 128, 128, Dials(size_spread=0)) == plain
    assert shapes.folder_name(1024, 128, 128, Dials(class_ratio=5)) == f"{plain}-class_ratio-5.0"
    turned = Dials(look_alikes=1, size_spread=0.25)
    assert shapes.folder_name(1024, 128, 128, turned) == f"{plain}-look_alikes-1.0-size_spread-0.25"
