"""The report on two runs, as a user gets it."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest
import tensorflow as tf
from pycocotools.coco import COCO

from libra_tf.analysis import collect, detectors, page, report, verdicts
from libra_tf.cli.errors import UsageError
from libra_tf.runs import trained_run
from tests import browser
from tests.analysis.runs import check_lines

pytestmark = pytest.mark.one_lane

ROOT = pathlib.Path(__file__).resolve().parents[2]


def test_all_levels_are_measured(report_of_both):
    retinanet, plain = report_of_both.runs
    assert retinanet["num_images"] == plain["num_images"] == 8
    assert list(retinanet["samples"]) == ["anchors"]
    assert list(plain["samples"]) == ["proposals", "rpn_anchors"]
    assert sum(retinanet["features"]["share"]) == pytest.approx(1)
    assert set(retinanet["objective"]["gradient_norms"]) == {"cls", "box"}
    assert set(plain["objective"]["gradient_norms"]) == {
        "rpn_score",
        "rpn_box",
        "frcnn_cls",
        "frcnn_box",
    }
    for run in report_of_both.runs:
        assert {v["level"] for v in run["verdicts"]} == {
            "samples",
            "features",
            "objective",
            "classes",
        }


def test_objects_of_each_class_are_those_of_the_annotations(report_of_both, tiny_shapes):
    coco = COCO(tiny_shapes.train.annotation_file)
    for run in report_of_both.runs:
        by_class = run["classes"]["by_class"]
        assert {name: (row["objects"], row["images"]) for name, row in by_class.items()} == {
            category["name"]: (
                len(coco.getAnnIds(catIds=[key])),
                len(coco.getImgIds(catIds=[key])),
            )
            for key, category in coco.cats.items()
        }
        numbers = [row["objects"] for row in by_class.values()]
        assert numbers == sorted(numbers) and sum(numbers) == run["classes"]["num_objects"]


def test_positives_of_all_classes_are_all_positives(report_of_both):
    retinanet, plain = report_of_both.runs
    for run in (retinanet, plain):
        rows = run["classes"]["by_class"].values()
        for kind, measured in run["samples"].items():
            positives = measured["positives"]["per_image"] * run["num_images"]
            assert sum(row["positives"][kind] for row in rows) == pytest.approx(positives)
        assert sum(row["gradient_share"] for row in rows) == pytest.approx(1, abs=1e-5)
        assert all(row["positive_over_negative"] > 0 for row in rows if row["objects"])
    rows = plain["classes"]["by_class"].values()
    # A quarter of 64 RoIs at most, from each of 8 images.
    assert 0 < sum(row["sampled"] for row in rows) <= 16 * 8
    assert all(row["sampled"] is None for row in retinanet["classes"]["by_class"].values())


def test_anchors_are_those_of_the_pyramid(report_of_both):
    retinanet, _ = report_of_both.runs
    anchors = retinanet["samples"]["anchors"]
    # 64x64 pixels, strides 4, 8 and 16, 3 ratios of 2 scales each, 8 images.
    for level, stride in (("2", 4), ("3", 8), ("4", 16)):
        expected = (64 // stride) ** 2 * 6 * 8
        assert anchors["by_level"][level]["candidates"]["count"] == expected
    by_class = sum(of["candidates"]["count"] for of in anchors["by_class"].values())
    assert by_class == anchors["picks"]["candidates"]["count"]


def test_a_plain_pyramid_has_no_after(report_of_both):
    retinanet, plain = report_of_both.runs
    assert "after" not in plain["features"] and plain["features"]["attention"] is None
    assert retinanet["features"]["refinement_change"] > 0
    assert 0 < retinanet["features"]["attention"]["entropy"] <= 1


@pytest.mark.slow
def test_a_report_comes_out_the_same_again(report_of_both):
    run = trained_run.read(report_of_both.model_dirs[1])
    first = report_of_both.runs[1]
    again = collect.analyse(
        run,
        trained_run.read(report_of_both.model_dirs[0]).params.task.train_data.input_path,
        2,
        report=str,
    ).numbers
    assert again["samples"] == first["samples"]
    assert again["features"] == first["features"]


def test_config_lines_are_accepted_by_the_runs(report_of_both):
    for run, folder in zip(report_of_both.runs, report_of_both.model_dirs, strict=True):
        lines = [line for verdict in run["verdicts"] for line in verdict["config"]]
        assert lines
        check_lines(trained_run.read(folder).params, lines)


@browser.needs_chromium
@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1280, "light")])
def test_the_page_in_a_browser(report_of_both, tmp_path, width, scheme):
    html = pathlib.Path(report_of_both.page).read_text()
    assert "<script" not in html
    browser.check_page(html, tmp_path, width, scheme)


@browser.needs_chromium
def test_the_browser_would_complain(tmp_path):
    """That the console is empty means something."""
    bad = tmp_path / "bad.html"
    bad.write_text("<script>nonsense()</script>")
    _, console = browser.open_in_chromium(bad, tmp_path)
    assert any("nonsense" in line for line in console)


def run_program(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "libra_tf.analysis", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model_dir=nowhere"], ["--model_dir=nowhere", "no such folder"]),
        (["--model_dir=.", "--compare=nowhere"], ["--compare=nowhere", "no such folder"]),
        (["--model_dir=.", "--dataset=nowhere"], ["--dataset=nowhere", "no such folder"]),
        (["--model_dir=.", "--point=2,x"], ["--point=2,x", "from 0 to 1"]),
    ],
)
def test_bad_flags_are_answered_at_once(arguments, words):
    result = run_program(*arguments)
    assert result.returncode == 2
    assert "importing TensorFlow" not in result.stdout
    (line,) = result.stderr.splitlines()
    assert all(word in line for word in words)


def test_folders_that_cannot_be_reported_on(report_of_both, tmp_path, tiny_shapes):
    good = report_of_both.model_dirs[0]
    with pytest.raises(UsageError, match=r"params\.yaml"):
        report.write([str(tmp_path)], str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    with pytest.raises(UsageError, match="ckpt-7"):
        report.write([good], str(tmp_path / "out"), checkpoint="ckpt-7")
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="output_dir"):
        report.write([good], str(tmp_path / "file"))
    shutil.copytree(good, tmp_path / "moved")
    config = tmp_path / "moved" / "params.yaml"
    config.write_text(config.read_text().replace(tiny_shapes.train.input_path, "/gone/*"))
    with pytest.raises(UsageError, match="--dataset"):
        report.write([str(tmp_path / "moved")], str(tmp_path / "out"), report=str)
    (tmp_path / "moved" / "results.json").write_text('{"AP": 0.')
    with pytest.raises(UsageError, match=r"moved/results\.json is damaged"):
        report.write([str(tmp_path / "moved")], str(tmp_path / "out"), report=str)


def test_a_remote_run(report_of_both, tmp_path, monkeypatch):
    """TensorFlow's file system in memory stands for one in a cloud."""
    remote = "ram://bucket/runs/cells"
    tf.io.gfile.makedirs(remote)
    for path in pathlib.Path(report_of_both.model_dirs[0]).iterdir():
        tf.io.gfile.copy(str(path), f"{remote}/{path.name}")
    newest = {"step": 9, "AP": 0.25, "AP50": 0.5, "APs": 0.1}
    with tf.io.gfile.GFile(f"{remote}/results.json", "w") as file:
        file.write(json.dumps({**newest, "evaluations": [newest]}))

    def analyse(run, *_):
        assert run.checkpoint == f"{remote}/ckpt-1"
        return collect.Analysis(report_of_both.runs[0], [], None)

    monkeypatch.setattr(collect, "analyse", analyse)
    monkeypatch.chdir(tmp_path)
    html, numbers = report.write([remote], f"{remote}/analysis")
    assert html == f"{remote}/analysis/report.html"
    assert numbers == f"{remote}/analysis/report.json"
    assert sorted(tf.io.gfile.listdir(f"{remote}/analysis")) == ["report.html", "report.json"]
    # Such as a folder called "ram:".
    assert not list(tmp_path.iterdir())
    with tf.io.gfile.GFile(numbers) as file:
        (run,) = json.load(file)["runs"]
    assert run["measured_by_evaluation"] == {"step": 9, "AP": 0.25, "AP50": 0.5}
    with tf.io.gfile.GFile(html) as file:
        assert "Its evaluation at step 9 measured AP 0.250, AP50 0.500." in file.read()


