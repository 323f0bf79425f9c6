"""What the importer accepts, infers, writes and refuses."""

import collections
import dataclasses
import os
import re

import numpy as np
import pytest
import tensorflow as tf
import torch
from official.core import task_factory

from libra_tf.checkpoints import (
    categories,
    experiment,
    importing,
    mmdet,
    mmdet_config,
    structure,
    torch_file,
    weights,
)
from libra_tf.cli.errors import UsageError
from libra_tf.initial_weights import fine_tuning
from libra_tf.runs import trained_run
from tests.checkpoints.names import MODELS


class Code:
    """Runs a command when it is unpickled."""

    def __reduce__(self):
        return os.system, ("touch hacked",)


class Pointer:
    """An array of objects whose address is the file's, once NumPy is called with its arguments."""

    def __reduce__(self):
        return np.ndarray, ((1,), np.dtype("O"), bytearray(b"A" * 8))


@pytest.fixture(scope="module")
def retinanet(golden_models):
    return torch_file.read(str(golden_models / "libra_retinanet_r50.pth"))


@pytest.fixture(scope="module")
def faster_rcnn(golden_models):
    return torch_file.read(str(golden_models / "libra_faster_rcnn_r50.pth"))


def as_tensors(arrays):
    return {name: torch.from_numpy(np.array(value)) for name, value in arrays.items()}


def save(path, saved, **kwargs):
    torch.save(saved, path, **kwargs)
    return str(path)


@pytest.mark.parametrize(
    ("wrap", "kwargs"),
    [
        (lambda state: state, {}),
        (lambda state: state, {"_use_new_zipfile_serialization": False}),
        (lambda state: {"state_dict": state, "meta": {"epoch": 12}, "optimizer": {"lr": [1]}}, {}),
        (lambda state: {f"module.{name}": value for name, value in state.items()}, {}),
        (lambda state: collections.OrderedDict(state), {}),
    ],
    ids=["bare", "legacy", "wrapped", "module", "ordered"],
)
def test_forms_of_a_file(tmp_path, retinanet, wrap, kwargs):
    path = save(tmp_path / "a.pth", wrap(as_tensors(retinanet.weights)), **kwargs)
    read = torch_file.read(path)
    assert list(read.weights) == list(retinanet.weights)
    for name, value in read.weights.items():
        np.testing.assert_array_equal(value, retinanet.weights[name])


def test_half_precision(tmp_path):
    path = save(tmp_path / "a.pth", {"x": torch.ones(2, dtype=torch.bfloat16)})
    value = torch_file.read(path).weights["x"]
    assert value.dtype == np.float32
    np.testing.assert_array_equal(value, [1, 1])


def test_training_logs_of_mmengine_are_read_past(tmp_path, retinanet, monkeypatch):
    # As the package names it, which need not be installed.
    class HistoryBuffer:
        def __init__(self):
            self._log_history = np.array([1.0, 2.0])
            self._count_history = np.array([1, 1])

    module = type(os)("mmengine.logging.history_buffer")
    module.HistoryBuffer = HistoryBuffer
    HistoryBuffer.__module__, HistoryBuffer.__qualname__ = module.__name__, "HistoryBuffer"
    for name in ("mmengine", "mmengine.logging", module.__name__):
        monkeypatch.setitem(__import__("sys").modules, name, module)
    message_hub = {"log_scalars": {"train/loss": HistoryBuffer()}}
    state = as_tensors(retinanet.weights)
    path = save(tmp_path / "a.pth", {"state_dict": state, "message_hub": message_hub})
    assert len(torch_file.read(path).weights) == len(state)


def test_only_plain_values_are_said_about_a_detector(tmp_path):
    said = {"CLASSES": ("a", Pointer()), "dataset_meta": {"classes": Pointer()}, "epoch": 12}
    path = save(tmp_path / "a.pth", {"state_dict": {"x": torch.zeros(1)}, "meta": said})
    expected = {"CLASSES": ["a", None], "dataset_meta": {"classes": None}, "epoch": 12}
    assert torch_file.read(path).meta == expected


