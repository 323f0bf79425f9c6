import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from libra_tf.analysis import features
from libra_tf.layers import BalancedFeaturePyramid, NonLocal2D

pytestmark = pytest.mark.one_lane

values = st.floats(-5, 5, width=32)


@hypothesis.given(st_numpy.arrays(np.float32, (3, 2, 4, 3), elements=values))
@hypothesis.settings(max_examples=30, deadline=None)
def test_moments_over_batches_are_those_of_all(maps):
    moments = features.Moments()
    for batch in (maps[:1], maps[1:]):
        moments.add(batch)
    expected = np.cov(maps.reshape(-1, 3).astype(np.float64), rowvar=False, bias=True)
    np.testing.assert_allclose(moments.covariance(), expected, atol=1e-9)


def test_effective_rank_of_known_matrices():
    assert features.effective_rank(np.eye(7)) == pytest.approx(7)
    vector = np.arange(1.0, 6)
    assert features.effective_rank(np.outer(vector, vector)) == pytest.approx(1, abs=1e-3)
    assert features.effective_rank(np.zeros((3, 3))) == 0
    # Singular values 3 and 1: shares 3/4 and 1/4.
    entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    assert features.effective_rank(np.diag([9.0, 1.0])) == pytest.approx(np.exp(entropy))


@hypothesis.given(st_numpy.arrays(np.float32, (4, 3, 2), elements=values))
@hypothesis.settings(max_examples=50, deadline=None)
def test_shares_of_levels_add_up(levels):
    shares = features.level_shares(list(levels))
    # A mean of nearly nothing is nothing to have a share of.
    if np.square(levels.mean(0)).sum() > 1e-4:
        assert shares["share"].sum() == pytest.approx(1, abs=1e-4)
    assert shares["magnitude"].sum() == pytest.approx(1)


def test_a_level_of_zeros_has_no_share():
    level = np.ones((2, 2, 1))
    shares = features.level_shares([level, 0 * level, 2 * level])
    np.testing.assert_allclose(shares["share"], [1 / 3, 0, 2 / 3])


def test_reach_is_that_of_a_loop():
    height, width = 3, 4
    logits = np.random.default_rng(0).normal(size=(12, 12))
    attention = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    reach = features.attention_reach(attention, height, width)
    for i in range(12):
        distance = entropy = 0.0
        for j in range(12):
            there, here = np.array(divmod(j, width)), np.array(divmod(i, width))
            distance += attention[i, j] * np.linalg.norm(there - here)
            entropy -= attention[i, j] * np.log(attention[i, j]) / np.log(12)
        assert reach["distance"][i] == pytest.approx(distance)
        assert reach["entropy"][i] == pytest.approx(entropy)


def test_reach_of_one_position_and_of_all():
    one = features.attention_reach(np.eye(6), 2, 3)
    assert np.allclose(one["entropy"], 0) and np.allclose(one["distance"], 0)
    everything = features.attention_reach(np.full((6, 6), 1 / 6), 2, 3)
    assert np.allclose(everything["entropy"], 1)
    assert everything["distance"].mean() == pytest.approx(everything["uniform_distance"])


@pytest.mark.parametrize("mode", ["embedded_gaussian", "gaussian"])
@pytest.mark.parametrize("sub_sample", [False, True])
def test_attention_gives_the_layers_output(mode, sub_sample):
    layer = NonLocal2D(
        mode,
        sub_sample=sub_sample,
        use_scale=True,
        kernel_initializer="glorot_uniform",
        out_kernel_initializer="glorot_uniform",
        bias_initializer="normal",
    )
    x = tf.random.stateless_normal([2, 4, 6, 5], [0, 1])
    expected = layer(x)
    attention = layer.attention(x)
    np.testing.assert_allclose(tf.reduce_sum(attention, -1), 1, rtol=1e-5)
    of_g = tf.tensordot(x, layer.g.kernel, 1) + layer.g.bias
    if sub_sample:
        of_g = tf.nn.max_pool2d(of_g, 2, 2, "VALID")
    response = tf.reshape(attention @ tf.reshape(of_g, [2, -1, 5]), x.shape)
    out = x + tf.tensordot(response, layer.out.kernel, 1) + layer.out.bias
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)


def test_weights_that_are_no_shares_are_refused():
    layer = NonLocal2D("dot_product")
    x = tf.zeros([1, 2, 2, 3])
    layer(x)
    with pytest.raises(ValueError, match="dot_product"):
        layer.attention(x)


def test_the_mean_of_what_is_gathered_is_what_is_added():
    layer = BalancedFeaturePyramid(3, refine_type=None)
    levels = {str(k): tf.random.stateless_normal([1, s, s, 2], [0, k]) for k, s in ((2, 8), (3, 4))}
    balanced = layer(levels)
    mean = tf.add_n(layer.gather(levels)) / 2
    np.testing.assert_allclose(balanced["3"] - levels["3"], mean, rtol=1e-5, atol=1e-6)
