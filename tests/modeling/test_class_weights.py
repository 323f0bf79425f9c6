import numpy as np
import pytest
import sklearn.utils
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from official.vision.losses import focal_loss

from libra_tf.compat import keras
from libra_tf.modeling import class_weights

COUNTS = st.lists(st.integers(0, 10**6), min_size=2, max_size=12).filter(any)
BETAS = st.sampled_from([0.0, 0.5, 0.9, 0.99, 0.999, 0.9999, 1 - 1e-12])


def effective_numbers(counts, beta):
    """Equation 4 as the sum that the paper proves it by: 1 + beta + ... + beta^(n - 1)."""
    return np.array([(beta ** np.arange(n)).sum() for n in counts])


@pytest.mark.one_lane
@given(st.lists(st.integers(1, 3000), min_size=1, max_size=5), st.sampled_from([0.0, 0.9, 0.999]))
def test_effective_number(counts, beta):
    weights = class_weights.class_weights("effective_number", np.array(counts), beta)
    expected = 1 / effective_numbers(counts, beta)
    expected *= sum(counts) / sum(n * w for n, w in zip(counts, expected, strict=True))
    np.testing.assert_allclose(weights, expected, rtol=1e-9)


@pytest.mark.one_lane
@given(COUNTS)
def test_inverse_frequency(counts):
    counts = np.array(counts)
    weights = class_weights.class_weights("inverse_frequency", counts, 0.999)
    present = counts[counts > 0]
    np.testing.assert_allclose(weights[counts > 0], present.sum() / (len(present) * present))


@pytest.mark.one_lane
@settings(deadline=None)  # The first call of scikit-learn is slow.
@given(st.lists(st.integers(1, 100), min_size=1, max_size=5))
def test_inverse_frequency_is_that_of_scikit_learn(counts):
    weights = class_weights.class_weights("inverse_frequency", np.array(counts), 0.999)
    classes = np.arange(len(counts))
    labels = np.repeat(classes, counts)
    expected = sklearn.utils.compute_class_weight("balanced", classes=classes, y=labels)
    np.testing.assert_allclose(weights, expected)


@pytest.mark.one_lane
@pytest.mark.parametrize("weighting", ["effective_number", "inverse_frequency"])
@given(counts=COUNTS, beta=BETAS)
def test_rare_classes_weigh_more_and_an_object_weighs_one_on_average(weighting, counts, beta):
    counts = np.array(counts)
    weights = class_weights.class_weights(weighting, counts, beta)
    present = counts > 0
    assert (weights * counts).sum() == pytest.approx(counts.sum())
    assert (weights[~present] == 1).all()
    order = np.argsort(counts[present])
    assert (np.diff(weights[present][order]) <= 1e-9).all()


@pytest.mark.one_lane
def test_the_constant_leads_from_equal_weights_to_inverse_frequency():
    counts = np.array([0, 3, 50, 2000])
    equal = class_weights.class_weights("effective_number", counts, 0.0)
    np.testing.assert_array_equal(equal, np.ones(4))
    nearly = class_weights.class_weights("effective_number", counts, 1 - 1e-9)
    inverse = class_weights.class_weights("inverse_frequency", counts, 0.0)
    np.testing.assert_allclose(nearly, inverse, rtol=1e-5)


@pytest.mark.one_lane
def test_a_weighting_that_does_not_exist():
    with pytest.raises(ValueError, match="'none'; it must be effective_number or inverse_freq"):
        class_weights.class_weights("none", np.array([0, 3]), 0.9)


@pytest.mark.one_lane
def test_nothing_to_weigh_by():
    with pytest.raises(ValueError, match="no objects"):
        class_weights.class_weights("inverse_frequency", np.zeros(3), 0.9)


def test_weighted_focal_loss_is_model_gardens_by_anchor():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=[2, 9, 4]).astype(np.float32)
    classes = rng.integers(0, 4, [2, 9])
    targets = tf.one_hot(np.where(classes > 0, classes, -1), 4)
    weights = [0.5, 1.0, 2.0, 7.0]
    kwargs = {"alpha": 0.25, "gamma": 1.5, "reduction": "none"}
    loss = class_weights.ClassWeightedFocalLoss(weights, **kwargs)
    actual = loss(targets, logits)
    plain = focal_loss.FocalLoss(**kwargs)(targets, logits)
    expected = plain.numpy() * np.array(weights)[classes][..., None]
    np.testing.assert_allclose(actual, expected, rtol=1e-5)
    config = loss.get_config()
    assert config["class_weights"] == weights
    same = class_weights.ClassWeightedFocalLoss(**config)
    np.testing.assert_array_equal(same(targets, logits), actual)
    assert isinstance(loss, keras.losses.Loss)