def test_structure(retinanet, faster_rcnn):
    detector = structure.infer_detector("a.pth", retinanet.weights)
    assert str(detector) == "Libra RetinaNet ResNet-50-FPN, 5 classes"
    assert (detector.min_level, detector.max_level, detector.num_convs) == (3, 7, 4)
    detector = structure.infer_detector("a.pth", faster_rcnn.weights)
    assert str(detector) == "Libra Faster R-CNN ResNet-50-FPN, 5 classes"
    assert (detector.min_level, detector.max_level, detector.crop_size) == (2, 6, 7)
    assert (detector.num_fcs, detector.fc_channels, detector.num_anchors) == (2, 32, 3)


def without_balance(arrays):
    """The same detector with one neck, which MMDetection does not number."""
    return {
        name.replace("neck.0.", "neck."): value
        for name, value in arrays.items()
        if not name.startswith("neck.1.")
    }


def test_plain_pyramid(tmp_path, retinanet):
    path = save(tmp_path / "plain.pth", as_tensors(without_balance(retinanet.weights)))
    imported = importing.import_detector(path)
    assert str(imported.detector) == "RetinaNet ResNet-50-FPN, 5 classes"
    assert imported.params.task.model.decoder.type == "fpn"
    outputs = imported.model(tf.zeros([1, 64, 96, 3]), training=False)
    assert outputs["detection_boxes"].shape == [1, 100, 4]


def test_plain_faster_rcnn(faster_rcnn):
    detector = structure.infer_detector("a.pth", without_balance(faster_rcnn.weights))
    assert str(detector) == "Faster R-CNN ResNet-50-FPN, 5 classes"
    model = experiment.overrides("a.pth", detector, {})["task"]["model"]
    assert (model["decoder"]["type"], model["roi_sampler"]["type"]) == ("fpn", "random")
    # Only Libra's published config limits the negatives.
    assert model["rpn_sampler"]["max_negatives_per_positive"] == 0
    balanced = structure.infer_detector("a.pth", faster_rcnn.weights)
    model = experiment.overrides("a.pth", balanced, {})["task"]["model"]
    assert model["rpn_sampler"]["max_negatives_per_positive"] == 5


@pytest.mark.parametrize(
    ("depth", "cardinality", "expected"),
    [
        (18, None, "ResNet-18"),
        (101, None, "ResNet-101"),
        (101, (64, 4), "ResNeXt-101-64x4d"),
        (50, (1, 128), "ResNeXt-50-1x128d"),
    ],
    ids=["r18", "r101", "x101", "wide"],
)
def test_backbones(depth, cardinality, expected):
    blocks = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}[depth]
    arrays = {"conv1.weight": np.zeros([64, 3, 7, 7], np.float32)}
    groups, width = cardinality or (1, 64)
    for stage, count in enumerate(blocks, start=1):
        for block in range(count):
            prefix = f"layer{stage}.{block}."
            inner = groups * width
            arrays[f"{prefix}conv1.weight"] = np.zeros([inner, 64, 1, 1], np.float32)
            arrays[f"{prefix}conv2.weight"] = np.zeros([inner, width, 3, 3], np.float32)
            if depth >= 50:
                arrays[f"{prefix}conv3.weight"] = np.zeros([256, inner, 1, 1], np.float32)
    assert str(structure.infer_backbone("a.pth", arrays)) == expected


