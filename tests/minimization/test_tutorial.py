"""The tutorial on `minimize` runs and finds what it says."""

import re
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("scipy")
PAGE = Path(__file__).parents[2] / "docs/source/tutorials/minimize.md"


@pytest.fixture(scope="module")
def names():
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("Agg")
    cells, found = re.findall(r"```\{code-cell\} ipython3\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S), []
    names = {}
    for cell in cells:
        exec(compile(cell, str(PAGE), "exec"), names)
        found.append({key: value for key, value in names.items() if key in ("result", "within", "without")})
    pyplot.close("all")
    return names | {"cells": found}


def test_rosenbrock(names):
    assert all(names["optimize"].rosen(path[-1]) < 1.0 for path in names["paths"].values())


def test_beale(names):
    np.testing.assert_allclose(names["without"].x, [3.0, 0.5], atol=1e-2)
    assert names["within"].success and names["within"].x[0] == 2.5


def test_logistic_regression(names):
    (regression,) = [cell["result"] for cell in names["cells"] if isinstance(cell.get("result", {}).get("x"), dict)][:1]
    assert names["loss"](regression.x, np.arange(1000))[0] < 0.3


def test_circuit(names):
    state = names["circuit"](names["result"].x)
    energy = state @ names["hamiltonian"] @ state
    assert names["lowest"] <= energy < names["lowest"] + 0.2


def test_fit(names):
    fitted = names["optimize"].curve_fit(names["model"], names["t"], names["data"])[0]
    np.testing.assert_allclose(names["plain"].x, fitted, rtol=1e-2)
    np.testing.assert_allclose(names["cauchy"].x, [2.5, 1.3, 0.5], rtol=0.1)
