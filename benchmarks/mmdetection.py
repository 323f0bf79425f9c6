"""Runs MMDetection's Libra detectors in their own environment, for `detectors.py` to time.

    python3.11 -m venv mmdet
    mmdet/bin/pip install torch==2.1.2 torchvision==0.16.2 'numpy<2' 'opencv-python<4.12'
    mmdet/bin/pip install 'setuptools<70' wheel ninja psutil
    MMCV_WITH_OPS=1 mmdet/bin/pip install --no-build-isolation mmcv==2.1.0
    mmdet/bin/pip install mmdet==3.3.0
    python benchmarks/detectors.py --mmdet_python=mmdet/bin/python

Other versions were not tried. The detector has the published config, random weights and the given
number of classes. It says on a line that it is ready. Then, for every line on standard input, it
takes a training step or infers, and prints the loss or the number of boxes.

A training step is what MMEngine's `train_step` does after its preprocessing: the losses, their
gradients, and the published optimizer. In bfloat16 the losses or the detections are computed under
`torch.autocast`. MMCV's RoIAlign and suppression have no kernels for it on a CPU, so they get
float32: the features for the RoIs are cast, and so are the outputs of the heads, as in ours.
"""

import argparse
import contextlib
import os
import pathlib
import sys
from collections.abc import Callable
from typing import Any

# Otherwise its threads keep spinning while the other contestants run.
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"

import mmdet
import numpy as np
import torch
from mmdet.models.detectors.base import BaseDetector
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.structures import InstanceData

CONFIGS = pathlib.Path(mmdet.__file__).parent / ".mim/configs/libra_rcnn"
NAMES = {"retinanet": "libra-retinanet", "fasterrcnn": "libra-faster-rcnn"}


def read_batch(path: str) -> tuple[torch.Tensor, list[DetDataSample]]:
    """Reads a batch that `detectors.py` has written.

    Args:
      path: a .npz file with `images` `[B, 3, H, W]`, `boxes` `[B, N, 4]` in pixels (x and y of two
        corners) and `classes` `[B, N]`, from 0. A negative class is padding.

    Returns:
      The images, and their sizes and objects.
    """
    arrays = {name: torch.from_numpy(array) for name, array in np.load(path).items()}
    shape = tuple(arrays["images"].shape[2:])
    metainfo = {"img_shape": shape, "ori_shape": shape, "pad_shape": shape}
    metainfo |= {"batch_input_shape": shape, "scale_factor": (1.0, 1.0)}
    samples = []
    for boxes, classes in zip(arrays["boxes"], arrays["classes"], strict=True):
        sample = DetDataSample(metainfo=metainfo)
        real = classes >= 0
        sample.gt_instances = InstanceData(bboxes=boxes[real], labels=classes[real])
        samples.append(sample)
    return arrays["images"], samples


def build(
    detector: str, num_classes: int, batch: str, dtype: str, is_training: bool
) -> Callable[[], float]:
    """Returns a function that takes a training step or infers, with the same batch every time."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    register_all_modules()
    config = Config.fromfile(CONFIGS / f"{NAMES[detector]}_r50_fpn_1x_coco.py")
    model = _model(config, detector, num_classes)
    images, samples = read_batch(batch)
    optimizer = build_optim_wrapper(model, config.optim_wrapper)
    precision = torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16")

    def train() -> float:
        with precision:
            loss, _ = model.parse_losses(model.loss(images, samples))
        optimizer.update_params(loss)
        return float(loss)

    def infer() -> int:
        with torch.inference_mode(), precision:
            return len(model.predict(images, samples)[0].pred_instances)

    model.train(is_training)
    return train if is_training else infer


def _model(config: Config, detector: str, num_classes: int) -> BaseDetector:
    config.model.backbone.init_cfg = None  # Avoids a download.
    is_retinanet = detector == "retinanet"
    head = config.model.bbox_head if is_retinanet else config.model.roi_head.bbox_head
    head.num_classes = num_classes
    model = MODELS.build(config.model)
    model.init_weights()
    heads = [model.bbox_head] if is_retinanet else [model.rpn_head, model.roi_head.bbox_head]
    for head in heads:
        head.register_forward_hook(lambda _, inputs, outputs: _in_float32(outputs))
    if not is_retinanet:
        model.roi_head.bbox_roi_extractor.register_forward_pre_hook(
            lambda _, inputs: _in_float32(inputs)
        )
    return model


def _in_float32(tensors: Any) -> Any:
    if isinstance(tensors, torch.Tensor):
        return tensors.float()
    return tuple(_in_float32(tensor) for tensor in tensors)


def main() -> None:
    """Calls the detector once for every line on standard input."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("detector", choices=NAMES)
    parser.add_argument("--batch", required=True, help=".npz file of the images and objects")
    parser.add_argument("--num_classes", type=int, required=True)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--train", action="store_true", help="take training steps, do not infer")
    arguments = parser.parse_args()
    with contextlib.redirect_stdout(sys.stderr):
        call = build(
            arguments.detector,
            arguments.num_classes,
            arguments.batch,
            arguments.dtype,
            arguments.train,
        )
    print("ready", flush=True)
    for _ in sys.stdin:
        print(call(), flush=True)


if __name__ == "__main__":
    main()