@pytest.mark.parametrize("name", MODELS)
def test_changes_nothing_unless_everything_fits(imported, golden_models, name):
    file = torch_file.read(str(golden_models / f"{name}.pth"))
    detector, model = imported[name].detector, imported[name].model
    before = [variable.numpy() for variable in model.variables]

    def load(arrays):
        weights.load_detector("a.pth", arrays, detector, model, [1, 2, 3, 4, 5])

    dropped = next(key for key in file.weights if "layer3.2.bn1.running_var" in key)
    shuffled = {key: 0 * value for key, value in file.weights.items()}
    with pytest.raises(UsageError, match=r"lacks backbone\.layer3\.2\.bn1\.running_var"):
        load({key: value for key, value in shuffled.items() if key != dropped})
    with pytest.raises(UsageError, match=r"no place for neck\.2\.x"):
        load({**shuffled, "neck.2.x": np.zeros(3, np.float32)})
    with pytest.raises(UsageError, match=r"layer3\.2\.bn1\.running_var has the shape \[3\]"):
        load({**shuffled, dropped: np.zeros(3, np.float32)})
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)


# By detector, weights with shapes that do not fit the others.
MISFITS = {
    "rows of boxes": ("libra_faster_rcnn_r50", "roi_head.bbox_head.fc_reg.weight", [18, 32]),
    "crops": ("libra_faster_rcnn_r50", "roi_head.bbox_head.shared_fcs.0.weight", [32, 16 * 48]),
    "rows of logits": ("libra_retinanet_r50", "bbox_head.retina_cls.weight", [44, 16, 3, 3]),
    "matrix": ("libra_retinanet_r50", "neck.1.refine.g.conv.weight", [16, 16]),
    "vector": ("libra_retinanet_r50", "backbone.layer1.0.conv2.weight", [8]),
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_shapes_that_do_not_fit_are_named(imported, golden_models, misfit):
    model_name, name, shape = MISFITS[misfit]
    detector, model = imported[model_name].detector, imported[model_name].model
    file = torch_file.read(str(golden_models / f"{model_name}.pth"))
    arrays = {**file.weights, name: np.zeros(shape, np.float32)}
    with pytest.raises(UsageError, match=rf"{name} has the shape {re.escape(str(shape))}"):
        weights.load_detector("a.pth", arrays, detector, model, [1, 2, 3, 4, 5])


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("bbox_head.retina_reg.weight", [3, 16, 3, 3], "45 logits for 0 anchors"),
        ("bbox_head.retina_cls.weight", [8, 16, 3, 3], "8 logits for 9 anchors"),
        ("bbox_head.retina_reg.weight", [0, 16, 3, 3], r"shape \[0, 16, 3, 3\]"),
    ],
)
def test_no_anchors_or_classes(retinanet, name, shape, message):
    arrays = {**retinanet.weights, name: np.zeros(shape, np.float32)}
    with pytest.raises(UsageError, match=message):
        structure.infer_detector("a.pth", arrays)


def test_no_class_but_the_background(faster_rcnn):
    arrays = {**faster_rcnn.weights, "roi_head.bbox_head.fc_cls.weight": np.zeros([1, 32])}
    with pytest.raises(UsageError, match="no class but the background"):
        structure.infer_detector("a.pth", arrays)


BAD_FILES = {
    "missing": (lambda path, state: None, "no such file"),
    "folder": (lambda path, state: path.mkdir(), "is a folder"),
    "empty": (lambda path, state: path.write_bytes(b""), "is empty"),
    "text": (lambda path, state: path.write_text("weights"), "not a PyTorch checkpoint"),
    "list": (lambda path, state: save(path, [1, 2]), "it holds a list"),
    "no tensors": (lambda path, state: save(path, {"a": "b"}), "'a' in it is a str"),
    "code": (lambda path, state: save(path, {**state, "x": Code()}), "is refused.*system"),
    "legacy code": (
        lambda path, state: save(path, Code(), _use_new_zipfile_serialization=False),
        "is refused.*system",
    ),
    "pointer": (lambda path, state: save(path, {**state, "x": Pointer()}), "'x'.* is a skipped"),
    "nan": (
        lambda path, state: save(
            path, {**state, "bbox_head.retina_cls.bias": torch.full([45], np.nan)}
        ),
        r"bbox_head\.retina_cls\.bias has NaN or infinite values",
    ),
}


