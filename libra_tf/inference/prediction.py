"""Detects objects in files on disk: pictures, COCO results and a summary."""

import collections
import contextlib
import dataclasses
import json
import os
import pathlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import rich.console

from libra_tf import atomic
from libra_tf.cli import image_files, outputs
from libra_tf.cli.errors import UsageError, listed
from libra_tf.cli.image_files import ImageFile
from libra_tf.cli.progress import Progress
from libra_tf.data import images as data_images
from libra_tf.data.annotations import AnnotationFile
from libra_tf.evaluation import export_command, lvis_ap, metrics, records, subject
from libra_tf.evaluation import report as evaluation_report
from libra_tf.evaluation.report import ReadImages
from libra_tf.inference import (
    coco_results,
    detecting,
    ground_truth,
    local,
    tflite_detector,
    tiling,
    video,
)
from libra_tf.inference.answers import Answer
from libra_tf.inference.ground_truth import GroundTruth
from libra_tf.runs.folder import PARAMS
from libra_tf.serving import images as serving_images

RESULTS = records.RESULTS
PICTURES = "pictures"
_Detector = local.LocalDetector | tflite_detector.TFLiteDetector | tiling.TiledDetector
_MOST_NAMES = 10
_SHOWN_METRICS = ("AP", "AP50", "AP75")


def predict(
    model: str,
    images: Sequence[ImageFile],
    output_dir: str,
    checkpoint: str | None = None,
    annotations: str | None = None,
    draw: bool = True,
    draw_threshold: float = 0.4,
    batch_size: int = 1,
    max_pixels: int | None = None,
    asked_precision: str | None = None,
    tiles: int | None = None,
    writes_page: bool = True,
    report_threshold: float | None = None,
    compare: str | None = None,
    report: Callable[[str], None] = print,
    more_metrics: Sequence[str] = (),
    frequency_limits: tuple[int, int] = lvis_ap.LIMITS,
) -> int:
    """Detects objects in images, and writes and draws the detections.

    `output_dir/detections.json` holds all detections (see `coco_results.to_results`). It replaces
    an earlier file when detection ends, even if it is interrupted. `output_dir/pictures` holds the
    images with the detections drawn. Photographs are turned upright by their EXIF orientation, and
    boxes and pictures are those of the upright image; with annotations that belong to the pixels as
    they are stored, which all but YOLO's do, nothing is turned.

    Args:
      model: folder of a run or of a SavedModel; see `local.open_detector`.
      images: the files.
      output_dir: folder for the results; created if it does not exist.
      checkpoint: a checkpoint of the run; None for the newest.
      annotations: COCO annotation file, or a data set's folder for its validation images; see
        `ground_truth.read`. Only the images that it lists are used, with its ids, and the average
        precision is measured. Classes are the same if their names are, and the detections get the
        ids that the annotations give them. None to use all images and number them from 1.
      draw: whether to draw the detections.
      draw_threshold: detections with a lower score are neither drawn nor counted in the summary.
      batch_size: images in one batch.
      max_pixels: images with more pixels are refused; None for the default of `open_detector`.
      asked_precision: what the network computes in; see `open_detector`.
      tiles: height and width in pixels of the tiles in which larger images are looked at; None for
        whole images. See `tiling`.
      writes_page: whether to write the page of the evaluation beside the detections, if there are
        annotations.
      report_threshold: see `libra_tf.evaluation.measures.measure`.
      compare: folder of another evaluation of the same images to show on the page; None for none.
      report: receives progress lines and, at the end, a summary.
      more_metrics: what to measure beside COCO's average precision; see `metrics.measure`.
      frequency_limits: see `lvis_ap.evaluate`.

    Returns:
      How many images could not be read or drawn. The summary names them.

    Raises:
      UsageError: if the model cannot be loaded or does not take `max_pixels`, the folder cannot be
        written or is that of a run, the annotations list none of the images, or `compare` was
        evaluated on others.
      DatasetError: if the annotations contain mistakes.
    """
    asked = _prepare(model, images, output_dir, annotations, compare, draw, report)
    detector = _open_detector(model, checkpoint, max_pixels, asked_precision, tiles)
    renumbered = _renumbering(detector, asked.truth) if asked.truth else {}
    # Only now, so that a model that cannot be loaded leaves no folder behind.
    outputs.make_folder("--output_dir", output_dir)
    report(f"detecting with {detector.source}")
    found = _detect_and_write(detector, asked, renumbered, output_dir, batch_size, draw_threshold)
    for line in found.summary.lines():
        report(line)
    if asked.truth:
        evaluation = _evaluation(asked, found, model, detector, report_threshold)
        page_dir = output_dir if writes_page else None
        for line in _evaluate(evaluation, page_dir, more_metrics, frequency_limits):
            report(line)
    for line in _closing_lines(asked, found.summary.problems, output_dir):
        report(line)
    return len(found.summary.problems)


