"""Verdicts on the losses: which of them dominates, and which errors it learns from."""

from collections.abc import Mapping
from typing import Any

from libra_tf.analysis.verdicts.finding import (
    ACT,
    FINE,
    LOOK,
    UNEQUAL,
    Advice,
    Gauge,
    Verdict,
    make_verdict,
    percent,
)

_FEW_OUTLIERS = 0.01
# Of the gradient, by the coordinates of largest error.
_MOST = 0.5
_ONE_STAGE_WEIGHT, _TWO_STAGE_WEIGHT = "task.losses.box_loss_weight", "task.losses.frcnn_box_weight"
# RetinaNet's usual weights, with Huber and with another loss, and its usual knee of balanced L1.
_HUBER_WEIGHT, _OTHER_WEIGHT = 50, 4
_KNEE = 0.11
# The numbers are in docs/when.md and docs/results.md.
_TWO_STAGE_LOSS = "lowered average precision in 31 of 33 small trainings of Faster R-CNN."
_ONE_STAGE_GAIN = (
    "On photographs, RetinaNet gained 0.2 points of average precision with it in 1 of 1 trainings, "
    "and 0.8 ± 0.1 with it and the balanced pyramid in 3 of 3 trainings. On a few images of blood "
    "cells, it gained nothing."
)
_HALF_WEIGHT = "half the usual weight raised average precision in 8 of 8 small trainings."
_LARGER_WEIGHT = (
    "A larger weight of the box loss would make up for it, but is not advised: " + _HALF_WEIGHT
)
_SMALLER_WEIGHT = (
    f"Yet a smaller weight of the box loss is worth a try: {_HALF_WEIGHT} These had one or two "
    "epochs; with longer ones, it was not measured."
)


def judge(numbers: Mapping[str, Any]) -> list[Verdict | None]:
    """Judges the losses.

    Args:
      numbers: see `libra_tf.analysis.verdicts.judge`.

    Returns:
      The verdicts; None for what cannot be judged.
    """
    return [_losses(numbers), _outliers(numbers)]


def _losses(numbers: Mapping[str, Any]) -> Verdict | None:
    classes, boxes = ("frcnn_cls", "frcnn_box") if _is_two_stage(numbers) else ("cls", "box")
    norms = numbers["objective"]["gradient_norms"]
    of_classes, of_boxes = (norms[name]["all"].get("shared") for name in (classes, boxes))
    if not of_classes or not of_boxes:
        return None
    ratio = of_classes / of_boxes
    text = (
        f"At the shared layers, the gradient of classification has a norm of {of_classes:.3g} and "
        f"that of localisation {of_boxes:.3g}, a ratio of {ratio:.2g} to 1."
    )
    weak, strong = "localisation", "classification"
    if ratio < 1:
        weak, strong = strong, weak
    label = f"gradient of {strong}, as a multiple of that of {weak}"
    gauge = Gauge(label, max(ratio, 1 / ratio), UNEQUAL, is_share=False)
    if gauge.value > UNEQUAL:
        advice = _uneven_advice(ratio, numbers)
    else:
        advice = _even_advice(numbers)
        # The weight decides then.
        gauge = gauge if advice.state == FINE else None
    return make_verdict("objective", "Classification versus localisation", gauge, text, advice)


def _is_two_stage(numbers: Mapping[str, Any]) -> bool:
    return numbers["kind"] == "two_stage"


def _box_weight(numbers: Mapping[str, Any]) -> tuple[str, float]:
    """Returns the config key of a run's weight of the box loss, and its value."""
    key = _TWO_STAGE_WEIGHT if _is_two_stage(numbers) else _ONE_STAGE_WEIGHT
    return key, numbers["settings"][key]


def _uneven_advice(ratio: float, numbers: Mapping[str, Any]) -> Advice:
    """Advises on losses of which one outweighs the other by far.

    Args:
      ratio: of the gradient of classification to that of localisation.
      numbers: of the run.
    """
    if ratio > 1:
        return Advice(LOOK, "The shared layers learn little about localisation.", _LARGER_WEIGHT)
    key, weight = _box_weight(numbers)
    return Advice(
        ACT,
        "The shared layers learn little about classification.",
        f"A weight of {weight * ratio:.3g} would make the two norms equal on these images. "
        "Start halfway to it.",
        (f"{key}={weight * (1 + ratio) / 2:.3g}",),
    )


def _even_advice(numbers: Mapping[str, Any]) -> Advice:
    """Advises on losses of which neither outweighs the other by far.

    Args:
      numbers: of the run.
    """
    headline = "Neither classification nor localisation dominates the shared layers."
    key, weight = _box_weight(numbers)
    usual = 1
    if not _is_two_stage(numbers):
        is_huber = numbers["settings"]["task.losses.box_loss"] == "huber"
        usual = _HUBER_WEIGHT if is_huber else _OTHER_WEIGHT
    # With less than half of the usual weight, nothing was trained.
    if weight < usual:
        return Advice(FINE, headline)
    return Advice(LOOK, headline, _SMALLER_WEIGHT, (f"{key}={weight / 2:.3g}",))


