"""The files in the folder of a run, which may be remote: written whole, and read back."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import tensorflow as tf
import yaml
from official.core import config_definitions as cfg
from official.modeling import hyperparams

from libra_tf.cli.errors import UsageError

PARAMS = "params.yaml"


@contextlib.contextmanager
def written_whole(path: str) -> Iterator[str]:
    """Gives a file its name when it is complete, so that it is never seen half-written.

    Args:
      path: of the file.

    Yields:
      The name to write it under.
    """
    temporary = f"{path}.tmp"
    yield temporary
    tf.io.gfile.rename(temporary, path, overwrite=True)


@contextlib.contextmanager
def explained(path: str, remedy: str) -> Iterator[None]:
    """Turns what goes wrong with the content of a file into one clear error.

    Args:
      path: of the file that the block reads.
      remedy: what to do if that is not what it should be.

    Raises:
      UsageError: it names the file.
    """
    try:
        yield
    except (AttributeError, LookupError, TypeError, ValueError, yaml.YAMLError) as error:
        what = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UsageError(f"{path} is damaged, or not of a run ({what}); {remedy}") from error


def write_params(model_dir: str, params: cfg.ExperimentConfig) -> None:
    """Writes the config of a run to its folder, which is made if it is not there."""
    tf.io.gfile.makedirs(model_dir)
    with written_whole(os.path.join(model_dir, PARAMS)) as path:
        hyperparams.save_params_dict_to_yaml(params, path)


def read_params(model_dir: str) -> dict[str, Any] | None:
    """Reads the config of a run.

    Args:
      model_dir: folder of the run.

    Returns:
      Its nested keys and values, None if there is no such file.

    Raises:
      UsageError: if it is not the whole config of a run.
    """
    path = os.path.join(model_dir, PARAMS)
    if not tf.io.gfile.exists(path):
        return None
    with explained_params(model_dir):
        saved = hyperparams.read_yaml_to_params_dict(path).as_dict()
        # A file that breaks off lacks the last ones.
        for group, key in (
            ("task", "model"),
            ("task", "train_data"),
            ("trainer", "optimizer_config"),
        ):
            saved[group][key]
        return saved


def explained_params(model_dir: str) -> contextlib.AbstractContextManager[None]:
    """As `explained`, of the config of a run."""
    remedy = "delete it: the command that trains this run writes it anew"
    return explained(os.path.join(model_dir, PARAMS), remedy)
