"""Python blocks of the documents run as written, links lead somewhere, tables are the records."""

import pathlib
import re
import subprocess
import sys

import pytest

from libra_tf import compat

ROOT = pathlib.Path(__file__).resolve().parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def needs_keras3(block):
    return "keras3" in block


def needs_folders(block):
    """Whether a block is about folders of a run and of images, which tests/api/test_page.py has."""
    name, code = block
    return name.startswith("python.md") or "libra_tf.load(" in code


def python_blocks():
    """Yields a name and the code of each block."""
    for document in DOCUMENTS:
        for match in re.finditer(r"^```python\n(.*?)^```", document.read_text(), re.M | re.S):
            yield f"{document.name}, byte {match.start()}", match.group(1)


def run_blocks(blocks):
    """Runs each block in a namespace of its own, all in one process."""
    code = "\n".join(f"exec(compile({block!r}, {name!r}, 'exec'), {{}})" for name, block in blocks)
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("keras3", [False, True], ids=["model_garden", "keras3"])
def test_python_blocks_run(keras3):
    if keras3 and compat.IS_ADDONS_LANE:
        pytest.skip("the addons lane has no Keras 3")
    blocks = [block for block in python_blocks() if not needs_folders(block)]
    chosen = [block for block in blocks if needs_keras3(block[1]) == keras3]
    assert chosen
    run_blocks(chosen)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document):
    for target, anchor in re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", document.read_text()):
        if "://" not in target:
            path = document.parent / target if target else document
            assert path.exists(), target
            if anchor:
                assert anchor in anchors_of(path), f"{target}#{anchor}"


def anchors_of(document):
    """The anchors that GitHub gives the headings of a document."""
    text = re.sub(r"^```.*?^```", "", document.read_text(), flags=re.M | re.S)
    headings = re.findall(r"^#+ +(.*?) *$", text, re.M)
    return [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]


def tables_of(benchmark, *arguments):
    """The tables that a benchmark prints from its records."""
    report = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / benchmark, "--report", *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    return report.stdout.strip().split("\n\n")


@pytest.mark.one_lane
def test_the_tables_are_those_of_the_records():
    tables = tables_of("ablation.py")
    assert len(tables) == 4
    text = (ROOT / "docs" / "results.md").read_text()
    assert all(table in text for table in tables)
    (table,) = tables_of("precision.py")
    assert table in text
    tables = tables_of("dials.py") + tables_of("verdicts.py")
    assert len(tables) == 5
    text = (ROOT / "docs" / "when.md").read_text()
    assert all(table in text for table in tables)