@pytest.mark.parametrize("bad", BAD_FILES)
def test_bad_files(tmp_path, monkeypatch, retinanet, bad):
    monkeypatch.chdir(tmp_path)
    make, message = BAD_FILES[bad]
    make(tmp_path / "a.pth", as_tensors(retinanet.weights))
    with pytest.raises(UsageError, match=message) as raised:
        torch_file.read(str(tmp_path / "a.pth"))
    assert "a.pth" in str(raised.value) and "\n" not in str(raised.value)
    assert not (tmp_path / "hacked").exists()


NO_ARRAYS = {
    "sparse": (lambda x: x.to_sparse(), "tensor that does not hold all its values"),
    "meta": (lambda x: x.to("meta"), "tensor that does not hold all its values"),
    "nested": (
        lambda x: torch.nested.nested_tensor([x]),
        "tensor that does not hold all its values",
    ),
    "complex": (lambda x: x.to(torch.complex64), "complex64 tensor"),
    "quantized": (
        lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.quint8),
        "quint8 tensor",
    ),
}


@pytest.mark.parametrize("kind", NO_ARRAYS)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_tensors_that_are_no_arrays(tmp_path, kind):
    make, message = NO_ARRAYS[kind]
    path = save(tmp_path / "a.pth", {"x": make(torch.ones(2, 2))})
    with pytest.raises(UsageError, match=f"'x' in it is a {message}"):
        torch_file.read(path)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_truncated(tmp_path, retinanet, share, legacy):
    path = tmp_path / "a.pth"
    save(path, as_tensors(retinanet.weights), _use_new_zipfile_serialization=not legacy)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(UsageError, match="damaged"):
        torch_file.read(str(path))


@pytest.mark.parametrize(
    ("name", "architecture"),
    [
        ("roi_head.mask_head.convs.0.conv.weight", "masks"),
        ("roi_head.bbox_head.0.fc_cls.weight", "Cascade"),
        ("bbox_head.fc_cls.weight", "original Libra R-CNN"),
        ("bbox_head.conv_centerness.weight", "FCOS"),
        ("encoder.layers.0.self_attn.in_proj_weight", "transformer"),
        ("backbone.bottom_up.stem.conv1.weight", "Detectron2"),
        ("features.0.weight", "parts features"),
    ],
)
def test_other_architectures_are_named(name, architecture):
    with pytest.raises(UsageError, match=architecture):
        structure.infer_detector("a.pth", {name: np.zeros([2, 2], np.float32)})


def test_categories():
    names = ["person", *map(str, range(78)), "toothbrush"]
    ids = categories.assign_ids(names, 80)
    assert (ids[0], ids[11], ids[12], ids[-1], len(ids)) == (1, 13, 14, 90, 80)
    assert categories.assign_ids(["a", "b"], 2) == [1, 2]
    assert categories.assign_ids([], 80) == list(range(1, 81))
    assert categories.read_names({"CLASSES": ("a", "b")}) == ["a", "b"]


def test_config(golden_models, retinanet, faster_rcnn):
    text = (golden_models / "libra_faster_rcnn_r50_config.txt").read_text()
    detector = structure.infer_detector("a.pth", faster_rcnn.weights)
    config, _ = mmdet_config.find("a.pth", {"cfg": text}, None)
    changes = mmdet_config.overrides("a.pth", config, detector)
    assert changes["roi_generator"]["test_num_proposals"] == 300
    assert changes["anchor"] == {
        "aspect_ratios": [2.0, 1.0, 0.5],
        "anchor_size": 8.0,
        "num_scales": 1,
    }
    with pytest.raises(UsageError, match=r"'caffe' for backbone\.style"):
        config, _ = mmdet_config.find("a.pth", {"cfg": text.replace("'pytorch'", "'caffe'")}, None)
        mmdet_config.overrides("a.pth", config, detector)
    pipeline = (
        "model = " + text + "\ntest_pipeline = [dict(type='LoadImageFromFile'), "
        "dict(type='Resize', scale=(1000, 600), keep_ratio=True)]\nevil = __import__('os')"
    )
    config, _ = mmdet_config.find("a.pth", {"cfg": pipeline}, None)
    changes = mmdet_config.overrides("a.pth", config, detector)
    assert changes["input_size"] == [600, 1000, 3]


