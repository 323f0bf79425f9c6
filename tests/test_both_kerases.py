"""What a user does with a Keras layer or loss, on both Keras packages."""

import collections
import importlib
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

import libra_tf.layers
import libra_tf.losses
from libra_tf import compat
from libra_tf.mixins.non_local import MODES
from tests import arguments

Package = collections.namedtuple(
    "Package", "keras NonLocal2D BalancedFeaturePyramid BalancedL1Loss"
)

LEVEL_SHAPES = {"3": (15, 12), "4": (8, 6), "5": (4, 3)}
CHANNELS = 6


def model_gardens_package():
    return Package(
        compat.keras,
        libra_tf.layers.NonLocal2D,
        libra_tf.layers.BalancedFeaturePyramid,
        libra_tf.losses.BalancedL1Loss,
    )


def keras3_package():
    if compat.IS_ADDONS_LANE:
        pytest.skip("the addons lane has no Keras 3")
    keras3 = pytest.importorskip("libra_tf.keras3")
    return Package(
        keras3.keras, keras3.NonLocal2D, keras3.BalancedFeaturePyramid, keras3.BalancedL1Loss
    )


@pytest.fixture(params=[model_gardens_package, keras3_package], ids=["model_garden", "keras3"])
def package(request):
    return request.param()


def random_levels(batch=2):
    return {
        key: tf.random.stateless_normal([batch, *size, CHANNELS], [int(key), 0])
        for key, size in LEVEL_SHAPES.items()
    }


def functional_model(package, refine_type="non_local"):
    """A pyramid, a non-local block and a head on maps of unknown size."""
    keras = package.keras
    inputs = {key: keras.Input((None, None, CHANNELS), name=key) for key in LEVEL_SHAPES}
    levels = package.BalancedFeaturePyramid("4", refine_type)(inputs)
    refined = package.NonLocal2D("dot_product", reduction=2)(levels["5"])
    pooled = keras.layers.GlobalAveragePooling2D()(refined)
    return keras.Model(inputs, keras.layers.Dense(4)(pooled))


def subclassed_model(package):
    class Detector(package.keras.Model):
        def __init__(self):
            super().__init__()
            self.pyramid = package.BalancedFeaturePyramid(1)
            self.head = package.keras.layers.Dense(4)

        def call(self, levels):
            fine_to_coarse = [levels[key] for key in sorted(levels)]
            return self.head(tf.reduce_mean(self.pyramid(fine_to_coarse)[0], [1, 2]))

    return Detector()


def tf_variables(layer):
    """The trainable TensorFlow variables, which Keras 3 wraps in variables of its own."""
    weights = layer.trainable_weights
    return [w.value if isinstance(w.value, tf.Variable) else w for w in weights]


def randomize(model):
    """Moves every weight off its initial value: zeros would hide what comes before them."""
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(size=w.shape, scale=0.2) for w in model.get_weights()])


@pytest.mark.parametrize(
    ("make_model", "jit_compile"),
    [
        (functional_model, True),
        (subclassed_model, False),
        pytest.param(functional_model, False, marks=pytest.mark.slow),
        pytest.param(subclassed_model, True, marks=pytest.mark.slow),
    ],
)
def test_fit(package, make_model, jit_compile):
    model = make_model(package)
    levels, targets = random_levels(batch=8), np.full((8, 4), 2.0, np.float32)
    model.compile(
        package.keras.optimizers.Adam(0.02), package.BalancedL1Loss(), jit_compile=jit_compile
    )
    losses = model.fit(levels, targets, batch_size=4, epochs=12, verbose=0).history["loss"]
    assert losses[-1] < 0.7 * losses[0]
    randomized = [w for w in model.get_weights() if w.ndim == 2]
    assert all(np.abs(kernel).max() > 0 for kernel in randomized)