def predict_video(
    model: str,
    source: pathlib.Path | Sequence[ImageFile],
    output_dir: str,
    frames_per_second: int | None = None,
    checkpoint: str | None = None,
    draw_threshold: float = 0.4,
    batch_size: int = 1,
    max_pixels: int | None = None,
    asked_precision: str | None = None,
    tiles: int | None = None,
    report: Callable[[str], None] = print,
) -> None:
    """Detects objects in a video, and writes a video with the detections drawn.

    `output_dir/NAME.mp4` is the video, and `output_dir/detections.json` holds all detections, as in
    `predict`; `image_id` is the number of the frame, from 1. If detection is interrupted or fails,
    both hold the frames until then.

    Args:
      model: see `predict`.
      source: a video file, or image files that are its frames.
      output_dir: folder for the results; created if it does not exist.
      frames_per_second: of a video made of image files; a video file has its own.
      checkpoint: see `predict`.
      draw_threshold: see `predict`.
      batch_size: frames in one batch.
      max_pixels: see `predict`.
      asked_precision: see `predict`.
      tiles: see `predict`.
      report: see `predict`.

    Raises:
      UsageError: if the model or the video cannot be read, PyAV is not installed, the folder
        cannot be written or is that of a run, or another video would be replaced.
    """
    video.import_av()
    _check_folder(output_dir)
    is_file = isinstance(source, pathlib.Path)
    name = source.stem if is_file else "video"
    target = pathlib.Path(output_dir, f"{name}.mp4")
    if is_file and target.exists() and os.path.samefile(source, target):
        raise UsageError(f"--output_dir={output_dir} would replace {source}; name another folder")
    video.check_may_replace(target)
    images = [] if is_file else [image.path for image in source]
    opened = (
        video.opened(source)
        if is_file
        else contextlib.nullcontext(video.of_images(images, frames_per_second))
    )
    with opened as read:
        detector = _open_detector(model, checkpoint, max_pixels, asked_precision, tiles)
        outputs.make_folder("--output_dir", output_dir)
        report(f"detecting with {detector.source}")
        summary = _write_video(read, detector, target, name, draw_threshold, batch_size)
    for line in summary.lines():
        report(line)
    report(f"results: {os.path.join(output_dir, RESULTS)}")
    report(f"video: {target}")


@dataclasses.dataclass(frozen=True)
class _Asked:
    """What to detect in, and what to compare the detections with; all of it checked.

    Attributes:
      image_ids: the images, with their ids.
      pictures: where to draw the detections in each; None for no pictures.
      annotations: where the ground truth is from, as the user calls it; None without any.
      truth: the ground truth; None without any.
      compared: another evaluation of the same images; None for none.
    """

    image_ids: Mapping[ImageFile, int]
    pictures: Sequence[pathlib.Path] | None
    annotations: str | None
    truth: AnnotationFile | None
    compared: records.Record | None


@dataclasses.dataclass(frozen=True)
class _Found:
    """What was detected.

    Attributes:
      summary: the detections, counted, and the problems.
      results: the detections, in COCO's results format.
      image_ids: the images that were detected in.
    """

    summary: "_Summary"
    results: Sequence[dict[str, Any]]
    image_ids: Sequence[int]


def _prepare(
    model: str,
    images: Sequence[ImageFile],
    output_dir: str,
    annotations: str | None,
    compare: str | None,
    draw: bool,
    report: Callable[[str], None],
) -> _Asked:
    """Reads and checks all that needs no detector; writes nothing."""
    _check_folder(output_dir)
    truth, image_ids = None, {image: number for number, image in enumerate(images, start=1)}
    compared = records.read(compare) if compare else None
    if annotations:
        found = ground_truth.read(annotations, model, report)
        truth, image_ids = found.file, _listed_in(found, images, report)
    if compared:
        records.check_same_truth(compared, truth, image_ids.values())
    pictures = (
        image_files.name_pictures(list(image_ids), os.path.join(output_dir, PICTURES))
        if draw
        else None
    )
    return _Asked(image_ids, pictures, annotations, truth, compared)


def _check_folder(output_dir: str) -> None:
    outputs.require_local("--output_dir", output_dir)
    if os.path.exists(os.path.join(output_dir, PARAMS)):
        raise UsageError(
            f"--output_dir={output_dir} is the folder of a run, whose evaluation would be "
            "replaced; name another folder"
        )


def _open_detector(
    model: str,
    checkpoint: str | None,
    max_pixels: int | None,
    asked_precision: str | None,
    tiles: int | None,
) -> _Detector:
    if tiles is None:
        return local.open_detector(model, checkpoint, max_pixels, asked_precision)
    # The limit is that of the whole image; a tile has the detector's own.
    detector = local.open_detector(model, checkpoint, None, asked_precision)
    return tiling.TiledDetector(detector, tiles, max_pixels or serving_images.MAX_PIXELS)


