"""Installing: the wheel outside the checkout, and the checkout without installing its kernels as a package."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from fastopt.kernels import RULES
from tests.conftest import python

ROOT = Path(__file__).parent.parent

STEP = """
import numpy as np, fastopt, fastopt.kernels, sys
params = {"W": np.ones(3, np.float32)}
fastopt.Adam(lr=0.5).update(params, {"W": np.ones(3, np.float32)})
assert np.allclose(params["W"], 0.5), params
try:
    import kernels
except ImportError:
    print(fastopt.kernels.__file__)
else:
    raise AssertionError(f"kernels is a top-level package: {kernels.__file__}")
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    # Copied, so that no build output is left in the checkout, to a path with spaces.
    source = tmp_path_factory.mktemp("a copy of") / "the checkout"
    names = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    for name in names.stdout.splitlines():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((ROOT / name).read_bytes())
    target = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--outdir", str(target), str(source)], check=True, capture_output=True
    )
    (built,) = target.glob("*.whl")
    assert list(target.glob("*.tar.gz"))
    return built


def test_the_wheel_holds_what_it_should(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"fastopt"}
    for name in ("fastopt/py.typed", "fastopt/kernels/build.py", "fastopt/nn/mnist_subset/README.md", "fastopt/cli.py"):
        assert name in names
    assert {f"fastopt/kernels/{rule}.py" for rule in RULES} <= set(names)
    assert sum(name.endswith("ubyte.gz") for name in names) == 4
    assert not [name for name in names if "test" in name or "bench" in name or "__pycache__" in name]


def test_the_wheel_works_in_a_fresh_environment(wheel, tmp_path):
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    bin_folder = tmp_path / "venv" / ("Scripts" if sys.platform == "win32" else "bin")
    executable = str(bin_folder / "python")
    subprocess.run([executable, "-m", "pip", "install", "--quiet", str(wheel)], check=True)
    outside = tmp_path / "outside"
    outside.mkdir()
    where = python(STEP, cwd=outside, executable=executable, PYTHONPATH="").stdout
    assert str(tmp_path / "venv") in where
    layer = python("from fastopt import threads; print(threads.layer())", cwd=outside, executable=executable)
    assert layer.stdout.strip() in ("tbb", "omp", "None")
    # Without the extras the command says what it needs, in one line.
    process = subprocess.run([str(bin_folder / "fastopt"), "verify"], capture_output=True, text=True, cwd=outside)
    assert process.returncode == 2 and "pip install 'fastopt[experiments]'" in process.stderr


def test_python_started_in_the_checkout_finds_the_kernels(tmp_path):
    start = "import sys; sys.path.insert(0, ''); sys.meta_path[:] = [f for f in sys.meta_path if 'editable' not in repr(f)]\n"
    code = start + STEP[: STEP.index("try:")] + "print(fastopt.kernels.__file__)"
    assert python(code, cwd=ROOT).stdout.strip() == str(ROOT / "kernels" / "__init__.py")
