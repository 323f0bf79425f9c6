"""Fixtures shared by all tests."""

import json
import os
import pathlib

import hypothesis
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import tensorflow as tf

# Two devices to distribute over.
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)

# CI draws the same examples every time; elsewhere every run draws others.
hypothesis.settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    hypothesis.settings.load_profile("ci")

GOLDEN = pathlib.Path(__file__).resolve().parent / "golden"
# A clone of the data set's repository.
BCCD_VARIABLE = "LIBRA_TF_BCCD"


@pytest.fixture(scope="session")
def golden_blocks() -> pathlib.Path:
    """Folder of MMDetection's numbers for single blocks."""
    return GOLDEN / "blocks"


@pytest.fixture(scope="session")
def golden_models() -> pathlib.Path:
    """Folder of small MMDetection detectors with the output of every stage."""
    return GOLDEN / "models"


@pytest.fixture(scope="session")
def bccd() -> pathlib.Path:
    """A real data set in Pascal VOC format: blood cells under a microscope."""
    clone = os.environ.get(BCCD_VARIABLE)
    if not clone:
        pytest.skip(
            "needs real photographs: clone https://github.com/Shenggan/BCCD_Dataset and set "
            f"{BCCD_VARIABLE} to the path of the clone"
        )
    return pathlib.Path(clone) / "BCCD"


@pytest.fixture(scope="session")
def two_devices() -> tf.distribute.MirroredStrategy:
    """The collective operations of a second strategy would clash with those of the first."""
    return tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1"])


@pytest.fixture(scope="session")
def tiny_shapes(tmp_path_factory):
    """A converted shapes data set of 8 training and 6 validation images of 64x64."""
    from libra_tf.data import make_shapes, prepare_coco_folder

    root = tmp_path_factory.mktemp("tiny_shapes")
    folder = make_shapes(root / "shapes", num_train=8, num_val=6, image_size=64, report=str)
    return prepare_coco_folder(folder, root / "cache", report=str)


@pytest.fixture(
    scope="session",
    params=["retinanet", pytest.param("fasterrcnn", marks=pytest.mark.slow)],
)
def exported(request, tiny_shapes, tmp_path_factory):
    """A detector of either kind, as a run and as a SavedModel."""
    from libra_tf.serving import saved_model
    from tests import detectors

    root = tmp_path_factory.mktemp(request.param)
    model_dir = str(root / "run")
    task, model = detectors.make_run(model_dir, f"libra_{request.param}_demo", tiny_shapes)
    folder = saved_model.export(
        model_dir, str(root / "served"), max_pixels=detectors.MAX_PIXELS, report=str
    )
    return detectors.Exported(model_dir, task, model, folder, detectors.load(folder))


@pytest.fixture(scope="session")
def val_images(tiny_shapes):
    """Image id -> the bytes of its file."""
    features = {
        "image/encoded": tf.io.FixedLenFeature([], tf.string),
        "image/source_id": tf.io.FixedLenFeature([], tf.string),
    }
    images = {}
    for record in tf.data.TFRecordDataset(tf.io.gfile.glob(tiny_shapes.val.input_path)):
        example = tf.io.parse_single_example(record, features)
        images[int(example["image/source_id"])] = example["image/encoded"].numpy()
    with open(tiny_shapes.val.annotation_file) as file:
        assert sorted(images) == sorted(image["id"] for image in json.load(file)["images"])
    return images
