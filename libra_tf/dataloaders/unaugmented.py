"""The images and labels of a training without its augmentation, for measuring on them."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf
from official.core import config_definitions as cfg
from official.core import input_reader
from official.vision.dataloaders import input_reader_factory

from libra_tf import compat

# Model Garden's parsers have some of these each.
_NO_AUGMENTATION = {
    "aug_rand_hflip": False,
    "aug_rand_vflip": False,
    "aug_rand_jpeg": None,
    "aug_scale_min": 1.0,
    "aug_scale_max": 1.0,
    "aug_type": None,
}


def without_augmentation(data: cfg.DataConfig) -> cfg.DataConfig:
    """Returns a copy of a data config that labels as training does but does not augment or repeat.

    Args:
      data: config of the data, with Model Garden's `parser`.
    """
    off = {key: value for key, value in _NO_AUGMENTATION.items() if key in data.parser}
    # Each image is read once anyway, and repeating would ask for the frequencies of the classes.
    once = {"repeat_threshold": 0.0} if "repeat_threshold" in data else {}
    return data.replace(is_training=True, parser=off, **once)


@contextlib.contextmanager
def reading_once() -> Iterator[None]:
    """Lets Model Garden's tasks read each training image once and in file order.

    Their parsers stay those of training: only the reading of the files is that of an evaluation.
    """
    with compat.substituted(input_reader_factory, "input_reader_generator", _reader):
        yield


def _reader(
    params: cfg.DataConfig, parser_fn: Callable[..., Any], **kwargs: Any
) -> input_reader.InputReader:
    params = params.replace(is_training=False)

    def parse_and_batch(
        dataset: tf.data.Dataset, input_context: tf.distribute.InputContext | None
    ) -> tf.data.Dataset:
        del input_context
        # One image at a time, so that a parser that samples anchors repeats its draws.
        dataset = dataset.map(parser_fn)
        return dataset.batch(params.global_batch_size, drop_remainder=params.drop_remainder)

    return input_reader.InputReader(params, transform_and_batch_fn=parse_and_batch, **kwargs)
