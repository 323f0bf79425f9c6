"""A small valid data set to spoil in one way at a time."""

import json
import pathlib

import numpy as np
import pytest
from PIL import Image


class CocoFolder:
    """A COCO-format folder of three training images and two validation images."""

    def __init__(self, path: pathlib.Path):
        self.path = path
        self.coco = {}
        rng = np.random.default_rng(0)
        (path / "images" / "sub").mkdir(parents=True)
        (path / "annotations").mkdir()
        for split, names in {
            "train": ["a.jpg", "b.png", "sub/c.jpg"],
            "val": ["d.jpg", "e.png"],
        }.items():
            self.coco[split] = {
                "images": [
                    {"id": 10 + i, "file_name": name, "width": 40, "height": 30}
                    for i, name in enumerate(names)
                ],
                "annotations": [
                    {"id": 1, "image_id": 10, "category_id": 1, "bbox": [1, 2, 10, 12.5]},
                    {
                        "id": 2,
                        "image_id": 10,
                        "category_id": 3,
                        "bbox": [20, 5, 20, 25],
                        "area": 300,
                        "iscrowd": 0,
                    },
                    {
                        "id": 7,
                        "image_id": 11,
                        "category_id": 3,
                        "bbox": [0, 0, 40, 30],
                        "iscrowd": 1,
                    },
                ],
                "categories": [{"id": 1, "name": "cat"}, {"id": 3, "name": "dog"}],
            }
            for name in names:
                Image.fromarray(rng.integers(0, 256, (30, 40, 3), np.uint8)).save(
                    path / "images" / name
                )
        self.write()

    def write(self):
        for split, coco in self.coco.items():
            self.annotation_path(split).write_text(json.dumps(coco))

    def annotation_path(self, split):
        return self.path / "annotations" / f"instances_{split}.json"

    def image(self, name="a.jpg"):
        return self.path / "images" / name


@pytest.fixture
def coco_folder(tmp_path):
    return CocoFolder(tmp_path / "dataset")