def _write_video(
    read: video.Video,
    detector: _Detector,
    target: pathlib.Path,
    name: str,
    draw_threshold: float,
    batch_size: int,
) -> "_Summary":
    """Detects and draws, frame by frame; writes what was found, even if it is interrupted."""
    summary, detections = _Summary(draw_threshold), []
    progress = Progress(rich.console.Console())
    progress.start("detecting", read.length, unit="frame")
    found = video.detect(read, detector, batch_size, detector.normalized_boxes)
    number = 0
    try:
        with video.writer(target, read.frames_per_second) as written:
            for number, (frame, answer) in enumerate(found, start=1):
                summary.count(answer)
                detections += coco_results.to_results(answer, number, f"{name}#{number}")
                written.add(answer.draw_on(frame, draw_threshold))
                progress.advance(number, images=1)
    except BaseException:
        # Without a frame, earlier results stay, as an earlier video does.
        if number:
            _write_results(str(target.parent), detections)
        raise
    finally:
        progress.stop()
    _write_results(str(target.parent), detections)
    return summary


def _write_results(output_dir: str, detections: list[dict[str, Any]]) -> None:
    path = os.path.join(output_dir, RESULTS)
    with outputs.writing(path):
        records.discard(output_dir)
        atomic.write_file(path, json.dumps(detections))


def _listed_in(
    truth: GroundTruth, images: Sequence[ImageFile], report: Callable[[str], None]
) -> dict[ImageFile, int]:
    """Returns the images that the annotations list, with their ids."""
    path, root = truth.file.path, truth.image_root
    listed = {_place(image["file_name"], root): image["id"] for image in truth.file.images}
    # Where their folder is known, a file of the same name elsewhere is another image.
    places = {image: _place(image.path if root else image.name, root) for image in images}
    found = {image: listed[place] for image, place in places.items() if place in listed}
    if len(set(found.values())) < len(found):
        raise UsageError(
            "several images have the same name in different folders; name only one folder"
        )
    if not found:
        there = root or "the folder that its file names are relative to"
        raise UsageError(
            f"--annotations={path} lists none of the images, such as {images[0].name}; name {there}"
        )
    if len(found) < len(images):
        report(f"{len(images) - len(found)} images are not listed in {path} and are skipped")
    return found


def _place(name: str | pathlib.PurePath, root: pathlib.Path | None) -> str:
    """Returns what tells an image from others: its path or, without a folder, its name."""
    return os.path.realpath(root / name) if root else pathlib.PurePath(name).as_posix()


def _renumbering(detector: _Detector, truth: AnnotationFile) -> dict[int, int]:
    """Returns the annotations' ids of a detector's classes; empty if they are the detector's own.

    They are not if an id of the detector stands for another class in the annotations: what has it
    would count as that class.

    Raises:
      UsageError: if they have no class in common.
    """
    same = subject.same_classes(detector.class_names, truth.class_names)
    if not same:
        raise UsageError(
            f"--annotations={truth.path} lists none of the classes that the detector knows: "
            f"{listed(list(detector.class_names.values()), _MOST_NAMES)}"
        )
    in_both = detector.class_names.keys() & truth.class_names.keys()
    return {} if all(same.get(id_) == id_ for id_ in in_both | same.keys()) else same


def _detect_and_write(
    detector: _Detector,
    asked: _Asked,
    renumbered: Mapping[int, int],
    output_dir: str,
    batch_size: int,
    draw_threshold: float,
) -> _Found:
    """Detects in all images, and writes what was found, even if it is interrupted."""
    summary, detections, answered = _Summary(draw_threshold), [], []
    try:
        for result in _detect(detector, asked, batch_size, draw_threshold):
            summary.add(result)
            if result.answer:
                image_id = asked.image_ids[result.file]
                answered.append(image_id)
                name = result.file.name.as_posix()
                found = coco_results.to_results(result.answer, image_id, name)
                detections += coco_results.renumber(found, renumbered) if renumbered else found
    finally:
        _write_results(output_dir, detections)
    return _Found(summary, detections, answered)


def _detect(
    detector: _Detector, asked: _Asked, batch_size: int, draw_threshold: float
) -> Iterator[detecting.Result]:
    """Yields the results as they come, and shows the progress."""
    progress = Progress(rich.console.Console())
    progress.start("detecting", len(asked.image_ids), unit="image")
    results = detecting.detect(
        detector,
        list(asked.image_ids),
        asked.pictures,
        batch_size,
        # One thread draws while the other detects.
        concurrency=2,
        is_normalized=detector.normalized_boxes,
        draw_threshold=draw_threshold,
        turn_upright=asked.truth is None or asked.truth.is_upright,
    )
    try:
        for done, result in enumerate(results, start=1):
            yield result
            progress.advance(done, images=1)
    finally:
        progress.stop()


