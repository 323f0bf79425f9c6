"""Verdicts on what is sampled: hard negatives, starved bins, positives of each object."""

import dataclasses
from collections.abc import Callable, Mapping
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

# In a random sample, about the fewest more hard picks with which `benchmarks/dials.py` saw a gain.
_WORTHWHILE = 0.01
# The numbers are in docs/when.md and docs/results.md.
_RISE = "It gained in 26 of 33 small trainings of Faster R-CNN."
_RPN_LOSS = "IoU-balanced sampling in the RPN lowered average precision in 3 of 3 small trainings."

_SAMPLED = {
    "random": "random sampling",
    "iou_balanced": "IoU-balanced sampling",
    "mmdet": "IoU-balanced sampling with MMDetection's bins",
}


@dataclasses.dataclass(frozen=True)
class _Kind:
    """A kind of candidates.

    Attributes:
      noun: what the page calls them.
      sampler: the config key of their sampler; None if the detector learns from all of them.
      may_balance: whether balancing their sampler is advised. It is not where trainings lost by it.
      few_positives: the share of the positives that their sampler wants, below which there are few.
      few: returns what to do about few positives, and the config lines for it.
    """

    noun: str
    sampler: str | None = None
    may_balance: bool = True
    few_positives: float = 0.1
    few: Callable[["_Candidates"], tuple[str, tuple[str, ...]]] | None = None


@dataclasses.dataclass(frozen=True)
class _Candidates:
    """The candidates of a run that a verdict is about.

    Attributes:
      kind: what they are.
      measured: their numbers.
      settings: of the run, by config key.
    """

    kind: _Kind
    measured: Mapping[str, Any]
    settings: Mapping[str, Any]

    @property
    def sampling(self) -> str | None:
        """How they are sampled; see `current_sampling`."""
        return _sampling(self.kind.sampler, self.settings)

    def setting(self, name: str) -> Any:
        """Returns a setting of their sampler."""
        return self.settings[f"{self.kind.sampler}.{name}"]

    def line(self, name: str, value: Any) -> str:
        """Returns the config line that changes a setting of their sampler."""
        return f"{self.kind.sampler}.{name}={value}"


