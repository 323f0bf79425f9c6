"""Model Garden's RoI sampler that selects RoIs as Libra R-CNN does."""

from typing import Any

import tensorflow as tf
from official.vision.modeling.layers import roi_sampler

from libra_tf.compat import keras
from libra_tf.ops import pools, sampling
from libra_tf.ops.boxes import is_object


@keras.utils.register_keras_serializable(package="libra_tf")
class IoUBalancedROISampler(roi_sampler.ROISampler):
    """Samples RoIs evenly over IoU and instances, and assigns their targets.

    The sample level of Libra R-CNN (section 3.1 of the paper), as a drop-in for Model Garden's
    `ROISampler`: the same call, outputs and targets; only the choice of the RoIs differs. Of the
    `num_sampled_rois` RoIs of an image, at most `int(num_sampled_rois * foreground_fraction)` are
    positives, drawn evenly over the instances (or over the classes first); the rest are negatives,
    drawn evenly over the range of their IoUs with the nearest instance.

    If an image has too few positives and negatives, other boxes fill the shortfall, to keep the
    shape. Boxes that are neither come first (padding, then ignored ones); they count as background
    with class 0, an empty box and instance -1. Positives beyond their share come next and keep
    their own targets. Model Garden takes the boxes of lowest index among all of these.

    Padding is made of -1, as in the ground truth. The zeros with which Model Garden's RoI generator
    pads its proposals are negatives of IoU 0, as in its own sampler.

    Boxes keep their dtype under mixed precision: bfloat16 would round coordinates above 512 to
    multiples of 4 pixels.

    Args:
      mix_gt_boxes: whether to add the ground truth boxes to the proposals.
      num_sampled_rois: the number K of RoIs to sample per image.
      foreground_fraction: the largest share of positives, in [0, 1].
      foreground_iou_threshold: the IoU from which a box is positive.
      background_iou_high_threshold: the IoU below which a box is negative; also where the bins end
        if `bin_range` is "candidates".
      background_iou_low_threshold: the IoU from which a box is negative.
      skip_subsampling: whether to return all boxes, as later stages of Cascade R-CNN do.
      num_bins: the number of IoU bins of the negatives, at least 1.
      floor_threshold: the IoU below which negatives are kept out of the bins, see
        `libra_tf.ops.sample_iou_balanced`; -1 for no such floor.
      floor_fraction: the share of the negatives to take from the floor, in [0, 1].
      bin_range: "candidates" (the paper) or "all" (MMDetection), see
        `libra_tf.ops.sample_iou_balanced`.
      instance_balanced: whether positives are balanced; otherwise they are drawn at random.
      iou_balanced: whether negatives are balanced; otherwise they are drawn at random.
      ignore_fillers: whether boxes that fill a shortfall get the class -1, for losses that leave
        them out, as MMDetection does, which samples fewer RoIs then. Like there, the proposals of
        an image without instances are then negatives, and not fillers, and a ground truth box
        among the proposals belongs to its own instance, even if another one has the same box.
      seed: with an int, a draw depends only on the seed, on `step` and on the image: it is the same
        in every run, compiled or not, on one device or on several. None: every call draws new RoIs.
      class_balanced: whether positives are drawn evenly over the classes first, and then over the
        instances of each class, see `libra_tf.ops.sample_class_balanced`; `instance_balanced` has
        no effect then. Not part of Libra R-CNN.
      **kwargs: arguments of the Keras layer, such as `name` and `dtype`.

    Attributes:
      step: a function without arguments that returns the training step. Training sets it, so that a
        seeded sampler draws new RoIs at each step. It is not the step itself, because Keras would
        take a variable for a weight of the layer.

    Raises:
      ValueError: if an argument is outside its range.

    References:
      - Pang et al., Libra R-CNN: Towards Balanced Learning for Object Detection, CVPR 2019.
        https://arxiv.org/abs/1904.02701
    """

    def __init__(
        self,
        mix_gt_boxes: bool = True,
        num_sampled_rois: int = 512,
        foreground_fraction: float = 0.25,
        foreground_iou_threshold: float = 0.5,
        background_iou_high_threshold: float = 0.5,
        background_iou_low_threshold: float = 0.0,
        skip_subsampling: bool = False,
        num_bins: int = 3,
        floor_threshold: float = -1.0,
        floor_fraction: float = 0.0,
        bin_range: str = "candidates",
        instance_balanced: bool = True,
        iou_balanced: bool = True,
        ignore_fillers: bool = False,
        seed: int | None = None,
        class_balanced: bool = False,
        **kwargs: Any,
    ) -> None:
        bins = sampling.IoUBins(
            num_bins,
            floor_threshold,
            floor_fraction,
            bin_range,
            background_iou_high_threshold if bin_range == "candidates" else None,
        )
        if num_sampled_rois < 1:
            raise ValueError(f"`num_sampled_rois` must be positive, got {num_sampled_rois}.")
        if not 0 <= foreground_fraction <= 1:
            raise ValueError(f"`foreground_fraction` must be in [0, 1], got {foreground_fraction}.")
        super().__init__(
            mix_gt_boxes,
            num_sampled_rois,
            foreground_fraction,
            foreground_iou_threshold,
            background_iou_high_threshold,
            background_iou_low_threshold,
            skip_subsampling,
            autocast=False,
            **kwargs,
        )
        self._config_dict = {
            **self._config_dict,
            "num_bins": num_bins,
            "floor_threshold": floor_threshold,
            "floor_fraction": floor_fraction,
            "bin_range": bin_range,
            "instance_balanced": instance_balanced,
            "iou_balanced": iou_balanced,
            "ignore_fillers": ignore_fillers,
            "seed": seed,
            "class_balanced": class_balanced,
        }
        self._bins = bins
        self.step = lambda: 0

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments that recreate the layer."""
        # Model Garden's method leaves out those of the Keras layer.
        return {**keras.layers.Layer.get_config(self), **self._config_dict}

    def call(
        self,
        boxes: tf.Tensor,
        gt_boxes: tf.Tensor,
        gt_classes: tf.Tensor,
        gt_outer_boxes: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor, ...]:
        """Samples RoIs and assigns their targets.

        Args:
          boxes: float `[B, N, 4]`, the proposals, `[ymin, xmin, ymax, xmax]` in pixels of the
            scaled image. Boxes of -1 are padding.
          gt_boxes: `[B, M, 4]`, the boxes of the instances, likewise.
          gt_classes: int `[B, M]`, the classes of the instances, -1 for padding.
          gt_outer_boxes: `[B, M, 4]`, a second box of every instance.

        Returns:
          sampled_rois: `[B, K, 4]`, in no particular order, except that boxes which fill a
            shortfall come last.
          sampled_gt_boxes: `[B, K, 4]`, the boxes of the matched instances, 0 for background.
          sampled_gt_outer_boxes: `[B, K, 4]`, likewise; only if `gt_outer_boxes` is given.
          sampled_gt_classes: `[B, K]`, the classes of the matched instances, 0 for background, and
            -1 for boxes that fill a shortfall, if the layer ignores these.
          sampled_gt_indices: int32 `[B, K]`, the matched instances, -1 for background.

        Raises:
          ValueError: if there are fewer boxes than RoIs to sample.
        """
        if self._config_dict["skip_subsampling"]:
            return super().call(boxes, gt_boxes, gt_classes, gt_outer_boxes)
        gt_boxes = tf.cast(gt_boxes, boxes.dtype)
        if self._config_dict["mix_gt_boxes"]:
            boxes = tf.concat([boxes, gt_boxes], axis=1)
        self._check_enough(boxes)

        ious = self._sim_calc(boxes, gt_boxes, _is_padding(boxes), _is_padding(gt_boxes))
        instances, indicators = self._box_matcher(ious)
        if self._config_dict["ignore_fillers"]:
            indicators = _negative_without_instances(indicators, boxes, gt_boxes)
            if self._config_dict["mix_gt_boxes"]:
                instances, indicators = _own_instances(instances, indicators, gt_boxes)
        chosen = self.choose(ious, instances, indicators, gt_classes)
        foreground = tf.gather(indicators, chosen, batch_dims=1) >= 0
        chosen_instances = tf.gather(instances, chosen, batch_dims=1)
        per_instance = [gt_boxes, gt_classes]
        if gt_outer_boxes is not None:
            per_instance.insert(1, gt_outer_boxes)
        targets = [_gather_targets(t, chosen_instances, foreground) for t in per_instance]
        if self._config_dict["ignore_fillers"]:
            targets[-1] = tf.where(self._is_sampled(indicators), targets[-1], -1)
        indices = tf.where(foreground, chosen_instances, -1)
        return (tf.gather(boxes, chosen, batch_dims=1), *targets, indices)

    def _check_enough(self, boxes: tf.Tensor) -> None:
        wanted = self._config_dict["num_sampled_rois"]
        if boxes.shape[1] is not None and boxes.shape[1] < wanted:
            raise ValueError(
                f"The RoI sampler cannot sample {wanted} RoIs from {boxes.shape[1]} boxes: lower "
                "`num_sampled_rois` or keep more proposals."
            )

    def choose(
        self,
        ious: tf.Tensor,
        instances: tf.Tensor,
        indicators: tf.Tensor,
        gt_classes: tf.Tensor,
    ) -> tf.Tensor:
        """Chooses the boxes to sample.

        Args:
          ious: float `[B, N, M]`, the IoU of each box with each instance.
          instances: int32 `[B, N]`, the instance of largest IoU of each box.
          indicators: int32 `[B, N]`, from Model Garden's matcher: 1 for positives, -1 for
            negatives, -2 for ignored boxes and -3 for padding.
          gt_classes: int `[B, M]`, the classes of the instances.

        Returns:
          int32 `[B, K]`, the indices of the chosen boxes.
        """
        config = self._config_dict
        positives, negatives = indicators >= 0, tf.equal(indicators, -1)
        num_rois = config["num_sampled_rois"]
        num_positives = self._num_positives(indicators)
        max_ious = tf.reduce_max(ious, axis=2)
        # The summed bits of the IoUs tell images apart.
        row_keys = tf.reduce_sum(tf.bitcast(tf.cast(max_ious, tf.float32), tf.int32), axis=1)
        both = [
            self._positive_pool(instances, positives, num_positives, gt_classes, row_keys),
            self._negative_pool(max_ious, negatives, num_rois - num_positives),
        ]
        is_ignored = tf.cast(tf.equal(indicators, -2), tf.int32)
        return pools.draw_indices(both, num_rois, is_ignored, 2, self._seed(), row_keys)

    def _num_positives(self, indicators: tf.Tensor) -> tf.Tensor:
        """Returns how many positives to sample, int32 `[B]`."""
        config = self._config_dict
        return tf.minimum(
            tf.reduce_sum(tf.cast(indicators >= 0, tf.int32), axis=1),
            int(config["num_sampled_rois"] * config["foreground_fraction"]),
        )

    def _is_sampled(self, indicators: tf.Tensor) -> tf.Tensor:
        """Returns which of the chosen boxes fill no shortfall, bool `[B, K]`."""
        num_rois, num_positives = (
            self._config_dict["num_sampled_rois"],
            self._num_positives(indicators),
        )
        num_negatives = tf.reduce_sum(tf.cast(tf.equal(indicators, -1), tf.int32), axis=1)
        return tf.sequence_mask(tf.minimum(num_positives + num_negatives, num_rois), num_rois)

    def _positive_pool(
        self,
        instances: tf.Tensor,
        positives: tf.Tensor,
        num_positives: tf.Tensor,
        gt_classes: tf.Tensor,
        row_keys: tf.Tensor,
    ) -> pools.Pool:
        if self._config_dict["class_balanced"]:
            priorities = pools.draw_priorities(gt_classes, 2, self._seed(), row_keys)
            return sampling.class_pool(instances, gt_classes, positives, num_positives, priorities)
        if not self._config_dict["instance_balanced"]:
            return sampling.random_pool(positives, num_positives)
        num_instances = tf.shape(gt_classes)[1]
        return sampling.instance_pool(instances, positives, num_positives, num_instances)

    def _negative_pool(
        self, max_ious: tf.Tensor, negatives: tf.Tensor, num_negatives: tf.Tensor
    ) -> pools.Pool:
        if not self._config_dict["iou_balanced"]:
            return sampling.random_pool(negatives, num_negatives)
        return sampling.iou_pool(max_ious, negatives, num_negatives, self._bins)

    def _seed(self) -> tf.Tensor | None:
        seed = self._config_dict["seed"]
        return None if seed is None else tf.stack([seed, tf.cast(self.step(), tf.int32)])


def _is_padding(boxes: tf.Tensor) -> tf.Tensor:
    """Returns which boxes are none, as Model Garden's matching wants it, bool `[B, N, 1]`."""
    return ~is_object(boxes)[..., tf.newaxis]


