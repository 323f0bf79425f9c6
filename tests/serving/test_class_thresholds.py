"""A score threshold for each class, in the exported graph; and answers without padding."""

import json
import pathlib

import numpy as np
import pytest

from libra_tf.api.detector import Detector
from libra_tf.cli.errors import UsageError
from libra_tf.inference import local
from libra_tf.serving import class_thresholds, saved_model
from tests.detectors import MAX_PIXELS, assert_same, copy_run, encode, filtered

pytestmark = pytest.mark.one_lane

only_retinanet = pytest.mark.parametrize("exported", ["retinanet"], indirect=True)
NAMES = {1: "person", 2: "dog, hot", 3: "a=b", 7: "7", 8: "3", 9: "twin", 10: "twin"}
FILES = [encode(64, 64), encode(40, 90, "PNG", seed=1), encode(1, 300), encode(50, 50, seed=3)]
# Of the run, and a lower one for some classes.
GENERAL, LOWER = 0.05, 0.02


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("person=0.42", {1: 0.42}),
        ("person=0, a=b=1", {1: 0.0, 3: 1.0}),
        ("1=0.5,2=0.25", {1: 0.5, 2: 0.25}),
        # A class that is called 3 comes before the class whose id is 3.
        ("3=0.5", {8: 0.5}),
        ("twin=0.5", {9: 0.5, 10: 0.5}),
    ],
)
def test_what_the_flag_says(text, expected):
    assert class_thresholds.by_category(class_thresholds.read(text), NAMES) == expected


