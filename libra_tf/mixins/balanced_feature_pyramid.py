"""The balanced feature pyramid as a Keras layer."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import tensorflow as tf

from libra_tf import ops
from libra_tf.mixins.non_local import KerasIdentifier
from libra_tf.ops.resampling import spatial_size

REFINE_TYPES = (None, "conv", "non_local")

_Levels: TypeAlias = Mapping[str, tf.Tensor] | Sequence[tf.Tensor]
_Shape: TypeAlias = Sequence[int | None]
_LevelShapes: TypeAlias = Mapping[str, _Shape] | Sequence[_Shape]


class BalancedFeaturePyramidMixin:
    """Balanced feature pyramid, the feature level of Libra R-CNN (section 3.2 of the paper).

    Gathers all levels at the size of one of them (finer levels by adaptive max pooling, coarser
    ones by nearest neighbour), takes their mean, refines it, and adds the result to every level at
    that level's size. Levels may have any size but must have the same number of channels.

    Input and output: a dict of levels `{"3": tensor, ...}` as in Model Garden, with the keys in any
    order (a larger number is coarser), or a list from fine to coarse. Each level is float
    `[B, H, W, C]`; B, H and W may be unknown until run time.

    Args:
      refine_level: the level at which to gather: its key (4 or "4") in a dict, its index in a list.
        The published configs use stride 16, which is key 4.
      refine_type: "non_local" (the published one, see `NonLocal2D`), "conv" (3x3 with bias and
        ReLU) or None for no refinement.
      mode: the pairwise function of the non-local block, see `NonLocal2D`.
      reduction: the factor by which the non-local block divides its channels, at least 1.
      use_scale: whether "embedded_gaussian" divides its dot products by the square root of its
        channels.
      sub_sample: whether the non-local block max-pools its keys and values.
      query_block: how many positions the non-local block handles at a time, at least 1. None:
        chosen from the size of the map.
      kernel_initializer: initializer of the refinement's kernels. None: the published ones,
        Xavier-uniform for "conv" and a normal distribution with a standard deviation of 0.01 for
        "non_local".
      out_kernel_initializer: initializer of the last kernel of the non-local block. With zeros the
        refinement starts as the identity.
      kernel_regularizer: regularizer of the refinement's kernels.
      **kwargs: arguments of the Keras layer, such as `name` and `dtype`.

    Raises:
      ValueError: if `refine_level` is not a level, `refine_type` is unknown, or an argument of the
        non-local block is invalid.

    References:
      - Pang et al., Libra R-CNN: Towards Balanced Learning for Object Detection, CVPR 2019.
        https://arxiv.org/abs/1904.02701
    """

    _keras: Any
    _non_local_class: Any

    def __init__(
        self,
        refine_level: int | str,
        refine_type: str | None = "non_local",
        mode: str = "embedded_gaussian",
        reduction: int = 1,
        use_scale: bool = False,
        sub_sample: bool = False,
        query_block: int | None = None,
        kernel_initializer: KerasIdentifier | None = None,
        out_kernel_initializer: KerasIdentifier = "zeros",
        kernel_regularizer: KerasIdentifier | None = None,
        **kwargs: Any,
    ) -> None:
        if not str(refine_level).isdigit():
            raise ValueError(
                "`refine_level` of a balanced feature pyramid must be a level number such as 4 or "
                f"'4', got {refine_level!r}."
            )
        if refine_type not in REFINE_TYPES:
            raise ValueError(
                f"`refine_type` of a balanced feature pyramid must be one of {REFINE_TYPES}, got "
                f"{refine_type!r}."
            )
        super().__init__(**kwargs)
        self.refine_level = refine_level
        self.refine_type = refine_type
        self.kernel_initializer = self._keras.initializers.get(kernel_initializer)
        self.out_kernel_initializer = self._keras.initializers.get(out_kernel_initializer)
        self.kernel_regularizer = self._keras.regularizers.get(kernel_regularizer)
        self.mode = mode
        self.reduction = reduction
        self.use_scale = use_scale
        self.sub_sample = sub_sample
        self.query_block = query_block
        self.refine = None
        if refine_type == "non_local":
            self.refine = self._non_local_class(
                mode=mode,
                reduction=reduction,
                use_scale=use_scale,
                sub_sample=sub_sample,
                query_block=query_block,
                kernel_initializer=self.kernel_initializer,
                out_kernel_initializer=self.out_kernel_initializer,
                kernel_regularizer=self.kernel_regularizer,
                name="refine",
                dtype=self.dtype_policy,
            )

    def build(self, input_shape: _LevelShapes) -> None:
        """Creates the weights of the refinement.

        Args:
          input_shape: the shapes of the levels, `[B, H, W, C]`, in a dict or a list like the levels
            themselves; only C must be known.

        Raises:
          ValueError: if the levels have different or unknown numbers of channels, or the level to
            refine is not among them.
        """
        shapes = [tuple(shape) for shape in self._fine_to_coarse(input_shape)]
        refine_index = self._refine_index(input_shape)
        channels = {shape[-1] for shape in shapes}
        if len(channels) != 1 or None in channels or any(len(shape) != 4 for shape in shapes):
            raise ValueError(
                "The levels of a balanced feature pyramid must be [B, H, W, C] with the same known "
                f"C, got shapes of {shapes}."
            )
        if self.refine_type == "conv":
            self.refine = self._keras.layers.Conv2D(
                channels.pop(),
                kernel_size=3,
                padding="same",
                data_format="channels_last",
                activation="relu",
                kernel_initializer=self.kernel_initializer or "glorot_uniform",
                kernel_regularizer=self.kernel_regularizer,
                name="refine",
                dtype=self.dtype_policy,
            )
        if self.refine is not None:
            with tf.name_scope(self.refine.name):
                self.refine.build(shapes[refine_index])
        super().build(input_shape)

    def call(self, inputs: _Levels) -> dict[str, tf.Tensor] | list[tf.Tensor]:
        """Balances the levels.

        Args:
          inputs: the levels, each float `[B, H, W, C]`, in a dict by level number or a list from
            fine to coarse.

        Returns:
          The balanced levels, of the same shapes and dtype, in the same kind of container.
        """
        levels = self._fine_to_coarse(inputs)
        refine_index = self._refine_index(inputs)
        finer, coarser = levels[:refine_index], levels[refine_index + 1 :]
        gathered = self.gather(inputs)
        balanced = tf.add_n(gathered) / len(gathered)
        if self.refine is not None:
            balanced = self.refine(balanced)
        outputs = [
            *(ops.add_nearest2d(level, balanced) for level in finer),
            levels[refine_index] + balanced,
            *(level + ops.adaptive_max_pool2d(balanced, spatial_size(level)) for level in coarser),
        ]
        if isinstance(inputs, Mapping):
            return dict(zip(_sorted_keys(inputs), outputs, strict=True))
        return outputs

    def gather(self, inputs: _Levels) -> list[tf.Tensor]:
        """Resizes all levels to the size of the level to refine.

        Args:
          inputs: as in `call`.

        Returns:
          The resized levels `[B, H, W, C]` from fine to coarse; their mean is the integrated map.
        """
        levels = self._fine_to_coarse(inputs)
        refine_index = self._refine_index(inputs)
        size = spatial_size(levels[refine_index])
        return [
            *(ops.adaptive_max_pool2d(level, size) for level in levels[:refine_index]),
            levels[refine_index],
            *(ops.resize_nearest2d(level, size) for level in levels[refine_index + 1 :]),
        ]

    def compute_output_shape(self, input_shape: _LevelShapes) -> _LevelShapes:
        """Returns the shapes of the output, which are those of the input."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments that recreate the layer."""
        return {
            **super().get_config(),
            "refine_level": self.refine_level,
            "refine_type": self.refine_type,
            "mode": self.mode,
            "reduction": self.reduction,
            "use_scale": self.use_scale,
            "sub_sample": self.sub_sample,
            "query_block": self.query_block,
            "kernel_initializer": self._keras.initializers.serialize(self.kernel_initializer),
            "out_kernel_initializer": self._keras.initializers.serialize(
                self.out_kernel_initializer
            ),
            "kernel_regularizer": self._keras.regularizers.serialize(self.kernel_regularizer),
        }

    def _fine_to_coarse(self, levels: Mapping[str, Any] | Sequence[Any]) -> list[Any]:
        if isinstance(levels, Mapping):
            return [levels[key] for key in _sorted_keys(levels)]
        return list(levels)

    def _refine_index(self, levels: Mapping[str, Any] | Sequence[Any]) -> int:
        """Returns the position of the level to refine in the order from fine to coarse."""
        if isinstance(levels, Mapping):
            known = [int(key) for key in _sorted_keys(levels)]
        else:
            known = list(range(len(levels)))
        if int(self.refine_level) not in known:
            raise ValueError(
                f"`refine_level` {self.refine_level!r} of the balanced feature pyramid is not one "
                f"of its input levels {known}."
            )
        return known.index(int(self.refine_level))


def _sorted_keys(levels: Mapping[str, Any]) -> list[str]:
    """Returns the keys of a dict of levels from fine to coarse: "10" comes after "9"."""
    if not all(str(key).isdigit() for key in levels):
        raise ValueError(
            "The keys of a dict of pyramid levels must be level numbers such as '3', got "
            f"{sorted(map(str, levels))}."
        )
    return sorted(levels, key=int)