def _outliers(numbers: Mapping[str, Any]) -> Verdict | None:
    loss = "frcnn_box" if _is_two_stage(numbers) else "box"
    measured = numbers["objective"]["box_errors"].get(loss)
    if not measured or measured["inlier_gradient_share"] is None:
        return None
    outliers = 1 - measured["inlier_count_share"]
    of_gradient = 1 - measured["inlier_gradient_share"]
    text = (
        f"{percent(outliers)} of the coordinates are outliers (an error of {measured['beta']:.3g} "
        f"or more), and {percent(of_gradient)} of the gradient of the box loss comes from them."
    )
    ratio = measured["inlier_over_outlier"]
    if ratio is not None:
        text += f" The gradient of an inlier is {percent(ratio)} of that of an outlier on average."
    if _is_two_stage(numbers) and _has_balanced_l1(numbers):
        # What was measured decides, and no number does.
        gauge, advice = None, _two_stage_advice(numbers)
    elif outliers < _FEW_OUTLIERS:
        gauge = Gauge("outliers among the coordinates", outliers, _FEW_OUTLIERS)
        advice = _knee_advice(measured["error_90_percent"], numbers)
    else:
        gauge = Gauge("gradient that comes from outliers", of_gradient, _MOST)
        advice = _outlier_advice(gauge, numbers)
    return make_verdict("objective", "Inliers and outliers of the box errors", gauge, text, advice)


def _has_balanced_l1(numbers: Mapping[str, Any]) -> bool:
    return numbers["settings"]["task.losses.box_loss"] == "balanced_l1"


def _two_stage_advice(numbers: Mapping[str, Any]) -> Advice:
    """Advises on a two-stage detector with balanced L1.

    Args:
      numbers: of the run.
    """
    if numbers["settings"].get("task.model.compatibility"):
        # MMDetection has no Huber loss, and its L1 was not compared.
        return Advice(FINE, "The box loss is balanced L1, as in the published models.")
    return Advice(
        LOOK,
        "The box loss is balanced L1, and not Huber.",
        f"Huber is the alternative: balanced L1 {_TWO_STAGE_LOSS} These were short and from random "
        "weights, and their box loss was heavier as well; the published models have balanced L1.",
        ("task.losses.box_loss=huber",),
    )


def _knee_advice(knee: float, numbers: Mapping[str, Any]) -> Advice:
    """Advises on a loss that meets next to no outliers.

    Args:
      knee: the size that nine in ten errors are below.
      numbers: of the run.
    """
    suggestion = f"There is nothing to balance: nine in ten errors are below {knee:.3g}. "
    if not _has_balanced_l1(numbers):
        suggestion += "Balanced L1 would only act as a larger weight on the box loss."
        return Advice(FINE, "There are next to no outliers to balance.", suggestion)
    suggestion += (
        "With its knee far above the errors, balanced L1 only acts as a larger weight on the box "
        "loss. Move the knee to where the errors are."
    )
    headline = "The knee of balanced L1 lies far above the errors."
    return Advice(LOOK, headline, suggestion, (f"task.losses.balanced_l1.beta={knee:.2g}",))


def _outlier_advice(gauge: Gauge, numbers: Mapping[str, Any]) -> Advice:
    """Advises on a loss that meets outliers.

    Args:
      gauge: their share of the gradient, and where it is too much.
      numbers: of the run.
    """
    if gauge.value <= gauge.threshold:
        return Advice(FINE, "Outliers have at most half of the gradient of the box loss.")
    headline = "Outliers have more than half of the gradient of the box loss."
    if _has_balanced_l1(numbers):
        suggestion = "Balanced L1 limits the gradient of each already; no further remedy is known."
        return Advice(LOOK, headline, suggestion)
    if _is_two_stage(numbers):
        return Advice(LOOK, headline, f"Balanced L1 limits it, but {_TWO_STAGE_LOSS}")
    key, weight = _box_weight(numbers)
    # L1 has the scale of balanced L1, Huber with its usual knee another.
    if numbers["settings"]["task.losses.box_loss"] == "huber":
        weight *= _OTHER_WEIGHT / _HUBER_WEIGHT
    lines = (
        "task.losses.box_loss=balanced_l1",
        f"{key}={weight:.3g}",
        f"task.losses.balanced_l1.beta={_KNEE}",
    )
    suggestion = (
        "Balanced L1 raises the gradient of accurate boxes and limits that of the others. "
        f"{_ONE_STAGE_GAIN}"
    )
    return Advice(ACT, headline, suggestion, lines)
