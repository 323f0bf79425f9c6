"""The convolutions of MMDetection's Libra RetinaNet R-50 in PyTorch, from image to predictions.

It has neither anchors nor suppression: what it takes is a lower bound for the whole detector.
"""

import torch
from torch import nn
from torch.nn import functional

from pytorch import Pyramid

NUM_ANCHORS = 9


class Bottleneck(nn.Module):
    """The residual block of ResNet-50, with its stride in the 3x3 convolution."""

    def __init__(self, channels, width, stride):
        super().__init__()
        self.convs = nn.Sequential(
            *_conv_norm(channels, width, 1),
            nn.ReLU(inplace=True),
            *_conv_norm(width, width, 3, stride),
            nn.ReLU(inplace=True),
            *_conv_norm(width, 4 * width, 1),
        )
        is_first = channels != 4 * width
        self.shortcut = (
            nn.Sequential(*_conv_norm(channels, 4 * width, 1, stride))
            if is_first
            else nn.Identity()
        )

    def forward(self, x):
        """Returns the sum of the block and its shortcut."""
        return functional.relu(self.convs(x) + self.shortcut(x), inplace=True)


class RetinaNet(nn.Module):
    """ResNet-50, FPN, balanced feature pyramid and both heads."""

    def __init__(self, num_classes):
        super().__init__()
        self.stem = nn.Sequential(
            *_conv_norm(3, 64, 7, 2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)
        )
        channels, self.stages = 64, nn.ModuleList()
        for width, num_blocks, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
            blocks = [Bottleneck(channels, width, stride)]
            blocks += [Bottleneck(4 * width, width, 1) for _ in range(num_blocks - 1)]
            self.stages.append(nn.Sequential(*blocks))
            channels = 4 * width
        self.laterals = nn.ModuleList(nn.Conv2d(c, 256, 1) for c in (512, 1024, 2048))
        self.outputs = nn.ModuleList(_conv(256, 256) for _ in range(3))
        self.extra = nn.ModuleList((_conv(2048, 256, 2), _conv(256, 256, 2)))
        self.pyramid = Pyramid(256, 1)
        self.heads = nn.ModuleList(_head(NUM_ANCHORS * size) for size in (num_classes, 4))

    def forward(self, images):
        """Returns the class and box predictions of every level."""
        x, features = self.stem(images), []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        laterals = [conv(x) for conv, x in zip(self.laterals, features[1:], strict=True)]
        for fine, coarse in ((1, 2), (0, 1)):
            laterals[fine] = laterals[fine] + functional.interpolate(
                laterals[coarse], size=laterals[fine].shape[2:]
            )
        levels = [conv(x) for conv, x in zip(self.outputs, laterals, strict=True)]
        levels.append(self.extra[0](features[-1]))
        levels.append(self.extra[1](levels[-1]))
        return [[head(level) for head in self.heads] for level in self.pyramid(levels)]


def _conv(channels, filters, stride=1):
    return nn.Conv2d(channels, filters, 3, stride, 1)


def _conv_norm(channels, filters, size, stride=1):
    conv = nn.Conv2d(channels, filters, size, stride, size // 2, bias=False)
    return conv, nn.BatchNorm2d(filters)


def _head(num_outputs):
    towers = [layer for _ in range(4) for layer in (_conv(256, 256), nn.ReLU(inplace=True))]
    return nn.Sequential(*towers, _conv(256, num_outputs))


def build(size, num_classes):
    """Returns a function that infers on one image of `size` pixels square."""
    torch.set_num_threads(2)
    model = RetinaNet(num_classes).eval()
    image = torch.rand(1, 3, size, size)

    def infer():
        with torch.inference_mode():
            return model(image)[0][0].numpy()

    return infer
