"""The list of experiments and config files."""

import pathlib
import re

import pytest

from libra_tf.commands import configs
from libra_tf.configs import names, yaml_files

pytestmark = pytest.mark.one_lane

TOP_LEVEL = pathlib.Path(__file__).resolve().parents[2] / "configs"


def test_everything_is_listed_with_what_it_is_for(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "500")
    assert configs.main([]) == 0
    output = capsys.readouterr().out
    for name in names.EXPERIMENTS:
        assert re.search(rf"^  {name}\n    \w.*\.$", output, re.M), name
    files = [path.relative_to(TOP_LEVEL).with_suffix("") for path in TOP_LEVEL.rglob("*.yaml")]
    assert len(files) > 30
    for name in files:
        entry = re.search(rf"^  {name}\n    (.*)\n    Reaches: .*\n    (.*)$", output, re.M)
        assert entry, name
        assert (TOP_LEVEL / f"{name}.yaml").read_text().startswith(f"# {entry.group(1)[:60]}")
        assert re.fullmatch(rf"--experiment=libra_\w+ --config_file={name}", entry.group(2))


def test_a_narrow_terminal_gets_narrow_lines(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    configs.main([])
    flags = [line for line in capsys.readouterr().out.splitlines() if len(line) > 80]
    assert all("--config_file" in line for line in flags)


def test_what_a_header_says():
    header = yaml_files.read_header("fasterrcnn_r50_balanced_l1")
    assert header.purpose == "Faster R-CNN R-50-FPN with the balanced L1 loss alone."
    # It goes on over the end of the line.
    assert header.reaches.endswith("adds it last, to the other two: 37.7 to 38.5 AP.")
    assert header.experiment == "libra_fasterrcnn_resnetfpn_coco"
