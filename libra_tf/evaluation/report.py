"""From detections to files: every number, the page, and the detections themselves."""

import dataclasses
import json
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeAlias

from libra_tf import atomic
from libra_tf.cli import outputs
from libra_tf.cli.errors import UsageError, first_line
from libra_tf.cli.progress import Progress
from libra_tf.data.annotations import FEDERATED_KEYS, AnnotationFile
from libra_tf.evaluation import (
    average_precision,
    comparison,
    export_command,
    figures,
    matching,
    measures,
    page,
    pictures,
    records,
)
from libra_tf.evaluation import subject as subjects
from libra_tf.evaluation.measures import Measured
from libra_tf.evaluation.records import Record
from libra_tf.evaluation.subject import Subject

# Reads the files of some images, JPEG or PNG, by id; without those that it cannot read.
ReadImages: TypeAlias = Callable[[Collection[int]], Mapping[int, bytes]]

_NUM_PAIRS = 6
_NUM_DRAWS = 1000


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What is to be reported on.

    Attributes:
      name: what the page calls the detector.
      model: where the detector is from, such as its checkpoint.
      annotations: where the ground truth is from, as the user calls it.
      truth: the ground truth.
      results: the detections, in COCO's results format. Those of classes that the ground truth
        does not list are left out, and the page says so.
      image_ids: the images that the detector was run on.
      read_images: reads those that are drawn.
      training_objects: the number of objects in training by category id; None if unknown.
      score_threshold: see `measures.measure`.
      export_names: what `libra-tf export` calls the detector's classes, by category id; see
        `export_command.of`. None if they are those of the ground truth.
      read_compared: reads another evaluation of the same images to compare with; None for none.
    """

    name: str
    model: str
    annotations: str
    truth: AnnotationFile
    results: Sequence[dict[str, Any]]
    image_ids: Collection[int]
    read_images: ReadImages
    training_objects: Mapping[int, int] | None = None
    score_threshold: float | None = None
    export_names: Mapping[int, str] | None = None
    read_compared: Callable[[], Record] | None = None


def write(
    evaluation: Evaluation, output_dir: str, progress: Progress
) -> tuple[Subject, dict[str, dict[str, float | None]]]:
    """Measures, and writes `evaluation.html`, `evaluation.json` and `detections.json`.

    If the other evaluation cannot be compared with, the page says why: the rest of it took long.

    Args:
      evaluation: what to report on.
      output_dir: an existing local or remote folder.
      progress: shows what is being done.

    Returns:
      What was evaluated; and by kind (`bbox`, `segm`), pycocotools' twelve numbers, see
      `average_precision.measure`.

    Raises:
      UsageError: if a detection belongs to another image, the threshold does not lie in [0, 1], or
        a file cannot be written.
    """
    subject = _subject(evaluation.truth, evaluation.results, evaluation.image_ids)
    measured = {}
    for kind in subject.kinds:
        progress.note(f"evaluation page: measuring {page.NOUNS[kind]}")
        measured[kind] = measures.measure(subject, kind, evaluation.score_threshold, progress)
    compared = _compared(evaluation, subject, measured, progress)
    encoded = records.encode_results(evaluation.results)
    content = _content(evaluation, subject, measured, encoded) | compared
    export_names = evaluation.export_names
    if export_names is None:
        export_names = export_command.names_in_flag(evaluation.truth.class_names)
    html = page.render(content, _drawings(measured, evaluation.read_images), export_names)
    files = {
        records.RESULTS: encoded,
        # Before the page, so that it never comes without its numbers.
        records.NUMBERS: json.dumps(content, allow_nan=False) + "\n",
        records.PAGE: html,
    }
    for name, text in files.items():
        path = os.path.join(output_dir, name)
        with outputs.writing(path):
            atomic.write_file(path, text)
    return subject, {kind: of.numbers["average_precision"]["all"] for kind, of in measured.items()}


def _subject(
    truth: AnnotationFile, results: Sequence[dict[str, Any]], image_ids: Collection[int]
) -> Subject:
    return subjects.make(truth, subjects.of_listed_classes(results, truth), image_ids)


def _content(
    evaluation: Evaluation,
    subject: Subject,
    measured: Mapping[str, Measured],
    encoded: str,
) -> dict[str, Any]:
    """Returns what `evaluation.json` holds of one detector; `encoded` is the file of detections."""
    image_ids = subject.image_ids
    return {
        "format": records.FORMAT,
        "name": evaluation.name,
        "model": evaluation.model,
        "annotations": evaluation.annotations,
        "num_images": len(image_ids),
        "num_listed_images": len(evaluation.truth.images),
        "num_detections": len(subject.detections.anns),
        "num_detections_of_other_classes": len(evaluation.results) - len(subject.detections.anns),
        "why_no_masks": subject.why_no_masks,
        "is_federated": _is_federated(subject),
        "image_ids": image_ids,
        "truth_digest": records.digest_of_truth(evaluation.truth, image_ids),
        "detections_digest": records.digest_of_results(encoded),
        "classes": subject.class_names,
        "training_objects": evaluation.training_objects,
        "kinds": {kind: of.numbers for kind, of in measured.items()},
    }


def _is_federated(subject: Subject) -> bool:
    """Returns whether images say which classes were looked for, which only LVIS' AP reads."""
    return any(
        image.get(key) is not None
        for image in subject.truth.imgs.values()
        for key in FEDERATED_KEYS
    )


