"""Fine-tunes a detector in MMDetection's environment, for `fine_tuning.py` to compare with.

The batches and the learning rate of every step are those of `fine_tuning.py`. A step is what
MMEngine's `train_step` does after its preprocessing, with SGD and no clipping. The loss of every
step is printed as a JSON list. `mmdetection.py` explains how to install the environment.
"""

import argparse
import contextlib
import json
import pathlib
import sys

from mmdetection import read_batch  # isort: skip, sets what PyTorch reads at import

import numpy as np
import torch
from mmdet.models.detectors.base import BaseDetector
from mmdet.registry import MODELS
from mmdet.utils import register_all_modules
from mmengine.config import Config


def train(checkpoint: pathlib.Path, folder: pathlib.Path) -> list[float]:
    """Fine-tunes a detector.

    Args:
      checkpoint: the weights, `NAME.pth`; the model's config is beside it in `NAME_config.txt`.
      folder: a file for each step, which `read_batch` can read. It also has `img_shapes` and
        `pad_shapes` `[B, 2]` (height and width without padding, and with the image's own) and
        `learning_rate`.

    Returns:
      The loss of every step.
    """
    register_all_modules()
    # The samplers use both.
    torch.manual_seed(0)
    np.random.seed(0)
    model = _model(checkpoint)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.0, momentum=0.9, weight_decay=1e-4)
    losses = []
    for path in sorted(folder.glob("*.npz")):
        images, samples = read_batch(path)
        with np.load(path) as arrays:
            shapes = [arrays[name].tolist() for name in ("img_shapes", "pad_shapes")]
            optimizer.param_groups[0]["lr"] = float(arrays["learning_rate"])
        for sample, img_shape, pad_shape in zip(samples, *shapes, strict=True):
            sample.set_metainfo({"img_shape": tuple(img_shape), "pad_shape": tuple(pad_shape)})
        loss, _ = model.parse_losses(model.loss(images, samples))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    return losses


def _model(checkpoint: pathlib.Path) -> BaseDetector:
    """Returns the detector in train mode."""
    text = checkpoint.with_name(f"{checkpoint.stem}_config.txt").read_text()
    model = MODELS.build(Config.fromstring(f"model = {text}", ".py").model)
    saved = torch.load(checkpoint, map_location="cpu")
    model.load_state_dict(saved["state_dict"], strict=True)
    return model.train()


def main() -> None:
    """Prints the losses."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("checkpoint", type=pathlib.Path, help="the detector's weights")
    parser.add_argument("folder", type=pathlib.Path, help="folder of the batches")
    arguments = parser.parse_args()
    with contextlib.redirect_stdout(sys.stderr):
        losses = train(arguments.checkpoint, arguments.folder)
    print(json.dumps(losses))


if __name__ == "__main__":
    main()
