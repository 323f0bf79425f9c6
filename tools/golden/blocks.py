"""Single blocks of MMDetection and MMCV: losses, layers, boxes, RoIAlign, image preparation.

`make.py` runs them. Images and features are NCHW, boxes `x1, y1, x2, y2`. The files:

* `balanced_l1_aALPHA_gGAMMA_bBETA`: loss and gradient of single errors between -6 and 6, computed
  in float64 (`grid_*_f64`), and of random predictions (`s0_*`) with every reduction.
* `nonlocal_MODE_rREDUCTION_scaleUSE_SCALE_subSUB_SAMPLE_s0`: input `x`, weights `w:*`, output `y`,
  and the gradients `grad_x` and `g:*` of `sum(y * cot)`.
* `bfpsmall_c4_HxW_rlREFINE_LEVEL_REFINE_TYPE_s0`: the same for a balanced pyramid of five levels.
* `extras_*`: anchors, box coder, class-wise suppression, RoIAlign and image preparation.
"""

import pathlib
from collections.abc import Callable, Mapping

import numpy as np
import torch
from mmcv.cnn.bricks.non_local import NonLocal2d
from mmcv.ops import roi_align
from mmdet.datasets.transforms import Resize
from mmdet.models.data_preprocessors import DetDataPreprocessor
from mmdet.models.layers import multiclass_nms
from mmdet.models.losses import BalancedL1Loss
from mmdet.models.necks import BFP
from mmdet.models.task_modules.coders import DeltaXYWHBBoxCoder
from mmdet.models.task_modules.prior_generators import AnchorGenerator
from mmdet.structures import DetDataSample

from seeds import generator, normal

Arrays = dict[str, np.ndarray]

MODES = ("gaussian", "embedded_gaussian", "dot_product", "concatenation")
PYRAMID_SIZES = ("16x16", "21x13")
NUM_LEVELS = 5
ANCHORS = {
    "rpn": {"strides": [4, 8, 16, 32, 64], "scales": [8]},
    "retina": {"strides": [8, 16, 32, 64, 128], "octave_base_scale": 4, "scales_per_octave": 3},
}
CODER_STDS = {"std1": [1.0, 1.0, 1.0, 1.0], "std0102": [0.1, 0.1, 0.2, 0.2]}
MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]

NAMES = (
    *(f"balanced_l1_{x}" for x in ("a0.2_g1.0_b1.0", "a0.5_g1.5_b0.11", "a0.5_g1.5_b1.0")),
    "balanced_l1_a0.5_g2.0_b0.5",
    *(
        f"nonlocal_{mode}_r{reduction}_scale{scale}_sub{sub_sample}_s0"
        for mode in MODES
        for reduction, scale in ((1, 0), (1, 1), (2, 0))
        for sub_sample in (0, 1)
    ),
    *(
        f"bfpsmall_c4_{size}_rl{level}_{refine_type}_s0"
        for size in PYRAMID_SIZES
        for level in (0, 2, 4)
        for refine_type in (None, "conv", "non_local")
    ),
    "extras_anchors",
    "extras_coder",
    *(f"extras_nms_s{seed}" for seed in range(3)),
    "extras_preprocess",
    *(f"extras_roialign_sr{count}_aligned{aligned}" for count in (0, 2) for aligned in (0, 1)),
)


def draw(name: str, _: pathlib.Path) -> Arrays:
    """Draws the inputs of a file."""
    return _of_kind(name)[0](name, generator(name))


def compute(name: str, inputs: Mapping[str, np.ndarray], _: pathlib.Path) -> Arrays:
    """Returns what MMDetection makes of the inputs of a file."""
    return _of_kind(name)[1](inputs)


def _of_kind(name: str) -> tuple[Callable, Callable]:
    return next(functions for kind, functions in _KINDS.items() if name.startswith(kind))


def _draw_balanced_l1(name: str, rng: np.random.Generator) -> Arrays:
    constants = {part[0]: float(part[1:]) for part in name.split("_")[2:]}
    beta = constants["b"]
    grid = np.concatenate([np.linspace(-6, 6, 487), [0, beta, -beta, 1e-6, -1e-6]])
    return {
        "alpha": np.float64(constants["a"]),
        "gamma": np.float64(constants["g"]),
        "beta": np.float64(beta),
        "grid_diff": np.sort(grid).astype(np.float32),
        "s0_pred": normal(rng, 64, 4),
        "s0_target": normal(rng, 64, 4),
    }


