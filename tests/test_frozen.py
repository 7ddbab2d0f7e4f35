"""Without files of source: the package in a zip file, as byte code alone, and as a frozen program has it."""

import compileall
import importlib.metadata
import shutil
import zipfile
from pathlib import Path

import pytest

import fastopt
from fastopt.__pyinstaller import get_hook_dirs
from tests.conftest import ONE_KERNEL, python

HERE = Path(fastopt.__file__).parent

# Without -c's "" in front, an editable install's own finder would win over the copy.
IMPORT = """
import sys
sys.path.insert(0, sys.argv[1])
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in repr(finder)]
import numpy as np, fastopt
assert fastopt.__file__.startswith(sys.argv[1]), fastopt.__file__
"""

UPDATE = """
params, optimizer = {"p": np.ones(3, np.float32)}, fastopt.SGD(lr=0.5)
optimizer.update(params, {"p": np.ones(3, np.float32)})
print("RESULT", params["p"][0])
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """The package as it is installed."""
    folder = tmp_path_factory.mktemp("package") / "fastopt"
    shutil.copytree(HERE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def zipped(package, target):
    with zipfile.ZipFile(target, "w") as archive:
        for path in package.rglob("*"):
            archive.write(path, path.relative_to(package.parent))
    return target


def run(where, folder, more=ONE_KERNEL, result="0.5"):
    cache = {"XDG_CACHE_HOME": str(folder / "cache"), "NUMBA_CACHE_DIR": "", "NUMBA_DEBUG_CACHE": "1"}
    process = python(IMPORT + more, str(where), cwd=folder, **cache)
    assert f"RESULT {result}" in process.stdout
    found = [
        word
        for word in ("saved", "loaded")
        if f"data {word} from" in process.stdout or f"data {word} to" in process.stdout
    ]
    return found, process.stderr.count("disk cache cannot be used")


@pytest.fixture(scope="module")
def started(package, tmp_path_factory):
    """The package in a zip file, a folder with its cache after a first step, and how that went."""
    folder = tmp_path_factory.mktemp("started")
    archive = zipped(package, folder / "app.zip")
    return archive, folder, run(archive, folder, UPDATE)


def test_a_zip_file(started):
    """numba has a place for kernels of a zip file, in the user's folder."""
    archive, folder, first = started
    assert [first, run(archive, folder, UPDATE)] == [(["saved"], 0), (["loaded"], 0)]


def test_a_zip_file_with_another_formula(package, tmp_path):
    archive = tmp_path / "app.zip"
    assert run(zipped(package, archive), tmp_path) == (["saved"], 0)
    source = package / "kernels" / "rules" / "sgd.py"
    text = source.read_text()
    try:
        source.write_text(text.replace("p - lr * g", "p + lr * g"))
        assert run(zipped(package, archive), tmp_path, result="1.5") == (["saved"], 0)
    finally:
        source.write_text(text)


def test_what_lies_in_a_zip_file_is_found(started):
    archive, folder, _ = started
    more = """
from fastopt.nn.mnist import SUBSET, read_mnist
assert len(read_mnist(SUBSET).train[1]) == 6000
@fastopt.rule(lr=0.5)
def mine(p, g, lr):
    return (p - lr * g,)
mine().update(params, {"p": np.ones(3, np.float32)})
assert params["p"][0] == 0
z = np.ones(2, complex)
fastopt.Adam(modulus=True).update(z, z.copy())  # which reads the source of the formula
assert z[0] != 1
"""
    run(archive, folder, UPDATE + more)


def test_an_archive_that_numba_does_not_know(package, tmp_path):
    assert run(zipped(package, tmp_path / "app.pyz"), tmp_path) == ([], 1)


def test_byte_code_alone(package, tmp_path):
    folder = tmp_path / "lib" / "fastopt"
    shutil.copytree(package, folder)
    compileall.compile_dir(folder, quiet=1, legacy=True)
    for path in folder.rglob("*.py"):
        path.unlink()
    assert run(folder.parent, tmp_path)[1] <= 1


def test_a_loader_that_has_code_only(tmp_path):
    """PyInstaller's: `get_data` raises for modules; byte code tells versions apart."""
    before = """
from fastopt.kernels import cache, loops
from fastopt.kernels import cache
class Loader:
    def get_data(self, path):
        raise OSError(20, "Not a directory", path)
    def get_code(self, name):
        return compile(CODE, name, "exec")
loops.__loader__ = Loader()
CODE = "x = 1"
first = cache._machinery()
cache._machinery.cache_clear()
CODE = "x = 2"
assert cache._machinery() != first and not cache.UNREADABLE
"""
    python(before, cwd=tmp_path)


def test_a_source_that_cannot_be_read_costs_the_cache(tmp_path):
    before = "import fastopt.kernels.loops as loops; loops.__loader__ = None"
    process = python(f"{before}\n{ONE_KERNEL}", cwd=tmp_path, NUMBA_CACHE_DIR=str(tmp_path / "cache"))
    assert "RESULT 0.5" in process.stdout
    assert process.stderr.count("the source of fastopt.kernels.loops cannot be read") == 1
    assert not list(tmp_path.rglob("*.nbc"))


def test_pyinstaller_is_told_of_the_rules():
    """Which are imported by what lies in their folder, so that no import statement names them."""
    values = [entry.value for entry in importlib.metadata.entry_points(group="pyinstaller40", name="hook-dirs")]
    assert "fastopt.__pyinstaller:get_hook_dirs" in values
    (folder,) = get_hook_dirs()
    assert "fastopt.kernels.rules" in (Path(folder) / "hook-fastopt.py").read_text()