def _negative_without_instances(
    indicators: tf.Tensor, boxes: tf.Tensor, gt_boxes: tf.Tensor
) -> tf.Tensor:
    """Makes all boxes of an image without instances negatives; Model Garden's matcher has none."""
    has_instances = tf.reduce_any(is_object(gt_boxes), axis=1, keepdims=True)
    return tf.where(~has_instances & is_object(boxes), -1, indicators)


def _own_instances(
    instances: tf.Tensor, indicators: tf.Tensor, gt_boxes: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Assigns the instances to themselves; their boxes are the last ones of the proposals."""
    batch_size, num_instances = tf.unstack(tf.shape(gt_boxes)[:2])
    num_proposals = tf.shape(instances)[1] - num_instances
    own = tf.broadcast_to(tf.range(num_instances), [batch_size, num_instances])
    kinds = tf.where(is_object(gt_boxes), 1, -3)
    return (
        tf.concat([instances[:, :num_proposals], own], axis=1),
        tf.concat([indicators[:, :num_proposals], kinds], axis=1),
    )


def _gather_targets(
    per_instance: tf.Tensor, instances: tf.Tensor, foreground: tf.Tensor
) -> tf.Tensor:
    """Gathers rows of `[B, M, ...]` by instance `[B, K]`, zero if not foreground; M may be 0."""
    num_instances = tf.shape(per_instance)[1]
    after_last = [[0, 1] if axis == 1 else [0, 0] for axis in range(per_instance.shape.rank)]
    rows = tf.where(foreground, instances, num_instances)
    return tf.gather(tf.pad(per_instance, after_last), rows, batch_dims=1)