def _compute_balanced_l1(inputs: Mapping[str, np.ndarray]) -> Arrays:
    def loss_and_gradient(
        pred: np.ndarray, target: np.ndarray, reduction: str
    ) -> tuple[np.ndarray, np.ndarray]:
        constants = {key: float(inputs[key]) for key in ("alpha", "gamma", "beta")}
        pred = torch.tensor(pred, requires_grad=True)
        loss = BalancedL1Loss(**constants, reduction=reduction)(pred, torch.tensor(target))
        (gradient,) = torch.autograd.grad(loss.sum(), pred)
        return loss.detach().numpy(), gradient.numpy()

    errors = inputs["grid_diff"].astype(np.float64)
    outputs = dict(
        zip(
            ("grid_loss_f64", "grid_grad_f64"),
            loss_and_gradient(errors, np.zeros_like(errors), "none"),
            strict=True,
        )
    )
    for reduction in ("none", "mean", "sum"):
        loss, gradient = loss_and_gradient(inputs["s0_pred"], inputs["s0_target"], reduction)
        outputs |= {f"s0_loss_{reduction}": loss, f"s0_grad_{reduction}": gradient}
    return outputs


def _draw_non_local(name: str, rng: np.random.Generator) -> Arrays:
    *mode, reduction, scale, sub_sample, _ = name.removeprefix("nonlocal_").split("_")
    inputs = {
        "mode": np.array("_".join(mode)),
        "reduction": np.array(int(reduction[1:])),
        "use_scale": np.array(scale == "scale1"),
        "sub_sample": np.array(sub_sample == "sub1"),
        "x": normal(rng, 2, 8, 9, 7),
        "cot": normal(rng, 2, 8, 9, 7),
    }
    return inputs | _draw_weights(_non_local(inputs), rng)


def _non_local(inputs: Mapping[str, np.ndarray]) -> NonLocal2d:
    block = NonLocal2d(
        inputs["x"].shape[1],
        reduction=int(inputs["reduction"]),
        use_scale=bool(inputs["use_scale"]),
        sub_sample=bool(inputs["sub_sample"]),
        mode=str(inputs["mode"]),
    )
    if hasattr(block, "concat_project"):
        # MMCV divides the output of this ReLU in place, and back-propagation fails.
        block.concat_project.register_forward_hook(lambda module, args, output: output.clone())
    return block


def _compute_non_local(inputs: Mapping[str, np.ndarray]) -> Arrays:
    block = _with_weights(_non_local(inputs), inputs)
    x = torch.tensor(inputs["x"], requires_grad=True)
    y = block(x)
    (y * torch.tensor(inputs["cot"])).sum().backward()
    return {"y": y.detach().numpy(), "grad_x": x.grad.numpy(), **_weight_gradients(block)}


def _draw_pyramid(name: str, rng: np.random.Generator) -> Arrays:
    size, level, refine_type = name.removeprefix("bfpsmall_c4_").removesuffix("_s0").split("_", 2)
    height, width = map(int, size.split("x"))
    inputs = {"refine_level": np.array(int(level[2:])), "refine_type": np.array(refine_type)}
    for index in range(NUM_LEVELS):
        for key in ("x", "cot"):
            inputs[f"{key}{index}"] = normal(rng, 2, 4, height, width)
        height, width = (height + 1) // 2, (width + 1) // 2
    return inputs | _draw_weights(_pyramid(inputs), rng)


def _pyramid(inputs: Mapping[str, np.ndarray]) -> BFP:
    refine_type = str(inputs["refine_type"])
    return BFP(
        inputs["x0"].shape[1],
        NUM_LEVELS,
        refine_level=int(inputs["refine_level"]),
        refine_type=None if refine_type == "None" else refine_type,
    )


def _compute_pyramid(inputs: Mapping[str, np.ndarray]) -> Arrays:
    pyramid = _with_weights(_pyramid(inputs), inputs)
    levels = [torch.tensor(inputs[f"x{i}"], requires_grad=True) for i in range(NUM_LEVELS)]
    outputs = pyramid(levels)
    sum((y * torch.tensor(inputs[f"cot{i}"])).sum() for i, y in enumerate(outputs)).backward()
    return {
        **{f"y{i}": y.detach().numpy() for i, y in enumerate(outputs)},
        **{f"grad_x{i}": x.grad.numpy() for i, x in enumerate(levels)},
        **_weight_gradients(pyramid),
    }


def _draw_weights(module: torch.nn.Module, rng: np.random.Generator) -> Arrays:
    return {
        f"w:{name}": 0.4 * normal(rng, *value.shape) for name, value in module.state_dict().items()
    }


def _with_weights(module: torch.nn.Module, inputs: Mapping[str, np.ndarray]) -> torch.nn.Module:
    state = {key[2:]: torch.tensor(inputs[key]) for key in inputs if key.startswith("w:")}
    module.load_state_dict(state, strict=True)
    return module


def _weight_gradients(module: torch.nn.Module) -> Arrays:
    return {f"g:{name}": value.grad.numpy() for name, value in module.named_parameters()}


def _draw_anchors(_name: str, _rng: np.random.Generator) -> Arrays:
    return {"sizes": np.array([[9, 7], [5, 4], [3, 2], [2, 1], [1, 1]])}


