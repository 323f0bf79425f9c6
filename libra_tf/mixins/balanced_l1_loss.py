"""The balanced L1 loss as a Keras loss."""

from typing import Any

import tensorflow as tf

from libra_tf import ops
from libra_tf.ops.balanced_l1 import validate_balanced_l1


class BalancedL1LossMixin:
    """Balanced L1 loss, the objective level of Libra R-CNN (section 3.3 of the paper).

    Used like Keras' `Huber`: the loss is the mean over the last axis, then weighted by
    `sample_weight` and reduced according to `reduction`. See `libra_tf.ops.balanced_l1` for the
    formula, the precision and the two forms.

    Inputs: `y_true` and `y_pred`, float `[..., D]`. The loss is float64 if `y_pred` is, else
    float32, and has shape `[...]` before the reduction.

    Args:
      alpha: positive. Smaller values raise the gradient of the inliers more.
      gamma: positive, the gradient of the outliers.
      beta: positive, where inliers end, in the units of the predictions.
      form: "paper" or "mmdet"; they differ unless `beta` is 1.
      name: the name of the loss.
      **kwargs: arguments of the Keras loss, such as `reduction`.

    Raises:
      ValueError: if `alpha`, `gamma` or `beta` is not positive, or `form` is unknown.

    References:
      - Pang et al., Libra R-CNN: Towards Balanced Learning for Object Detection, CVPR 2019.
        https://arxiv.org/abs/1904.02701
    """

    def __init__(
        self,
        alpha: float = 0.5,
        gamma: float = 1.5,
        beta: float = 1.0,
        form: str = "paper",
        name: str = "balanced_l1_loss",
        **kwargs: Any,
    ) -> None:
        validate_balanced_l1(alpha, gamma, beta, form)
        super().__init__(name=name, **kwargs)
        self.alpha = alpha
        self.gamma = gamma
        self.beta = beta
        self.form = form

    def call(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        """Computes the mean loss over the last axis.

        Args:
          y_true: float `[..., D]`, the regression targets.
          y_pred: float `[..., D]`, the predictions.

        Returns:
          `[...]`, float64 if `y_pred` is, else float32.
        """
        loss = ops.balanced_l1(y_true, y_pred, self.alpha, self.gamma, self.beta, self.form)
        return tf.reduce_mean(loss, axis=-1)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments that recreate the loss."""
        return {
            **super().get_config(),
            "alpha": self.alpha,
            "gamma": self.gamma,
            "beta": self.beta,
            "form": self.form,
        }
