"""What tiles give in images that are pasted together from small ones.

    python run.py --mode=train_and_eval --experiment=libra_retinanet_demo --model_dir=runs/demo
    python benchmarks/tiles.py --model=runs/demo

The demo's validation images are pasted together, 4x4 at a time, and the average precision is
measured on the large images as a whole and in tiles of several sizes.
"""

import json
import pathlib
import tempfile

from absl import app, flags
from PIL import Image

from libra_tf.cli import image_files, program
from libra_tf.data import make_shapes
from libra_tf.data.shapes import DEMO_SHAPES
from libra_tf.inference import prediction

_MODEL = flags.DEFINE_string("model", None, "Folder of a run of a demo.", required=True)
_TILES = flags.DEFINE_multi_integer("tiles", [128, 192, 256], "Sizes of tiles in pixels.")
_ACROSS = 4
_SIZE = DEMO_SHAPES["image_size"]


def main(_: list[str]) -> int:
    """Prints the average precision for each way of looking."""
    return program.exit_status(_measure)


def _measure() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        shapes = pathlib.Path(make_shapes(root / "shapes", **DEMO_SHAPES, report=str))
        annotations = paste(shapes, root / "pasted")
        images = image_files.find([str(root / "pasted" / "images")])
        for tiles in (None, *_TILES.value):
            lines = []
            prediction.predict(
                _MODEL.value,
                images,
                str(root / "found"),
                annotations=str(annotations),
                draw=False,
                tiles=tiles,
                report=lines.append,
            )
            (measured,) = (line for line in lines if line.startswith("AP "))
            print(f"{f'tiles of {tiles}' if tiles else 'whole images'}: {measured}")


def paste(shapes: pathlib.Path, target: pathlib.Path) -> pathlib.Path:
    """Writes large images of the validation images of a folder, and their annotations.

    Args:
      shapes: the folder, in COCO format.
      target: a new folder.

    Returns:
      The annotation file.
    """
    (target / "images").mkdir(parents=True)
    small = json.loads((shapes / "annotations/instances_val.json").read_text())
    large = {"images": [], "annotations": [], "categories": small["categories"]}
    for number in range(1, len(small["images"]) // _ACROSS**2 + 1):
        picture = Image.new("RGB", (_ACROSS * _SIZE, _ACROSS * _SIZE))
        parts = small["images"][(number - 1) * _ACROSS**2 : number * _ACROSS**2]
        for place, part in enumerate(parts):
            y, x = (_SIZE * index for index in divmod(place, _ACROSS))
            picture.paste(Image.open(shapes / "images" / part["file_name"]), (x, y))
            large["annotations"] += [
                {**found, "image_id": number, "bbox": _moved(found["bbox"], x, y)}
                for found in small["annotations"]
                if found["image_id"] == part["id"]
            ]
        entry = {"id": number, "file_name": f"{number}.png"}
        large["images"].append({**entry, "width": picture.width, "height": picture.height})
        picture.save(target / "images" / entry["file_name"])
    path = target / "instances.json"
    path.write_text(json.dumps(large))
    return path


def _moved(box: list[float], x: int, y: int) -> list[float]:
    return [box[0] + x, box[1] + y, *box[2:]]


if __name__ == "__main__":
    app.run(main)
