"""Shared by all tests: seeded arrays, comparison by bits, choices of cases, and Python in a fresh process."""

import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from fastopt import reference, threads, tuning
from fastopt.kernels import RULES
from fastopt.nn import mnist
from fastopt.optimizers import OPTIMIZERS
from fastopt.pairs import pairs

collect_ignore_glob = ["types/*"]  # which mypy reads


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Tests read the shipped subset, whatever cache or network the machine has."""
    monkeypatch.setattr(mnist, "_cached_or_downloaded", lambda: None)
    monkeypatch.delenv(mnist.DIRECTORY_VARIABLE, raising=False)


@pytest.fixture(autouse=True)
def tuning_as_before():
    """A test that sets the tuning, or fails meanwhile, leaves it to the others as it was."""
    mode = tuning.mode()
    yield
    if tuning.mode() != mode:
        tuning.set_tuning(mode)


@pytest.fixture
def rng():
    return np.random.default_rng(12345)


class Pair:
    """A compiled optimizer and its reference, run side by side on equal copies."""

    def __init__(self, rule, **settings):
        self.fast = OPTIMIZERS[rule](**settings)
        self.plain = getattr(reference, OPTIMIZERS[rule].__name__)(**settings)

    def update(self, fast_params, plain_params, grads, plain_grads=None):
        self.fast.update(fast_params, grads)
        with np.errstate(all="ignore"):
            self.plain.update(plain_params, grads if plain_grads is None else plain_grads)

    def assert_same_state(self):
        for slot in self.plain.slots:
            fast, plain = getattr(self.fast, slot), getattr(self.plain, slot)
            if isinstance(fast, dict):
                assert list(fast) == list(plain)
                for key in fast:
                    assert_same_bits(fast[key], plain[key])
            else:
                assert_same_bits(fast, plain[None])


def assert_same_bits(a, b):
    """Equal dtype, shape and bits; one NaN is as good as another, as their payload is the processor's affair."""
    a, b = np.asarray(a), np.asarray(b)
    assert a.dtype == b.dtype and a.shape == b.shape
    if a.tobytes() == b.tobytes():
        return
    a, b = pairs(a), pairs(b)
    kind = np.uint32 if a.dtype == np.float32 else np.uint64
    quiet = np.array(np.nan, dtype=a.dtype)
    bits_a, bits_b = (np.ascontiguousarray(np.where(np.isnan(x), quiet, x)).view(kind) for x in (a, b))
    np.testing.assert_array_equal(bits_a, bits_b)


def python(code, *arguments, cwd=None, check=True, executable=sys.executable, **environment):
    """Runs code in a fresh Python; returns the finished process with its output as text."""
    process = subprocess.run(
        [executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, **environment},
        timeout=300,
    )
    if check:
        assert process.returncode == 0, process.stdout + process.stderr
    return process


# A kernel by its address, as `loops.walk` calls it: where the disk cache starts empty, a step of an optimizer would
# compile the look at arrays and the loop over them too, which takes twenty times as long.
ONE_KERNEL = """
import numpy as np, fastopt
from fastopt.kernels import RULES
from fastopt.kernels.compile import _callback, form_address
p, g, lr = np.ones(3, np.float32), np.ones(3, np.float32), np.array([0.5])
row = np.array([x.ctypes.data for x in (p, g, lr)])
step = _callback(RULES["sgd"], "float32", "step", ()).ctypes
step(row.ctypes.data, lr.ctypes.data, p.ctypes.data, 0, form_address(0, "float32"), 0, 3)
print("RESULT", p[0])
"""

ROOT = Path(__file__).parent.parent

# The first rule with each number of state slots, for what the loop does around the formula: rules alike in this differ in
# the formula alone, whose bits tests/kernels/test_contract.py compares for all of them.
ONE_OF_EACH_KIND = list({len(RULES[name].state): name for name in reversed(OPTIMIZERS)}.values())[::-1]


def cases_of(rules, *choices):
    """(rule, a value of each choice): all there are for one rule of each kind, for each other rule fewer.

    Those have each value of each choice as well, together with other values from rule to rule, so that over all rules
    each value meets each other.
    """
    cases = []
    for number, rule in enumerate(rules):
        if rule in ONE_OF_EACH_KIND:
            cases += [(rule, *values) for values in product(*choices)]
            continue
        for turn in range(max(map(len, choices))):
            cases.append(
                (rule, *(values[(turn + (number >> place)) % len(values)] for place, values in enumerate(choices)))
            )
    return cases


# The rules whose steps do not depend on which elements lie in one array.
ELEMENTWISE = [name for name, rule in RULES.items() if not rule.is_by_array]

# Serial, and in parallel with fewer, as many and more shares than there are threads.
THREAD_COUNTS = [1, 2, 3, 7] if threads.layer() else [1]
