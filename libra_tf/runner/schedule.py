"""Numbers of steps in a training config, many of which follow from others."""

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
    """Scales the number of steps, and the steps at which the learning rate drops.

    Args:
      trainer: config, changed in place.
      factor: what to multiply the numbers of steps by.
    """
    trainer.train_steps = max(1, round(trainer.train_steps * factor))
    learning_rate = trainer.optimizer_config.learning_rate
    if learning_rate.type == "stepwise":
        learning_rate.stepwise.boundaries = [
            round(boundary * factor) for boundary in learning_rate.stepwise.boundaries
        ]


def settle(trainer: cfg.TrainerConfig, named: Collection[str]) -> None:
    """Derives the numbers that the user has not set, and checks those that the user has set.

    Cosine decay ends with the training, warm-up takes at most half of the steps before the learning
    rate drops, and summaries are written only at the end of a loop.

    Args:
      trainer: config, changed in place.
      named: keys that the user has set, such as `trainer.train_steps`.

    Raises:
      ValueError: if a number is invalid; the message names the key.
    """
    _check_numbers(trainer)
    if trainer.train_tf_while_loop and not trainer.train_tf_function:
        raise ValueError(
            "trainer.train_tf_function is false, but trainer.train_tf_while_loop needs it; set "
            "both to false to train step by step"
        )
    if trainer.eval_tf_while_loop:
        raise ValueError(
            "trainer.eval_tf_while_loop is true, but an evaluation collects the detections of one "
            "batch after the other; set it to false"
        )
    if trainer.summary_interval % trainer.steps_per_loop:
        if _SUMMARY_INTERVAL in named:
            raise ValueError(
                f"{_SUMMARY_INTERVAL} is {trainer.summary_interval}; it must be a multiple of "
                f"trainer.steps_per_loop, which is {trainer.steps_per_loop}"
            )
        trainer.summary_interval = trainer.steps_per_loop
    learning_rate = trainer.optimizer_config.learning_rate
    if learning_rate.type == "cosine" and _DECAY_STEPS not in named:
        learning_rate.cosine.decay_steps = max(1, trainer.train_steps)
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
    """Makes the warm-up end before the learning rate drops.

    Model Garden's warm-up rises to the scheduled learning rate at its last step. If that rate has
    already dropped, training never reaches the full rate.
    """
    warmup = trainer.optimizer_config.warmup
    if warmup.type is None:
        return
    key = f"trainer.optimizer_config.warmup.{warmup.type}.warmup_steps"
    config, end = warmup.get(), _steps_before_drop(trainer)
    if config.warmup_steps is None:
        raise ValueError(
            f"{key} is not set; set it, or set trainer.optimizer_config.warmup.type=null for no "
            "warm-up"
        )
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
