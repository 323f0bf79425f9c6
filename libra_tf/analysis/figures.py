"""The figures of each section of the page, made from the numbers of a run.

A figure comes with its subject. The figures of two runs that have the same subject can be compared,
whatever the kinds of the detectors.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from libra_tf.analysis import pictures, verdicts
from libra_tf.analysis.collect import Analysis
from libra_tf.analysis.objective import balanced_l1_slopes
from libra_tf.balance.samples import HARD_IOU
from libra_tf.pages import charts

Figure: TypeAlias = (
    charts.LineChart
    | charts.BarChart
    | charts.Table
    | pictures.BoxPicture
    | pictures.AttentionPicture
)
OnSubject: TypeAlias = tuple[str, Figure]

_PICKS = {
    "negatives": "all negatives",
    "random": "random",
    "iou_balanced": "IoU-balanced",
    "mmdet": "MMDetection's bins",
    "hardest": "largest loss",
}
_POSITIVES = {
    "all": "all positives",
    "random": "random",
    "instance_balanced": "instance-balanced",
}
# What a loss is about, where detectors have different names for the same.
_SUBJECTS = {
    "cls": "classification",
    "frcnn_cls": "classification",
    "box": "boxes",
    "frcnn_box": "boxes",
    "rpn_score": "RPN scores",
    "rpn_box": "RPN boxes",
    "mask": "masks",
}
_HARD = (HARD_IOU, "hard from here")
_IN_ORDER = "the rarest class first"
_MOST_GROUPS = 12
_MOST_BINS = 20
_SLOPES = ((0.2, 1.5), (0.5, 1.5), (1.0, 1.5))


def key_figures(numbers: dict[str, Any], levels: Sequence[str]) -> dict[str, str]:
    """Returns the numbers to compare runs by, formatted.

    Args:
      numbers: the numbers of an `Analysis`.
      levels: the pyramid levels of all runs.
    """
    written = {}
    for kind, measured in numbers["samples"].items():
        written.update(_shares_of_hard(kind, measured["picks"], numbers["settings"]))
    features = numbers["features"]
    shares = dict(zip(features["levels"], features["share"], strict=True))
    for level in levels:
        written[f"P{level} in the integrated map"] = charts.percent(shares.get(level))
    written["change made by the refinement"] = charts.percent(features["refinement_change"])
    for loss, kinds in numbers["objective"]["gradient_norms"].items():
        norm = kinds["all"].get("shared")
        written[f"gradient of {_subject(loss)}, shared layers"] = charts.number(norm)
    for loss, errors in numbers["objective"]["box_errors"].items():
        outliers, of_gradient = (
            None if errors[key] is None else 1 - errors[key]
            for key in ("inlier_count_share", "inlier_gradient_share")
        )
        written[f"outliers of {_subject(loss)}"] = charts.percent(outliers)
        written[f"gradient of {_subject(loss)} from outliers"] = charts.percent(of_gradient)
    rarest = numbers["classes"]["rarest"]
    for part in ("objects", "gradient"):
        written[f"{part} of the rarest quarter of the classes"] = charts.percent(rarest[part])
    return written


def _shares_of_hard(
    kind: str, picks: Mapping[str, Any], settings: Mapping[str, Any]
) -> dict[str, str]:
    noun = verdicts.NOUNS[kind]
    keys = {f"hard negatives, {noun}": "negatives"}
    current = verdicts.current_sampling(kind, settings)
    if current is not None:
        keys |= {
            f"hard, sampled at random, {noun}": "random",
            f"hard, IoU-balanced, {noun}": "iou_balanced",
            f"hard, as the run samples, {noun}": current,
        }
    return {key: charts.percent(picks[name]["hard_share"]) for key, name in keys.items()}


def samples(kind: str, analysis: Analysis) -> Iterator[OnSubject]:
    """Makes the charts of one kind of candidates.

    Args:
      kind: a key of `verdicts.NOUNS`.
      analysis: of a run.

    Yields:
      Each chart with its subject; none if the run has no candidates of this kind.
    """
    measured = analysis.numbers["samples"].get(kind)
    if measured is None:
        return
    picks = measured["picks"]
    yield from _iou_histograms(kind, picks, measured["bin_edges"])
    ways = ("negatives", *_ways(kind), *(["hardest"] if verdicts.is_sampled(kind) else []))
    hard = {_PICKS[name]: {"hard": picks[name]["hard_share"]} for name in ways}
    yield "hard", charts.bars("Share of hard negatives", hard, f"IoU above {HARD_IOU:g}")
    levels = {f"P{level}": of_level for level, of_level in measured["by_level"].items()}
    yield from _by_group("level", levels, kind, picks)
    yield from _by_group("class", _largest(measured["by_class"], _ways(kind)), kind, picks)
    if verdicts.is_sampled(kind):
        yield "bins", _starved_bins(measured)
    yield "positives", _positives(kind, measured["positives"])


def sample_pictures(kind: str, analysis: Analysis) -> Iterator[OnSubject]:
    """Makes the pictures of negatives, for each way of sampling that is worth a picture.

    Args:
      kind: a key of `verdicts.NOUNS`.
      analysis: of a run.

    Yields:
      Each picture with its subject; none if the run's pictures show another kind of candidates.
    """
    # They show a detector's first kind of candidates.
    if kind != next(iter(analysis.numbers["samples"])):
        return
    ways = ("random", "iou_balanced") if verdicts.is_sampled(kind) else ("hardest",)
    for index, picture in enumerate(analysis.pictures):
        for way in ways:
            number = len(picture.negatives[way][0])
            title = f"Image {index + 1}: {number} negatives, {_PICKS[way]} (dashed: objects)"
            yield f"image {index}, {way}", pictures.sampled_boxes(picture, way, title)


def features(analysis: Analysis) -> Iterator[OnSubject]:
    """Makes the figures of the feature pyramid, each with its subject."""
    measured = analysis.numbers["features"]
    levels = measured["levels"]
    shares = zip(levels, measured["share"], measured["magnitude"], strict=True)
    yield (
        "share",
        charts.bars(
            f"Share of each level in the integrated map (at P{measured['refine_level']})",
            {f"P{level}": {"share": share, "magnitude": norm} for level, share, norm in shares},
            "dashed: equal shares",
            even=1 / len(levels),
        ),
    )
    sides = [side for side in ("before", "after") if side in measured]
    for key, title, label in (
        ("variance", "Variance", "mean over the channels"),
        ("effective_rank", "Effective rank", "of the channels"),
    ):
        yield (
            key,
            charts.bars(
                f"{title} of each level before and after the pyramid",
                {f"P{k}": {side: measured[side][k][key] for side in sides} for k in levels},
                label,
                is_share=False,
            ),
        )
    if measured["attention"]:
        entropy = measured["attention"]["entropy_histogram"]
        yield (
            "entropy",
            charts.histogram(
                "Attention: entropy of a position's weights",
                entropy["edges"],
                {"positions": entropy["share"]},
                "0: a single position, 1: all equally",
            ),
        )
    if analysis.attention:
        title = "What the red point attends to (brighter: more)"
        yield "attention", pictures.attention(analysis.attention, title)


def objective(analysis: Analysis) -> Iterator[OnSubject]:
    """Makes the charts of the losses and of the errors of boxes, each with its subject."""
    measured = analysis.numbers["objective"]
    form = analysis.numbers["settings"]["task.losses.balanced_l1"]["form"]
    norms = measured["gradient_norms"]
    parts = list(dict.fromkeys(part for loss in norms.values() for part in loss["all"]))
    yield (
        "losses",
        charts.bars(
            "Gradient norm of each loss at each part",
            {part: {loss: norms[loss]["all"].get(part) for loss in norms} for part in parts},
            "norm",
            is_share=False,
        ),
    )
    for loss, errors in measured["box_errors"].items():
        yield from _box_errors(loss, errors, norms[loss])
        if "grid" in errors:
            subject = _subject(loss)
            yield f"{subject}, slopes", _slopes(loss, errors["beta"], form)
            yield f"{subject}, grid", _grid(loss, errors["grid"])


def classes(analysis: Analysis) -> Iterator[OnSubject]:
    """Makes the charts of the classes, the rarest first, each with its subject."""
    by_class = analysis.numbers["classes"]["by_class"]
    if not by_class:
        return
    shares = _shares_of_classes(by_class)
    num_present = sum(row["objects"] > 0 for row in by_class.values())
    label, even = f"{_IN_ORDER}; dashed: equal shares", 1 / max(num_present, 1)
    yield "shares", _bars_of_classes("Share of each class", shares, label, even=even)
    quotients = {
        name: {"positives / negatives": row["positive_over_negative"]}
        for name, row in by_class.items()
    }
    title = "Gradient at the score of each class, positives over negatives"
    label = f"{_IN_ORDER}; dashed: equal parts"
    yield "quotients", _bars_of_classes(title, quotients, label, is_share=False, even=1.0)
    if any(row["AP"] is not None for row in by_class.values()):
        precisions = {
            f"{name} ({row['objects']} objects)": {"AP": row["AP"]}
            for name, row in by_class.items()
        }
        yield "AP", _bars_of_classes("AP of each class", precisions, _IN_ORDER, is_share=False)


def _shares_of_classes(
    by_class: Mapping[str, Mapping[str, Any]],
) -> dict[str, dict[str, float | None]]:
    """Returns the part of each class among all of them, by class and by what is counted."""
    counts = {"objects": {name: row["objects"] for name, row in by_class.items()}}
    for kind in next(iter(by_class.values()))["positives"]:
        noun = f"positive {verdicts.NOUNS[kind]}"
        counts[noun] = {name: row["positives"][kind] for name, row in by_class.items()}
    if next(iter(by_class.values()))["sampled"] is not None:
        counts["sampled RoIs"] = {name: row["sampled"] for name, row in by_class.items()}
    totals = {what: sum(of_classes.values()) for what, of_classes in counts.items()}
    return {
        name: {
            **{
                what: of[name] / totals[what] if totals[what] else None
                for what, of in counts.items()
            },
            "gradient": row["gradient_share"],
        }
        for name, row in by_class.items()
    }


def _bars_of_classes(
    title: str,
    groups: Mapping[str, Mapping[str, float | None]],
    label: str,
    is_share: bool = True,
    even: float | None = None,
) -> charts.BarChart:
    """Makes a chart of the rarest and the most frequent classes, with the numbers of all.

    Args:
      title: what is shown.
      groups: by class, the rarest first.
      label: see `charts.bars`.
      is_share: see `charts.bars`.
      even: see `charts.bars`.
    """
    names = list(groups)
    if len(names) <= _MOST_GROUPS:
        return charts.bars(title, groups, label, is_share, even)
    half = _MOST_GROUPS // 2
    shown = {name: groups[name] for name in (*names[:half], *names[-half:])}
    title = f"{title}: the {half} rarest and the {half} most frequent"
    chart = charts.bars(title, shown, label, is_share, even)
    of_all = charts.bars(title, groups, label, is_share, even).numbers
    return dataclasses.replace(chart, numbers=of_all)


def _ways(kind: str) -> tuple[str, ...]:
    """Returns the ways of sampling to compare; without a sampler, only the worst mistakes."""
    return ("random", "iou_balanced", "mmdet") if verdicts.is_sampled(kind) else ("hardest",)


def _subject(loss: str) -> str:
    return _SUBJECTS.get(loss, loss)


def _iou_histograms(
    kind: str, picks: Mapping[str, Any], edges: Sequence[float]
) -> Iterator[OnSubject]:
    counts = {name: pick["histogram"] for name, pick in picks.items()}
    yield (
        "IoU of candidates",
        charts.histogram(
            "IoU of all candidates",
            edges,
            {name: _normalised(counts[name]) for name in ("candidates", "negatives")},
            "IoU",
            _HARD,
        ),
    )
    last = max((i for i, count in enumerate(counts["negatives"]) if count), default=9)
    ways = dict.fromkeys([*_ways(kind), "hardest"])
    yield (
        "IoU of negatives",
        charts.histogram(
            "IoU of sampled negatives" if verdicts.is_sampled(kind) else "IoU of negatives",
            edges[: last + 2],
            {_PICKS[name]: _normalised(counts[name])[: last + 1] for name in ways},
            "IoU",
            _HARD,
        ),
    )


def _by_group(
    title: str, groups: Mapping[str, Mapping[str, Any]], kind: str, picks: Mapping[str, Any]
) -> Iterator[OnSubject]:
    """Makes charts of the negatives by level or class: how many, and how many are hard."""
    ways = _ways(kind)
    shares = {
        group: {_PICKS[name]: by_pick[name]["count"] / (picks[name]["count"] or 1) for name in ways}
        for group, by_pick in groups.items()
    }
    which = "Sampled negatives" if verdicts.is_sampled(kind) else "Negatives of largest loss"
    yield title, charts.bars(f"{which} by {title}", shares, "share of the negatives")
    hard = {
        group: {_PICKS[name]: by_pick[name]["hard_share"] for name in ways}
        for group, by_pick in groups.items()
    }
    chart = charts.bars(f"Hard share by {title}", hard, f"share with an IoU above {HARD_IOU:g}")
    yield f"hard by {title}", chart


def _largest(
    groups: Mapping[str, Mapping[str, Any]], ways: Sequence[str]
) -> dict[str, Mapping[str, Any]]:
    """Returns the groups with the most negatives, the largest first."""

    def size(group: str) -> int:
        return max(groups[group][name]["count"] for name in ways)

    by_size = sorted(groups, key=size, reverse=True)
    return {group: groups[group] for group in by_size[:_MOST_GROUPS]}


def _starved_bins(measured: Mapping[str, Any]) -> Figure:
    bins_of = {"bins of the paper": "candidates", "bins of MMDetection": "all"}
    starved = {
        f"bin {i + 1}": {
            title: measured["bins"][bin_range]["starved"][i] for title, bin_range in bins_of.items()
        }
        for i in range(measured["num_bins"])
    }
    return charts.bars("Starved bins", starved, "share of the images")


def _positives(kind: str, positives: Mapping[str, Any]) -> Figure:
    shown = _POSITIVES if verdicts.is_sampled(kind) else {"all": _POSITIVES["all"]}
    longest = max(len(positives[name]["histogram"]) for name in shown)
    # With a long tail of counts, a bin holds several of them.
    step = math.ceil(longest / _MOST_BINS) or 1
    series = {}
    for name, title in shown.items():
        counts = np.zeros(step * _MOST_BINS)
        counts[: len(positives[name]["histogram"])] = positives[name]["histogram"]
        series[title] = _normalised(counts.reshape(-1, step).sum(1).tolist())
    used = 1 + max((i for s in series.values() for i, share in enumerate(s) if share), default=0)
    return charts.histogram(
        "Positives per object",
        [step * i for i in range(used + 1)],
        {name: shares[:used] for name, shares in series.items()},
        "positives per object",
    )


def _box_errors(
    loss: str, errors: Mapping[str, Any], norms: Mapping[str, Mapping[str, float]]
) -> Iterator[OnSubject]:
    subject, kinds = _subject(loss), ("inliers", "outliers")
    yield (
        f"{subject}, norms",
        charts.bars(
            f"{loss}: gradient norm of inliers and outliers",
            {part: {kind: norms[kind].get(part) for kind in kinds} for part in norms["inliers"]},
            "norm",
            is_share=False,
        ),
    )
    yield (
        f"{subject}, inliers",
        charts.bars(
            f"{loss}: inliers (error below {errors['beta']:.3g})",
            {
                "of the coordinates": {"share": errors["inlier_count_share"]},
                "of the gradient": {"share": errors["inlier_gradient_share"]},
            },
            "share",
        ),
    )
    histogram = errors["histogram"]
    yield (
        f"{subject}, errors",
        charts.histogram(
            f"{loss}: errors and their gradient (last bin: all larger errors)",
            [*histogram["edges"], histogram["edges"][-1] + errors["beta"] / 10],
            {"coordinates": histogram["count_share"], "gradient": histogram["gradient_share"]},
            "|prediction - target|",
            (errors["beta"], "outliers"),
        ),
    )


def _slopes(loss: str, beta: float, form: str) -> Figure:
    x = np.linspace(0, 2 * beta, 41)
    series = {
        f"alpha {alpha:g}, gamma {gamma:g}": balanced_l1_slopes(x, alpha, gamma, beta, form)
        for alpha, gamma in _SLOPES
    }
    series["smooth L1"] = np.minimum(x / beta, 1)
    return charts.curves(
        f"{loss}: gradient of balanced L1 at a knee of {beta:.3g}",
        x.tolist(),
        {name: values.tolist() for name, values in series.items()},
        "|prediction - target|",
        "slope",
        (beta, "knee"),
    )


def _grid(loss: str, grid: Sequence[Mapping[str, float]]) -> Figure:
    columns = ["alpha", "gamma", "gradient from inliers", "inlier / outlier", "over smooth L1"]
    rows = [
        [
            f"{row['alpha']:g}",
            f"{row['gamma']:g}",
            charts.percent(row["inlier_gradient_share"]),
            charts.percent(row["inlier_over_outlier"]),
            charts.number(row["over_smooth_l1"]),
        ]
        for row in grid
    ]
    return charts.Table(f"{loss}: balanced L1 on these errors", columns, rows)


def _normalised(counts: Sequence[float]) -> list[float]:
    total = sum(counts) or 1
    return [count / total for count in counts]