def _compute_anchors(inputs: Mapping[str, np.ndarray]) -> Arrays:
    outputs = {}
    for kind, arguments in ANCHORS.items():
        anchors = AnchorGenerator(ratios=[0.5, 1.0, 2.0], **arguments)
        grids = anchors.grid_priors(
            [tuple(size) for size in inputs["sizes"].tolist()], device="cpu"
        )
        outputs |= {f"{kind}_grid{index}": grid.numpy() for index, grid in enumerate(grids)}
    return outputs


def _draw_boxes(
    rng: np.random.Generator, count: int, side: float, smallest: float, largest: float
) -> np.ndarray:
    corner = rng.uniform(0, side, (count, 2))
    opposite = corner + rng.uniform(smallest, largest, (count, 2))
    return np.concatenate([corner, opposite], axis=1).astype(np.float32)


def _draw_coder(_name: str, rng: np.random.Generator) -> Arrays:
    deltas = normal(rng, 50, 4)
    # Some exceed the limit of how much a box may grow or shrink.
    deltas[::7] *= 20
    return {"rois": _draw_boxes(rng, 50, 280, 1, 120), "deltas": deltas}


def _compute_coder(inputs: Mapping[str, np.ndarray]) -> Arrays:
    rois, deltas = (torch.tensor(inputs[key]) for key in ("rois", "deltas"))
    return {
        f"dec_{name}_clip_300x350": DeltaXYWHBBoxCoder(target_stds=stds)
        .decode(rois, deltas, max_shape=(300, 350))
        .numpy()
        for name, stds in CODER_STDS.items()
    }


def _draw_nms(_name: str, rng: np.random.Generator) -> Arrays:
    # Boxes come in clusters, so that many are suppressed, and are shifted class by class.
    clusters = _draw_boxes(rng, 40, 120, 24, 60)[rng.integers(0, 40, 300)]
    boxes = np.tile(clusters, (1, 5)) + 3 * normal(rng, 300, 20)
    logits = 2 * normal(rng, 300, 6)
    scores = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return {"mc_boxes": boxes, "mc_scores": scores}


def _compute_nms(inputs: Mapping[str, np.ndarray]) -> Arrays:
    boxes, scores = (torch.tensor(inputs[key]) for key in ("mc_boxes", "mc_scores"))
    found, labels = multiclass_nms(boxes, scores, 0.05, {"type": "nms", "iou_threshold": 0.5}, 100)
    return {"mc_dets": found.numpy(), "mc_labels": labels.numpy()}


def _draw_preprocess(_name: str, rng: np.random.Generator) -> Arrays:
    return {"bgr_uint8": rng.integers(0, 256, (97, 131, 3), np.uint8)}


def _compute_preprocess(inputs: Mapping[str, np.ndarray]) -> Arrays:
    resize = Resize(scale=(1333, 128), keep_ratio=True)
    resized = resize({"img": inputs["bgr_uint8"]})["img"]
    prepare = DetDataPreprocessor(MEAN, STD, bgr_to_rgb=True, pad_size_divisor=32)
    image = torch.tensor(resized.transpose(2, 0, 1))
    batch = prepare({"inputs": [image], "data_samples": [DetDataSample()]}, training=False)
    return {"net_input": batch["inputs"].numpy()}


def _draw_roi_align(name: str, rng: np.random.Generator) -> Arrays:
    boxes = _draw_boxes(rng, 12, 60, 1, 40)
    # An empty box, and two that extend beyond the features.
    boxes[0] = [10, 10, 10, 10]
    boxes[1] = [-30, -20, 25, 100]
    boxes[2] = [50, 70, 100, 95]
    image = np.arange(12, dtype=np.float32)[:, np.newaxis] % 2
    return {
        "feat": normal(rng, 2, 3, 21, 17),
        "rois": np.concatenate([image, boxes], axis=1),
        "spatial_scale": np.array(0.25),
        "sampling_ratio": np.array(int(name.split("_sr")[1][0])),
        "aligned": np.array(name.endswith("aligned1")),
        "cot": normal(rng, 12, 3, 7, 7),
    }


def _compute_roi_align(inputs: Mapping[str, np.ndarray]) -> Arrays:
    features = torch.tensor(inputs["feat"], requires_grad=True)
    crops = roi_align(
        features,
        torch.tensor(inputs["rois"]),
        (7, 7),
        float(inputs["spatial_scale"]),
        int(inputs["sampling_ratio"]),
        "avg",
        bool(inputs["aligned"]),
    )
    (crops * torch.tensor(inputs["cot"])).sum().backward()
    return {"out": crops.detach().numpy(), "grad_feat": features.grad.numpy()}


_KINDS = {
    "balanced_l1": (_draw_balanced_l1, _compute_balanced_l1),
    "nonlocal": (_draw_non_local, _compute_non_local),
    "bfpsmall": (_draw_pyramid, _compute_pyramid),
    "extras_anchors": (_draw_anchors, _compute_anchors),
    "extras_coder": (_draw_coder, _compute_coder),
    "extras_nms": (_draw_nms, _compute_nms),
    "extras_preprocess": (_draw_preprocess, _compute_preprocess),
    "extras_roialign": (_draw_roi_align, _compute_roi_align),
}
