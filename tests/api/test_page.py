"""The blocks of docs/python.md run as written, one after another."""

import json
import pathlib
import signal

import pytest
from absl import logging
from PIL import Image

import libra_tf
from libra_tf.compat import keras
from tests import test_docs

pytestmark = pytest.mark.one_lane

PAGE = "python.md"


@pytest.fixture(scope="module")
def page(tiny_shapes, tmp_path_factory):
    """The folder in which the blocks ran, and what they defined."""
    root = tmp_path_factory.mktemp("page")
    (root / "cells").symlink_to(tiny_shapes.folder)
    (root / "photos").mkdir()
    for name, color in (("a.jpg", "grey"), ("b.jpg", "brown")):
        Image.new("RGB", (80, 60), color).save(root / "photos" / name)
    names = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("XDG_CACHE_HOME", str(root / "cache"))
        for block, code in test_docs.python_blocks():
            if block.startswith(PAGE):
                exec(compile(code, block, "exec"), names)
        # Paths in the detectors are relative to this folder.
        yield root, names


def test_the_other_documents_repeat_lines_of_the_page():
    blocks = list(filter(test_docs.needs_folders, test_docs.python_blocks()))
    lines = {line for block, code in blocks if block.startswith(PAGE) for line in code.splitlines()}
    others = [code for block, code in blocks if not block.startswith(PAGE)]
    assert others
    for code in others:
        assert set(code.splitlines()) <= lines


@pytest.mark.slow
def test_the_run_is_that_of_the_command(page):
    root, names = page
    results = json.loads((root / "runs/cells/results.json").read_text())
    assert names["detector"].results == results
    assert results["step"] == 10
    assert results["dataset"] == "cells"
    for name in ("params.yaml", "detections.png", "log.txt", "ckpt-10.index"):
        assert (root / "runs/cells" / name).exists(), name


@pytest.mark.slow
def test_the_process_is_as_it_was(page):
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert keras.mixed_precision.global_policy().name == "float32"
    assert logging.get_verbosity() != logging.ERROR


@pytest.mark.slow
def test_what_cannot_be_trained_is_an_error_of_the_call(page):
    """It is said for arguments, not flags, and the process goes on."""
    with pytest.raises(libra_tf.UsageError, match=r"^params_override: there is no config key t"):
        libra_tf.train("cells", "libra_retinanet_demo", **{"trainer.train_stepz": 3})
    with pytest.raises(libra_tf.UsageError, match=r"^model_dir=runs/cells holds checkpoints of an"):
        libra_tf.train("cells", "libra_fasterrcnn_demo", model_dir="runs/cells")


@pytest.mark.slow
def test_what_the_blocks_wrote(page):
    root, names = page
    with Image.open(root / "found.jpg") as picture:
        assert picture.size == (80, 60)
    assert isinstance(json.loads((root / "results.json").read_text()), list)
    assert names["folder"] == "served/cells/1" and (root / names["folder"]).is_dir()
    assert names["served"].class_names == names["detector"].class_names
    assert names["metrics"]["AP"] == pytest.approx(names["detector"].results["AP"], abs=1e-6)
    places = [pathlib.Path(found.image.name).name for found in names["everything"]]
    assert places == ["a.jpg", "b.jpg"]
