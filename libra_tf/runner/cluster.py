"""The devices and processes that a training is distributed over."""

import contextlib
import os
import tempfile
from collections.abc import Iterator

import tensorflow as tf
from official.common import distribute_utils
from official.core import config_definitions as cfg

from libra_tf.cli.errors import UsageError

STRATEGIES = ("mirrored", "multi_worker_mirrored", "one_device", "tpu", "off")


def build_strategy(params: cfg.ExperimentConfig, mode: str) -> tf.distribute.Strategy:
    """Builds the strategy that `runtime` asks for; to be called before TensorFlow computes.

    Several processes (`multi_worker_mirrored`) are named by `runtime.worker_hosts` and
    `runtime.task_index`, or by the environment variable `TF_CONFIG`. The call waits for all.

    Args:
      params: the experiment; where its `runtime.num_gpus` is 0, all visible ones are used.
      mode: one of `libra_tf.runner.flags.MODES`.

    Raises:
      UsageError: if there is no such strategy, or the processes are not named or are to evaluate.
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
        # Each process would see the detections of its own share of the images.
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
    """Whether this process is the one that writes to the model folder."""
    return strategy.extended.should_checkpoint


@contextlib.contextmanager
def own_folder(strategy: tf.distribute.Strategy, model_dir: str) -> Iterator[str]:
    """Where this process writes: all of them save, as saving needs all, and the chief's is kept.

    Args:
      strategy: of the training.
      model_dir: folder of the run.

    Yields:
      `model_dir` for the chief; for the others a temporary folder with a copy of the newest
      checkpoint.
    """
    if is_chief(strategy):
        yield model_dir
        return
    with tempfile.TemporaryDirectory(prefix="libra_tf-worker-") as folder:
        newest = tf.train.latest_checkpoint(model_dir)
        if newest:
            for file in tf.io.gfile.glob(f"{newest}.*"):
                tf.io.gfile.copy(file, os.path.join(folder, os.path.basename(file)))
            copied = os.path.join(folder, os.path.basename(newest))
            tf.compat.v1.train.update_checkpoint_state(folder, copied)
        yield folder


def any_worker(strategy: tf.distribute.Strategy, flag: bool) -> bool:
    """Whether `flag` is true in one of the processes; all of them have to call this.

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
