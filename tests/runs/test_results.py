import io
import json

import numpy as np
import pytest
import rich.console
import tensorflow as tf

from libra_tf.cli.errors import UsageError
from libra_tf.runs import results
from libra_tf.runs.folder import RunFolder

SPEED = {"images_per_second": 3.0, "eval_seconds": 2.0, "eval_images_per_second": 5.0}


def test_every_evaluation_is_kept_over_runs(tmp_path):
    first = results.Results(RunFolder(str(tmp_path)), "libra_x", "cells", "float32")
    first.add(10, {"AP": tf.constant(0.25), "picture": np.zeros([2, 2])}, SPEED)
    second = results.Results(RunFolder(str(tmp_path)), "libra_x", "cells", "float32")
    second.add(20, {"AP": np.float32(0.5)}, {**SPEED, "images_per_second": None})
    document = json.loads((tmp_path / "results.json").read_text())
    assert [e["step"] for e in document["evaluations"]] == [10, 20]
    assert [e["AP"] for e in document["evaluations"]] == [0.25, 0.5]
    assert (document["AP"], document["step"], document["experiment"]) == (0.5, 20, "libra_x")
    assert document["images_per_second"] is None
    assert "picture" not in document["evaluations"][0]
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]


def test_two_processes_may_evaluate_a_run(tmp_path):
    first, second = (
        results.Results(RunFolder(str(tmp_path)), "libra_x", "cells", "float32") for _ in range(2)
    )
    first.add(10, {}, SPEED)
    second.add(20, {}, SPEED)
    first.add(30, {}, SPEED)
    document = json.loads((tmp_path / "results.json").read_text())
    assert [e["step"] for e in document["evaluations"]] == [10, 20, 30]
    assert first.evaluations == document["evaluations"]


def test_the_evaluation_of_a_run_is_on_its_own_images_with_its_own_config(tmp_path):
    folder = RunFolder(str(tmp_path))
    (tmp_path / "dataset.txt").write_text("/data/cells\n")
    assert results.of_run(folder, 10) == {}

    def add(ap, dataset="/data/cells", changed=None, step=10, is_of_training=False):
        record = results.Results(folder, "libra_x", dataset, "float32", changed)
        record.add(step, {"AP": ap}, SPEED, is_of_training)

    add(0.1, is_of_training=True)
    add(0.2)
    add(0.3, changed={"task.model.detection_generator.max_num_detections": 9})
    add(0.4, dataset="/data/others")
    add(0.5, step=20)
    assert results.of_run(folder, 10)["AP"] == 0.2
    assert results.of_run(folder, 20)["AP"] == 0.5
    assert results.of_run(folder, 30) == {}


def test_a_model_folder_that_only_tensorflow_can_write():
    """As on the remote file systems that TPUs need."""
    for step in (10, 20):
        results.Results(RunFolder("ram://run"), "libra_x", "cells", "float32").add(step, {}, SPEED)
    with tf.io.gfile.GFile("ram://run/results.json") as file:
        assert [e["step"] for e in json.load(file)["evaluations"]] == [10, 20]
    assert tf.io.gfile.listdir("ram://run") == ["results.json"]


@pytest.mark.parametrize("text", ["", '{"evaluations": [', "[]", '{"AP": 1}'])
def test_a_record_that_is_damaged(tmp_path, text):
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(UsageError, match=r"results\.json is damaged.*move it aside"):
        results.Results(RunFolder(str(tmp_path)), "libra_x", "cells", "float32")


def test_the_table_has_a_row_for_each_class():
    evaluation = {
        "step": 7,
        "AP": 0.5,
        "AP50": 0.75,
        "APs": -1.0,
        "Precision mAP ByCategory/star": 0.125,
        "Precision mAP ByCategory@50IoU/star": 0.25,
        "Precision mAP ByCategory/[red]cat": 0.375,
        "Precision mAP ByCategory/[/]": 0.625,
    }
    out = io.StringIO()
    rich.console.Console(file=out, width=100).print(results.table(evaluation))
    text = out.getvalue()
    rows = {line.split("│")[1].strip(): line for line in text.splitlines() if "│" in line}
    assert "0.500" in rows["all"] and "0.750" in rows["all"] and " - " in rows["all"]
    assert "0.375" in rows["[red]cat"] and "0.625" in rows["[/]"]
    assert "0.125" in rows["star"] and "0.250" in rows["star"]


def test_the_table_shows_masks_beside_boxes():
    boxes = {"step": 7, "AP": 0.5, "Precision mAP ByCategory/star": 0.125}
    masks = {"mask_AP": 0.25, "mask Precision mAP ByCategory/star": 0.75}
    rows = {}
    for name, evaluation in {"boxes": boxes, "masks": {**boxes, **masks}}.items():
        out = io.StringIO()
        rich.console.Console(file=out, width=100).print(results.table(evaluation))
        rows[name] = [line.split("│") for line in out.getvalue().splitlines() if "│" in line]
    assert "mask_AP" not in out.getvalue().replace("mask_AP", "", 1)
    assert [cell.strip() for cell in rows["boxes"][0][1:4]] == ["all", "0.500", "-"]
    assert [cell.strip() for cell in rows["masks"][0][1:4]] == ["all", "0.500", "0.250"]
    assert [cell.strip() for cell in rows["masks"][1][1:4]] == ["star", "0.125", "0.750"]
