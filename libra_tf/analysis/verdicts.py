"""What the numbers mean, in words: each with its number, what to change, and the config line.

A verdict says what is unbalanced. Whether less imbalance gives a better detector is for a training
to show; none is claimed here.
"""

import dataclasses
from typing import Any

# A finding below these sizes is within what another few batches would show.
_MUCH = 0.10
_LITTLE = 0.05
# Shares of one level or norms of two losses that differ by more are called unequal.
_UNEQUAL = 3.0
_STARVED = 0.5
_IDLE_REFINEMENT = 0.02
_FEW_OUTLIERS = 0.01
_FLAT_ATTENTION = 0.95

FINE, LOOK, ACT = "balanced", "worth a look", "unbalanced"


@dataclasses.dataclass(frozen=True)
class Verdict:
    """One finding.

    Attributes:
      level: `samples`, `features` or `objective`.
      state: `FINE`, `LOOK` or `ACT`.
      title: what it is about.
      text: the finding, with its numbers.
      suggestion: what to change, or why nothing.
      config: the lines for `--params_override` or a config file that change it; empty for none.
    """

    level: str
    state: str
    title: str
    text: str
    suggestion: str
    config: tuple[str, ...] = ()


def judge(numbers: dict[str, Any]) -> list[Verdict]:
    """Judges a run.

    Args:
      numbers: as `libra_tf.analysis.collect.Analysis` has them.

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


def current_sampling(kind: str, settings: dict[str, Any]) -> str | None:
    """Returns which of `samples.PICKS` the run itself uses, None where it does not sample."""
    key = _SAMPLER_KEYS.get(kind)
    if key is None:
        return None
    if settings[f"{key}.type"] == "random":
        return "random"
    return "mmdet" if settings[f"{key}.bin_range"] == "all" else "iou_balanced"


_SAMPLER_KEYS = {"proposals": "task.model.roi_sampler", "rpn_anchors": "task.model.rpn_sampler"}
_NOUNS = {"proposals": "proposals", "rpn_anchors": "RPN anchors", "anchors": "anchors"}


def _hard_negatives(kind, measured, settings):
    shares = {name: of_pick["hard_share"] for name, of_pick in measured["picks"].items()}
    if shares["random"] is None or shares["hardest"] is None:
        return None
    current = current_sampling(kind, settings)
    title = f"Hard negatives among the {_NOUNS[kind]}"
    known = (
        f"{_percent(shares['hardest'])} of the negatives with the largest loss have an IoU above "
        f"0.05 with an object, as have {_percent(shares['negatives'])} of all negatives. "
    )
    if current is None:
        text = known + "This detector does not sample: the focal loss weighs all anchors."
        state = FINE if shares["hardest"] >= shares["negatives"] else LOOK
        suggestion = "Nothing to change: there is no sampler to balance."
        return Verdict("samples", state, title, text, suggestion)
    key = _SAMPLER_KEYS[kind]
    text = known + (
        f"Random sampling takes {_percent(shares['random'])} of such hard negatives, IoU-balanced "
        f"sampling {_percent(shares['iou_balanced'])}, with MMDetection's bins "
        f"{_percent(shares['mmdet'])}; this run samples {_WORDS[current]}."
    )
    gain = shares["iou_balanced"] - shares["random"]
    excess = shares["iou_balanced"] - shares["hardest"]
    if current == "random":
        if gain < _MUCH or shares["hardest"] - shares["random"] < _LITTLE:
            suggestion = (
                f"IoU-balanced sampling would move {_points(gain)} of the picks: little to win."
            )
            return Verdict("samples", FINE, title, text, suggestion)
        suggestion = (
            f"IoU-balanced sampling would move {_points(gain)} of the picks to hard ones. Look at "
            "the report again after training with it: easy negatives may be short then."
        )
        return Verdict("samples", ACT, title, text, suggestion, (f"{key}.type=iou_balanced",))
    if current == "mmdet" and shares["iou_balanced"] - shares["mmdet"] >= _LITTLE:
        suggestion = "Bins over the negatives' own range would find more of them."
        return Verdict("samples", LOOK, title, text, suggestion, (f"{key}.bin_range=candidates",))
    if current == "iou_balanced" and excess > _MUCH:
        easy = 1 - shares["hardest"]
        suggestion = (
            "It takes more of them than there are among the detector's worst mistakes, at the "
            "cost of easy negatives that it still gets wrong. Let a part be drawn from these."
        )
        lines = (f"{key}.floor_threshold=0.05", f"{key}.floor_fraction={easy:.2f}")
        return Verdict("samples", LOOK, title, text, suggestion, lines)
    if gain < _LITTLE:
        suggestion = (
            f"Balancing moves only {_points(gain)} of the picks here: expect little of it, and do "
            "not blame it either."
        )
        return Verdict("samples", FINE, title, text, suggestion)
    return Verdict("samples", FINE, title, text, "Nothing to change.")


_WORDS = {
    "random": "at random",
    "iou_balanced": "IoU-balanced",
    "mmdet": "IoU-balanced with MMDetection's bins",
}


def _starved_bins(kind, measured, settings):
    current = current_sampling(kind, settings)
    if current is None:
        return None
    bin_range = "all" if current == "mmdet" else "candidates"
    bins = measured["bins"][bin_range]
    if not bins["starved"]:
        return None
    starved = bins["starved"]
    worst = max(range(len(starved)), key=starved.__getitem__)
    title = f"Starved bins of the {_NOUNS[kind]}"
    text = (
        f"Each of the {len(starved)} IoU bins is to give {bins['wanted']:.1f} negatives an image. "
        f"Bin {worst + 1} holds {bins['held'][worst]:.1f} on average and too few in "
        f"{_percent(starved[worst])} of the images; the rest comes at random."
    )
    if current == "random":
        text += " (This run samples at random: it is what balancing would meet.)"
    if starved[worst] < _STARVED:
        return Verdict("samples", FINE, title, text, "Nothing to change.")
    key = _SAMPLER_KEYS[kind]
    if bin_range == "all":
        suggestion = "The upper bins lie above every negative. End them where negatives end."
        lines = (f"{key}.bin_range=candidates",)
    elif kind == "proposals":
        suggestion = "Keep more proposals, or divide the range into fewer bins."
        number = 2 * settings["task.model.roi_generator.num_proposals"]
        fewer = max(settings[f"{key}.num_bins"] - 1, 1)
        lines = (
            f"task.model.roi_generator.num_proposals={number}",
            f"{key}.num_bins={fewer}",
        )
    else:
        suggestion = "Divide the range into fewer bins."
        lines = (f"{key}.num_bins={max(measured['num_bins'] - 1, 1)}",)
    state = FINE if current == "random" else ACT
    return Verdict("samples", state, title, text, suggestion, lines)


def _positives(kind, measured, settings):
    positives = measured["positives"]
    if not positives["num_instances"]:
        return None
    title = f"Positives of each object among the {_NOUNS[kind]}"
    without = positives["all"]["without"]
    text = (
        f"An image has {positives['per_image']:.1f} positives, {positives['all']['mean']:.1f} for "
        f"each object"
    )
    if without > _LITTLE:
        text += f", and {_percent(without)} of the objects have none."
        suggestion = "Objects without a positive are never learnt: add anchors of their size."
        more = settings["task.model.anchor.num_scales"] + 1
        lines = (f"task.model.anchor.num_scales={more}",)
        return Verdict("samples", ACT, title, text, suggestion, lines)
    wanted = positives["wanted_per_image"]
    if positives["per_image"] <= wanted:
        text += f". {wanted:.0f} are wanted, so that nearly all are taken."
        return Verdict("samples", FINE, title, text, "There is nothing to balance among them.")
    before, after = (
        positives[name]["variation"] or 0.0 for name in ("random", "instance_balanced")
    )
    text += (
        f"; {wanted:.0f} are wanted. Drawn at random, the number of an object varies by "
        f"{_percent(before)} of its mean, drawn evenly over the objects by {_percent(after)}."
    )
    key = _SAMPLER_KEYS.get(kind)
    is_off = key and (
        settings[f"{key}.type"] == "random" or not settings[f"{key}.instance_balanced"]
    )
    if is_off and before - after > _MUCH:
        lines = (f"{key}.type=iou_balanced", f"{key}.instance_balanced=true")
        return Verdict("samples", ACT, title, text, "Draw them evenly.", lines)
    return Verdict("samples", FINE, title, text, "Nothing to change.")


def _levels(features):
    shares = dict(zip(features["levels"], features["share"], strict=True))
    largest, smallest = max(shares, key=shares.get), min(shares, key=shares.get)
    text = (
        f"P{largest} is {_percent(shares[largest])} of the integrated map and P{smallest} "
        f"{_percent(shares[smallest])}; {_percent(1 / len(shares))} each would be even."
    )
    title = "Levels of the pyramid"
    even = shares[smallest] > 0 and shares[largest] / shares[smallest] <= _UNEQUAL
    if not features["is_balanced"]:
        text += " This run has a plain FPN: it is what integration would start from."
        if even:
            return Verdict("features", FINE, title, text, "Nothing to change.")
        suggestion = (
            "No level sees much of the others. The balanced pyramid adds their mean to each."
        )
        lines = ("task.model.decoder.type=libra_fpn",)
        return Verdict("features", ACT, title, text, suggestion, lines)
    if even:
        return Verdict("features", FINE, title, text, "Nothing to change.")
    suggestion = f"What is given back to every level is mostly P{largest}; integrate there instead."
    lines = (f"task.model.decoder.libra_fpn.refine_level={largest}",)
    return Verdict("features", LOOK, title, text, suggestion, lines)


def _ranks(features):
    before = {level: m["effective_rank"] for level, m in features["before"].items()}
    channels = next(iter(features["before"].values()))["channels"]
    poorest = min(before, key=before.get)
    title = "Directions that the features use"
    text = (
        f"The poorest level, P{poorest}, uses {before[poorest]:.0f} of {channels} directions "
        f"(effective rank), the richest {max(before.values()):.0f}"
    )
    if not features["is_balanced"]:
        text += "."
        if before[poorest] * 2 < max(before.values()):
            suggestion = "The balanced pyramid would give the poor level what the others have."
            lines = ("task.model.decoder.type=libra_fpn",)
            return Verdict("features", ACT, title, text, suggestion, lines)
        return Verdict("features", FINE, title, text, "Nothing to change.")
    after = features["after"][poorest]["effective_rank"]
    text += f"; behind the balanced pyramid P{poorest} uses {after:.0f}."
    if after < before[poorest] * (1 - _MUCH):
        suggestion = "Integration makes the levels poorer here. Try it without refinement."
        lines = ("task.model.decoder.libra_fpn.refine_type=null",)
        return Verdict("features", LOOK, title, text, suggestion, lines)
    return Verdict("features", FINE, title, text, "Nothing to change.")


def _refinement(features):
    change = features["refinement_change"]
    if change is None:
        return None
    title = "Refinement of the integrated map"
    text = f"The refinement changes the integrated map by {_percent(change)} of its size."
    if change < _IDLE_REFINEMENT:
        suggestion = (
            "It does next to nothing, and costs time. Train longer, or leave the plain mean."
        )
        lines = ("task.model.decoder.libra_fpn.refine_type=null",)
        return Verdict("features", LOOK, title, text, suggestion, lines)
    attention = features["attention"]
    if attention is None:
        return Verdict("features", FINE, title, text, "Nothing to change.")
    text += (
        f" A position looks {attention['distance_pixels']:.0f} pixels far on average "
        f"(at everything alike: {attention['uniform_distance_pixels']:.0f}), with an entropy of "
        f"{attention['entropy']:.2f} (0: one position, 1: all alike)."
    )
    if attention["entropy"] > _FLAT_ATTENTION:
        suggestion = "It looks at everything alike, which a convolution could do without it."
        lines = ("task.model.decoder.libra_fpn.refine_type=conv",)
        return Verdict("features", LOOK, title, text, suggestion, lines)
    return Verdict("features", FINE, title, text, "Nothing to change.")


def _losses(numbers):
    objective = numbers["objective"]
    classes, boxes, key = ("cls", "box", "task.losses.box_loss_weight")
    if numbers["kind"] == "two_stage":
        classes, boxes, key = ("frcnn_cls", "frcnn_box", "task.losses.frcnn_box_weight")
    norms = {
        name: objective["gradient_norms"][name]["all"].get("shared") for name in (classes, boxes)
    }
    if not norms[classes] or not norms[boxes]:
        return None
    ratio = norms[classes] / norms[boxes]
    title = "Classification against localisation"
    text = (
        f"At the shared layers the gradient of classification has a norm of {norms[classes]:.3g}, "
        f"that of localisation {norms[boxes]:.3g}: {ratio:.2g} to 1."
    )
    if 1 / _UNEQUAL <= ratio <= _UNEQUAL:
        return Verdict("objective", FINE, title, text, "Nothing to change.")
    weight = objective["weights"][boxes] * ratio
    weak = "localisation" if ratio > 1 else "classification"
    suggestion = (
        f"The shared layers learn little of {weak}. This weight would make the two norms equal on "
        "these images; a step half-way is a start."
    )
    return Verdict("objective", ACT, title, text, suggestion, (f"{key}={weight:.3g}",))


def _outliers(numbers):
    loss = "frcnn_box" if numbers["kind"] == "two_stage" else "box"
    measured = numbers["objective"]["box_errors"].get(loss)
    if not measured or measured["inlier_gradient_share"] is None:
        return None
    outliers = 1 - measured["inlier_count_share"]
    of_gradient = 1 - measured["inlier_gradient_share"]
    title = "Inliers against outliers of the boxes"
    text = (
        f"{_percent(outliers)} of the coordinates are outliers (an error of {measured['beta']:.3g} "
        f"or more), and {_percent(of_gradient)} of the gradient of the box loss comes from them."
    )
    ratio = measured["inlier_over_outlier"]
    if ratio is not None:
        text += f" An inlier gives {_percent(ratio)} of the gradient of an outlier."
    is_balanced = numbers["settings"]["task.losses.box_loss"] == "balanced_l1"
    if outliers < _FEW_OUTLIERS:
        knee = measured["error_90_percent"]
        suggestion = f"There is nothing to balance: nine in ten errors are below {knee:.3g}. "
        if not is_balanced:
            return Verdict(
                "objective",
                FINE,
                title,
                text,
                suggestion + "Balanced L1 would act as a larger weight of the box loss alone.",
            )
        suggestion += (
            "With its knee far above the errors balanced L1 acts as a larger weight of the box "
            "loss. Put the knee among them."
        )
        lines = (f"task.losses.balanced_l1.beta={knee:.2g}",)
        return Verdict("objective", LOOK, title, text, suggestion, lines)
    if not is_balanced and of_gradient > 2 * outliers and of_gradient > _MUCH:
        suggestion = "Balanced L1 raises the gradient of accurate boxes and bounds that of others."
        lines = ("task.losses.box_loss=balanced_l1",)
        if "task.losses.box_loss_weight" in numbers["settings"]:
            # RetinaNet's Huber loss, with its knee at 0.1, has 50.
            lines += ("task.losses.box_loss_weight=4",)
        return Verdict("objective", ACT, title, text, suggestion, lines)
    if is_balanced and of_gradient > 0.5:
        alpha = numbers["settings"]["task.losses.balanced_l1"]["alpha"]
        suggestion = "Outliers still rule. A smaller alpha raises the gradient of inliers."
        lines = (f"task.losses.balanced_l1.alpha={alpha / 2:.2g}",)
        return Verdict("objective", ACT, title, text, suggestion, lines)
    return Verdict("objective", FINE, title, text, "Nothing to change.")


def _percent(share):
    return f"{100 * share:.0f} %" if abs(share) >= 0.095 or share == 0 else f"{100 * share:.1f} %"


def _points(share):
    return f"{100 * share:.0f} in 100"
