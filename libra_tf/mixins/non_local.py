"""The non-local block as a Keras layer."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import tensorflow as tf

from libra_tf import ops
from libra_tf.ops.resampling import spatial_size

MODES = ("embedded_gaussian", "gaussian", "dot_product", "concatenation")

# An initializer or regularizer as Keras takes it: by name, as a config, or as an object.
KerasIdentifier: TypeAlias = str | Mapping[str, Any] | Callable[..., Any]


class _Projection(NamedTuple):
    """A 1x1 convolution: kernel `[in, out]` and bias `[out]`, Keras variables or tensors."""

    kernel: Any
    bias: Any


class NonLocal2DMixin:
    """Non-local block over the positions of a feature map, with a residual connection.

    z_i = x_i + W_out y_i with y_i = sum_j f(x_i, x_j) g(x_j) / C(x), over all positions j (Wang et
    al., equations 1 and 6). Libra R-CNN refines its balanced features with it (Pang et al., section
    3.2). theta, phi, g and out are 1x1 convolutions with bias. For a large map the N x N matrix of
    affinities is never held as a whole, see `libra_tf.ops.non_local_gaussian`.

    Input and output: float `[B, H, W, C]`; B, H and W may be unknown until run time.

    Weights, in order: `g`, then (except for "gaussian") `theta` and `phi`, then `out`, each a
    kernel `[in, out]` and a bias `[out]`; for "concatenation" also `concat_project`
    `[2 * inner, 1]`, where `inner = max(C // reduction, 1)`.

    Args:
      mode: the pairwise function f: "embedded_gaussian" (the published one), "gaussian",
        "dot_product" or "concatenation".
      reduction: the factor by which the block divides its channels, at least 1.
      use_scale: whether "embedded_gaussian" divides its dot products by sqrt(inner).
      sub_sample: whether to max-pool the map by 2x2 for the positions j.
      query_block: how many positions i to handle at a time, at least 1. None: chosen from the size
        of the map.
      kernel_initializer: initializer of the kernels of g, theta and phi and of `concat_project`.
        None: a normal distribution with a standard deviation of 0.01.
      out_kernel_initializer: initializer of the kernel of out. With zeros the block starts as the
        identity.
      bias_initializer: initializer of the biases.
      kernel_regularizer: regularizer of all kernels.
      **kwargs: arguments of the Keras layer, such as `name` and `dtype`.

    Raises:
      ValueError: if `mode` is unknown, or `reduction` or `query_block` is not positive.

    References:
      - Wang et al., Non-local Neural Networks, CVPR 2018. https://arxiv.org/abs/1711.07971
      - Pang et al., Libra R-CNN: Towards Balanced Learning for Object Detection, CVPR 2019.
        https://arxiv.org/abs/1904.02701
    """

    _keras: Any

    def __init__(
        self,
        mode: str = "embedded_gaussian",
        reduction: int = 1,
        use_scale: bool = False,
        sub_sample: bool = False,
        query_block: int | None = None,
        kernel_initializer: KerasIdentifier | None = None,
        out_kernel_initializer: KerasIdentifier = "zeros",
        bias_initializer: KerasIdentifier = "zeros",
        kernel_regularizer: KerasIdentifier | None = None,
        **kwargs: Any,
    ) -> None:
        if mode not in MODES:
            raise ValueError(f"`mode` of a non-local block must be one of {MODES}, got {mode!r}.")
        if reduction < 1:
            raise ValueError(f"`reduction` of a non-local block must be positive, got {reduction}.")
        if query_block is not None and query_block < 1:
            raise ValueError(f"`query_block` must be a positive int or None, got {query_block}.")
        super().__init__(**kwargs)
        self.mode = mode
        self.reduction = reduction
        self.use_scale = use_scale
        self.sub_sample = sub_sample
        self.query_block = query_block
        initializers = self._keras.initializers
        if kernel_initializer is None:
            kernel_initializer = initializers.RandomNormal(stddev=0.01)
        self.kernel_initializer = initializers.get(kernel_initializer)
        self.out_kernel_initializer = initializers.get(out_kernel_initializer)
        self.bias_initializer = initializers.get(bias_initializer)
        self.kernel_regularizer = self._keras.regularizers.get(kernel_regularizer)

    def build(self, input_shape: Sequence[int | None]) -> None:
        """Creates the weights.

        Args:
          input_shape: the shape of the map, `[B, H, W, C]`; only C must be known.

        Raises:
          ValueError: if the input is not `[B, H, W, C]` with known C, or too small to sub-sample.
        """
        input_shape = tuple(input_shape)
        if len(input_shape) != 4 or input_shape[-1] is None:
            raise ValueError(
                "The input of a non-local block must be [B, H, W, C] with known C, got a shape of "
                f"{input_shape}."
            )
        if self.sub_sample and any(size is not None and size < 2 for size in input_shape[1:3]):
            raise ValueError(
                f"A map of shape {input_shape} is too small for `sub_sample`: height and width "
                "must be at least 2."
            )
        channels = input_shape[-1]
        inner = max(channels // self.reduction, 1)
        self.g = self._add_projection("g", channels, inner, self.kernel_initializer)
        if self.mode != "gaussian":
            self.theta = self._add_projection("theta", channels, inner, self.kernel_initializer)
            self.phi = self._add_projection("phi", channels, inner, self.kernel_initializer)
        self.out = self._add_projection("out", inner, channels, self.out_kernel_initializer)
        if self.mode == "concatenation":
            self.concat_project = self._add_kernel(
                "concat_project", (2 * inner, 1), self.kernel_initializer
            )
        super().build(input_shape)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Applies the block.

        Args:
          inputs: float `[B, H, W, C]`.

        Returns:
          The refined map, of the same shape and dtype.
        """
        if self._can_merge(inputs):
            return self._call_merged(inputs)
        values = _project(inputs, self.g)
        if self.mode == "gaussian":
            queries = keys = inputs
        else:
            queries, keys = _project(inputs, self.theta), _project(inputs, self.phi)
        if self.sub_sample:
            keys = tf.nn.max_pool2d(keys, 2, 2, "VALID")
            values = tf.nn.max_pool2d(values, 2, 2, "VALID")
        response = self._apply_pairwise(*map(_flatten_positions, (queries, keys, values)))
        response = tf.reshape(response, [-1, *spatial_size(inputs), values.shape[-1]])
        return inputs + tf.cast(_project(response, self.out), inputs.dtype)

    def attention(self, inputs: tf.Tensor) -> tf.Tensor:
        """Returns how much each position attends to every other: the weights of `call`.

        For inspection only: it holds all N x M weights of an image at once, which `call`
        avoids.

        Args:
          inputs: as in `call`.

        Returns:
          float32 `[B, N, M]`, whatever the dtype of the layer; each row sums to 1. N = H * W, and
          M = N unless `sub_sample` is set.

        Raises:
          ValueError: if the weights of `mode` do not sum to 1.
        """
        if self.mode not in ("embedded_gaussian", "gaussian"):
            raise ValueError(f"The weights of mode {self.mode!r} are not shares of attention.")
        queries = keys = tf.cast(inputs, tf.float32)
        if self.mode != "gaussian":
            queries, keys = _project(queries, self.theta), _project(keys, self.phi)
        if self.sub_sample:
            keys = tf.nn.max_pool2d(keys, 2, 2, "VALID")
        queries, keys = _flatten_positions(queries), _flatten_positions(keys)
        # Summing unit vectors with the weights gives the weights.
        units = tf.eye(tf.shape(keys)[1], batch_shape=tf.shape(keys)[:1])
        return self._apply_pairwise(queries, keys, units)

    def _can_merge(self, inputs: tf.Tensor) -> bool:
        """Returns whether two projections can replace four without a loss of precision."""
        is_square = self.mode == "embedded_gaussian" and self.reduction == 1
        return is_square and not self.sub_sample and inputs.dtype in (tf.float32, tf.float64)

    def _call_merged(self, inputs: tf.Tensor) -> tf.Tensor:
        """Applies the embedded Gaussian with theta and phi, and g and out, merged into one matrix.

        theta_i . phi_j is x_i^T (W_theta W_phi^T) x_j, up to terms that are the same for all j and
        cancel in the softmax. The softmax weights sum to 1, so W_g and W_out can be applied after
        the weighted sum.
        """
        theta, phi, g, out = (
            _Projection(*map(tf.convert_to_tensor, projection))
            for projection in (self.theta, self.phi, self.g, self.out)
        )
        # The bias of phi changes nothing: its gradient is zero, but not missing.
        pair_bias = tf.linalg.matvec(phi.kernel, theta.bias) + 0 * phi.bias
        pair = _Projection(tf.matmul(theta.kernel, phi.kernel, transpose_b=True), pair_bias)
        value_bias = tf.linalg.matvec(out.kernel, g.bias, transpose_a=True) + out.bias
        value = _Projection(tf.matmul(g.kernel, out.kernel), value_bias)

        positions = _flatten_positions(inputs)
        response = self._apply_pairwise(_project(positions, pair), positions, positions)
        return inputs + tf.reshape(_project(response, value), tf.shape(inputs))

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> Sequence[int | None]:
        """Returns the shape of the output, which is that of the input."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments that recreate the layer."""
        initializers = self._keras.initializers
        return {
            **super().get_config(),
            "mode": self.mode,
            "reduction": self.reduction,
            "use_scale": self.use_scale,
            "sub_sample": self.sub_sample,
            "query_block": self.query_block,
            "kernel_initializer": initializers.serialize(self.kernel_initializer),
            "out_kernel_initializer": initializers.serialize(self.out_kernel_initializer),
            "bias_initializer": initializers.serialize(self.bias_initializer),
            "kernel_regularizer": self._keras.regularizers.serialize(self.kernel_regularizer),
        }

    def _add_projection(
        self, name: str, num_inputs: int, num_outputs: int, initializer: Any
    ) -> _Projection:
        kernel = self._add_kernel(f"{name}_kernel", (num_inputs, num_outputs), initializer)
        bias = self.add_weight(
            name=f"{name}_bias", shape=(num_outputs,), initializer=self.bias_initializer
        )
        return _Projection(kernel, bias)

    def _add_kernel(self, name: str, shape: tuple[int, int], initializer: Any) -> Any:
        # A shared initializer object without a seed would give every kernel the same numbers.
        initializer = initializer.__class__.from_config(initializer.get_config())
        return self.add_weight(
            name=name, shape=shape, initializer=initializer, regularizer=self.kernel_regularizer
        )

    def _apply_pairwise(self, queries: tf.Tensor, keys: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
        if self.mode in ("dot_product", "concatenation"):
            # No softmax bounds these products: they overflow float16 even if the output fits.
            values = tf.cast(values, tf.float32)
        if self.mode == "dot_product":
            return ops.non_local_dot_product(queries, keys, values)
        if self.mode == "concatenation":
            projection = tf.convert_to_tensor(self.concat_project)
            return ops.non_local_concatenation(queries, keys, values, projection, self.query_block)
        scaled = self.use_scale and self.mode == "embedded_gaussian"
        scale = queries.shape[-1] ** -0.5 if scaled else 1.0
        return ops.non_local_gaussian(queries, keys, values, scale, self.query_block)


def _project(x: tf.Tensor, projection: _Projection) -> tf.Tensor:
    kernel, bias = (tf.cast(tf.convert_to_tensor(weight), x.dtype) for weight in projection)
    return tf.tensordot(x, kernel, 1) + bias


def _flatten_positions(x: tf.Tensor) -> tf.Tensor:
    """`[B, H, W, C]` -> `[B, H * W, C]`."""
    height, width = spatial_size(x)
    return tf.reshape(x, [-1, height * width, x.shape[-1]])
