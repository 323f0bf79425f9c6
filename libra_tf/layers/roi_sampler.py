"""Model Garden's RoI sampler with the balanced choice of Libra R-CNN."""

import tensorflow as tf
from official.vision.modeling.layers import roi_sampler

from libra_tf import ops
from libra_tf.compat import keras
from libra_tf.ops.sampling import validate_iou_balanced


@keras.utils.register_keras_serializable(package="libra_tf")
class IoUBalancedROISampler(roi_sampler.ROISampler):
    """Samples RoIs evenly over IoU and instances, and assigns their targets.

    The sample level of Libra R-CNN (section 3.1 of the paper), as a drop-in for Model Garden's
    `ROISampler`: the same call, outputs and targets; only the choice of the RoIs differs. Of the
    `num_sampled_rois` RoIs of an image, at most `int(num_sampled_rois * foreground_fraction)` are
    positives, drawn evenly over the instances; the rest are negatives, drawn evenly over the range
    of their IoUs with the nearest instance.

    An image with fewer positives and negatives than that is filled up, to keep the shape: with
    boxes that are neither (padding first, then ignored ones), which count as background with class
    0, an empty box and instance -1; and, when there are no more of those, with positives beyond
    their share, which keep their own targets. Model Garden fills up with the boxes of lowest index
    among all of these.

    Boxes stay in the type they come in under mixed precision: bfloat16 would round coordinates
    above 512 to multiples of 4 pixels.

    Args:
      mix_gt_boxes: Bool, whether the ground truth boxes are added to the proposals.
      num_sampled_rois: Int, the number K of RoIs to sample per image.
      foreground_fraction: Float in [0, 1], the largest share of positives.
      foreground_iou_threshold: Float, the IoU from which a box is positive.
      background_iou_high_threshold: Float, the IoU below which a box is negative; also the upper
        end of the bins where `bin_range` is "candidates".
      background_iou_low_threshold: Float, the IoU from which a box is negative.
      skip_subsampling: Bool, whether to return all boxes, as later stages of Cascade R-CNN do.
      num_bins: Positive int, the number of IoU bins of the negatives.
      floor_threshold: Float, see `libra_tf.ops.sample_iou_balanced`.
      floor_fraction: Float in [0, 1], see `libra_tf.ops.sample_iou_balanced`.
      bin_range: "candidates" (the paper) or "all" (MMDetection), see
        `libra_tf.ops.sample_iou_balanced`.
      instance_balanced: Bool, whether positives are balanced; otherwise they are drawn at random.
      iou_balanced: Bool, whether negatives are balanced; otherwise they are drawn at random.
      seed: Int or None. With an int, the sequence of draws is the same in every run (except
        under `jit_compile=True`, where XLA draws on its own).
      **kwargs: Arguments of the Keras layer.

    Raises:
      ValueError: If an argument is outside its range.
    """

    def __init__(
        self,
        mix_gt_boxes=True,
        num_sampled_rois=512,
        foreground_fraction=0.25,
        foreground_iou_threshold=0.5,
        background_iou_high_threshold=0.5,
        background_iou_low_threshold=0.0,
        skip_subsampling=False,
        num_bins=3,
        floor_threshold=-1.0,
        floor_fraction=0.0,
        bin_range="candidates",
        instance_balanced=True,
        iou_balanced=True,
        seed=None,
        **kwargs,
    ):
        validate_iou_balanced(num_bins, floor_threshold, floor_fraction, bin_range)
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
            "seed": seed,
        }

    def call(self, boxes, gt_boxes, gt_classes, gt_outer_boxes=None):
        """Samples RoIs and assigns their targets.

        Args:
          boxes: Float tensor [B, N, 4], the proposals, [ymin, xmin, ymax, xmax] in pixels of the
            scaled image. Boxes of -1 are padding.
          gt_boxes: Tensor [B, M, 4], the instances' boxes, likewise.
          gt_classes: Tensor [B, M], the instances' classes, -1 for padding.
          gt_outer_boxes: Tensor [B, M, 4] or None, a second box of every instance.

        Returns:
          sampled_rois: [B, K, 4], in the order of the boxes; those that fill up come last.
          sampled_gt_boxes: [B, K, 4], the matched instances' boxes, 0 for background.
          sampled_gt_outer_boxes: [B, K, 4], likewise; only where `gt_outer_boxes` is given.
          sampled_gt_classes: [B, K], the matched instances' classes, 0 for background.
          sampled_gt_indices: [B, K], the matched instances, -1 for background.

        Raises:
          ValueError: If there are fewer boxes than RoIs to sample.
        """
        if self._config_dict["skip_subsampling"]:
            return super().call(boxes, gt_boxes, gt_classes, gt_outer_boxes)
        gt_boxes = tf.cast(gt_boxes, boxes.dtype)
        if self._config_dict["mix_gt_boxes"]:
            boxes = tf.concat([boxes, gt_boxes], axis=1)
        self._check_enough(boxes)

        ious = self._sim_calc(boxes, gt_boxes, _is_padding(boxes), _is_padding(gt_boxes))
        instances, indicators = self._box_matcher(ious)
        positives, negatives = indicators >= 0, tf.equal(indicators, -1)
        sampled = self._sample(ious, instances, positives, negatives)
        fill_order = tf.where(positives, 3, tf.where(tf.equal(indicators, -2), 2, 1))
        chosen = _first_by_tier(
            tf.where(sampled, 0, fill_order), self._config_dict["num_sampled_rois"]
        )

        foreground = tf.gather(positives, chosen, batch_dims=1)
        chosen_instances = tf.gather(instances, chosen, batch_dims=1)
        per_instance = [gt_boxes, gt_classes]
        if gt_outer_boxes is not None:
            per_instance.insert(1, gt_outer_boxes)
        targets = [_gather_targets(t, chosen_instances, foreground) for t in per_instance]
        indices = tf.where(foreground, chosen_instances, -1)
        return (tf.gather(boxes, chosen, batch_dims=1), *targets, indices)

    def _check_enough(self, boxes):
        wanted = self._config_dict["num_sampled_rois"]
        if boxes.shape[1] is not None and boxes.shape[1] < wanted:
            raise ValueError(
                f"The RoI sampler cannot sample {wanted} RoIs from {boxes.shape[1]} boxes: lower "
                "`num_sampled_rois` or keep more proposals."
            )

    def _sample(self, ious, instances, positives, negatives):
        """The mask [B, N] of the sampled positives and negatives."""
        config = self._config_dict
        positive_seed, negative_seed = self._seeds()
        num_positives = int(config["num_sampled_rois"] * config["foreground_fraction"])
        if config["instance_balanced"]:
            sampled_positives = ops.sample_instance_balanced(
                instances, positives, num_positives, tf.shape(ious)[2], positive_seed
            )
        else:
            sampled_positives = ops.sample_random(positives, num_positives, positive_seed)

        counts = tf.reduce_sum(tf.cast(sampled_positives, tf.int32), axis=1)
        num_negatives = config["num_sampled_rois"] - counts
        if not config["iou_balanced"]:
            return sampled_positives | ops.sample_random(negatives, num_negatives, negative_seed)
        by_candidates = config["bin_range"] == "candidates"
        return sampled_positives | ops.sample_iou_balanced(
            tf.reduce_max(ious, axis=2),
            negatives,
            num_negatives,
            config["num_bins"],
            config["floor_threshold"],
            config["floor_fraction"],
            config["bin_range"],
            config["background_iou_high_threshold"] if by_candidates else None,
            negative_seed,
        )

    def _seeds(self):
        """A fresh pair of seeds for each call, for the positives and the negatives."""
        seed = self._config_dict["seed"]
        if seed is None:
            return None, None
        return tf.unstack(tf.random.uniform([2, 2], maxval=tf.int32.max, dtype=tf.int32, seed=seed))


def _is_padding(boxes):
    return tf.reduce_max(boxes, axis=-1, keepdims=True) < 0


def _first_by_tier(tiers, num_chosen):
    """Indices [B, num_chosen] of the elements [B, N] of lowest tier, then lowest index."""
    num_elements = tf.shape(tiers)[1]
    order = tiers * num_elements + tf.range(num_elements)
    return tf.math.top_k(-order, num_chosen).indices


def _gather_targets(per_instance, instances, foreground):
    """Rows of [B, M, ...] by instance [B, K], zero where not foreground; M may be 0."""
    num_instances = tf.shape(per_instance)[1]
    after_last = [[0, 1] if axis == 1 else [0, 0] for axis in range(per_instance.shape.rank)]
    rows = tf.where(foreground, instances, num_instances)
    return tf.gather(tf.pad(per_instance, after_last), rows, batch_dims=1)
