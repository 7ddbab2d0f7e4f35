"""Files that 0.1.0 wrote: they load, and the next step has the bits that it had there."""

from pathlib import Path

import numpy as np
import pytest

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
