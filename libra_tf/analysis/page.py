"""The report as one HTML page that needs nothing else: no network, no script."""

import dataclasses
import html
import math
from collections.abc import Sequence

import numpy as np

from libra_tf.analysis import charts, objective, pictures, verdicts
from libra_tf.analysis.collect import Analysis

_PICKS = {
    "negatives": "all negatives",
    "random": "random",
    "iou_balanced": "IoU-balanced",
    "mmdet": "MMDetection's bins",
    "hardest": "largest loss",
}
_KINDS = {"proposals": "proposals", "rpn_anchors": "anchors of the RPN", "anchors": "anchors"}
_SLOPES = ((0.2, 1.5), (0.5, 1.5), (1.0, 1.5))

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1b1f; --soft: #5c5f66; --paper: #ffffff;
  --card: #f4f5f7; --line: #d5d8de; --c0: #0067a5; --c1: #c44e00; --c2: #00785a; --c3: #a2408a;
  --c4: #6b6b6b; --c5: #8a6d00; --fine: #00694a; --look: #7a5a00; --act: #a3280f; }
@media (prefers-color-scheme: dark) { :root { --ink: #e9eaee; --soft: #a6abb5; --paper: #141519;
  --card: #1f2127; --line: #3a3e47; --c0: #5ab4f0; --c1: #ff9a52; --c2: #3ed3a3; --c3: #f09ad8;
  --c4: #b0b0b0; --c5: #e5c04a; --fine: #4fd6a4; --look: #e7c14c; --act: #ff8b73; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 76rem; background: var(--paper);
  color: var(--ink); font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; line-height: 1.25; } h2 { margin-top: 2.5rem; font-size: 1.25rem; }
h3 { margin-bottom: .25rem; font-size: 1.05rem; } p { max-width: 46rem; }
.soft, figcaption, dd { color: var(--soft); } figcaption { font-size: .9rem; }
.row { display: grid; gap: 1rem; margin-bottom: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 20rem), 1fr)); }
figure { margin: 0; padding: .75rem; background: var(--card); border-radius: .5rem;
  min-width: 0; }
.wide { grid-column: 1 / -1; } figure svg { display: block; width: 100%; max-width: 30rem;
  height: auto; margin-top: .5rem; }
svg text { fill: var(--soft); font-size: 11px; } svg text.group { fill: var(--ink); }
.grid { stroke: var(--line); } .mark { stroke: var(--ink); stroke-dasharray: 2 3; }
polyline, .swatch line { fill: none; stroke-width: 1.8; }
.s0 { stroke: var(--c0); } .s1 { stroke: var(--c1); } .s2 { stroke: var(--c2); }
.s3 { stroke: var(--c3); } .s4 { stroke: var(--c4); } .s5 { stroke: var(--c5); }
.b0 { fill: var(--c0); } .b1 { fill: var(--c1); } .b2 { fill: var(--c2); }
.b3 { fill: var(--c3); } .b4 { fill: var(--c4); } .b5 { fill: var(--c5); }
.legend { display: flex; flex-wrap: wrap; gap: .1rem .9rem; margin: .4rem 0; padding: 0;
  list-style: none; font-size: .85rem; } figure .swatch { display: inline-block; width: 22px;
  height: 10px; margin: 0 .35rem 0 0; }
details { margin-top: .4rem; font-size: .85rem; } summary { cursor: pointer; padding: .3rem 0; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: .85rem; }
th, td { padding: .2rem .6rem .2rem 0; text-align: left; border-bottom: 1px solid var(--line);
  white-space: nowrap; } .verdict { padding: .75rem 1rem; background: var(--card);
  border-left: .3rem solid var(--soft); border-radius: .5rem; }
