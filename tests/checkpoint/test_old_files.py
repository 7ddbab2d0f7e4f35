"""Files that 0.1.0 wrote: they load, and the next step has the bits that it had there."""

from collections import namedtuple
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from fastopt import Adam
from fastopt.optimizers import OPTIMIZERS
from tests.conftest import assert_same_bits

FILES = Path(__file__).with_name("files")
EXPECTED = dict(np.load(FILES / "expected.npz"))
NAMES = sorted({name.split()[0] for name in EXPECTED})


@pytest.mark.parametrize("name", NAMES)
def test_a_file_of_the_first_version_goes_on_as_there(name):
    arrays = {tuple(key.split()[1:]): value for key, value in EXPECTED.items() if key.split()[0] == name}
    params = {key: value.copy() for (key, when), value in arrays.items() if when == "before"}
    optimizer = OPTIMIZERS["momentum" if name == "rows" else name]()
    optimizer.load(FILES / name)
    assert optimizer.iter == (3 if name == "rows" else 5)
    optimizer.update(params, {key: arrays[key, "gradient"] for key in params})
    for key, value in params.items():
        if name == "muon":  # products of matrices are BLAS's
            np.testing.assert_allclose(value, arrays[key, "after"], rtol=1e-5)
        else:
            assert_same_bits(value, arrays[key, "after"])


def test_there_is_a_file_of_each_kind_of_rule():
    rules = [OPTIMIZERS[name]._rule for name in NAMES if name != "rows"]
    assert {len(rule.state) for rule in rules} >= {0, 1, 2}
    assert any(rule.measure for rule in rules) and any(rule.prepare for rule in rules)
    assert any(rule.exact for rule in rules) and any(rule.signed for rule in rules)


def test_a_file_of_a_flat_dict_goes_on_with_nested_containers_of_the_same_names(tmp_path):
    flat, plain = {"0.W": np.ones((2, 3)), "0.b": np.ones(3)}, Adam()
    plain.update(flat, {"0.W": np.ones((2, 3)), "0.b": np.ones(3)})
    plain.save(tmp_path / "flat", flat)
    nested, resumed = [{"W": np.zeros((2, 3)), "b": np.zeros(3)}], Adam()
    assert not any(resumed.load(tmp_path / "flat", nested))
    resumed.update(nested, [{"W": np.ones((2, 3)), "b": np.ones(3)}])
    plain.update(flat, {"0.W": np.ones((2, 3)), "0.b": np.ones(3)})
    assert_same_bits(nested[0]["W"], flat["0.W"])
    assert_same_bits(resumed.m[0]["b"], plain.m["0.b"])


@dataclass
class Layer:
    W: np.ndarray
    b: np.ndarray


@pytest.mark.parametrize("kind", [Layer, namedtuple("Fields", "W b")])
def test_a_file_of_the_first_version_goes_on_with_nested_containers(kind):
    def arrays(when):
        return kind(**{key: EXPECTED[f"adam {key} {when}"].copy() for key in "Wb"})

    params, optimizer = arrays("before"), Adam()
    optimizer.load(FILES / "adam")
    optimizer.update(params, arrays("gradient"))
    for key in "Wb":
        assert_same_bits(getattr(params, key), getattr(arrays("after"), key))
        assert getattr(optimizer.m, key).shape == getattr(params, key).shape
