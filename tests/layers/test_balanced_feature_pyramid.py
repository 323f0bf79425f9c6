import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from libra_tf.compat import keras
from libra_tf.layers import BalancedFeaturePyramid
from tests import arguments


def channels_last(x):
    return tf.constant(x.transpose(0, 2, 3, 1))


def golden_weight(golden, prefix, weight):
    name = weight.name.split("/")[-1].split(":")[0]
    block = name.rpartition("_")[0].replace("out", "conv_out")
    module = f"{block}.conv" if block else "conv"
    value = golden[f"{prefix}:refine.{module}.{'bias' if name.endswith('bias') else 'weight'}"]
    if value.ndim == 1:
        return value
    kernel = value.transpose(2, 3, 1, 0)
    return kernel[0, 0] if block else kernel


def random_levels(sizes, channels=3):
    return [
        tf.random.stateless_normal([2, *size, channels], [index, 0])
        for index, size in enumerate(sizes)
    ]


@pytest.mark.parametrize("refine_type", [None, "conv", "non_local"])
@pytest.mark.parametrize("refine_level", [0, 2, 4])
@pytest.mark.parametrize("size", ["16x16", "21x13"])
def test_matches_mmdetection(golden_blocks, size, refine_level, refine_type):
    golden = np.load(golden_blocks / f"bfpsmall_c4_{size}_rl{refine_level}_{refine_type}_s0.npz")
    layer = BalancedFeaturePyramid(refine_level, refine_type)
    levels = [channels_last(golden[f"x{index}"]) for index in range(5)]
    layer.build([level.shape for level in levels])
    for weight in layer.weights:
        weight.assign(golden_weight(golden, "w", weight))

    with tf.GradientTape() as tape:
        tape.watch(levels)
        outputs = layer(levels)
        loss = tf.add_n(
            [
                tf.reduce_sum(output * channels_last(golden[f"cot{index}"]))
                for index, output in enumerate(outputs)
            ]
        )
    of_levels, of_weights = tape.gradient(loss, [levels, layer.trainable_weights])
    for index in range(5):
        np.testing.assert_allclose(outputs[index], channels_last(golden[f"y{index}"]), atol=1e-4)
        expected = channels_last(golden[f"grad_x{index}"])
        np.testing.assert_allclose(of_levels[index], expected, atol=1e-4)
    for weight, gradient in zip(layer.trainable_weights, of_weights, strict=True):
        np.testing.assert_allclose(gradient, golden_weight(golden, "g", weight), atol=1e-4)


SIZES = st.lists(st.tuples(st.integers(1, 20), st.integers(1, 20)), min_size=1, max_size=4)


@given(SIZES, st.data(), st.floats(-5, 5, width=32, allow_subnormal=False))
@settings(deadline=None, max_examples=25)
def test_constant_levels_double(sizes, data, value):
    """Every level gets the mean of all, whatever the sizes."""
    layer = BalancedFeaturePyramid(data.draw(st.integers(0, len(sizes) - 1)), refine_type=None)
    for output, size in zip(
        layer([tf.fill([1, *size, 2], value) for size in sizes]), sizes, strict=True
    ):
        np.testing.assert_allclose(output, np.full((1, *size, 2), 2 * value), rtol=1e-6)


@given(SIZES, st.data())
@settings(deadline=None, max_examples=15)
def test_a_zero_refinement_is_the_identity(sizes, data):
    refine_level = data.draw(st.integers(0, len(sizes) - 1))
    layer = BalancedFeaturePyramid(refine_level, "conv", kernel_initializer="zeros")
    levels = random_levels(sizes)
    for output, level in zip(layer(levels), levels, strict=True):
        np.testing.assert_array_equal(output, level)


def test_a_new_non_local_block_refines_nothing():
    levels = random_levels([(12, 9), (6, 5), (3, 3)])
    for new, without in zip(
        BalancedFeaturePyramid(1)(levels), BalancedFeaturePyramid(1, None)(levels), strict=True
    ):
        np.testing.assert_array_equal(new, without)


@pytest.mark.parametrize("refine_level", ["9", 9])
def test_dicts_are_ordered_by_number(refine_level):
    levels = random_levels([(16, 16), (8, 8), (4, 4)])
    as_dict = {"10": levels[2], "8": levels[0], "9": levels[1]}
    outputs = BalancedFeaturePyramid(refine_level, None)(as_dict)
    assert set(outputs) == {"8", "9", "10"}
    for key, expected in zip(
        ("8", "9", "10"), BalancedFeaturePyramid(1, None)(levels), strict=True
    ):
        np.testing.assert_array_equal(outputs[key], expected)


