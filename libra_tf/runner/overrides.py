"""What config files and --params_override change; errors name the key and the nearest one."""

import collections.abc
import dataclasses
import difflib
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import tensorflow as tf
import yaml
from absl import flags
from official.modeling import hyperparams
from official.modeling.hyperparams import params_dict

from libra_tf.cli.errors import UsageError

# What a config file or flag is called, and the nested keys and values in it.
Override = tuple[str, Mapping[str, Any]]


class _TypeError(ValueError):
    """A value is not of its key's type."""


def read(flag_values: flags.FlagValues) -> Iterator[Override]:
    """Yields what `config_file` and `params_override` change, in the order in which they apply.

    Args:
      flag_values: parsed flags.

    Raises:
      UsageError: if one of them cannot be read.
    """
    for path in flag_values.config_file or ():
        yield f"--config_file={path}", _read(f"--config_file={path}", path)
    text = flag_values.params_override
    if text:
        yield "--params_override", _read(f"--params_override={text}", text)


def _read(source: str, text_or_path: str) -> dict[str, Any]:
    """Reads a YAML or JSON file, or Model Garden's `a.b=1,c=2` notation."""
    try:
        empty = params_dict.ParamsDict()
        overrides = params_dict.override_params_dict(empty, text_or_path, is_strict=False)
        return overrides.as_dict()
    except (yaml.YAMLError, ValueError, TypeError, tf.errors.OpError) as error:
        raise UsageError(
            f"{source} could not be read: {error}. Write a YAML file, a YAML text, or "
            "key.subkey=value,key.subkey=value."
        ) from error


def names(overrides: Sequence[Override]) -> set[str]:
    """Returns the keys that are changed, such as `trainer.train_steps`."""
    return {name for _, values in overrides for name in _leaves(values)}


def _leaves(values: Mapping[str, Any], path: str = "") -> Iterator[str]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}"


def apply(params: hyperparams.Config, overrides: Sequence[Override]) -> None:
    """Changes a config.

    Args:
      params: the config.
      overrides: what to change; later ones win.

    Raises:
      UsageError: on an unknown key or a value of the wrong type.
    """
    for source, values in overrides:
        checked = _checked(source, values, params)
        try:
            params.override(checked, is_strict=True)
        except (KeyError, ValueError, TypeError) as error:
            raise UsageError(f"{source}: {error}") from error


def _checked(
    source: str, overrides: Mapping[str, Any], params: hyperparams.Config, path: str = ""
) -> dict[str, Any]:
    """Returns the overrides with values of the keys' types, or raises a UsageError."""
    checked, declared = {}, typing.get_type_hints(type(params))
    for key, value in overrides.items():
        name = f"{path}{key}"
        if key not in params:
            raise UsageError(f"{source}: there is no config key {name}.{_hint(key, params, path)}")
        current = getattr(params, key)
        if key == "type" and isinstance(params, hyperparams.OneOfConfig):
            _check_kind(source, name, value, params)
        if isinstance(value, Mapping) and isinstance(current, hyperparams.Config):
            checked[key] = _checked(source, value, current, f"{name}.")
            continue
        try:
            checked[key] = _checked_value(name, value, declared.get(key))
        except _TypeError as error:
            has_example = current is not None and not isinstance(current, hyperparams.Config)
            example = f", such as {current!r}" if has_example else ""
            raise UsageError(f"{source}: {error}{example}") from error
    return checked


def _hint(key: str, params: hyperparams.Config, path: str) -> str:
    siblings = list(params.as_dict())
    nearest = difflib.get_close_matches(key, siblings, n=1)
    if nearest:
        return f" Did you mean {path}{nearest[0]}?"
    return f" Keys there: {', '.join(siblings)}."


def _check_kind(source: str, name: str, value: Any, params: hyperparams.OneOfConfig) -> None:
    kinds = [field.name for field in dataclasses.fields(params) if field.name != "type"]
    if value is not None and value not in kinds:
        raise UsageError(f"{source}: {name} is {value!r}; it must be one of {', '.join(kinds)}")


def _checked_value(name: str, value: Any, declared: Any) -> Any:
    """Returns a value in the type that its key declares, or raises a _TypeError.

    Texts are not checked: Model Garden itself puts None and lists where it declares texts.
    """
    members = typing.get_args(declared)
    if type(None) in members:
        if value is None or len(members) > 2:
            return value
        (declared,) = (member for member in members if member is not type(None))
    kind = typing.get_origin(declared) or declared
    if kind in (bool, int, float):
        return _checked_number(name, value, kind)
    if kind in (list, collections.abc.Sequence):
        return _checked_list(name, value, declared)
    if kind is str and type(value) is int:
        # YAML reads a number here, as in spinenet.model_id=96.
        return str(value)
    is_group = isinstance(kind, type) and issubclass(kind, hyperparams.Config)
    if is_group and not isinstance(value, Mapping):
        raise _TypeError(f"{name} is {value!r}, but it has keys of its own: set {name}.KEY")
    return value


def _checked_number(name: str, value: Any, kind: type) -> bool | int | float:
    number = value if kind is bool or not isinstance(value, str) else _as_number(value)
    if kind is int and isinstance(number, float) and number.is_integer():
        number = int(number)
    # Model Garden declares these weights as ints but computes with any number.
    accepts_fractions = kind is float or name.endswith("_weight")
    if type(number) is not kind and not (accepts_fractions and type(number) in (int, float)):
        expected = {bool: "true or false", int: "an int", float: "a number"}[kind]
        raise _TypeError(f"{name} is {value!r}, but {expected} is expected")
    return number


def _as_number(text: str) -> Any:
    """YAML reads 1e-4 as a text, but 1.0e-4 as a number."""
    try:
        return float(text)
    except ValueError:
        return text


def _checked_list(name: str, value: Any, declared: Any) -> list[Any]:
    if not isinstance(value, (list, tuple)):
        raise _TypeError(f"{name} is {value!r}, but a list is expected")
    (item_type,) = typing.get_args(declared) or (None,)
    return [_checked_value(f"{name}[{index}]", item, item_type) for index, item in enumerate(value)]
