"""The forms in which new parameters get to memory: the same bits, whole lines, and a fence behind them."""

import math
import re
import threading

import numpy as np
import pytest
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

import fastopt
from fastopt import machine, threads, tuning
from fastopt.kernels import RULES, loops, passes, stores
from fastopt.kernels.compile import DRIVER, _callback, block_function, callback, form_address, kernel
from fastopt.kernels.stores import AHEAD, BURST, FORMS, NONTEMPORAL, PLAIN
from fastopt.optimizers import OPTIMIZERS
from tests.conftest import ONE_OF_EACH_KIND, THREAD_COUNTS, assert_same_bits

OTHERS = [form for form in FORMS if form != "plain"]
# Nothing, less than a line, blocks that end with a line and blocks that do not, more than a thread's piece.
SIZES = [0, 1, 15, 16, 17, 255, 1024, 1025, 3000, loops.PIECE + 700]

walk = njit(nogil=True)(loops.walk)


@pytest.fixture
def form_of():
    """Sets the form of all steps, and takes it back."""
    yield tuning.set_tuning
    tuning.set_tuning("auto")


def offset_array(values, bytes_behind_a_line):
    """A copy that begins so many bytes behind the beginning of a cache line, and the memory that it and a line on both
    sides of it take."""
    memory = np.full(values.nbytes + 4 * stores.LINE, 0xAB, np.uint8)
    start = -memory.ctypes.data % stores.LINE + stores.LINE + bytes_behind_a_line
    array = memory[start : start + values.nbytes].view(values.dtype)
    array[...] = values
    return array, memory[start - stores.LINE : start + values.nbytes + stores.LINE]


