"""Verdicts on the classes: how rare some are, and what they get of the gradient."""

import statistics
from collections.abc import Mapping
from typing import Any

from libra_tf.analysis.verdicts.finding import (
    ACT,
    FINE,
    LOOK,
    Advice,
    Gauge,
    Verdict,
    make_verdict,
    percent,
)

# The rarest classes have too little if they have less than an even part over this.
_RARE = 5.0
# Of a class on average. With fewer, chance alone makes some classes rare.
_ENOUGH_OBJECTS = 5.0
_REPEAT_THRESHOLD = "task.train_data.repeat_threshold"
# `benchmarks/class_balance.py`; the numbers are in docs/results.md.
_GAIN = (
    "On shapes with 50 objects of the commonest class for one of the rarest, that helped the rare "
    "classes in 3 of 3 trainings."
)


def judge(numbers: Mapping[str, Any]) -> list[Verdict | None]:
    """Judges the classes.

    Args:
      numbers: see `libra_tf.analysis.verdicts.judge`.

    Returns:
      The verdicts on the classes with objects; None for what cannot be judged, as with a single
      class, or with fewer objects than classes several times over.
    """
    measured, settings = numbers["classes"], numbers["settings"]
    num_classes = len(_present(measured))
    if num_classes < 2 or measured["num_objects"] < _ENOUGH_OBJECTS * num_classes:
        return []
    return [_objects(measured, settings), _gradient(measured, settings)]


def _objects(measured: Mapping[str, Any], settings: Mapping[str, Any]) -> Verdict:
    present, rarest = _present(measured), measured["rarest"]
    commonest = list(present)[-1]
    text = (
        f"Of {measured['num_objects']} objects, {percent(rarest['objects'])} are of "
        f"{_listed(rarest['classes'])}; even parts would be {percent(rarest['even'])}. The "
        f"commonest class, {commonest}, has {present[commonest]['objects']} objects, the rarest "
        f"{next(iter(present.values()))['objects']}."
    )
    num_absent = len(measured["by_class"]) - len(present)
    if num_absent:
        has = "class has" if num_absent == 1 else "classes have"
        text += f" {num_absent} {has} no object in the images measured."
    gauge = Gauge("objects of the rarest classes", rarest["objects"], rarest["even"] / _RARE)
    if gauge.value >= gauge.threshold:
        advice = Advice(FINE, "No class is far rarer than the others.")
    elif settings[_REPEAT_THRESHOLD]:
        gauge = None
        advice = _repeating_advice(measured, settings)
    else:
        has = "has" if len(rarest["classes"]) == 1 else "have"
        headline = f"{_subject(measured)} {has} {percent(rarest['objects'])} of the objects."
        suggestion, lines = _rare_advice(measured)
        advice = Advice(ACT if lines else LOOK, headline, suggestion, lines)
    return make_verdict("classes", "Objects of each class", gauge, text, advice)


def _repeating_advice(measured: Mapping[str, Any], settings: Mapping[str, Any]) -> Advice:
    """Advises a run that repeats images on rare classes."""
    typical = statistics.median(_shares_of_images(measured).values())
    if settings[_REPEAT_THRESHOLD] >= typical / _RARE:
        return Advice(FINE, "Some classes are rare, and the run repeats their images.")
    headline = "Some classes are rare, and the run repeats them little."
    return Advice(LOOK, headline, *_rare_advice(measured))


def _shares_of_images(measured: Mapping[str, Any]) -> dict[str, float]:
    """Returns the share of the images that show each class with objects."""
    return {
        name: row["images"] / measured["num_images"] for name, row in _present(measured).items()
    }


def _rare_advice(measured: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    """Returns what to do about rare classes, and the config lines for it.

    Weights of the classes in the loss are not among it: measured, they lowered the average
    precision of the rare classes and of the frequent ones.
    """
    shares = _shares_of_images(measured)
    typical = statistics.median(shares.values())
    if max(shares[name] for name in measured["rarest"]["classes"]) < typical:
        return (
            f"Repeat the images with classes that fewer images show than the median class. {_GAIN}",
            (f"{_REPEAT_THRESHOLD}={typical:.2g}",),
        )
    return "As many images show the rare classes as others: add images with more of them.", ()


def _gradient(measured: Mapping[str, Any], settings: Mapping[str, Any]) -> Verdict | None:
    rarest = measured["rarest"]
    if rarest["gradient"] is None:
        return None
    text = (
        f"Of the gradient that raises the scores of the classes, {percent(rarest['gradient'])} "
        f"goes to {_listed(rarest['classes'])}, with {percent(rarest['objects'])} of the objects; "
        f"even parts would be {percent(rarest['even'])}."
    )
    gauge = Gauge("gradient of the rarest classes", rarest["gradient"], rarest["even"] / _RARE)
    advice = _gradient_advice(measured, gauge, settings)
    return make_verdict("classes", "Gradient of each class", gauge, text, advice)


def _gradient_advice(
    measured: Mapping[str, Any], gauge: Gauge, settings: Mapping[str, Any]
) -> Advice:
    if gauge.value >= gauge.threshold:
        return Advice(FINE, "Even rare classes get their part of the classification loss.")
    gets = "gets" if len(measured["rarest"]["classes"]) == 1 else "get"
    headline = f"{_subject(measured)} {gets} {percent(gauge.value)} of the classification gradient."
    if settings[_REPEAT_THRESHOLD]:
        return Advice(LOOK, headline, "The run repeats images already: add images of them.")
    suggestion, lines = _rare_advice(measured)
    return Advice(ACT if lines else LOOK, headline, suggestion, lines)


def _present(measured: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Returns the rows of the classes with objects, the rarest first."""
    return {name: row for name, row in measured["by_class"].items() if row["objects"]}


def _subject(measured: Mapping[str, Any]) -> str:
    """Returns what a headline calls the rarest classes."""
    names, number = measured["rarest"]["classes"], len(_present(measured))
    return (
        f"Class {names[0]}" if len(names) == 1 else f"The rarest {len(names)} of {number} classes"
    )


def _listed(names: list[str]) -> str:
    """Returns up to three names, as part of a sentence."""
    if len(names) == 1:
        return names[0]
    if len(names) > 3:
        return f"the rarest {len(names)} classes ({', '.join(names[:3])} and others)"
    return f"{', '.join(names[:-1])} and {names[-1]}"
