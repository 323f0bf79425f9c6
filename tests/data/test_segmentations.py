"""Masks of annotations: checked, clipped, drawn; and whatever a file may hold instead."""

import array
import copy
import json
import pathlib

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st
from official.vision.dataloaders import tf_example_decoder
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from libra_tf.data import DatasetError, annotations, prepare_coco_folder, segmentations
from libra_tf.data.problems import FindingLog

pytestmark = pytest.mark.one_lane

WIDTH, HEIGHT = 40, 30
TRIANGLE = [2.0, 3, 20, 5.5, 8, 28]
NEED = "libra_maskrcnn_small needs them: use libra_fasterrcnn_small"


def drawn_by_pycocotools(polygon, width=WIDTH, height=HEIGHT):
    return coco_mask.decode(coco_mask.frPyObjects([polygon], height, width))[..., 0]


def decoded(segmentation):
    png = segmentations.encode_png(segmentation, WIDTH, HEIGHT)
    return tf.io.decode_png(png).numpy()[..., 0]


def random_mask(seed):
    rng = np.random.default_rng(seed)
    return rng.random([HEIGHT, WIDTH]) < rng.choice([0.0, 0.02, 0.5, 0.99, 1.0])


def runs_of(mask):
    """Counts the runs down the columns, written independently of pycocotools."""
    counts, value = [0], False
    for pixel in mask.ravel(order="F").tolist():
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    return {"size": [HEIGHT, WIDTH], "counts": counts}


@pytest.mark.parametrize("seed", range(8))
def test_both_run_length_encodings_of_a_mask(seed):
    mask = random_mask(seed)
    for encoded in (runs_of(mask), segmentations.compress(mask)):
        json.dumps(encoded)
        assert segmentations.complaint_about_segmentation(encoded) is None
        assert segmentations.clip_segmentation(encoded, WIDTH, HEIGHT) is encoded
        np.testing.assert_array_equal(decoded(encoded), mask)
        assert segmentations.area(encoded, WIDTH, HEIGHT) == mask.sum()


@hypothesis.settings(deadline=None, max_examples=50)
@hypothesis.given(st.integers(0, 2**32 - 1), st.integers(1, 300), st.integers(1, 300))
def test_compressed_text_is_read_as_pycocotools_reads_it(seed, height, width):
    mask = np.random.default_rng(seed).random([height, width]) < 0.3
    encoded = segmentations.compress(mask)
    assert segmentations.complaint_about_segmentation(encoded) is None
    # One pixel more or less does not fit any longer.
    assert segmentations.complaint_about_segmentation({**encoded, "size": [height + 1, width]})


def test_parts_of_an_object_are_one_mask():
    other = [25.0, 10, 38, 10, 38, 20, 25, 20]
    both = decoded([TRIANGLE, other])
    np.testing.assert_array_equal(
        both, drawn_by_pycocotools(TRIANGLE) | drawn_by_pycocotools(other)
    )
    assert both.sum() == segmentations.area([TRIANGLE, other], WIDTH, HEIGHT) > 200


@hypothesis.settings(deadline=None, max_examples=100)
@hypothesis.given(
    st.lists(st.tuples(st.integers(-60, 100), st.integers(-60, 90)), min_size=3, max_size=3)
)
def test_clipping_a_polygon_cuts_its_mask(points):
    """As much as a polygon on a canvas with room around the image."""
    margin = 100
    canvas = drawn_by_pycocotools(
        [float(value + margin) for point in points for value in point],
        WIDTH + 2 * margin,
        HEIGHT + 2 * margin,
    )
    expected = canvas[margin : margin + HEIGHT, margin : margin + WIDTH]
    polygon = [float(value) for point in points for value in point]
    clipped = segmentations.clip_segmentation([polygon], WIDTH, HEIGHT)
    if isinstance(clipped, list):
        assert all(0 <= x <= WIDTH for part in clipped for x in part[::2])
        assert all(0 <= y <= HEIGHT for part in clipped for y in part[1::2])
    # A cut edge may round to the other side of a pixel's centre.
    assert np.count_nonzero(decoded(clipped) != expected) <= 0.1 * expected.sum() + 8


