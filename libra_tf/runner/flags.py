"""Command-line flags: Model Garden's and ours. Imports no TensorFlow, so `--help` is instant."""

import difflib
import os
import sys

from absl import flags
from official.common import flags as tfm_flags

from libra_tf.cli.errors import UsageError
from libra_tf.configs import names

# The modules whose flags `--help` lists.
FLAG_MODULES = (tfm_flags, sys.modules[__name__])
MODES = ("train", "eval", "train_and_eval", "continuous_eval", "train_and_post_eval")


def define_flags() -> None:
    """Defines Model Garden's flags and our own."""
    tfm_flags.define_flags()
    flags.DEFINE_string(
        "dataset",
        default=None,
        help="A folder to train and evaluate on, in COCO format (images/ and "
        "annotations/instances_train.json and instances_val.json) or in Pascal VOC format "
        "(JPEGImages/, Annotations/ and ImageSets/Main/train.txt and val.txt, or train/ and val/ "
        "with images and XML files side by side). Number of classes, examples, steps and the "
        "annotation file are set from it. Without it a demo experiment uses the built-in shapes "
        "data set.",
    )
    flags.DEFINE_string(
        "cache_dir",
        default=None,
        help="Where converted data sets are kept. Default: $XDG_CACHE_HOME/libra_tf or "
        "~/.cache/libra_tf.",
    )
    flags.DEFINE_integer(
        "seed",
        default=None,
        lower_bound=0,
        # NumPy's generator takes no larger one.
        upper_bound=2**32 - 1,
        help="Seeds the initial weights, the order of the data, its augmentation and the sampling, "
        "and makes every operation deterministic, which is slower: the same command on the same "
        "machine gives the same weights to the last bit. Without it, every run is different.",
    )
    flags.DEFINE_bool(
        "enable_async_checkpointing",
        default=True,
        help="Whether checkpoints are written while training goes on.",
    )
    flags.mark_flag_as_required("mode")


def experiment_name(flag_values: flags.FlagValues) -> str:
    """Returns the experiment to run: the one that the flags name, or a default for the data.

    Raises:
      UsageError: if there is no such experiment; it names the nearest one.
    """
    name = flag_values.experiment
    if not name:
        return names.FOLDER_EXPERIMENT if flag_values.dataset else names.DEMO_EXPERIMENT
    if name not in names.EXPERIMENTS:
        nearest = difflib.get_close_matches(name, names.EXPERIMENTS, n=1, cutoff=0.5)
        hint = f" Did you mean {nearest[0]}?" if nearest else ""
        raise UsageError(
            f"--experiment={name}: there is no such experiment.{hint} "
            f"The Libra experiments are {', '.join(names.EXPERIMENTS)}; those of Model Garden "
            "itself are not trained here."
        )
    return name


def model_dir(flag_values: flags.FlagValues, experiment: str) -> str:
    """Returns --model_dir, or a folder under runs/ named after the experiment and the data."""
    if flag_values.model_dir:
        return flag_values.model_dir
    if flag_values.dataset:
        experiment += "-" + os.path.basename(os.path.abspath(flag_values.dataset))
    return os.path.join("runs", experiment)


def check_flags(flag_values: flags.FlagValues) -> None:
    """Checks the flags before anything heavy is imported.

    Raises:
      UsageError: on an unknown mode, or a file or folder that does not exist.
    """
    if flag_values.mode not in MODES:
        raise UsageError(
            f"--mode={flag_values.mode} is not supported; choose one of {', '.join(MODES)}"
        )
    for config_file in flag_values.config_file or ():
        if "://" not in config_file and not os.path.isfile(config_file):
            raise UsageError(f"--config_file={config_file}: there is no such file")
    if flag_values.dataset is not None and not os.path.isdir(flag_values.dataset):
        raise UsageError(
            f"--dataset={flag_values.dataset}: there is no such folder; it must hold images/ and "
            "annotations/instances_train.json and instances_val.json, or Pascal VOC's JPEGImages/, "
            "Annotations/ and ImageSets/Main/"
        )
