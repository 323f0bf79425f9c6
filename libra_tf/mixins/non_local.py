"""The non-local block as a Keras layer."""

import typing

import tensorflow as tf

from libra_tf import ops
from libra_tf.ops.resampling import spatial_size

MODES = ("embedded_gaussian", "gaussian", "dot_product", "concatenation")


class _Projection(typing.NamedTuple):
    """A 1x1 convolution: kernel [in, out] and bias [out]."""

    kernel: typing.Any
    bias: typing.Any


class NonLocal2DMixin:
    """Non-local block over the positions of a feature map, with a residual connection.

    z_i = x_i + W_out y_i with y_i = sum_j f(x_i, x_j) g(x_j) / C(x), over all positions j (Wang et
    al., CVPR 2018, equations 1 and 6). Libra R-CNN refines its balanced feature with it (section
    3.2 of the paper). theta, phi, g and out are 1x1 convolutions with bias. No N x N matrix is
    ever held as a whole for large maps, see `libra_tf.ops.non_local_gaussian`.

    Input and output: float tensor [B, H, W, C]; B, H and W may be unknown until run time.

    Weights, in order: `g`, `theta`, `phi` (the last two not for "gaussian") and `out`, each a
    `kernel` [in, out] and a `bias` [out], then `concat_project` [2 * inner, 1] for
    "concatenation", with `inner = max(C // reduction, 1)`.

    Args:
      mode: The pairwise function f: "embedded_gaussian" (the published one), "gaussian",
        "dot_product" or "concatenation".
      reduction: Positive int, by which the channels inside the block are divided.
      use_scale: Bool, whether "embedded_gaussian" divides its dot products by sqrt(inner).
      sub_sample: Bool, whether the positions j are those of the map max-pooled 2x2.
      query_block: Positive int or None, how many positions i are handled at a time; None: chosen
        from the size of the map.
      kernel_initializer: Initializer of the kernels of g, theta and phi and of `concat_project`.
        None: a normal distribution of standard deviation 0.01.
      out_kernel_initializer: Initializer of the kernel of out. The zeros make the block start as
        the identity.
      bias_initializer: Initializer of the biases.
      kernel_regularizer: Regularizer of all kernels, or None.
      **kwargs: Arguments of the Keras layer, such as `name` and `dtype`.

    Raises:
      ValueError: If `mode` is unknown, or `reduction` or `query_block` is not positive.
    """

    _keras: typing.Any

    def __init__(
        self,
        mode="embedded_gaussian",
        reduction=1,
        use_scale=False,
        sub_sample=False,
        query_block=None,
        kernel_initializer=None,
        out_kernel_initializer="zeros",
        bias_initializer="zeros",
        kernel_regularizer=None,
        **kwargs,
    ):
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

    def build(self, input_shape):
        """Makes the weights for maps of shape [B, H, W, C].

        Args:
          input_shape: Shape of the input; only the channels must be known.

        Raises:
          ValueError: If the input is not [B, H, W, C] with known C, or too small to sub-sample.
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

    def call(self, inputs):
        """Applies the block.

        Args:
          inputs: Float tensor [B, H, W, C].

        Returns:
          Tensor of the same shape and dtype.
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

    def attention(self, inputs):
        """Says how much each position looks at which: the weights of `call`, to be looked at.

        It holds all N x M weights of an image at once, which `call` avoids.

        Args:
          inputs: As in `call`.

        Returns:
          Float tensor [B, N, M], each row of which sums to 1; N = H * W, and M = N unless
          `sub_sample`. In float32 whatever the dtype of the layer.

        Raises:
          ValueError: If `mode` is one whose weights do not sum to 1.
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

    def _can_merge(self, inputs):
        """Whether two projections do the work of four, without rounding their products away."""
        is_square = self.mode == "embedded_gaussian" and self.reduction == 1
        return is_square and not self.sub_sample and inputs.dtype in (tf.float32, tf.float64)

    def _call_merged(self, inputs):
        """Applies the embedded Gaussian with theta and phi, and g and out, as one matrix each.

        theta_i . phi_j is x_i^T (W_theta W_phi^T) x_j, up to terms that are the same for all j and
        that the softmax takes out; and as its weights sum to 1, W_out and W_g change places with
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

    def compute_output_shape(self, input_shape):
        """Returns the shape of the input, which is that of the output."""
        return input_shape

    def get_config(self):
        """Returns the arguments from which the layer can be made again."""
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

    def _add_projection(self, name, num_inputs, num_outputs, initializer):
        kernel = self._add_kernel(f"{name}_kernel", (num_inputs, num_outputs), initializer)
        bias = self.add_weight(
            name=f"{name}_bias", shape=(num_outputs,), initializer=self.bias_initializer
        )
        return _Projection(kernel, bias)

    def _add_kernel(self, name, shape, initializer):
        # Used twice, one initializer object without a seed gives the same numbers twice.
        initializer = initializer.__class__.from_config(initializer.get_config())
        return self.add_weight(
            name=name, shape=shape, initializer=initializer, regularizer=self.kernel_regularizer
        )

    def _apply_pairwise(self, queries, keys, values):
        if self.mode in ("dot_product", "concatenation"):
            # Products that no softmax bounds: they overflow float16, even where the output fits.
            values = tf.cast(values, tf.float32)
        if self.mode == "dot_product":
            return ops.non_local_dot_product(queries, keys, values)
        if self.mode == "concatenation":
            projection = tf.convert_to_tensor(self.concat_project)
            return ops.non_local_concatenation(queries, keys, values, projection, self.query_block)
        scaled = self.use_scale and self.mode == "embedded_gaussian"
        scale = queries.shape[-1] ** -0.5 if scaled else 1.0
        return ops.non_local_gaussian(queries, keys, values, scale, self.query_block)


def _project(x, projection):
    kernel, bias = (tf.cast(tf.convert_to_tensor(weight), x.dtype) for weight in projection)
    return tf.tensordot(x, kernel, 1) + bias


def _flatten_positions(x):
    """[B, H, W, C] -> [B, H * W, C]."""
    height, width = spatial_size(x)
    return tf.reshape(x, [-1, height * width, x.shape[-1]])
