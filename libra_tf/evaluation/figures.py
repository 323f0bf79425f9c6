"""The figures of each part of the page, made from the numbers of boxes or of masks."""

import dataclasses
import math
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from libra_tf.evaluation import coco_errors, outcomes
from libra_tf.pages import charts

# As many lines as there are colours.
_MOST_LINES = 6
_METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
_COCO_ERRORS = {
    "C75": "IoU 0.75",
    "C50": "IoU 0.5",
    "Loc": "bad places excused",
    "Sim": "similar classes excused",
    "Oth": "all classes excused",
    "BG": "background excused",
}
TIDE = {
    "Cls": "wrong class, right place",
    "Loc": "right class, bad place",
    "Both": "wrong class, bad place",
    "Dupe": "found twice",
    "Bkg": "nothing there",
    "Miss": "object missed",
}
_BACKGROUND = "background"

Numbers = Mapping[str, Any]
Names = Mapping[int, str]


def score(value: float | None) -> str:
    """Formats a share such as AP with three decimals, "-" for None."""
    return "-" if value is None else f"{value:.3f}"


def average_precision(
    numbers: Numbers, names: Names, training_objects: Mapping[int, int] | None
) -> charts.SortableTable:
    """Makes the table of the average precision of each class, with the number of its objects.

    Args:
      numbers: see `measures.Measured`.
      names: of the classes.
      training_objects: the number of objects in training by category id; None if unknown.
    """
    measured = numbers["average_precision"]
    rows = []
    for id_, name in names.items():
        of_class = measured["classes"][id_]
        in_training = None if training_objects is None else training_objects.get(id_, 0)
        rows.append(
            [
                charts.Value(name),
                *(_value(of_class[metric]) for metric in _METRICS),
                _count(in_training),
                _count(of_class["num_objects"]),
            ]
        )
    total = [
        charts.Value("all"),
        *(_value(measured["all"][metric]) for metric in _METRICS),
        _count(None if training_objects is None else sum(training_objects.values())),
        _count(sum(of_class["num_objects"] for of_class in measured["classes"].values())),
    ]
    columns = ["class", *_METRICS, "objects in training", "objects here"]
    return charts.SortableTable("Average precision of each class", columns, rows, total)


def precision_recall(numbers: Numbers, names: Names) -> list[charts.LineChart]:
    """Makes the precision-recall curves at IoU 0.5 and 0.75.

    The mean is drawn and, of many classes, the best and the worst; the table has all.

    Args:
      numbers: see `measures.Measured`.
      names: of the classes.
    """
    measured = numbers["curves"]
    result = []
    for threshold, precision in measured["precision"].items():
        if precision["mean"] is None:
            continue
        lines = {names[id_]: curve for id_, curve in precision["classes"].items() if curve}
        ranked = sorted(lines, key=lambda name: -sum(lines[name]))
        result.append(
            charts.curves(
                f"Precision against recall, IoU {threshold}",
                measured["recall"],
                {"mean": precision["mean"], **lines},
                "recall",
                "precision",
                drawn=["mean", *_ends(ranked, _MOST_LINES - 1)],
            )
        )
    return result


def against_score(numbers: Numbers) -> charts.LineChart:
    """Makes the chart of precision, recall and F1 of all classes against the score.

    Args:
      numbers: see `measures.Measured`.
    """
    scores = numbers["curves"]["scores"]
    return charts.curves(
        "All classes together, IoU 0.5",
        scores["thresholds"],
        {
            "precision": scores["all"]["precision"],
            "recall": scores["all"]["recall"],
            "F1": scores["all"]["f1"],
        },
        "lowest score shown",
        "share",
        mark=(numbers["score_threshold"], f"{numbers['score_threshold']:.2f}"),
    )


def f1_by_class(numbers: Numbers, names: Names) -> charts.LineChart:
    """Makes the chart of F1 against the score, of the classes with the best and worst F1.

    Args:
      numbers: see `measures.Measured`.
      names: of the classes.
    """
    scores = numbers["curves"]["scores"]
    found = {id_: of["best"]["f1"] for id_, of in scores["classes"].items() if of["best"]}
    ranked = sorted(found, key=lambda id_: -found[id_])
    lines = {names[id_]: scores["classes"][id_]["f1"] for id_ in ranked}
    return charts.curves(
        "F1 of each class, IoU 0.5",
        scores["thresholds"],
        lines,
        "lowest score shown",
        "F1",
        drawn=_ends(list(lines), _MOST_LINES),
    )


def score_curves(numbers: Numbers, names: Names) -> list[charts.Table]:
    """Makes the tables of precision and recall against the score of each class.

    Args:
      numbers: see `measures.Measured`.
      names: of the classes.
    """
    scores = numbers["curves"]["scores"]
    return [
        charts.Table(
            f"{key[0].upper()}{key[1:]} of each class, by the lowest score shown",
            ["score", *names.values()],
            [
                [
                    f"{threshold:.2f}",
                    *(charts.number(scores["classes"][id_][key][index]) for id_ in names),
                ]
                for index, threshold in enumerate(scores["thresholds"])
            ],
        )
        for key in ("precision", "recall")
    ]


