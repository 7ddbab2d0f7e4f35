"""The order of the floors: no import runs up, none goes in a circle."""

import ast
from pathlib import Path

import pytest

import fastopt

# From the ground up. A module may import what stands on its own floor or below.
FLOORS = [
    "names combinations foreign machine blas rows typed checks pairs array_checks container_checks commands.console",
    "kernels",
    "constraints hyperparameters flat flat_nested structure views groups settings threads tuning schedules reference representation formula_checks",
    "engine report averages leaves accumulation trial problems shared_settings",
    "checkpoint",
    "optimizer",
    "optimizers custom_rule",
    "compare functional minimization mpi nn sklearn commands.docstrings commands.explain commands.info",
    "profile_report profiling commands experiments cli __main__",
]
ROOT = Path(fastopt.__file__).parent


def modules():
    """{module: path} of the package, without `fastopt.`."""
    paths = (path for path in ROOT.rglob("*.py") if not {"mnist_subset", "__pyinstaller"} & {*path.parts})
    names = {
        path: ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix("__init__").rstrip(".")
        for path in paths
    }
    return {name: path for path, name in names.items() if name}


MODULES = modules()


def imports(path):
    """The modules that a file imports, in functions too, but for what only type checkers see."""
    nodes, names = [ast.parse(path.read_text(encoding="utf-8"))], set()
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            nodes += node.orelse if ast.unparse(node.test)[:3] != "not" else node.body
            continue
        nodes += ast.iter_child_nodes(node)
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "fastopt":
            module = node.module.removeprefix("fastopt").lstrip(".")
            inside = {f"{module}.{alias.name}".lstrip(".") for alias in node.names}
            names |= {name if name in MODULES else module for name in inside}
        elif isinstance(node, ast.Import):
            names |= {
                alias.name.removeprefix("fastopt").lstrip(".")
                for alias in node.names
                if alias.name.startswith("fastopt")
            }
    return names - {""}


IMPORTS = {name: imports(path) - {name} for name, path in MODULES.items()}


def floor(module):
    """The number of the floor whose entry fits best."""
    fitting = [
        (len(entry), number)
        for number, entries in enumerate(FLOORS)
        for entry in entries.split()
        if module == entry or module.startswith(f"{entry}.")
    ]
    return max(fitting)[1] if fitting else None


def test_every_module_has_a_floor():
    assert [module for module in MODULES if floor(module) is None] == []
    assert [entry for entries in FLOORS for entry in entries.split() if entry not in MODULES] == []


@pytest.mark.parametrize("module", MODULES)
def test_no_import_runs_up(module):
    assert [name for name in IMPORTS[module] if floor(name) > floor(module)] == []


def test_no_import_goes_in_a_circle():
    left = {module: set(names) for module, names in IMPORTS.items()}
    while free := [module for module, names in left.items() if not names & left.keys()]:
        for module in free:
            del left[module]
    assert left == {}
