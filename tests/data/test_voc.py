"""Pascal VOC folders: the same records as the same data in COCO format, and clear errors."""

import json
import shutil
import time
from xml.etree import ElementTree

import numpy as np
import pytest
import tensorflow as tf

from libra_tf.data import DatasetError, checking, prepare_coco_folder, voc

VARIABLE = {
    f"image/object/{name}": tf.io.VarLenFeature(kind)
    for name, kind in {
        "bbox/xmin": tf.float32,
        "bbox/xmax": tf.float32,
        "bbox/ymin": tf.float32,
        "bbox/ymax": tf.float32,
        "class/text": tf.string,
        "is_crowd": tf.int64,
        "area": tf.float32,
    }.items()
}
FEATURES = {
    "image/encoded": tf.io.FixedLenFeature([], tf.string),
    "image/filename": tf.io.FixedLenFeature([], tf.string),
    "image/height": tf.io.FixedLenFeature([], tf.int64),
    "image/width": tf.io.FixedLenFeature([], tf.int64),
    **VARIABLE,
}


def write_xml(path, entry, objects, database="Unknown"):
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


def to_voc(coco_folder, target, splits, side_by_side=False, most=10**6):
    """Writes the first images of a COCO folder in Pascal VOC format."""
    for split in splits:
        path = coco_folder / "annotations" / f"instances_{split}.json"
        coco = json.loads(path.read_text())
        names = {category["id"]: category["name"] for category in coco["categories"]}
        stems = []
        for entry in coco["images"][:most]:
            stem = entry["file_name"].rsplit(".", 1)[0]
            images, annotations = target / "JPEGImages", target / "Annotations"
            if side_by_side:
                images = annotations = target / split
            (images / entry["file_name"]).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(coco_folder / "images" / entry["file_name"], images / entry["file_name"])
            objects = [
                (names[a["category_id"]], a["bbox"], a.get("iscrowd", 0))
                for a in coco["annotations"]
                if a["image_id"] == entry["id"]
            ]
            write_xml(annotations / f"{stem}.xml", entry, objects)
            stems.append(stem)
        if not side_by_side:
            listed = target / "ImageSets" / "Main" / f"{split}.txt"
            listed.parent.mkdir(parents=True, exist_ok=True)
            listed.write_text("\n".join(stems) + "\n")
    return target


def records_of(split):
    """By the image's name without folders, all features but those that number things."""
    records = {}
    for record in tf.data.TFRecordDataset(sorted(tf.io.gfile.glob(split.input_path))):
        example = tf.io.parse_single_example(record, FEATURES)
        example = {
            key: np.array(tf.sparse.to_dense(value) if key in VARIABLE else value).tolist()
            for key, value in example.items()
        }
        records[example.pop("image/filename").split(b"/")[-1]] = example
    return records


@pytest.mark.parametrize("side_by_side", [False, True])
def test_bccd_gives_the_records_of_its_coco_files(bccd, tmp_path, side_by_side):
    # The whole of it where images lie in JPEGImages/, a part for the other layout.
    most = 12 if side_by_side else 10**6
    folder = to_voc(bccd, tmp_path / "voc", ("train", "val"), side_by_side, most)
    from_voc = prepare_coco_folder(folder, tmp_path / "cache", report=str)
    from_coco = prepare_coco_folder(bccd, tmp_path / "cache", report=str)
    assert set(from_voc.class_names.values()) == set(from_coco.class_names.values())
    assert from_voc.class_names == {1: "Platelets", 2: "RBC", 3: "WBC"}
    for split in ("train", "val"):
        ours, theirs = (records_of(getattr(d, split)) for d in (from_voc, from_coco))
        assert len(ours) == min(most, len(theirs))
        assert ours == {name: theirs[name] for name in ours}


def test_difficult_and_odd_files_of_the_small_folder(coco_folder, tmp_path):
    """Subfolders, crowds and images without boxes come through as in COCO."""
    folder = to_voc(coco_folder.path, tmp_path / "voc", ("train", "val"))
    from_voc = prepare_coco_folder(folder, tmp_path / "cache", report=str)
    from_coco = prepare_coco_folder(coco_folder.path, tmp_path / "cache", report=str)
    for split in ("train", "val"):
        ours, theirs = (records_of(getattr(d, split)) for d in (from_voc, from_coco))
        for record in [*ours.values(), *theirs.values()]:
            # COCO's may be that of a mask, which VOC's files do not have.
            del record["image/object/area"]
        assert ours == theirs


