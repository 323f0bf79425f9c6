"""MMDetection's balanced feature pyramid and balanced L1 loss in PyTorch.

These are the same operations in the same order and layout (NCHW), written from their description.
This needs `pip install torch`; without it, the tables leave out these rows.
"""

import math
import os

# Otherwise its threads keep spinning while the other contestants run.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
import torch.nn.functional as F  # noqa: N812, its usual name


class NonLocal(torch.nn.Module):
    """Embedded Gaussian non-local block with reduction 1.

    Args:
      channels: number of channels.
    """

    def __init__(self, channels):
        super().__init__()
        for name in ("g", "theta", "phi", "out"):
            setattr(self, name, torch.nn.Conv2d(channels, channels, 1))
        torch.nn.init.zeros_(self.out.weight)

    def forward(self, x):
        """Applies the block to [B, C, H, W]."""
        g, theta = (f(x).flatten(2).transpose(1, 2) for f in (self.g, self.theta))
        affinities = torch.matmul(theta, self.phi(x).flatten(2)).softmax(dim=-1)
        y = torch.matmul(affinities, g).transpose(1, 2).reshape(x.shape)
        return x + self.out(y)


class Pyramid(torch.nn.Module):
    """Balanced feature pyramid.

    Args:
      channels: number of channels.
      refine_level: index of the level to refine, counted from the finest.
    """

    def __init__(self, channels, refine_level):
        super().__init__()
        self.refine = NonLocal(channels)
        self.refine_level = refine_level

    def forward(self, levels):
        """Balances a list of levels [B, C, H, W], from fine to coarse."""
        size = levels[self.refine_level].shape[2:]
        gathered = [_resize(level, size) for level in levels]
        balanced = self.refine(sum(gathered) / len(gathered))
        return [level + _resize(balanced, level.shape[2:]) for level in levels]


def build_pyramid(shapes, refine_level, with_gradient):
    """Returns a call that balances random levels.

    Args:
      shapes: by level, (batch, height, width, channels).
      refine_level: key of the level to refine.
      with_gradient: whether the call includes the backward pass.
    """
    torch.set_num_threads(2)
    levels = [
        torch.randn(batch, channels, height, width, requires_grad=with_gradient)
        for batch, height, width, channels in shapes.values()
    ]
    pyramid = Pyramid(levels[0].shape[1], list(shapes).index(refine_level))

    def forward():
        with torch.no_grad():
            return pyramid(levels)

    def forward_and_backward():
        for tensor in (*levels, *pyramid.parameters()):
            tensor.grad = None
        outputs = pyramid(levels)
        torch.autograd.backward(outputs, [torch.ones_like(output) for output in outputs])

    return forward_and_backward if with_gradient else forward


def build_balanced_l1(shape, alpha=0.5, gamma=1.5):
    """Returns a call that computes the mean loss and its gradient."""
    torch.set_num_threads(2)
    prediction, target = torch.randn(shape, requires_grad=True), torch.randn(shape)
    b = math.expm1(gamma / alpha)

    def compute():
        prediction.grad = None
        error = torch.abs(prediction - target)
        inlier = alpha / b * (b * error + 1) * torch.log(b * error + 1) - alpha * error
        loss = torch.where(error < 1, inlier, gamma * error + gamma / b - alpha)
        loss.mean().backward()

    return compute


def _resize(x, size):
    if x.shape[2] > size[0]:
        return F.adaptive_max_pool2d(x, size)
    return F.interpolate(x, size=size, mode="nearest")
