"""The figures of each part of the page, made from the numbers of boxes or of masks."""

import collections
import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
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
# The numbers below curves of more classes would be most of the page.
_MOST_COLUMNS = 20
# So would a larger confusion matrix, and nobody could read it.
_MOST_IN_MATRIX = 40

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


def has_all_curves(names: Names) -> bool:
    """Returns whether the numbers below curves have all classes, and not only those drawn.

    Args:
      names: of the classes.
    """
    return len(names) <= _MOST_COLUMNS


def precision_recall(numbers: Numbers, names: Names) -> list[charts.LineChart]:
    """Makes the precision-recall curves at IoU 0.5 and 0.75.

    The mean is drawn and, of many classes, the best and the worst.

    Args:
      numbers: see `measures.Measured`.
      names: of the classes.
    """
    measured = numbers["curves"]
    mean = _apart("mean", names)
    result = []
    for threshold, precision in measured["precision"].items():
        if precision["mean"] is None:
            continue
        of_classes = {id_: curve for id_, curve in precision["classes"].items() if curve}
        ranked = sorted(of_classes, key=lambda id_: -sum(of_classes[id_]))
        drawn = _ends(ranked, _MOST_LINES - 1)
        lines = {names[id_]: of_classes[id_] for id_ in _with_numbers(of_classes, drawn, names)}
        result.append(
            charts.curves(
                f"Precision against recall, IoU {threshold}",
                measured["recall"],
                {mean: precision["mean"], **lines},
                "recall",
                "precision",
                drawn=[mean, *(names[id_] for id_ in drawn)],
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
    ranked, drawn = _ranked_by_f1(numbers)
    lines = {
        names[id_]: scores["classes"][id_]["f1"] for id_ in _with_numbers(ranked, drawn, names)
    }
    return charts.curves(
        "F1 of each class, IoU 0.5",
        scores["thresholds"],
        lines,
        "lowest score shown",
        "F1",
        drawn=[names[id_] for id_ in drawn],
    )


def score_curves(numbers: Numbers, names: Names) -> list[charts.Table]:
    """Makes the tables of precision and recall against the score of each class.

    Args:
      numbers: see `measures.Measured`.
      names: of the classes.
    """
    scores = numbers["curves"]["scores"]
    shown = _with_numbers(names, _ranked_by_f1(numbers)[1], names)
    return [
        charts.Table(
            f"{key.capitalize()} of each class, by the lowest score shown",
            ["score", *(names[id_] for id_ in shown)],
            [
                [
                    f"{threshold:.2f}",
                    *(charts.number(scores["classes"][id_][key][index]) for id_ in shown),
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
    rows = [
        *((_apart(f"{size} objects", names), areas) for size, areas in measured["sizes"].items()),
        *((name, measured["classes"][id_]) for id_, name in names.items()),
    ]
    return charts.SortableTable(
        "Areas under the curves, by size and by class",
        ["", *keys],
        [[charts.Value(name), *(_value(of[key]) for key in keys)] for name, of in rows],
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
    title = "Gain of TIDE's AP50 if all errors of one kind were corrected"
    return [
        charts.bars(title, gains, "gain of AP50", is_share=False),
        charts.bars("Number of errors, at any score", number_of, "errors", is_share=False),
    ]


def confusion(numbers: Numbers, names: Names) -> charts.HeatTable:
    """Makes the confusion matrix: rows are the objects' classes, columns the detections'.

    Of many classes, it has those that were mixed up most.

    Args:
      numbers: see `measures.Measured`.
      names: of the classes.
    """
    counts = {(row, column): count for row, column, count in numbers["confusion"]["counts"]}
    totals: collections.Counter = collections.Counter()
    for (row, _), count in counts.items():
        totals[row] += count
    labels = {id_: names[id_] for id_ in _most_confused(counts, names)}
    is_complete = len(labels) == len(names)
    title = "Objects (rows) and what they were detected as (columns)"
    if not is_complete:
        title += (
            f": the {len(labels)} classes with the most confusions, of {len(names)}. Shares count "
            "all classes; evaluation.json has the complete matrix"
        )
    labels[None] = _apart("background", names)
    rows = [
        (
            labels[row],
            [
                _heat_cell((row, column), counts.get((row, column), 0), totals[row], labels)
                for column in labels
            ],
        )
        for row in labels
    ]
    columns = list(labels.values())
    if not is_complete:
        return charts.HeatTable(title, "object", columns, rows, None)
    shares = [[label, *(charts.percent(cell.share) for cell in cells)] for label, cells in rows]
    normalised = charts.Table(title, ["share of the row", *columns], shares)
    return charts.HeatTable(title, "object", columns, rows, normalised)


def _most_confused(counts: Mapping[tuple[int | None, int | None], int], names: Names) -> list[int]:
    """Returns the classes to show in the matrix, in their order."""
    mixed_up, missed_or_false = collections.Counter(), collections.Counter()
    for (row, column), count in counts.items():
        if row != column:
            which = missed_or_false if None in (row, column) else mixed_up
            which.update({row: count, column: count})
    ranked = sorted(names, key=lambda id_: (-mixed_up[id_], -missed_or_false[id_]))
    shown = set(ranked[:_MOST_IN_MATRIX])
    return [id_ for id_ in names if id_ in shown]


def _heat_cell(
    place: tuple[int | None, int | None],
    count: int,
    total: int,
    labels: Mapping[int | None, str],
) -> charts.HeatCell:
    is_expected = place[0] == place[1]
    if not count:
        return charts.HeatCell("", 0.0, "", is_expected)
    share = count / total
    tip = f"{_meaning(place, labels)}: {count}, {charts.percent(share)} of the row"
    return charts.HeatCell(str(count), share, tip, is_expected)


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


def detections_per_image(numbers: Numbers) -> charts.LineChart | charts.Table | None:
    """Makes the chart of how many detections images with so many objects have.

    Args:
      numbers: see `measures.Measured`.

    Returns:
      The chart; its numbers alone if all images have the same number of objects, since there is no
      line through one point; None without images.
    """
    rows = numbers["counts"]["by_number_of_objects"]
    if not rows:
        return None
    title = "Detections in images with so many objects"
    table = charts.Table(
        title,
        ["objects", "images", "detections, mean"],
        [
            [str(row["objects"]), str(row["images"]), charts.number(row["mean_detections"])]
            for row in rows
        ],
    )
    if len(rows) == 1:
        return table
    objects = [row["objects"] for row in rows]
    chart = charts.curves(
        title,
        objects,
        {
            "detections, mean": [row["mean_detections"] for row in rows],
            "as many as objects": objects,
        },
        "objects in the image",
        "detections",
        is_whole=True,
    )
    return dataclasses.replace(chart, numbers=table)


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


def times(count: int) -> str:
    """Returns how often something happened.

    Args:
      count: the number.
    """
    return "once" if count == 1 else f"{count} times"


def _meaning(place: tuple[int | None, int | None], labels: Mapping[int | None, str]) -> str:
    row, column = place
    if column is None:
        return f"{labels[row]} not detected"
    if row is None:
        return f"{labels[column]} detected where there is none"
    return f"{labels[row]} detected as {labels[column]}"


def _apart(label: str, names: Names) -> str:
    """Returns a label that no class has, in parentheses if one does."""
    taken = set(names.values())
    while label in taken:
        label = f"({label})"
    return label


def _ranked_by_f1(numbers: Numbers) -> tuple[list[int], list[int]]:
    """Returns the classes with a best F1, best first, and those of them to draw."""
    of_classes = numbers["curves"]["scores"]["classes"]
    found = {id_: of["best"]["f1"] for id_, of in of_classes.items() if of["best"]}
    ranked = sorted(found, key=lambda id_: -found[id_])
    return ranked, _ends(ranked, _MOST_LINES)


def _with_numbers(ids: Iterable[int], drawn: Collection[int], names: Names) -> list[int]:
    """Returns those of some classes whose numbers are below the curves, in the same order."""
    return [id_ for id_ in ids if has_all_curves(names) or id_ in drawn]


def _ends(ranked: Sequence[int], number: int) -> list[int]:
    """Returns the first and the last of a list, `number` of them together."""
    if len(ranked) <= number:
        return list(ranked)
    return [*ranked[: number - number // 2], *ranked[len(ranked) - number // 2 :]]


def _value(value: float | None) -> charts.Value:
    return charts.Value(score(value), value)


def _count(value: int | None) -> charts.Value:
    return charts.Value("-" if value is None else str(value), value)
