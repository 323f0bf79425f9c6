"""The random draws of Model Garden's parsers, made functions of an image's place in a training.

TensorFlow's stateful random operations draw the next numbers of a sequence, so the numbers of an
image depend on all images before it. Here they depend on the seed and the place of the image alone:
a training that goes on draws them without preparing the images that it has already used.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tensorflow as tf

from libra_tf import compat
from libra_tf.cli.errors import UsageError

_WHILE_LOOP = tf.while_loop


class Draws:
    """Replaces TensorFlow's stateful draws while a parser is traced.

    Every draw of an image gets numbers of its own. Model Garden gives all its operations the seed
    1, so with `tf.random.set_seed` the draw that flips an image is the one that scales it.

    Args:
      seed: an int of 31 bits.
    """

    def __init__(self, seed: int):
        self._seed = seed
        self._seed_of_image = None
        self._number = 0
        self._rounds = []
        self._others = set()

    @contextlib.contextmanager
    def replacing_tensorflows(self) -> Iterator[None]:
        """Replaces the draws in the functions that are traced while the block runs.

        All functions traced there must call `begin` first, and `end` last.

        Raises:
          UsageError: if such a function draws in a way that is not replaced.
        """
        replaced = (
            (tf.random, "uniform", self._uniform),
            (tf.random, "normal", self._normal),
            (tf.random, "shuffle", self._shuffle),
            (tf.image, "sample_distorted_bounding_box", self._sample_distorted_bounding_box),
            (tf, "while_loop", self._while_loop),
        )
        with contextlib.ExitStack() as stack:
            for owner, name, ours in replaced:
                unconverted = tf.autograph.experimental.do_not_convert(ours)
                stack.enter_context(compat.substituted(owner, name, unconverted))
            yield
        if self._others:
            raise UsageError(
                f"task.train_data: the augmentation draws with {', '.join(sorted(self._others))}, "
                "which --seed cannot repeat; choose another one in task.train_data.parser, or "
                "train without --seed"
            )

    def begin(self, *place: int | tf.Tensor) -> None:
        """Begins the draws of an image.

        Args:
          *place: integer scalars that no other image of the training has.
        """
        self._seed_of_image = self._fold(tf.constant([0, self._seed]), place)
        self._number = 0

    def end(self) -> None:
        """Ends the draws of an image."""
        graph = tf.compat.v1.get_default_graph().as_graph_def()
        nodes = [*graph.node, *(n for f in graph.library.function for n in f.node_def)]
        # TensorFlow's stateful draws have two seeds as attributes.
        self._others |= {node.op for node in nodes if "seed2" in node.attr}

    def _next_seed(self) -> tf.Tensor:
        self._number += 1
        return self._fold(self._seed_of_image, (self._number, *self._rounds))

    @staticmethod
    def _fold(seed: tf.Tensor, numbers: Sequence[int | tf.Tensor]) -> tf.Tensor:
        for number in numbers:
            seed = tf.random.experimental.stateless_fold_in(seed, number)
            seed = tf.cast(seed, tf.int64)
        return seed

    def _uniform(
        self,
        shape: Any,
        minval: Any = 0,
        maxval: Any = None,
        dtype: tf.DType = tf.float32,
        seed: int | None = None,
        name: str | None = None,
    ) -> tf.Tensor:
        del seed
        return tf.random.stateless_uniform(shape, self._next_seed(), minval, maxval, dtype, name)

    def _normal(
        self,
        shape: Any,
        mean: Any = 0.0,
        stddev: Any = 1.0,
        dtype: tf.DType = tf.float32,
        seed: int | None = None,
        name: str | None = None,
    ) -> tf.Tensor:
        del seed
        return tf.random.stateless_normal(shape, self._next_seed(), mean, stddev, dtype, name)

    def _shuffle(
        self, value: tf.Tensor, seed: int | None = None, name: str | None = None
    ) -> tf.Tensor:
        del seed, name
        return tf.random.experimental.stateless_shuffle(value, self._next_seed())

    def _sample_distorted_bounding_box(
        self, image_size: tf.Tensor, bounding_boxes: tf.Tensor, seed: int = 0, **kwargs: Any
    ) -> Any:
        del seed
        return tf.image.stateless_sample_distorted_bounding_box(
            image_size, bounding_boxes, seed=self._next_seed(), **kwargs
        )

    def _while_loop(
        self,
        cond: Callable[..., tf.Tensor],
        body: Callable[..., Sequence[Any]],
        loop_vars: Sequence[Any],
        shape_invariants: Sequence[Any] | None = None,
        **kwargs: Any,
    ) -> Sequence[Any]:
        """Counts the rounds, so that a draw in the body differs from round to round.

        Model Garden's augmentation of single boxes draws in such loops. Nothing in its parsers
        draws in `tf.map_fn` or in a loop of AutoGraph, where all rounds would draw the same.
        """

        def counting_body(count: tf.Tensor, *values: Any) -> list[Any]:
            self._rounds.append(count)
            try:
                return [count + 1, *body(*values)]
            finally:
                self._rounds.pop()

        if shape_invariants is not None:
            shape_invariants = [tf.TensorShape([]), *shape_invariants]
        _, *results = _WHILE_LOOP(
            lambda _, *values: cond(*values),
            counting_body,
            [tf.constant(0), *loop_vars],
            shape_invariants,
            **kwargs,
        )
        return results