def test_a_folder_is_read_again_when_an_xml_file_changes(voc_folder, tmp_path):
    before = prepare_coco_folder(voc_folder, tmp_path / "cache", report=str)
    path = voc_folder / "Annotations" / "a.xml"
    path.write_text(path.read_text().replace("cat", "lion"))
    after = prepare_coco_folder(voc_folder, tmp_path / "cache", report=str)
    assert "lion" in after.class_names.values() and "lion" not in before.class_names.values()


@pytest.fixture
def voc_folder(coco_folder, tmp_path):
    return to_voc(coco_folder.path, tmp_path / "voc", ("train", "val"))


def check(folder):
    checking.check_layout(folder)
    return checking.check_folder(folder, report=str)


def test_the_challenges_own_files_count_pixels_from_1(voc_folder):
    entry = {"file_name": "a.jpg", "width": 40, "height": 30}
    # The first pixel alone: xmin = xmax = 1.
    write_xml(
        voc_folder / "Annotations/a.xml", entry, [("cat", (1, 1, 0, 0), 0)], "The VOC2007 Database"
    )
    checked = check(voc_folder).splits["train"].annotation_file
    boxes = [a["bbox"] for a in checked.annotations if a["image_id"] == 1]
    assert boxes == [[0, 0, 1, 1]]


def test_the_size_may_be_left_out(voc_folder):
    path = voc_folder / "Annotations/a.xml"
    path.write_text(path.read_text().replace("<width>40</width>", "<width>0</width>"))
    image = check(voc_folder).splits["train"].annotation_file.images[0]
    assert (image["width"], image["height"]) == (40, 30)


def replace(name, old, new):
    def spoil(folder):
        path = folder / name
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))

    return spoil


