"""The machinery: formulas in, kernels out; the disk cache; what the machine code looks like."""

import ast
import re
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import fastopt
from fastopt.kernels import RULES, arena, array_scan, cache
from fastopt.kernels.cache import machinery_modules
from fastopt.kernels.compile import LOOPS, callback, kernel
from fastopt.kernels.rule import Rule
from tests.conftest import ONE_KERNEL, THREAD_COUNTS, assert_same_bits, python

HERE = Path(fastopt.__file__).parent


# An operation, a function of doubles or a conversion to them, scalar or vector.
FLOAT64_ARITHMETIC = re.compile(r"= (fadd|fsub|fmul|fdiv|frem|fneg|fpext)\b.*double|@llvm\.\w+\.(v\d+)?f64")
# Zen and others without AVX-512 have 8 floats in a vector, machines with SSE or NEON 4.
WIDTHS = {"float32": r"(4|8|16)", "float64": r"(2|4|8)"}


def machine_code(rule, dtype, transforms=()):
    """The optimised code of a rule's loop, out of numba's disk cache, where most lie since other tests' steps.

    `inspect_llvm` knows only what this process compiled, which would be each of them a second time.
    """
    compiled = callback(RULES[rule], dtype, transforms=transforms)
    cache.enable(compiled)
    compiled.compile()
    return str(compiled._library._get_module_for_linking())


@pytest.mark.parametrize("dtype", WIDTHS)
@pytest.mark.parametrize("rule", RULES)
def test_kernels_are_vectorised(rule, dtype):
    code = machine_code(rule, dtype)
    element = "float" if dtype == "float32" else "double"
    assert re.search(rf"= f(add|sub|mul) <{WIDTHS[dtype]} x {element}>", code)
    if "sqrt" in RULES[rule].formula.__code__.co_names:
        assert re.search(rf"@llvm\.sqrt\.v{WIDTHS[dtype]}f{dtype[5:]}", code)
        assert re.search(rf"= fdiv <{WIDTHS[dtype]} x {element}>", code)


@pytest.mark.parametrize("rule", RULES)
def test_float32_kernels_hold_no_float64_arithmetic(rule):
    code = machine_code(rule, "float32")
    assert not [line for line in code.splitlines() if FLOAT64_ARITHMETIC.search(line)]


def test_float64_arithmetic_would_be_found():
    assert [line for line in machine_code("adam", "float64").splitlines() if FLOAT64_ARITHMETIC.search(line)]


def slots_0(p, g, lr):
    return (p - lr * g,)


def slots_1(p, g, a, lr):
    return p - lr * g, a + g


def slots_3(p, g, a, b, c, lr):
    return p - lr * g, a + g, b - g, c + g * g


def slots_5(p, g, a, b, c, d, e, lr):
    return p - lr * g, a + g, b - g, c + g * g, d - a, e + b


@pytest.mark.parametrize("count", THREAD_COUNTS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("formula", [slots_0, slots_1, slots_3, slots_5])
def test_any_number_of_state_slots_and_arrays(formula, dtype, count, rng):
    slots = int(formula.__name__[-1])
    rule = Rule(formula, state=tuple("abcde"[:slots]))
    sizes = [3, 0, 1000, 64, 1, 5000, 0]
    arrays = [[rng.standard_normal(size).astype(dtype) for _ in range(2 + slots)] for size in sizes]
    expected = [formula(*columns, np.dtype(dtype).type(0.1)) for columns in arrays]
    scalars = np.array([0.1])
    table = np.array([[x.ctypes.data for x in (*columns, scalars)] for columns in arrays])
    starts = np.concatenate(([0], np.cumsum(sizes)))
    gradients = [columns[1].copy() for columns in arrays]
    kernel(rule, dtype, count > 1)(table, starts, count)
    for (p, g, *state), (new_p, *new_state), before in zip(arrays, expected, gradients, strict=True):
        assert_same_bits(p, new_p)
        assert_same_bits(g, before)
        for a, b in zip(state, new_state, strict=True):
            assert_same_bits(a, b)


def test_no_elements_at_all():
    empty = np.zeros((0, 3), dtype=np.int64)
    for parallel in (False, True):
        kernel(RULES["sgd"], "float32", parallel)(empty, np.zeros(1, dtype=np.int64), 2 if parallel else 1)


def test_nothing_compiles_at_import():
    python(
        """
import numba.core.compiler as compiler
def refuse(*args, **kwargs):
    raise AssertionError("compiled at import")
compiler.compile_extra = refuse
import fastopt, fastopt.reference, fastopt.nn
"""
    )


def test_import_does_not_load_the_command_lines_packages():
    python("import sys, fastopt; assert not {'rich', 'matplotlib', 'pooch', 'requests'} & set(sys.modules)")


@pytest.fixture
def copied(tmp_path):
    """A copy of the package that may be edited, and a function that makes a step with it in a fresh process."""
    package = tmp_path / "fastopt"
    shutil.copytree(HERE, package, ignore=shutil.ignore_patterns("__pycache__", "mnist_subset"))

    def step(before=""):
        # Without -c's "" in front, an editable install's own finder would win over the copy.
        start = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); sys.meta_path[:] = [f for f in sys.meta_path if 'editable' not in repr(f)]"
        process = python(
            f"{start}\n{before}\n{ONE_KERNEL}",
            cwd=tmp_path,
            NUMBA_CACHE_DIR=str(tmp_path / "cache"),
            NUMBA_DEBUG_CACHE="1",
        )
        assert "data loaded" in process.stdout or "data saved" in process.stdout
        kernel = [line for line in process.stdout.splitlines() if "passes.sgd" in line]
        return "hit" if any("data loaded" in line for line in kernel) else "miss", process.stdout.split("RESULT")[
            1
        ].strip()

    step.package = package
    return step


