"""The figures of each section of the page, made from the numbers of a run."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from libra_tf.analysis import charts, pictures, verdicts
from libra_tf.analysis.collect import Analysis
from libra_tf.analysis.objective import balanced_l1_slopes
from libra_tf.balance.samples import HARD_IOU

Figure: TypeAlias = (
    charts.LineChart
    | charts.BarChart
    | charts.Table
    | pictures.BoxPicture
    | pictures.AttentionPicture
)

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
_HARD = (HARD_IOU, "hard from here")
_MOST_GROUPS = 12
_MOST_BINS = 20
_SLOPES = ((0.2, 1.5), (0.5, 1.5), (1.0, 1.5))


def key_figures(numbers: dict[str, Any]) -> dict[str, str]:
    """Returns the numbers to compare runs by, formatted.

    Args:
      numbers: the numbers of an `Analysis`.
    """
    written = {}
    for kind, measured in numbers["samples"].items():
        noun = verdicts.NOUNS[kind]
        current = verdicts.current_sampling(kind, numbers["settings"])
        shares = {name: pick["hard_share"] for name, pick in measured["picks"].items()}
        written[f"hard negatives, {noun}"] = charts.percent(shares["negatives"])
        written[f"hard, sampled at random, {noun}"] = charts.percent(shares["random"])
        written[f"hard, IoU-balanced, {noun}"] = charts.percent(shares["iou_balanced"])
        own = shares[current] if current else None
        written[f"hard, as the run samples, {noun}"] = charts.percent(own)
    features = numbers["features"]
    for level, share in zip(features["levels"], features["share"], strict=True):
        written[f"P{level} in the integrated map"] = charts.percent(share)
    written["change made by the refinement"] = charts.percent(features["refinement_change"])
    for loss, kinds in numbers["objective"]["gradient_norms"].items():
        norm = kinds["all"].get("shared")
        written[f"gradient of {loss}, shared layers"] = charts.number(norm)
    for loss, errors in numbers["objective"]["box_errors"].items():
        outliers, of_gradient = (
            None if errors[key] is None else 1 - errors[key]
            for key in ("inlier_count_share", "inlier_gradient_share")
        )
        written[f"outliers of {loss}"] = charts.percent(outliers)
        written[f"gradient of {loss} from outliers"] = charts.percent(of_gradient)
    return written


def samples(kind: str, analysis: Analysis) -> Iterator[Figure]:
    """Makes the charts of one kind of candidates.

    Args:
      kind: a key of `verdicts.NOUNS`.
      analysis: of a run that has candidates of this kind.
    """
    measured = analysis.numbers["samples"][kind]
    picks = measured["picks"]
    yield from _iou_histograms(picks, measured["bin_edges"])
    hard = {title: {"hard": picks[name]["hard_share"]} for name, title in _PICKS.items()}
    yield charts.bars("Share of hard negatives", hard, "IoU above 0.05")
    levels = {f"P{level}": of_level for level, of_level in measured["by_level"].items()}
    yield from _by_group("level", levels, picks)
    yield from _by_group("class", measured["by_class"], picks)
    bins_of = {"bins of the paper": "candidates", "bins of MMDetection": "all"}
    starved = {
        f"bin {i + 1}": {
            title: measured["bins"][bin_range]["starved"][i] for title, bin_range in bins_of.items()
        }
        for i in range(measured["num_bins"])
    }
    yield charts.bars("Starved bins", starved, "share of the images")
    yield _positives(measured["positives"])


def sample_pictures(analysis: Analysis) -> Iterator[Figure]:
    """Makes the pictures of sampled negatives, for two ways of sampling."""
    for index, picture in enumerate(analysis.pictures):
        for way in ("random", "iou_balanced"):
            number = len(picture.negatives[way][0])
            title = f"Image {index + 1}: {number} negatives, {_PICKS[way]} (dashed: objects)"
            yield pictures.sampled_boxes(picture, way, title)


def features(analysis: Analysis) -> Iterator[Figure]:
    """Makes the figures of the feature pyramid."""
    measured = analysis.numbers["features"]
    levels = measured["levels"]
    shares = zip(levels, measured["share"], measured["magnitude"], strict=True)
    yield charts.bars(
        f"Share of each level in the integrated map (at P{measured['refine_level']})",
        {f"P{level}": {"share": share, "magnitude": norm} for level, share, norm in shares},
        "dashed: equal shares",
        even=1 / len(levels),
    )
    sides = [side for side in ("before", "after") if side in measured]
    for key, title, label in (
        ("variance", "Variance", "mean over the channels"),
        ("effective_rank", "Effective rank", "of the channels"),
    ):
        yield charts.bars(
            f"{title} of each level before and after the pyramid",
            {f"P{k}": {side: measured[side][k][key] for side in sides} for k in levels},
            label,
            is_share=False,
        )
    if measured["attention"]:
        entropy = measured["attention"]["entropy_histogram"]
        yield charts.histogram(
            "Attention: entropy of a position's weights",
            entropy["edges"],
            {"positions": entropy["share"]},
            "0: a single position, 1: all equally",
        )
    if analysis.attention:
        title = "What the red point attends to (brighter: more)"
        yield pictures.attention(analysis.attention, title)


def objective(analysis: Analysis) -> Iterator[Figure]:
    """Makes the charts of the losses and of the errors of boxes."""
    measured = analysis.numbers["objective"]
    form = analysis.numbers["settings"]["task.losses.balanced_l1"]["form"]
    norms = measured["gradient_norms"]
    parts = list(dict.fromkeys(part for loss in norms.values() for part in loss["all"]))
    yield charts.bars(
        "Gradient norm of each loss at each part",
        {part: {loss: norms[loss]["all"].get(part) for loss in norms} for part in parts},
        "norm",
        is_share=False,
    )
    for loss, errors in measured["box_errors"].items():
        yield from _box_errors(loss, errors, norms[loss])
        if "grid" in errors:
            yield _slopes(loss, errors["beta"], form)
            yield _grid(loss, errors["grid"])


def _iou_histograms(picks: Mapping[str, Any], edges: Sequence[float]) -> Iterator[Figure]:
    counts = {name: pick["histogram"] for name, pick in picks.items()}
    yield charts.histogram(
        "IoU of all candidates",
        edges,
        {name: _normalised(counts[name]) for name in ("candidates", "negatives")},
        "IoU",
        _HARD,
    )
    last = max((i for i, count in enumerate(counts["negatives"]) if count), default=9)
    ways = ("random", "iou_balanced", "mmdet", "hardest")
    yield charts.histogram(
        "IoU of sampled negatives",
        edges[: last + 2],
        {_PICKS[name]: _normalised(counts[name])[: last + 1] for name in ways},
        "IoU",
        _HARD,
    )


def _by_group(
    title: str, groups: Mapping[str, Mapping[str, Any]], picks: Mapping[str, Any]
) -> Iterator[Figure]:
    """Makes charts of the sampled negatives by level or class: how many, and how many are hard."""
    ways = ("random", "iou_balanced", "mmdet")
    shares = {
        group: {_PICKS[name]: by_pick[name]["count"] / (picks[name]["count"] or 1) for name in ways}
        for group, by_pick in groups.items()
    }
    by_size = sorted(shares, key=lambda group: -max(shares[group].values()))
    shown = by_size[:_MOST_GROUPS]
    yield charts.bars(
        f"Sampled negatives by {title}",
        {group: shares[group] for group in shown},
        "share of the negatives",
    )
    hard = {
        group: {_PICKS[name]: by_pick[name]["hard_share"] for name in ways}
        for group, by_pick in groups.items()
        if group in shown
    }
    yield charts.bars(f"Hard share by {title}", hard, "share with an IoU above 0.05")


def _positives(positives: Mapping[str, Any]) -> Figure:
    longest = max(len(positives[name]["histogram"]) for name in _POSITIVES)
    # With a long tail of counts, a bin holds several of them.
    step = math.ceil(longest / _MOST_BINS) or 1
    series = {}
    for name, title in _POSITIVES.items():
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
) -> Iterator[Figure]:
    kinds = ("inliers", "outliers")
    yield charts.bars(
        f"{loss}: gradient norm of inliers and outliers",
        {part: {kind: norms[kind].get(part) for kind in kinds} for part in norms["inliers"]},
        "norm",
        is_share=False,
    )
    yield charts.bars(
        f"{loss}: inliers (error below {errors['beta']:.3g})",
        {
            "of the coordinates": {"share": errors["inlier_count_share"]},
            "of the gradient": {"share": errors["inlier_gradient_share"]},
        },
        "share",
    )
    histogram = errors["histogram"]
    yield charts.histogram(
        f"{loss}: errors and their gradient (last bin: all larger errors)",
        [*histogram["edges"], histogram["edges"][-1] + errors["beta"] / 10],
        {"coordinates": histogram["count_share"], "gradient": histogram["gradient_share"]},
        "|prediction - target|",
        (errors["beta"], "outliers"),
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
