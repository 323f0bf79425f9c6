"""Verdicts on what is sampled: hard negatives, starved bins, positives of each object."""

from collections.abc import Mapping
from typing import Any

from libra_tf.analysis.verdicts.finding import (
    ACT,
    FINE,
    LITTLE,
    LOOK,
    MUCH,
    Advice,
    Gauge,
    Verdict,
    make_verdict,
    percent,
)

_STARVED = 0.5
# Of the positives that a sampler wants.
_FEW_POSITIVES = 0.1

# In a random sample, about the fewest more hard picks with which `benchmarks/dials.py` saw a gain.
_WORTHWHILE = 0.01
# The numbers are in docs/when.md and docs/results.md.
_RISE = "It gained in 10 of 15 small trainings of Faster R-CNN."
_RPN_LOSS = "IoU-balanced sampling in the RPN lowered average precision in 3 of 3 small trainings."

NOUNS = {"proposals": "proposals", "rpn_anchors": "RPN anchors", "anchors": "anchors"}
_SAMPLER_KEYS = {"proposals": "task.model.roi_sampler", "rpn_anchors": "task.model.rpn_sampler"}
_SAMPLED = {
    "random": "random sampling",
    "iou_balanced": "IoU-balanced sampling",
    "mmdet": "IoU-balanced sampling with MMDetection's bins",
}


def judge(numbers: Mapping[str, Any]) -> list[Verdict | None]:
    """Judges the candidates of each kind.

    Args:
      numbers: see `libra_tf.analysis.verdicts.judge`.

    Returns:
      The verdicts; None for what cannot be judged.
    """
    settings = numbers["settings"]
    return [
        judge_kind(kind, measured, settings)
        for kind, measured in numbers["samples"].items()
        for judge_kind in (_hard_negatives, _starved_bins, _positives)
    ]


def is_sampled(kind: str) -> bool:
    """Returns whether a detector samples from candidates of a kind.

    Args:
      kind: a key of `NOUNS`.
    """
    return kind in _SAMPLER_KEYS


def current_sampling(kind: str, settings: Mapping[str, Any]) -> str | None:
    """Returns how a run samples its negatives.

    Args:
      kind: the kind of candidates, a key of `NOUNS`.
      settings: of the run, by config key.

    Returns:
      One of `samples.PICKS`; None if the run does not sample such candidates.
    """
    key = _SAMPLER_KEYS.get(kind)
    if key is None:
        return None
    if settings[f"{key}.type"] == "random":
        return "random"
    return "mmdet" if settings[f"{key}.bin_range"] == "all" else "iou_balanced"


def _hard_negatives(
    kind: str, measured: Mapping[str, Any], settings: Mapping[str, Any]
) -> Verdict | None:
    shares = {name: of_pick["hard_share"] for name, of_pick in measured["picks"].items()}
    if shares["random"] is None or shares["hardest"] is None:
        return None
    current = current_sampling(kind, settings)
    text = (
        f"{percent(shares['hardest'])} of the negatives with the largest loss have an IoU above "
        f"0.05 with an object, compared with {percent(shares['negatives'])} of all negatives. "
    )
    if current is None:
        text += "This detector does not sample: the focal loss weights all anchors."
        advice = _unsampled_advice(shares)
    else:
        text += (
            f"Of what random sampling picks, {percent(shares['random'])} are such hard negatives; "
            f"of what IoU-balanced sampling picks, {percent(shares['iou_balanced'])}, or "
            f"{percent(shares['mmdet'])} with MMDetection's bins. This run uses "
            f"{_SAMPLED[current]}."
        )
        advice = _sampling_advice(kind, current, shares)
    title = f"Hard negatives among the {NOUNS[kind]}"
    # What was measured decides about the RPN, and no number does.
    gauge = None if kind == "rpn_anchors" else _hardness_gauge(current, shares)
    return make_verdict("samples", title, gauge, text, advice)


def _hardness_gauge(current: str | None, shares: Mapping[str, float]) -> Gauge:
    """Returns what decides about hard negatives, which depends on how a run samples.

    Args:
      current: how it samples, see `current_sampling`.
      shares: share of hard negatives by way of sampling.
    """
    if current is None:
        return Gauge("hard ones among the largest losses", shares["hardest"], shares["negatives"])
    balanced = shares["iou_balanced"]
    if current == "random":
        missed = shares["hardest"] - shares["random"]
        if missed < LITTLE:
            return Gauge("more hard ones among the largest losses than picked", missed, LITTLE)
        return Gauge("more hard picks if balanced", balanced - shares["random"], _WORTHWHILE)
    if current == "mmdet":
        return Gauge("more hard picks with the paper's bins", balanced - shares["mmdet"], LITTLE)
    label = "more hard picks than hard ones among the largest losses"
    return Gauge(label, balanced - shares["hardest"], MUCH)


def _unsampled_advice(shares: Mapping[str, float]) -> Advice:
    suggestion = "Nothing to change: there is no sampler to balance."
    if shares["hardest"] >= shares["negatives"]:
        headline = "The negatives with the largest loss are at least as hard as the rest."
        return Advice(FINE, headline, suggestion)
    headline = "The negatives with the largest loss are easier than the rest."
    return Advice(LOOK, headline, suggestion)