@pytest.mark.parametrize(
    "text",
    [
        "../base.py\nmodel = dict()",
        "_base_ = 'base.py'\nmodel = dict(backbone=dict(depth=101))",
        "model = build()",
        "(" * 9999,
        "\0",
        "{[1]: 2}",
    ],
    ids=["no python", "inherits", "code", "deep", "null", "list as key"],
)
def test_a_config_that_is_not_understood_is_not_ignored(golden_models, tmp_path, text):
    path = tmp_path / "a.pth"
    with pytest.raises(UsageError, match=r"a\.pth: the config in it \(config\) .* --config=FILE"):
        mmdet_config.find(str(path), {"config": text}, None)
    beside = tmp_path / "a_config.txt"
    beside.write_text("model = 1")
    with pytest.raises(UsageError, match=r"a_config\.txt is not a complete config"):
        mmdet_config.find(str(path), {"config": text}, None)
    beside.write_text((golden_models / "libra_retinanet_r50_config.txt").read_text())
    config, source = mmdet_config.find(str(path), {"config": text}, None)
    assert (config["type"], source) == ("RetinaNet", str(beside))


def test_says_which_config_counts():
    text = "model = dict(backbone=dict())"
    assert mmdet_config.find("a.pth", {"cfg": text}, None)[1] == "the checkpoint's own (cfg)"
    assert mmdet_config.find("a.pth", {}, None) == (
        {},
        "none found, so the published models' config is used",
    )


@pytest.mark.parametrize("version", ["0.6.0", "1.2.0+0f33c08"])
def test_mmdetection_1_is_refused(golden_models, tmp_path, retinanet, version):
    meta = {"mmdet_version": version, "config": "model = dict(backbone=dict(), bbox_head=dict())"}
    path = save(tmp_path / "a.pth", {"state_dict": as_tensors(retinanet.weights), "meta": meta})
    with pytest.raises(UsageError, match=f"a.pth was saved by MMDetection {version[:3]}"):
        importing.import_detector(path)
    # The first ones that were published for MMDetection 2.
    detector = structure.infer_detector(path, retinanet.weights)
    config_file = str(golden_models / "libra_retinanet_r50_config.txt")
    config, _ = mmdet_config.find(path, meta, config_file)
    mmdet_config.check_version(path, meta, config, detector)
    mmdet_config.check_version(path, {"mmdet_version": "2.0.0"}, {}, detector)


UNSUPPORTED = [
    ("rpn_head.anchor_generator.scales", [4, 8, 16]),
    ("rpn_head.anchor_generator.strides", [4, 8, 16, 32, 128]),
    ("rpn_head.bbox_coder.target_stds", [0.1, 0.1, 0.2, 0.2]),
    ("bbox_head.anchor_generator.type", "LegacyAnchorGenerator"),
    ("bbox_head.anchor_generator.center_offset", 0.5),
    ("bbox_head.bbox_coder.type", "LegacyDeltaXYWHBBoxCoder"),
    ("bbox_head.bbox_coder.target_stds", [0.1, 0.1, 0.2, 0.2]),
    ("test_cfg.nms.class_agnostic", True),
    ("test_cfg.rcnn.nms.class_agnostic", True),
    ("test_cfg.rpn.nms.type", "soft_nms"),
    ("test_cfg.rpn.nms_across_levels", True),
    ("test_cfg.rpn.min_bbox_size", 16),
    ("neck.0.relu_before_extra_convs", True),
    ("test_pipeline", [{"type": "Resize", "scale": [1333, 800], "keep_ratio": False}]),
    # MMDetection 3 does not keep it unless it is told to.
    ("test_pipeline", [{"type": "Resize", "scale": [1333, 800]}]),
]


