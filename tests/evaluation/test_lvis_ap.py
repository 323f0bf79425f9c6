"""AP as LVIS defines it, against LVIS' own package."""

import contextlib
import copy
import io
import json
import pathlib

import lvis
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import cocoeval
from pycocotools import mask as mask_api

from libra_tf.data.annotations import AnnotationFile, read_annotation_file
from libra_tf.data.problems import FindingLog
from libra_tf.evaluation import lvis_ap, subject

pytestmark = pytest.mark.one_lane

SIZE = 160
FREQUENCIES = {1: "f", 2: "r", 4: "c", 7: "r", 8: "f"}
CLASSES = {id_: f"class {id_}" for id_ in FREQUENCIES}


@pytest.fixture(autouse=True, scope="module")
def old_numpy_name():
    with pytest.MonkeyPatch.context() as patch:
        # The package is older than NumPy 1.24.
        patch.setattr(np, "float", float, raising=False)
        yield


def box(generator):
    return [float(v) for v in [*generator.integers(0, 80, 2), *generator.integers(5, 80, 2)]]


def polygon(bbox):
    x, y, width, height = bbox
    return [[x, y, x + width, y, x + width, y + height, x, y + height]]


def dataset(generator, num_images, is_federated=True, with_crowds=False):
    """Objects of some classes in each image; a COCO file's content."""
    images, objects = [], []
    for number in range(1, num_images + 1):
        image = {"id": number, "file_name": f"{number}.jpg", "width": SIZE, "height": SIZE}
        present = generator.choice(list(CLASSES), generator.integers(4), replace=False).tolist()
        for category_id in present:
            for bbox in (box(generator) for _ in range(generator.integers(1, 4))):
                entry = {"image_id": number, "category_id": category_id, "bbox": bbox}
                if with_crowds:
                    entry["iscrowd"] = int(generator.random() < 0.2)
                area = {"area": bbox[2] * bbox[3], "segmentation": polygon(bbox)}
                objects.append({"id": len(objects) + 1, **entry, **area})
        if is_federated:
            absent = [id_ for id_ in CLASSES if id_ not in present]
            image["neg_category_ids"] = [id_ for id_ in absent if generator.random() < 0.5]
            image["not_exhaustive_category_ids"] = [
                id_ for id_ in CLASSES if generator.random() < 0.3
            ]
        images.append(image)
    categories = [
        {"id": id_, "name": name, **({"frequency": FREQUENCIES[id_]} if is_federated else {})}
        for id_, name in CLASSES.items()
    ]
    return {"images": images, "annotations": objects, "categories": categories}


def detect(generator, content):
    """Detections near the objects and elsewhere; many have the same score."""
    places = [(e["image_id"], e["category_id"], e["bbox"]) for e in content["annotations"]]
    places = [p for p in places if generator.random() < 0.8]
    for image in content["images"]:
        for _ in range(generator.integers(8)):
            places.append((image["id"], int(generator.choice(list(CLASSES))), box(generator)))
    results = []
    for index in generator.permutation(len(places)):
        image_id, category_id, bbox = places[index]
        moved = [float(v) for v in np.maximum(np.add(bbox, generator.normal(0, 3, 4)), 1)]
        rles = mask_api.frPyObjects(polygon(moved), SIZE, SIZE)
        results.append(
            {
                "image_id": image_id,
                "category_id": category_id,
                "bbox": moved,
                "score": float(generator.integers(1, 12) / 12),
                "segmentation": mask_api.merge(rles),
            }
        )
    return results


def read(content, folder):
    path = pathlib.Path(folder, "instances_val.json")
    path.write_text(json.dumps(content))
    found = FindingLog()
    file = read_annotation_file(path, found)
    found.raise_if_any(path)
    return file


def by_lvis(path, results, kind, max_detections):
    truth = lvis.LVIS(str(path))
    results = copy.deepcopy(results)
    for result in results if kind == "segm" else ():
        # If there are boxes, the package takes their areas for those of the masks.
        del result["bbox"]
    detections = lvis.LVISResults(truth, results, max_dets=max_detections)
    evaluation = lvis.LVISEval(truth, detections, kind)
    evaluation.run()
    return {name: value for name, value in evaluation.results.items() if name.startswith("AP")}