def test_a_file_takes_any_name(tmp_path):
    path = tmp_path / "thresholds.json"
    path.write_text('{"dog, hot": 0.25, "1": 1}')
    found = class_thresholds.by_category(class_thresholds.read(str(path)), NAMES)
    assert found == {2: 0.25, 1: 1.0}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("person", r"'person' is not CLASS=NUMBER; give CLASS=NUMBER"),
        ("person=0.4,", "'' is not CLASS=NUMBER"),
        ("=0.4", "'=0.4' is not CLASS=NUMBER"),
        ("person=much", "person=much must be a number from 0 to 1"),
        ("person=1.01", "person=1.01 must be a number from 0 to 1"),
        ("person=-0.1", "person=-0.1 must be"),
        ("person=nan", "person=nan must be"),
        ("person=0.1,person=0.2", "gives person twice"),
        ("1=0.1,person=0.2", r"gives class 1 \(person\) twice"),
        ("persn=0.4", r"has no class persn\. Did you mean person\? Its classes: person, dog, hot"),
        ("11=0.4", "has no class 11"),
        ("nowhere.json", "cannot be read as JSON .No such file"),
        ("TEXT.json", "cannot be read as JSON .Expecting value"),
        ("LIST.json", r"LIST\.json holds no thresholds; give CLASS=NUMBER"),
        ("WRONG.json", "person=high must be a number"),
        ("TWICE.json", r"^--score_thresholds=TWICE\.json gives person twice; give it once$"),
        ("BOOL.json", "person=True must be a number"),
    ],
)
def test_what_is_refused(text, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pathlib.Path("TEXT.json").write_text("person")
    pathlib.Path("LIST.json").write_text("[0.4]")
    pathlib.Path("WRONG.json").write_text('{"person": "high"}')
    pathlib.Path("TWICE.json").write_text('{"person": 0.1, "dog, hot": 0.2, "person": 0.3}')
    pathlib.Path("BOOL.json").write_text('{"person": true}')
    with pytest.raises(UsageError, match=message) as error:
        class_thresholds.by_category(class_thresholds.read(text), NAMES)
    assert str(error.value).startswith("--score_thresholds") and "\n" not in str(error.value)


@pytest.mark.parametrize("key", [True, 1.0, None, (1,)])
def test_keys_that_are_no_class(key):
    with pytest.raises(UsageError, match="is no class; give its name or its category id"):
        class_thresholds.check_numbers({key: 0.5})


def test_an_id_may_be_numpys():
    thresholds = {np.int64(1): 0.5}
    class_thresholds.check_numbers(thresholds)
    assert class_thresholds.by_category(thresholds, NAMES) == {1: 0.5}


def choose(outputs, lowest):
    """By id: one in the widest gap among scores, the lowest, one that nothing reaches, general."""
    classes, scores = outputs["detection_classes"], outputs["detection_scores"]
    frequent, second, third, last = 1 + np.argsort(
        -np.bincount(classes[classes > 0], minlength=5)[1:]
    )
    # Where rounding decides nothing.
    ascending = np.sort(scores[classes == frequent])
    middle = ascending[len(ascending) // 4 : -len(ascending) // 4]
    gap = int(np.argmax(np.diff(middle)))
    within = float(middle[gap] + middle[gap + 1]) / 2
    return {int(frequent): within, int(second): lowest, int(third): 1.0, int(last): GENERAL}


def assert_filtered(found, everything, thresholds):
    """Compares outputs with those that are left of everything, which may have more rows."""
    expected = filtered(everything, thresholds)
    counts, num_rows = expected["num_detections"], found["detection_scores"].shape[1]
    assert 10 < counts.sum() < everything["num_detections"].sum()
    for name, values in expected.items():
        if name.startswith("detection_"):
            expected[name] = values[:, :num_rows]
    assert assert_same(found, expected) > 5
    for image, count in enumerate(counts):
        for name in ("boxes", "scores", "classes"):
            assert not found[f"detection_{name}"][image, count:].any()
        assert set(found["detection_class_names"][image, count:]) <= {""}
    return counts


@only_retinanet
@pytest.mark.slow
def test_in_a_saved_model_whose_answers_are_trimmed(exported, tmp_path):
    everything = local.open_detector(exported.folder).predict(FILES)
    thresholds = choose(everything, GENERAL)
    names = {1: "circle", 2: "square", 3: "triangle", 4: "star"}
    folder = saved_model.export(
        exported.model_dir,
        str(tmp_path),
        max_pixels=MAX_PIXELS,
        report=str,
        score_thresholds={names[category]: score for category, score in thresholds.items()},
        trim_padding=True,
    )
    detector = local.open_detector(folder)
    found = detector.predict(FILES)
    counts = assert_filtered(found, everything, thresholds)
    assert len(set(counts)) > 1
    assert found["detection_boxes"].shape == (len(FILES), max(counts), 4)
    for file, count in zip(FILES, counts, strict=True):
        outputs = detector.predict([file])
        assert outputs["num_detections"] == count
        for name in ("boxes", "scores", "classes", "class_names"):
            assert outputs[f"detection_{name}"].shape[:2] == (1, count)
    document = json.loads(pathlib.Path(folder, "assets/thresholds.json").read_text())
    assert document["score_thresholds"] == {str(key): thresholds[key] for key in sorted(thresholds)}


@pytest.mark.slow
def test_a_class_may_have_less_than_the_run(exported, tmp_path):
    model_dir = copy_run(exported.model_dir, tmp_path / "run", pre_nms_score_threshold=LOWER)
    everything = local.open_detector(model_dir).predict(FILES)
    thresholds = choose(everything, LOWER)
    # Between the scores, so that the general threshold alone would leave some out.
    scores = everything["detection_scores"]
    general = float(np.median(scores[scores > 0]))
    strict = copy_run(exported.model_dir, tmp_path / "strict", pre_nms_score_threshold=general)
    folder = saved_model.export(
        strict, str(tmp_path / "served"), report=str, score_thresholds=thresholds
    )
    found = local.open_detector(folder).predict(FILES)
    assert_filtered(found, everything, thresholds)
    assert found["detection_scores"].shape == everything["detection_scores"].shape
    scores = found["detection_scores"]
    assert ((scores > 0) & (scores < general)).any()


@only_retinanet
def test_python_names_its_argument(exported, tmp_path):
    # `libra_tf.load` would open it first.
    detector = Detector(exported.model_dir)
    for thresholds, message in (
        ({"cirle": 0.5}, r"^score_thresholds: .* no class cirle\. Did you mean circle\?"),
        ({"circle": 2}, "^score_thresholds: circle=2 must be a number from 0 to 1"),
        ({5: 0.5}, "has no class 5. Its classes: circle, square, triangle, star"),
    ):
        with pytest.raises(UsageError, match=message):
            detector.export(tmp_path / "served", score_thresholds=thresholds)
    assert not list(tmp_path.iterdir())