.verdict p { margin: .3rem 0; } .fine { border-color: var(--fine); }
.look { border-color: var(--look); } .act { border-color: var(--act); }
.state { font-size: .8rem; font-weight: 600; }
.fine .state { color: var(--fine); } .look .state { color: var(--look); }
.act .state { color: var(--act); } code { font-size: .85rem; }
pre { margin: .3rem 0 0; white-space: pre-wrap; }
.picture .taken { fill: none; stroke: #ffcf33; stroke-width: .7%; }
.picture .object { fill: none; stroke: #fff; stroke-width: .7%; stroke-dasharray: 3 2; }
.picture .point { fill: none; stroke: #ff3b30; stroke-width: 1%; }
dt { font-weight: 600; margin-top: .6rem; } dd { margin: 0; max-width: 46rem; }
"""

_DEFINITIONS = {
    "Images": "The training images of the run (or of --dataset) as an evaluation reads them: each "
    "once, scaled, not augmented. Every run on this page saw the same files.",
    "Candidate": "A proposal, ground truth included where the run adds it, or an anchor. Its IoU "
    "is the largest with any object of its image. It is negative, positive or ignored by the run's "
    "own thresholds.",
    "Hard": "A negative with an IoU above 0.05, as in the paper.",
    "Ways of sampling": "As many negatives of every image as a training step of this run takes, "
    "taken at random; IoU-balanced, with bins up to the IoU where negatives end (the paper); with "
    "bins up to the largest IoU of all candidates (MMDetection); or those with the largest "
    "classification loss as background. RetinaNet does not sample: 256 anchors an image, as an RPN "
    "would take.",
    "Starved bin": "A bin that holds fewer negatives of an image than it is to give. The rest is "
    "drawn at random.",
    "Level and class": "The pyramid level that a candidate is seen in, and the class of the object "
    "of its largest IoU; no object where that is 0.",
    "Share of a level": "With all L levels at one size, b their mean: <level, b> / (L <b, b>). The "
    "shares add up to 1; mean over the images.",
    "Variance and effective rank": "Of the channels over all positions and images: the mean "
    "variance, and exp of the entropy of the singular values (Roy and Vetterli, 2007), from 1 to "
    "the number of channels.",
    "Reach": "Of the weights with which a position of the integrated map looks at all: their "
    "entropy divided by its largest value, and the mean distance in pixels of the input.",
    "Gradient norm": "Euclidean norm of the gradient of one weighted loss at the trainable weights "
    "of a part, in a training step on one batch; mean over the batches. Shared is backbone and "
    "decoder together. Weight decay is left out.",
    "Inlier and outlier": "A coordinate of a positive candidate whose error |prediction - target|, "
    "in the units of the box coder, is below or from beta: the knee of the run's loss "
    "(task.losses.balanced_l1.beta, or the delta of Huber).",
    "Grid of alpha and gamma": "What the balanced L1 loss would make of the same errors. No "
    "detector was trained for it.",
}


@dataclasses.dataclass(frozen=True)
class Run:
    """A run on the page.

    Attributes:
      name: what it is called.
      analysis: what was measured.
      verdicts: what that means.
      metrics: average precisions that an evaluation of the run has measured, by name.
      metrics_step: the step of that evaluation.
    """

    name: str
    analysis: Analysis
    verdicts: list[verdicts.Verdict]
    metrics: dict[str, float]
    metrics_step: int | None


def render(runs: Sequence[Run]) -> str:
    """Writes the page.

    Args:
      runs: the run that was asked about, then those to compare with.

    Returns:
      An HTML document.
    """
    sections = [
        _header(runs),
        _section("Verdicts", "".join(_verdicts(run, len(runs) > 1) for run in runs)),
        _section("Key figures", f'<div class="row">{_key_figures(runs)}</div>'),
        _section("Samples", "".join(_samples(kind, runs) for kind in _kinds(runs))),
        _section("Features", _side_by_side(runs, _features)),
        _section("Objective", _side_by_side(runs, _objective)),
        _section("What is measured", _definitions()),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        # Otherwise a browser asks the folder for one.
        '<link rel="icon" href="data:,">'
        f"<title>Balance of {html.escape(runs[0].name)}</title><style>{_STYLE}</style></head>"
        f"<body>{''.join(sections)}</body></html>\n"
    )


def _header(runs):
    lines = []
    for run in runs:
        numbers = run.analysis.numbers
        line = (
            f"<b>{html.escape(run.name)}</b>: {html.escape(numbers['checkpoint'])} of "
            f"{html.escape(numbers['model_dir'])}, {numbers['num_images']} training images."
        )
        if run.metrics:
            measured = ", ".join(f"{name} {value:.3f}" for name, value in run.metrics.items())
            line += f" Its evaluation at step {run.metrics_step} measured {measured}."
        lines.append(f"<p>{line}</p>")
    return f"<h1>What is unbalanced in this training</h1>{''.join(lines)}"


def _section(title, body):
    return f"<section><h2>{html.escape(title)}</h2>{body}</section>"


def _verdicts(run, show_name):
    css = {verdicts.FINE: "fine", verdicts.LOOK: "look", verdicts.ACT: "act"}
    cards = []
    for verdict in run.verdicts:
        config = html.escape("\n".join(verdict.config))
        config = f"<pre><code>{config}</code></pre>" if config else ""
        cards.append(
            f'<div class="verdict {css[verdict.state]}"><span class="state">{verdict.level}: '
            f"{verdict.state}</span><h3>{html.escape(verdict.title)}</h3>"
            f"<p>{html.escape(verdict.text)}</p><p>{html.escape(verdict.suggestion)}</p>{config}"
            "</div>"
        )
    heading = f"<h3>{html.escape(run.name)}</h3>" if show_name else ""
    note = (
        '<p class="soft">A verdict says what is unbalanced, not what average precision a change '
        "would give: only a training shows that.</p>"
    )
    return f'{heading}{note}<div class="row">{"".join(cards)}</div>'


def key_figures(numbers: dict) -> dict[str, str]:
    """The numbers of a run by which it is compared with others, written out."""
    figures = {}
    for kind, measured in numbers["samples"].items():
        noun = _KINDS[kind]
        current = verdicts.current_sampling(kind, numbers["settings"])
        shares = {name: pick["hard_share"] for name, pick in measured["picks"].items()}
        figures[f"hard negatives, {noun}"] = _percent(shares["negatives"])
        figures[f"hard, sampled at random, {noun}"] = _percent(shares["random"])
        figures[f"hard, IoU-balanced, {noun}"] = _percent(shares["iou_balanced"])
        figures[f"hard, as the run samples, {noun}"] = _percent(shares[current]) if current else "-"
    features = numbers["features"]
    for level, share in zip(features["levels"], features["share"], strict=True):
        figures[f"P{level} in the integrated map"] = _percent(share)
    figures["change by the refinement"] = _percent(features["refinement_change"])
    norms = numbers["objective"]["gradient_norms"]
    for loss, parts in norms.items():
        figures[f"gradient of {loss}, shared layers"] = _number(parts["all"].get("shared"))
    for loss, errors in numbers["objective"]["box_errors"].items():
        figures[f"outliers of {loss}"] = _percent(_rest(errors["inlier_count_share"]))
        share = _percent(_rest(errors["inlier_gradient_share"]))
        figures[f"gradient of {loss} from outliers"] = share
    return figures


def _key_figures(runs):
    by_run = [key_figures(run.analysis.numbers) for run in runs]
    keys = list(dict.fromkeys(key for figures in by_run for key in figures))
    rows = [[key, *(figures.get(key, "-") for figures in by_run)] for key in keys]
    for name in dict.fromkeys(name for run in runs for name in run.metrics):
        cells = [f"{run.metrics[name]:.3f}" if name in run.metrics else "-" for run in runs]
        rows.append([f"{name}, measured by the run's evaluation", *cells])
    return charts.table("Runs side by side", ["", *(run.name for run in runs)], rows)


def _kinds(runs):
    return list(dict.fromkeys(kind for run in runs for kind in run.analysis.numbers["samples"]))


def _samples(kind, runs):
    runs = [run for run in runs if kind in run.analysis.numbers["samples"]]
    heading = f"<h3>{html.escape(_KINDS[kind].capitalize())}</h3>"
    body = _side_by_side(runs, lambda run: _sample_charts(kind, run))
    has_pictures = kind != "rpn_anchors"
    return heading + body + (_side_by_side(runs, _sample_pictures) if has_pictures else "")


def _sample_charts(kind, run):
    measured = run.analysis.numbers["samples"][kind]
    picks = measured["picks"]
    edges = measured["bin_edges"]
    yield charts.histogram(
        "IoU of all candidates",
        edges,
        {name: _normalised(picks[name]["histogram"]) for name in ("candidates", "negatives")},
        "IoU",
        (0.05, "hard from here"),
    )
    last = max((i for i, n in enumerate(picks["negatives"]["histogram"]) if n), default=9)
    yield charts.histogram(
        "IoU of sampled negatives",
        edges[: last + 2],
        {
            _PICKS[name]: _normalised(picks[name]["histogram"])[: last + 1]
            for name in ("random", "iou_balanced", "mmdet", "hardest")
        },
        "IoU",
        (0.05, "hard from here"),
    )
    hard = {_PICKS[name]: {"hard": picks[name]["hard_share"]} for name in _PICKS}
    yield charts.bars("Share of hard negatives", hard, "IoU above 0.05")
    shown = ("random", "iou_balanced", "mmdet")
    for title, key, prefix in (("level", "by_level", "P"), ("class", "by_class", "")):
        rows = {
            f"{prefix}{group}": {
                _PICKS[name]: by_pick[name]["count"] / (picks[name]["count"] or 1) for name in shown
            }
            for group, by_pick in measured[key].items()
        }
        rows = dict(sorted(rows.items(), key=lambda row: -max(row[1].values()))[:12])
        yield charts.bars(f"Sampled negatives by {title}", rows, "share of the negatives")
        hard = {
            f"{prefix}{group}": {_PICKS[name]: by_pick[name]["hard_share"] for name in shown}
            for group, by_pick in measured[key].items()
            if f"{prefix}{group}" in rows
        }
        yield charts.bars(f"Hard share by {title}", hard, "share above an IoU of 0.05")
    yield charts.bars(
        "Starved bins",
        {
            f"bin {i + 1}": {
                "bins of the paper": measured["bins"]["candidates"]["starved"][i],
                "bins of MMDetection": measured["bins"]["all"]["starved"][i],
            }
            for i in range(measured["num_bins"])
        },
        "share of the images",
    )
    yield _positives_chart(measured["positives"])


def _positives_chart(positives):
    ways = {
        "all": "all positives",
        "random": "random",
        "instance_balanced": "instance-balanced",
    }
    longest = max(len(positives[name]["histogram"]) for name in ways)
    # Bins of several counts, where there are many.
    step = math.ceil(longest / 20) or 1
    series = {}
    for name, title in ways.items():
        counts = np.zeros(step * 20)
        counts[: len(positives[name]["histogram"])] = positives[name]["histogram"]
        series[title] = _normalised(counts.reshape(-1, step).sum(1).tolist())
    used = max((i for s in series.values() for i, share in enumerate(s) if share), default=0) + 1
    edges = [step * i for i in range(used + 1)]
    return charts.histogram(
        "Positives of each object",
        edges,
        {name: shares[:used] for name, shares in series.items()},
        "positives of an object",
    )


def _sample_pictures(run):
    for index, picture in enumerate(run.analysis.pictures):
        for way in ("random", "iou_balanced"):
            number = len(picture.negatives[way][0])
            title = f"Image {index + 1}: {number} negatives, {_PICKS[way]} (dashed: objects)"
            yield pictures.sampled_boxes(picture, way, title)


def _features(run):
    features = run.analysis.numbers["features"]
    levels = features["levels"]
    yield charts.bars(
        f"Levels in the integrated map (at P{features['refine_level']})",
        {
            f"P{level}": {
                "share": features["share"][i],
                "magnitude": features["magnitude"][i],
            }
            for i, level in enumerate(levels)
        },
        "dashed: even",
        even=1 / len(levels),
    )
    sides = [side for side in ("before", "after") if side in features]
    for key, title in (("variance", "Variance"), ("effective_rank", "Effective rank")):
        yield charts.bars(
            f"{title} of each level before and after the pyramid",
            {f"P{k}": {side: features[side][k][key] for side in sides} for k in levels},
            "mean over the channels" if key == "variance" else "of the channels",
            is_share=False,
        )
    attention = features["attention"]
    if attention:
        yield charts.histogram(
            "Attention: entropy of a position's weights",
            attention["entropy_histogram"]["edges"],
            {"positions": attention["entropy_histogram"]["share"]},
            "0: one position, 1: all alike",
        )
    if run.analysis.attention:
        yield pictures.attention(run.analysis.attention, "Where the red point looks (bright: most)")


def _objective(run):
    numbers = run.analysis.numbers["objective"]
    form = run.analysis.numbers["settings"]["task.losses.balanced_l1"]["form"]
    norms = numbers["gradient_norms"]
    parts = list(dict.fromkeys(part for loss in norms.values() for part in loss["all"]))
    yield charts.bars(
        "Gradient norm of each loss at each part",
        {part: {loss: norms[loss]["all"].get(part) for loss in norms} for part in parts},
        "norm",
        is_share=False,
    )
    for loss, errors in numbers["box_errors"].items():
        yield charts.bars(
            f"{loss}: gradient norm of inliers and outliers",
            {
                part: {kind: norms[loss][kind].get(part) for kind in ("inliers", "outliers")}
                for part in norms[loss]["inliers"]
            },
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
        edges = [*histogram["edges"], histogram["edges"][-1] + errors["beta"] / 10]
        yield charts.histogram(
            f"{loss}: errors and their gradient (last bin: all above)",
            edges,
            {
                "coordinates": histogram["count_share"],
                "gradient": histogram["gradient_share"],
            },
            "|prediction - target|",
            (errors["beta"], "outliers"),
        )
        if "grid" in errors:
            yield _slopes(errors["beta"], form, loss)
            yield _grid(errors["grid"], loss)


def _slopes(beta, form, loss):
    x = np.linspace(0, 2 * beta, 41)
    series = {
        f"alpha {alpha:g}, gamma {gamma:g}": objective.balanced_l1_slopes(
            x, alpha, gamma, beta, form
        )
        for alpha, gamma in _SLOPES
    }
    series["smooth L1"] = np.minimum(x / beta, 1)
    series = {name: values.tolist() for name, values in series.items()}
    return charts.curves(
        f"{loss}: gradient of balanced L1 at a knee of {beta:.3g}",
        x.tolist(),
        series,
        "|prediction - target|",
        "slope",
        (beta, "knee"),
    )


def _grid(grid, loss):
    columns = ["alpha", "gamma", "gradient from inliers", "an inlier / an outlier", "x smooth L1"]
    rows = [
        [
            f"{row['alpha']:g}",
            f"{row['gamma']:g}",
            _percent(row["inlier_gradient_share"]),
            _percent(row["inlier_over_outlier"]),
            _number(row["over_smooth_l1"]),
        ]
        for row in grid
    ]
    return charts.table(f"{loss}: what balanced L1 makes of these errors", columns, rows)


def _side_by_side(runs, draw):
    """Charts of all runs in rows: a run's charts follow one another where there is one run."""
    drawn = [list(draw(run)) for run in runs]
    if len(runs) == 1:
        return f'<div class="row">{"".join(drawn[0])}</div>'
    rows = []
    for column in range(max(map(len, drawn))):
        cells = [
            chart[column].replace("<figcaption>", f"<figcaption><b>{html.escape(run.name)}</b> ", 1)
            for run, chart in zip(runs, drawn, strict=True)
            if column < len(chart)
        ]
        rows.append(f'<div class="row">{"".join(cells)}</div>')
    return "".join(rows)


def _definitions():
    entries = (
        f"<dt>{html.escape(term)}</dt><dd>{html.escape(text)}</dd>"
        for term, text in _DEFINITIONS.items()
    )
    return f"<dl>{''.join(entries)}</dl>"


def _normalised(counts):
    total = sum(counts) or 1
    return [count / total for count in counts]


def _rest(share):
    return None if share is None else 1 - share


def _percent(share):
    return "-" if share is None else f"{100 * share:.1f} %"


def _number(value):
    return "-" if value is None else f"{value:.3g}"
