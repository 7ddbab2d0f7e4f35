"""Types of the package: `tests/types/good.py` it accepts, in `tests/types/bad.py` it finds each mistake."""

import re
import shutil
import subprocess
import sys

import pytest

from fastopt import optimizer
from fastopt.kernels import RULES
from fastopt.kernels.averages import SLOTS
from tests.conftest import ROOT

TYPES = ROOT / "tests" / "types"


@pytest.fixture(scope="module")
def errors(tmp_path_factory):
    """{file name: {line: codes}} of what mypy finds with the package laid out as it is installed."""
    pytest.importorskip("mypy")
    folder = tmp_path_factory.mktemp("types")
    ignore = shutil.ignore_patterns("__pycache__", "mnist_subset")
    shutil.copytree(ROOT / "fastopt", folder / "fastopt", ignore=ignore)
    shutil.copytree(TYPES, folder, dirs_exist_ok=True)
    config = (ROOT / "pyproject.toml").read_text(encoding="utf-8").replace('packages = ["fastopt"]\n', "")
    (folder / "pyproject.toml").write_text(config, encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--follow-imports=silent", "good.py", "bad.py"]
    found = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert found.returncode == 1, found.stdout + found.stderr
    by_file = {"good.py": {}, "bad.py": {}}
    for name, line, code in re.findall(r"^(\w+\.py):(\d+): error: .*\[([\w-]+)\]$", found.stdout, re.M):
        by_file[name].setdefault(int(line), set()).add(code)
    return by_file


def test_mypy_accepts_what_is_right(errors):
    assert errors["good.py"] == {}


def test_mypy_finds_each_mistake(errors):
    lines = enumerate((TYPES / "bad.py").read_text(encoding="utf-8").splitlines(), start=1)
    expected = {number: set(line.split("# E: ")[1].split(", ")) for number, line in lines if "# E: " in line}
    assert errors["bad.py"].keys() == expected.keys()
    assert {number: codes & expected[number] for number, codes in errors["bad.py"].items()} == errors["bad.py"]


def test_type_checkers_know_the_state_of_every_rule():
    source = (ROOT / "fastopt" / "optimizer.py").read_text(encoding="utf-8")
    declared = set(
        re.search(r"if TYPE_CHECKING:  # the state of all rules\n((?: +[\w =]+Slot\(\)\n)+)", source)[1].split()
    )
    assert {slot for rule in RULES.values() for slot in rule.state} | {*SLOTS.values()} == declared - {"=", "Slot()"}
    assert not hasattr(optimizer, "Slot")
