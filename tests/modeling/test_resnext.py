import re
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from official.vision.modeling.backbones import resnet

from libra_tf.compat import keras
from libra_tf.modeling import resnext
from libra_tf.modeling.resnext import GroupedConv2D, ResNeXt, ResNeXtBlock

pytestmark = pytest.mark.one_lane

# Parameters of torchvision's models (32x4d of 101: timm's) without their classifier, 2049000.
PUBLISHED_PARAMETERS = {
    (50, 32, 4): 25_028_904 - 2_049_000,
    (101, 32, 4): 44_177_704 - 2_049_000,
    (101, 64, 4): 83_455_272 - 2_049_000,
    (101, 32, 8): 88_791_336 - 2_049_000,
}


def num_trainable(model):
    return sum(np.prod(variable.shape) for variable in model.trainable_variables)


@pytest.mark.parametrize(
    ("depth", "groups", "base_width"),
    [
        pytest.param(*key, marks=() if key == (50, 32, 4) else pytest.mark.slow)
        for key in PUBLISHED_PARAMETERS
    ],
)
def test_has_the_parameters_of_the_published_model(depth, groups, base_width):
    model = ResNeXt(depth, groups, base_width)
    assert num_trainable(model) == PUBLISHED_PARAMETERS[depth, groups, base_width]


def test_one_group_of_width_64_is_resnet():
    ours, theirs = ResNeXt(50, groups=1, base_width=64), resnet.ResNet(50)
    for our_layer, their_layer in zip(ours.layers, theirs.layers, strict=True):
        parts = [
            name for name in vars(their_layer) if re.match("_(conv|norm|shortcut)[0-9]*$", name)
        ]
        for name in parts or [None]:
            pair = our_layer, their_layer
            part, their_part = (getattr(layer, name) for layer in pair) if name else pair
            if isinstance(their_part, keras.layers.Layer):
                part.set_weights(their_part.get_weights())
    x = tf.random.stateless_normal([1, 64, 64, 3], [0, 0])
    for level, expected in theirs(x).items():
        np.testing.assert_allclose(ours(x)[level], expected, rtol=1e-4, atol=1e-5)


def convolve_by_hand(x, kernel, groups, strides):
    parts = zip(tf.split(x, groups, -1), tf.split(kernel, groups, -1), strict=True)
    return tf.concat([tf.nn.conv2d(part, k, strides, "SAME") for part, k in parts], -1)


@pytest.mark.parametrize("strides", [1, 2])
@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("jit_compile", [True, False])
def test_grouped_convolution_and_gradients(strides, native, jit_compile, monkeypatch):
    if native and not jit_compile and not resnext._has_grouped_gradient():
        pytest.skip("TensorFlow has no such gradient on this CPU")
    monkeypatch.setattr(resnext, "_has_grouped_gradient", lambda: native)
    layer = GroupedConv2D(16, 3, strides, "same", groups=4, use_bias=False)
    x = tf.random.stateless_normal([2, 7, 6, 8], [0, 1])
    layer(x)

    def gradients(apply, x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = apply(x)
            loss = tf.reduce_sum(y**2)
        return y, *tape.gradient(loss, [x, layer.kernel])

    ours = tf.function(lambda x: gradients(layer, x), jit_compile=jit_compile)(x)
    by_hand = gradients(lambda x: convolve_by_hand(x, layer.kernel, 4, strides), x)
    for actual, expected in zip(ours, by_hand, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_without_onednn():
    """The groups one after the other, where TensorFlow has no gradient for them."""
    code = """
import tensorflow as tf
from libra_tf.modeling.resnext import GroupedConv2D, _has_grouped_gradient
layer = GroupedConv2D(4, 3, groups=2)
with tf.GradientTape() as tape:
    loss = tf.reduce_sum(layer(tf.ones([1, 5, 5, 4])))
assert tape.gradient(loss, layer.kernel).shape == (3, 3, 2, 4)
print(_has_grouped_gradient())
"""
    environment = {"TF_ENABLE_ONEDNN_OPTS": "0", "CUDA_VISIBLE_DEVICES": "-1"}
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["False"]


def test_configs_round_trip():
    block = ResNeXtBlock(64, 2, groups=32, base_width=4, use_projection=True)
    config = block.get_config()
    assert (config["filters"], config["strides"], config["use_projection"]) == (64, 2, True)
    assert (config["groups"], config["base_width"]) == (32, 4)
    assert ResNeXtBlock.from_config(config).get_config() == config
    model = ResNeXt(50, groups=4, base_width=8, depth_multiplier=0.25)
    restored = ResNeXt.from_config(model.get_config())
    assert restored.get_config() == model.get_config()
    assert [v.shape for v in restored.variables] == [v.shape for v in model.variables]
    assert keras.utils.get_registered_name(ResNeXt) == "libra_tf>ResNeXt"


@pytest.mark.parametrize(
    ("arguments", "match"), [((18, 32, 4), "model_id"), ((50, 0, 4), "groups")]
)
def test_bad_arguments(arguments, match):
    with pytest.raises(ValueError, match=match):
        ResNeXt(*arguments)