def _compared(
    evaluation: Evaluation, subject: Subject, measured: Mapping[str, Measured], progress: Progress
) -> dict[str, Any]:
    """Returns what `evaluation.json` holds of the comparison: its numbers, or why it has none."""
    compared, why_not = None, ""
    if evaluation.read_compared is not None:
        try:
            record = evaluation.read_compared()
            compared = _compare(evaluation, record, subject, measured, progress)
        except UsageError as reason:
            why_not = first_line(reason)
            progress.note(f"evaluation page: without a comparison, {why_not}")
    return {"compared": compared, "why_not_compared": why_not}


def _compare(
    evaluation: Evaluation,
    record: Record,
    subject: Subject,
    measured: Mapping[str, Measured],
    progress: Progress,
) -> dict[str, Any]:
    """Compares in the images that both have detected in; see `comparison.compare`."""
    records.check_same_truth(record, evaluation.truth, evaluation.image_ids)
    common = sorted(set(record.image_ids) & set(subject.image_ids))
    ids = subjects.same_classes(record.class_names, subject.class_names)
    others = [
        {**result, "category_id": ids[result["category_id"]]}
        for result in record.results
        if result["category_id"] in ids
    ]
    own = subject
    if common != subject.image_ids:
        own = _subject(evaluation.truth, evaluation.results, common)
    other = _subject(evaluation.truth, others, common)
    kinds = {}
    for kind in own.kinds:
        if kind not in other.kinds:
            continue
        # Matching takes longest, and in all images it is done already.
        own_matches = (
            measured[kind].matches if own is subject else matching.match(own, kind, progress)
        )
        matches = [own_matches, matching.match(other, kind, progress)]
        kinds[kind] = {
            "differences": comparison.compare(
                own, other, kind, _NUM_DRAWS, progress=progress, matches=matches
            ),
            "average_precision": {
                which: average_precision.measure(of)
                for which, of in zip(("this", "other"), matches, strict=True)
            },
        }
    is_same_run = record.name == evaluation.name
    return {
        "name": f"{record.name}, {os.path.basename(record.model)}" if is_same_run else record.name,
        "folder": record.folder,
        "num_images": len(common),
        "num_draws": _NUM_DRAWS,
        "kinds": kinds,
    }


def _drawings(measured: Mapping[str, Measured], read_images: ReadImages) -> dict[str, page.Drawn]:
    """Draws the pairs of classes mixed up most and the worst images."""
    examples = {
        kind: [
            (pair, pair["examples"][0]) for pair in of.numbers["confusion"]["pairs"][:_NUM_PAIRS]
        ]
        for kind, of in measured.items()
    }
    worst = {kind: of.numbers["worst_images"]["worst"] for kind, of in measured.items()}
    wanted = {example["image_id"] for of in examples.values() for _, example in of}
    wanted.update(image for of in worst.values() for image in of)
    images = read_images(wanted) if wanted else {}
    drawn = {}
    for kind, of in measured.items():
        names = of.found.subject.class_names
        entries = of.found.subject.truth.imgs
        errors = of.numbers["worst_images"]["images"]
        drawn[kind] = page.Drawn(
            [
                pictures.crop(
                    of.found,
                    example,
                    images[example["image_id"]],
                    f"{names[pair['category_id']]} taken for {names[pair['taken_for']]}, "
                    f"{figures.times(pair['count'])}; this one in "
                    f"{entries[example['image_id']]['file_name']}",
                )
                for pair, example in examples[kind]
                if example["image_id"] in images
            ],
            [
                pictures.whole(
                    of.found,
                    image,
                    images[image],
                    f"{entries[image]['file_name']}: {figures.listed_errors(errors[image])}",
                )
                for image in worst[kind]
                if image in images
            ],
        )
    return drawn
