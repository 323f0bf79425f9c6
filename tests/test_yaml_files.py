"""Config files are found by name and by path."""

import pathlib

import pytest

from libra_tf.cli.errors import UsageError
from libra_tf.configs import yaml_files

pytestmark = pytest.mark.one_lane


@pytest.mark.parametrize("name", ["libra_fasterrcnn_r50", "mmdetection/libra_retinanet_r50"])
def test_a_name(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = pathlib.Path(yaml_files.find(name))
    assert path.read_text().startswith("# Libra ")
    assert path.with_suffix("").as_posix().endswith(name)


def test_a_path_of_the_same_spelling_is_taken_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pathlib.Path("libra_fasterrcnn_r50").write_text("{}")
    assert yaml_files.find("libra_fasterrcnn_r50") == "libra_fasterrcnn_r50"
    assert yaml_files.find("gs://bucket/a.yaml") == "gs://bucket/a.yaml"


@pytest.mark.parametrize(
    "wrong",
    ["libra_fasterrcn_r50", "libra_fasterrcnn_r50.yaml", "configs/libra_fasterrcnn_r50.yaml"],
)
def test_the_nearest_name(wrong, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"mean --config_file=libra_fasterrcnn_r50\?") as error:
        yaml_files.find(wrong)
    assert str(error.value).startswith(f"--config_file={wrong}: there is no such file")


def test_nothing_near():
    with pytest.raises(UsageError, match=r"of that name\. Name a YAML file"):
        yaml_files.find("12345")
