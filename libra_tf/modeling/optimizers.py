"""Averages of the weights, and TensorFlow Addons' optimizers in Model Garden's factory."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf
from official.modeling import optimization
from official.modeling.optimization import optimizer_factory

from libra_tf import compat
from libra_tf.compat import keras

if compat.IS_ADDONS_LANE:
    from tensorflow_addons import optimizers as addons


def has_addons_averages(optimizer: tf.Module) -> bool:
    """Returns whether an optimizer of TensorFlow Addons keeps averages of the weights.

    Model Garden's trainer swaps those of its own `ExponentialMovingAverage`, but not these.
    """
    return compat.IS_ADDONS_LANE and isinstance(optimizer, (addons.MovingAverage, addons.SWA))


def create_weights(optimizer: tf.Module, variables: Sequence[tf.Variable]) -> None:
    """Creates an optimizer's weights now instead of in its first step.

    Args:
      optimizer: a legacy or a new Keras optimizer.
      variables: the trainable variables.
    """
    is_old = hasattr(optimizer, "_create_all_weights")
    (optimizer._create_all_weights if is_old else optimizer.build)(variables)


def create_averages(optimizer: tf.Module, model: keras.Model) -> Sequence[tf.Variable]:
    """Creates the averages that an optimizer keeps of a model's weights, for a checkpoint to fill.

    Args:
      optimizer: any optimizer.
      model: the model that it trains.

    Returns:
      The weights that have an average; none if the optimizer keeps no averages.
    """
    if isinstance(optimizer, optimization.ExponentialMovingAverage):
        optimizer.shadow_copy(model)
        return optimizer._model_weights
    if has_addons_averages(optimizer):
        create_weights(optimizer, model.trainable_variables)
        return model.trainable_variables
    return ()


def swap_averages(optimizer: tf.Module, variables: Sequence[tf.Variable]) -> None:
    """Swaps the weights with their averages; a second call swaps them back.

    With SWA, does nothing before the averages start. Unlike the `swap_weights` of Model Garden's
    `ExponentialMovingAverage`, it needs no `tf.distribute.Strategy`.

    Args:
      optimizer: an optimizer for which `create_averages` returns variables.
      variables: what it returns.
    """
    if compat.IS_ADDONS_LANE and isinstance(optimizer, addons.SWA):
        start = optimizer._get_hyper("start_averaging", tf.int64)
        if optimizer.iterations <= start:
            return
    for variable in variables:
        average = optimizer.get_slot(variable, "average")
        weight = variable.read_value()
        variable.assign(average.read_value())
        average.assign(weight)


def _build_wrapper(
    wrapper_class: type[tf.Module],
    optimizer: Mapping[str, Any],
    learning_rate: Any,
    **kwargs,
) -> tf.Module:
    """Builds a wrapping optimizer.

    Args:
      wrapper_class: one of the wrapping optimizers of TensorFlow Addons.
      optimizer: config of the wrapped optimizer, as a dict.
      learning_rate: learning rate or schedule of the wrapped optimizer.
      **kwargs: arguments of the wrapper.

    Returns:
      The wrapping optimizer.
    """
    wrapped_type = optimizer["type"]
    wrapped_kwargs = {k: v for k, v in optimizer[wrapped_type].items() if "clip" not in k}
    wrapped_class = optimizer_factory.LEGACY_OPTIMIZERS_CLS[wrapped_type]
    wrapped = wrapped_class(learning_rate=learning_rate, **wrapped_kwargs)
    return wrapper_class(wrapped, **kwargs)


def _register() -> None:
    register = optimizer_factory.register_optimizer_cls
    register("lazy_adam", addons.LazyAdam)
    register("rectified_adam", addons.RectifiedAdam)
    register("novograd", addons.NovoGrad)
    register("lookahead", functools.partial(_build_wrapper, addons.Lookahead))
    register("swa", functools.partial(_build_wrapper, addons.SWA))
    register("moving_average", functools.partial(_build_wrapper, addons.MovingAverage))


if compat.IS_ADDONS_LANE:
    _register()
