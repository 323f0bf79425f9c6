"""Losses on the Keras that Model Garden uses."""

from libra_tf.losses.balanced_l1_loss import BalancedL1Loss

__all__ = ["BalancedL1Loss"]