def _few_proposals(of: _Candidates) -> tuple[str, tuple[str, ...]]:
    suggestion = (
        "The class loss is a mean over a sample that is mostly background, so the detection head "
        "learns slowly. An RPN that has learnt little proposes few objects: train longer, or "
        "sample fewer RoIs. What that does was not measured."
    )
    return suggestion, (of.line("num_sampled_rois", of.measured["num_samples"] // 2),)


def _few_rpn_anchors(of: _Candidates) -> tuple[str, tuple[str, ...]]:
    suggestion = (
        "The rest of the RPN's sample is background. More anchors per position give an object more "
        "positives."
    )
    return suggestion, (_more_anchors(of.settings),)


_KINDS = {
    "proposals": _Kind(
        "proposals", "task.model.roi_sampler", few_positives=1 / 3, few=_few_proposals
    ),
    "rpn_anchors": _Kind(
        "RPN anchors", "task.model.rpn_sampler", may_balance=False, few=_few_rpn_anchors
    ),
    "anchors": _Kind("anchors"),
}
NOUNS = {name: kind.noun for name, kind in _KINDS.items()}


def judge(numbers: Mapping[str, Any]) -> list[Verdict | None]:
    """Judges the candidates of each kind.

    Args:
      numbers: see `libra_tf.analysis.verdicts.judge`.

    Returns:
      The verdicts; None for what cannot be judged.
    """
    return [
        judge_candidates(_Candidates(_KINDS[name], measured, numbers["settings"]))
        for name, measured in numbers["samples"].items()
        for judge_candidates in (_hard_negatives, _starved_bins, _positives)
    ]


def is_sampled(kind: str) -> bool:
    """Returns whether a detector samples from candidates of a kind.

    Args:
      kind: a key of `NOUNS`.
    """
    return _KINDS[kind].sampler is not None


def current_sampling(kind: str, settings: Mapping[str, Any]) -> str | None:
    """Returns how a run samples its negatives.

    Args:
      kind: the kind of candidates, a key of `NOUNS`.
      settings: of the run, by config key.

    Returns:
      One of `samples.PICKS`; None if the run does not sample such candidates.
    """
    return _sampling(_KINDS[kind].sampler, settings)


def _sampling(sampler: str | None, settings: Mapping[str, Any]) -> str | None:
    if sampler is None:
        return None
    if settings[f"{sampler}.type"] == "random":
        return "random"
    return "mmdet" if settings[f"{sampler}.bin_range"] == "all" else "iou_balanced"


def _hard_negatives(of: _Candidates) -> Verdict | None:
    shares = {name: of_pick["hard_share"] for name, of_pick in of.measured["picks"].items()}
    if shares["random"] is None or shares["hardest"] is None:
        return None
    text = (
        f"{percent(shares['hardest'])} of the negatives with the largest loss have an IoU above "
        f"0.05 with an object, compared with {percent(shares['negatives'])} of all negatives. "
    )
    if of.sampling is None:
        text += "This detector does not sample: the focal loss weights all anchors."
    else:
        text += (
            f"Of what random sampling picks, {percent(shares['random'])} are such hard negatives; "
            f"of what IoU-balanced sampling picks, {percent(shares['iou_balanced'])}, or "
            f"{percent(shares['mmdet'])} with MMDetection's bins. This run uses "
            f"{_SAMPLED[of.sampling]}."
        )
    gauge, advice = _hardness(of, shares)
    title = f"Hard negatives among the {of.kind.noun}"
    return make_verdict("samples", title, gauge, text, advice)


def _hardness(of: _Candidates, shares: Mapping[str, float]) -> tuple[Gauge | None, Advice]:
    """Judges the hard negatives by the number that decides, which depends on how a run samples.

    Args:
      of: the candidates.
      shares: share of hard negatives by way of sampling.

    Returns:
      The gauge, None where no number decides, and what follows.
    """
    if of.sampling is None:
        return _without_sampler(shares)
    if not of.kind.may_balance:
        # What was measured decides.
        return None, _rpn_advice(of)
    judge_sampling = {
        "random": _sampled_at_random,
        "iou_balanced": _sampled_by_iou,
        "mmdet": _sampled_as_mmdetection,
    }
    return judge_sampling[of.sampling](of, shares)


def _without_sampler(shares: Mapping[str, float]) -> tuple[Gauge, Advice]:
    gauge = Gauge("hard ones among the largest losses", shares["hardest"], shares["negatives"])
    suggestion = "Nothing to change: there is no sampler to balance."
    if gauge.value >= gauge.threshold:
        headline = "The negatives with the largest loss are at least as hard as the rest."
        return gauge, Advice(FINE, headline, suggestion)
    headline = "The negatives with the largest loss are easier than the rest."
    return gauge, Advice(LOOK, headline, suggestion)


def _rpn_advice(of: _Candidates) -> Advice:
    if of.sampling == "random":
        return Advice(
            FINE, "The RPN samples at random, as that of the published models.", _RPN_LOSS
        )
    headline = "The RPN samples by IoU, and not at random."
    return Advice(LOOK, headline, f"Sample at random. {_RPN_LOSS}", (of.line("type", "random"),))


def _sampled_at_random(of: _Candidates, shares: Mapping[str, float]) -> tuple[Gauge, Advice]:
    gain = shares["iou_balanced"] - shares["random"]
    missed = shares["hardest"] - shares["random"]
    if missed < LITTLE:
        gauge = Gauge("more hard ones among the largest losses than picked", missed, LITTLE)
    else:
        gauge = Gauge("more hard picks if balanced", gain, _WORTHWHILE)
    would_make = f"IoU-balanced sampling would make {_more(gain)} hard"
    if gauge.value < gauge.threshold:
        headline = "Random sampling is enough here: balancing has little to gain."
        return gauge, Advice(FINE, headline, f"{would_make}: little to gain.")
    suggestion = (
        f"Balance the sampler. {_RISE} Check the report again after training with it: there may "
        "then be too few easy negatives."
    )
    line = of.line("type", "iou_balanced")
    return gauge, Advice(ACT, f"{would_make}.", suggestion, (line,))


def _sampled_by_iou(of: _Candidates, shares: Mapping[str, float]) -> tuple[Gauge, Advice]:
    label = "more hard picks than hard ones among the largest losses"
    gauge = Gauge(label, shares["iou_balanced"] - shares["hardest"], MUCH)
    if gauge.value <= gauge.threshold:
        return gauge, _balanced_advice(shares["iou_balanced"] - shares["random"])
    suggestion = (
        "The sampler picks more hard negatives than there are among the detector's worst "
        "mistakes, at the expense of easy negatives that the detector still gets wrong. Draw "
        "part of the sample from those."
    )
    easy = 1 - shares["hardest"]
    lines = (of.line("floor_threshold", "0.05"), of.line("floor_fraction", f"{easy:.2f}"))
    headline = "The sampler picks too many hard negatives and too few easy ones."
    return gauge, Advice(LOOK, headline, suggestion, lines)


def _sampled_as_mmdetection(of: _Candidates, shares: Mapping[str, float]) -> tuple[Gauge, Advice]:
    missed = shares["iou_balanced"] - shares["mmdet"]
    gauge = Gauge("more hard picks with the paper's bins", missed, LITTLE)
    if gauge.value < gauge.threshold:
        return gauge, _balanced_advice(shares["mmdet"] - shares["random"])
    headline = "MMDetection's bins miss hard negatives that the paper's bins would find."
    suggestion = "Bins that end where the negatives end would find more of them."
    return gauge, Advice(LOOK, headline, suggestion, (of.line("bin_range", "candidates"),))


def _balanced_advice(gain: float) -> Advice:
    """Returns what to say of a sampler that is balanced, and well so.

    Args:
      gain: how many more picks are hard than at random, as a share.
    """
    if gain >= _WORTHWHILE:
        return Advice(FINE, f"Balancing makes {_more(gain)} hard.")
    return Advice(
        FINE,
        "Balancing hardly changes how many hard negatives are picked.",
        f"Balancing makes {_more(gain)} hard here: expect little effect, good or bad.",
    )


def _starved_bins(of: _Candidates) -> Verdict | None:
    # Only IoU-balanced sampling draws from bins.
    if of.sampling not in ("iou_balanced", "mmdet") or not of.kind.may_balance:
        return None
    bin_range = "all" if of.sampling == "mmdet" else "candidates"
    bins = of.measured["bins"][bin_range]
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
        # What more candidates or other bins do to average precision was not measured.
        advice = Advice(LOOK, headline, *_bins_advice(of))
    else:
        advice = Advice(FINE, "Every bin holds enough negatives in most images.")
    gauge = Gauge(f"images in which bin {worst + 1} starves", starved[worst], _STARVED)
    return make_verdict("samples", f"Starved bins of the {of.kind.noun}", gauge, text, advice)


def _bins_advice(of: _Candidates) -> tuple[str, tuple[str, ...]]:
    """Returns what to do about a starved bin, and the config lines for it."""
    if of.sampling == "mmdet":
        return (
            "The upper bins lie above every negative. Let the bins end where the negatives end.",
            (of.line("bin_range", "candidates"),),
        )
    number = 2 * of.settings["task.model.roi_generator.num_proposals"]
    more = f"task.model.roi_generator.num_proposals={number}"
    num_bins = of.setting("num_bins")
    if num_bins == 1:
        return "Keep more proposals.", (more,)
    return "Keep more proposals, and use fewer bins.", (more, of.line("num_bins", num_bins - 1))


def _positives(of: _Candidates) -> Verdict | None:
    positives = of.measured["positives"]
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
        advice = _missing_advice(without, of.settings)
    elif of.sampling is None:
        text += ". This detector does not sample: it learns from all of them."
        advice = Advice(FINE, "Nearly every object has a positive, and all positives are used.")
    elif positives["per_image"] <= wanted:
        text += f". The sampler wants {wanted:.0f} positives and takes nearly all there are."
        gauge, advice = _shortage(of)
    else:
        more, gauge, advice = _surplus(of)
        text += more
    return make_verdict(
        "samples", f"Positives per object among the {of.kind.noun}", gauge, text, advice
    )


def _missing_advice(without: float, settings: Mapping[str, Any]) -> Advice:
    return Advice(
        ACT,
        f"{percent(without)} of the objects have no positive.",
        "Objects without a positive are never learnt: add anchors of their size.",
        (_more_anchors(settings),),
    )


def _shortage(of: _Candidates) -> tuple[Gauge, Advice]:
    """Judges a sampler that takes all positives there are.

    Args:
      of: the candidates.

    Returns:
      The gauge and what follows.
    """
    present, wanted = (of.measured["positives"][name] for name in ("per_image", "wanted_per_image"))
    gauge = Gauge("positives found of those wanted", present / wanted, of.kind.few_positives)
    if gauge.value >= gauge.threshold:
        headline = "Nearly all positives are used, so there is nothing to balance."
        return gauge, Advice(FINE, headline)
    headline = f"The sampler wants {wanted:.0f} positives per image and finds {present:.1f}."
    return gauge, Advice(LOOK, headline, *of.kind.few(of))


def _more_anchors(settings: Mapping[str, Any]) -> str:
    return f"task.model.anchor.num_scales={settings['task.model.anchor.num_scales'] + 1}"


def _surplus(of: _Candidates) -> tuple[str, Gauge | None, Advice]:
    """Judges how a sampler draws from more positives than it wants.

    Args:
      of: the candidates.

    Returns:
      The end of the verdict's text, its gauge and what follows.
    """
    positives = of.measured["positives"]
    before, after = (
        positives[name]["variation"] or 0.0 for name in ("random", "instance_balanced")
    )
    text = (
        f"; {positives['wanted_per_image']:.0f} of them are used. If they are drawn at random, the "
        f"number per object varies by {percent(before)} of its mean; if they are drawn evenly "
        f"over the objects, by {percent(after)}."
    )
    if of.sampling != "random":
        # Over the classes, then over the objects of each. The RPN knows no classes.
        if of.settings.get(f"{of.kind.sampler}.class_balanced"):
            return text, None, Advice(FINE, "The positives are drawn evenly over the classes.")
        if of.setting("instance_balanced"):
            return text, None, Advice(FINE, "The positives are drawn evenly over the objects.")
    gauge = Gauge("less variation if drawn evenly", before - after, MUCH)
    if gauge.value <= MUCH:
        return text, gauge, Advice(FINE, "Drawing the positives evenly would change little.")
    headline = "Some objects get far more positives than others."
    if not of.kind.may_balance:
        suggestion = f"Drawing them evenly takes the IoU-balanced sampler. {_RPN_LOSS}"
        return text, gauge, Advice(LOOK, headline, suggestion)
    lines = (of.line("type", "iou_balanced"), of.line("instance_balanced", "true"))
    return text, gauge, Advice(ACT, headline, "Draw them evenly over the objects.", lines)


def _more(gain: float) -> str:
    number = f"{100 * abs(gain):.0f}"
    picks = "pick" if number == "1" else "picks"
    return f"{number} {'fewer' if gain < 0 else 'more'} {picks} in 100"
