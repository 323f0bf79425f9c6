import numpy as np
import pytest
import tensorflow as tf
from official.vision.modeling.decoders import fpn

from libra_tf.compat import keras
from libra_tf.layers import BalancedFeaturePyramid
from libra_tf.modeling.libra_fpn import LibraFPN

SPECS = {
    str(level): tf.TensorShape([None, 64 // 2**level, 64 // 2**level, 8]) for level in (2, 3, 4)
}
FPN_ARGS = {"min_level": 2, "max_level": 5, "num_filters": 6}


def features():
    rng = np.random.default_rng(0)
    return {
        level: tf.constant(rng.normal(size=[2, *shape[1:]]), tf.float32)
        for level, shape in SPECS.items()
    }


def build(**kwargs):
    keras.utils.set_random_seed(3)
    return LibraFPN(SPECS, **FPN_ARGS, **kwargs)


@pytest.mark.parametrize("refine_type", ["non_local", "conv", None])
def test_is_model_gardens_fpn_and_the_balanced_pyramid(refine_type):
    decoder = build(refine_level=3, refine_type=refine_type)
    # A new non-local block refines nothing.
    rng = np.random.default_rng(1)
    decoder.set_weights([rng.normal(size=w.shape, scale=0.3) for w in decoder.get_weights()])
    keras.utils.set_random_seed(3)
    plain = fpn.FPN(SPECS, **FPN_ARGS)
    plain.set_weights(decoder.get_weights()[: len(plain.weights)])
    balance = BalancedFeaturePyramid("3", refine_type=refine_type)
    levels = plain(features())
    balance(levels)
    if balance.weights:
        balance.set_weights(decoder.get_layer("balanced_feature_pyramid").get_weights())
    expected = balance(levels)
    actual = decoder(features())
    assert actual.keys() == expected.keys() == {"2", "3", "4", "5"}
    for level in expected:
        np.testing.assert_allclose(actual[level], expected[level], atol=1e-6)


def test_output_specs_are_the_output_shapes():
    decoder = build()
    outputs = decoder(features())
    assert decoder.output_specs.keys() == outputs.keys()
    for level, shape in decoder.output_specs.items():
        assert shape.is_compatible_with(outputs[level].shape)
        # Only the number of images is unknown: unknown sizes would be compatible with any.
        assert shape[1:] == outputs[level].shape[1:]


def test_config_round_trip():
    decoder = build(refine_level=2, refine_type="conv")
    copy = LibraFPN.from_config(decoder.get_config())
    copy.set_weights(decoder.get_weights())
    for level, expected in decoder(features()).items():
        np.testing.assert_allclose(copy(features())[level], expected, atol=1e-6)


def test_a_level_outside_the_pyramid_is_refused():
    with pytest.raises(ValueError, match=r"refine_level is 7.*levels 2, 3, 4, 5"):
        build(refine_level=7)


def test_weight_decay_reaches_the_pyramid():
    decoder = build(kernel_regularizer=keras.regularizers.L2(0.1))
    bare = build()
    plain = fpn.FPN(SPECS, kernel_regularizer=keras.regularizers.L2(0.1), **FPN_ARGS)
    # One term for each of g, theta, phi and out.
    assert len(decoder.losses) == len(plain.losses) + 4
    assert not bare.losses
