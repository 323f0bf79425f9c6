"""The devices and processes that a training is distributed over."""

import contextlib
import os
import tempfile
from collections.abc import Iterator

import tensorflow as tf
from official.common import distribute_utils
from official.core import config_definitions as cfg

from libra_tf.cli.errors import UsageError
from libra_tf.runs.folder import RunFolder

STRATEGIES = ("mirrored", "multi_worker_mirrored", "one_device", "tpu", "off")


def build_strategy(params: cfg.ExperimentConfig, mode: str) -> tf.distribute.Strategy:
    """Builds the strategy that `runtime` asks for; call it before TensorFlow computes anything.

    For `multi_worker_mirrored`, `runtime.worker_hosts` and `runtime.task_index`, or the environment
    variable `TF_CONFIG`, name the processes. The call waits for all of them.

    Args:
      params: the experiment; if its `runtime.num_gpus` is 0, all visible GPUs are used.
      mode: one of `libra_tf.runner.flags.MODES`.

    Raises:
      UsageError: if there is no such strategy, or several processes are not named or would
        evaluate.
    """
    runtime = params.runtime
    if runtime.distribution_strategy not in STRATEGIES:
        raise UsageError(
            f"runtime.distribution_strategy is {runtime.distribution_strategy!r}; it must be one "
            f"of {', '.join(STRATEGIES)}"
        )
    num_gpus = runtime.num_gpus
    if runtime.distribution_strategy == "multi_worker_mirrored":
        _configure_workers(runtime, mode)
    elif runtime.distribution_strategy == "mirrored" and not num_gpus:
        num_gpus = len(tf.config.list_physical_devices("GPU"))
    return distribute_utils.get_distribution_strategy(
        distribution_strategy=runtime.distribution_strategy,
        all_reduce_alg=runtime.all_reduce_alg,
        num_gpus=num_gpus,
        tpu_address=runtime.tpu,
    )


def _configure_workers(runtime: cfg.RuntimeConfig, mode: str) -> None:
    if "eval" in mode:
        # Each process would see only the detections in its own share of the images.
        raise UsageError(
            f"--mode={mode} does not work with runtime.distribution_strategy="
            "multi_worker_mirrored: train with --mode=train, and evaluate in one process, "
            "afterwards with --mode=eval or beside it with --mode=continuous_eval"
        )
    if "TF_CONFIG" not in os.environ:
        hosts = (runtime.worker_hosts or "").split(",")
        if not all(hosts) or not 0 <= runtime.task_index < len(hosts):
            raise UsageError(
                "runtime.distribution_strategy=multi_worker_mirrored needs runtime.worker_hosts "
                "(HOST:PORT,HOST:PORT,..., the same in every process; here "
                f"{runtime.worker_hosts!r}) and runtime.task_index (this process's place in it, "
                f"from 0; here {runtime.task_index}), or the environment variable TF_CONFIG"
            )
    distribute_utils.configure_cluster(runtime.worker_hosts, runtime.task_index)


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Returns whether this process is the one that writes to the folder of the run."""
    return strategy.extended.should_checkpoint


@contextlib.contextmanager
def own_folder(strategy: tf.distribute.Strategy, folder: RunFolder) -> Iterator[RunFolder]:
    """Where this process writes. Saving needs all processes; what the chief saves is kept.

    Args:
      strategy: of the training.
      folder: of the run.

    Yields:
      `folder` for the chief; for the others a temporary folder with a copy of the newest
      checkpoint.
    """
    if is_chief(strategy):
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="libra_tf-worker-") as temporary:
        own = RunFolder(temporary)
        folder.copy_newest_checkpoint(own)
        yield own


def any_worker(strategy: tf.distribute.Strategy, flag: bool) -> bool:
    """Returns whether `flag` is true in any of the processes; all of them must call this.

    Args:
      strategy: of the training.
      flag: this process's.
    """
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return flag

    @tf.function
    def count():
        context = tf.distribute.get_replica_context()
        return context.all_reduce(tf.distribute.ReduceOp.SUM, tf.constant(float(flag)))

    counts = strategy.experimental_local_results(strategy.run(count))
    return float(counts[0]) > 0


def wait_for_all(strategy: tf.distribute.Strategy) -> None:
    """Returns once all processes have called it."""
    any_worker(strategy, False)
