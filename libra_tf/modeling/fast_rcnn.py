"""Fast R-CNN: Model Garden's Mask R-CNN with precomputed proposals instead of an RPN."""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf
from official.vision.modeling import maskrcnn_model
from official.vision.modeling.layers import detection_generator

from libra_tf.ops.boxes import is_empty

# The logit of what cannot be: its probability is 0.
IMPOSSIBLE_LOGIT = -1e4


class FastRCNNModel(maskrcnn_model.MaskRCNNModel):
    """A detector that refines and classifies precomputed proposals.

    Everything after the proposals is Model Garden's `MaskRCNNModel`. There is no RPN: the model
    has neither its weights nor its outputs.

    Create it with `from_maskrcnn`.
    """

    @classmethod
    def from_maskrcnn(cls, model: maskrcnn_model.MaskRCNNModel) -> "FastRCNNModel":
        """Builds the detector from all parts of another one except the RPN.

        Args:
          model: Model Garden's detector, without masks. The two detectors share their layers.

        Returns:
          The detector without an RPN.
        """
        generator = model.detection_generator.get_config()
        return cls(
            **{
                **model.get_config(),
                "rpn_head": _score_nothing,
                "roi_generator": _use_as_rois,
                # The current sampler; the config has the one the model was built with.
                "roi_sampler": list(model.roi_sampler),
                "detection_generator": DetectionGenerator.from_config(generator),
            }
        )

    def call(
        self,
        images: tf.Tensor,
        image_shape: tf.Tensor,
        proposals: tf.Tensor | None = None,
        gt_boxes: tf.Tensor | None = None,
        gt_classes: tf.Tensor | None = None,
        training: bool | None = None,
        anchor_boxes: tf.Tensor | None = None,
    ) -> dict[str, tf.Tensor]:
        """Detects objects, or in training returns what the losses need.

        Args:
          images: float `[B, height, width, 3]`, normalised.
          image_shape: float32 `[B, 2]`, height and width without padding, in pixels.
          proposals: float32 `[B, N, 4]`, `[ymin, xmin, ymax, xmax]` in pixels of `images`. Boxes of
            -1 are padding: they are neither positives nor negatives, and nothing is detected in
            them.
          gt_boxes: float32 `[B, M, 4]`, boxes of the instances in the same format, padded with
            boxes of -1; training only.
          gt_classes: int `[B, M]`, classes of the instances, -1 for padding; training only.
          training: True to sample RoIs and assign targets, False to detect.
          anchor_boxes: another name for `proposals`, the one Model Garden's task uses to pass the
            boxes.

        Returns:
          Model Garden's outputs by name, without those of the RPN.

        Raises:
          ValueError: if there are no proposals.
        """
        proposals = anchor_boxes if proposals is None else proposals
        if proposals is None:
            raise ValueError("Fast R-CNN needs `proposals`: it has no RPN to generate them.")
        # The base class passes them to the RoI generator unchanged.
        outputs = super().call(
            images,
            image_shape,
            anchor_boxes=proposals,
            gt_boxes=gt_boxes,
            gt_classes=gt_classes,
            training=training,
        )
        return {name: value for name, value in outputs.items() if not name.startswith("rpn_")}

    @property
    def checkpoint_items(self) -> Mapping[str, tf.Module]:
        """The parts that are checkpointed by name."""
        items = super().checkpoint_items
        return {name: item for name, item in items.items() if name != "rpn_head"}


class DetectionGenerator(detection_generator.DetectionGenerator):
    """Model Garden's detection generator, except that it detects nothing in an empty RoI.

    Otherwise, padding that the network scores as an object would become a detection with no area.
    """

    def __call__(
        self,
        raw_boxes: tf.Tensor,
        raw_scores: tf.Tensor,
        anchor_boxes: tf.Tensor,
        *args,
        **kwargs,
    ) -> dict[str, Any]:
        """Generates detections; see Model Garden's `DetectionGenerator`.

        Args:
          raw_boxes: float32 `[B, K, num_classes * 4]`, encoded.
          raw_scores: float32 `[B, K, num_classes]`, logits, background first.
          anchor_boxes: float32 `[B, K, 4]`, the RoIs, `[ymin, xmin, ymax, xmax]` in pixels.
          *args: as in Model Garden.
          **kwargs: as in Model Garden.

        Returns:
          The detections by name.
        """
        is_nothing = is_empty(anchor_boxes)[..., tf.newaxis]
        is_object = tf.range(raw_scores.shape[-1]) > 0
        impossible = tf.cast(IMPOSSIBLE_LOGIT, raw_scores.dtype)
        raw_scores = tf.where(is_nothing & is_object, impossible, raw_scores)
        return super().__call__(raw_boxes, raw_scores, anchor_boxes, *args, **kwargs)


def _score_nothing(features: Mapping[str, tf.Tensor]) -> tuple[dict, dict]:
    """Takes the place of the RPN head."""
    del features
    return {}, {}


def _use_as_rois(
    rpn_boxes: dict,
    rpn_scores: dict,
    proposals: tf.Tensor,
    image_shape: tf.Tensor,
    training: bool | None,
) -> tuple[tf.Tensor, None]:
    """Takes the place of the RoI generator."""
    del rpn_boxes, rpn_scores, image_shape, training
    return proposals, None
