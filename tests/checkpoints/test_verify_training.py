"""A training step of the imported detectors is MMDetection's, and mistakes are seen."""

import numpy as np
import pytest

from libra_tf.checkpoints import mmdet, training_steps, verify, verify_training
from libra_tf.cli.errors import UsageError
from libra_tf.compat import keras

pytestmark = pytest.mark.one_lane

FILES = {
    "libra_retinanet_r50": "libra_retinanet_r50",
    "libra_faster_rcnn_r50_sampled": "libra_faster_rcnn_r50",
    "libra_faster_rcnn_r50_every": "libra_faster_rcnn_r50",
}
RETINANET, SAMPLED, _ = FILES


@pytest.fixture(scope="module")
def files(golden_models):
    folder = golden_models.parent / "training"
    return {name: verify.read(str(folder / f"train_{name}.npz")) for name in FILES}


def compare(imported, numbers, name):
    detector = imported[FILES[name]]
    verify_training.check(name, numbers, detector)
    return list(verify_training.compare(detector, numbers))


def without_training(numbers):
    return {k: v for k, v in numbers.items() if not k.startswith(("traj", "final:"))}


@pytest.mark.parametrize("name", FILES)
def test_step_is_mmdetections(imported, files, name):
    comparisons = compare(imported, files[name], name)
    assert all(c.is_within for c in comparisons), verify.table(name, comparisons)
    compared = {c.stage.split(",")[0].split(" (")[0] for c in comparisons}
    losses = {key for key in files[name] if key.startswith("loss:")} - {"loss:acc"}
    assert losses <= compared
    assert any(stage.startswith("grad:") for stage in compared)
    assert ("traj losses" in compared) == ("traj" in files[name])
    # Anchors beyond an image's own padding are in the file.
    assert (files[name]["assign1_gt_inds"] == -1).any()


def wrong_stages(imported, numbers, name):
    return {c.stage.split(",")[0] for c in compare(imported, numbers, name) if not c.is_within}


@pytest.mark.parametrize(
    ("name", "key", "change"),
    [
        (RETINANET, "assign0_gt_inds", lambda x: np.where(x == -1, 0, x)),
        (RETINANET, "loss:loss_bbox", lambda x: x * 1.001),
        (RETINANET, "grad:neck.0.fpn_convs.0.conv.bias", lambda x: x * 1.1),
        (SAMPLED, "assign3_max_ious", lambda x: x + 1e-3),
        (SAMPLED, "proposals1_boxes", lambda x: x + 1),
        (SAMPLED, "loss:loss_rpn_cls", lambda x: x * 1.001),
    ],
)
@pytest.mark.slow
def test_sees_what_is_wrong(imported, files, name, key, change):
    numbers = without_training(files[name])
    wrong = wrong_stages(imported, {**numbers, key: change(numbers[key])}, name)
    assert key in wrong


def test_sees_another_list_of_trained_tensors(imported, files):
    numbers = without_training(files[RETINANET])
    del numbers["grad:neck.0.fpn_convs.0.conv.bias"]
    assert "trained tensors (170" in wrong_stages(imported, numbers, RETINANET)


@pytest.mark.slow
def test_sees_keras_momentum(imported, files, monkeypatch):
    """It has the learning rate inside, which differs while the rate warms up."""

    class KerasSGD(keras.optimizers.legacy.SGD):
        def __init__(self, weight_decay, **kwargs):
            super().__init__(**kwargs)

    monkeypatch.setattr(training_steps, "TorchSGD", KerasSGD)
    wrong = wrong_stages(imported, files[RETINANET], RETINANET)
    assert any(stage.startswith("final") for stage in wrong)


@pytest.mark.slow
def test_weights_are_the_same_afterwards(imported, files):
    model = imported[RETINANET].model
    before = model.get_weights()
    compare(imported, files[RETINANET], RETINANET)
    for one, other in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        (RETINANET, {"loss:loss_cls": None}, "lacks loss:loss_cls"),
        (SAMPLED, {"sample2_pos": None, "sample2_neg": None}, "lacks sample2_neg, sample2_pos"),
        (RETINANET, {"loss:loss_mask": np.zeros(1)}, "losses loss_mask, which this RetinaNet"),
        (RETINANET, {"img_shape0": np.array([400, 160])}, r"img_shape0 is \[400, 160\], but the"),
        (RETINANET, {"gt_labels0": np.array([7])}, r"gt_labels0 is \[7\]; there must be a label"),
        (
            RETINANET,
            {"pad_shape1": np.array([64, 64])},
            r"pad_shape1 is \[64, 64\]; it must be from",
        ),
        (
            RETINANET,
            {"grad:neck.0.fpn_convs.0.conv.bias": np.zeros(7)},
            r"grad:neck\.0\.fpn_convs\.0\.conv\.bias has the shape \[7\], which does not fit",
        ),
        (
            RETINANET,
            {"final:backbone.conv1.weight": np.zeros([9, 3, 7, 7])},
            r"final:backbone\.conv1\.weight has the shape \[9, 3, 7, 7\]",
        ),
        (RETINANET, {"final:mask": np.zeros(1)}, "has final:mask, but the detector has no such"),
        (RETINANET, {"traj_names": np.array(["loss", "x", "loss_cls"])}, "traj_names has x; known"),
        (RETINANET, {"traj_norms": np.zeros(2)}, r"shapes \[\d+, 3\], \[3\], \[2\]; they must be"),
        (RETINANET, {"traj_input1": None, "traj_input2": np.zeros(1)}, "has no `traj_input1` of"),
        (
            SAMPLED,
            {"sample0_neg": np.array([5118])},
            "indices from 5118 to 5118, but there are 5118",
        ),
        (SAMPLED, {"sample2_pos": np.array([-1, 3])}, "sample2_pos has indices from -1 to 3"),
    ],
)
def test_refuses_incomplete_files(imported, files, name, changes, message):
    numbers = {**files[name], **changes}
    numbers = {key: value for key, value in numbers.items() if value is not None}
    with pytest.raises(UsageError, match=message):
        verify_training.check("file.npz", numbers, imported[FILES[name]])


@pytest.mark.parametrize("kind", ["grad:", "final:"])
def test_refuses_files_without_gradients_or_final_weights(imported, files, kind):
    numbers = {key: x for key, x in files[RETINANET].items() if not key.startswith(kind)}
    with pytest.raises(UsageError, match=rf"lacks {kind}\*"):
        verify_training.check("file.npz", numbers, imported[RETINANET])


def test_refuses_the_file_of_another_detector(imported, files):
    with pytest.raises(UsageError, match="lacks loss:loss_rpn_bbox"):
        verify_training.check("file.npz", files[RETINANET], imported[FILES[SAMPLED]])


def test_exit_status(golden_models, tmp_path, capsys):
    checkpoint = str(golden_models / f"{RETINANET}.pth")
    path = golden_models.parent / "training" / f"train_{RETINANET}.npz"
    with np.load(path) as file:
        numbers = without_training(file)
    wrong = tmp_path / "wrong.npz"
    np.savez(wrong, **{**numbers, "loss:loss_cls": numbers["loss:loss_cls"] * 2})
    assert mmdet.main([checkpoint, "--verify", str(wrong)]) == 1
    printed = capsys.readouterr().out.splitlines()
    lines = [line.split()[0] for line in printed if "OUT OF" in line]
    assert lines == ["loss:loss_cls"]
