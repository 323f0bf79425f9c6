"""The command that trains a run again with what a verdict suggests."""

import dataclasses
import shlex
from collections.abc import Sequence

from libra_tf.configs import names
from libra_tf.runs.folder import PARAMS, RunFolder
from libra_tf.runs.trained_run import TrainedRun


@dataclasses.dataclass(frozen=True)
class Training:
    """How a run was trained.

    Attributes:
      folder: the folder of the run.
      experiment: the name of its experiment.
      dataset: the folder of images that it was trained on; None if its config names the images.
      val_share: the part of these images that was set aside for validation; None for the default.
    """

    folder: RunFolder
    experiment: str
    dataset: str | None
    val_share: float | None = None


def read_training(run: TrainedRun) -> Training | None:
    """Returns how a run was trained; None if its folder does not say on which images.

    Args:
      run: the run.

    Raises:
      UsageError: if a file in its folder is damaged.
    """
    experiment = run.folder.read_experiment()
    input_path = str(run.params.task.train_data.input_path or "")
    dataset = run.folder.read_dataset() or input_path
    if dataset != input_path:
        return Training(run.folder, experiment, dataset, run.folder.read_val_share())
    # Without a folder, such an experiment would train on the shapes, whatever its config names.
    if experiment in names.ON_SHAPES or not input_path:
        return None
    return Training(run.folder, experiment, None)


def train_with(lines: Sequence[str], training: Training | None) -> str:
    """Returns the command that changes a run's config and trains.

    Args:
      lines: the lines of config to change.
      training: how the run was trained; None if that is unknown.

    Returns:
      A line for a shell. It begins with `libra-tf train` and trains in a new folder, with all other
      settings of the run. If the training is unknown, it is `--params_override=...` alone.
    """
    override = f"--params_override={','.join(lines)}"
    if training is None:
        return shlex.quote(override)
    flags = [
        f"--experiment={training.experiment}",
        *([f"--dataset={training.dataset}"] if training.dataset else []),
        *([] if training.val_share is None else [f"--val_share={training.val_share}"]),
        f"--config_file={training.folder.file(PARAMS)}",
        f"--model_dir={training.folder.path.rstrip('/')}-{_short_key(lines[0])}",
        override,
    ]
    return shlex.join(["libra-tf", "train", *flags])


def _short_key(line: str) -> str:
    """Returns the last two parts of a line's key: enough to tell the new folders apart."""
    return ".".join(line.split("=")[0].split(".")[-2:])