@hypothesis.settings(deadline=None, max_examples=100)
@hypothesis.given(
    st.integers(1, 90),
    st.integers(1, 90),
    st.lists(
        st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=3, max_size=9), min_size=1
    ),
    st.sampled_from([0, 1, 2, 5]),
)
def test_polygons_are_drawn_as_pycocotools_draws_them(width, height, outlines, decimals):
    """Wherever they are, though they are drawn without the rest of the image."""
    polygons = [
        np.round(np.array(outline) * [width, height], decimals).ravel().tolist()
        for outline in outlines
    ]
    expected = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, height, width)))
    png = tf.io.decode_png(segmentations.encode_png(polygons, width, height), channels=1)
    assert png.shape == (height, width, 1)
    # On an edge between two points, a tie may round to either side.
    assert np.count_nonzero(png[..., 0] != expected) <= 2 * len(polygons)


@hypothesis.settings(deadline=None, max_examples=50)
@hypothesis.given(st.lists(st.lists(st.floats(0, HEIGHT), min_size=6, max_size=6), min_size=1))
def test_polygons_are_packed_without_loss(polygons):
    text = json.dumps({"id": 1, "segmentation": polygons})
    packed = json.loads(text, object_hook=segmentations.pack)
    assert all(type(polygon) is array.array for polygon in packed["segmentation"])
    assert json.dumps(packed, default=list) == text
    assert segmentations.complaint_about_segmentation(packed["segmentation"]) is None
    np.testing.assert_array_equal(decoded(packed["segmentation"]), decoded(polygons))
    area = segmentations.area(packed["segmentation"], WIDTH, HEIGHT)
    assert area == segmentations.area(polygons, WIDTH, HEIGHT)


def test_coordinates_far_away_cost_nothing():
    """pycocotools takes memory in proportion to the length of the outline."""
    far = [[-9e8, 5.0, 9e8, 5.0, 20.0, 9e8]]
    assert segmentations.complaint_about_segmentation(far) is None
    mask = decoded(segmentations.clip_segmentation(far, WIDTH, HEIGHT))
    assert mask[5:].all() and not mask[:5].any()


@pytest.mark.parametrize("value", [None, [], [[]], [[], []]])
def test_what_tools_write_for_no_mask(value):
    assert not segmentations.is_given(value)


POLYGONS = "segmentation must be a list of polygons"
POINTS = "x and y in turn of at least 3 points, as finite numbers"
SIZE = r"size of a run-length encoded segmentation must be \[height, width\]"
COUNTS = "counts of a run-length encoded segmentation must be lengths of runs that add up"
WRONG = [
    (TRIANGLE, POLYGONS),
    ("triangle", POLYGONS),
    (5, POLYGONS),
    ([{"x": 1}], POLYGONS),
    ([TRIANGLE, []], POINTS),
    ([TRIANGLE[:4]], POINTS),
    ([[*TRIANGLE, 7]], POINTS),
    ([[*TRIANGLE[:5], "28"]], POINTS),
    ([[*TRIANGLE[:5], True]], POINTS),
    ([[*TRIANGLE[:5], None]], POINTS),
    ([[*TRIANGLE[:5], float("nan")]], POINTS),
    ([[*TRIANGLE[:5], 1e300]], POINTS),
    ([[*TRIANGLE[:5], 10**400]], POINTS),
    ({}, SIZE),
    ({"counts": [1200]}, SIZE),
    ({"size": [30], "counts": [1200]}, SIZE),
    ({"size": [30, -40], "counts": [1200]}, SIZE),
    ({"size": [30.0, 40.0], "counts": [1200]}, SIZE),
    ({"size": [30, 40]}, COUNTS),
    ({"size": [30, 40], "counts": []}, COUNTS),
    ({"size": [30, 40], "counts": [1199]}, COUNTS),
    ({"size": [30, 40], "counts": [1300, -100]}, COUNTS),
    ({"size": [30, 40], "counts": [600.0, 600.0]}, COUNTS),
    ({"size": [30, 40], "counts": ""}, COUNTS),
    # The text goes on where it ends, holds what is not of its alphabet, and never ends a number.
    ({"size": [30, 40], "counts": "PPP"}, COUNTS),
    ({"size": [30, 40], "counts": "ü!"}, COUNTS),
    ({"size": [30, 40], "counts": "o" * 100_000}, COUNTS),
    ({"size": [40, 30], "counts": [1200]}, r"differs from its image's: give it as \[height, width"),
]


