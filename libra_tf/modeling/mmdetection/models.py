"""Model Garden's detectors with MMDetection's parts where the two differ."""

import dataclasses
from collections.abc import Mapping

import tensorflow as tf
from official.modeling import hyperparams
from official.vision.modeling import factory, maskrcnn_model, retinanet_model

from libra_tf.compat import keras
from libra_tf.modeling.mmdetection import detections, heads, proposals, pyramid, rois
from libra_tf.modeling.mmdetection.anchors import AnchorGenerator
from libra_tf.modeling.mmdetection.backbones import build_backbone

# Bound at import: the names in `factory` may be replaced by the time these are called.
_build_retinanet = factory.build_retinanet
_build_maskrcnn = factory.build_maskrcnn


class _WithAnchors:
    """Generates MMDetection's anchors for images of any size if the caller passes none."""

    def call(
        self,
        images: tf.Tensor,
        image_shape: tf.Tensor | None = None,
        anchor_boxes: Mapping[str, tf.Tensor] | None = None,
        **kwargs,
    ) -> dict[str, tf.Tensor]:
        """Detects objects; see the base class.

        Args:
          images: float `[B, height, width, 3]`, normalised, of any height and width.
          image_shape: `[B, 2]`, height and width without padding, in pixels; None for no padding.
          anchor_boxes: by level, `[B, height_l, width_l, anchors * 4]`; None to generate them.
          **kwargs: as in the base class.

        Returns:
          Model Garden's outputs by name.
        """
        if image_shape is None:
            size = tf.cast(tf.shape(images)[1:3], tf.float32)
            image_shape = tf.tile(size[tf.newaxis], [tf.shape(images)[0], 1])
        if anchor_boxes is None:
            anchor_boxes = self.make_anchors(images)
        return super().call(images, image_shape, anchor_boxes=anchor_boxes, **kwargs)

    def make_anchors(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        """Generates the anchors of images.

        Args:
          images: `[B, height, width, 3]`.

        Returns:
          By level, float32 `[B, height_l, width_l, anchors * 4]`, `[ymin, xmin, ymax, xmax]` in
          pixels.
        """
        arguments = [field.name for field in dataclasses.fields(AnchorGenerator)]
        generator = AnchorGenerator(**{name: self._config_dict[name] for name in arguments})
        batch_size, *size = tf.unstack(tf.shape(images)[:3])
        # Keep static sizes where they are known.
        size = [static or dynamic for static, dynamic in zip(images.shape[1:3], size, strict=True)]
        return {
            level: tf.tile(anchors[tf.newaxis], [batch_size, 1, 1, 1])
            for level, anchors in generator(size).items()
        }


class RetinaNetModel(_WithAnchors, retinanet_model.RetinaNetModel):
    """Model Garden's RetinaNet with MMDetection's anchors."""


class FasterRCNNModel(_WithAnchors, maskrcnn_model.MaskRCNNModel):
    """Model Garden's Faster R-CNN with MMDetection's anchors."""


def build_retinanet(
    input_specs: keras.layers.InputSpec,
    model_config: hyperparams.Config,
    l2_regularizer: keras.regularizers.Regularizer | None = None,
) -> RetinaNetModel:
    """Builds MMDetection's RetinaNet; replaces Model Garden's `build_retinanet`."""
    backbone, decoder = _build_features(model_config, "convolved", l2_regularizer)
    model = _build_retinanet(input_specs, model_config, l2_regularizer, backbone, decoder)
    parts = model.get_config()
    model = RetinaNetModel(
        **{
            **parts,
            "head": _as(heads.RetinaNetHead, parts["head"]),
            "detection_generator": _as(
                detections.MultilevelDetectionGenerator, parts["detection_generator"]
            ),
        }
    )
    model.head(decoder(backbone(keras.Input(backbone.input_shape[1:]))))
    return model


def build_fasterrcnn(
    input_specs: keras.layers.InputSpec,
    model_config: hyperparams.Config,
    l2_regularizer: keras.regularizers.Regularizer | None = None,
) -> FasterRCNNModel:
    """Builds MMDetection's Faster R-CNN; replaces Model Garden's `build_maskrcnn`."""
    backbone, decoder = _build_features(model_config, "subsampled", l2_regularizer)
    model = _build_maskrcnn(input_specs, model_config, l2_regularizer, backbone, decoder)
    parts = model.get_config()
    return FasterRCNNModel(
        **{
            **parts,
            "rpn_head": _as(heads.RPNHead, parts["rpn_head"]),
            "detection_head": _as(heads.DetectionHead, parts["detection_head"]),
            "roi_generator": _as(proposals.ROIGenerator, parts["roi_generator"]),
            "roi_sampler": list(parts["roi_sampler"]),
            "roi_aligner": _as(rois.ROIAligner, parts["roi_aligner"]),
            "detection_generator": _as(detections.DetectionGenerator, parts["detection_generator"]),
        }
    )


def _build_features(
    model_config: hyperparams.Config,
    extra_levels: str,
    l2_regularizer: keras.regularizers.Regularizer | None,
) -> tuple[keras.Model, keras.Model]:
    """Builds the backbone and the decoder, for images of any size."""
    backbone = build_backbone(model_config, l2_regularizer)
    decoder = pyramid.build_decoder(
        backbone.output_specs, model_config, extra_levels, l2_regularizer
    )
    return backbone, decoder


def _as(layer_class: type[keras.layers.Layer], layer: keras.layers.Layer) -> keras.layers.Layer:
    """Returns a new layer of a subclass with the arguments of a Model Garden layer."""
    return layer_class.from_config(layer.get_config())
