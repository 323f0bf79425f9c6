"""Distribution of training over devices and processes."""

import contextlib
import os
import random
import tempfile
from collections.abc import Iterator

import tensorflow as tf
from official.common import distribute_utils
from official.core import config_definitions as cfg

from libra_tf.cli.errors import UsageError, first_line
from libra_tf.runs.folder import RunFolder

STRATEGIES = ("mirrored", "multi_worker_mirrored", "one_device", "tpu", "off")


def build_strategy(params: cfg.ExperimentConfig, mode: str) -> tf.distribute.Strategy:
    """Builds the strategy set in `runtime`. Call it before TensorFlow computes anything.

    For `multi_worker_mirrored`, the processes are listed in `runtime.worker_hosts` and
    `runtime.task_index`, or in the environment variable `TF_CONFIG`. The call waits for all of
    them.

    Args:
      params: config of the run. If `runtime.num_gpus` is 0, `mirrored` uses all visible GPUs, or
        one to evaluate MMDetection's detectors, and `one_device` uses a GPU if there is one.
      mode: one of `libra_tf.runner.flags.MODES`.

    Returns:
      The strategy.

    Raises:
      UsageError: if there is no such strategy, if it does not go with other keys or with the
        device, or if several processes are not listed or would evaluate.
    """
    runtime = params.runtime
    if runtime.distribution_strategy is False:
        # How YAML reads an unquoted `off`.
        runtime.distribution_strategy = "off"
    if runtime.distribution_strategy not in STRATEGIES:
        raise UsageError(
            f"runtime.distribution_strategy is {runtime.distribution_strategy!r}; it must be one "
            f"of {', '.join(STRATEGIES)}"
        )
    if runtime.distribution_strategy == "off" and params.trainer.optimizer_config.ema is not None:
        raise UsageError(
            "runtime.distribution_strategy is off, but averages of the weights "
            "(trainer.optimizer_config.ema) need a strategy; leave it out, or set it to one_device"
        )
    num_gpus = runtime.num_gpus
    if runtime.distribution_strategy == "multi_worker_mirrored":
        _configure_workers(runtime, mode)
    elif runtime.distribution_strategy == "mirrored" and not num_gpus:
        num_gpus = len(tf.config.list_physical_devices("GPU"))
        if params.task.model.compatibility and "train" not in mode:
            # It evaluates images one at a time.
            num_gpus = min(num_gpus, 1)
    elif runtime.distribution_strategy == "one_device" and not num_gpus:
        num_gpus = min(len(tf.config.list_physical_devices("GPU")), 1)
    if runtime.enable_xla and "mirrored" in runtime.distribution_strategy:
        _require_gpu()
    try:
        return distribute_utils.get_distribution_strategy(
            distribution_strategy=runtime.distribution_strategy,
            all_reduce_alg=runtime.all_reduce_alg,
            num_gpus=num_gpus,
            tpu_address=runtime.tpu,
        )
    except ValueError as error:
        raise UsageError(
            f"runtime.distribution_strategy is {runtime.distribution_strategy}, runtime.num_gpus "
            f"is {runtime.num_gpus} and runtime.all_reduce_alg is {runtime.all_reduce_alg}, which "
            f"do not go together: {first_line(error)}"
        ) from error


def _require_gpu() -> None:
    if not tf.config.list_physical_devices("GPU"):
        # There, TensorFlow's mirrored strategies update the weights outside of a compiled function.
        raise UsageError(
            "runtime.enable_xla is true, but without a GPU only "
            "runtime.distribution_strategy=one_device takes a step that XLA has compiled; set both"
        )


def _configure_workers(runtime: cfg.RuntimeConfig, mode: str) -> None:
    if "eval" in mode:
        # Each process would see only the detections in its own share of the images.
        raise UsageError(
            f"--mode={mode} does not work with runtime.distribution_strategy="
            "multi_worker_mirrored: train with --mode=train, and evaluate in a single process, "
            "either afterwards with --mode=eval or during training with --mode=continuous_eval"
        )
    if "TF_CONFIG" not in os.environ:
        hosts = (runtime.worker_hosts or "").split(",")
        if not all(hosts) or not 0 <= runtime.task_index < len(hosts):
            raise UsageError(
                "runtime.distribution_strategy=multi_worker_mirrored needs runtime.worker_hosts "
                "(HOST:PORT,HOST:PORT,..., the same in every process; here "
                f"{runtime.worker_hosts!r}) and runtime.task_index (position of this process in "
                f"the list, from 0; here {runtime.task_index}), or the environment variable "
                "TF_CONFIG"
            )
    distribute_utils.configure_cluster(runtime.worker_hosts, runtime.task_index)


def device_type(strategy: tf.distribute.Strategy) -> str | None:
    """Returns what a strategy computes on: `CPU`, `GPU` or `TPU`; None if it leaves that open.

    Args:
      strategy: the strategy.
    """
    try:
        devices = strategy.extended.worker_devices
    except RuntimeError:
        # TensorFlow's default strategy has none.
        return None
    return tf.DeviceSpec.from_string(devices[0]).device_type


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Returns whether this is the process that writes to the run folder."""
    return strategy.extended.should_checkpoint


@contextlib.contextmanager
def own_folder(strategy: tf.distribute.Strategy, folder: RunFolder) -> Iterator[RunFolder]:
    """Provides the folder that this process writes to.

    All processes must take part in saving, but only what the chief saves is kept.

    Args:
      strategy: strategy of the training.
      folder: the run folder.

    Yields:
      `folder` in the chief; in other processes, a temporary folder with a copy of the newest
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
    """Returns whether `flag` is True in any process. All processes must call this.

    Args:
      strategy: strategy of the training.
      flag: the flag of this process.
    """
    return _sum_over_replicas(strategy, float(flag)) > 0


def _sum_over_replicas(strategy: tf.distribute.Strategy, value: float) -> float:
    """Returns the sum of the values of all processes, each taken once for every device."""
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return value

    @tf.function
    def add() -> tf.Tensor:
        context = tf.distribute.get_replica_context()
        return context.all_reduce(tf.distribute.ReduceOp.SUM, tf.constant(float(value)))

    return float(strategy.experimental_local_results(strategy.run(add))[0])


def share_order_of_files(data: cfg.DataConfig, strategy: tf.distribute.Strategy) -> None:
    """Has all processes shuffle the files of the training images alike.

    Each process reads its share of the shuffled files. Without a common seed, Model Garden shuffles
    them differently in every process, so that some are read twice and others not at all. All
    processes must call this.

    Args:
      data: config of the training images, changed in place unless it has a seed.
      strategy: strategy of the training.
    """
    if data.seed is None and isinstance(
        strategy, (tf.distribute.MultiWorkerMirroredStrategy, tf.distribute.TPUStrategy)
    ):
        of_chief = random.randrange(2**16) if is_chief(strategy) else 0
        data.seed = int(_sum_over_replicas(strategy, of_chief))


def wait_for_all(strategy: tf.distribute.Strategy) -> None:
    """Blocks until all processes have called it."""
    any_worker(strategy, False)