@pytest.mark.parametrize(("value", "message"), WRONG)
def test_a_wrong_segmentation_is_named(coco_folder, tmp_path, value, message):
    coco_folder.coco["train"]["annotations"][0]["segmentation"] = value
    coco_folder.write()
    with pytest.raises(DatasetError, match=f"has no segmentations(.|\n)*{message}") as error:
        prepare_coco_folder(coco_folder.path, tmp_path / "cache", str, NEED)
    assert "instances_train.json: annotation" in str(error.value)
    assert str(error.value).count("\n- ") == 1
    # A detector of boxes does not need it.
    dataset = prepare_coco_folder(coco_folder.path, tmp_path / "cache", report=str)
    assert any("left out" in issue and "annotation" in issue for issue in dataset.issues)


def with_masks(coco_folder):
    """Gives all annotations masks: polygons, and both kinds of run-length encoding."""
    crowd = random_mask(2)
    for coco in coco_folder.coco.values():
        cat, dog, many = coco["annotations"]
        cat["segmentation"] = [TRIANGLE, [30.0, 10, 50, 10, 50, 20]]
        dog["segmentation"] = segmentations.compress(random_mask(5))
        many["segmentation"] = runs_of(crowd)
    coco_folder.write()


def test_masks_reach_the_records_and_the_evaluation(coco_folder, tmp_path):
    with_masks(coco_folder)
    dataset = prepare_coco_folder(coco_folder.path, tmp_path / "cache", str, NEED)
    (issue,) = [text for text in dataset.issues if "segmentation" in text]
    assert "extend beyond their image, clipped (2)" in issue
    decoder = tf_example_decoder.TfExampleDecoder(include_mask=True)
    for split in (dataset.train, dataset.val):
        assert split.num_masks == split.num_boxes == 3
        truth = COCO(split.annotation_file)
        records = tf.data.TFRecordDataset(tf.io.gfile.glob(split.input_path))
        num_masks = 0
        for example in map(decoder.decode, records):
            entries = truth.imgToAnns[int(example["source_id"].numpy())]
            masks = example["groundtruth_instance_masks"].numpy()
            assert masks.shape == (len(entries), HEIGHT, WIDTH)
            for entry, mask in zip(entries, masks, strict=True):
                np.testing.assert_array_equal(mask, truth.annToMask(entry))
                num_masks += 1
        assert num_masks == 3
        # An area that is not given is that of the mask.
        cat = truth.anns[1]
        assert cat["area"] == pytest.approx(truth.annToMask(cat).sum())


def test_a_mask_outside_its_image(coco_folder, tmp_path):
    with_masks(coco_folder)
    cat = coco_folder.coco["train"]["annotations"][0]
    cat["segmentation"] = [[50.0, 5, 60, 5, 60, 15]]
    coco_folder.write()
    dataset = prepare_coco_folder(coco_folder.path, tmp_path / "cache", str, NEED)
    (issue,) = [text for text in dataset.issues if "entirely outside" in text]
    assert "annotation 1 of a.jpg" in issue
    truth = COCO(dataset.train.annotation_file)
    assert truth.annToMask(truth.anns[1]).shape == (HEIGHT, WIDTH)
    assert not truth.annToMask(truth.anns[1]).any()


def test_a_folder_without_masks(coco_folder, tmp_path):
    """Refused before anything is converted, and from the cache."""
    cache = tmp_path / "cache"
    with pytest.raises(DatasetError, match=f"{coco_folder.path} has no segmentations, and {NEED}"):
        prepare_coco_folder(coco_folder.path, cache, str, NEED)
    assert not list((cache / "entries").iterdir())
    assert prepare_coco_folder(coco_folder.path, cache, str).train.num_masks == 0
    with pytest.raises(DatasetError, match="has no segmentations"):
        prepare_coco_folder(coco_folder.path, cache, str, NEED)


