"""Installing: the wheel outside the checkout, and the checkout itself, without symbolic links too."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy
import pytest

from fastopt.kernels import RULES
from tests.conftest import python

ROOT = Path(__file__).parent.parent

STEP = """
import numpy as np, fastopt, fastopt.kernels, sys, tempfile
params, optimizer = {"W": np.ones(3, np.float32)}, fastopt.Adam(lr=0.5)
optimizer.update(params, {"W": np.ones(3, np.float32)})
assert np.allclose(params["W"], 0.5), params
with tempfile.TemporaryDirectory() as folder:  # at the end of a training nothing may be missing
    optimizer.save(f"{folder}/state")
    fastopt.Adam().load(f"{folder}/state")
try:
    import kernels
except ImportError:
    print(fastopt.kernels.__file__)
else:
    raise AssertionError(f"kernels is a top-level package: {kernels.__file__}")
"""


# Where the checkout is on Python's path its link `kernels` can be imported as what it is.
WITHOUT_CHECK = STEP[: STEP.index("try:")] + "print(fastopt.kernels.__file__)"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy of the checkout, so that no build output is left in it, at a path with spaces."""
    folder = tmp_path_factory.mktemp("a copy of") / "the checkout"
    names = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    for name in names.stdout.splitlines():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_symlink():  # as a checkout without symbolic links has it
            (folder / name).write_text(os.readlink(ROOT / name))
        else:
            (folder / name).write_bytes((ROOT / name).read_bytes())
    return folder


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory):
    target = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--outdir", str(target), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    (built,) = target.glob("*.whl")
    assert list(target.glob("*.tar.gz"))
    return built


def test_the_wheel_holds_what_it_should(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"fastopt"}
    for name in (
        "fastopt/py.typed",
        "fastopt/kernels/compile.py",
        "fastopt/nn/mnist_subset/README.md",
        "fastopt/cli.py",
    ):
        assert name in names
    assert {f"fastopt/kernels/rules/{rule.name}.py" for rule in RULES.values()} <= set(names)
    assert sum(name.endswith("ubyte.gz") for name in names) == 4
    assert not [name for name in names if "test" in name or "bench" in name or "__pycache__" in name]


def python_of(folder):
    return folder / ("Scripts" if sys.platform == "win32" else "bin") / "python"


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """A fresh environment, with pip, which installs into other environments too."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    return folder


def test_the_wheel_works_in_a_fresh_environment(wheel, environment, tmp_path):
    executable = str(python_of(environment))
    subprocess.run([executable, "-m", "pip", "install", "--quiet", "--no-compile", str(wheel)], check=True)
    # Only what is imported becomes byte code, and once.
    outside = {"cwd": tmp_path, "executable": executable, "PYTHONPATH": "", "PYTHONDONTWRITEBYTECODE": ""}
    printed = python(STEP + "from fastopt import threads; print(threads.layer())", **outside).stdout.splitlines()
    assert str(environment) in printed[0] and printed[1] in ("tbb", "omp", "None")
    # Without the extras commands print plainly, and those that draw say what they need, in one line.
    command = str(python_of(environment).with_name("fastopt"))
    process = subprocess.run([command, "info"], capture_output=True, text=True, cwd=tmp_path)
    assert process.returncode == 0 and "threading layer" in process.stdout
    process = subprocess.run([command, "train"], capture_output=True, text=True, cwd=tmp_path)
    assert process.returncode == 2 and "pip install 'fastopt[experiments]'" in process.stderr


@pytest.mark.parametrize("options", [(), ("-e",)], ids=["pip install .", "pip install -e ."])
def test_installing_the_checkout(options, source, environment, tmp_path):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True)
    executable = str(python_of(tmp_path / "venv"))
    # The dependencies are those of this environment.
    inside = python("import sysconfig; print(sysconfig.get_path('purelib'))", executable=executable).stdout.strip()
    (Path(inside) / "dependencies.pth").write_text(f"{Path(numpy.__file__).parent.parent}\n")
    pip = [str(python_of(environment)), "-m", "pip", "--python", executable]
    subprocess.run([*pip, "install", "--quiet", "--no-deps", *options, "."], cwd=source, check=True)
    for folder in (tmp_path, source):  # Python started in the checkout finds that first
        inside_checkout = folder == source or options == ("-e",)
        code = WITHOUT_CHECK if inside_checkout else STEP
        where = Path(python(code, cwd=folder, executable=executable, NUMBA_CACHE_DIR=str(tmp_path)).stdout.strip())
        assert where == (source if inside_checkout else Path(inside)) / "fastopt" / "kernels" / "__init__.py"
