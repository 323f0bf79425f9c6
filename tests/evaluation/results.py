"""Random ground truth and detections, and what pycocotools says about them."""

import contextlib
import copy
import io
import pathlib

from hypothesis import strategies as st
from pycocotools import coco, cocoeval, mask

from libra_tf.data.annotations import AnnotationFile
from libra_tf.evaluation import subject

SIZE = 240
# Ids are not in order; nothing is ever of the last class.
CLASSES = {7: "cat", 2: "dog", 9: "car", 4: "bus", 12: "none"}
SUPERCATEGORIES = {7: "animal", 2: "animal", 9: "vehicle", 4: "vehicle", 12: "other"}

# On a coarse grid many boxes overlap, IoUs are exactly 0.5, and all of COCO's sizes occur.
_BOXES = st.tuples(st.integers(0, 7), st.integers(0, 7), st.integers(1, 7), st.integers(1, 7)).map(
    lambda box: [8.0 * box[0], 8.0 * box[1], 16.0 * box[2], 16.0 * box[3]]
)
_CROWDS = st.sampled_from([0, 0, 0, 1])
_SCORES = st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.5, 0.75, 0.8, 1.0])


@st.composite
def subjects(draw, with_masks=False, min_objects=0, min_detections=0):
    """Draws a subject; detections are anywhere, or nearly on an object. An image has no objects."""
    class_ids = draw(st.sampled_from([[7], [7, 2], [7, 2, 9, 4]]))
    classes = st.sampled_from(class_ids)
    image_ids = draw(st.permutations([1, 3, 20]))
    objects = st.tuples(st.sampled_from(image_ids[:2]), classes, _BOXES)
    places = draw(st.lists(objects, min_size=min_objects, max_size=8))
    anywhere = st.tuples(st.sampled_from(image_ids), classes, _BOXES)
    near = st.sampled_from(places).flatmap(lambda place: _near(place, classes))
    found = draw(
        st.lists(
            st.tuples(st.one_of(near, near, anywhere) if places else anywhere, _SCORES),
            min_size=min_detections,
            max_size=14,
        )
    )
    annotations = [
        {"id": number, "iscrowd": draw(_CROWDS), **_entry(place, with_masks)}
        for number, place in enumerate(places, start=1)
    ]
    results = [{"score": score, **_entry(place, with_masks)} for place, score in found]
    return make(image_ids, annotations, results)


def make(image_ids, annotations, results):
    """Makes a subject with `CLASSES` and `SUPERCATEGORIES`."""
    images = [
        {"id": id_, "file_name": f"{id_}.jpg", "width": SIZE, "height": SIZE} for id_ in image_ids
    ]
    file = AnnotationFile(
        pathlib.Path("val.json"),
        "",
        images,
        annotations,
        CLASSES,
        supercategories=SUPERCATEGORIES,
    )
    return subject.make(file, results)


def evaluate(subject, kind, **params):
    """pycocotools' evaluation of a subject, which it does not modify."""
    truth, detections = copy.deepcopy(subject.truth), detections_of(subject, kind)
    return evaluate_coco(truth, detections, kind, **params)


def detections_of(subject, kind):
    """A copy of the detections, in which masks have their own areas."""
    detections = copy.deepcopy(subject.detections)
    if kind == "bbox" or not detections.anns:
        return detections
    # As others do: if there are boxes, loadRes takes their areas for those of the masks.
    found = [{k: v for k, v in e.items() if k != "bbox"} for e in detections.anns.values()]
    with contextlib.redirect_stdout(io.StringIO()):
        return copy.deepcopy(subject.truth).loadRes(found)


def evaluate_coco(truth, detections, kind, **params):
    """pycocotools' evaluation, with some of its parameters."""
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = cocoeval.COCOeval(truth, detections, kind)
        for name, value in params.items():
            setattr(evaluation.params, name, value)
        evaluation.evaluate()
        evaluation.accumulate()
        if not params:
            evaluation.summarize()
    return evaluation


def with_changed(source, change):
    """A copy of COCO's annotations, each of which was given to `change`; None leaves one out."""
    changed = coco.COCO()
    entries = [change(copy.deepcopy(entry)) for entry in source.dataset["annotations"]]
    entries = [entry for entry in entries if entry is not None]
    with contextlib.redirect_stdout(io.StringIO()):
        changed.dataset = {**source.dataset, "annotations": entries}
        changed.createIndex()
    return changed


def expected(value):
    """None for pycocotools' mark of what is undefined."""
    return None if value == -1 else value


def _near(place, classes):
    """The same place, or one that is a little off; half of them of any class."""
    image_id, class_id, (x, y, width, height) = place
    moved = st.sampled_from([0.0, 0.0, 4.0])
    scaled = st.sampled_from([1.0, 1.0, 0.5, 0.25])
    boxes = st.builds(
        lambda *by: [x + by[0], y + by[1], width * by[2], height * by[3]],
        *(moved, moved, scaled, scaled),
    )
    return st.tuples(st.just(image_id), st.one_of(st.just(class_id), classes), boxes)


def _entry(place, with_masks):
    image_id, class_id, box = place
    entry = {"image_id": image_id, "category_id": class_id, "bbox": box}
    if with_masks:
        x, y, width, height = box
        # Less than the box, so that masks do not overlap as boxes do.
        triangle = [x, y, x + width, y, x, y + height]
        entry["segmentation"] = mask.frPyObjects([triangle], SIZE, SIZE)[0]
    return entry
