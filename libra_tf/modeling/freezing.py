"""Freezing the first stages of a backbone."""

from official.vision.modeling.layers import nn_blocks

from libra_tf.compat import keras

_BLOCKS = (nn_blocks.ResidualBlock, nn_blocks.BottleneckBlock)


def freeze_stages(backbone: keras.Model, frozen_stages: int) -> None:
    """Freezes the stem and the first stages of a backbone, batch norm included.

    Stage k ends with the backbone's level k + 1, at a stride of 2 ** (k + 1). Frozen batch norms
    also keep their statistics: Keras runs them in inference mode.

    Args:
      backbone: a backbone of Model Garden that Keras' functional API has built, changed in place.
      frozen_stages: k for the stem and the first k stages; 0 for the stem alone, of Model Garden's
        `ResNet` or a subclass.

    Raises:
      ValueError: if the backbone does not have these stages.
    """
    level = str(frozen_stages + 1)
    if frozen_stages == 0:
        is_block = [isinstance(layer, _BLOCKS) for layer in backbone.layers]
        frozen = backbone.layers[: is_block.index(True)] if True in is_block else []
    elif level in backbone.output_specs:
        frozen = keras.Model(backbone.inputs, backbone.output[level]).layers
    else:
        frozen = []
    if not frozen:
        raise ValueError(
            f"task.frozen_stages is {frozen_stages}, but the backbone {backbone.name!r} has no "
            "such stage; task.freeze_backbone freezes a whole backbone of any kind."
        )
    for layer in frozen:
        layer.trainable = False
