"""Repeat-factor sampling: images that show rare classes come several times in an epoch.

Records are repeated before they are shuffled, so the copies of an image are spread, and each is
augmented anew. How often follows from the place of the record in the training: a training that goes
on skips what it has used undecoded.
"""

import contextlib
import functools
import random
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from official.core import config_definitions as cfg
from official.core import input_reader

from libra_tf import compat
from libra_tf.dataloaders import class_statistics


def of_classes(frequencies: np.ndarray, threshold: float) -> np.ndarray:
    """Returns how often an image would be repeated for each class that it shows.

    Args:
      frequencies: float `[C]`, the share of the images that show each class.
      threshold: classes with a share below it are repeated, from 0 to 1.

    Returns:
      float64 `[C]`, max(1, sqrt(threshold / frequency)); 1 for classes that no image shows.

    References:
      - Gupta, Dollar and Girshick, LVIS: A Dataset for Large Vocabulary Instance Segmentation, CVPR
        2019, appendix B. https://arxiv.org/abs/1908.03195
    """
    frequencies = np.asarray(frequencies, np.float64)
    shown = np.where(frequencies > 0, frequencies, 1)
    return np.maximum(1, np.sqrt(threshold / shown))


def of_image(classes: Iterable[int], factors: np.ndarray) -> float:
    """Returns how often an image is repeated on average: as often as the rarest of its classes.

    Args:
      classes: the classes that it shows.
      factors: the result of `of_classes`.

    Returns:
      At least 1, which is for an image without objects.
    """
    return max((float(factors[label]) for label in classes), default=1.0)


def images_per_epoch(statistics: class_statistics.ClassStatistics, factors: np.ndarray) -> float:
    """Returns how many images an epoch has on average, repeated ones counted each time.

    Args:
      statistics: of the training images.
      factors: the result of `of_classes`.
    """
    return sum(
        number * of_image(classes, factors)
        for classes, number in statistics.images_by_classes.items()
    )


def num_copies(
    classes: tf.Tensor, factors: tf.Tensor, seed: tf.Tensor, place: tf.Tensor
) -> tf.Tensor:
    """Draws how often an image comes in an epoch.

    Args:
      classes: int `[M]`, the classes of its objects.
      factors: float `[C]`, the result of `of_classes`.
      seed: int64 `[2]`.
      place: int64 scalar that no other image of the training has, nor this one in another epoch.

    Returns:
      int64 scalar: the whole part of `of_image`, and one more with the probability of its
      fractional part.
    """
    factor = tf.reduce_max(tf.concat([tf.ones([1]), tf.gather(factors, classes)], axis=0))
    whole = tf.floor(factor)
    seed = tf.random.experimental.stateless_fold_in(seed, place)
    is_one_more = tf.random.stateless_uniform([], seed) < factor - whole
    return tf.cast(whole, tf.int64) + tf.cast(is_one_more, tf.int64)


def repeat(
    records: tf.data.Dataset, factors: Sequence[float] | np.ndarray, seed: tuple[int, int]
) -> tf.data.Dataset:
    """Repeats records by the classes that they show.

    Args:
      records: serialized examples, of all epochs.
      factors: the result of `of_classes`.
      seed: two ints that determine the draws, together with the place of a record.

    Returns:
      The records in the same order, each as often as `num_copies` draws for its place. Reading them
      raises an `InvalidArgumentError` if one shows a class that has no factor.
    """
    message = (
        f"task.train_data.class_frequencies has {len(factors)} shares, but an image shows a class "
        "outside of them; give one for the background and one for each class id, or null to count "
        "them"
    )
    factors = tf.constant(factors, tf.float32)
    seed = tf.constant(seed, tf.int64)

    def copies(place: tf.Tensor, record: tf.Tensor) -> tf.data.Dataset:
        classes = class_statistics.trained_classes(record)
        is_known = (classes >= 0) & (classes < tf.size(factors, tf.int64))
        with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(is_known), [message])]):
            number = num_copies(tf.identity(classes), factors, seed, place)
        return tf.data.Dataset.from_tensors(record).repeat(number)

    return records.enumerate().flat_map(copies)


class RepeatingInputReader(input_reader.InputReader):
    """Model Garden's reader that repeats the records of a training before it shuffles them.

    Every pipeline repeats the records of its own part of the data.

    Args:
      factors: the result of `of_classes`.
      seed: an int that determines the draws, together with the pipeline and the place of a record.
      *args: arguments of Model Garden's reader.
      **kwargs: arguments of Model Garden's reader.
    """

    def __init__(self, factors: np.ndarray, seed: int, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._factors = factors
        self._repeat_seed = seed

    def _read_data_source(
        self,
        matched_files: Sequence[str],
        dataset_fn: Any,
        input_context: tf.distribute.InputContext | None = None,
    ) -> tf.data.Dataset:
        records = super()._read_data_source(matched_files, dataset_fn, input_context)
        if not self._is_training:
            return records
        pipeline = input_context.input_pipeline_id if input_context else 0
        return repeat(records, self._factors, (self._repeat_seed, pipeline))


@contextlib.contextmanager
def repeating(data: cfg.DataConfig) -> Iterator[None]:
    """Lets Model Garden's tasks build training data whose images are repeated by their classes.

    Without a `repeat_threshold` in the config, as in Model Garden's own, nothing changes.

    Args:
      data: config of the data; see `libra_tf.configs.components.RepeatedImages`.

    Raises:
      ValueError: if the frequencies of the classes are not set.
    """
    if not data.is_training or not data.get("repeat_threshold", 0):
        yield
        return
    if data.class_frequencies is None:
        raise ValueError(
            f"task.train_data.repeat_threshold is {data.repeat_threshold}, but "
            "task.train_data.class_frequencies is not set; give the share of the training images "
            "that show each class, by class id"
        )
    factors = of_classes(np.array(data.class_frequencies), data.repeat_threshold)
    # Different in every run, but repeatable with `keras.utils.set_random_seed`.
    reader = functools.partial(RepeatingInputReader, factors, random.randrange(2**31))
    with compat.substituted(input_reader, "InputReader", reader):
        yield