@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 8),
    st.sampled_from([3, 300]),
    st.sampled_from(["bbox", "segm"]),
)
@settings(deadline=None, max_examples=50)
def test_it_is_that_of_the_package(tmp_path_factory, seed, num_images, max_detections, kind):
    generator = np.random.default_rng(seed)
    content = dataset(generator, num_images)
    results = detect(generator, content)
    if not results or not content["annotations"]:
        return
    file = read(content, tmp_path_factory.mktemp("data"))
    found = lvis_ap.evaluate(subject.make(file, results), kind, max_detections=max_detections)
    expected = by_lvis(file.path, results, kind, max_detections)
    assert found == pytest.approx(expected, abs=1e-6)


@given(st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=10)
def test_a_file_that_is_not_federated_is_evaluated_as_by_coco(tmp_path_factory, seed):
    generator = np.random.default_rng(seed)
    content = dataset(generator, 6, is_federated=False, with_crowds=True)
    made = subject.make(read(content, tmp_path_factory.mktemp("data")), detect(generator, content))
    found = lvis_ap.evaluate(made, "bbox")
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = cocoeval.COCOeval(made.truth, made.detections, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    names = ("AP", "AP50", "AP75", "APs", "APm", "APl")
    assert found == pytest.approx(dict(zip(names, evaluation.stats, strict=False)), abs=1e-6)


def made_of_one_image(frequencies=None, **image):
    """An object of class 1, found; and detections of nothing, of classes 1 and 2."""
    entry = {"id": 1, "file_name": "1.jpg", "width": SIZE, "height": SIZE, **image}
    objects = [
        {"id": id_, "image_id": 1, "category_id": id_, "bbox": [id_, 5, 50, 50]} for id_ in (1, 4)
    ]
    file = AnnotationFile(
        pathlib.Path("val.json"), "", [entry], objects, CLASSES, frequencies=frequencies or {}
    )
    results = [
        {"image_id": 1, "category_id": id_, "bbox": bbox, "score": score}
        for id_, bbox, score in (
            (1, [100, 100, 9, 9], 0.9),
            (1, [1, 5, 50, 50], 0.8),
            (4, [4, 5, 50, 50], 0.8),
        )
    ]
    return subject.make(file, results)


def test_what_is_not_annotated_exhaustively_is_no_mistake():
    assert lvis_ap.evaluate(made_of_one_image(), "bbox")["AP"] == pytest.approx(0.75)
    made = made_of_one_image(not_exhaustive_category_ids=[1])
    assert lvis_ap.evaluate(made, "bbox")["AP"] == pytest.approx(1)


def test_how_frequent_a_class_is():
    made = made_of_one_image()
    assert "APr" not in lvis_ap.evaluate(made, "bbox")
    few = lvis_ap.evaluate(made, "bbox", training_images={1: 10, 4: 11})
    assert (few["APr"], few["APc"], few["APf"]) == pytest.approx((0.5, 1, -1))
    many = lvis_ap.evaluate(made, "bbox", training_images={1: 100, 4: 101})
    assert (many["APr"], many["APc"], many["APf"]) == pytest.approx((-1, 0.5, 1))
    other = lvis_ap.evaluate(made, "bbox", training_images={1: 3, 4: 6}, limits=(2, 5))
    assert (other["APr"], other["APc"], other["APf"]) == pytest.approx((-1, 0.5, 1))
    # What the annotations state comes first.
    stated = lvis_ap.evaluate(made_of_one_image({4: "c"}), "bbox", training_images={})
    assert (stated["APr"], stated["APc"], stated["APf"]) == pytest.approx((0.5, 1, -1))


def test_images_per_class():
    places = [(1, 5), (1, 5), (2, 5), (2, 7)]
    entries = [{"image_id": image_id, "category_id": id_} for image_id, id_ in places]
    assert lvis_ap.images_per_class(entries) == {5: 2, 7: 1}
