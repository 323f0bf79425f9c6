"""Training data that a stopped training can go on with, without preparing again what it has used.

An image is the record at a place in Model Garden's shuffled stream of records, and its augmentation
follows from the place (`libra_tf.dataloaders.draws`). So used records are skipped undecoded.
"""

import contextlib
import dataclasses
import functools
import random
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf
from official.core import config_definitions as cfg
from official.core import input_reader
from official.vision.dataloaders import input_reader_factory

from libra_tf import compat
from libra_tf.dataloaders.draws import Draws


@dataclasses.dataclass(frozen=True)
class Used:
    """What one input pipeline has delivered in earlier steps.

    Attributes:
      batches: number of batches, each for one device.
      batch_size: images in each of them.
      pipeline: index of the pipeline, among those of all processes.
    """

    batches: int
    batch_size: int
    pipeline: int

    @property
    def images(self) -> int:
        """Number of images."""
        return self.batches * self.batch_size


def used_by(
    steps: int, global_batch_size: int, input_context: tf.distribute.InputContext | None
) -> Used:
    """Returns what a pipeline has delivered.

    Args:
      steps: number of steps that were taken.
      global_batch_size: images in the batch of all devices together.
      input_context: of the pipeline; None for the only one, of a single device.
    """
    if input_context is None:
        return Used(steps, global_batch_size, 0)
    devices = input_context.num_replicas_in_sync
    return Used(
        steps * devices // input_context.num_input_pipelines,
        input_context.get_per_replica_batch_size(global_batch_size),
        input_context.input_pipeline_id,
    )


@contextlib.contextmanager
def reading_after(used: Used) -> Iterator[None]:
    """Lets Model Garden's tasks build training data that begin after those already used.

    The data are repeatable: with the same `keras.utils.set_random_seed` before, two pipelines
    deliver the same images in the same order, wherever they begin.

    Args:
      used: what to skip.
    """
    with compat.substituted(
        input_reader_factory, "input_reader_generator", functools.partial(_reader, used)
    ):
        yield


def _reader(
    used: Used,
    params: cfg.DataConfig,
    parser_fn: Callable[..., Any],
    decoder_fn: Callable[..., Any] = lambda record: record,
    sample_fn: Callable[[tf.data.Dataset], tf.data.Dataset] = lambda records: records,
    **kwargs: Any,
) -> input_reader.InputReader:
    draws = Draws(random.randrange(2**31))

    def parse(place: tf.Tensor, record: Any) -> Any:
        draws.begin(used.pipeline, place)
        parsed = parser_fn(decoder_fn(record))
        draws.end()
        return parsed

    def parse_from(first: int, records: tf.data.Dataset) -> tf.data.Dataset:
        numbered = sample_fn(records).skip(first).enumerate(first)
        with draws.replacing_tensorflows():
            return numbered.map(parse, num_parallel_calls=tf.data.AUTOTUNE)

    def batch_rest(images: tf.data.Dataset, _: Any) -> tf.data.Dataset:
        return images.skip(used.images).batch(used.batch_size, params.drop_remainder)

    if params.cache:
        # Every epoch repeats the images of the first one, which has to be prepared again.
        kwargs |= {
            "sample_fn": functools.partial(parse_from, 0),
            "transform_and_batch_fn": batch_rest,
        }
    else:
        kwargs |= {"sample_fn": functools.partial(parse_from, used.images)}
    return input_reader.InputReader(params, **kwargs)
