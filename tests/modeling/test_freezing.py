import pytest
import tensorflow as tf
from official.vision.modeling.backbones import efficientnet, mobilenet, resnet

from libra_tf.modeling import freezing
from libra_tf.modeling.resnet_v1 import ResNetV1
from libra_tf.modeling.resnext import ResNeXt

pytestmark = pytest.mark.one_lane


@pytest.mark.parametrize(
    ("make", "stem", "frozen_stages"),
    [
        # Input, convolution, normalization, activation, pooling.
        (lambda: resnet.ResNet(18), 5, 0),
        (lambda: resnet.ResNet(18), 5, 1),
        (lambda: resnet.ResNet(18), 5, 4),
        (lambda: ResNeXt(50, depth_multiplier=0.25), 5, 1),
        # Padding before the pooling as well.
        (lambda: ResNetV1(50), 6, 1),
    ],
)
def test_stem_and_first_stages(make, stem, frozen_stages):
    backbone = make()
    freezing.freeze_stages(backbone, frozen_stages)
    names = [layer.name for layer in backbone.layers if not layer.trainable]
    assert names[:stem] == [layer.name for layer in backbone.layers[:stem]]
    ends = [name for name in names if name.startswith("block_group")]
    assert ends == [f"block_group_l{k + 2}" for k in range(frozen_stages)]
    if frozen_stages == 0:
        assert len(names) == stem
    if frozen_stages == 4:
        assert not backbone.trainable_variables


@pytest.mark.parametrize(
    ("make", "frozen_stages"),
    [
        (mobilenet.MobileNet, 1),
        (lambda: efficientnet.EfficientNet("b0"), 3),
        pytest.param(mobilenet.MobileNet, 3, marks=pytest.mark.slow),
        pytest.param(lambda: efficientnet.EfficientNet("b0"), 1, marks=pytest.mark.slow),
    ],
)
def test_stages_of_other_backbones_end_at_their_levels(make, frozen_stages):
    backbone = make()
    freezing.freeze_stages(backbone, frozen_stages)
    images = tf.random.stateless_normal([1, 64, 64, 3], seed=[1, 2])
    with tf.GradientTape(persistent=True) as tape:
        sums = {level: tf.reduce_sum(x) for level, x in backbone(images, training=True).items()}
    for level, total in sums.items():
        gradients = tape.gradient(total, backbone.trainable_variables)
        is_trained = any(gradient is not None for gradient in gradients)
        assert is_trained == (int(level) > frozen_stages + 1)


@pytest.mark.parametrize(
    ("make", "frozen_stages"),
    [(lambda: resnet.ResNet(18), 5), (mobilenet.MobileNet, 6), (mobilenet.MobileNet, 0)],
)
def test_what_has_no_such_stages(make, frozen_stages):
    with pytest.raises(ValueError, match=f"frozen_stages is {frozen_stages}.*freeze_backbone"):
        freezing.freeze_stages(make(), frozen_stages)
