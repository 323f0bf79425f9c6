"""Puts IoU-balanced sampling into a Mask R-CNN built by Model Garden."""

import random
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from libra_tf import layers
from libra_tf.compat import keras
from libra_tf.configs import components


def use_libra_sampler(
    model: keras.Model, config: components.ROISampler, ignore_fillers: bool = False
) -> None:
    """Replaces the sampler of the first stage.

    Later cascade stages keep theirs, because they do not sample.

    Args:
      model: Model Garden's `MaskRCNNModel`, changed in place.
      config: config of the sampler. `type: random` draws at random.
      ignore_fillers: whether boxes that fill a shortfall have no part in the losses.
    """
    is_balanced = config.type == "iou_balanced"
    sampler = layers.IoUBalancedROISampler(
        mix_gt_boxes=config.mix_gt_boxes,
        num_sampled_rois=config.num_sampled_rois,
        foreground_fraction=config.foreground_fraction,
        foreground_iou_threshold=config.foreground_iou_threshold,
        background_iou_high_threshold=config.background_iou_high_threshold,
        background_iou_low_threshold=config.background_iou_low_threshold,
        num_bins=config.num_bins,
        floor_threshold=config.floor_threshold,
        floor_fraction=config.floor_fraction,
        bin_range=config.bin_range,
        instance_balanced=is_balanced and config.instance_balanced,
        iou_balanced=is_balanced,
        ignore_fillers=ignore_fillers,
        # Different in every run, but repeatable with `keras.utils.set_random_seed`.
        seed=random.randrange(2**31),
        class_balanced=config.class_balanced,
    )
    # Replacing an item of the tracked list would make it impossible to checkpoint the model.
    model.roi_sampler = [sampler, *model.roi_sampler[1:]]


def set_step(model: keras.Model, step: tf.Variable) -> None:
    """Connects the balanced sampler of a model, if it has one, to the training step.

    Args:
      model: Model Garden's `MaskRCNNModel`, changed in place.
      step: the training step.
    """
    sampler = model.roi_sampler[0]
    if isinstance(sampler, layers.IoUBalancedROISampler):
        sampler.step = lambda: step


def propose(
    model: keras.Model,
    rpn_boxes: Mapping[str, tf.Tensor],
    rpn_scores: Mapping[str, tf.Tensor],
    labels: Mapping[str, Any],
) -> tf.Tensor:
    """Returns the proposals that the RoI sampler chooses from in a training step.

    Args:
      model: Model Garden's `MaskRCNNModel`.
      rpn_boxes: by level, the boxes that its RPN predicts.
      rpn_scores: by level, the scores that its RPN predicts.
      labels: as in training.

    Returns:
      float `[B, N, 4]`, `[ymin, xmin, ymax, xmax]` in pixels; boxes of -1 are padding.
    """
    image_shape = labels["image_info"][:, 1]
    rois, _ = model.roi_generator(
        rpn_boxes, rpn_scores, labels["anchor_boxes"], image_shape, training=True
    )
    if model.roi_sampler[0].get_config()["mix_gt_boxes"]:
        rois = tf.concat([rois, tf.cast(labels["gt_boxes"], rois.dtype)], axis=1)
    return rois
