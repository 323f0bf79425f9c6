"""Commands as they can be typed, in an active environment and in one that is not."""

import subprocess
import sys

import pytest

from libra_tf.cli import shell

pytestmark = pytest.mark.one_lane


@pytest.fixture
def environment(tmp_path, monkeypatch):
    """An environment in the working directory, as `python -m venv` makes one."""
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name, target in (("python", sys.executable), ("tensorboard", "/bin/echo")):
        (programs / name).symlink_to(target)
    monkeypatch.setattr(sys, "executable", str(programs / "python"))
    monkeypatch.chdir(tmp_path)
    return programs


def test_where_it_is_active_the_name_is_enough(environment, monkeypatch):
    monkeypatch.setenv("PATH", str(environment))
    assert shell.program("tensorboard", "tensorboard.main") == "tensorboard"
    assert shell.python_module("json.tool") == "python -m json.tool"
    # A program that was not installed.
    assert shell.program("libra-tf", "libra_tf") == "python -m libra_tf"


def test_where_it_is_not_active_python_is_called_by_its_path(environment, monkeypatch, tmp_path):
    # There may be a program of that name, but of another environment.
    other = tmp_path / "other"
    other.mkdir()
    (other / "tensorboard").symlink_to("/bin/echo")
    monkeypatch.setenv("PATH", str(other))
    command = shell.program("tensorboard", "json.tool")
    assert command == ".venv/bin/python -m json.tool"
    result = subprocess.run(f"echo '[1]' | {command}", shell=True, capture_output=True, check=True)
    assert result.stdout.split() == [b"[", b"1", b"]"]
    monkeypatch.chdir(other)
    assert shell.python_module("json.tool") == f"{environment}/python -m json.tool"


def test_a_path_with_a_space(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "executable", "/my tools/python")
    assert shell.python_module("a") == "'/my tools/python' -m a"
