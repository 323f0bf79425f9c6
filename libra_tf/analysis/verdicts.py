"""What the numbers mean, in words: the finding with its number, what to change, the config line.

A verdict says what is unbalanced. Whether less imbalance makes a better detector is for training to
show; nothing is claimed here.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

# Differences below these could disappear with a few more batches.
_MUCH = 0.10
_LITTLE = 0.05
# The shares of two levels, or the norms of two losses, are unequal if they differ by more.
_UNEQUAL = 3.0
_STARVED = 0.5
_IDLE_REFINEMENT = 0.02
_FEW_OUTLIERS = 0.01
_FLAT_ATTENTION = 0.95

FINE, LOOK, ACT = "balanced", "worth a look", "unbalanced"

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
class Verdict:
    """One finding.

    Attributes:
      level: `samples`, `features` or `objective`.
      state: `FINE`, `LOOK` or `ACT`.
      title: what it is about.
      text: the finding, with its numbers.
      suggestion: what to change, or why nothing.
      config: the lines for `--params_override` or a config file that make the change; empty for
        none.
    """

    level: str
    state: str
    title: str
    text: str
    suggestion: str
    config: tuple[str, ...] = ()


class _Advice(NamedTuple):
    """What follows from a finding; the attributes are those of `Verdict`."""

    state: str
    suggestion: str
    config: tuple[str, ...] = ()


_NO_CHANGE = _Advice(FINE, "Nothing to change.")


def judge(numbers: Mapping[str, Any]) -> list[Verdict]:
    """Judges a run.

    Args:
      numbers: the numbers of a `libra_tf.analysis.collect.Analysis`.

    Returns:
      The verdicts in the order of the three levels; what cannot be judged is left out.
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
    return [verdict for verdict in verdicts if verdict is not None]


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


def _verdict(level: str, title: str, text: str, advice: _Advice) -> Verdict:
    return Verdict(level, advice.state, title, text, advice.suggestion, advice.config)


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
        advice = _Advice(
            FINE if shares["hardest"] >= shares["negatives"] else LOOK,
            "Nothing to change: there is no sampler to balance.",
        )
    else:
        text += (
            f"Of what random sampling picks, {_percent(shares['random'])} are such hard negatives; "
            f"of what IoU-balanced sampling picks, {_percent(shares['iou_balanced'])}, or "
            f"{_percent(shares['mmdet'])} with MMDetection's bins. This run uses "
            f"{_SAMPLED[current]}."
        )
        advice = _sampling_advice(_SAMPLER_KEYS[kind], current, shares)
    return _verdict("samples", f"Hard negatives among the {NOUNS[kind]}", text, advice)


def _sampling_advice(key: str, current: str, shares: Mapping[str, float]) -> _Advice:
    """Advises on a sampler.

    Args:
      key: the config key of the sampler.
      current: how it samples, see `current_sampling`.
      shares: share of hard negatives by way of sampling.
    """
    gain = shares["iou_balanced"] - shares["random"]
    if current == "random":
        would_make = f"IoU-balanced sampling would make {_more(gain)} hard"
        if gain < _MUCH or shares["hardest"] - shares["random"] < _LITTLE:
            return _Advice(FINE, f"{would_make}: little to gain.")
        return _Advice(
            ACT,
            f"{would_make}. Check the report again after training with it: there may then be too "
            "few easy negatives.",
            (f"{key}.type=iou_balanced",),
        )
    if current == "mmdet" and shares["iou_balanced"] - shares["mmdet"] >= _LITTLE:
        return _Advice(
            LOOK,
            "Bins that end where the negatives end would find more of them.",
            (f"{key}.bin_range=candidates",),
        )
    if current == "iou_balanced" and shares["iou_balanced"] - shares["hardest"] > _MUCH:
        easy = 1 - shares["hardest"]
        return _Advice(
            LOOK,
            "The sampler picks more hard negatives than there are among the detector's worst "
            "mistakes, at the expense of easy negatives that the detector still gets wrong. Draw "
            "part of the sample from those.",
            (f"{key}.floor_threshold=0.05", f"{key}.floor_fraction={easy:.2f}"),
        )
    if gain < _LITTLE:
        return _Advice(
            FINE,
            f"Balancing makes {_more(gain)} hard here: expect little effect, good or bad.",
        )
    return _NO_CHANGE


