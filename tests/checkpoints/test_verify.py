"""The imported detectors compute what MMDetection has computed."""

import numpy as np
import pytest
import tensorflow as tf

from libra_tf.checkpoints import importing, mmdet, verify
from libra_tf.cli.errors import UsageError
from tests.checkpoints.names import MODELS


@pytest.mark.parametrize(
    "size", ["96x160", pytest.param("64x224", marks=pytest.mark.slow), "320x416"]
)
@pytest.mark.parametrize("name", MODELS)
def test_every_stage_is_within_tolerance(imported, golden_models, name, size):
    detector = imported[name]
    numbers = verify.read(str(golden_models / f"{name}_{size}.npz"))
    verify.check(name, numbers, detector.model)
    comparisons = list(verify.compare(detector.model, numbers, detector.category_ids))
    compared = {comparison.stage for comparison in comparisons}
    assert set(numbers) - compared == {"input"}
    assert all(c.is_within for c in comparisons), verify.table(name, comparisons)


@pytest.mark.slow
def test_called_as_any_detector(imported, golden_models):
    with np.load(golden_models / "libra_retinanet_r50_96x160.npz") as file:
        numbers = dict(file)
    model = imported["libra_retinanet_r50"].model
    outputs = tf.function(model)(
        tf.constant(numbers["input"].transpose(0, 2, 3, 1)),
        image_shape=tf.constant([[96.0, 160.0]]),
        training=False,
    )
    assert int(outputs["num_detections"][0]) == 100
    np.testing.assert_allclose(outputs["detection_scores"][0], numbers["det_scores"], atol=1e-4)


@pytest.mark.parametrize(
    "changes",
    [
        # One comparison computes them all, and none of them changes another.
        {
            "bfp2": lambda x: x + 0.01 * np.abs(x).max(),
            "rpn_reg0": lambda x: x[:, ::-1],
            "roi_levels": lambda x: 3 - x,
            "roi_cls": lambda x: np.roll(x, 1, axis=1),
            "det_scores": lambda x: x + 2e-4,
        },
        {"proposals": lambda x: x + 0.1},
        {"det_boxes": lambda x: x[:, [1, 0, 3, 2]]},
        {"det_labels": lambda x: (x + 1) % 5},
        {"det_boxes": lambda x: x[:99]},
    ],
    ids=["values", "proposals", "sides of boxes", "labels", "number"],
)
def test_sees_what_is_wrong(imported, golden_models, changes):
    detector = imported["libra_faster_rcnn_r50"]
    numbers = verify.read(str(golden_models / "libra_faster_rcnn_r50_64x224.npz"))
    numbers = {**numbers, **{stage: change(numbers[stage]) for stage, change in changes.items()}}
    if len(numbers["det_boxes"]) == 99:
        numbers = {
            **numbers,
            **{f"det_{x}": numbers[f"det_{x}"][:99] for x in ("scores", "labels")},
        }
    comparisons = verify.compare(detector.model, numbers, detector.category_ids)
    wrong = {
        comparison.stage.split(" ")[0] for comparison in comparisons if not comparison.is_within
    }
    assert set(changes) <= wrong


def test_sees_a_wrong_order(imported, golden_models):
    detector = imported["libra_retinanet_r50"]
    numbers = dict(verify.read(str(golden_models / "libra_retinanet_r50_320x416.npz")))
    for name in ("det_boxes", "det_scores", "det_labels"):
        numbers[name] = numbers[name][::-1]
    wrong = [
        comparison.stage
        for comparison in verify.compare(detector.model, numbers, detector.category_ids)
        if not comparison.is_within
    ]
    assert wrong == ["det_boxes order"]


def test_exit_status(golden_models, tmp_path, capsys):
    checkpoint = str(golden_models / "libra_retinanet_r50.pth")
    right = golden_models / "libra_retinanet_r50_64x224.npz"
    with np.load(right) as file:
        numbers = dict(file)
    wrong = tmp_path / "wrong.npz"
    np.savez(wrong, **{**numbers, "cls3": numbers["cls3"] + 1})
    assert mmdet.main([checkpoint, "--verify", str(right), str(wrong)]) == 1
    printed = capsys.readouterr().out.splitlines()
    assert f"its config:   {golden_models / 'libra_retinanet_r50_config.txt'}" in printed
    lines = [line.split()[0] for line in printed if "OUT OF" in line]
    assert lines == ["cls3"]


INPUT, BOXES, ROWS = np.zeros([1, 3, 32, 32]), np.zeros([2, 4]), np.zeros(2)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": ROWS}, "has no `input`"),
        ({"input": INPUT}, "has only `input`"),
        ({"input": INPUT, "proposals": BOXES}, "has proposals without proposal_scores"),
        ({"input": INPUT, "det_boxes": BOXES, "det_scores": ROWS}, "without det_labels"),
        ({"input": INPUT, "roi_cls": ROWS}, "has roi_cls without proposals"),
        (
            {"input": INPUT, "proposals": BOXES, "proposal_scores": BOXES},
            r"proposals, proposal_scores of shapes \[2, 4\], \[2, 4\]; the first must be",
        ),
    ],
)
def test_files_with_other_arrays(tmp_path, arrays, message):
    path = tmp_path / "a.npz"
    np.savez(path, **arrays)
    with pytest.raises(UsageError, match=message) as raised:
        verify.read(str(path))
    assert "a.npz" in str(raised.value) and "\n" not in str(raised.value)


def test_files_that_are_not_numbers(tmp_path):
    (tmp_path / "text.npz").write_text("no numbers")
    (tmp_path / "empty.npz").write_bytes(b"")
    np.save(tmp_path / "array.npy", ROWS)
    for name, message in (
        ("text.npz", "not an .npz file"),
        ("empty.npz", "not an .npz file"),
        ("array.npy", "not an .npz file"),
        ("missing.npz", "no such file"),
    ):
        with pytest.raises(UsageError, match=message):
            verify.read(str(tmp_path / name))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["bfp0", "bpf1"], "has bpf1, which this RetinaNet does not have"),
        (["backbone3", "backbone4", "bfp5"], "has backbone4, bfp5, which"),
        (
            ["rpn_cls0", "proposals", "proposal_scores", "roi_cls"],
            "proposal_scores, proposals, roi_cls and 1 more, which",
        ),
    ],
    ids=["misspelt", "levels", "Faster R-CNN"],
)
def test_numbers_of_another_detector(imported, names, message):
    with pytest.raises(UsageError, match=rf"^--verify=a\.npz .*{message}"):
        verify.check("a.npz", dict.fromkeys(names), imported["libra_retinanet_r50"].model)


def test_numbers_of_another_detector_end_the_command(
    imported, golden_models, tmp_path, capsys, monkeypatch
):
    detector = imported["libra_retinanet_r50"]
    monkeypatch.setattr(importing, "import_from", lambda file, config: detector)
    checkpoint = str(golden_models / "libra_retinanet_r50.pth")
    numbers = str(golden_models / "libra_faster_rcnn_r50_64x224.npz")
    folder = tmp_path / "run"
    assert mmdet.main([checkpoint, f"--model_dir={folder}", "--verify", numbers]) == 2
    assert "which this RetinaNet does not have" in capsys.readouterr().err
    assert not folder.exists()
