"""Imports point one way: from the doors down to the ideas, without circles."""

import ast
import pathlib

ROOT = pathlib.Path(__file__).resolve().parents[1]
# Every room may import those above it in this list, and itself. CONTRIBUTING.md says what is where.
ROOMS = (
    "ops",
    "mixins",
    "compat",
    "precision",
    "losses",
    "layers",
    "keras3",
    "atomic",
    "cli",
    "pages",
    "data",
    "configs",
    "balance",
    "modeling",
    "dataloaders",
    "initial_weights",
    "tasks",
    "registry_imports",
    "runs",
    "evaluation",
    "checkpoints",
    "serving",
    "inference",
    "analysis",
    "runner",
    "api",
    "commands",
)


def name_of(path):
    """The dotted name of a module of the package."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted((ROOT / "libra_tf").rglob("*.py"))}


def imported_by(path):
    """The modules of the package that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        # A relative import would name no module of the package.
        assert not getattr(node, "level", 0), f"{path} has a relative import"
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module in MODULES:
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name in MODULES else node.module


def room(module):
    """The first name below the package; its own `__init__` and the doors are in none."""
    is_door = module.endswith(".__main__")
    return module.split(".")[1] if "." in module and not is_door else None


def test_every_module_is_in_a_room_of_the_list():
    assert {room(module) for module in MODULES} - {None} == set(ROOMS)


def test_imports_are_found_in_every_form(tmp_path):
    file = tmp_path / "file.py"
    file.write_text(
        "import os, libra_tf.ops.sampling\n"
        "from libra_tf import compat, ops\n"
        "def later():\n"
        "    from libra_tf.layers.roi_sampler import IoUBalancedROISampler\n"
    )
    assert sorted(imported_by(file)) == [
        "libra_tf.compat",
        "libra_tf.layers.roi_sampler",
        "libra_tf.ops",
        "libra_tf.ops.sampling",
    ]


def test_nothing_is_imported_upward():
    upward = [
        f"{module} imports {other}"
        for module, path in MODULES.items()
        for other in imported_by(path)
        if room(module) and room(other) and ROOMS.index(room(other)) > ROOMS.index(room(module))
    ]
    assert not upward


def test_no_modules_import_each_other_in_a_circle():
    graph = {module: set(imported_by(path)) - {module} for module, path in MODULES.items()}
    # A package's own `__init__` hands on what is in it.
    for module, others in graph.items():
        graph[module] = {other for other in others if not module.startswith(f"{other}.")}
    while True:
        free = {module for module, others in graph.items() if not others & graph.keys()}
        if not free:
            break
        graph = {module: others for module, others in graph.items() if module not in free}
    assert not graph, f"circles among {sorted(graph)}"


def test_the_client_of_a_server_is_for_its_command_only():
    client = "libra_tf.inference.client"
    users = {
        module
        for module, path in MODULES.items()
        for other in imported_by(path)
        if other.startswith(client) and not module.startswith(client)
    }
    assert users == {"libra_tf.commands.client"}


def test_only_the_doors_and_the_tests_are_above_the_package():
    doors = [ROOT / "run.py", *sorted((ROOT / "export").glob("*.py"))]
    names = [path.stem for path in doors]
    for path in MODULES.values():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                module = getattr(node, "module", None) or node.names[0].name
                assert module.split(".")[0] not in {*names, "export", "tests", "benchmarks"}, path


def test_the_product_has_no_mock():
    for path in [*MODULES.values(), ROOT / "run.py", *(ROOT / "export").glob("*.py")]:
        assert "unittest" not in path.read_text(), path