def _starved_bins(
    kind: str, measured: Mapping[str, Any], settings: Mapping[str, Any]
) -> Verdict | None:
    current = current_sampling(kind, settings)
    if current is None:
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
    if current == "random":
        text += " (This run samples at random. These are the bins that balancing would use.)"
    advice = _NO_CHANGE
    if starved[worst] >= _STARVED:
        suggestion, lines = _bins_advice(kind, bin_range, measured["num_bins"], settings)
        advice = _Advice(FINE if current == "random" else ACT, suggestion, lines)
    return _verdict("samples", f"Starved bins of the {NOUNS[kind]}", text, advice)


def _bins_advice(
    kind: str, bin_range: str, num_bins: int, settings: Mapping[str, Any]
) -> tuple[str, tuple[str, ...]]:
    """Returns what to do about a starved bin, and the config lines for it."""
    key = _SAMPLER_KEYS[kind]
    if bin_range == "all":
        return (
            "The upper bins lie above every negative. Let the bins end where the negatives end.",
            (f"{key}.bin_range=candidates",),
        )
    if kind == "proposals":
        number = 2 * settings["task.model.roi_generator.num_proposals"]
        fewer = max(settings[f"{key}.num_bins"] - 1, 1)
        return (
            "Keep more proposals, or use fewer bins.",
            (f"task.model.roi_generator.num_proposals={number}", f"{key}.num_bins={fewer}"),
        )
    return "Use fewer bins.", (f"{key}.num_bins={max(num_bins - 1, 1)}",)


def _positives(
    kind: str, measured: Mapping[str, Any], settings: Mapping[str, Any]
) -> Verdict | None:
    positives = measured["positives"]
    if not positives["num_instances"]:
        return None
    without, wanted = positives["all"]["without"], positives["wanted_per_image"]
    text = (
        f"An image has {positives['per_image']:.1f} positives, {positives['all']['mean']:.1f} per "
        "object"
    )
    if without > _LITTLE:
        text += f", and {_percent(without)} of the objects have none."
        more = settings["task.model.anchor.num_scales"] + 1
        advice = _Advice(
            ACT,
            "Objects without a positive are never learnt: add anchors of their size.",
            (f"task.model.anchor.num_scales={more}",),
        )
    elif positives["per_image"] <= wanted:
        text += f". Up to {wanted:.0f} are used, so nearly all of them."
        advice = _Advice(FINE, "There is nothing to balance among them.")
    else:
        before, after = (
            positives[name]["variation"] or 0.0 for name in ("random", "instance_balanced")
        )
        text += (
            f"; {wanted:.0f} of them are used. If they are drawn at random, the number per object "
            f"varies by {_percent(before)} of its mean; if they are drawn evenly over the objects, "
            f"by {_percent(after)}."
        )
        advice = _evenness_advice(_SAMPLER_KEYS.get(kind), before - after, settings)
    return _verdict("samples", f"Positives per object among the {NOUNS[kind]}", text, advice)


def _evenness_advice(key: str | None, gain: float, settings: Mapping[str, Any]) -> _Advice:
    """Advises on drawing positives evenly over the objects.

    Args:
      key: the config key of the sampler; None if there is none.
      gain: by how much the variation shrinks.
      settings: of the run, by config key.
    """
    is_off = key and (
        settings[f"{key}.type"] == "random" or not settings[f"{key}.instance_balanced"]
    )
    if not is_off or gain <= _MUCH:
        return _NO_CHANGE
    lines = (f"{key}.type=iou_balanced", f"{key}.instance_balanced=true")
    return _Advice(ACT, "Draw them evenly over the objects.", lines)


def _levels(features: Mapping[str, Any]) -> Verdict:
    shares = dict(zip(features["levels"], features["share"], strict=True))
    largest, smallest = max(shares, key=shares.get), min(shares, key=shares.get)
    text = (
        f"P{largest} contributes {_percent(shares[largest])} of the integrated map and P{smallest} "
        f"{_percent(shares[smallest])}; equal shares would be {_percent(1 / len(shares))}."
    )
    if not features["is_balanced"]:
        text += " This run has a plain FPN: these are the levels that would be integrated."
    if shares[smallest] > 0 and shares[largest] / shares[smallest] <= _UNEQUAL:
        advice = _NO_CHANGE
    elif features["is_balanced"]:
        advice = _Advice(
            LOOK,
            f"What every level receives is mostly P{largest}; integrate at that level instead.",
            (f"task.model.decoder.libra_fpn.refine_level={largest}",),
        )
    else:
        advice = _Advice(
            ACT,
            "No level sees much of the others. The balanced pyramid adds the mean of all levels "
            "to each.",
            (_BALANCED_PYRAMID,),
        )
    return _verdict("features", "Levels of the pyramid", text, advice)


