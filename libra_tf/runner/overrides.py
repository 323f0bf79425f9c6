"""Reads and applies config files and --params_override. Errors suggest the most similar key."""

import collections.abc
import dataclasses
import math
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import tensorflow as tf
import yaml
from absl import flags
from official.modeling import hyperparams
from official.modeling.hyperparams import params_dict

from libra_tf.cli.errors import UsageError, suggestion
from libra_tf.configs import yaml_files

# The flag that an override comes from, and its nested keys and values.
Override = tuple[str, Mapping[str, Any]]


class _TypeError(ValueError):
    """A value does not have the type of its key."""


def read(flag_values: flags.FlagValues) -> Iterator[Override]:
    """Yields the overrides in `config_file` and `params_override`, in the order they apply.

    Args:
      flag_values: parsed flags.

    Raises:
      UsageError: if one of them cannot be read.
    """
    for name in flag_values.config_file or ():
        source = f"--config_file={name}"
        yield source, _read(source, yaml_files.find(name))
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
            f"{source} could not be read: {error}. Use a YAML file, YAML text, or "
            "key.subkey=value,key.subkey=value."
        ) from error


def names(overrides: Sequence[Override]) -> set[str]:
    """Returns the keys that overrides change, such as `trainer.train_steps`."""
    return {name for _, values in overrides for name in _leaves(values)}


def _leaves(values: Mapping[str, Any], path: str = "") -> Iterator[str]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}"


def apply(params: hyperparams.Config, overrides: Sequence[Override]) -> None:
    """Applies overrides to a config.

    Args:
      params: the config, changed in place.
      overrides: the overrides; later ones win.

    Raises:
      UsageError: if a key is unknown or a value has the wrong type.
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
    """Converts values to the types of their keys, or raises a UsageError.

    Args:
      source: the flag that the overrides come from, for messages.
      overrides: nested keys and values.
      params: the config to change.
      path: prefix of the keys, for messages.

    Returns:
      The nested keys with converted values.
    """
    checked, declared = {}, typing.get_type_hints(type(params))
    for key, value in overrides.items():
        name = f"{path}{key}"
        if key not in params:
            raise UsageError(f"{source}: there is no config key {name}.{_hint(key, params, path)}")
        current = getattr(params, key)
        if current is None:
            current = _default_group(declared.get(key))
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


def _default_group(declared: Any) -> hyperparams.Config | None:
    """Returns the default of a group of keys that is null, to check the keys below it.

    Args:
      declared: the type of the group. The plain `Config` stands for a group with any keys.
    """
    for member in typing.get_args(declared):
        is_group = isinstance(member, type) and issubclass(member, hyperparams.Config)
        if is_group and member is not hyperparams.Config:
            return member()
    return None


def _hint(key: str, params: hyperparams.Config, path: str) -> str:
    siblings = list(params.as_dict())
    hint = suggestion(key, siblings, prefix=path, cutoff=0.6)
    if hint:
        return hint
    return f" The keys there are {', '.join(siblings)}."


def _check_kind(source: str, name: str, value: Any, params: hyperparams.OneOfConfig) -> None:
    kinds = [field.name for field in dataclasses.fields(params) if field.name != "type"]
    if value is not None and value not in kinds:
        raise UsageError(f"{source}: {name} is {value!r}; it must be one of {', '.join(kinds)}")


def _checked_value(name: str, value: Any, declared: Any) -> Any:
    """Converts a value to the declared type of its key, or raises a _TypeError.

    Strings are not checked, because Model Garden itself stores None and lists in keys that it
    declares as strings.
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
        # YAML reads a value such as spinenet.model_id=96 as a number.
        return str(value)
    is_group = isinstance(kind, type) and issubclass(kind, hyperparams.Config)
    if is_group and not isinstance(value, Mapping):
        raise _TypeError(f"{name} is {value!r}, but it is a group of keys; set {name}.KEY instead")
    return value


def _checked_number(name: str, value: Any, kind: type) -> bool | int | float:
    number = value if kind is bool or not isinstance(value, str) else _as_number(value)
    if kind is int and isinstance(number, float) and number.is_integer():
        number = int(number)
    # Model Garden declares these weights as ints, but accepts any number.
    accepts_fractions = kind is float or name.endswith("_weight")
    if type(number) is not kind and not (accepts_fractions and type(number) in (int, float)):
        expected = {bool: "true or false", int: "an int", float: "a number"}[kind]
        raise _TypeError(f"{name} is {value!r}; it must be {expected}")
    if math.isnan(number):
        raise _TypeError(f"{name} is NaN; it must be a number")
    # TensorFlow's learning rates cannot be computed from whole numbers.
    return float(number) if kind is float else number


def _as_number(text: str) -> Any:
    """Returns a string as a number if it is one: YAML reads 1e-4 as a string, unlike 1.0e-4."""
    try:
        return float(text)
    except ValueError:
        return text


def _checked_list(name: str, value: Any, declared: Any) -> list[Any]:
    if not isinstance(value, (list, tuple)):
        raise _TypeError(f"{name} is {value!r}; it must be a list")
    (item_type,) = typing.get_args(declared) or (None,)
    return [_checked_value(f"{name}[{index}]", item, item_type) for index, item in enumerate(value)]
