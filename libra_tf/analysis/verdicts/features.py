"""Verdicts on the feature pyramid: its levels, and what the refinement does."""

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
    multiple,
    percent,
)

_POOR_LEVEL = 2.0
_IDLE_REFINEMENT = 0.02
_FLAT_ATTENTION = 0.95

_BALANCED_PYRAMID = "task.model.decoder.type=libra_fpn"
_REFINE_TYPE = "task.model.decoder.libra_fpn.refine_type"


def judge(numbers: Mapping[str, Any]) -> list[Verdict | None]:
    """Judges the pyramid.

    Args:
      numbers: see `libra_tf.analysis.verdicts.judge`.

    Returns:
      The verdicts; None for what cannot be judged.
    """
    measured = numbers["features"]
    return [_levels(measured), _ranks(measured), _refinement(measured)]


def _levels(features: Mapping[str, Any]) -> Verdict:
    shares = dict(zip(features["levels"], features["share"], strict=True))
    largest, smallest = max(shares, key=shares.get), min(shares, key=shares.get)
    text = (
        f"P{largest} contributes {percent(shares[largest])} of the integrated map and P{smallest} "
        f"{percent(shares[smallest])}; equal shares would be {percent(1 / len(shares))}."
    )
    if not features["is_balanced"]:
        text += " This run has a plain FPN: these are the levels that would be integrated."
    label = f"share of P{largest}, as a multiple of that of P{smallest}"
    gauge = multiple(label, shares[largest], shares[smallest], UNEQUAL)
    if gauge and gauge.value <= UNEQUAL:
        advice = Advice(FINE, "No level outweighs another by far in the integrated map.")
    elif features["is_balanced"]:
        advice = Advice(
            LOOK,
            f"P{largest} dominates what every level receives.",
            f"What every level receives is mostly P{largest}; integrate at that level instead.",
            (f"task.model.decoder.libra_fpn.refine_level={largest}",),
        )
    else:
        advice = Advice(
            ACT,
            f"P{largest} outweighs P{smallest} by far.",
            "No level sees much of the others. The balanced pyramid adds the mean of all levels "
            "to each.",
            (_BALANCED_PYRAMID,),
        )
    return make_verdict("features", "Levels of the pyramid", gauge, text, advice)


def _ranks(features: Mapping[str, Any]) -> Verdict:
    before = {level: m["effective_rank"] for level, m in features["before"].items()}
    channels = next(iter(features["before"].values()))["channels"]
    poorest, richest = min(before, key=before.get), max(before.values())
    text = (
        f"The features of the poorest level, P{poorest}, use {before[poorest]:.0f} of {channels} "
        f"directions (their effective rank), those of the richest {richest:.0f}"
    )
    if features["is_balanced"]:
        after = features["after"][poorest]["effective_rank"]
        text += f"; after the balanced pyramid, those of P{poorest} use {after:.0f}."
        label = f"rank of P{poorest} after the pyramid, as a multiple of that before"
        gauge = multiple(label, after, before[poorest], 1 - MUCH)
        advice = _integration_advice(poorest, after < before[poorest] * (1 - MUCH))
    else:
        text += "."
        label = f"rank of the richest level, as a multiple of that of P{poorest}"
        gauge = multiple(label, richest, before[poorest], _POOR_LEVEL)
        advice = _plain_pyramid_advice(poorest, before[poorest] * _POOR_LEVEL < richest)
    return make_verdict("features", "Effective rank of the features", gauge, text, advice)


def _integration_advice(poorest: str, is_poorer: bool) -> Advice:
    if not is_poorer:
        return Advice(
            FINE,
            f"The balanced pyramid leaves P{poorest}, the poorest level, about as rich or richer.",
        )
    return Advice(
        LOOK,
        f"The balanced pyramid makes the features of P{poorest} poorer.",
        "Integration makes the features poorer here. Try it without refinement.",
        (f"{_REFINE_TYPE}=null",),
    )


def _plain_pyramid_advice(poorest: str, is_poor: bool) -> Advice:
    if not is_poor:
        return Advice(FINE, "No level has much poorer features than the others.")
    return Advice(
        ACT,
        f"The features of P{poorest} are much poorer than those of other levels.",
        "The balanced pyramid would give the poor level what the others have.",
        (_BALANCED_PYRAMID,),
    )


def _refinement(features: Mapping[str, Any]) -> Verdict | None:
    change = features["refinement_change"]
    if change is None:
        return None
    text = f"The refinement changes the integrated map by {percent(change)} of its norm."
    attention = features["attention"]
    gauge = Gauge("change of the integrated map", change, _IDLE_REFINEMENT)
    advice = Advice(FINE, "The refinement changes the integrated map.")
    if change < _IDLE_REFINEMENT:
        advice = Advice(
            LOOK,
            "The refinement has almost no effect.",
            "It has almost no effect and costs time. Train longer, or use the plain mean.",
            (f"{_REFINE_TYPE}=null",),
        )
    elif attention is not None:
        distance, uniform = attention["distance_pixels"], attention["uniform_distance_pixels"]
        text += (
            f" On average, a position attends to positions {distance:.0f} pixels away "
            f"({uniform:.0f} if it attended to everything equally), with an entropy of "
            f"{attention['entropy']:.2f} (0: a single position, 1: everything equally)."
        )
        gauge = Gauge("entropy of the attention", attention["entropy"], _FLAT_ATTENTION)
        advice = _attention_advice(attention["entropy"])
    return make_verdict("features", "Refinement of the integrated map", gauge, text, advice)


def _attention_advice(entropy: float) -> Advice:
    if entropy <= _FLAT_ATTENTION:
        return Advice(FINE, "The refinement works, and its attention is selective.")
    return Advice(
        LOOK,
        "The attention does not select: it takes everything equally.",
        "A convolution can do that without attention.",
        (f"{_REFINE_TYPE}=conv",),
    )
