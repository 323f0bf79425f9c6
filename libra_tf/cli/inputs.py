"""Checks of the paths that a command reads, before its long work."""

import os

from libra_tf import atomic
from libra_tf.cli.errors import UsageError

# What a data set may look like, for messages.
DATASET_LAYOUTS = (
    "a data set is a folder in COCO's layout (annotations/instances_train2017.json with its "
    "images in train2017/ or images/, likewise val2017; other years and names by the same "
    "pattern), one COCO file (result.json, of any name) beside the images or images/, Roboflow's "
    "COCO (train/_annotations.coco.json, valid/), YOLO's (data.yaml, images/, labels/) or Pascal "
    "VOC's (JPEGImages/, Annotations/ and ImageSets/Main/train.txt and val.txt; or train/ and val/ "
    "with images and XML files side by side)"
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