@pytest.mark.parametrize("refine_type", [None, "conv", "non_local"])
def test_unknown_sizes_in_a_functional_model(refine_type, tmp_path):
    inputs = {str(level): keras.Input((None, None, 3)) for level in (3, 4, 5)}
    layer = BalancedFeaturePyramid("4", refine_type)
    model = keras.Model(inputs, layer(inputs))
    assert {k: tuple(v) for k, v in model.output_shape.items()} == dict.fromkeys(
        inputs, (None, None, None, 3)
    )
    # A new non-local block refines nothing.
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(size=w.shape, scale=0.3) for w in model.get_weights()])
    model.save(tmp_path / "model.keras")
    restored = keras.models.load_model(tmp_path / "model.keras")
    # Called as it is, the model would know the sizes of each input.
    unknown = {key: tf.TensorSpec([None, None, None, 3]) for key in inputs}
    traced = tf.function(lambda levels: restored(levels), input_signature=[unknown])
    for sizes in ([(16, 12), (8, 6), (4, 3)], [(15, 11), (8, 6), (4, 3)]):
        levels = dict(zip(inputs, random_levels(sizes), strict=True))
        expected = layer(levels)
        for outputs in (restored(levels), traced(levels)):
            assert set(outputs) == set(expected)
            for key, output in outputs.items():
                np.testing.assert_allclose(output, expected[key], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("refine_type", ["conv", "non_local"])
def test_mixed_precision_and_compilation(refine_type, policy):
    layer = BalancedFeaturePyramid(1, refine_type, dtype=policy)
    levels = random_levels([(9, 8), (5, 4), (3, 2)])
    assert layer(levels)[0].dtype == layer.compute_dtype

    @tf.function(jit_compile=True)
    def gradients(levels):
        with tf.GradientTape() as tape:
            loss = tf.add_n([tf.reduce_sum(tf.cast(y, tf.float32)) for y in layer(levels)])
        return tape.gradient(loss, layer.trainable_weights)

    assert layer.refine.compute_dtype == layer.compute_dtype
    for gradient in gradients(levels):
        assert gradient.dtype == tf.float32
        assert np.isfinite(gradient).all()


def test_config_round_trip():
    layer = BalancedFeaturePyramid(
        "4",
        mode="concatenation",
        reduction=2,
        use_scale=True,
        sub_sample=True,
        query_block=9,
        kernel_initializer="he_normal",
        out_kernel_initializer="ones",
        kernel_regularizer=keras.regularizers.L2(0.1),
        name="balance",
    )
    assert layer.refine.get_config()["out_kernel_initializer"]["class_name"] == "Ones"
    names = arguments.names(BalancedFeaturePyramid)
    assert arguments.kept(layer, BalancedFeaturePyramid("3")) == names - {"refine_type"}
    assert arguments.kept(BalancedFeaturePyramid(3, "conv"), BalancedFeaturePyramid(3)) >= {
        "refine_type"
    }
    restored = keras.layers.deserialize(keras.layers.serialize(layer))
    assert isinstance(restored, BalancedFeaturePyramid)
    assert restored.get_config() == layer.get_config()
    assert restored.refine.get_config() == layer.refine.get_config()


@pytest.mark.parametrize("level", ["p4", 1.9, -1, None])
def test_levels_that_are_none(level):
    with pytest.raises(ValueError, match=r"`refine_level` of .* must be a level number"):
        BalancedFeaturePyramid(level)


def test_published_initial_kernels():
    levels = random_levels([(4, 4), (2, 2)], channels=64)
    conv, non_local = BalancedFeaturePyramid(1, "conv"), BalancedFeaturePyramid(1, "non_local")
    conv(levels), non_local(levels)
    bound = np.sqrt(6 / (2 * 9 * 64))
    kernel = conv.refine.kernel.numpy()
    assert 0.99 * bound < np.abs(kernel).max() <= bound
    np.testing.assert_allclose(non_local.refine.g.kernel.numpy().std(), 0.01, rtol=0.1)


@pytest.mark.parametrize(
    ("levels", "match"),
    [
        ({"3": (1, 8, 8, 4), "5": (1, 4, 4, 4)}, "refine_level"),
        ({"p3": (1, 8, 8, 4)}, "level numbers"),
        ({"3": (1, 8, 8, 4), "4": (1, 4, 4, 5)}, "same known"),
        ([(1, 8, 8, 4)], "refine_level"),
    ],
)
def test_bad_levels(levels, match):
    with pytest.raises(ValueError, match=match):
        BalancedFeaturePyramid(4).build(levels)


def test_bad_arguments():
    with pytest.raises(ValueError, match="refine_type"):
        BalancedFeaturePyramid(4, "dense")
    with pytest.raises(ValueError, match="mode"):
        BalancedFeaturePyramid(4, mode="softmax")