def best_thresholds(numbers: Numbers, names: Names) -> charts.SortableTable:
    """Makes the table of the score of each class that gives the greatest F1.

    Args:
      numbers: see `measures.Measured`.
      names: of the classes.
    """
    scores = numbers["curves"]["scores"]
    keys = ("threshold", "precision", "recall", "f1")

    def cells(name: str, best: Mapping[str, float] | None) -> list[charts.Value]:
        return [charts.Value(name), *(_value(best[key] if best else None) for key in keys)]

    return charts.SortableTable(
        "The score of each class with the greatest F1",
        ["class", "score", "precision", "recall", "F1"],
        [cells(name, scores["classes"][id_]["best"]) for id_, name in names.items()],
        cells("all, with one score", scores["all"]["best"]),
    )


def thresholds_flag(numbers: Numbers, names: Names) -> str | None:
    """Returns the flag of `libra-tf export` that sets the best score of each class.

    Args:
      numbers: see `measures.Measured`.
      names: of the classes.

    Returns:
      A word for a shell; None if no class has a best score.
    """
    of_classes = numbers["curves"]["scores"]["classes"]
    chosen = [
        f"{_name_in_flag(id_, name)}={_rounded_down(of_classes[id_]['best']['threshold'])}"
        for id_, name in names.items()
        if of_classes[id_]["best"]
    ]
    return shlex.quote(f"--score_thresholds={','.join(chosen)}") if chosen else None


def _name_in_flag(id_: int, name: str) -> str:
    """Returns a name that the flag takes; the id for one with commas, or that classes share."""
    is_taken = "," not in name and name == name.strip() and not name.endswith(f" ({id_})")
    return name if is_taken else str(id_)


def _rounded_down(threshold: float) -> str:
    """Writes a score with three decimals, so that the detection that has it is kept."""
    return f"{math.floor(threshold * 1000) / 1000:g}"


def coco_error_areas(numbers: Numbers) -> charts.LineChart | None:
    """Makes COCO's chart of precision-recall curves as errors are excused one by one.

    Args:
      numbers: see `measures.Measured`.

    Returns:
      The chart; None without objects.
    """
    measured = numbers["coco_errors"]
    if measured["all"]["C50"] is None:
        return None
    return charts.curves(
        "Precision against recall, as errors are excused one by one",
        numbers["curves"]["recall"],
        {
            f"{name} {meaning}, area {score(measured['all'][name])}": measured["curves"][name]
            for name, meaning in _COCO_ERRORS.items()
        },
        "recall",
        "precision",
        is_filled=True,
    )


def coco_error_table(numbers: Numbers, names: Names) -> charts.SortableTable:
    """Makes the table of the areas under these curves, by class and by size.

    Args:
      numbers: see `measures.Measured`.
      names: of the classes.
    """
    measured = numbers["coco_errors"]
    keys = coco_errors.NAMES
    rows = {f"{size} objects": areas for size, areas in measured["sizes"].items()}
    rows |= {name: measured["classes"][id_] for id_, name in names.items()}
    return charts.SortableTable(
        "Areas under the curves, by size and by class",
        ["", *keys],
        [[charts.Value(name), *(_value(of[key]) for key in keys)] for name, of in rows.items()],
        [charts.Value("all"), *(_value(measured["all"][key]) for key in keys)],
    )


def tide_bars(numbers: Numbers) -> list[charts.BarChart]:
    """Makes TIDE's bars: what correcting each kind of error would gain, and how many there are.

    Args:
      numbers: see `measures.Measured`.
    """
    measured = numbers["tide"]
    gains, number_of = (
        {f"{name}: {meaning}": {label: measured[key][name]} for name, meaning in TIDE.items()}
        for key, label in (("dAP", "gain"), ("counts", "number"))
    )
    title = "Gain of AP50 if all errors of one kind were corrected"
    return [
        charts.bars(title, gains, "gain of AP50"),
        charts.bars("Number of errors, at any score", number_of, "errors", is_share=False),
    ]


