"""The numbers of steps in a training; most of them follow from others."""

from collections.abc import Collection

from official.core import config_definitions as cfg

_SUMMARY_INTERVAL = "trainer.summary_interval"
_DECAY_STEPS = "trainer.optimizer_config.learning_rate.cosine.decay_steps"
_LEAST = {
    "train_steps": 0,
    "steps_per_loop": 1,
    "summary_interval": 1,
    "checkpoint_interval": 1,
    "validation_interval": 0,
}


def scale(trainer: cfg.TrainerConfig, factor: float) -> None:
    """Scales the number of steps of a training, and the steps where its learning rate drops."""
    trainer.train_steps = max(1, round(trainer.train_steps * factor))
    learning_rate = trainer.optimizer_config.learning_rate
    if learning_rate.type == "stepwise":
        learning_rate.stepwise.boundaries = [
            round(boundary * factor) for boundary in learning_rate.stepwise.boundaries
        ]


def settle(trainer: cfg.TrainerConfig, named: Collection[str]) -> None:
    """Derives what the user has not set, and checks what the user has set.

    A cosine decay ends with the training. A warm-up takes at most half of the steps before the
    learning rate drops. Summaries are written after whole loops.

    Args:
      trainer: config, changed in place.
      named: the keys that the user has set, such as `trainer.train_steps`.

    Raises:
      ValueError: if a number is impossible; it names the key.
    """
    _check_numbers(trainer)
    if trainer.summary_interval % trainer.steps_per_loop:
        if _SUMMARY_INTERVAL in named:
            raise ValueError(
                f"{_SUMMARY_INTERVAL} is {trainer.summary_interval} and trainer.steps_per_loop "
                f"{trainer.steps_per_loop}; the first must be a multiple of the second"
            )
        trainer.summary_interval = trainer.steps_per_loop
    learning_rate = trainer.optimizer_config.learning_rate
    if learning_rate.type == "cosine" and _DECAY_STEPS not in named:
        learning_rate.cosine.decay_steps = trainer.train_steps
    _settle_warmup(trainer, named)


def _check_numbers(trainer: cfg.TrainerConfig) -> None:
    for name, least in _LEAST.items():
        value = getattr(trainer, name)
        if value < least:
            raise ValueError(f"trainer.{name} is {value}; it must be at least {least}")
    if trainer.validation_steps < 1 and trainer.validation_steps != -1:
        raise ValueError(
            f"trainer.validation_steps is {trainer.validation_steps}; it must be at least 1, or -1 "
            "for all batches"
        )


def _settle_warmup(trainer: cfg.TrainerConfig, named: Collection[str]) -> None:
    """Keeps the warm-up shorter than the steps before the learning rate drops.

    Model Garden's warm-up rises to the learning rate that is due at its last step. If the rate has
    dropped by then, training never reaches the full rate.
    """
    warmup = trainer.optimizer_config.warmup
    if warmup.type is None:
        return
    key = f"trainer.optimizer_config.warmup.{warmup.type}.warmup_steps"
    config, end = warmup.get(), _steps_before_drop(trainer)
    if config.warmup_steps is None:
        raise ValueError(f"{key} is not set; choose a number, or warmup.type=null for no warm-up")
    if key not in named:
        config.warmup_steps = min(config.warmup_steps, max(1, end // 2))
    elif config.warmup_steps > end:
        raise ValueError(
            f"{key} is {config.warmup_steps}, but the learning rate drops or the training ends at "
            f"step {end}; choose a shorter warm-up"
        )


def _steps_before_drop(trainer: cfg.TrainerConfig) -> int:
    learning_rate = trainer.optimizer_config.learning_rate
    if learning_rate.type == "stepwise" and learning_rate.stepwise.boundaries:
        stepwise = learning_rate.stepwise
        return min(trainer.train_steps, stepwise.boundaries[0] + stepwise.offset)
    return trainer.train_steps