@pytest.mark.parametrize(("key", "value"), UNSUPPORTED)
def test_unsupported_configs_are_refused_with_the_key(
    golden_models, retinanet, faster_rcnn, key, value
):
    has_two_stages = key.startswith(("rpn_head", "test_cfg.r"))
    name, file = ("faster_rcnn", faster_rcnn) if has_two_stages else ("retinanet", retinanet)
    detector = structure.infer_detector("a.pth", file.weights)
    config, _ = mmdet_config.find("a.pth", {}, str(golden_models / f"libra_{name}_r50_config.txt"))
    mmdet_config.overrides("a.pth", config, detector)
    *parents, last = key.split(".")
    part = config
    for parent in parents:
        part = part[int(parent) if parent.isdigit() else parent]
    part[last] = value
    message = rf"^a\.pth: its config has .* for .*{last}; only .* is supported"
    with pytest.raises(UsageError, match=message):
        mmdet_config.overrides("a.pth", config, detector)


@pytest.mark.parametrize(
    ("sampler", "limit"), [({"neg_pos_ub": -1}, 0), ({"neg_pos_ub": 3}, 3), ({"num": 256}, 0)]
)
def test_limit_of_the_rpns_negatives(faster_rcnn, sampler, limit):
    detector = structure.infer_detector("a.pth", faster_rcnn.weights)
    config = {"train_cfg": {"rpn": {"sampler": sampler}}}
    changes = mmdet_config.overrides("a.pth", config, detector)
    assert changes["rpn_sampler"] == {"max_negatives_per_positive": limit}


@pytest.mark.parametrize("limit", [0, 2.5])
def test_a_limit_of_the_rpns_negatives_that_is_refused(faster_rcnn, limit):
    detector = structure.infer_detector("a.pth", faster_rcnn.weights)
    config = {"train_cfg": {"rpn": {"sampler": {"neg_pos_ub": limit}}}}
    with pytest.raises(UsageError, match=rf"^a\.pth: .* {limit} for .*rpn\.sampler\.neg_pos_ub"):
        mmdet_config.overrides("a.pth", config, detector)


def test_config_of_early_mmdetection_2(retinanet):
    text = (
        "model = dict(backbone=dict(style='pytorch'))\ntest_cfg = dict(score_thr=0.1)\n"
        "test_pipeline = [dict(type='MultiScaleFlipAug', img_scale=(1000, 600), "
        "transforms=[dict(type='Resize')])]"
    )
    detector = structure.infer_detector("a.pth", retinanet.weights)
    config, _ = mmdet_config.find("a.pth", {"config": text}, None)
    assert mmdet_config.overrides("a.pth", config, detector) == {
        "input_size": [600, 1000, 3],
        "detection_generator": {"pre_nms_score_threshold": 0.1},
    }


def test_other_anchors_need_a_config(faster_rcnn):
    detector = structure.infer_detector("a.pth", faster_rcnn.weights)
    detector = dataclasses.replace(detector, num_anchors=9)
    with pytest.raises(UsageError, match=r"9 anchors per cell, but the published .* have 3; give"):
        experiment.overrides("a.pth", detector, {})
    with pytest.raises(UsageError, match="9 anchors per cell, but its config has 6"):
        experiment.overrides("a.pth", detector, {"anchor": {"num_scales": 2}})
    changes = {"anchor": {"num_scales": 3}}
    model = experiment.overrides("a.pth", detector, changes)["task"]["model"]
    assert (model["anchor"]["num_scales"], model["anchor"]["anchor_size"]) == (3, 8.0)


