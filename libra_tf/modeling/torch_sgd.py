"""SGD as PyTorch computes it."""

from typing import Any

import tensorflow as tf
from official.modeling.optimization import optimizer_factory

from libra_tf.compat import keras


class TorchSGD(keras.optimizers.legacy.SGD):
    """SGD with momentum and weight decay, as `torch.optim.SGD` computes them.

    The gradient `g` of a weight `w` becomes `g + weight_decay * w`, for every trained weight,
    biases and norms included; then `v = momentum * v + g` and `w -= learning_rate * v`. Keras
    multiplies the learning rate into `v`, so there a change of the rate takes effect gradually.
    Clipping comes before the weight decay.

    Args:
      learning_rate: a number or a schedule.
      momentum: share of `v` that is kept, in [0, 1].
      weight_decay: see above.
      **kwargs: `name`, and one of `clipnorm`, `clipvalue` and `global_clipnorm`.
    """

    def __init__(
        self,
        learning_rate: Any = 0.01,
        momentum: float = 0.9,
        weight_decay: float = 1e-4,
        name: str = "TorchSGD",
        **kwargs: Any,
    ):
        super().__init__(learning_rate, momentum, name=name, **kwargs)
        # The base class creates no slots without momentum.
        self._momentum = True
        self.weight_decay = weight_decay

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments that recreate the optimizer."""
        config = {**super().get_config(), "weight_decay": self.weight_decay}
        # An argument of the base class that has no place here.
        del config["nesterov"], config["decay"]
        return config

    def _resource_apply_dense(
        self, grad: tf.Tensor, var: tf.Variable, apply_state: Any = None
    ) -> tf.Operation:
        place = (var.device, var.dtype.base_dtype)
        state = (apply_state or {}).get(place) or self._fallback_apply_state(*place)
        return tf.raw_ops.ResourceApplyMomentum(
            var=var.handle,
            accum=self.get_slot(var, "momentum").handle,
            lr=state["lr_t"],
            grad=grad + self.weight_decay * var,
            momentum=state["momentum"],
            use_locking=self._use_locking,
        )

    def _resource_apply_sparse(self, *args: Any, **kwargs: Any) -> tf.Operation:
        raise NotImplementedError(
            "TorchSGD takes no sparse gradients, which detectors do not have."
        )


optimizer_factory.register_optimizer_cls("torch_sgd", TorchSGD)
