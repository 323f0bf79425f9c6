"""Seeded streams of training data that begin later."""

import numpy as np
import tensorflow as tf
from hypothesis import strategies as st


def check_the_rest(data, read, params, num_steps):
    """Checks that a stream which begins at a later step is the rest of the whole one.

    Args:
      data: hypothesis' source of seed, pipeline and step.
      read: from params, seed, first step, number of batches and input context to batches.
      params: config of the data.
      num_steps: steps of the whole stream.
    """
    seed = data.draw(st.integers(0, 2**32 - 1), label="seed")
    # Pipelines, index of this one, replicas.
    context = data.draw(st.sampled_from([None, (1, 0, 2), (2, 0, 2), (2, 1, 2)]), label="context")
    context = context and tf.distribute.InputContext(*context)
    batches = 2 if context and context.num_input_pipelines == 1 else 1
    step = data.draw(st.integers(0, num_steps), label="step")

    whole = read(params, seed, 0, num_steps * batches, context)
    rest = read(params, seed, step, (num_steps - step) * batches, context)
    np.testing.assert_array_equal(rest, whole[step * batches :] or np.zeros([0]))
