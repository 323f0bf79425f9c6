"""The balanced L1 loss as a Keras loss."""

import tensorflow as tf

from libra_tf import ops
from libra_tf.ops.balanced_l1 import validate_balanced_l1


class BalancedL1LossMixin:
    """Balanced L1 loss, the objective level of Libra R-CNN (section 3.3 of the paper).

    Used like Keras' `Huber`: the loss is the mean over the last axis, then weighted by
    `sample_weight` and reduced as `reduction` says. See `libra_tf.ops.balanced_l1` for the
    formula, the precision and the two forms.

    Args:
      alpha: Positive float. Smaller values raise the gradient of the inliers more.
      gamma: Positive float, the gradient of the outliers.
      beta: Positive float, where inliers end, in the units of the predictions.
      form: "paper" or "mmdet"; they differ where `beta` is not 1.
      name: Name of the loss.
      **kwargs: Arguments of the Keras loss, such as `reduction`.

    Raises:
      ValueError: If `alpha`, `gamma` or `beta` is not positive, or `form` is unknown.
    """

    def __init__(
        self,
        alpha=0.5,
        gamma=1.5,
        beta=1.0,
        form="paper",
        name="balanced_l1_loss",
        **kwargs,
    ):
        validate_balanced_l1(alpha, gamma, beta, form)
        super().__init__(name=name, **kwargs)
        self.alpha = alpha
        self.gamma = gamma
        self.beta = beta
        self.form = form

    def call(self, y_true, y_pred):
        """Computes the loss of every row.

        Args:
          y_true: Tensor [..., D], the regression targets.
          y_pred: Tensor [..., D], the predictions.

        Returns:
          Tensor [...], float32 (float64 where `y_pred` is).
        """
        loss = ops.balanced_l1(y_true, y_pred, self.alpha, self.gamma, self.beta, self.form)
        return tf.reduce_mean(loss, axis=-1)

    def get_config(self):
        """Returns the arguments from which the loss can be made again."""
        return {
            **super().get_config(),
            "alpha": self.alpha,
            "gamma": self.gamma,
            "beta": self.beta,
            "form": self.form,
        }