def test_a_folder_with_some_masks(coco_folder, tmp_path):
    with_masks(coco_folder)
    coco_folder.coco["val"]["annotations"][1]["segmentation"] = []
    coco_folder.write()
    message = rf"segmentations for 5 of 6 boxes only, and {NEED}(.|\n)*val.json: annotation 2"
    with pytest.raises(DatasetError, match=message):
        prepare_coco_folder(coco_folder.path, tmp_path / "cache", str, NEED)
    dataset = prepare_coco_folder(coco_folder.path, tmp_path / "cache", str)
    assert any("without a segmentation" in issue for issue in dataset.issues)
    with pytest.raises(DatasetError, match=message):
        prepare_coco_folder(coco_folder.path, tmp_path / "cache", str, NEED)


def test_only_a_folder_with_masks_gets_another_key(coco_folder, tmp_path, monkeypatch):
    """What was converted before there were masks is found again."""

    def entry():
        dataset = prepare_coco_folder(coco_folder.path, tmp_path / "cache", str)
        return pathlib.Path(dataset.train.annotation_file).parent.name

    boxes = entry()
    with_masks(coco_folder)
    masks = entry()
    monkeypatch.setattr("libra_tf.data.coco_folder._MASKS_VERSION", 0)
    assert len({boxes, masks, entry()}) == 3
    for coco in coco_folder.coco.values():
        for annotation in coco["annotations"]:
            del annotation["segmentation"]
    coco_folder.write()
    assert entry() == boxes


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**30), 10**30),
    st.floats(),
    st.text(max_size=5),
    st.just([]),
    st.just({}),
    st.lists(st.integers(-5, 2000), max_size=5),
)
VALID = st.sampled_from(
    [
        [TRIANGLE],
        [TRIANGLE, [25.0, 10, 38, 10, 38, 20]],
        runs_of(random_mask(2)),
        segmentations.compress(random_mask(2)),
    ]
)


def mutate(draw, value):
    """Changes one place in a JSON value."""
    is_parent = isinstance(value, (list, dict)) and bool(value)
    if not is_parent or draw(st.integers(0, 5)) == 0:
        if isinstance(value, str) and draw(st.booleans()):
            at = draw(st.integers(0, len(value)))
            return value[:at] + draw(st.text(max_size=3)) + value[at + draw(st.integers(0, 3)) :]
        return draw(JUNK)
    keys = list(value) if isinstance(value, dict) else range(len(value))
    key, action = draw(st.sampled_from(keys)), draw(st.integers(0, 4))
    if action == 0:
        del value[key]
    elif action == 1 and isinstance(value, list):
        value.insert(key, draw(JUNK))
    else:
        value[key] = mutate(draw, value[key])
    return value


@st.composite
def mutated(draw):
    value = copy.deepcopy(draw(VALID))
    for _ in range(draw(st.integers(1, 3))):
        value = mutate(draw, value)
    return value


def assert_refused_or_clean(path, segmentation):
    entry = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5]}
    path.write_text(
        json.dumps(
            {
                "images": [{"id": 1, "file_name": "a.jpg", "width": WIDTH, "height": HEIGHT}],
                "categories": [{"id": 1, "name": "cat"}],
                "annotations": [{**entry, "segmentation": segmentation}],
            }
        )
    )
    problems = FindingLog()
    file = annotations.read_annotation_file(path, problems)
    assert not problems.by_kind
    issues = FindingLog()
    (cleaned,) = annotations.clip_annotations(file, issues)
    # Polygons are arrays.
    json.dumps(cleaned, allow_nan=False, default=list)
    if "segmentation" in cleaned:
        mask = decoded(cleaned["segmentation"])
        assert mask.shape == (HEIGHT, WIDTH) and set(np.unique(mask)) <= {0, 1}
        assert cleaned["area"] > 0
    else:
        assert issues.by_kind or not segmentations.is_given(segmentation)


@pytest.fixture(scope="module")
def annotation_path(tmp_path_factory):
    return tmp_path_factory.mktemp("mutated") / "instances_train.json"


@hypothesis.settings(deadline=None, max_examples=300)
@hypothesis.given(segmentation=mutated())
def test_mutated_segmentations(annotation_path, segmentation):
    assert_refused_or_clean(annotation_path, segmentation)


@pytest.mark.slow
@hypothesis.settings(deadline=None, max_examples=1000)
@hypothesis.given(segmentation=mutated())
def test_many_mutated_segmentations(annotation_path, segmentation):
    assert_refused_or_clean(annotation_path, segmentation)