def _sampling_advice(kind: str, current: str, shares: Mapping[str, float]) -> Advice:
    """Advises on a sampler.

    Args:
      kind: the kind of candidates, a key of `_SAMPLER_KEYS`.
      current: how it samples, see `current_sampling`.
      shares: share of hard negatives by way of sampling.
    """
    key = _SAMPLER_KEYS[kind]
    if kind == "rpn_anchors":
        return _rpn_advice(key, current)
    if current == "random":
        return _balancing_advice(key, shares)
    gain = shares[current] - shares["random"]
    if current == "mmdet" and shares["iou_balanced"] - shares["mmdet"] >= LITTLE:
        return Advice(
            LOOK,
            "MMDetection's bins miss hard negatives that the paper's bins would find.",
            "Bins that end where the negatives end would find more of them.",
            (f"{key}.bin_range=candidates",),
        )
    if current == "iou_balanced" and shares["iou_balanced"] - shares["hardest"] > MUCH:
        easy = 1 - shares["hardest"]
        return Advice(
            LOOK,
            "The sampler picks too many hard negatives and too few easy ones.",
            "The sampler picks more hard negatives than there are among the detector's worst "
            "mistakes, at the expense of easy negatives that the detector still gets wrong. Draw "
            "part of the sample from those.",
            (f"{key}.floor_threshold=0.05", f"{key}.floor_fraction={easy:.2f}"),
        )
    if gain < _WORTHWHILE:
        return Advice(
            FINE,
            "Balancing hardly changes how many hard negatives are picked.",
            f"Balancing makes {_more(gain)} hard here: expect little effect, good or bad.",
        )
    return Advice(FINE, f"Balancing makes {_more(gain)} hard.")


def _rpn_advice(key: str, current: str) -> Advice:
    """Advises on the RPN's sampler.

    Args:
      key: the config key of the sampler.
      current: how it samples, see `current_sampling`.
    """
    if current == "random":
        return Advice(
            FINE, "The RPN samples at random, as that of the published models.", _RPN_LOSS
        )
    headline = "The RPN samples by IoU, and not at random."
    return Advice(LOOK, headline, f"Sample at random. {_RPN_LOSS}", (f"{key}.type=random",))


def _balancing_advice(key: str, shares: Mapping[str, float]) -> Advice:
    """Advises on a sampler of RoIs that draws at random.

    Args:
      key: the config key of the sampler.
      shares: share of hard negatives by way of sampling.
    """
    gain = shares["iou_balanced"] - shares["random"]
    would_make = f"IoU-balanced sampling would make {_more(gain)} hard"
    if gain < _WORTHWHILE or shares["hardest"] - shares["random"] < LITTLE:
        return Advice(
            FINE,
            "Random sampling is enough here: balancing has little to gain.",
            f"{would_make}: little to gain.",
        )
    return Advice(
        ACT,
        f"{would_make}.",
        f"Balance the sampler. {_RISE} Check the report again after training with it: there may "
        "then be too few easy negatives.",
        (f"{key}.type=iou_balanced",),
    )


def _starved_bins(
    kind: str, measured: Mapping[str, Any], settings: Mapping[str, Any]
) -> Verdict | None:
    current = current_sampling(kind, settings)
    # Only IoU-balanced sampling draws from bins. In the RPN, it is not advised at all.
    if current not in ("iou_balanced", "mmdet") or kind == "rpn_anchors":
        return None
    bin_range = "all" if current == "mmdet" else "candidates"
    bins = measured["bins"][bin_range]
    starved = bins["starved"]
    if not starved:
        return None
    worst = max(range(len(starved)), key=starved.__getitem__)
    text = (
        f"Each of the {len(starved)} IoU bins should supply {bins['wanted']:.1f} negatives per "
        f"image. Bin {worst + 1} holds {bins['held'][worst]:.1f} on average, and too few in "
        f"{percent(starved[worst])} of the images; the shortfall is filled at random."
    )
    if starved[worst] >= _STARVED:
        headline = f"Bin {worst + 1} lacks negatives in {percent(starved[worst])} of the images."
        advice = Advice(ACT, headline, *_bins_advice(kind, bin_range, settings))
    else:
        advice = Advice(FINE, "Every bin holds enough negatives in most images.")
    gauge = Gauge(f"images in which bin {worst + 1} starves", starved[worst], _STARVED)
    return make_verdict("samples", f"Starved bins of the {NOUNS[kind]}", gauge, text, advice)


def _bins_advice(
    kind: str, bin_range: str, settings: Mapping[str, Any]
) -> tuple[str, tuple[str, ...]]:
    """Returns what to do about a starved bin, and the config lines for it."""
    key = _SAMPLER_KEYS[kind]
    if bin_range == "all":
        return (
            "The upper bins lie above every negative. Let the bins end where the negatives end.",
            (f"{key}.bin_range=candidates",),
        )
    fewer = f"{key}.num_bins={max(settings[f'{key}.num_bins'] - 1, 1)}"
    if kind == "proposals":
        number = 2 * settings["task.model.roi_generator.num_proposals"]
        lines = (f"task.model.roi_generator.num_proposals={number}", fewer)
        return "Keep more proposals, and use fewer bins.", lines
    return "Use fewer bins.", (fewer,)