def kernel_results(rule, dtype, form, count, which="step", transforms=()):
    """Every array, and the memory around it, after a kernel on arrays of all sizes."""
    rng = np.random.default_rng(7)
    slots = len(rule.state)
    kept = []
    for number, size in enumerate(SIZES):
        columns = [np.abs(rng.standard_normal(size)).astype(dtype) for _ in range(2 + slots)]
        kept.append([offset_array(values, number * np.dtype(dtype).itemsize % stores.LINE) for values in columns])
    scalars = np.abs(rng.standard_normal(len(rule.scalars))) * 0.01
    table = np.array(
        [[array.ctypes.data for array, _ in columns] + [0, 0, scalars.ctypes.data] for columns in kept]
        + [[0] * (5 + slots)]
    )
    starts = np.concatenate(([0], np.cumsum(SIZES)))
    statistics = np.zeros((starts[-1] // loops.PIECE + len(starts), passes.FIELDS))
    table[-1, 0] = statistics.ctypes.data
    kernel(rule, dtype, count > 1, which, transforms, form)(table, starts, count)
    return [memory for columns in kept for _, memory in columns] + [statistics]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rule", RULES)
def test_every_form_has_the_same_bits(rule, dtype):
    expected = kernel_results(RULES[rule], dtype, PLAIN, 1)
    for form in range(1, len(FORMS)):
        for count in THREAD_COUNTS[:2]:
            for mine, plain in zip(kernel_results(RULES[rule], dtype, form, count), expected, strict=True):
                np.testing.assert_array_equal(mine, plain)


@pytest.mark.parametrize("count", THREAD_COUNTS)
@pytest.mark.parametrize("rule", ONE_OF_EACH_KIND)
def test_reports_do_not_depend_on_the_form(rule, count):
    expected = kernel_results(RULES[rule], "float32", PLAIN, 1, "report")
    for form in range(1, len(FORMS)):
        for mine, plain in zip(kernel_results(RULES[rule], "float32", form, count, "report"), expected, strict=True):
            np.testing.assert_array_equal(mine, plain)


EVERYTHING = {
    "weight_decay": 0.1,
    "clip_norm": 1.0,
    "clip_value": 0.5,
    "centralize": True,
    "averaging": fastopt.EMA(0.9),
    "lookahead": fastopt.Lookahead(every=2),
}


@pytest.mark.parametrize(
    ("rule", "settings"),
    [*((rule, {}) for rule in ("sgd", "adam", "lamb", "muon")), ("adam", EVERYTHING), ("lamb", EVERYTHING)],
)
def test_steps_do_not_depend_on_the_form(rule, settings, form_of, rng):
    """With transforms, averages, both dtypes, numbers, views with gaps and rows."""
    shapes = {"W": (70, 90), "b": (90,), "d": (300,)}
    start = {key: rng.standard_normal(shape) for key, shape in shapes.items()}
    grads = [{key: rng.standard_normal(shape) for key, shape in shapes.items()} for _ in range(3)]
    outcomes = []
    for form in FORMS:
        form_of(form)
        gaps = np.zeros((90, 2), np.float32)
        params = {"W": start["W"].astype(np.float32), "b": gaps[:, 0], "d": start["d"].copy(), "x": 0.5}
        optimizer = OPTIMIZERS[rule](**settings)
        for step in grads:
            optimizer.update(params, {**step, "x": 0.25}, report=True)
            optimizer.update(params, {**step, "x": 0.25})
        state = [views for slot in RULES[rule].state for views in getattr(optimizer, slot).values()]
        outcomes.append([*params.values(), *state, gaps])
    for outcome in outcomes[1:]:
        for mine, plain in zip(outcome, outcomes[0], strict=True):
            assert_same_bits(mine, plain)


@pytest.mark.parametrize("form", OTHERS)
def test_rows_do_not_depend_on_the_form(form, form_of, rng):
    table, values = rng.standard_normal((50, 40)), rng.standard_normal((6, 40))
    results = []
    for which in ("plain", form):
        form_of(which)
        params, optimizer = {"e": table.copy()}, fastopt.Adam()
        for index in (np.array([1, 3, 3, 7, 49, 0]), np.array([2, 3, 4, 5, 6, 7])):
            optimizer.update(params, {"e": fastopt.Rows(index, values)})
        results.append(params["e"])
    assert_same_bits(*results)


@pytest.mark.parametrize("special", [math.nan, math.inf, -0.0, 1e-42])
@pytest.mark.parametrize("form", OTHERS)
def test_special_values_are_copied_bit_by_bit(form, special, form_of):
    """A NaN keeps its payload, and what is not updated its bits, on its way through a block."""
    form_of(form)
    params = np.full(5000, special, np.float32)
    params[::2].view(np.uint32)[...] = 0x7FC12345
    before = params.copy()
    fastopt.SGD(lr=0.0).update(params, np.zeros(5000, np.float32))
    form_of("plain")
    fastopt.SGD(lr=0.0).update(before, np.zeros(5000, np.float32))
    np.testing.assert_array_equal(params.view(np.uint32), before.view(np.uint32))


def compiled_code(function):
    """The optimised code of one of the functions around a block."""
    callback = block_function(function)
    return callback._library._get_module_for_linking()


def test_blocks_go_out_in_whole_lines():
    """Lines by vector stores, the non-temporal ones marked so; words only around them, in loops of their own."""
    code = str(compiled_code(stores.close_block))
    lines = re.findall(r"store <16 x i32> .*", code)
    past = [line for line in lines if "!nontemporal" in line]
    assert past and len(past) < len(lines)
    assert all("align 64" in line for line in lines)
    assert not [line for line in re.findall(r"store i32 .*", code) if "!nontemporal" in line]


def test_machine_code_stores_past_the_caches():
    from llvmlite import binding

    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    target = binding.Target.from_default_triple()
    machine = target.create_target_machine(
        cpu=binding.get_host_cpu_name(), features=binding.get_host_cpu_features().flatten(), opt=3
    )
    text = machine.emit_assembly(compiled_code(stores.close_block))
    if re.match("x86_64", target.triple):
        assert re.search(r"v?movnt(ps|dq|pd)\s+%[xyz]mm", text)
        assert re.search(r"prefetchw?", machine.emit_assembly(compiled_code(stores.open_block)))


def test_kernels_end_with_a_fence_where_stores_went_past_the_caches():
    walk.compile((types.int64, types.int64, *DRIVER[2:4], types.int64, types.int64))
    assert "fence seq_cst" in walk.inspect_llvm(walk.signatures[0])
    compiled = callback(RULES["sgd"], "float32", "report")
    compiled.compile()
    assert "fence seq_cst" in str(compiled._library._get_module_for_linking())


@intrinsic
def read_now(typingctx, address):
    """The int64 at an address, read each time it is asked for, without any order to other reads and writes."""

    def codegen(context, builder, signature, args):
        return builder.load_atomic(builder.inttoptr(args[0], ir.IntType(64).as_pointer()), "monotonic", 8)

    return types.int64(types.int64), codegen


@intrinsic
def write_now(typingctx, address, value):
    """Writes an int64 by an ordinary store, as a lock is released."""

    def codegen(context, builder, signature, args):
        builder.store_atomic(args[1], builder.inttoptr(args[0], ir.IntType(64).as_pointer()), "release", 8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@njit(nogil=True)
def make_steps(address, form, table, starts, made, read, rounds):
    for step in range(1, rounds + 1):
        walk(address, form, table, starts, 0, starts[-1])
        write_now(made, step)
        while read_now(read) < step:
            pass


@njit(nogil=True)
def read_parameters(params, made, read, rounds):
    wrong = 0
    for step in range(1, rounds + 1):
        while read_now(made) < step:
            pass
        for place in range(len(params) - 1, -1, -16):  # what was stored last comes first
            wrong += params[place] != step
        write_now(read, step)
    return wrong


@pytest.mark.skipif(len(machine.available()) < 2, reason="the threads must run at once")
def test_another_thread_reads_what_was_stored_past_the_caches():
    """One that is told by an ordinary store that a step is over sees all of it.

    Without the fence it reads old values in about one of 2,000 steps of a single line.
    """
    size, rounds = 16, 30_000
    params, _ = offset_array(np.zeros(size, np.float32), 0)
    gradient, scalars, flags = np.full(size, -1.0, np.float32), np.ones(1), np.zeros(32, np.int64)
    table = np.array([[params.ctypes.data, gradient.ctypes.data, 0, 0, scalars.ctypes.data], [0] * 5])
    starts = np.array([0, size])
    made, read = flags.ctypes.data, flags[16:].ctypes.data
    callback = _callback(RULES["sgd"], "float32", "step", ())
    wrong = []
    read_parameters(params, made, read, 0)
    reader = threading.Thread(target=lambda: wrong.append(read_parameters(params, made, read, rounds)))
    reader.start()
    make_steps(callback.address, form_address(NONTEMPORAL, "float32"), table, starts, made, read, rounds)
    reader.join()
    assert wrong == [0]
    assert (params == rounds).all()


def test_burst_and_threads(form_of):
    """Pieces of several threads begin and end inside blocks."""
    if not threads.layer():
        pytest.skip("one thread")
    start = np.random.default_rng(0).standard_normal(5 * loops.PIECE + 333).astype(np.float32)
    results = []
    for form in FORMS:
        form_of(form)
        params, optimizer = start.copy(), fastopt.Adam()
        with threads.exactly(3):
            optimizer.update(params, start)
        results.append(params)
    for mine in results[1:]:
        assert_same_bits(mine, results[0])


def test_names_and_numbers_of_forms():
    assert FORMS[BURST] == "burst" and FORMS[NONTEMPORAL] == "nontemporal" and FORMS[PLAIN] == "plain"
    assert FORMS[AHEAD] == "ahead" and len(FORMS) == len(stores.LENGTHS)
