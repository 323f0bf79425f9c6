import errno
import os
import pathlib
import subprocess
import sys

import pytest
import tensorflow as tf

from libra_tf import atomic

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_NOBODY = 65534


@pytest.mark.parametrize(
    ("content", "encoded"), [("größer\n", "größer\n".encode()), (b"\xff\r\n", b"\xff\r\n")]
)
def test_a_file_is_written_and_replaced(tmp_path, content, encoded):
    path = tmp_path / "file"
    atomic.write_file(path, "before")
    before = path.stat().st_ino
    atomic.write_file(str(path), content)
    assert path.read_bytes() == encoded
    assert path.stat().st_ino != before, "whoever has it open goes on reading what was there"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_cannot_be_written_leaves_nothing_behind(tmp_path):
    (tmp_path / "file").mkdir()
    (tmp_path / "file" / "child").write_text("")
    with pytest.raises(OSError, match="file"):
        atomic.write_file(tmp_path / "file", "text")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    with pytest.raises(UnicodeEncodeError):
        atomic.write_file(tmp_path / "other", "half a character: \ud800")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_remote_file_is_replaced_or_left_as_it_was():
    atomic.write_file("ram://atomic_file", "before")
    with (
        pytest.raises(RuntimeError, match="the disk"),
        atomic.unfinished_file("ram://atomic_file") as path,
    ):
        tf.io.gfile.GFile(path, "w").write("half")
        raise RuntimeError("the disk is full")
    assert tf.io.gfile.glob("ram://atomic_file*") == ["ram://atomic_file"]
    assert tf.io.gfile.GFile("ram://atomic_file").read() == "before"
    atomic.write_file("ram://atomic_file", "größer")
    assert tf.io.gfile.GFile("ram://atomic_file").read() == "größer"
    assert tf.io.gfile.glob("ram://atomic_file*") == ["ram://atomic_file"]


def test_a_file_system_without_locks_keeps_no_file_open(tmp_path, monkeypatch):
    def flock(descriptor, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(atomic.fcntl, "flock", flock)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(OSError, match="lock"), atomic.unfinished_folder(tmp_path):
        pass
    assert os.listdir("/proc/self/fd") == before


# Users above may not pass the folders of root's tests, but their own working folder.
_WRITE_AS_ANOTHER_USER = f"""if True:
    import os, pathlib
    from libra_tf import atomic
    if os.getuid() == 0:
        os.setuid({_NOBODY})
    with atomic.unfinished_folder(pathlib.Path(".")) as folder:
        print(folder.name)
"""


def test_a_private_left_over_of_another_user_is_let_be(tmp_path):
    left_over = tmp_path / f"{atomic._PREFIX}0"
    left_over.mkdir(mode=0)
    tmp_path.chmod(0o777)
    written = subprocess.run(
        [sys.executable, "-c", _WRITE_AS_ANOTHER_USER],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(_ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert written.stdout.strip() not in ("", left_over.name)
    assert list(tmp_path.iterdir()) == [left_over]
