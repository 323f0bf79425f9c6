"""The page of a run's own evaluation: its detections and the images in its TFRecords."""

import dataclasses
import io
import json
import pathlib
import re

import numpy as np
import pytest
import rich.console
import tensorflow as tf
from official.core import exp_factory
from pycocotools import coco

import libra_tf.registry_imports  # noqa: F401, registers the experiments
from libra_tf.cli.errors import UsageError
from libra_tf.cli.progress import Progress
from libra_tf.runner import evaluation_page
from libra_tf.runs.folder import RunFolder
from libra_tf.tasks import coco_metric

pytestmark = pytest.mark.one_lane

MOST = 12


@pytest.fixture
def params(tiny_shapes):
    params = exp_factory.get_exp_config("libra_retinanet_demo")
    params.task.annotation_file = tiny_shapes.val.annotation_file
    params.task.validation_data.input_path = tiny_shapes.val.input_path
    return params


@pytest.fixture(scope="module")
def evaluator(tiny_shapes):
    """Model Garden's evaluator after detections near the objects, in arrays that are not full."""
    rng = np.random.default_rng(0)
    truth = coco.COCO(tiny_shapes.val.annotation_file)
    ids = truth.getImgIds()
    boxes = np.zeros([len(ids), MOST, 4], np.float32)
    classes, scores = (np.zeros([len(ids), MOST], np.float32) for _ in range(2))
    for row, image_id in enumerate(ids):
        for column, entry in enumerate(truth.imgToAnns[image_id][:MOST]):
            x, y, width, height = entry["bbox"] + rng.normal(0, 1, 4)
            boxes[row, column] = [y, x, y + height, x + width]
            # Now and then the next class.
            category = entry["category_id"]
            classes[row, column] = category % 4 + 1 if column == 1 else category
            scores[row, column] = rng.uniform(0.3, 1)
    evaluator = coco_metric.COCOEvaluator(
        tiny_shapes.val.annotation_file, include_mask=False, need_rescale_bboxes=False
    )
    found = {"source_id": ids, "num_detections": [MOST] * len(ids)}
    found |= {"detection_boxes": boxes, "detection_classes": classes, "detection_scores": scores}
    evaluator.update_state(None, {name: tf.constant(value) for name, value in found.items()})
    return evaluator, evaluator.result()


def write(folder, params, detections, dataset=None, compare=None):
    """Returns whether there is a page, and what was said."""
    folder.mkdir(exist_ok=True)
    console = rich.console.Console(record=True, width=500, file=io.StringIO())
    run = RunFolder(str(folder))
    has_page = evaluation_page.write(
        run, params, detections, dataset, f"{run}/ckpt-7", None, compare, Progress(console)
    )
    return has_page, console.export_text()


def test_average_precision_is_that_of_the_evaluation(evaluator, params, tiny_shapes, tmp_path):
    metric, metrics = evaluator
    run = tmp_path / "run"
    run.mkdir()
    (run / "dataset.txt").write_text(f"{tiny_shapes.folder}\n")
    assert write(run, params, metric.detections, tiny_shapes)[0]
    content = json.loads((run / "evaluation.json").read_text())
    measured = content["kinds"]["bbox"]["average_precision"]["all"]
    assert 0.2 < metrics["AP"] < 0.9
    for name in ("AP", "AP50", "AP75", "APs"):
        assert measured[name] == pytest.approx(metrics[name], abs=1e-5)
    # The arrays are filled up with detections of score 0.
    found = json.loads((run / "detections.json").read_text())
    assert 0 < len(found) == content["num_detections"] < MOST * 6
    assert content["annotations"] == tiny_shapes.folder
    trained_on = json.loads(pathlib.Path(tiny_shapes.train.annotation_file).read_text())
    counts = {str(id_): 0 for id_ in tiny_shapes.class_names}
    for entry in trained_on["annotations"]:
        counts[str(entry["category_id"])] += not entry["iscrowd"]
    assert content["training_objects"] == counts
    assert "<image " in (run / "evaluation.html").read_text()


