"""TensorFlow Addons' optimizers in Model Garden's optimizer factory (addons lane only)."""

import functools

import tensorflow as tf
from official.modeling.optimization import optimizer_factory

from libra_tf import compat

if compat.IS_ADDONS_LANE:
    from tensorflow_addons import optimizers as addons


def has_averages(optimizer: tf.Module) -> bool:
    """Returns whether an optimizer keeps averages of the weights beside them."""
    return compat.IS_ADDONS_LANE and isinstance(optimizer, (addons.MovingAverage, addons.SWA))


def create_weights(optimizer: tf.Module, variables: list[tf.Variable]) -> None:
    """Makes the weights of an optimizer, which otherwise makes them in its first step.

    Args:
      optimizer: of Keras' old or new kind.
      variables: the trainable variables.
    """
    is_old = hasattr(optimizer, "_create_all_weights")
    (optimizer._create_all_weights if is_old else optimizer.build)(variables)


def swap_averages(optimizer: tf.Module, variables: list[tf.Variable]) -> None:
    """Exchanges weights and averages, for an optimizer that has any yet; twice is nothing.

    Args:
      optimizer: one for which `has_averages` is true.
      variables: the trainable variables.
    """
    if isinstance(optimizer, addons.SWA):
        start = optimizer._get_hyper("start_averaging", tf.int64)
        if optimizer.iterations <= start:
            return
    for variable in variables:
        average = optimizer.get_slot(variable, "average")
        weight = variable.read_value()
        variable.assign(average.read_value())
        average.assign(weight)


def _build_wrapper(wrapper_class, optimizer, learning_rate, **kwargs):
    """Builds a wrapper from the dict of its config; the learning rate is the wrapped one's."""
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
