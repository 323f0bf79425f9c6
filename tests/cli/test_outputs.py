"""What cannot be written is said in one line."""

import errno
import os

import pytest
import tensorflow as tf

from libra_tf.cli import outputs
from libra_tf.cli.errors import UsageError

pytestmark = pytest.mark.one_lane

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (FULL, "No space left on device"),
        (tf.errors.ResourceExhaustedError(None, None, "the bucket\nis full"), "the bucket"),
    ],
)
def test_what_cannot_be_written_is_named(error, reason):
    message = rf"^found/a\.json cannot be written \({reason}\); .* another place$"
    with pytest.raises(UsageError, match=message), outputs.writing("found/a.json"):
        raise error


@pytest.mark.parametrize("error", [BrokenPipeError(), ValueError("a mistake"), KeyboardInterrupt()])
def test_everything_else_goes_on_to_whom_it_concerns(error):
    with pytest.raises(type(error)), outputs.writing("found"):
        raise error


def test_a_folder_must_be_writable_or_its_nearest_parent(tmp_path, monkeypatch):
    outputs.require_writable("--model_dir", str(tmp_path / "new/run"))
    outputs.require_writable("--model_dir", "gs://bucket/run")
    assert not any(tmp_path.iterdir())
    file = tmp_path / "file"
    file.touch()
    for path in (file, file / "run"):
        with pytest.raises(UsageError, match=rf"^--model_dir={path}: {file} is not a folder"):
            outputs.require_writable("--model_dir", str(path))
    # The tests may run as root, who may write everywhere.
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(UsageError, match=rf"new/run: {tmp_path} cannot be written"):
        outputs.require_writable("--model_dir", str(tmp_path / "new/run"))
