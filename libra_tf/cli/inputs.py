"""Checks of the paths that a command reads, before its long work."""

import os

from libra_tf import atomic
from libra_tf.cli.errors import UsageError

# What a data set may look like, for messages.
DATASET_LAYOUTS = (
    "the folder must contain images/, annotations/instances_train.json and "
    "annotations/instances_val.json (COCO), or JPEGImages/, Annotations/ and "
    "ImageSets/Main/train.txt and val.txt (Pascal VOC), or train/ and val/ with images and XML "
    "files side by side"
)


def require_folder(flag: str, path: str, remedy: str) -> None:
    """Checks that a local folder exists; a remote one is looked up when it is read.

    Args:
      flag: the flag that names the folder, such as `--model_dir`.
      path: its path.
      remedy: what to do, for the message.

    Raises:
      UsageError: if there is no such folder.
    """
    if not atomic.is_remote(path) and not os.path.isdir(path):
        what = "is not a folder" if os.path.exists(path) else "there is no such folder"
        raise UsageError(f"{flag}={path}: {what}; {remedy}")


def require_run(flag: str, path: str) -> None:
    """Checks that the folder of a run exists; see `require_folder`."""
    require_folder(flag, path, "name the folder of a run, the --model_dir of its training")