def _ranks(features: Mapping[str, Any]) -> Verdict:
    before = {level: m["effective_rank"] for level, m in features["before"].items()}
    channels = next(iter(features["before"].values()))["channels"]
    poorest, richest = min(before, key=before.get), max(before.values())
    text = (
        f"The features of the poorest level, P{poorest}, use {before[poorest]:.0f} of {channels} "
        f"directions (their effective rank), those of the richest {richest:.0f}"
    )
    advice = _NO_CHANGE
    if not features["is_balanced"]:
        text += "."
        if before[poorest] * 2 < richest:
            advice = _Advice(
                ACT,
                "The balanced pyramid would give the poor level what the others have.",
                (_BALANCED_PYRAMID,),
            )
    else:
        after = features["after"][poorest]["effective_rank"]
        text += f"; after the balanced pyramid, those of P{poorest} use {after:.0f}."
        if after < before[poorest] * (1 - _MUCH):
            advice = _Advice(
                LOOK,
                "Integration makes the features poorer here. Try it without refinement.",
                (f"{_REFINE_TYPE}=null",),
            )
    return _verdict("features", "Effective rank of the features", text, advice)


def _refinement(features: Mapping[str, Any]) -> Verdict | None:
    change = features["refinement_change"]
    if change is None:
        return None
    text = f"The refinement changes the integrated map by {_percent(change)} of its norm."
    attention = features["attention"]
    advice = _NO_CHANGE
    if change < _IDLE_REFINEMENT:
        advice = _Advice(
            LOOK,
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
        if attention["entropy"] > _FLAT_ATTENTION:
            advice = _Advice(
                LOOK,
                "It attends to everything equally. A convolution can do that without attention.",
                (f"{_REFINE_TYPE}=conv",),
            )
    return _verdict("features", "Refinement of the integrated map", text, advice)


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
    advice = _NO_CHANGE
    if not 1 / _UNEQUAL <= ratio <= _UNEQUAL:
        weak = "localisation" if ratio > 1 else "classification"
        advice = _Advice(
            ACT,
            f"The shared layers learn little about {weak}. This weight would make the two norms "
            "equal on these images; start with a value halfway to it.",
            (f"{key}={objective['weights'][boxes] * ratio:.3g}",),
        )
    return _verdict("objective", "Classification versus localisation", text, advice)


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
        advice = _knee_advice(measured["error_90_percent"], settings)
    else:
        advice = _outlier_advice(outliers, of_gradient, settings)
    return _verdict("objective", "Inliers and outliers of the box errors", text, advice)


def _knee_advice(knee: float, settings: Mapping[str, Any]) -> _Advice:
    """Advises on a loss that meets next to no outliers.

    Args:
      knee: the size that nine in ten errors are below.
      settings: of the run, by config key.
    """
    suggestion = f"There is nothing to balance: nine in ten errors are below {knee:.3g}. "
    if settings["task.losses.box_loss"] != "balanced_l1":
        suggestion += "Balanced L1 would only act as a larger weight on the box loss."
        return _Advice(FINE, suggestion)
    suggestion += (
        "With its knee far above the errors, balanced L1 only acts as a larger weight on the box "
        "loss. Move the knee to where the errors are."
    )
    return _Advice(LOOK, suggestion, (f"task.losses.balanced_l1.beta={knee:.2g}",))


def _outlier_advice(outliers: float, of_gradient: float, settings: Mapping[str, Any]) -> _Advice:
    """Advises on a loss that meets outliers.

    Args:
      outliers: their share of the coordinates.
      of_gradient: their share of the gradient.
      settings: of the run, by config key.
    """
    if settings["task.losses.box_loss"] != "balanced_l1":
        if of_gradient <= 2 * outliers or of_gradient <= _MUCH:
            return _NO_CHANGE
        lines = ("task.losses.box_loss=balanced_l1",)
        if "task.losses.box_loss_weight" in settings:
            # RetinaNet's Huber loss, with its knee at 0.1, has 50.
            lines += ("task.losses.box_loss_weight=4",)
        return _Advice(
            ACT,
            "Balanced L1 raises the gradient of accurate boxes and limits that of the others.",
            lines,
        )
    if of_gradient <= 0.5:
        return _NO_CHANGE
    alpha = settings["task.losses.balanced_l1"]["alpha"]
    return _Advice(
        ACT,
        "Outliers still dominate. A smaller alpha raises the gradient of inliers.",
        (f"task.losses.balanced_l1.alpha={alpha / 2:.2g}",),
    )


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if abs(share) >= 0.095 or share == 0 else f"{100 * share:.1f} %"


def _more(gain: float) -> str:
    return f"{100 * abs(gain):.0f} {'fewer' if gain < 0 else 'more'} picks in 100"
