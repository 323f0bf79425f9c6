"""Batches that are all landscape or all portrait, as MMDetection's `AspectRatioBatchSampler` has.

Images of one batch then have one of two static shapes, and little of it is padding. Records are
arranged before anything is decoded, so a training that goes on skips what it has used undecoded.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf
from official.core import config_definitions as cfg
from official.core import input_reader
from official.vision.dataloaders import input_reader_factory

from libra_tf import compat
from libra_tf.dataloaders import mmdetection_images

# Images with a side shorter than this are left out, in pixels; MMDetection's `min_size`.
_MIN_SIDE = 32
_FEATURES = {
    "image/height": tf.io.FixedLenFeature([], tf.int64, -1),
    "image/width": tf.io.FixedLenFeature([], tf.int64, -1),
    "image/object/bbox/xmin": tf.io.VarLenFeature(tf.float32),
}
# Records in a row that may be left out. Training data repeat, so a training that has no others
# would wait for ever.
_MAX_LEFT_OUT = 1_000_000


@contextlib.contextmanager
def batching(
    data: cfg.DataConfig, input_context: tf.distribute.InputContext | None
) -> Iterator[None]:
    """Lets Model Garden's tasks build training data whose batches have one orientation each.

    Images without objects are left out, and so are tiny ones, as in MMDetection.

    Args:
      data: config of the data.
      input_context: of the input pipeline that the block builds; None for the only one.
    """
    batch_size = data.global_batch_size
    if input_context is not None:
        batch_size = input_context.get_per_replica_batch_size(batch_size)
    # What the block would call otherwise, which may itself stand in for Model Garden's.
    generator = input_reader_factory.input_reader_generator
    reader = functools.partial(_reader, generator, batch_size)
    with compat.substituted(input_reader_factory, "input_reader_generator", reader):
        yield


def _reader(
    generator: Callable[..., input_reader.InputReader],
    batch_size: int,
    params: cfg.DataConfig,
    decoder_fn: Callable[..., Any],
    parser_fn: Callable[..., Any],
    **kwargs: Any,
) -> input_reader.InputReader:
    return generator(
        params,
        sample_fn=functools.partial(arrange, batch_size=batch_size),
        parser_fn=lambda record: parser_fn(decoder_fn(record)),
        **kwargs,
    )


def arrange(records: tf.data.Dataset, batch_size: int) -> tf.data.Dataset:
    """Reorders records so that batches of consecutive ones have one orientation each.

    Args:
      records: serialized examples.
      batch_size: number of images in a batch.

    Returns:
      The same records without those that are not trained on, and without an incomplete batch of
      either orientation at the end. Reading it fails if no record is trained on.
    """

    def orientation(record: tf.Tensor) -> tf.Tensor:
        size, _ = _size_and_number_of_objects(record)
        return tf.cast(mmdetection_images.is_portrait(size), tf.int64)

    return (
        records.scan(tf.constant(0, tf.int64), _count_left_out)
        .filter(lambda record, is_trained: is_trained)
        .map(lambda record, is_trained: record)
        .group_by_window(
            key_func=orientation,
            reduce_func=lambda _, window: window.batch(batch_size, drop_remainder=True),
            window_size=batch_size,
        )
        .unbatch()
    )


def _count_left_out(
    num_left_out: tf.Tensor, record: tf.Tensor
) -> tuple[tf.Tensor, tuple[tf.Tensor, tf.Tensor]]:
    """Returns how many records in a row are left out so far, and the record with its part in it."""
    size, num_objects = _size_and_number_of_objects(record)
    is_trained = (num_objects > 0) & (tf.reduce_min(size) >= _MIN_SIDE)
    num_left_out = tf.where(is_trained, tf.constant(0, tf.int64), num_left_out + 1)
    message = (
        "the training data have no image to train on: each has no objects with a box, or a side "
        f"shorter than {_MIN_SIDE} pixels"
    )
    limit = tf.constant(_MAX_LEFT_OUT, tf.int64)
    with tf.control_dependencies([tf.debugging.assert_less(num_left_out, limit, message)]):
        return tf.identity(num_left_out), (record, is_trained)


def _size_and_number_of_objects(record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns height and width of an image, int64 `[2]`, and how many boxes it has."""
    features = tf.io.parse_single_example(record, _FEATURES)
    size = tf.stack([features["image/height"], features["image/width"]])
    # Model Garden's decoder does without them, but here nothing is decoded yet.
    message = "a training record lacks image/height or image/width, which batches are made by"
    with tf.control_dependencies([tf.debugging.assert_positive(size, message)]):
        size = tf.identity(size)
    return size, tf.size(features["image/object/bbox/xmin"].values)
