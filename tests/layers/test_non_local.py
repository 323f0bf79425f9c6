import numpy as np
import pytest
import tensorflow as tf

from libra_tf.compat import keras
from libra_tf.layers import NonLocal2D
from libra_tf.mixins.non_local import MODES
from tests import arguments


def golden_weights(golden, prefix):
    """Returns MMDetection's weights or their gradients, by our layer's names."""
    weights = {}
    for key in golden.files:
        if key.startswith(prefix):
            module, _, kind = key.removeprefix(prefix).replace(".0.", ".").rsplit(".", 2)
            value = golden[key]
            if module == "concat_project":
                weights["concat_project"] = value.reshape(-1, 1)
            elif kind == "weight":
                weights[f"{module.removeprefix('conv_')}_kernel"] = value[:, :, 0, 0].T
            else:
                weights[f"{module.removeprefix('conv_')}_bias"] = value
    return weights


def weight_name(weight):
    return weight.name.split("/")[-1].split(":")[0]


def channels_last(x):
    return tf.constant(x.transpose(0, 2, 3, 1))


@pytest.mark.parametrize("query_block", [None, 20])
@pytest.mark.parametrize("sub_sample", [0, 1])
@pytest.mark.parametrize(("reduction", "use_scale"), [(1, 0), (1, 1), (2, 0)])
@pytest.mark.parametrize("mode", MODES)
def test_matches_mmdetection(golden_blocks, mode, reduction, use_scale, sub_sample, query_block):
    golden = np.load(
        golden_blocks / f"nonlocal_{mode}_r{reduction}_scale{use_scale}_sub{sub_sample}_s0.npz"
    )
    layer = NonLocal2D(mode, reduction, bool(use_scale), bool(sub_sample), query_block)
    x = channels_last(golden["x"])
    layer.build(x.shape)
    weights = golden_weights(golden, "w:")
    assert {weight_name(weight) for weight in layer.weights} == set(weights)
    for weight in layer.weights:
        weight.assign(weights[weight_name(weight)])

    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x)
        loss = tf.reduce_sum(y * channels_last(golden["cot"]))
    of_x, of_weights = tape.gradient(loss, [x, layer.trainable_weights])
    np.testing.assert_allclose(y, channels_last(golden["y"]), atol=1e-4)
    np.testing.assert_allclose(of_x, channels_last(golden["grad_x"]), atol=1e-4)
    gradients = golden_weights(golden, "g:")
    for weight, gradient in zip(layer.trainable_weights, of_weights, strict=True):
        np.testing.assert_allclose(gradient, gradients[weight_name(weight)], atol=1e-4)


@pytest.mark.parametrize("mode", MODES)
def test_starts_as_the_identity_with_distinct_kernels(mode):
    layer = NonLocal2D(mode)
    x = tf.random.stateless_normal([1, 5, 4, 64], [0, 1])
    np.testing.assert_array_equal(layer(x), x)
    kernels = [w.numpy() for w in layer.weights if weight_name(w) in ("g_kernel", "theta_kernel")]
    assert len(kernels) == (1 if mode == "gaussian" else 2)
    for kernel in kernels:
        np.testing.assert_allclose(kernel.std(), 0.01, rtol=0.1)
    assert len({kernel.tobytes() for kernel in kernels}) == len(kernels)


@pytest.mark.parametrize("mode", MODES)
def test_unknown_sizes_in_a_functional_model(mode):
    layer = NonLocal2D(mode, reduction=2, sub_sample=True, out_kernel_initializer="ones")
    inputs = keras.Input((None, None, 4))
    model = keras.Model(inputs, layer(inputs))
    assert model.output_shape == (None, None, None, 4)
    assert layer.compute_output_shape((None, None, None, 4)) == (None, None, None, 4)
    # Called as it is, the model would know the sizes of each input.
    traced = tf.function(model, input_signature=[tf.TensorSpec([None, None, None, 4])])
    for size in ((5, 4), (8, 3)):
        x = tf.random.stateless_normal([2, *size, 4], [0, 1])
        np.testing.assert_allclose(model(x), layer(x), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(traced(x), layer(x), rtol=1e-5, atol=1e-6)


def test_config_round_trip():
    layer = NonLocal2D(
        "gaussian",
        reduction=4,
        use_scale=True,
        sub_sample=True,
        query_block=7,
        kernel_initializer="he_normal",
        out_kernel_initializer=keras.initializers.Constant(0.5),
        bias_initializer="ones",
        kernel_regularizer=keras.regularizers.L2(0.1),
        name="block",
    )
    assert arguments.kept(layer, NonLocal2D()) == arguments.names(NonLocal2D)
    restored = keras.layers.deserialize(keras.layers.serialize(layer))
    assert isinstance(restored, NonLocal2D)
    assert restored.get_config() == layer.get_config()
    restored(tf.zeros([1, 4, 4, 8]))
    np.testing.assert_allclose(restored.out.kernel, np.full((2, 8), 0.5))
    assert len(restored.losses) == 2


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision(mode, policy):
    x = tf.random.stateless_normal([1, 5, 4, 16], [0, 1])
    layer = NonLocal2D(mode, out_kernel_initializer="ones", query_block=8, dtype=policy)
    exact = NonLocal2D(mode)
    exact.build(x.shape)
    layer.build(x.shape)
    rng = np.random.default_rng(0)
    layer.set_weights([rng.normal(size=w.shape, scale=0.2) for w in layer.get_weights()])
    with tf.GradientTape() as tape:
        y = layer(x)
    assert y.dtype == layer.compute_dtype
    exact.set_weights(layer.get_weights())
    np.testing.assert_allclose(tf.cast(y, tf.float32), exact(x), rtol=0.05, atol=0.05)
    assert np.abs(exact(x) - x).max() > 0.5, "the block does more than the tolerance lets pass"
    assert all(g.dtype == tf.float32 for g in tape.gradient(y, layer.trainable_weights))


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [({"mode": "softmax"}, "mode"), ({"reduction": 0}, "reduction"), ({"query_block": 0}, "query")],
)
def test_bad_arguments(kwargs, match):
    with pytest.raises(ValueError, match=match):
        NonLocal2D(**kwargs)


def test_bad_inputs():
    with pytest.raises(ValueError, match=r"\[B, H, W, C\]"):
        NonLocal2D().build((None, 4, 8))
    with pytest.raises(ValueError, match="sub_sample"):
        NonLocal2D(sub_sample=True).build((None, 1, 8, 4))