def test_the_command_of_the_page_has_the_names_of_the_run(evaluator, params, tmp_path):
    metric, _ = evaluator
    run = tmp_path / "run"
    run.mkdir()
    (run / "class_names.json").write_text('{"1": "Circle", "2": "a, b"}')
    assert write(run, params, metric.detections)[0]
    (scores,) = re.findall("--score_thresholds=(.*?)<", (run / "evaluation.html").read_text())
    assert [pair.partition("=")[0] for pair in scores.split(",")] == ["Circle", "2", "3", "4"]


def test_objects_of_other_images_are_not_those_of_the_training(
    evaluator, params, tiny_shapes, tmp_path
):
    """Neither of a folder that the run was not trained on, nor of one converted long ago."""
    metric, _ = evaluator
    old = dataclasses.replace(tiny_shapes.train, num_objects=None)
    for name, dataset in (("a", tiny_shapes), ("b", dataclasses.replace(tiny_shapes, train=old))):
        assert write(tmp_path / name, params, metric.detections, dataset)[0]
        content = json.loads((tmp_path / name / "evaluation.json").read_text())
        assert content["training_objects"] is None


def test_a_file_that_cannot_be_written_does_not_end_the_run(evaluator, params, tmp_path):
    metric, _ = evaluator
    (tmp_path / "a" / "evaluation.html").mkdir(parents=True)
    has_page, said = write(tmp_path / "a", params, metric.detections)
    assert not has_page and said.startswith(("evaluation page: ", "no evaluation page: "))
    assert "evaluation.html" in said.splitlines()[-1]


def test_images_of_compressed_records(params, tiny_shapes, val_images, tmp_path):
    records = tf.data.TFRecordDataset(sorted(tf.io.gfile.glob(tiny_shapes.val.input_path)))
    with tf.io.TFRecordWriter(str(tmp_path / "val.gz"), "GZIP") as writer:
        for record in records.as_numpy_iterator():
            writer.write(record)
    data = params.task.validation_data
    data.input_path, data.file_type = str(tmp_path / "val.gz"), "tfrecord_compressed"
    assert evaluation_page._reader(data)({2}) == {2: val_images[2]}


def test_only_the_images_to_draw_are_read(params, val_images):
    read = evaluation_page._reader(params.task.validation_data)
    assert read({2, 5}) == {id_: val_images[id_] for id_ in (2, 5)}
    assert read({2, 99}) == {2: val_images[2]}


def test_what_there_is_no_page_of_is_said(evaluator, params, tmp_path):
    metric, _ = evaluator
    assert write(tmp_path / "a", params, None) == (
        False,
        "no evaluation page: nothing was evaluated\n",
    )
    params.task.annotation_file = None
    has_page, said = write(tmp_path / "b", params, metric.detections)
    assert not has_page and "task.annotation_file is not set" in said
    (tmp_path / "bad.json").write_text("{}")
    params.task.annotation_file = str(tmp_path / "bad.json")
    has_page, said = write(tmp_path / "c", params, metric.detections)
    assert not has_page and "bad.json" in said
    assert not any(path.is_file() for name in "abc" for path in (tmp_path / name).iterdir())


def test_the_evaluation_to_compare_with_is_checked_first(evaluator, params, tiny_shapes, tmp_path):
    metric, _ = evaluator
    write(tmp_path / "run", params, metric.detections)
    evaluation_page.check_compared(str(tmp_path / "run"), params)
    write(tmp_path / "other", params, metric.detections, compare=str(tmp_path / "run"))
    content = json.loads((tmp_path / "other" / "evaluation.json").read_text())
    assert content["compared"]["kinds"]["bbox"]["differences"]["AP"]["difference"] == 0
    # What changes during a training costs the comparison, and not the page.
    (tmp_path / "run" / "detections.json").write_text("[]")
    has_page, said = write(tmp_path / "last", params, metric.detections, compare=tmp_path / "run")
    assert has_page and "without a comparison, --compare=" in said
    write(tmp_path / "run", params, metric.detections)
    params.task.annotation_file = tiny_shapes.train.annotation_file
    with pytest.raises(UsageError, match="other images, objects or classes"):
        evaluation_page.check_compared(str(tmp_path / "run"), params)
    params.task.annotation_file = None
    with pytest.raises(UsageError, match=r"needs the annotations .*task\.annotation_file"):
        evaluation_page.check_compared(str(tmp_path / "run"), params)
