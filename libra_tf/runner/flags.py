"""Command-line flags: Model Garden's and our own. Without TensorFlow, so `--help` is instant."""

import os
import sys

from absl import flags
from official.common import flags as tfm_flags

from libra_tf.cli import flags as run_flags
from libra_tf.cli import inputs
from libra_tf.cli.errors import UsageError, suggestion
from libra_tf.configs import names, yaml_files
from libra_tf.evaluation import checks

# `--help` lists the flags of these modules.
FLAG_MODULES = (tfm_flags, sys.modules[__name__])
EVALUATION_MODES = ("eval", "continuous_eval")
_REPORTING_MODES = ("train_and_eval", "train_and_post_eval")
MODES = ("train", "eval", "train_and_eval", "continuous_eval", "train_and_post_eval")


def define_flags() -> None:
    """Defines Model Garden's flags and our own."""
    tfm_flags.define_flags()
    flags.DEFINE_string(
        "dataset",
        default=None,
        help="Folder to train and evaluate on, as it comes: COCO as downloaded, Roboflow's COCO, "
        "YOLO (data.yaml) or Pascal VOC; docs/data.md shows the layouts. It determines the "
        "annotation file and the numbers of classes, examples and steps. Default for demo "
        "experiments: the built-in shapes data set.",
    )
    flags.DEFINE_float(
        "val_share",
        default=None,
        lower_bound=0.001,
        upper_bound=0.999,
        help="Part of the images of --dataset to set aside for validation if it has only one "
        "split. It is drawn by the content of the images: the same again every time, with copies "
        "of an image on one side. Default: 0.1.",
    )
    flags.DEFINE_string(
        "cache_dir",
        default=None,
        help="Folder for converted data sets. Default: $XDG_CACHE_HOME/libra_tf or "
        "~/.cache/libra_tf.",
    )
    flags.DEFINE_integer(
        "seed",
        default=None,
        lower_bound=0,
        # NumPy's generator does not accept a larger one.
        upper_bound=2**32 - 1,
        help="Seeds the initial weights, data order, augmentation and sampling, and makes all "
        "operations deterministic, which is slower. The same command on the same machine then "
        "produces the same weights, to the last bit. Default: every run is different.",
    )
    flags.DEFINE_integer(
        "patience",
        default=None,
        lower_bound=1,
        help="End the training when AP has not gained for this many evaluations. The best "
        "checkpoint is kept in best/. Default: train all steps.",
    )
    run_flags.define_checkpoint()
    run_flags.define_metrics()
    run_flags.define_report(
        "Default: at the end of a training that evaluates (train_and_eval, train_and_post_eval)."
    )
    run_flags.define_report_threshold()
    run_flags.define_compare()
    flags.DEFINE_bool(
        "enable_async_checkpointing",
        default=True,
        help="Whether to write checkpoints in the background while training continues.",
    )
    flags.mark_flag_as_required("mode")


def experiment_name(flag_values: flags.FlagValues) -> str:
    """Returns the name of the experiment to run: --experiment, or a default for the data.

    Args:
      flag_values: parsed flags.

    Raises:
      UsageError: if there is no such experiment; the message suggests the most similar name.
    """
    name = flag_values.experiment
    if not name:
        return names.FOLDER_EXPERIMENT if flag_values.dataset else names.DEMO_EXPERIMENT
    if name not in names.EXPERIMENTS:
        hint = suggestion(name, names.EXPERIMENTS)
        raise UsageError(
            f"--experiment={name}: there is no such experiment.{hint} "
            f"The Libra experiments are {', '.join(names.EXPERIMENTS)}; Model Garden's own "
            "experiments cannot be run here. A new one needs a line in libra_tf/configs/names.py."
        )
    return name


def may_evaluate_run(flag_values: flags.FlagValues) -> bool:
    """Returns whether a run is evaluated as its folder says, if it says what was trained.

    Naming an experiment means to evaluate that one, as the flags describe it.

    Args:
      flag_values: parsed flags.
    """
    return flag_values.mode in EVALUATION_MODES and not flag_values.experiment


def wants_report(flag_values: flags.FlagValues) -> bool:
    """Returns whether the page of the evaluation is written at the end.

    Args:
      flag_values: parsed flags.
    """
    if flag_values.report is not None:
        return flag_values.report
    asked = (flag_values.compare, flag_values.report_threshold)
    return asked != (None, None) or flag_values.mode in _REPORTING_MODES


def model_dir(flag_values: flags.FlagValues, experiment: str) -> str:
    """Returns --model_dir, or by default a folder in runs/ named after experiment and data set."""
    if flag_values.model_dir:
        return flag_values.model_dir
    if flag_values.dataset:
        experiment += "-" + os.path.basename(os.path.abspath(flag_values.dataset))
    return os.path.join("runs", experiment)


def check_flags(flag_values: flags.FlagValues) -> None:
    """Checks the flags before slow imports.

    Args:
      flag_values: parsed flags.

    Raises:
      UsageError: if the mode is unknown, a file or folder does not exist, or a training is to start
        from a checkpoint that only an evaluation can take, or if metrics are unknown.
    """
    if flag_values.mode not in MODES:
        raise UsageError(
            f"--mode={flag_values.mode} is not supported; choose one of {', '.join(MODES)}"
        )
    if flag_values.checkpoint and flag_values.mode != "eval":
        raise UsageError(
            f"--checkpoint={flag_values.checkpoint} is for --mode=eval. A training continues from "
            "the newest checkpoint in --model_dir; to start from other weights, set "
            "--params_override=task.init_checkpoint=CHECKPOINT"
        )
    run_flags.check_metrics(flag_values.metrics, flag_values.frequency_limits)
    if flag_values.metrics and "eval" not in flag_values.mode:
        raise UsageError(
            f"--metrics={','.join(flag_values.metrics)} is for evaluations, and "
            f"--mode={flag_values.mode} makes none; leave it out or add an evaluation"
        )
    for config_file in flag_values.config_file or ():
        yaml_files.find(config_file)
    if flag_values.dataset is not None:
        inputs.require_folder(
            "--dataset", flag_values.dataset, f"name a data set: {inputs.DATASET_LAYOUTS}"
        )
    _check_numbers(flag_values)
    if flag_values.mode == "train" and wants_report(flag_values):
        raise UsageError(
            "--report, --report_threshold and --compare are about an evaluation, and --mode=train "
            "has none; use --mode=train_and_eval"
        )
    checks.check_report(flag_values.report, flag_values.report_threshold, flag_values.compare)


def _check_numbers(flag_values: flags.FlagValues) -> None:
    """Checks what absl has checked on a command line, but nobody in a call from Python."""
    share, patience = flag_values.val_share, flag_values.patience
    if share is not None and flag_values.dataset is None:
        raise UsageError("--val_share divides the images of --dataset: give that, too")
    if share is not None and not 0 < share < 1:
        raise UsageError(f"--val_share={share}: it must lie between 0 and 1")
    if patience is not None and not (isinstance(patience, int) and patience > 0):
        raise UsageError(f"--patience={patience}: it must be a whole number of at least 1")