def confusion(numbers: Numbers, names: Names) -> charts.HeatTable:
    """Makes the confusion matrix: rows are the objects' classes, columns the detections'.

    Args:
      numbers: see `measures.Measured`.
      names: of the classes.
    """
    measured = numbers["confusion"]
    labels = [names.get(id_, _BACKGROUND) for id_ in measured["classes"]]
    rows, shares = [], []
    for row, (label, counts, of_row) in enumerate(
        zip(labels, measured["counts"], measured["shares"], strict=True)
    ):
        of_row = of_row or [0.0] * len(counts)
        cells = [
            charts.HeatCell(
                str(count or ""),
                share,
                f"{_meaning(label, labels[column])}: {count}, {charts.percent(share)} of the row",
                row == column,
            )
            for column, (count, share) in enumerate(zip(counts, of_row, strict=True))
        ]
        rows.append((label, cells))
        shares.append([label, *map(charts.percent, of_row)])
    title = "Objects (rows) and what they were detected as (columns)"
    normalised = charts.Table(title, ["share of the row", *labels], shares)
    return charts.HeatTable(title, "object", labels, rows, normalised)


def reliability(numbers: Numbers) -> charts.LineChart | None:
    """Makes the chart of precision against the score.

    Args:
      numbers: see `measures.Measured`.

    Returns:
      The chart; None without detections.
    """
    bins = numbers["calibration"]["bins"]
    if not bins:
        return None
    chart = charts.curves(
        "Precision of detections against their score, IoU 0.5",
        [0.0, *(each["mean_score"] for each in bins), 1.0],
        {
            "measured": [None, *(each["precision"] for each in bins), None],
            "if scores were probabilities": [0.0, *(each["mean_score"] for each in bins), 1.0],
        },
        "mean score of a bin",
        "precision",
    )
    rows = [
        [
            f"{each['low']:g} to {each['high']:g}",
            str(each["count"]),
            score(each["mean_score"]),
            score(each["precision"]),
        ]
        for each in bins
    ]
    columns = ["score", "detections", "mean score", "precision"]
    return dataclasses.replace(chart, numbers=charts.Table(chart.title, columns, rows))


def detections_per_image(numbers: Numbers) -> charts.LineChart | None:
    """Makes the chart of how many detections images with so many objects have.

    Args:
      numbers: see `measures.Measured`.

    Returns:
      The chart; None without images.
    """
    rows = numbers["counts"]["by_number_of_objects"]
    if not rows:
        return None
    objects = [row["objects"] for row in rows]
    title = "Detections in images with so many objects"
    chart = charts.curves(
        title,
        objects,
        {
            "detections, mean": [row["mean_detections"] for row in rows],
            "as many as objects": objects,
        },
        "objects in the image",
        "detections",
    )
    table = [
        [str(row["objects"]), str(row["images"]), charts.number(row["mean_detections"])]
        for row in rows
    ]
    columns = ["objects", "images", "detections, mean"]
    return dataclasses.replace(chart, numbers=charts.Table(title, columns, table))


def count_table(numbers: Numbers, names: Names) -> charts.SortableTable:
    """Makes the table of the numbers of objects and of detections of each class.

    Args:
      numbers: see `measures.Measured`.
      names: of the classes.
    """
    measured = numbers["counts"]

    def cells(name: str, of: Mapping[str, int]) -> list[charts.Value]:
        return [charts.Value(name), _count(of["objects"]), _count(of["detections"])]

    return charts.SortableTable(
        "Objects and detections of each class",
        ["class", "objects", "detections"],
        [cells(name, measured["classes"][id_]) for id_, name in names.items()],
        cells("all", measured["all"]),
    )


def key_figures(numbers: Numbers) -> charts.Table:
    """Makes the table of the numbers to know first.

    Args:
      numbers: see `measures.Measured`.
    """
    measured = numbers["average_precision"]["all"]
    names = (*_METRICS, "AR1", "AR10", "AR100")
    return charts.Table("COCO's metrics", names, [[score(measured[name]) for name in names]])


def error_totals(numbers: Numbers) -> str:
    """Returns how many errors of each kind there are, as part of a sentence.

    Args:
      numbers: see `measures.Measured`.
    """
    totals = numbers["worst_images"]["totals"]
    return listed_errors(totals) or "no errors"


def listed_errors(errors: Mapping[str, int]) -> str:
    """Returns the errors that occur, with their numbers, as part of a sentence.

    Args:
      errors: the number of each kind of error.
    """
    names = {error.value: error.value.replace("_", " ") for error in outcomes.ERRORS}
    return ", ".join(f"{errors[key]} {name}" for key, name in names.items() if errors[key])


def _meaning(of_object: str, of_detection: str) -> str:
    if of_detection == _BACKGROUND:
        return f"{of_object} not detected"
    if of_object == _BACKGROUND:
        return f"{of_detection} detected where there is none"
    return f"{of_object} detected as {of_detection}"


def _ends(ranked: Sequence[str], number: int) -> list[str]:
    """Returns the first and the last of a list, `number` of them together."""
    if len(ranked) <= number:
        return list(ranked)
    return [*ranked[: number - number // 2], *ranked[len(ranked) - number // 2 :]]


def _value(value: float | None) -> charts.Value:
    return charts.Value(score(value), value)


def _count(value: int | None) -> charts.Value:
    return charts.Value("-" if value is None else str(value), value)
