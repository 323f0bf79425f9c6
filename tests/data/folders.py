"""Small valid data sets, in every layout that is read, to spoil in one way at a time."""

import json
import pathlib
import shutil
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from xml.etree import ElementTree

import numpy as np
import yaml
from PIL import Image

SPLITS = ("train", "val")
YOLO = {"path": ".", "train": "images/train", "val": "images/val"}

Coco = dict[str, Any]
# Name, `[x, y, width, height]` and whether it is difficult.
VOCObject = tuple[str, Iterable[float], int]


class CocoFolder:
    """A COCO-format folder of three training images and two validation images.

    Attributes:
      path: the folder.
      coco: content of the annotation file of each split; `write` writes it after a change.
    """

    def __init__(self, path: pathlib.Path):
        self.path = path
        self.coco: dict[str, Coco] = {}
        rng = np.random.default_rng(0)
        (path / "images" / "sub").mkdir(parents=True)
        (path / "annotations").mkdir()
        for split, names in {
            "train": ["a.jpg", "b.png", "sub/c.jpg"],
            "val": ["d.jpg", "e.png"],
        }.items():
            self.coco[split] = _coco_of(names)
            for name in names:
                pixels = rng.integers(0, 256, (30, 40, 3), np.uint8)
                Image.fromarray(pixels).save(path / "images" / name)
        self.write()

    def write(self) -> None:
        for split, coco in self.coco.items():
            self.annotation_path(split).write_text(json.dumps(coco))

    def annotation_path(self, split: str) -> pathlib.Path:
        return self.path / "annotations" / f"instances_{split}.json"

    def image(self, name: str = "a.jpg") -> pathlib.Path:
        return self.path / "images" / name


def to_voc(
    coco_folder: pathlib.Path,
    target: pathlib.Path,
    side_by_side: bool = False,
    max_images: int | None = None,
) -> pathlib.Path:
    """Writes the first images of each split of a COCO folder in Pascal VOC format."""
    for split in SPLITS:
        path = coco_folder / "annotations" / f"instances_{split}.json"
        coco = json.loads(path.read_text())
        images, annotations = target / "JPEGImages", target / "Annotations"
        if side_by_side:
            images = annotations = target / split
        stems = []
        for entry in coco["images"][:max_images]:
            stem = entry["file_name"].rsplit(".", 1)[0]
            (images / entry["file_name"]).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(coco_folder / "images" / entry["file_name"], images / entry["file_name"])
            write_xml(annotations / f"{stem}.xml", entry, _objects_of(entry, coco))
            stems.append(stem)
        if not side_by_side:
            listed = target / "ImageSets" / "Main" / f"{split}.txt"
            listed.parent.mkdir(parents=True, exist_ok=True)
            listed.write_text("\n".join(stems) + "\n")
    return target


def write_xml(
    path: pathlib.Path,
    entry: dict[str, Any],
    objects: Iterable[VOCObject],
    database: str = "Unknown",
) -> None:
    """Writes what LabelImg writes: the edges of the boxes."""
    root = ElementTree.Element("annotation")
    ElementTree.SubElement(root, "filename").text = entry["file_name"]
    ElementTree.SubElement(ElementTree.SubElement(root, "source"), "database").text = database
    size = ElementTree.SubElement(root, "size")
    for key in ("width", "height"):
        ElementTree.SubElement(size, key).text = str(entry[key])
    for name, (x, y, width, height), is_difficult in objects:
        element = ElementTree.SubElement(root, "object")
        ElementTree.SubElement(element, "name").text = name
        ElementTree.SubElement(element, "difficult").text = str(is_difficult)
        box = ElementTree.SubElement(element, "bndbox")
        edges = {"xmin": x, "ymin": y, "xmax": x + width, "ymax": y + height}
        for key, value in edges.items():
            ElementTree.SubElement(box, key).text = str(value)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(ElementTree.tostring(root))


