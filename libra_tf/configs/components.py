"""Config of each Libra component: the balanced pyramid, sampling and loss.

Every component is a switch. Set `decoder.type` to `fpn`, `roi_sampler.type` to `random` or
`losses.box_loss` to `huber` and Model Garden's own part stands in its place, unchanged.
"""

import dataclasses

from official.modeling import hyperparams
from official.vision.configs import decoders, maskrcnn

DECODERS = ("libra_fpn", "fpn", "nasfpn", "aspp", "identity")
REFINE_TYPES = ("non_local", "conv", None)
ROI_SAMPLERS = ("iou_balanced", "random")
BIN_RANGES = ("candidates", "all")
BOX_LOSSES = ("balanced_l1", "huber")
BALANCED_L1_FORMS = ("paper", "mmdet")


def check_choice(name: str, value: str | None, choices: tuple[str | None, ...]) -> None:
    """Raises a ValueError that names the key when `value` is not one of `choices`."""
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(map(str, choices))}")


@dataclasses.dataclass
class LibraFPN(decoders.FPN):
    """FPN followed by the balanced feature pyramid (paper section 3.2).

    Attributes:
      refine_level: level at which the maps are gathered and refined. The published models use
        stride 16, which is level 4.
      refine_type: `non_local` (published), `conv`, or None for plain averaging.
    """

    refine_level: int = 4
    refine_type: str | None = "non_local"


@dataclasses.dataclass
class Decoder(decoders.Decoder):
    """Model Garden's decoders and one more: `libra_fpn`."""

    type: str | None = "libra_fpn"
    libra_fpn: LibraFPN = dataclasses.field(default_factory=LibraFPN)


@dataclasses.dataclass
class BalancedL1(hyperparams.Config):
    """Balanced L1 loss (paper section 3.3); see `libra_tf.losses.BalancedL1Loss`."""

    alpha: float = 0.5
    gamma: float = 1.5
    beta: float = 1.0
    form: str = "paper"


@dataclasses.dataclass
class ROISampler(maskrcnn.ROISampler):
    """Model Garden's RoI sampler and the choices of IoU-balanced sampling (paper section 3.1).

    Attributes:
      type: `iou_balanced`, or `random` for Model Garden's own sampler.
      num_bins: number of IoU bins that share the negatives evenly (K in the paper).
      floor_threshold: negatives below this IoU form the floor set; -1 for no floor set.
      floor_fraction: share of the negatives that is drawn from the floor set.
      bin_range: `candidates` for the paper's bins over the negatives' own range, `all` for
        MMDetection's bins, which reach up to the largest IoU of all proposals.
      instance_balanced: whether an excess of positives is thinned evenly over the objects.
    """

    type: str = "iou_balanced"
    num_bins: int = 3
    floor_threshold: float = -1.0
    floor_fraction: float = 0.0
    bin_range: str = "candidates"
    instance_balanced: bool = True


def check_task(task: hyperparams.Config) -> None:
    """Checks the choices that every Libra task has.

    Args:
      task: a config with `model.decoder`, `losses.box_loss` and `losses.balanced_l1`.

    Raises:
      ValueError: if one of them is unknown.
    """
    decoder, losses = task.model.decoder, task.losses
    check_choice("task.model.decoder.type", decoder.type, DECODERS)
    check_choice(
        "task.model.decoder.libra_fpn.refine_type", decoder.libra_fpn.refine_type, REFINE_TYPES
    )
    check_choice("task.losses.box_loss", losses.box_loss, BOX_LOSSES)
    check_choice("task.losses.balanced_l1.form", losses.balanced_l1.form, BALANCED_L1_FORMS)
