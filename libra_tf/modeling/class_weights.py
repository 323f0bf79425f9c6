"""Weights of the classes in the loss of the class scores, and the focal loss that has them.

The RoI head's loss of the class scores has weights in Model Garden already.
"""

import contextlib
import types
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from official.vision.losses import focal_loss
from official.vision.tasks import retinanet

from libra_tf import compat
from libra_tf.configs.components import EFFECTIVE_NUMBER, INVERSE_FREQUENCY, ClassWeights


def class_weights(weighting: str, num_objects: np.ndarray, beta: float) -> np.ndarray:
    """Returns weights that are larger for rare classes; their mean over the objects is 1.

    So the average object weighs as much as the background does. With a mean of 1 over the classes,
    it would weigh far less where the rare classes are very rare, since few objects have their large
    weights; a softmax head would then find hardly anything but background.

    Args:
      weighting: `effective_number` for (1 - beta) / (1 - beta^n), where n is the number of objects
        of the class (equations 2 and 4 of the paper), or `inverse_frequency` for 1 / n.
      num_objects: int `[C]`, the number of objects by class id. Ids without objects, such as 0, the
        background, get the weight 1.
      beta: the constant of `effective_number`, at least 0 and below 1.

    Returns:
      float64 `[C]`.

    Raises:
      ValueError: if there are no objects, or `weighting` is neither.

    References:
      - Cui et al., Class-Balanced Loss Based on Effective Number of Samples, CVPR 2019.
        https://arxiv.org/abs/1901.05555
    """
    present = np.asarray(num_objects, np.float64)[np.asarray(num_objects) > 0]
    if weighting not in (EFFECTIVE_NUMBER, INVERSE_FREQUENCY):
        raise ValueError(
            f"weighting is {weighting!r}; it must be {EFFECTIVE_NUMBER} or {INVERSE_FREQUENCY}"
        )
    if not present.size:
        raise ValueError("there are no objects to weigh the classes by")
    if weighting == INVERSE_FREQUENCY:
        of_present = 1 / present
    else:
        # 1 - beta^n would be rounded to 0 for a beta of 1 - 1e-17.
        log_beta = np.log(beta) if beta else -np.inf
        of_present = (1 - beta) / -np.expm1(present * log_beta)
    weights = np.ones(len(num_objects))
    weights[np.asarray(num_objects) > 0] = of_present * present.sum() / (of_present * present).sum()
    return weights


def check_filled(losses: ClassWeights) -> None:
    """Checks that the weights that a config asks for are there, as a loss is built from them.

    Args:
      losses: the config.

    Raises:
      ValueError: if they have not been counted.
    """
    if losses.class_weighting != "none" and losses.class_weights is None:
        raise ValueError(
            f"task.losses.class_weighting is {losses.class_weighting}, but "
            "task.losses.class_weights is not set; give a weight for the background and one for "
            "each class id, or train with run.py, which counts the objects of the training images"
        )


class ClassWeightedFocalLoss(focal_loss.FocalLoss):
    """Model Garden's focal loss in which each class has a weight.

    The weight of its class multiplies all terms of an anchor (section 4.3 of the paper), as that of
    an RoI does in a two-stage detector.

    Args:
      class_weights: a weight for each class, the background first.
      **kwargs: arguments of Model Garden's loss.

    References:
      - Cui et al., Class-Balanced Loss Based on Effective Number of Samples, CVPR 2019.
        https://arxiv.org/abs/1901.05555
    """

    def __init__(self, class_weights: Sequence[float], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._class_weights = list(class_weights)

    def call(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        """Returns the weighted loss of every anchor and class.

        Args:
          y_true: `[B, num_anchors, num_classes]`, 1 for the class of an anchor; of the background,
            all are 0.
          y_pred: `[B, num_anchors, num_classes]`, logits.

        Returns:
          float32 `[B, num_anchors, num_classes]`.
        """
        loss = super().call(y_true, y_pred)
        background, *others = self._class_weights
        is_class = tf.cast(y_true[..., 1:], loss.dtype)
        # Differences, so that an anchor without a class keeps the weight of the background.
        more = tf.constant(others, loss.dtype) - background
        of_anchor = background + tf.reduce_sum(is_class * more, axis=-1, keepdims=True)
        return loss * of_anchor

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments that recreate the loss."""
        return {**super().get_config(), "class_weights": self._class_weights}


@contextlib.contextmanager
def weighing_focal_loss(weights: Sequence[float] | None) -> Iterator[None]:
    """Lets Model Garden's RetinaNet weigh the classes in its loss while the block runs.

    Args:
      weights: a weight for each class, the background included; None changes nothing.
    """
    if weights is None:
        yield
        return

    def weighted(**kwargs: Any) -> ClassWeightedFocalLoss:
        return ClassWeightedFocalLoss(weights, **kwargs)

    # In the task's module alone: the class itself looks its name up in its own.
    weighted_module = types.SimpleNamespace(FocalLoss=weighted)
    with compat.substituted(retinanet, "focal_loss", weighted_module):
        yield
