"""The evaluation as one HTML page that needs nothing else: no network, and a script for sorting.

The markup and the words around the figures are in `templates/`, and those of all pages in
`libra_tf/pages/templates/`; `figures.py` makes the figures of each part.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from libra_tf.cli.errors import listed
from libra_tf.evaluation import comparison, export_command, figures, pictures
from libra_tf.evaluation.subject import BOXES, MASKS
from libra_tf.pages import charts, templates

NOUNS = {BOXES: "boxes", MASKS: "masks"}
# The parts of the page, of boxes and of masks: what a link is called, and its title.
_PARTS = {
    "ap": "average precision",
    "curves": "precision and recall",
    "scores": "choosing a score",
    "errors": "costs of errors",
    "confusion": "classes mixed up",
    "worst": "worst images",
    "calibration": "scores",
    "counts": "counting",
}
_COMPARED = ("AP", "AP50", "AP75")
_SMALLEST_GAIN = 0.0005


@dataclasses.dataclass(frozen=True)
class Drawn:
    """The pictures of one kind.

    Attributes:
      pairs: of classes that were mixed up.
      worst: the images with the most errors.
    """

    pairs: Sequence[pictures.ErrorPicture]
    worst: Sequence[pictures.ErrorPicture]


def render(
    content: Mapping[str, Any], drawn: Mapping[str, Drawn], export_names: Mapping[int, str]
) -> str:
    """Renders the page.

    Args:
      content: what `evaluation.json` holds; see `report`.
      drawn: the pictures by kind.
      export_names: see `export_command.of`.

    Returns:
      An HTML document.
    """
    names = content["classes"]
    return (
        templates.environment("libra_tf.evaluation")
        .get_template("page.html.j2")
        .render(
            content=content,
            nouns=NOUNS,
            names=names,
            parts=list(_PARTS.items()),
            drawn=drawn,
            figures_of=figures,
            export_command=export_command,
            export_names=export_names,
            compared=_compared(content),
            summaries={
                kind: _summary(numbers, names, NOUNS[kind])
                for kind, numbers in content["kinds"].items()
            },
            looks=[pictures.FOUND, *pictures.LOOKS.values()],
            unknown=_without_objects(content),
            listed=listed,
        )
    )


def _summary(numbers: Mapping[str, Any], names: Mapping[int, str], noun: str) -> list[str]:
    """Returns sentences on what matters most."""
    measured = numbers["average_precision"]["all"]
    counts = numbers["counts"]["all"]
    if measured["AP"] is None:
        return [f"There are no objects with {noun} to find, so there is no average precision."]
    said = [
        f"AP of {noun} is {figures.score(measured['AP'])} (AP50 {figures.score(measured['AP50'])}, "
        f"AP75 {figures.score(measured['AP75'])})."
    ]
    if not any(of["best"] for of in numbers["curves"]["scores"]["classes"].values()):
        number = counts["objects"]
        none = "the only object is not" if number == 1 else f"none of the {number} objects is"
        return [*said, f"No detection is right: {none} found."]
    gains = numbers["tide"]["dAP"]
    worst = max(figures.TIDE, key=lambda name: gains[name] or 0)
    # Less would be written as 0.000.
    if (gains[worst] or 0) >= _SMALLEST_GAIN:
        said.append(
            f"The errors that cost most are of the kind “{figures.TIDE[worst]}”: without them "
            f"TIDE's AP50, {figures.score(numbers['tide']['AP50'])}, would be "
            f"{figures.score(gains[worst])} higher."
        )
    pairs = numbers["confusion"]["pairs"]
    if pairs:
        first = pairs[0]
        said.append(
            f"Mixed up most: {names[first['category_id']]}, taken for "
            f"{names[first['taken_for']]} {figures.times(first['count'])}."
        )
    return said


def _without_objects(content: Mapping[str, Any]) -> list[str]:
    """Returns the classes that are not among the objects."""
    (numbers, *_) = content["kinds"].values()
    of_classes = numbers["average_precision"]["classes"]
    return [name for id_, name in content["classes"].items() if not of_classes[id_]["num_objects"]]


def _compared(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns for each kind what to say and show of the comparison."""
    compared = content["compared"]
    if compared is None:
        return []
    sections = []
    for kind, of_kind in compared["kinds"].items():
        differences = of_kind["differences"]
        sections.append(
            {
                "noun": NOUNS[kind],
                "sentences": [
                    comparison.sentence(name, differences[name])
                    for name in _COMPARED
                    if name in differences
                ],
                "table": _side_by_side(content, of_kind),
            }
        )
    return sections


def _side_by_side(content: Mapping[str, Any], of_kind: Mapping[str, Any]) -> charts.SortableTable:
    this, other = (of_kind["average_precision"][which] for which in ("this", "other"))
    differences = of_kind["differences"]

    def cells(name: str, key: str, one: float | None, two: float | None) -> list[charts.Value]:
        difference = differences.get(key)
        return [
            charts.Value(name),
            *(charts.Value(figures.score(value), value) for value in (one, two)),
            *_interval(difference),
        ]

    rows = [
        cells(
            name,
            f"AP/{content['classes'][id_]}",
            this["classes"][id_]["AP"],
            other["classes"][id_]["AP"],
        )
        for id_, name in content["classes"].items()
    ]
    total = cells("all", "AP", this["all"]["AP"], other["all"]["AP"])
    columns = [
        "class",
        content["name"],
        content["compared"]["name"],
        "difference",
        "95 % from",
        "95 % to",
        "more than chance",
    ]
    return charts.SortableTable("AP side by side", columns, rows, total)


def _interval(difference: Mapping[str, Any] | None) -> list[charts.Value]:
    if difference is None:
        return [charts.Value("-")] * 4
    bounds = [difference[key] for key in ("difference", "low", "high")]
    is_real = difference["is_significant"]
    return [
        *(charts.Value(f"{value:+.3f}", value) for value in bounds),
        charts.Value("yes" if is_real else "no", float(is_real)),
    ]
