"""Measures of a detector's feature pyramid: what is integrated, and what that changes."""

from typing import Any

import numpy as np
import tensorflow as tf
from official.vision.modeling.decoders import fpn

from libra_tf.analysis import features
from libra_tf.analysis.detector import Detector
from libra_tf.compat import keras
from libra_tf.layers import BalancedFeaturePyramid, NonLocal2D
from libra_tf.modeling.libra_fpn import LibraFPN
from libra_tf.modeling.mmdetection.pyramid import MMDetectionFPN

# Where the published models integrate.
_DEFAULT_LEVEL = 4


class PyramidTally:
    """Measures of the pyramid over many images.

    With a plain FPN, `before` is the pyramid and there is no `after`. The shares are then those
    that the levels would have if they were integrated.

    Args:
      detector: the detector with the pyramid.
    """

    def __init__(self, detector: Detector):
        self._model = detector.model
        self._levels = detector.levels
        decoder = detector.model.decoder
        self.is_balanced = isinstance(decoder, LibraFPN)
        if self.is_balanced:
            self._fpn = _layer(decoder, (fpn.FPN, MMDetectionFPN))
            self._balanced = _layer(decoder, BalancedFeaturePyramid)
        else:
            level = min(max(_DEFAULT_LEVEL, self._levels[0]), self._levels[-1])
            self._fpn = decoder
            self._balanced = BalancedFeaturePyramid(level, refine_type=None)
        self.refine_level = int(self._balanced.refine_level)
        self._moments = {
            side: {level: features.Moments() for level in self._levels}
            for side in ("before", "after")
        }
        self._shares = []
        self._changes = []
        self._reach = []
        self._run = tf.function(self._look, autograph=False)

    def add(self, images: tf.Tensor) -> None:
        """Adds images.

        Args:
          images: float `[B, height, width, 3]`.
        """
        seen = tf.nest.map_structure(lambda tensor: tensor.numpy(), self._run(images))
        for side in ("before", "after") if self.is_balanced else ("before",):
            for level in self._levels:
                self._moments[side][level].add(seen[side][str(level)])
        for i in range(len(images)):
            self._shares.append(features.level_shares([level[i] for level in seen["gathered"]]))
            if "refined" in seen:
                integrated, refined = seen["integrated"][i], seen["refined"][i]
                self._changes.append(
                    np.linalg.norm(refined - integrated) / (np.linalg.norm(integrated) or 1)
                )
            if "attention" in seen:
                height, width = seen["integrated"].shape[1:3]
                self._reach.append(features.attention_reach(seen["attention"][i], height, width))

    def result(self) -> dict[str, Any]:
        """Returns all numbers, ready for JSON."""
        stride = 2**self.refine_level
        sides = ("before", "after") if self.is_balanced else ("before",)
        return {
            "is_balanced": self.is_balanced,
            "refine_level": self.refine_level,
            "refine_type": self._balanced.refine_type if self.is_balanced else None,
            "levels": [str(level) for level in self._levels],
            **{
                key: np.mean([shares[key] for shares in self._shares], axis=0).tolist()
                for key in ("share", "magnitude")
            },
            **{
                side: {str(k): moments.result() for k, moments in self._moments[side].items()}
                for side in sides
            },
            "refinement_change": float(np.mean(self._changes)) if self._changes else None,
            "attention": self._attention_result(stride) if self._reach else None,
        }

    def _attention_result(self, stride: int) -> dict[str, Any]:
        entropy = np.concatenate([reach["entropy"] for reach in self._reach])
        distance = np.concatenate([reach["distance"] for reach in self._reach]) * stride
        counts, edges = np.histogram(entropy, bins=20, range=(0, 1))
        return {
            "entropy": float(entropy.mean()),
            "distance_pixels": float(distance.mean()),
            "uniform_distance_pixels": self._reach[0]["uniform_distance"] * stride,
            "entropy_histogram": {
                "edges": edges.round(2).tolist(),
                "share": (counts / counts.sum()).tolist(),
            },
        }

    def attention_at(self, image: tf.Tensor, point: tuple[float, float]) -> np.ndarray | None:
        """Returns the attention of a point of an image.

        Args:
          image: `[height, width, 3]`.
          point: y and x in pixels of the image.

        Returns:
          Float array `[H, W]` that sums to 1; None without a non-local block.
        """
        seen = self._run(image[None])
        if "attention" not in seen:
            return None
        height, width = seen["integrated"].shape[1:3]
        stride = 2**self.refine_level
        row = min(int(point[0]) // stride, height - 1)
        column = min(int(point[1]) // stride, width - 1)
        return seen["attention"][0, row * width + column].numpy().reshape(height, width)

    def _look(self, images: tf.Tensor) -> dict[str, Any]:
        """What the pyramid computes on its way, by name."""
        before = self._fpn(self._model.backbone(images, training=False), training=False)
        before = {str(level): before[str(level)] for level in self._levels}
        gathered = self._balanced.gather(before)
        integrated = tf.add_n(gathered) / len(gathered)
        seen = {"before": before, "gathered": gathered, "integrated": integrated}
        if not self.is_balanced:
            return seen
        seen["after"] = self._balanced(before)
        refine = self._balanced.refine
        if refine is not None:
            seen["refined"] = refine(integrated)
        if isinstance(refine, NonLocal2D):
            seen["attention"] = refine.attention(integrated)
        return seen


def _layer(
    model: keras.Model, kind: type[keras.layers.Layer] | tuple[type[keras.layers.Layer], ...]
) -> keras.layers.Layer:
    return next(layer for layer in model.layers if isinstance(layer, kind))
