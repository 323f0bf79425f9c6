"""The values that each key of a config may have, as a table.

What depends on several keys is checked in `checks` and `optimization`.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

from official.modeling import hyperparams, tf_utils
from official.vision.ops import augment

from libra_tf.configs import components


@dataclasses.dataclass(frozen=True)
class Allowed:
    """The values that a key may have.

    Attributes:
      words: the values in words, to follow "it must be".
      holds: whether a value is one of them.
      needs_value: whether null is refused. The types of most keys rule it out anyway.
    """

    words: str
    holds: Callable[[Any], bool]
    needs_value: bool = False


def _at_least(least: float) -> Allowed:
    return Allowed(f"at least {least}", lambda value: least <= value < math.inf)


def _above(limit: float) -> Allowed:
    return Allowed(f"above {limit}", lambda value: limit < value < math.inf)


def _between(least: float, most: float) -> Allowed:
    return Allowed(f"from {least} to {most}", lambda value: least <= value <= most)


def _one_of(*choices: str) -> Allowed:
    return Allowed(f"one of {', '.join(choices)}", lambda value: value in choices)


def _each(allowed: Allowed) -> Allowed:
    return Allowed(
        f"a list of at least one number, each {allowed.words}",
        lambda values: bool(values) and all(map(allowed.holds, values)),
    )


def _needed(allowed: Allowed) -> Allowed:
    return dataclasses.replace(allowed, needs_value=True)


def _known_to(library: Callable[[str], Any]) -> Callable[[str], bool]:
    """Returns whether a library's function accepts a name, as a function of the name."""

    def is_known(name: str) -> bool:
        try:
            library(name)
        except ValueError:
            return False
        return True

    return is_known


_POSITIVE = _above(0)
_NOT_NEGATIVE = _at_least(0)
_COUNT = _at_least(1)
_SHARE = _between(0, 1)
_POSITIVE_SHARE = Allowed("above 0 and at most 1", lambda value: 0 < value <= 1)
_DECAY = Allowed("at least 0 and below 1", lambda value: 0 <= value < 1)
_TRUE = Allowed("true", lambda value: value is True)
_FALSE = Allowed("false", lambda value: value is False)
_CLIP = dataclasses.replace(_POSITIVE, words="above 0, or null for no clipping")
_ACTIVATION = Allowed(
    "the name of one of Keras's activations, such as relu, relu6 or swish",
    _known_to(tf_utils.get_activation),
    needs_value=True,
)
_POLICY = Allowed(
    "the name of one of Model Garden's policies, such as detection_v0",
    _known_to(augment.AutoAugment),
)

