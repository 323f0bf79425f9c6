"""One label file of YOLO's format.

Each line is an object: its class, counted from 0, and either the centre and size of its box
(`x y width height`) or the corners of its outline (`x1 y1 x2 y2 x3 y3 ...`), as fractions of the
image's width and height.
"""

import math
from typing import Any

from libra_tf.data.json_files import shown
from libra_tf.data.problems import FindingLog

MOST_CLASSES = 100_000
_BOX = 4
_SMALLEST_OUTLINE = 6
# Exporters round: Ultralytics lets coordinates lie this far outside the image, too.
_SLACK = 0.01


def parse(
    encoded: bytes,
    size: tuple[int, int],
    num_classes: int,
    place: str,
    problems: FindingLog,
) -> list[dict[str, Any]]:
    """Reads the objects in a label file.

    Args:
      encoded: the content of the file.
      size: the image's width and height in pixels, as the picture is seen.
      num_classes: how many classes `data.yaml` names.
      place: the file, for messages.
      problems: receives every mistake.

    Returns:
      For each object without a mistake `category_id` (from 1), `bbox` (`[x, y, width, height]` in
      pixels) and, if it has an outline, `segmentation` (COCO's list of one polygon, in pixels).
    """
    try:
        lines = encoded.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        problems.add("label file is not UTF-8 text", place)
        return []
    objects = []
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if not words:
            continue
        complaint, values = _read(words, num_classes)
        if complaint:
            problems.add(complaint, f"{place}, line {number}: {shown(line)}")
        else:
            objects.append(_object(values, *size))
    return objects


def _read(words: list[str], num_classes: int) -> tuple[str | None, list[float]]:
    """Returns what is wrong with a line, `None` if nothing, and the numbers in it."""
    try:
        values = [float(word) for word in words]
    except ValueError:
        return "label is not a line of numbers", []
    label, *coordinates = values
    if not all(map(math.isfinite, values)):
        return "label holds a number that is not finite", []
    if label != int(label) or not 0 <= label < num_classes:
        return (
            f"class of a label must be one of 0..{num_classes - 1}, the classes in data.yaml",
            [],
        )
    is_outline = len(coordinates) >= _SMALLEST_OUTLINE and len(coordinates) % 2 == 0
    if len(coordinates) != _BOX and not is_outline:
        return (
            "label must be a class and x y width height, or a class and three or more points of "
            "an outline",
            [],
        )
    if not all(-_SLACK <= value <= 1 + _SLACK for value in coordinates):
        return (
            "coordinates must be fractions of the image's width and height, from 0 to 1",
            [],
        )
    return None, values


def _object(values: list[float], width: int, height: int) -> dict[str, Any]:
    label, *coordinates = values
    found = {"category_id": int(label) + 1}
    if len(coordinates) == _BOX:
        x, y, box_width, box_height = coordinates
        edges = (x - box_width / 2) * width, (y - box_height / 2) * height
        return {**found, "bbox": [*edges, box_width * width, box_height * height]}
    xs = [x * width for x in coordinates[0::2]]
    ys = [y * height for y in coordinates[1::2]]
    outline = [value for point in zip(xs, ys, strict=True) for value in point]
    box = [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
    return {**found, "bbox": box, "segmentation": [outline]}
