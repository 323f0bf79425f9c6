"""Freezing the first stages of a backbone."""

from official.vision.modeling.layers import nn_blocks

from libra_tf.compat import keras

_BLOCKS = (nn_blocks.ResidualBlock, nn_blocks.BottleneckBlock)


def freeze_stages(backbone: keras.Model, frozen_stages: int) -> None:
    """Freezes the stem and the first stages of a ResNet or ResNeXt, batch norm included.

    Frozen batch norms also keep their statistics: Keras runs them in inference mode.

    Args:
      backbone: Model Garden's `ResNet` or a subclass, changed in place.
      frozen_stages: 0 for the stem alone, k for the stem and the first k stages.

    Raises:
      ValueError: if the backbone does not have these stages.
    """
    names = [layer.name for layer in backbone.layers]
    # Model Garden ends stage k with this layer, named after its level k + 1.
    end = f"block_group_l{frozen_stages + 1}"
    if frozen_stages == 0:
        is_block = [isinstance(layer, _BLOCKS) for layer in backbone.layers]
        num_frozen = is_block.index(True) if True in is_block else 0
    else:
        num_frozen = names.index(end) + 1 if end in names else 0
    if not num_frozen:
        raise ValueError(
            f"task.frozen_stages is {frozen_stages}, but the backbone {backbone.name!r} has no "
            "such stage. This key is for ResNet and ResNeXt, which have four stages; "
            "task.freeze_backbone freezes a whole backbone of any kind."
        )
    for layer in backbone.layers[:num_frozen]:
        layer.trainable = False
