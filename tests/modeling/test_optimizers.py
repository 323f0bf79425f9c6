import numpy as np
import pytest
import tensorflow as tf
from official.modeling.optimization import OptimizerFactory

from libra_tf import compat
from libra_tf.configs import optimization
from libra_tf.modeling import optimizers

STEPS = 6
CONFIGS = {
    "lazy_adam": {"epsilon": 1e-6},
    "rectified_adam": {"weight_decay": 1e-5},
    "novograd": {"grad_averaging": True},
    "lookahead": {"optimizer": {"type": "rectified_adam"}, "sync_period": 2},
    "swa": {"optimizer": {"type": "sgd", "sgd": {"momentum": 0.5}}, "average_period": 2},
    "moving_average": {"optimizer": {"type": "novograd"}, "average_decay": 0.5},
}

addons_lane_only = pytest.mark.skipif(
    not compat.IS_ADDONS_LANE, reason="TensorFlow Addons cannot be imported here"
)


def make_config(kind, **kwargs):
    return optimization.OptimizationConfig(
        {
            "optimizer": {"type": kind, kind: {**CONFIGS.get(kind, {}), **kwargs}},
            "learning_rate": {"type": "constant", "constant": {"learning_rate": 0.05}},
        }
    )


def train(optimizer):
    """Fits a line, and returns the losses, the variables and the weights after each step."""
    variables = [tf.Variable([[0.0], [0.0]]), tf.Variable([1.0])]
    x = tf.random.stateless_normal([32, 2], [0, 0])
    targets = x @ [[1.0], [-2.0]] + 0.5
    losses, weights = [], []
    for _ in range(STEPS):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((x @ variables[0] + variables[1] - targets) ** 2)
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        losses.append(float(loss))
        weights.append([v.numpy() for v in variables])
    return losses, variables, weights


@addons_lane_only
@pytest.mark.parametrize("kind", optimization.ADDONS_OPTIMIZERS)
def test_model_gardens_factory_builds_it(kind):
    config = make_config(kind, global_clipnorm=1.0)
    optimization.check_optimizer(config.optimizer, "optimizer")
    factory = OptimizerFactory(config)
    optimizer = factory.build_optimizer(factory.build_learning_rate())
    losses, _, weights = train(optimizer)
    assert losses[-1] < losses[0]
    # At a rate of 0.05, a gradient of norm 1 moves plain SGD by that much at most.
    if kind == "swa":
        assert np.linalg.norm(np.concatenate([w.ravel() for w in weights[0]]) - [0, 0, 1]) < 0.0501


@addons_lane_only
@pytest.mark.parametrize("kind", ["swa", "moving_average"])
def test_averages_are_those_of_the_weights(kind):
    optimizer = OptimizerFactory(make_config(kind)).build_optimizer(0.05)
    assert optimizers.has_addons_averages(optimizer)
    _, variables, weights = train(optimizer)
    last = [v.numpy() for v in variables]
    if kind == "swa":
        expected = np.mean([w[0] for w in weights[::2]], axis=0)
    else:
        expected = np.zeros_like(last[0])
        for step in weights:
            expected = 0.5 * expected + 0.5 * step[0]
    optimizers.swap_averages(optimizer, variables)
    np.testing.assert_allclose(variables[0], expected, rtol=1e-5)
    optimizers.swap_averages(optimizer, variables)
    for variable, weight in zip(variables, last, strict=True):
        np.testing.assert_array_equal(variable, weight)


@addons_lane_only
def test_there_are_no_averages_before_they_start():
    config = make_config("swa", start_averaging=STEPS)
    optimizer = OptimizerFactory(config).build_optimizer(0.05)
    _, variables, weights = train(optimizer)
    optimizers.swap_averages(optimizer, variables)
    np.testing.assert_array_equal(variables[0], weights[-1][0])


@addons_lane_only
def test_clipping_by_a_wrapped_optimizer_is_refused():
    wrapped = {"type": "adam", "adam": {"clipnorm": 1.0}}
    config = make_config("lookahead", optimizer=wrapped)
    with pytest.raises(ValueError, match=r"set optimizer\.lookahead\.clipnorm"):
        optimization.check_optimizer(config.optimizer, "optimizer")


@pytest.mark.skipif(compat.IS_ADDONS_LANE, reason="they work here")
@pytest.mark.parametrize(("kind", "instead"), optimization.ADDONS_OPTIMIZERS.items())
def test_the_current_lane_says_what_to_use_instead(kind, instead):
    with pytest.raises(ValueError, match=f"'{kind}', an optimizer of TensorFlow Addons") as error:
        optimization.check_optimizer(make_config(kind).optimizer, "optimizer")
    assert instead in str(error.value)
    assert "pip install '.[addons]'" in str(error.value)


def test_model_gardens_own_stay_as_they_are():
    config = make_config("sgd", momentum=0.9)
    optimization.check_optimizer(config.optimizer, "optimizer")
    optimizer = OptimizerFactory(config).build_optimizer(0.05)
    assert isinstance(optimizer, compat.keras.optimizers.legacy.SGD)
    assert not optimizers.has_addons_averages(optimizer)


def make_model():
    return compat.keras.Sequential([compat.keras.layers.Dense(1, input_shape=[2])])


def test_averages_of_model_garden_come_back_from_a_checkpoint(tmp_path):
    config = make_config("sgd", momentum=0.9)
    config.override({"ema": {"average_decay": 0.5, "dynamic_decay": False}})
    trained, optimizer = make_model(), OptimizerFactory(config).build_optimizer(0.05)
    variables = optimizers.create_averages(optimizer, trained)
    expected = np.zeros([2, 1])
    for _ in range(3):
        gradients = [tf.ones_like(variable) for variable in variables]
        optimizer.apply_gradients(zip(gradients, variables, strict=True))
        expected = 0.5 * expected + 0.5 * variables[0].numpy()
    path = tf.train.Checkpoint(model=trained, optimizer=optimizer).write(str(tmp_path / "ckpt"))

    loaded, optimizer = make_model(), OptimizerFactory(config).build_optimizer(0.05)
    averaged = optimizers.create_averages(optimizer, loaded)
    status = tf.train.Checkpoint(model=loaded, optimizer=optimizer).read(path)
    status.expect_partial().assert_existing_objects_matched()
    optimizers.swap_averages(optimizer, averaged)
    np.testing.assert_allclose(loaded.trainable_variables[0], expected, rtol=1e-6)


def test_most_optimizers_keep_no_averages():
    optimizer = OptimizerFactory(make_config("sgd")).build_optimizer(0.05)
    assert not optimizers.create_averages(optimizer, make_model())
