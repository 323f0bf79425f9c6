"""Libra R-CNN as pure TensorFlow functions: no Keras, no Model Garden."""

from libra_tf.ops.balanced_l1 import balanced_l1
from libra_tf.ops.non_local import (
    non_local_concatenation,
    non_local_dot_product,
    non_local_gaussian,
)
from libra_tf.ops.resampling import adaptive_max_pool2d, add_nearest2d, resize_nearest2d
from libra_tf.ops.roi_align import roi_align
from libra_tf.ops.sampling import (
    sample_class_balanced,
    sample_instance_balanced,
    sample_iou_balanced,
    sample_random,
)

__all__ = [
    "adaptive_max_pool2d",
    "add_nearest2d",
    "balanced_l1",
    "non_local_concatenation",
    "non_local_dot_product",
    "non_local_gaussian",
    "resize_nearest2d",
    "roi_align",
    "sample_class_balanced",
    "sample_instance_balanced",
    "sample_iou_balanced",
    "sample_random",
]
