"""Training from Python, as `run.py` trains."""

import contextlib
import dataclasses
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from libra_tf.api import errors
from libra_tf.api.detector import Detector, console
from libra_tf.cli import quiet
from libra_tf.cli.errors import PreemptedError, UsageError, suggestion
from libra_tf.runner.options import Options
from libra_tf.runner.startup import StartUp

# What NumPy's generator accepts.
_SEEDS = range(2**32)


def train(
    dataset: str | os.PathLike[str] | None = None,
    experiment: str | None = None,
    *,
    model_dir: str | os.PathLike[str] | None = None,
    mode: str = "train_and_eval",
    seed: int | None = None,
    config_file: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None,
    params_override: Mapping[str, Any] | None = None,
    **overrides: Any,
) -> Detector:
    """Trains and evaluates a detector, as `run.py` does with the flags of the same names.

    A call with the folder of a run that was stopped goes on from its newest checkpoint. With a
    seed, TensorFlow computes deterministically for as long as this process lives.

    Args:
      dataset: folder of images and annotations; None for the built-in shapes, which the demo
        experiments train on, or for the data in the config.
      experiment: name of the experiment; None for the default of the data.
      model_dir: folder of the run; None for one in `runs/` that is named after experiment and data
        set.
      mode: `train`, `eval`, `train_and_eval`, `continuous_eval` or `train_and_post_eval`.
      seed: makes the run repeatable; None for another one every time.
      config_file: one or several YAML files with keys of the config.
      params_override: keys of the config and their values, nested or with dots.
      **overrides: keys of the config with dots, such as `**{"trainer.train_steps": 300}`, which
        win over `params_override`; and any other flag of `run.py` by its name, such as `cache_dir`.

    Returns:
      The detector of the run, with the weights of the newest checkpoint, or of the `checkpoint`
      that it has evaluated; `results` holds its evaluations.

    Raises:
      UsageError: if an argument, the config or a file they name is invalid.
      DatasetError: if the data set cannot be used.
      TrainingError: if training cannot go on, as with a loss that is not a number.
      KeyboardInterrupt: if it is interrupted; the message says which step is saved.
    """
    options = _options(
        overrides,
        dataset=_path(dataset),
        experiment=experiment,
        model_dir=_path(model_dir),
        mode=mode,
        seed=seed,
        config_file=_paths(config_file),
        params_override=params_override,
    )
    with errors.of_arguments(), quiet.libraries_silenced():
        # Model Garden's flags come with it.
        from libra_tf.runner import flags

        name = flags.experiment_name(options)
        flags.check_flags(options)
        folder = flags.model_dir(options, name)
        _run(name, folder, options)
    return Detector(folder, options.checkpoint)


def _run(experiment: str, model_dir: str, options: Options) -> None:
    terminal = console()
    if "tensorflow" not in sys.modules:
        terminal.print(f"{experiment}: importing TensorFlow and Model Garden ...", highlight=False)
    startup = StartUp(since_process_start=False)
    # Imported here because it is slow: wrong arguments are answered at once.
    from libra_tf import precision
    from libra_tf.compat import keras
    from libra_tf.runner import session

    startup.mark("import")
    # The run sets these for its process, but this one is the caller's, who may train again.
    policy = keras.mixed_precision.global_policy()
    with _signals_as_before(), precision.computing_in(policy):
        try:
            session.run(experiment, model_dir, options, terminal, startup)
        except PreemptedError as told:
            if told.status == PreemptedError.TERMINATED:
                raise
            raise KeyboardInterrupt(str(told)) from None


@contextlib.contextmanager
def _signals_as_before() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


def _options(others: Mapping[str, Any], **named: Any) -> Options:
    """Checks the arguments of `train`, and returns what the run is told.

    Args:
      others: keys of the config, with dots, and flags without an argument of their own.
      **named: the arguments that `train` names.

    Raises:
      UsageError: if there is no such flag, or an argument is of no use.
    """
    flags = {name: value for name, value in others.items() if "." not in name}
    known = [field.name for field in dataclasses.fields(Options)]
    for name in flags:
        if name not in known:
            hint = suggestion(name, known)
            raise UsageError(
                f"{name}={flags[name]!r}: train takes no such argument.{hint} Keys of the config "
                "have dots, as in **{'trainer.train_steps': 300}"
            )
    seed, changes = named["seed"], named["params_override"] or {}
    # A range looks for anything but an int one number after another.
    if seed is not None and not (isinstance(seed, int) and seed in _SEEDS):
        raise UsageError(f"seed={seed!r} must be a whole number from 0 to {_SEEDS[-1]}")
    if not isinstance(changes, Mapping):
        raise UsageError(
            f"params_override={changes!r} must be a dict, such as {{'trainer.train_steps': 300}}"
        )
    if threading.current_thread() is not threading.main_thread():
        raise UsageError("train can be called in the main thread only: it takes signals there")
    if "compare" in flags:
        flags["compare"] = _path(flags["compare"])
    if isinstance(flags.get("metrics"), str):
        flags["metrics"] = flags["metrics"].split(",")
    keys = {name: value for name, value in others.items() if "." in name}
    return Options(**{**named, **flags, "params_override": _nested({**_flat(changes), **keys})})


def _flat(changes: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Returns nested keys as keys with dots."""
    flat = {}
    for key, value in changes.items():
        nested = isinstance(value, Mapping)
        flat.update(_flat(value, f"{path}{key}.") if nested else {f"{path}{key}": value})
    return flat


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Returns keys with dots as nested keys.

    Raises:
      UsageError: if one key is part of another.
    """
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        *groups, name = key.split(".")
        node = nested
        for group in groups:
            node = node.setdefault(group, {})
            if not isinstance(node, dict):
                raise UsageError(
                    f"params_override sets {key} and also {group}, which it is part of"
                )
        node[name] = value
    return nested


def _path(path: str | os.PathLike[str] | None) -> str | None:
    return None if path is None else os.fspath(path)


def _paths(
    paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None,
) -> list[str] | None:
    if paths is None:
        return None
    return [
        os.fspath(path) for path in ([paths] if isinstance(paths, (str, os.PathLike)) else paths)
    ]
