"""The program `libra-tf`, and that the other doors open to the same commands."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

from libra_tf.commands import main

pytestmark = pytest.mark.one_lane

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = ("-m", "libra_tf")
DOORS = {
    "train": (str(ROOT / "run.py"),),
    "eval": (str(ROOT / "run.py"),),
    "predict": (str(ROOT / "export/predict.py"),),
    "export": (str(ROOT / "export/saved_model.py"),),
    "tflite": (str(ROOT / "export/tflite.py"),),
    "client": (str(ROOT / "export/client.py"),),
    "report": ("-m", "libra_tf.analysis"),
    "proposals": ("-m", "libra_tf.runner.rpn_proposals"),
    "import": ("-m", "libra_tf.checkpoints.mmdet"),
}


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """One in which what takes long to import cannot be imported."""
    stubs = tmp_path_factory.mktemp("stubs")
    for name in ("tensorflow", "numpy", "matplotlib"):
        (stubs / f"{name}.py").write_text(f"raise SystemExit('{name} was imported')")
    return {**os.environ, "PYTHONPATH": f"{stubs}{os.pathsep}{ROOT}"}


@pytest.fixture(scope="module")
def call(environment, tmp_path_factory):
    """Runs Python there, in an empty folder."""
    folder = tmp_path_factory.mktemp("empty")

    def call(*arguments):
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=folder,
            capture_output=True,
            text=True,
            env=environment,
            timeout=60,
            check=False,
        )

    return call


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",)])
def test_the_commands_are_listed(call, arguments):
    result = call(*PROGRAM, *arguments)
    assert (result.returncode, result.stderr) == (0, "")
    for name, command in main.COMMANDS.items():
        assert re.search(rf"^  {name} +{command.summary}$", result.stdout, re.M)


def test_a_wrong_command(call):
    result = call(*PROGRAM, "evaluate", "--model_dir=runs/cells")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("error: libra-tf evaluate: there is no such command. Did you")
    assert "mean eval? The commands are train, eval," in result.stderr
    assert len(result.stderr.splitlines()) == 1


def flags_in(help_):
    return set(re.findall(r"^ +(--[\w\[\]]+)", help_, re.M))


@pytest.mark.parametrize("name", main.COMMANDS)
def test_help(call, name):
    result = call(*PROGRAM, name, "--help")
    assert (result.returncode, result.stderr) == (0, "")
    assert f"libra-tf {name}" in result.stdout
    if name == "configs":
        return
    door = call(*DOORS[name], "--help")
    assert "libra-tf" not in door.stdout.split("flags:")[0]
    assert flags_in(result.stdout) == flags_in(door.stdout) != set()


def test_every_door_in_export_opens_to_a_command():
    paths = {str(path) for path in (ROOT / "export").glob("*.py")}
    assert paths == {
        door[0] for door in DOORS.values() if pathlib.Path(door[0]).parent.name == "export"
    }


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("train", "--modle_dir=x"), 1, "Did you mean: model_dir ?"),
        (("train", "--experiment=libra_retinanet_dmeo"), 2, "Did you mean libra_retinanet_demo?"),
        (("train", "--config_file=libra_retinanet_r5"), 2, "=libra_retinanet_r50? Name a YAML"),
        (("train", "--checkpoint=best"), 2, "--checkpoint=best is for --mode=eval"),
        (("eval", "--mode=train"), 1, "to train, call libra-tf train"),
        (("eval", "--metrics=coco,pascal"), 2, "--metrics=pascal: there is no such metric. Choose"),
        (("train", "--mode=train", "--metrics=voc"), 2, "--mode=train makes none; leave it out"),
        (("eval", "--frequency_limits=9,5"), 2, "=9,5: give two whole numbers, the larger one"),
        (("eval", "--frequency_limits=5,9"), 2, "is for --metrics=lvis: give that, too"),
        (
            ("predict", "--model=a", "--output_dir=b", "--metrics=lvis", "a.jpg"),
            2,
            "--metrics=lvis needs the objects in the images: give --annotations, too",
        ),
        (("eval", "--model_dir=no/run"), 2, "--model_dir=no/run: there is no such folder; name"),
        (("eval",), 2, "--model_dir=runs/libra_fasterrcnn_demo: there is no such folder; name"),
        (("export",), 1, "--export_dir must have a value"),
        (("predict", "--model=a", "--output_dir=b", "none.jpg"), 2, "none.jpg does not exist"),
        (
            (
                "predict",
                "--model=a",
                "--output_dir=b",
                "--nopictures",
                "--fps=5",
                str(ROOT / "docs"),
            ),
            2,
            "--nopictures is for images",
        ),
        (("import", "none.pth", "--model_dir=a"), 2, "none.pth: there is no such file"),
        (("proposals",), 2, "libra-tf proposals: error: the following arguments are required"),
    ],
)
def test_wrong_flags(call, arguments, status, message):
    result = call(*PROGRAM, *arguments)
    assert result.returncode == status, result.stderr
    assert message in result.stderr
    assert "was imported" not in result.stderr and "Traceback" not in result.stderr


def test_a_reader_that_closes_the_pipe(environment):
    process = subprocess.Popen(
        [sys.executable, *PROGRAM, "configs"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
    )
    process.stdout.close()
    assert (process.wait(timeout=60), process.stderr.read()) == (1, b"")
    process.stderr.close()