def _positives(
    kind: str, measured: Mapping[str, Any], settings: Mapping[str, Any]
) -> Verdict | None:
    positives = measured["positives"]
    if not positives["num_instances"]:
        return None
    text = (
        f"An image has {positives['per_image']:.1f} positives, {positives['all']['mean']:.1f} per "
        "object"
    )
    without, wanted = positives["all"]["without"], positives["wanted_per_image"]
    gauge = Gauge("objects without a positive", without, LITTLE)
    if without > LITTLE:
        text += f", and {percent(without)} of the objects have none."
        advice = _missing_advice(without, settings)
    elif not is_sampled(kind):
        text += ". This detector does not sample: it learns from all of them."
        advice = Advice(FINE, "Nearly every object has a positive, and all positives are used.")
    elif positives["per_image"] <= wanted:
        text += f". The sampler wants {wanted:.0f} positives and takes nearly all there are."
        advice = _shortage_advice(kind, positives["per_image"], wanted, settings)
        gauge = Gauge(
            "positives found of those wanted", positives["per_image"] / wanted, _FEW_POSITIVES
        )
    else:
        more, gauge, advice = _surplus(kind, positives, settings)
        text += more
    return make_verdict(
        "samples", f"Positives per object among the {NOUNS[kind]}", gauge, text, advice
    )


def _missing_advice(without: float, settings: Mapping[str, Any]) -> Advice:
    return Advice(
        ACT,
        f"{percent(without)} of the objects have no positive.",
        "Objects without a positive are never learnt: add anchors of their size.",
        (_more_anchors(settings),),
    )


def _shortage_advice(
    kind: str, present: float, wanted: float, settings: Mapping[str, Any]
) -> Advice:
    """Advises on a sampler that takes all positives there are.

    Args:
      kind: the kind of candidates, a key of `NOUNS`.
      present: positives of an image.
      wanted: the most that are sampled from an image.
      settings: of the run, by config key.
    """
    if present >= _FEW_POSITIVES * wanted:
        headline = "Nearly all positives are used, so there is nothing to balance."
        return Advice(FINE, headline)
    headline = f"The sampler wants {wanted:.0f} positives per image and finds {present:.1f}."
    if kind == "rpn_anchors":
        suggestion = (
            "The rest of the RPN's sample is background. More anchors per position give an object "
            "more positives."
        )
        return Advice(LOOK, headline, suggestion, (_more_anchors(settings),))
    suggestion = (
        "The rest of the detection head's sample is background. An RPN that has learnt little "
        "proposes few objects: train longer, then look at the RPN's anchors."
    )
    return Advice(LOOK, headline, suggestion)


def _more_anchors(settings: Mapping[str, Any]) -> str:
    return f"task.model.anchor.num_scales={settings['task.model.anchor.num_scales'] + 1}"


def _surplus(
    kind: str, positives: Mapping[str, Any], settings: Mapping[str, Any]
) -> tuple[str, Gauge | None, Advice]:
    """Judges how a sampler draws from more positives than it wants.

    Args:
      kind: the kind of candidates, a key of `_SAMPLER_KEYS`.
      positives: the numbers of its positives.
      settings: of the run, by config key.

    Returns:
      The end of the verdict's text, its gauge and what follows.
    """
    key = _SAMPLER_KEYS[kind]
    before, after = (
        positives[name]["variation"] or 0.0 for name in ("random", "instance_balanced")
    )
    text = (
        f"; {positives['wanted_per_image']:.0f} of them are used. If they are drawn at random, the "
        f"number per object varies by {percent(before)} of its mean; if they are drawn evenly "
        f"over the objects, by {percent(after)}."
    )
    if settings[f"{key}.type"] != "random":
        # Over the classes, then over the objects of each. The RPN knows no classes.
        if settings.get(f"{key}.class_balanced"):
            return text, None, Advice(FINE, "The positives are drawn evenly over the classes.")
        if settings[f"{key}.instance_balanced"]:
            return text, None, Advice(FINE, "The positives are drawn evenly over the objects.")
    gauge = Gauge("less variation if drawn evenly", before - after, MUCH)
    if gauge.value <= MUCH:
        return text, gauge, Advice(FINE, "Drawing the positives evenly would change little.")
    headline = "Some objects get far more positives than others."
    if kind == "rpn_anchors":
        suggestion = f"Drawing them evenly takes the IoU-balanced sampler. {_RPN_LOSS}"
        return text, gauge, Advice(LOOK, headline, suggestion)
    lines = (f"{key}.type=iou_balanced", f"{key}.instance_balanced=true")
    return text, gauge, Advice(ACT, headline, "Draw them evenly over the objects.", lines)


def _more(gain: float) -> str:
    number = f"{100 * abs(gain):.0f}"
    picks = "pick" if number == "1" else "picks"
    return f"{number} {'fewer' if gain < 0 else 'more'} {picks} in 100"
