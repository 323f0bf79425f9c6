"""Balanced L1 loss, the objective level of Libra R-CNN (section 3.3 of the paper)."""

import math
from collections.abc import Callable

import tensorflow as tf

FORMS = ("paper", "mmdet")

# Below this u, (1 + u) log(1 + u) - u is summed as a series: the difference cancels.
_SERIES_LIMIT = 0.05
# Enough terms for the series to have a smaller relative error at the limit than the difference.
_SERIES_TERMS = {tf.float32: 4, tf.float64: 10}

# b = exp(gamma / alpha) - 1 must fit in float32 with room for b / beta.
_LARGEST_EXPONENT = 64.0


def balanced_l1(
    y_true: tf.Tensor,
    y_pred: tf.Tensor,
    alpha: float = 0.5,
    gamma: float = 1.5,
    beta: float = 1.0,
    form: str = "paper",
) -> tf.Tensor:
    """Computes the balanced L1 loss of every element.

    The paper defines the gradient with respect to x = y_pred - y_true (equation 8):

        dL/d|x| = alpha * log(b * |x| / beta + 1)   where |x| < beta
                  gamma                             elsewhere

    with `alpha * log(b + 1) = gamma` (equation 9), which makes it continuous. Compared with smooth
    L1, inliers (|x| < beta) have a larger gradient, and that of outliers is still bounded, by
    `gamma`.

    Args:
      y_true: float `[...]`, the regression targets.
      y_pred: float, the predictions, of the same shape as `y_true` or one that broadcasts with it.
      alpha: positive. Smaller values raise the gradient of the inliers more.
      gamma: positive, the gradient of the outliers.
      beta: positive, where inliers end, in the units of `y_pred`. The paper uses 1.
      form: "paper" integrates the gradient above for any `beta`. "mmdet" is MMDetection's
        expression, which agrees with it only at `beta = 1`: otherwise its gradient is
        `alpha * (1 / beta - 1)` next to 0 and jumps at `beta`. MMDetection's published Libra
        RetinaNet weights were trained with it at `beta = 0.11`.

    Returns:
      The loss, of the broadcast shape; float64 if `y_pred` is, else float32: half precision is
      widened, because `gamma * |x|` overflows float16. Values saturate at the largest float. The
      gradient is exact (differentiating the value would lose digits near 0), flows to both
      arguments, and can be differentiated again.

    Raises:
      ValueError: if `alpha`, `gamma` or `beta` is not positive, or `form` is unknown.
    """
    validate_balanced_l1(alpha, gamma, beta, form)
    y_pred = tf.convert_to_tensor(y_pred)
    dtype = tf.float64 if y_pred.dtype == tf.float64 else tf.float32
    error = tf.cast(y_pred, dtype) - tf.cast(y_true, dtype)

    @tf.custom_gradient
    def loss(error: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        def gradient(upstream: tf.Tensor) -> tf.Tensor:
            return upstream * _gradient(error, alpha, gamma, beta, form)

        return _value(error, alpha, gamma, beta, form), gradient

    return loss(error)


def validate_balanced_l1(alpha: float, gamma: float, beta: float, form: str) -> None:
    """Checks the constants of the balanced L1 loss.

    Args:
      alpha: as in `balanced_l1`.
      gamma: as in `balanced_l1`.
      beta: as in `balanced_l1`.
      form: as in `balanced_l1`.

    Raises:
      ValueError: if `alpha`, `gamma` or `beta` is not positive, `gamma / alpha` is so large that
        its exponential overflows, or `form` is unknown.
    """
    for name, constant in (("alpha", alpha), ("gamma", gamma), ("beta", beta)):
        if not 0 < constant < math.inf:
            raise ValueError(f"`{name}` of the balanced L1 loss must be positive, got {constant}.")
    if gamma / alpha > _LARGEST_EXPONENT:
        raise ValueError(
            f"`gamma / alpha` of the balanced L1 loss must be at most {_LARGEST_EXPONENT:g}, got "
            f"{gamma:g} / {alpha:g}: increase `alpha`."
        )
    if form not in FORMS:
        raise ValueError(f"`form` of the balanced L1 loss must be one of {FORMS}, got {form!r}.")


def _value(error: tf.Tensor, alpha: float, gamma: float, beta: float, form: str) -> tf.Tensor:
    """Returns the integral of the gradient: 0 at 0, saturated at the largest float."""
    b = math.expm1(gamma / alpha)
    magnitude = tf.abs(error)
    u = tf.minimum(magnitude, beta) * (b / beta)
    value = alpha * beta / b * _integrated_log1p(u) + gamma * tf.nn.relu(magnitude - beta)
    if form == "mmdet":
        value += alpha * (1 - beta) / b * tf.math.log1p(u)
    return tf.minimum(value, error.dtype.max)


def _gradient(error: tf.Tensor, alpha: float, gamma: float, beta: float, form: str) -> tf.Tensor:
    """Returns the derivative with respect to the error: 0 at 0."""
    b = math.expm1(gamma / alpha)
    magnitude = tf.abs(error)
    u = tf.minimum(magnitude, beta) * (b / beta)
    slope = tf.minimum(alpha * tf.math.log1p(u), gamma)
    if form == "mmdet":
        excess = alpha * (1 - beta) / beta / (1 + u)
        # In float64, because float32(0.11) is below 0.11, and the gradient jumps at the knee.
        is_inlier = tf.cast(magnitude, tf.float64) < beta
        slope += tf.where(is_inlier, excess, tf.zeros_like(excess))
    return tf.sign(error) * slope


def _integrated_log1p(u: tf.Tensor) -> tf.Tensor:
    """Returns the integral of log(1 + u), (1 + u) log(1 + u) - u, to a relative 3e-6 in float32."""
    small = tf.minimum(u, _SERIES_LIMIT)
    orders = range(_SERIES_TERMS[u.dtype] + 1, 1, -1)
    series, *coefficients = ((-1) ** k / (k * (k - 1)) for k in orders)
    for coefficient in coefficients:
        series = coefficient + small * series
    return tf.where(u < _SERIES_LIMIT, small * small * series, tf.math.xlog1py(1 + u, u) - u)