def test_the_cache_hits_in_a_new_process_and_misses_when_the_formula_changes(copied):
    assert [copied(), copied()] == [("miss", "0.5"), ("hit", "0.5")]
    file = copied.package / "kernels" / "rules" / "sgd.py"
    file.write_text(file.read_text().replace("p - lr * g", "p + lr * g"))
    assert copied() == ("miss", "1.5")
    file.write_text(
        "from numpy import float32\nfrom fastopt.kernels.rule import Rule\n\nSCALE = float32(2)\n\n\n"
        "def sgd(p, g, lr):\n    return (p - SCALE * lr * g,)\n\n\nSGD = Rule(sgd)\n"
    )
    assert copied() == ("miss", "0.0")
    file.write_text(file.read_text().replace("float32(2)", "float32(4)"))
    assert [copied(), copied()] == [("miss", "-1.0"), ("hit", "-1.0")]


def test_the_cache_misses_when_the_machinery_or_the_flags_change(copied):
    assert copied() == ("miss", "0.5")
    file = copied.package / "kernels" / "intrinsics.py"  # one of those of the next test
    file.write_text(file.read_text() + "\n# another version\n")
    assert copied() == ("miss", "0.5")
    other = "from fastopt.kernels import flags; flags.FLAGS['error_model'] = 'python'"
    assert [copied(other), copied(other), copied()] == [("miss", "0.5"), ("hit", "0.5"), ("hit", "0.5")]


def test_machine_code_depends_on_every_module_that_the_machinery_imports():
    modules = {module.__name__: Path(module.__file__) for module in machinery_modules()}
    for path in modules.values():
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ImportFrom) and node.module == "fastopt.kernels":
                assert {f"fastopt.kernels.{alias.name}" for alias in node.names} <= modules.keys(), path
            elif isinstance(node, ast.ImportFrom) and node.module.startswith("fastopt.kernels."):
                assert node.module in modules, path
    assert {
        "fastopt.kernels.compile",
        "fastopt.kernels.loops",
        "fastopt.kernels.passes",
        "fastopt.kernels.intrinsics",
        "fastopt.kernels.stores",
    } <= modules.keys()


def test_memory_layout_is_known_here():
    assert array_scan.layout_is_known()


@pytest.mark.parametrize("size", [0, 1, 1000, 1024 * 1024])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("slots", [0, 1, 2, 5])
def test_arena_is_aligned_and_staggered(slots, dtype, size):
    blocks = arena.blocks(size, dtype, slots)
    assert len(blocks) == slots
    for block in blocks:
        assert block.shape == (size,) and block.dtype == dtype and (block == 0).all()
        assert block.ctypes.data % 64 == 0
    assert len({block.ctypes.data % 4096 for block in blocks}) == slots
    for block, after in pairwise(blocks):
        assert block.ctypes.data + block.nbytes <= after.ctypes.data


@pytest.mark.parametrize("which", LOOPS)
def test_every_function_of_a_kernel_has_a_name_of_its_own(which):
    """numba numbers functions anew in each process, so cached kernels may otherwise hold different ones by one name."""
    rule = {"measure": RULES["lamb"].measuring, "prepare": RULES["muon"].preparing}.get(which, RULES["adagrad"])
    places = (0, -1, -1, -1) if which == "problems" else ()  # of AdaGrad's three scalars one differs
    compiled = callback(rule, "float32", which, ("cautious",) if which == "aligned" else (), places)
    compiled.compile()
    names = re.findall(r'^define [^@]*@"?([^"( ]+)', compiled._library.get_llvm_str(), re.M)
    ours = [name for name in names if "fastopt" in name]
    assert ours and all(compiled.__qualname__ in name for name in ours)
