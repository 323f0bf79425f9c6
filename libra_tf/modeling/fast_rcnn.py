"""Fast R-CNN: Model Garden's Mask R-CNN with given proposals in place of its RPN."""

from collections.abc import Mapping

import tensorflow as tf
from official.vision.modeling import maskrcnn_model
from official.vision.modeling.layers import detection_generator

# Large enough that no probability is left, and finite in float16.
_IMPOSSIBLE_LOGIT = -1e4


class FastRCNNModel(maskrcnn_model.MaskRCNNModel):
    """A detector that refines and classifies proposals from elsewhere.

    Everything behind the proposals is Model Garden's `MaskRCNNModel`. It has no RPN: neither
    weights nor outputs of one.

    Made with `from_maskrcnn`.
    """

    @classmethod
    def from_maskrcnn(cls, model: maskrcnn_model.MaskRCNNModel) -> "FastRCNNModel":
        """Takes the parts of a detector, all but its RPN.

        Args:
          model: Model Garden's detector, without masks. It shares its layers from then on.

        Returns:
          The detector without RPN.
        """
        generator = model.detection_generator.get_config()
        return cls(
            **{
                **model.get_config(),
                "rpn_head": _score_nothing,
                "roi_generator": _use_as_rois,
                # As it is now, which is not always what the model was made with.
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
        """Detects objects, or gives what the losses need in training.

        Args:
          images: `[B, height, width, 3]`, normalised.
          image_shape: `[B, 2]`, height and width of the part that is no padding, in pixels.
          proposals: `[B, N, 4]`, `[ymin, xmin, ymax, xmax]` in pixels of `images`. Boxes of -1 are
            padding: they are neither positives nor negatives, and nothing is detected in them.
          gt_boxes: `[B, M, 4]`, the instances' boxes, likewise; in training only.
          gt_classes: `[B, M]`, their classes, -1 for padding; in training only.
          training: whether to sample RoIs and assign targets, or to detect.
          anchor_boxes: `proposals` by the name under which Model Garden's task hands a model the
            boxes that its RoIs come from.

        Returns:
          Model Garden's outputs by name, without those of the RPN.

        Raises:
          ValueError: if there are no proposals.
        """
        proposals = anchor_boxes if proposals is None else proposals
        if proposals is None:
            raise ValueError("Fast R-CNN needs `proposals`: it has no RPN to make its own.")
        # The base class hands them to the RoI generator as they are.
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
    """Model Garden's detection generator that never detects anything in an empty RoI.

    Padding that the network scores as an object would otherwise become a detection of no area.
    """

    def __call__(self, raw_boxes, raw_scores, anchor_boxes, *args, **kwargs):
        """Generates detections; see Model Garden's `DetectionGenerator`.

        Args:
          raw_boxes: `[B, K, num_classes * 4]`, encoded.
          raw_scores: `[B, K, num_classes]`, logits, that of the background first.
          anchor_boxes: `[B, K, 4]`, the RoIs, `[ymin, xmin, ymax, xmax]`.
          *args: as in Model Garden.
          **kwargs: as in Model Garden.

        Returns:
          The detections by name.
        """
        is_empty = tf.reduce_any(anchor_boxes[..., 2:] <= anchor_boxes[..., :2], -1, keepdims=True)
        is_object = tf.range(raw_scores.shape[-1]) > 0
        impossible = tf.cast(_IMPOSSIBLE_LOGIT, raw_scores.dtype)
        raw_scores = tf.where(is_empty & is_object, impossible, raw_scores)
        return super().__call__(raw_boxes, raw_scores, anchor_boxes, *args, **kwargs)


def _score_nothing(features):
    """Stands where the RPN head was."""
    del features
    return {}, {}


def _use_as_rois(rpn_boxes, rpn_scores, proposals, image_shape, training):
    """Stands where the RoI generator was."""
    del rpn_boxes, rpn_scores, image_shape, training
    return proposals, None
