"""Optimizer configs: Model Garden's, PyTorch's SGD, and those of TensorFlow Addons.

The Addons optimizers work in the addons lane only. Their configs exist in both lanes, so that the
current lane can read the same config files and report what to use instead.
"""

import dataclasses

from official.modeling import hyperparams, optimization
from official.modeling.optimization.configs import optimizer_config

from libra_tf import compat

# What to use in the current lane instead of each optimizer of TensorFlow Addons.
ADDONS_OPTIMIZERS = {
    "lazy_adam": "adam",
    "rectified_adam": "adam with a longer warmup",
    "novograd": "lamb",
    "lookahead": "the optimizer that it wraps",
    "swa": "any optimizer and trainer.optimizer_config.ema.average_decay",
    "moving_average": "any optimizer and trainer.optimizer_config.ema.average_decay",
}


@dataclasses.dataclass
class LazyAdamConfig(optimizer_config.AdamConfig):
    """Adam that updates only the rows of a sparse gradient; see `tfa.optimizers.LazyAdam`."""

    name: str = "LazyAdam"


@dataclasses.dataclass
class RectifiedAdamConfig(optimizer_config.AdamConfig):
    """Rectified Adam; see `tfa.optimizers.RectifiedAdam` for the attributes."""

    name: str = "RectifiedAdam"
    weight_decay: float = 0.0
    sma_threshold: float = 5.0


@dataclasses.dataclass
class NovoGradConfig(optimizer_config.AdamConfig):
    """NovoGrad; see `tfa.optimizers.NovoGrad` for the attributes."""

    name: str = "NovoGrad"
    weight_decay: float = 0.0
    grad_averaging: bool = False


@dataclasses.dataclass
class TorchSGDConfig(optimizer_config.BaseOptimizerConfig):
    """SGD as PyTorch computes it; see `libra_tf.modeling.torch_sgd` for the attributes."""

    name: str = "TorchSGD"
    momentum: float = 0.9
    weight_decay: float = 1e-4


@dataclasses.dataclass
class BaseOptimizer(optimization.OptimizerConfig):
    """Model Garden's optimizers, PyTorch's SGD, and those of TensorFlow Addons that wrap none."""

    torch_sgd: TorchSGDConfig = dataclasses.field(default_factory=TorchSGDConfig)
    lazy_adam: LazyAdamConfig = dataclasses.field(default_factory=LazyAdamConfig)
    rectified_adam: RectifiedAdamConfig = dataclasses.field(default_factory=RectifiedAdamConfig)
    novograd: NovoGradConfig = dataclasses.field(default_factory=NovoGradConfig)


def _default_wrapped() -> BaseOptimizer:
    return BaseOptimizer({"type": "adam"})


@dataclasses.dataclass
class WrapperConfig(optimizer_config.BaseOptimizerConfig):
    """An optimizer that wraps another one.

    Attributes:
      optimizer: the wrapped optimizer. Set gradient clipping on the wrapper, not here.
    """

    optimizer: BaseOptimizer = dataclasses.field(default_factory=_default_wrapped)


@dataclasses.dataclass
class LookaheadConfig(WrapperConfig):
    """Lookahead; see `tfa.optimizers.Lookahead` for the attributes."""

    name: str = "Lookahead"
    sync_period: int = 6
    slow_step_size: float = 0.5


@dataclasses.dataclass
class SWAConfig(WrapperConfig):
    """Stochastic weight averaging; see `tfa.optimizers.SWA` for the attributes.

    Evaluation uses the averages as soon as there are any.
    """

    name: str = "SWA"
    start_averaging: int = 0
    average_period: int = 10


@dataclasses.dataclass
class MovingAverageConfig(WrapperConfig):
    """Moving average of the weights; see `tfa.optimizers.MovingAverage` for the attributes.

    Evaluation uses the averages.
    """

    name: str = "MovingAverage"
    average_decay: float = 0.99
    start_step: int = 0
    dynamic_decay: bool = False


@dataclasses.dataclass
class Optimizer(BaseOptimizer):
    """All optimizers: Model Garden's, PyTorch's SGD, and those of TensorFlow Addons."""

    lookahead: LookaheadConfig = dataclasses.field(default_factory=LookaheadConfig)
    swa: SWAConfig = dataclasses.field(default_factory=SWAConfig)
    moving_average: MovingAverageConfig = dataclasses.field(default_factory=MovingAverageConfig)


@dataclasses.dataclass
class OptimizationConfig(optimization.OptimizationConfig):
    """Model Garden's optimization config with the other optimizers added."""

    optimizer: Optimizer = dataclasses.field(default_factory=Optimizer)


def check(config: optimization.OptimizationConfig, key: str) -> None:
    """Checks that an optimizer and a learning rate are chosen, and that they work.

    Args:
      config: the optimization config.
      key: its key, for the message.

    Raises:
      ValueError: if one is not chosen or does not work; the message names the key.
    """
    for name in ("optimizer", "learning_rate"):
        group = getattr(config, name)
        if group.type is None:
            kinds = [field.name for field in dataclasses.fields(group) if field.name != "type"]
            raise ValueError(f"{key}.{name}.type is not set; choose one of {', '.join(kinds)}")
    check_optimizer(config.optimizer, f"{key}.optimizer")
    if config.learning_rate.type == "stepwise":
        _check_stepwise(config.learning_rate.stepwise, f"{key}.learning_rate.stepwise")


def _check_stepwise(stepwise: hyperparams.Config, key: str) -> None:
    boundaries, values = stepwise.boundaries, stepwise.values
    if list(boundaries) != sorted(set(boundaries)):
        raise ValueError(
            f"{key}.boundaries is {boundaries}; each step must be greater than the one before"
        )
    if len(values) != len(boundaries) + 1:
        raise ValueError(
            f"{key}.values is {values} and {key}.boundaries is {boundaries}; there must be one "
            "more value than boundaries: the learning rates before, between and after them"
        )


def check_optimizer(optimizer: hyperparams.OneOfConfig, key: str) -> None:
    """Checks that the chosen optimizer works in the installed lane.

    Args:
      optimizer: config of the optimizer.
      key: its key, for the message.

    Raises:
      ValueError: if it is an optimizer of TensorFlow Addons and these cannot be imported, or if a
        wrapped optimizer sets gradient clipping, which would have no effect.
    """
    if optimizer.type in ADDONS_OPTIMIZERS and not compat.IS_ADDONS_LANE:
        raise ValueError(
            f"{key}.type is {optimizer.type!r}, an optimizer of TensorFlow Addons, which has "
            "reached its end of life and does not work with TensorFlow 2.16 or later. Use "
            f"{ADDONS_OPTIMIZERS[optimizer.type]}, or install the addons lane: "
            "pip install '.[addons]'"
        )
    chosen = optimizer.get()
    if isinstance(chosen, WrapperConfig):
        key = f"{key}.{optimizer.type}"
        clips = [
            k for k, value in chosen.optimizer.get().as_dict().items() if "clip" in k and value
        ]
        if clips:
            raise ValueError(
                f"{key}.optimizer.{chosen.optimizer.type}.{clips[0]} would have no effect; instead "
                f"set {key}.{clips[0]}"
            )
        check_optimizer(chosen.optimizer, f"{key}.optimizer")
