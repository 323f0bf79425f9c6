"""Runs MMDetection's Libra detectors in their own environment, for `detectors.py` to time.

    python3.11 -m venv mmdet
    mmdet/bin/pip install torch==2.1.2 torchvision==0.16.2 'numpy<2' 'opencv-python<4.12'
    mmdet/bin/pip install 'setuptools<70' wheel ninja psutil
    MMCV_WITH_OPS=1 mmdet/bin/pip install --no-build-isolation mmcv==2.1.0
    mmdet/bin/pip install mmdet==3.3.0
    python benchmarks/detectors.py --mmdet_python=mmdet/bin/python

Other versions were not tried. The detector has the published config, random weights and the given
number of classes. For every line on standard input it infers once on a random image, and prints the
number of boxes.
"""

import contextlib
import os
import pathlib
import sys

# Otherwise its threads keep spinning while the other contestants run.
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"

import mmdet
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.utils import register_all_modules
from mmengine.config import Config

CONFIGS = pathlib.Path(mmdet.__file__).parent / ".mim/configs/libra_rcnn"
NAMES = {"retinanet": "libra-retinanet", "fasterrcnn": "libra-faster-rcnn"}


def build(detector: str, size: int, num_classes: int):
    """Returns a function that infers on one image of `size` x `size` pixels."""
    torch.set_num_threads(2)
    register_all_modules()
    config = Config.fromfile(CONFIGS / f"{NAMES[detector]}_r50_fpn_1x_coco.py").model
    config.backbone.init_cfg = None  # Avoids a download.
    head = config.bbox_head if detector == "retinanet" else config.roi_head.bbox_head
    head.num_classes = num_classes
    model = MODELS.build(config)
    model.init_weights()
    model.eval()
    shape = (size, size)
    sample = DetDataSample(
        metainfo={
            "img_shape": shape,
            "ori_shape": shape,
            "pad_shape": shape,
            "batch_input_shape": shape,
            "scale_factor": (1.0, 1.0),
        }
    )
    image = torch.rand(1, 3, *shape)

    def infer():
        with torch.inference_mode():
            return len(model.predict(image, [sample])[0].pred_instances)

    return infer


def main(detector, size, num_classes):
    """Infers once for every line on standard input."""
    with contextlib.redirect_stdout(sys.stderr):
        infer = build(detector, int(size), int(num_classes))
    for _ in sys.stdin:
        print(infer(), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