# By the name of the key; by the name of its group as well, where keys of one name differ.
_ALLOWED = {
    # Anchors and heads
    "num_scales": _COUNT,
    "aspect_ratios": _each(_POSITIVE),
    "anchor_size": _POSITIVE,
    "num_convs": _NOT_NEGATIVE,
    "num_filters": _COUNT,
    "num_fcs": _NOT_NEGATIVE,
    "fc_dims": _COUNT,
    "crop_size": _COUNT,
    "sample_offset": _SHARE,
    "upsample_factor": _COUNT,
    "num_sampled_masks": _COUNT,
    "outer_boxes_scale": _at_least(1),
    # Backbones and decoders
    "activation": _ACTIVATION,
    "norm_momentum": _SHARE,
    "norm_epsilon": _POSITIVE,
    "stem_type": _one_of("v0", "v1"),
    "depth_multiplier": _POSITIVE,
    "filter_size_scale": _POSITIVE,
    "se_ratio": _SHARE,
    "stochastic_depth_drop_rate": _DECAY,
    "init_stochastic_depth_rate": _DECAY,
    "dropout_rate": _DECAY,
    "attention_dropout_rate": _DECAY,
    "groups": _COUNT,
    "base_width": _COUNT,
    "expand_ratio": _COUNT,
    "fusion_type": _one_of("sum", "concat"),
    "num_repeats": _COUNT,
    # Proposals, detections and their evaluation
    "pre_nms_top_k": _COUNT,
    "test_pre_nms_top_k": _COUNT,
    "pre_nms_score_threshold": _SHARE,
    "test_pre_nms_score_threshold": _SHARE,
    "pre_nms_min_size_threshold": _NOT_NEGATIVE,
    "test_pre_nms_min_size_threshold": _NOT_NEGATIVE,
    "nms_iou_threshold": _SHARE,
    "test_nms_iou_threshold": _SHARE,
    "num_proposals": _COUNT,
    "test_num_proposals": _COUNT,
    "max_num_detections": _COUNT,
    "max_num_eval_detections": _COUNT,
    "soft_nms_sigma": _NOT_NEGATIVE,
    "box_coder_weights": _each(_POSITIVE),
    "use_wod_metrics": _FALSE,
    # Samplers. The first two are the IoUs below which a box is negative, where the bins end.
    "background_iou_high_threshold": _POSITIVE_SHARE,
    "rpn_unmatched_threshold": _POSITIVE_SHARE,
    "foreground_fraction": _SHARE,
    "rpn_fg_fraction": _SHARE,
    "rpn_batch_size_per_im": _COUNT,
    "max_negatives_per_positive": dataclasses.replace(
        _NOT_NEGATIVE, words="at least 1, or 0 for no limit"
    ),
    # Losses
    "loss_weight": _POSITIVE,
    "focal_loss_alpha": _SHARE,
    "focal_loss_gamma": _NOT_NEGATIVE,
    "huber_loss_delta": _POSITIVE,
    "rpn_huber_loss_delta": _POSITIVE,
    "frcnn_huber_loss_delta": _POSITIVE,
    "box_loss_weight": _NOT_NEGATIVE,
    "rpn_score_weight": _NOT_NEGATIVE,
    "rpn_box_weight": _NOT_NEGATIVE,
    "frcnn_class_weight": _NOT_NEGATIVE,
    "frcnn_box_weight": _NOT_NEGATIVE,
    "mask_weight": _NOT_NEGATIVE,
    "l2_weight_decay": _NOT_NEGATIVE,
    "frcnn_class_loss_top_k_percent": _POSITIVE_SHARE,
    "class_weights": _each(_NOT_NEGATIVE),
    "class_weighting": _one_of(*components.CLASS_WEIGHTINGS),
    "effective_number_beta": _DECAY,
    # Data
    "train_data.is_training": _TRUE,
    "validation_data.is_training": _FALSE,
    "dtype": _one_of("float32", "float16", "bfloat16"),
    "file_type": _one_of("tfrecord", "tfrecord_compressed"),
    "repeat_threshold": _SHARE,
    "class_frequencies": _each(_SHARE),
    "shuffle_buffer_size": _COUNT,
    "cycle_length": _COUNT,
    "block_length": _COUNT,
    "ram_budget": _COUNT,
    "prefetch_buffer_size": _at_least(-1),
    "num_channels": Allowed("3", lambda value: value == 3),
    "max_num_instances": _COUNT,
    "mask_crop_size": _COUNT,
    "match_threshold": _SHARE,
    "unmatched_threshold": _SHARE,
    "aug_scale_min": _POSITIVE,
    "aug_scale_max": _POSITIVE,
    "num_layers": _COUNT,
    "magnitude": _between(0, 10),
    "magnitude_std": _NOT_NEGATIVE,
    "prob_to_apply": _SHARE,
    "augmentation_name": _POLICY,
    "min_quality": _between(0, 100),
    "max_quality": _between(0, 100),
    # Optimizers
    "clipnorm": _CLIP,
    "clipvalue": _CLIP,
    "global_clipnorm": _CLIP,
    "gradient_clip_norm": _NOT_NEGATIVE,
    "momentum": _DECAY,
    "beta_1": _DECAY,
    "beta_2": _DECAY,
    "rho": _DECAY,
    "epsilon": _POSITIVE,
    "decay": _NOT_NEGATIVE,
    "weight_decay": _NOT_NEGATIVE,
    "weight_decay_rate": _NOT_NEGATIVE,
    "initial_accumulator_value": _NOT_NEGATIVE,
    "average_decay": _SHARE,
    "average_period": _COUNT,
    "sync_period": _COUNT,
    "slow_step_size": _SHARE,
    "start_step": _NOT_NEGATIVE,
    "start_averaging": _NOT_NEGATIVE,
    # Learning rates
    "constant.learning_rate": _POSITIVE,
    "initial_learning_rate": _needed(_POSITIVE),
    "end_learning_rate": _NOT_NEGATIVE,
    "pre_offset_learning_rate": _NOT_NEGATIVE,
    "warmup_learning_rate": _NOT_NEGATIVE,
    "warmup_steps": _NOT_NEGATIVE,
    "boundaries": _needed(_each(_COUNT)),
    "values": _needed(_each(_NOT_NEGATIVE)),
    "decay_steps": _needed(_COUNT),
    "total_decay_steps": _needed(_COUNT),
    "linear_decay_fraction": _SHARE,
    "exponential.decay_rate": _needed(_POSITIVE),
    "cosine.alpha": _SHARE,
    # Analysis, trainer and runtime
    "analysis.interval": _COUNT,
    "max_to_keep": _COUNT,
    "continuous_eval_timeout": _COUNT,
    "best_checkpoint_metric_comp": _one_of("higher", "lower"),
    # Infinity is no bound.
    "loss_upper_bound": Allowed("above 0", lambda value: value > 0),
    "recovery_begin_steps": _NOT_NEGATIVE,
    "num_gpus": _NOT_NEGATIVE,
    "num_packs": _NOT_NEGATIVE,
}


def check(config: hyperparams.Config, path: str) -> None:
    """Checks the values of a config.

    Args:
      config: a group of keys. Where a `type` chooses one of several groups, only that is checked.
      path: the key of the group, such as `task`.

    Raises:
      ValueError: if a value is not allowed; the message names the key and what is.
    """
    for key, value in _values(config, path):
        group_and_name = ".".join(key.split(".")[-2:])
        allowed = _ALLOWED.get(group_and_name) or _ALLOWED.get(key.split(".")[-1])
        if allowed is None or (value is None and not allowed.needs_value):
            continue
        if value is None or not allowed.holds(value):
            raise ValueError(f"{key} is {value!r}; it must be {allowed.words}")


def _values(config: hyperparams.Config, path: str) -> Iterator[tuple[str, Any]]:
    # Of groups to choose from, this has the chosen one only.
    for name in config.as_dict():
        value = getattr(config, name)
        if isinstance(value, hyperparams.Config):
            yield from _values(value, f"{path}.{name}")
        else:
            yield f"{path}.{name}", value