class _Summary:
    """Counts detections; keeping them all, with their masks, would fill the memory.

    Args:
      threshold: detections with a lower score are not counted.

    Attributes:
      problems: a line for each image with a problem.
    """

    def __init__(self, threshold: float) -> None:
        self.problems: list[str] = []
        self._threshold = threshold
        self._num_images = 0
        self._detections, self._images = collections.Counter(), collections.Counter()

    def add(self, result: detecting.Result) -> None:
        """Counts the detections of an image."""
        if result.problem:
            self.problems.append(f"{result.file.path}: {result.problem}")
        if result.answer:
            self.count(result.answer)
        else:
            self._num_images += 1

    def count(self, answer: Answer) -> None:
        """Counts an image and the detections in it."""
        self._num_images += 1
        names = [str(name) for name in answer.names[answer.scores >= self._threshold]]
        self._detections.update(names)
        self._images.update(set(names))

    def lines(self) -> Iterator[str]:
        """Yields a total and then a line for each class, the most frequent first."""
        yield (
            f"{self._num_images} images, {sum(self._detections.values())} detections with a score "
            f"of {self._threshold:g} or more"
        )
        width = max(map(len, self._detections), default=0)
        for name, number in self._detections.most_common():
            yield f"  {name:<{width}}  {number} in {self._images[name]} images"


def _evaluation(
    asked: _Asked, found: _Found, model: str, detector: _Detector, score_threshold: float | None
) -> evaluation_report.Evaluation:
    ids = subject.same_classes(detector.class_names, asked.truth.class_names)
    names = export_command.names_in_flag(detector.class_names)
    return evaluation_report.Evaluation(
        name=os.path.basename(os.path.abspath(model)),
        model=detector.source,
        annotations=asked.annotations,
        truth=asked.truth,
        results=found.results,
        image_ids=found.image_ids,
        read_images=_reader(asked.image_ids, asked.truth),
        training_objects=records.read_training_objects(model, asked.truth.class_names),
        score_threshold=score_threshold,
        export_names={id_: names[own_id] for own_id, id_ in ids.items()},
        read_compared=(lambda: asked.compared) if asked.compared else None,
    )


def _reader(image_ids: Mapping[ImageFile, int], truth: AnnotationFile) -> ReadImages:
    files = {image_id: image.path for image, image_id in image_ids.items()}

    def read(wanted: Collection[int]) -> dict[int, bytes]:
        found = {}
        for image_id in wanted:
            # It could be read a moment ago; the page can do without.
            with contextlib.suppress(OSError, data_images.ImageError):
                encoded = files[image_id].read_bytes()
                found[image_id] = data_images.as_jpeg_or_png(encoded, truth.is_upright)
        return found

    return read


def _evaluate(
    evaluation: evaluation_report.Evaluation,
    page_dir: str | None,
    more_metrics: Sequence[str],
    frequency_limits: tuple[int, int],
) -> Iterator[str]:
    """Measures, writes the page if there is a folder for it, and yields what to say."""
    truth, image_ids = evaluation.truth, evaluation.image_ids
    if page_dir:
        progress = Progress(rich.console.Console())
        made, measured = evaluation_report.write(evaluation, page_dir, progress)
        yield _precision(truth, coco_results.to_metrics(measured), image_ids)
        yield f"evaluation page: {os.path.join(page_dir, records.PAGE)}"
    else:
        known = subject.of_listed_classes(evaluation.results, truth)
        made = subject.make(truth, known, image_ids)
        yield _precision(truth, coco_results.measure(made), image_ids)
    if made.why_no_masks:
        yield made.why_no_masks
    if more_metrics:
        more = metrics.measure(
            made,
            more_metrics,
            ground_truth.count_training_images(evaluation.annotations),
            frequency_limits,
        )
        yield from metrics.lines(more)


def _precision(
    truth: AnnotationFile, metrics: Mapping[str, float], image_ids: Sequence[int]
) -> str:
    """Returns a line with the average precision."""
    shown = [name for name in metrics if name.removeprefix("mask_") in _SHOWN_METRICS]
    values = ", ".join(f"{name} {metrics[name]:.4f}" for name in shown)
    return f"{values} on {len(image_ids)} of the {len(truth.images)} images of {truth.path}"


def _closing_lines(asked: _Asked, problems: Sequence[str], output_dir: str) -> Iterator[str]:
    """Yields where everything is, and which images had problems."""
    yield f"results: {os.path.join(output_dir, RESULTS)}"
    if asked.pictures:
        yield f"pictures: {os.path.join(output_dir, PICTURES)}"
    if problems:
        yield f"{len(problems)} of {len(asked.image_ids)} images had problems:"
    for problem in problems:
        yield f"  {problem}"