@pytest.fixture(scope="module")
def run_folder(golden_models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "imported"
    path = str(golden_models / "libra_faster_rcnn_x50.pth")
    assert mmdet.main([path, f"--model_dir={folder}"]) == 0
    return str(folder)


@pytest.mark.slow
def test_folder_of_a_run(run_folder, imported):
    run = trained_run.read(run_folder)
    assert run.read_class_names() == dict(zip(range(1, 6), "abcde", strict=True))
    expected = imported["libra_faster_rcnn_x50"].model
    for ours, theirs in zip(run.load_model().variables, expected.variables, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.slow
def test_starts_a_detector_of_other_classes(run_folder):
    run = trained_run.read(run_folder)
    run.params.task.model.num_classes = 3
    report = fine_tuning.load(run.build_task().build_model(), run_folder)
    layers = {name.rsplit("/", 1)[0] for name in report.kept}
    assert layers == {"detection_head/detection-scores", "detection_head/detection-boxes"}
    assert not report.unused


def test_folder_in_use(golden_models, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    path = str(golden_models / "libra_retinanet_r50.pth")
    assert mmdet.main([path, f"--model_dir={tmp_path}"]) == 2
    assert "already exists" in capsys.readouterr().err


class Block(torch.nn.Module):
    """torchvision's basic block."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = torch.nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = torch.nn.BatchNorm2d(outputs)
        self.conv2 = torch.nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = torch.nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride > 1:
            self.downsample = torch.nn.Sequential(
                torch.nn.Conv2d(inputs, outputs, 1, stride, bias=False),
                torch.nn.BatchNorm2d(outputs),
            )

    def forward(self, x):
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + (self.downsample(x) if self.downsample else x))


class ResNet18(torch.nn.Module):
    """torchvision's ResNet-18 of an eighth of the width, with its names."""

    def __init__(self):
        super().__init__()
        self.conv1 = torch.nn.Conv2d(3, 8, 7, 2, 3, bias=False)
        self.bn1 = torch.nn.BatchNorm2d(8)
        for stage in range(4):
            inputs, outputs = 8 * 2 ** max(stage - 1, 0), 8 * 2**stage
            blocks = [Block(inputs, outputs, min(stage, 1) + 1), Block(outputs, outputs, 1)]
            setattr(self, f"layer{stage + 1}", torch.nn.Sequential(*blocks))
        self.fc = torch.nn.Linear(64, 10)

    def forward(self, x):
        x = torch.nn.functional.max_pool2d(torch.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        stages = []
        for stage in (1, 2, 3, 4):
            x = getattr(self, f"layer{stage}")(x)
            stages.append(x)
        return stages


def test_backbone_of_torchvision(tmp_path, capsys):
    torch.manual_seed(0)
    network = ResNet18()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                for tensor in (module.weight, module.running_var):
                    tensor.uniform_(0.5, 1.5)
                for tensor in (module.bias, module.running_mean):
                    tensor.normal_()
    path = save(tmp_path / "resnet18.pth", network.state_dict())
    folder = str(tmp_path / "backbone")
    assert mmdet.main([path, f"--model_dir={folder}", "--config=mine.py"]) == 2
    assert "only a backbone, but --config is for a detector" in capsys.readouterr().err
    assert mmdet.main([path, f"--model_dir={folder}"]) == 0
    assert "ResNet-18" in capsys.readouterr().out

    model = small_task().build_model()
    report = fine_tuning.load(model, folder, "backbone")
    assert not report.kept and not report.unused
    images = np.random.default_rng(0).normal(size=[1, 67, 90, 3]).astype(np.float32)
    with torch.no_grad():
        expected = network.eval()(torch.from_numpy(images.transpose(0, 3, 1, 2)))
    stages = model.backbone(images)
    for level, stage in enumerate(expected, start=2):
        np.testing.assert_allclose(
            stages[str(level)], stage.numpy().transpose(0, 2, 3, 1), rtol=1e-4, atol=1e-4
        )


def small_task():
    """A small detector with the backbone of `ResNet18`."""
    from official.core import exp_factory

    params = exp_factory.get_exp_config("libra_retinanet_demo")
    params.task.model.override(
        {
            "compatibility": "mmdetection",
            "backbone": {"resnet": {"depth_multiplier": 0.125}},
            "norm_activation": {"norm_epsilon": 1e-5},
        }
    )
    params.task.validation_data.global_batch_size = 1
    return task_factory.get_task(params.task)
