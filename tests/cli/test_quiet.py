"""Where the libraries' messages go."""

import logging
import os
import warnings

import pytest
import tensorflow as tf

from libra_tf.cli import quiet


def say(path, message):
    with quiet.libraries_write_to(path):
        print(message)
        logging.getLogger().warning("%s, logged", message)


def test_messages_are_appended(tmp_path, capsys):
    path = tmp_path / "run" / "log.txt"
    say(str(path), "one")
    say(str(path), "two")
    assert [line.split("] ")[-1] for line in path.read_text().splitlines()] == [
        "one",
        "one, logged",
        "two",
        "two, logged",
    ]
    assert capsys.readouterr().out == ""


def test_messages_of_native_code(tmp_path, capfd):
    """Some of TensorFlow's warnings heed no log level."""
    path = tmp_path / "log.txt"
    with quiet.libraries_write_to(str(path)):
        os.write(2, b"W0000 costs\n")
    os.write(2, b"error: after\n")
    assert path.read_text() == "W0000 costs\n"
    assert capfd.readouterr().err == "error: after\n"


def test_a_remote_log_is_written_in_the_end(tmp_path, monkeypatch):
    """TensorFlow's file system in memory stands for one that Python cannot open."""
    monkeypatch.chdir(tmp_path)
    path = "ram://quiet/run/log.txt"
    say(path, "one")
    with pytest.raises(KeyboardInterrupt), quiet.libraries_write_to(path):
        print("two")
        raise KeyboardInterrupt
    with tf.io.gfile.GFile(path) as file:
        lines = file.read().splitlines()
    assert lines[0] == "one" and lines[-1] == "two"
    assert os.listdir(tmp_path) == []


def test_silence_ends_with_the_block(tmp_path, capfd):
    """What libraries say meanwhile is in the log of a training, if there is one, and not lost."""
    handler = logging.StreamHandler()
    logger = logging.getLogger("tensorflow")
    logger.addHandler(handler)
    try:
        with quiet.libraries_silenced():
            logger.warning("one")
            warnings.warn("two", stacklevel=1)
            with quiet.libraries_write_to(str(tmp_path / "log.txt")):
                logger.warning("three")
        logger.warning("four")
    finally:
        logger.removeHandler(handler)
    said = capfd.readouterr().err
    assert "four" in said
    assert not any(word in said for word in ("one", "two", "three"))
    assert (tmp_path / "log.txt").read_text().strip().endswith("three")