@pytest.mark.parametrize(
    "refine_type",
    [
        "non_local",
        pytest.param("conv", marks=pytest.mark.slow),
        pytest.param(None, marks=pytest.mark.slow),
    ],
)
def test_save_and_load(package, refine_type, tmp_path):
    model, levels = functional_model(package, refine_type), random_levels()
    randomize(model)
    expected = model(levels)

    model.save(tmp_path / "model.keras")
    restored = package.keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(restored(levels), expected, rtol=1e-5, atol=1e-6)

    model.save_weights(tmp_path / "model.weights.h5")
    new = functional_model(package, refine_type)
    new.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_allclose(new(levels), expected, rtol=1e-5, atol=1e-6)

    serve = tf.function(lambda levels: model(levels)).get_concrete_function(
        {key: tf.TensorSpec([None, None, None, CHANNELS], name=key) for key in levels}
    )
    tf.saved_model.save(model, str(tmp_path / "saved"), signatures=serve)
    served = tf.saved_model.load(str(tmp_path / "saved")).signatures["serving_default"](**levels)
    np.testing.assert_allclose(*served.values(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_output_shapes_of_unknown_sizes(package, mode):
    inputs = package.keras.Input((None, None, CHANNELS))
    layer = package.NonLocal2D(mode, sub_sample=True)
    assert tuple(layer(inputs).shape) == (None, None, None, CHANNELS)
    assert tuple(layer.compute_output_shape((2, None, 5, CHANNELS))) == (2, None, 5, CHANNELS)
    pyramid = package.BalancedFeaturePyramid(1, mode=mode)
    shapes = [(None, 8, 8, CHANNELS), (None, 4, 4, CHANNELS)]
    outputs = pyramid([package.keras.Input(shape[1:]) for shape in shapes])
    assert [tuple(output.shape) for output in outputs] == shapes


def test_configs_round_trip(package):
    keras = package.keras
    layers = [
        package.NonLocal2D("gaussian", 2, True, True, 5, "he_normal", "ones", "ones", "l2"),
        package.BalancedFeaturePyramid("4", "conv", kernel_initializer="he_normal", name="p"),
    ]
    defaults = [package.NonLocal2D(), package.BalancedFeaturePyramid("3")]
    changed = [arguments.kept(*pair) for pair in zip(layers, defaults, strict=True)]
    assert changed == [
        arguments.names(package.NonLocal2D),
        {"refine_level", "refine_type", "kernel_initializer"},
    ]
    for layer in layers:
        restored = keras.layers.deserialize(keras.layers.serialize(layer))
        assert type(restored) is type(layer)
        assert restored.get_config() == layer.get_config()
    loss = package.BalancedL1Loss(0.4, 1.2, 0.2, "mmdet", reduction="sum", name="box")
    names = arguments.names(package.BalancedL1Loss)
    assert arguments.kept(loss, package.BalancedL1Loss()) == names
    restored = keras.losses.deserialize(keras.losses.serialize(loss))
    assert type(restored) is type(loss)
    assert restored.get_config() == loss.get_config()


@pytest.mark.one_lane
@pytest.mark.parametrize(
    ("policy", "jit_compile"),
    [
        ("mixed_float16", False),
        ("mixed_bfloat16", True),
        pytest.param("mixed_float16", True, marks=pytest.mark.slow),
        pytest.param("mixed_bfloat16", False, marks=pytest.mark.slow),
    ],
)
def test_large_activations_in_half_precision(package, policy, jit_compile):
    """Activations of 1e4: products of two overflow float16."""
    x = 1e4 * tf.random.stateless_uniform([2, 6, 5, CHANNELS], [0, 1], -1, 1)
    for mode in MODES:
        layer = package.NonLocal2D(mode, dtype=policy, query_block=8)

        @tf.function(jit_compile=jit_compile)
        def gradients(x, layer=layer):
            with tf.GradientTape() as tape:
                y = tf.cast(layer(x), tf.float32)
                loss = tf.reduce_mean(y) / 1e4
            return y, tape.gradient(loss, tf_variables(layer))

        layer(x)
        y, of_weights = gradients(x)
        assert np.isfinite(y).all()
        assert all(np.isfinite(gradient).all() for gradient in of_weights)


def test_two_replicas_have_the_gradients_of_one(package, two_devices):
    """Half the batch on each of two devices, summed, is the whole batch on one."""
    strategy = two_devices
    with strategy.scope():
        model = functional_model(package)
        loss = package.BalancedL1Loss(reduction="sum")
    randomize(model)
    levels, targets = random_levels(batch=4), tf.ones([4, 4])

    @tf.function
    def gradients(levels, targets):
        with tf.GradientTape() as tape:
            value = loss(targets, model(levels))
        return tape.gradient(value, tf_variables(model))

    def of_replica(context):
        half = slice(2 * context.replica_id_in_sync_group, 2 * context.replica_id_in_sync_group + 2)
        return {key: level[half] for key, level in levels.items()}, targets[half]

    halves = strategy.experimental_distribute_values_from_function(of_replica)
    summed = strategy.reduce("SUM", strategy.run(gradients, args=halves), axis=None)
    for actual, expected in zip(summed, gradients(levels, targets), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-6)


def same_weights(source, target, inputs):
    target(inputs)
    target.set_weights(source.get_weights())


@pytest.mark.parametrize("mode", MODES)
def test_same_weights_same_numbers(mode):
    ours, keras3 = model_gardens_package(), keras3_package()
    levels = random_levels()
    layers = [p.BalancedFeaturePyramid("4", mode=mode, reduction=2) for p in (ours, keras3)]
    layers[0](levels)
    randomize_layer = np.random.default_rng(0)
    layers[0].set_weights([randomize_layer.normal(size=w.shape) for w in layers[0].get_weights()])
    same_weights(*layers, levels)
    names = [[w.name.split("/")[-1].split(":")[0] for w in layer.weights] for layer in layers]
    assert names[0] == names[1]
    expected, actual = layers[0](levels), layers[1](levels)
    for key in levels:
        np.testing.assert_allclose(actual[key], expected[key], rtol=1e-6, atol=1e-6)


def run_python(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.one_lane
def test_importing_the_layers_imports_no_other_keras():
    # TensorFlow itself imports Keras 3, unless told that the old Keras is in use.
    code = "import sys, libra_tf.layers, libra_tf.losses; print(*sys.modules)"
    modules = set(run_python(code, TF_USE_LEGACY_KERAS="1").stdout.split())
    assert "libra_tf.losses" in modules
    assert "official" not in modules
    assert compat.IS_ADDONS_LANE or "keras" not in modules


def test_importing_keras3_imports_no_other_keras():
    keras3_package()
    code = "import sys, libra_tf; libra_tf.keras3.NonLocal2D; print(*sys.modules)"
    modules = set(run_python(code).stdout.split())
    assert "keras.src" in modules
    assert not modules & {"official", "tf_keras", "tf_keras.src"}


def test_keras3_needs_the_tensorflow_backend(monkeypatch):
    package = keras3_package()
    # The other backends need libraries that are not installed here.
    monkeypatch.setattr(package.keras.backend, "backend", lambda: "jax")
    with pytest.raises(ImportError, match="KERAS_BACKEND=tensorflow"):
        importlib.reload(libra_tf.keras3)


@pytest.mark.skipif(not compat.IS_ADDONS_LANE, reason="the current lane has Keras 3")
def test_keras3_needs_keras_3():
    with pytest.raises(ImportError, match=r"libra_tf\.layers"):
        importlib.import_module("libra_tf.keras3")
