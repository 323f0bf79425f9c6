"""Verdicts on the losses: which of them dominates, and which errors it learns from."""

from collections.abc import Mapping
from typing import Any

from libra_tf.analysis.verdicts.finding import (
    ACT,
    FINE,
    LOOK,
    MUCH,
    UNEQUAL,
    Advice,
    Gauge,
    Verdict,
    make_verdict,
    percent,
)

_FEW_OUTLIERS = 0.01
_DOMINANT_OUTLIERS = 0.5
# The numbers are in docs/when.md and docs/results.md.
_TWO_STAGE_LOSS = "But in 14 of 15 small trainings of Faster R-CNN, it lowered average precision."
_WEIGHT_GAIN = (
    "A larger weight of the box loss would make up for it, but is not advised: half the usual "
    "weight raised average precision in 8 of 8 small trainings."
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
    objective = numbers["objective"]
    classes, boxes, key = ("cls", "box", "task.losses.box_loss_weight")
    if numbers["kind"] == "two_stage":
        classes, boxes, key = ("frcnn_cls", "frcnn_box", "task.losses.frcnn_box_weight")
    of_classes, of_boxes = (
        objective["gradient_norms"][name]["all"].get("shared") for name in (classes, boxes)
    )
    if not of_classes or not of_boxes:
        return None
    ratio = of_classes / of_boxes
    text = (
        f"At the shared layers, the gradient of classification has a norm of {of_classes:.3g} and "
        f"that of localisation {of_boxes:.3g}, a ratio of {ratio:.2g} to 1."
    )
    weight = objective["weights"][boxes]
    weak, strong = "localisation", "classification"
    if ratio < 1:
        weak, strong = strong, weak
    label = f"gradient of {strong}, as a multiple of that of {weak}"
    gauge = Gauge(label, max(ratio, 1 / ratio), UNEQUAL, is_share=False)
    if gauge.value <= UNEQUAL:
        advice = Advice(
            FINE, "Neither classification nor localisation dominates the shared layers."
        )
    elif weak == "localisation":
        advice = Advice(LOOK, "The shared layers learn little about localisation.", _WEIGHT_GAIN)
    else:
        advice = Advice(
            ACT,
            "The shared layers learn little about classification.",
            f"A weight of {weight * ratio:.3g} would make the two norms equal on these images. "
            "Start halfway to it.",
            (f"{key}={weight * (1 + ratio) / 2:.3g}",),
        )
    return make_verdict("objective", "Classification versus localisation", gauge, text, advice)


def _outliers(numbers: Mapping[str, Any]) -> Verdict | None:
    loss = "frcnn_box" if numbers["kind"] == "two_stage" else "box"
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
    settings = numbers["settings"]
    if outliers < _FEW_OUTLIERS:
        gauge = Gauge("outliers among the coordinates", outliers, _FEW_OUTLIERS)
        advice = _knee_advice(measured["error_90_percent"], settings)
    else:
        gauge = Gauge(
            "gradient that comes from outliers",
            of_gradient,
            _most_from_outliers(outliers, settings),
        )
        advice = _outlier_advice(gauge, settings)
    return make_verdict("objective", "Inliers and outliers of the box errors", gauge, text, advice)


def _knee_advice(knee: float, settings: Mapping[str, Any]) -> Advice:
    """Advises on a loss that meets next to no outliers.

    Args:
      knee: the size that nine in ten errors are below.
      settings: of the run, by config key.
    """
    suggestion = f"There is nothing to balance: nine in ten errors are below {knee:.3g}. "
    if settings["task.losses.box_loss"] != "balanced_l1":
        suggestion += "Balanced L1 would only act as a larger weight on the box loss."
        return Advice(FINE, "There are next to no outliers to balance.", suggestion)
    suggestion += (
        "With its knee far above the errors, balanced L1 only acts as a larger weight on the box "
        "loss. Move the knee to where the errors are."
    )
    headline = "The knee of balanced L1 lies far above the errors."
    return Advice(LOOK, headline, suggestion, (f"task.losses.balanced_l1.beta={knee:.2g}",))


def _most_from_outliers(outliers: float, settings: Mapping[str, Any]) -> float:
    """Returns the share of the gradient from which outliers have too much of it.

    Args:
      outliers: their share of the coordinates.
      settings: of the run, by config key.
    """
    if settings["task.losses.box_loss"] == "balanced_l1":
        return _DOMINANT_OUTLIERS
    return max(2 * outliers, MUCH)


def _outlier_advice(gauge: Gauge, settings: Mapping[str, Any]) -> Advice:
    """Advises on a loss that meets outliers.

    Args:
      gauge: their share of the gradient, and where it is too much.
      settings: of the run, by config key.
    """
    if gauge.value <= gauge.threshold:
        return Advice(FINE, "Outliers do not dominate the gradient of the box loss.")
    headline = f"{percent(gauge.value)} of the box loss's gradient comes from outliers."
    if settings["task.losses.box_loss"] == "balanced_l1":
        alpha = settings["task.losses.balanced_l1"]["alpha"]
        suggestion = "Outliers still dominate. A smaller alpha raises the gradient of inliers."
        line = f"task.losses.balanced_l1.alpha={alpha / 2:.2g}"
        return Advice(ACT, headline, suggestion, (line,))
    # The key of RetinaNet alone.
    if "task.losses.box_loss_weight" not in settings:
        return Advice(LOOK, headline, f"Balanced L1 limits it. {_TWO_STAGE_LOSS}")
    # Its Huber loss, with its knee at 0.1, has a weight of 50.
    lines = ("task.losses.box_loss=balanced_l1", "task.losses.box_loss_weight=4")
    suggestion = "Balanced L1 raises the gradient of accurate boxes and limits that of the others."
    return Advice(ACT, headline, suggestion, lines)