MISTAKES = {
    "not_xml": (replace("Annotations/a.xml", "</annotation>", ""), r"not XML(.|\n)*a\.xml"),
    "no_xml": (lambda f: (f / "Annotations/a.xml").unlink(), r"without an XML file(.|\n)*a\.xml"),
    "other_root": (
        replace("Annotations/a.xml", "annotation>", "html>"),
        r"must be 'annotation'(.|\n)*'html'",
    ),
    "no_image": (lambda f: (f / "JPEGImages/a.jpg").unlink(), r"no image(.|\n)*a\.xml"),
    "bad_image": (lambda f: (f / "JPEGImages/a.jpg").write_text("x"), "not an image"),
    "no_name": (replace("Annotations/a.xml", "cat", " "), "object without a name"),
    "no_number": (
        replace("Annotations/a.xml", "<xmin>1</xmin>", "<xmin>one</xmin>"),
        r"four finite numbers(.|\n)*'one'",
    ),
    "nan": (replace("Annotations/a.xml", "<xmin>1<", "<xmin>nan<"), "four finite numbers"),
    "no_box": (replace("Annotations/a.xml", "bndbox", "polygon"), "four finite numbers"),
    "difficult": (replace("Annotations/a.xml", "t>0<", "t>maybe<"), "difficult must be 0 or 1"),
    "bad_size": (replace("Annotations/a.xml", "<width>40", "<width>wide"), "size must be"),
    "other_size": (
        replace("Annotations/a.xml", "<width>40", "<width>50"),
        r"size differs(.|\n)*file 40x30, annotations 50x30",
    ),
    "twice": (replace("ImageSets/Main/train.txt", "a\n", "a\na\n"), "listed twice"),
    "outside": (replace("ImageSets/Main/train.txt", "a\n", "../a\n"), "leads out"),
    "no_file": (replace("ImageSets/Main/train.txt", "a\n", ".\n"), "leads out"),
    "empty_list": (
        lambda f: (f / "ImageSets/Main/val.txt").write_text(""),
        r"without a usable image(.|\n)*val\.txt",
    ),
    "no_list": (lambda f: (f / "ImageSets/Main/val.txt").unlink(), r"lacks ImageSets/Main/val"),
    "no_images": (lambda f: shutil.rmtree(f / "JPEGImages"), "lacks JPEGImages"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes(voc_folder, mistake):
    spoil, message = MISTAKES[mistake]
    spoil(voc_folder)
    with pytest.raises(DatasetError, match=message):
        check(voc_folder)


def test_all_mistakes_are_listed_at_once(voc_folder):
    for mistake in ("no_name", "twice", "bad_image"):
        MISTAKES[mistake][0](voc_folder)
    replace("Annotations/b.xml", "<xmin>0</xmin>", "<xmin>zero</xmin>")(voc_folder)
    with pytest.raises(DatasetError, match=r"without a name(.|\n)*four finite") as error:
        check(voc_folder)
    assert "listed twice" in str(error.value)


def test_boxes_across_the_border_are_clipped_and_listed(voc_folder, tmp_path):
    replace("Annotations/a.xml", "<xmax>40</xmax>", "<xmax>45</xmax>")(voc_folder)
    dataset = prepare_coco_folder(voc_folder, tmp_path / "cache", report=str)
    assert any("clipped" in issue and "a.jpg" in issue for issue in dataset.issues)


def test_objects_nowhere(voc_folder):
    for path in (voc_folder / "Annotations").rglob("*.xml"):
        path.write_text("<annotation/>")
    with pytest.raises(DatasetError, match="no usable object"):
        check(voc_folder)


def test_side_by_side_needs_both_folders(voc_folder, tmp_path):
    folder = tmp_path / "pairs"
    shutil.copytree(voc_folder / "Annotations", folder / "train")
    with pytest.raises(DatasetError, match="lacks val/ or valid/"):
        check(folder)


def test_a_coco_folder_is_not_taken_for_voc(coco_folder):
    assert not voc.is_voc(coco_folder.path)


@pytest.fixture
def pairs(coco_folder, tmp_path):
    """Images and XML files side by side, one of them in a subfolder."""
    return to_voc(coco_folder.path, tmp_path / "pairs", ("train", "val"), side_by_side=True)


def names_in(folder, split="train"):
    entries = check(folder).splits[split].annotation_file.images
    return [entry["file_name"] for entry in entries]


def test_a_file_added_in_a_subfolder_is_noticed(pairs, tmp_path):
    # Only then are the files' times old enough to be trusted.
    time.sleep(2.1)
    before = prepare_coco_folder(pairs, tmp_path / "cache", report=str)
    shutil.copy(pairs / "train/a.jpg", pairs / "train/sub/z.jpg")
    shutil.copy(pairs / "train/a.xml", pairs / "train/sub/z.xml")
    after = prepare_coco_folder(pairs, tmp_path / "cache", report=str)
    assert after.train.num_examples == before.train.num_examples + 1


def test_images_and_xml_files_in_subfolders(pairs):
    assert names_in(pairs) == ["train/a.jpg", "train/b.png", "train/sub/c.jpg"]
    # The same name in another folder is another image.
    shutil.copy(pairs / "train/a.jpg", pairs / "train/sub/a.jpg")
    shutil.copy(pairs / "train/a.xml", pairs / "train/sub/a.xml")
    # XML files in a subfolder of their own.
    (pairs / "train/xmls").mkdir()
    shutil.move(pairs / "train/b.xml", pairs / "train/xmls")
    assert names_in(pairs) == ["train/a.jpg", "train/sub/a.jpg", "train/sub/c.jpg", "train/b.png"]


@pytest.mark.parametrize("copy", ["train/copy.xml", "train/xmls/a.xml"])
def test_two_xml_files_of_one_image(pairs, copy):
    (pairs / copy).parent.mkdir(exist_ok=True)
    shutil.copy(pairs / "train/a.xml", pairs / copy)
    with pytest.raises(DatasetError, match=r"file_name repeated") as error:
        check(pairs)
    assert f"train: train/a.jpg, train/a.xml and {copy}" in str(error.value)


def test_suffixes_in_capitals(pairs, voc_folder):
    (pairs / "train/a.xml").rename(pairs / "train/a.XML")
    (pairs / "train/b.png").rename(pairs / "train/b.Png")
    assert names_in(pairs) == ["train/a.jpg", "train/b.Png", "train/sub/c.jpg"]
    for path in (pairs / "train").rglob("*.xml"):
        path.rename(path.with_suffix(".XML"))
    assert voc.is_voc(pairs)
    (voc_folder / "Annotations/a.xml").rename(voc_folder / "Annotations/a.Xml")
    (voc_folder / "JPEGImages/a.jpg").rename(voc_folder / "JPEGImages/a.Jpg")
    assert names_in(voc_folder) == ["a.Jpg", "b.png", "sub/c.jpg"]


def test_images_without_an_xml_file_are_left_out_and_listed(pairs, tmp_path):
    shutil.copy(pairs / "train/a.jpg", pairs / "train/sub/new.JPG")
    lines = []
    dataset = prepare_coco_folder(pairs, tmp_path / "cache", lines.append)
    assert dataset.train.num_examples == 3
    (issue,) = [issue for issue in dataset.issues if "left out" in issue]
    assert issue.endswith("(1):\n    train/sub/new.JPG")
    assert issue in lines
    (pairs / "train/sub/new.JPG").unlink()
    assert prepare_coco_folder(pairs, tmp_path / "cache", lines.append).issues == ()