def test_names_of_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert report._names(["runs/a", "gs://bucket/b/"]) == ["a", "b"]
    assert report._names(["runs/a", "gs://bucket/a/"]) == [f"{tmp_path}/runs/a", "gs://bucket/a"]


def test_classes_that_are_not_the_same(report_of_both, tmp_path):
    good, other = report_of_both.model_dirs[0], tmp_path / "other"
    shutil.copytree(report_of_both.model_dirs[1], other)
    names = trained_run.read(good).read_class_names()
    (other / "class_names.json").write_text(json.dumps({**names, 2: "cow"}))
    with pytest.raises(UsageError, match=r"class 2 is '.*' in .* and 'cow' in .*other"):
        report.write([good, str(other)], str(tmp_path / "out"))


def test_the_run_itself_says_how_its_rpn_samples(report_of_both, tmp_path):
    sampler = {
        "type": "iou_balanced",
        "bin_range": "all",
        "max_negatives_per_positive": 2,
        "num_bins": 4,
    }
    run = trained_run.read(report_of_both.model_dirs[1])
    run.params.task.model.override({"rpn_sampler": sampler})
    settings = collect._settings(run)
    assert verdicts.current_sampling("rpn_anchors", settings) == "mmdet"
    assert verdicts.current_sampling("proposals", settings) == "random"
    assert settings["task.model.rpn_sampler.num_bins"] == 4
    assert detectors.load(run).quotas["rpn_anchors"].max_negatives_per_positive == 2


def test_the_json_is_strict(report_of_both, tmp_path):
    path = os.path.join(os.path.dirname(report_of_both.page), "report.json")

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    with open(path) as file:
        content = json.load(file, parse_constant=refuse)
    assert content["format"] == 1
    analysis = collect.Analysis({**report_of_both.runs[0], "step": float("nan")}, [], None)
    with pytest.raises(ValueError, match="JSON compliant"):
        report._write_files(str(tmp_path), [page.Run("nan", analysis, [], {}, None)])
    assert not list(tmp_path.iterdir())
