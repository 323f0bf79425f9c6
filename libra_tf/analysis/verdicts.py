"""What the numbers mean, in words: the finding with its number, what to change, the config line.

A verdict says what is unbalanced. Whether less imbalance makes a better detector is for training to
show; nothing is claimed here.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

# Differences below these could disappear with a few more batches.
_MUCH = 0.10
_LITTLE = 0.05
# The shares of two levels, or the norms of two losses, are unequal if they differ by more.
_UNEQUAL = 3.0
_POOR_LEVEL = 2.0
_STARVED = 0.5
# Of the positives that a sampler wants.
_FEW_POSITIVES = 0.1
_IDLE_REFINEMENT = 0.02
_FEW_OUTLIERS = 0.01
_DOMINANT_OUTLIERS = 0.5
_FLAT_ATTENTION = 0.95

FINE, LOOK, ACT = "balanced", "worth a look", "unbalanced"
_BY_URGENCY = (ACT, LOOK, FINE)

NOUNS = {"proposals": "proposals", "rpn_anchors": "RPN anchors", "anchors": "anchors"}
_SAMPLER_KEYS = {"proposals": "task.model.roi_sampler", "rpn_anchors": "task.model.rpn_sampler"}
_SAMPLED = {
    "random": "random sampling",
    "iou_balanced": "IoU-balanced sampling",
    "mmdet": "IoU-balanced sampling with MMDetection's bins",
}
_BALANCED_PYRAMID = "task.model.decoder.type=libra_fpn"
_REFINE_TYPE = "task.model.decoder.libra_fpn.refine_type"


@dataclasses.dataclass(frozen=True)
class Gauge:
    """The number that decides a verdict, and the value at which the verdict changes.

    Attributes:
      label: what the number is.
      value: the number.
      threshold: where the verdict changes.
      is_share: whether both are shares, to be written in percent.
    """

    label: str
    value: float
    threshold: float
    is_share: bool = True


@dataclasses.dataclass(frozen=True)
class Verdict:
    """One finding.

    Attributes:
      level: `samples`, `features` or `objective`.
      state: `FINE`, `LOOK` or `ACT`.
      title: what it is about.
      headline: the finding in one sentence of at most fifteen words.
      gauge: the number that decides; None where no single number does.
      text: the finding, with its numbers.
      suggestion: what to change, or why nothing.
      config: the lines for `--params_override` or a config file that make the change; empty for
        none.
    """

    level: str
    state: str
    title: str
    headline: str
    gauge: Gauge | None
    text: str
    suggestion: str
    config: tuple[str, ...] = ()


class _Advice(NamedTuple):
    """What follows from a finding; the attributes are those of `Verdict`."""

    state: str
    headline: str
    suggestion: str = "Nothing to change."
    config: tuple[str, ...] = ()


def judge(numbers: Mapping[str, Any]) -> list[Verdict]:
    """Judges a run.

    Args:
      numbers: the numbers of a `libra_tf.analysis.collect.Analysis`.

    Returns:
      The verdicts, the most urgent first; equally urgent ones in the order of the three levels.
      What cannot be judged is left out.
    """
    settings = numbers["settings"]
    verdicts = []
    for kind, measured in numbers["samples"].items():
        verdicts += [
            _hard_negatives(kind, measured, settings),
            _starved_bins(kind, measured, settings),
            _positives(kind, measured, settings),
        ]
    features = numbers["features"]
    verdicts += [_levels(features), _ranks(features), _refinement(features)]
    verdicts += [_losses(numbers), _outliers(numbers)]
    found = [verdict for verdict in verdicts if verdict is not None]
    return sorted(found, key=lambda verdict: _BY_URGENCY.index(verdict.state))


def summarise(verdicts: Sequence[Verdict]) -> str:
    """Returns how many of a run's verdicts ask for something, in one sentence.

    Args:
      verdicts: of a run.
    """
    states = [verdict.state for verdict in verdicts]
    bad, doubtful = states.count(ACT), states.count(LOOK)
    text = f"{bad or 'None'} of {len(states)} {'need' if bad > 1 else 'needs'} attention"
    if doubtful:
        text += f", {doubtful} {'are' if doubtful > 1 else 'is'} worth a look"
    return f"{text}."


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


def _verdict(level: str, title: str, gauge: Gauge | None, text: str, advice: _Advice) -> Verdict:
    return Verdict(
        level,
        advice.state,
        title,
        advice.headline,
        gauge,
        text,
        advice.suggestion,
        advice.config,
    )


def _hard_negatives(
    kind: str, measured: Mapping[str, Any], settings: Mapping[str, Any]
) -> Verdict | None:
    shares = {name: of_pick["hard_share"] for name, of_pick in measured["picks"].items()}
    if shares["random"] is None or shares["hardest"] is None:
        return None
    current = current_sampling(kind, settings)
    text = (
        f"{_percent(shares['hardest'])} of the negatives with the largest loss have an IoU above "
        f"0.05 with an object, compared with {_percent(shares['negatives'])} of all negatives. "
    )
    if current is None:
        text += "This detector does not sample: the focal loss weights all anchors."
        advice = _unsampled_advice(shares)
    else:
        text += (
            f"Of what random sampling picks, {_percent(shares['random'])} are such hard negatives; "
            f"of what IoU-balanced sampling picks, {_percent(shares['iou_balanced'])}, or "
            f"{_percent(shares['mmdet'])} with MMDetection's bins. This run uses "
            f"{_SAMPLED[current]}."
        )
        advice = _sampling_advice(_SAMPLER_KEYS[kind], current, shares)
    title = f"Hard negatives among the {NOUNS[kind]}"
    return _verdict("samples", title, _hardness_gauge(current, shares), text, advice)


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
        if missed < _LITTLE:
            return Gauge("more hard ones among the largest losses than picked", missed, _LITTLE)
        return Gauge("more hard picks if balanced", balanced - shares["random"], _MUCH)
    if current == "mmdet":
        return Gauge("more hard picks with the paper's bins", balanced - shares["mmdet"], _LITTLE)
    label = "more hard picks than hard ones among the largest losses"
    return Gauge(label, balanced - shares["hardest"], _MUCH)


def _unsampled_advice(shares: Mapping[str, float]) -> _Advice:
    suggestion = "Nothing to change: there is no sampler to balance."
    if shares["hardest"] >= shares["negatives"]:
        headline = "The negatives with the largest loss are at least as hard as the rest."
        return _Advice(FINE, headline, suggestion)
    headline = "The negatives with the largest loss are easier than the rest."
    return _Advice(LOOK, headline, suggestion)


def _sampling_advice(key: str, current: str, shares: Mapping[str, float]) -> _Advice:
    """Advises on a sampler.

    Args:
      key: the config key of the sampler.
      current: how it samples, see `current_sampling`.
      shares: share of hard negatives by way of sampling.
    """
    if current == "random":
        return _balancing_advice(key, shares)
    gain = shares[current] - shares["random"]
    if current == "mmdet" and shares["iou_balanced"] - shares["mmdet"] >= _LITTLE:
        return _Advice(
            LOOK,
            "MMDetection's bins miss hard negatives that the paper's bins would find.",
            "Bins that end where the negatives end would find more of them.",
            (f"{key}.bin_range=candidates",),
        )
    if current == "iou_balanced" and shares["iou_balanced"] - shares["hardest"] > _MUCH:
        easy = 1 - shares["hardest"]
        return _Advice(
            LOOK,
            "The sampler picks too many hard negatives and too few easy ones.",
            "The sampler picks more hard negatives than there are among the detector's worst "
            "mistakes, at the expense of easy negatives that the detector still gets wrong. Draw "
            "part of the sample from those.",
            (f"{key}.floor_threshold=0.05", f"{key}.floor_fraction={easy:.2f}"),
        )
    if gain < _LITTLE:
        return _Advice(
            FINE,
            "Balancing hardly changes how many hard negatives are picked.",
            f"Balancing makes {_more(gain)} hard here: expect little effect, good or bad.",
        )
    return _Advice(FINE, f"Balancing makes {_more(gain)} hard.")


def _balancing_advice(key: str, shares: Mapping[str, float]) -> _Advice:
    """Advises on a sampler that draws at random; for the arguments see `_sampling_advice`."""
    gain = shares["iou_balanced"] - shares["random"]
    would_make = f"IoU-balanced sampling would make {_more(gain)} hard"
    if gain < _MUCH or shares["hardest"] - shares["random"] < _LITTLE:
        return _Advice(
            FINE,
            "Random sampling is enough here: balancing has little to gain.",
            f"{would_make}: little to gain.",
        )
    return _Advice(
        ACT,
        f"{would_make}.",
        "Balance the sampler. Check the report again after training with it: there may then be "
        "too few easy negatives.",
        (f"{key}.type=iou_balanced",),
    )


def _starved_bins(
    kind: str, measured: Mapping[str, Any], settings: Mapping[str, Any]
) -> Verdict | None:
    current = current_sampling(kind, settings)
    # Only IoU-balanced sampling draws from bins.
    if current not in ("iou_balanced", "mmdet"):
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
        f"{_percent(starved[worst])} of the images; the shortfall is filled at random."
    )
    if starved[worst] >= _STARVED:
        headline = f"Bin {worst + 1} lacks negatives in {_percent(starved[worst])} of the images."
        advice = _Advice(ACT, headline, *_bins_advice(kind, bin_range, settings))
    else:
        advice = _Advice(FINE, "Every bin holds enough negatives in most images.")
    gauge = Gauge(f"images in which bin {worst + 1} starves", starved[worst], _STARVED)
    return _verdict("samples", f"Starved bins of the {NOUNS[kind]}", gauge, text, advice)


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
    gauge = Gauge("objects without a positive", without, _LITTLE)
    if without > _LITTLE:
        text += f", and {_percent(without)} of the objects have none."
        advice = _missing_advice(without, settings)
    elif not is_sampled(kind):
        text += ". This detector does not sample: it learns from all of them."
        advice = _Advice(FINE, "Nearly every object has a positive, and all positives are used.")
    elif positives["per_image"] <= wanted:
        text += f". The sampler wants {wanted:.0f} positives and takes nearly all there are."
        advice = _shortage_advice(kind, positives["per_image"], wanted, settings)
        gauge = Gauge(
            "positives found of those wanted", positives["per_image"] / wanted, _FEW_POSITIVES
        )
    else:
        more, gauge, advice = _surplus(_SAMPLER_KEYS[kind], positives, settings)
        text += more
    return _verdict("samples", f"Positives per object among the {NOUNS[kind]}", gauge, text, advice)


def _missing_advice(without: float, settings: Mapping[str, Any]) -> _Advice:
    return _Advice(
        ACT,
        f"{_percent(without)} of the objects have no positive.",
        "Objects without a positive are never learnt: add anchors of their size.",
        (_more_anchors(settings),),
    )


def _shortage_advice(
    kind: str, present: float, wanted: float, settings: Mapping[str, Any]
) -> _Advice:
    """Advises on a sampler that takes all positives there are.

    Args:
      kind: the kind of candidates, a key of `NOUNS`.
      present: positives of an image.
      wanted: the most that are sampled from an image.
      settings: of the run, by config key.
    """
    if present >= _FEW_POSITIVES * wanted:
        headline = "Nearly all positives are used, so there is nothing to balance."
        return _Advice(FINE, headline)
    headline = f"The sampler wants {wanted:.0f} positives per image and finds {present:.1f}."
    if kind == "rpn_anchors":
        suggestion = (
            "The rest of the RPN's sample is background. More anchors per position give an object "
            "more positives."
        )
        return _Advice(LOOK, headline, suggestion, (_more_anchors(settings),))
    suggestion = (
        "The rest of the detection head's sample is background. An RPN that has learnt little "
        "proposes few objects: train longer, then look at the RPN's anchors."
    )
    return _Advice(LOOK, headline, suggestion)


def _more_anchors(settings: Mapping[str, Any]) -> str:
    return f"task.model.anchor.num_scales={settings['task.model.anchor.num_scales'] + 1}"


def _surplus(
    key: str, positives: Mapping[str, Any], settings: Mapping[str, Any]
) -> tuple[str, Gauge | None, _Advice]:
    """Judges how a sampler draws from more positives than it wants.

    Args:
      key: the config key of the sampler.
      positives: the numbers of its positives.
      settings: of the run, by config key.

    Returns:
      The end of the verdict's text, its gauge and what follows.
    """
    before, after = (
        positives[name]["variation"] or 0.0 for name in ("random", "instance_balanced")
    )
    text = (
        f"; {positives['wanted_per_image']:.0f} of them are used. If they are drawn at random, the "
        f"number per object varies by {_percent(before)} of its mean; if they are drawn evenly "
        f"over the objects, by {_percent(after)}."
    )
    if settings[f"{key}.type"] != "random" and settings[f"{key}.instance_balanced"]:
        return text, None, _Advice(FINE, "The positives are drawn evenly over the objects.")
    gauge = Gauge("less variation if drawn evenly", before - after, _MUCH)
    if gauge.value <= _MUCH:
        return text, gauge, _Advice(FINE, "Drawing the positives evenly would change little.")
    advice = _Advice(
        ACT,
        "Some objects get far more positives than others.",
        "Draw them evenly over the objects.",
        (f"{key}.type=iou_balanced", f"{key}.instance_balanced=true"),
    )
    return text, gauge, advice


def _levels(features: Mapping[str, Any]) -> Verdict:
    shares = dict(zip(features["levels"], features["share"], strict=True))
    largest, smallest = max(shares, key=shares.get), min(shares, key=shares.get)
    text = (
        f"P{largest} contributes {_percent(shares[largest])} of the integrated map and P{smallest} "
        f"{_percent(shares[smallest])}; equal shares would be {_percent(1 / len(shares))}."
    )
    if not features["is_balanced"]:
        text += " This run has a plain FPN: these are the levels that would be integrated."
    label = f"share of P{largest}, as a multiple of that of P{smallest}"
    gauge = _multiple(label, shares[largest], shares[smallest], _UNEQUAL)
    if gauge and gauge.value <= _UNEQUAL:
        advice = _Advice(FINE, "No level outweighs another by far in the integrated map.")
    elif features["is_balanced"]:
        advice = _Advice(
            LOOK,
            f"P{largest} dominates what every level receives.",
            f"What every level receives is mostly P{largest}; integrate at that level instead.",
            (f"task.model.decoder.libra_fpn.refine_level={largest}",),
        )
    else:
        advice = _Advice(
            ACT,
            f"P{largest} outweighs P{smallest} by far.",
            "No level sees much of the others. The balanced pyramid adds the mean of all levels "
            "to each.",
            (_BALANCED_PYRAMID,),
        )
    return _verdict("features", "Levels of the pyramid", gauge, text, advice)


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
        gauge = _multiple(label, after, before[poorest], 1 - _MUCH)
        advice = _integration_advice(poorest, after < before[poorest] * (1 - _MUCH))
    else:
        text += "."
        label = f"rank of the richest level, as a multiple of that of P{poorest}"
        gauge = _multiple(label, richest, before[poorest], _POOR_LEVEL)
        advice = _plain_pyramid_advice(poorest, before[poorest] * _POOR_LEVEL < richest)
    return _verdict("features", "Effective rank of the features", gauge, text, advice)


def _integration_advice(poorest: str, is_poorer: bool) -> _Advice:
    if not is_poorer:
        return _Advice(
            FINE,
            f"The balanced pyramid leaves P{poorest}, the poorest level, about as rich or richer.",
        )
    return _Advice(
        LOOK,
        f"The balanced pyramid makes the features of P{poorest} poorer.",
        "Integration makes the features poorer here. Try it without refinement.",
        (f"{_REFINE_TYPE}=null",),
    )


def _plain_pyramid_advice(poorest: str, is_poor: bool) -> _Advice:
    if not is_poor:
        return _Advice(FINE, "No level has much poorer features than the others.")
    return _Advice(
        ACT,
        f"The features of P{poorest} are much poorer than those of other levels.",
        "The balanced pyramid would give the poor level what the others have.",
        (_BALANCED_PYRAMID,),
    )


def _refinement(features: Mapping[str, Any]) -> Verdict | None:
    change = features["refinement_change"]
    if change is None:
        return None
    text = f"The refinement changes the integrated map by {_percent(change)} of its norm."
    attention = features["attention"]
    gauge = Gauge("change of the integrated map", change, _IDLE_REFINEMENT)
    advice = _Advice(FINE, "The refinement changes the integrated map.")
    if change < _IDLE_REFINEMENT:
        advice = _Advice(
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
    return _verdict("features", "Refinement of the integrated map", gauge, text, advice)


def _attention_advice(entropy: float) -> _Advice:
    if entropy <= _FLAT_ATTENTION:
        return _Advice(FINE, "The refinement works, and its attention is selective.")
    return _Advice(
        LOOK,
        "The attention does not select: it takes everything equally.",
        "A convolution can do that without attention.",
        (f"{_REFINE_TYPE}=conv",),
    )


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
    gauge = Gauge(label, max(ratio, 1 / ratio), _UNEQUAL, is_share=False)
    if gauge.value <= _UNEQUAL:
        advice = _Advice(
            FINE, "Neither classification nor localisation dominates the shared layers."
        )
    else:
        advice = _Advice(
            ACT,
            f"The shared layers learn little about {weak}.",
            f"A weight of {weight * ratio:.3g} would make the two norms equal on these images. "
            "Start halfway to it.",
            (f"{key}={weight * (1 + ratio) / 2:.3g}",),
        )
    return _verdict("objective", "Classification versus localisation", gauge, text, advice)


def _outliers(numbers: Mapping[str, Any]) -> Verdict | None:
    loss = "frcnn_box" if numbers["kind"] == "two_stage" else "box"
    measured = numbers["objective"]["box_errors"].get(loss)
    if not measured or measured["inlier_gradient_share"] is None:
        return None
    outliers = 1 - measured["inlier_count_share"]
    of_gradient = 1 - measured["inlier_gradient_share"]
    text = (
        f"{_percent(outliers)} of the coordinates are outliers (an error of {measured['beta']:.3g} "
        f"or more), and {_percent(of_gradient)} of the gradient of the box loss comes from them."
    )
    ratio = measured["inlier_over_outlier"]
    if ratio is not None:
        text += f" The gradient of an inlier is {_percent(ratio)} of that of an outlier on average."
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
    return _verdict("objective", "Inliers and outliers of the box errors", gauge, text, advice)


def _knee_advice(knee: float, settings: Mapping[str, Any]) -> _Advice:
    """Advises on a loss that meets next to no outliers.

    Args:
      knee: the size that nine in ten errors are below.
      settings: of the run, by config key.
    """
    suggestion = f"There is nothing to balance: nine in ten errors are below {knee:.3g}. "
    if settings["task.losses.box_loss"] != "balanced_l1":
        suggestion += "Balanced L1 would only act as a larger weight on the box loss."
        return _Advice(FINE, "There are next to no outliers to balance.", suggestion)
    suggestion += (
        "With its knee far above the errors, balanced L1 only acts as a larger weight on the box "
        "loss. Move the knee to where the errors are."
    )
    headline = "The knee of balanced L1 lies far above the errors."
    return _Advice(LOOK, headline, suggestion, (f"task.losses.balanced_l1.beta={knee:.2g}",))


def _most_from_outliers(outliers: float, settings: Mapping[str, Any]) -> float:
    """Returns the share of the gradient from which outliers have too much of it.

    Args:
      outliers: their share of the coordinates.
      settings: of the run, by config key.
    """
    if settings["task.losses.box_loss"] == "balanced_l1":
        return _DOMINANT_OUTLIERS
    return max(2 * outliers, _MUCH)


def _outlier_advice(gauge: Gauge, settings: Mapping[str, Any]) -> _Advice:
    """Advises on a loss that meets outliers.

    Args:
      gauge: their share of the gradient, and where it is too much.
      settings: of the run, by config key.
    """
    if gauge.value <= gauge.threshold:
        return _Advice(FINE, "Outliers do not dominate the gradient of the box loss.")
    headline = f"{_percent(gauge.value)} of the box loss's gradient comes from outliers."
    if settings["task.losses.box_loss"] == "balanced_l1":
        alpha = settings["task.losses.balanced_l1"]["alpha"]
        suggestion = "Outliers still dominate. A smaller alpha raises the gradient of inliers."
        line = f"task.losses.balanced_l1.alpha={alpha / 2:.2g}"
        return _Advice(ACT, headline, suggestion, (line,))
    lines = ("task.losses.box_loss=balanced_l1",)
    if "task.losses.box_loss_weight" in settings:
        # RetinaNet's Huber loss, with its knee at 0.1, has 50.
        lines += ("task.losses.box_loss_weight=4",)
    suggestion = "Balanced L1 raises the gradient of accurate boxes and limits that of the others."
    return _Advice(ACT, headline, suggestion, lines)


def _multiple(label: str, value: float, unit: float, threshold: float) -> Gauge | None:
    """Returns the gauge of `value / unit`; None where there is nothing to divide by."""
    return Gauge(label, value / unit, threshold, is_share=False) if unit > 0 else None


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if abs(share) >= 0.095 or share == 0 else f"{100 * share:.1f} %"


def _more(gain: float) -> str:
    return f"{100 * abs(gain):.0f} {'fewer' if gain < 0 else 'more'} picks in 100"
