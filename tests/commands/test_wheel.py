"""The installed wheel, without the clone: from folders as they come to a report."""

import os
import pathlib
import subprocess
import sys

import pytest

from libra_tf.data import make_shapes
from tests.data import folders

pytestmark = pytest.mark.one_lane

ROOT = pathlib.Path(__file__).resolve().parents[2]
TINY = (
    "task.model.input_size=[64,64,3],"
    "task.model.backbone.resnet.model_id=10,task.model.backbone.resnet.depth_multiplier=0.25,"
    "task.model.decoder.libra_fpn.num_filters=16,task.train_data.global_batch_size=2"
)
TWO_STEPS = f"{TINY},trainer.train_steps=2,trainer.validation_interval=2,trainer.steps_per_loop=1"
ONE_STEP = f"{TINY},trainer.train_steps=1,trainer.steps_per_loop=1"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Where the wheel was installed; what it requires is installed for this interpreter."""
    root = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", f"--wheel-dir={root}", str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = root.glob("*.whl")
    target = root / "site"
    subprocess.run([*pip, "install", "--no-deps", f"--target={target}", str(wheel)], check=True)
    return target


@pytest.fixture
def libra_tf(installed, tmp_path):
    """Calls `libra-tf` in an empty folder; returns what it prints."""
    (tmp_path / "empty").mkdir()

    def call(*arguments):
        result = subprocess.run(
            [sys.executable, str(installed / "bin" / "libra-tf"), *map(str, arguments)],
            cwd=tmp_path / "empty",
            env={**os.environ, "PYTHONPATH": str(installed)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    return call


LAYOUTS = {
    "roboflow": folders.to_roboflow,
    "yolo": folders.to_yolo,
    "coco_2017": folders.to_downloaded,
    "voc": folders.to_voc,
}
DESCRIPTIONS = {"yolo": "YOLO", "coco_2017": "COCO (train: annotations/instances_train2017.json"}


def draw(layout, folder):
    """Returns a folder of shapes in a layout."""
    shapes = make_shapes(folder / "shapes", num_train=6, num_val=4, image_size=64, report=str)
    return LAYOUTS[layout](pathlib.Path(shapes), folder / layout)


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["yolo", "coco_2017"])
def test_from_a_folder_to_a_checkpoint(layout, libra_tf, tmp_path):
    printed = libra_tf(
        "train",
        "--mode=train",
        f"--dataset={draw(layout, tmp_path)}",
        "--experiment=libra_retinanet_demo",
        "--model_dir=run",
        f"--cache_dir={tmp_path / 'cache'}",
        f"--params_override={ONE_STEP}",
    )
    assert f"is taken for {DESCRIPTIONS[layout]}" in printed
    assert (tmp_path / "empty/run/ckpt-1.index").exists()


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_from_a_folder_to_a_report(layout, libra_tf, tmp_path):
    folder = draw(layout, tmp_path)
    cache = f"--cache_dir={tmp_path / 'cache'}"
    printed = libra_tf(
        "train",
        f"--dataset={folder}",
        "--experiment=libra_retinanet_demo",
        "--model_dir=run",
        cache,
        f"--params_override={TWO_STEPS}",
    )
    assert "is taken for" in printed and "AP50" in printed
    assert "AP50" in libra_tf("eval", "--model_dir=run", cache)
    images = next(path.parent for path in sorted(folder.rglob("*.jpg")))
    assert "detections.json" in libra_tf("predict", "--model=run", "--output_dir=found", images)
    assert "SavedModel" in libra_tf("export", "--model_dir=run", "--export_dir=served")
    assert "report.html" in libra_tf("report", "--model_dir=run", "--batches=1", cache)


def test_the_config_files_come_with_it(libra_tf):
    assert "libra_fasterrcnn_r50" in libra_tf("configs")
    assert "--dataset" in libra_tf("train", "--help")