def _coco_of(names: list[str]) -> Coco:
    dog = {"category_id": 3, "image_id": 10, "bbox": [20, 5, 20, 25], "area": 300, "iscrowd": 0}
    crowd = {"category_id": 3, "image_id": 11, "bbox": [0, 0, 40, 30], "iscrowd": 1}
    return {
        "images": [
            {"id": 10 + i, "file_name": name, "width": 40, "height": 30}
            for i, name in enumerate(names)
        ],
        "annotations": [
            {"id": 1, "image_id": 10, "category_id": 1, "bbox": [1, 2, 10, 12.5]},
            {"id": 2, **dog},
            {"id": 7, **crowd},
        ],
        "categories": [{"id": 1, "name": "cat"}, {"id": 3, "name": "dog"}],
    }


def _objects_of(entry: dict[str, Any], coco: Coco) -> list[VOCObject]:
    names = {category["id"]: category["name"] for category in coco["categories"]}
    return [
        (names[annotation["category_id"]], annotation["bbox"], annotation.get("iscrowd", 0))
        for annotation in coco["annotations"]
        if annotation["image_id"] == entry["id"]
    ]


def to_downloaded(
    coco_folder: pathlib.Path, target: pathlib.Path, below_images: bool = False
) -> pathlib.Path:
    """Writes a COCO folder under the names of COCO's own archives."""
    for split, coco in _splits_of(coco_folder):
        images = target / "images" / f"{split}2017" if below_images else target / f"{split}2017"
        _copy_images(coco_folder, coco, images)
        _write_json(target / "annotations" / f"instances_{split}2017.json", coco)
        # What lies beside it in the archive and describes no objects.
        _write_json(target / "annotations" / f"captions_{split}2017.json", {})
    return target


def to_roboflow(coco_folder: pathlib.Path, target: pathlib.Path) -> pathlib.Path:
    """Writes a COCO folder as Roboflow exports it, with a category 0 that groups the others."""
    for split, name in zip(SPLITS, ("train", "valid"), strict=True):
        coco = json.loads((coco_folder / "annotations" / f"instances_{split}.json").read_text())
        _copy_images(coco_folder, coco, target / name)
        group = {"id": 0, "name": "animals", "supercategory": "none"}
        others = [{**entry, "supercategory": "animals"} for entry in coco["categories"]]
        _write_json(
            target / name / "_annotations.coco.json", {**coco, "categories": [group, *others]}
        )
    return target


def to_yolo(
    coco_folder: pathlib.Path, target: pathlib.Path, config: Mapping[str, Any] = YOLO
) -> pathlib.Path:
    """Writes a COCO folder in YOLO's format; crowds are left out, which the format cannot say."""
    for split, coco in _splits_of(coco_folder):
        names = sorted(coco["categories"], key=lambda category: category["id"])
        indices = {category["id"]: index for index, category in enumerate(names)}
        _copy_images(coco_folder, coco, target / "images" / split)
        for entry in coco["images"]:
            lines = [
                _yolo_line(indices[found["category_id"]], found["bbox"], entry)
                for found in coco["annotations"]
                if found["image_id"] == entry["id"] and not found.get("iscrowd", 0)
            ]
            # An image without objects has no label file.
            if lines:
                path = (target / "labels" / split / entry["file_name"]).with_suffix(".txt")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("\n".join(lines) + "\n")
        classes = [category["name"] for category in names]
    write_yolo_config(target, {**config, "names": classes})
    return target


def write_yolo_config(folder: pathlib.Path, config: Mapping[str, Any]) -> None:
    (folder / "data.yaml").write_text(yaml.safe_dump(dict(config), sort_keys=False))


def _yolo_line(index: int, box: list[float], image: dict[str, Any]) -> str:
    x, y, width, height = box
    numbers = (
        (x + width / 2) / image["width"],
        (y + height / 2) / image["height"],
        width / image["width"],
        height / image["height"],
    )
    return " ".join([str(index), *(f"{number:.9f}" for number in numbers)])


def _splits_of(coco_folder: pathlib.Path) -> Iterator[tuple[str, Coco]]:
    for split in SPLITS:
        path = coco_folder / "annotations" / f"instances_{split}.json"
        yield split, json.loads(path.read_text())


def _copy_images(coco_folder: pathlib.Path, coco: Coco, target: pathlib.Path) -> None:
    for entry in coco["images"]:
        path = target / entry["file_name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(coco_folder / "images" / entry["file_name"], path)


def _write_json(path: pathlib.Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
