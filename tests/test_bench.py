"""Bench scripts run, and put turns to the right state; those under pytest-benchmark run by themselves."""

import json
import sys

import numpy as np
import pytest

from bench import (
    beside,
    loop_gate,
    models,
    ratio_tables,
    ratios,
    report,
    retaken,
    small,
    states,
    storage,
    storage_maps,
    storage_training,
)
from fastopt.kernels import codecs
from tests.conftest import ROOT


def test_small_steps(capsys):
    small.main(["--turns", "1", "two Python floats", "halves", "1,000", "another"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + 7 and all("fastopt" in line for line in lines[1:])


def test_every_row_has_its_sides():
    for row in small.ROWS:
        for step in small.sides(row, None).values():
            step()


def test_steps_that_are_taken_back():
    params = {"W": np.ones((3, 2), np.float32), "b": np.ones(2, np.float32)}
    steps = retaken.sides(params)
    assert list(steps)[:2] == ["plain", "accumulate 1"]
    for step in steps.values():
        step()
        step()


def test_states(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(states, "WARM", 3)
    names = [case.name for case in states.CASES]
    assert len(names) == len(set(names))
    states.main(["--seconds", "0.1", "--in-place", "--save", str(tmp_path / "x.json"), "sgd float32", "784-40-20-10"])
    out, found = capsys.readouterr().out, json.loads((tmp_path / "x.json").read_text())
    assert "one state" in out or "fast" in out
    assert list(found["cases"]) == ["sgd float32 784-100x4-10, batch 128", "adam float32 784-40-20-10, batch 100"]
    for values in found["cases"].values():
        for state in values.values():
            assert set(state["sides"]) == {"textbook", "in place", "fastopt"}
            assert state["sides"]["fastopt"]["share of textbook"] > 0


def test_models_begin_anew_and_trials_go_on():
    case = next(case for case in states.CASES if "784-40-20-10" in case.name)
    sides = states.sides_of(case, False, None)
    before = [(side.model, side.optimizer) for side in sides]
    tuners = sides[1].optimizer._tuners
    states.begin_anew(sides, np.random.default_rng(0))
    for side, (model, optimizer) in zip(sides, before, strict=True):
        assert side.model is not model and side.optimizer is not optimizer and side.done == states.FILLING
    assert sides[1].optimizer._tuners is tuners and sides[1].optimizer.iter == states.FILLING


def test_one_blas_thread(capsys, monkeypatch):
    monkeypatch.setattr(states, "WARM", 3)
    states.main(["--seconds", "0.05", "--blas-threads", "1", "momentum float64"])
    assert "BLAS threads: 1" in capsys.readouterr().out


@pytest.mark.parametrize("main", [small.main, states.main, ratios.main, loop_gate.main])
def test_what_fits_nothing_is_an_error_that_lists_all(main, capsys):
    with pytest.raises(SystemExit):
        main(["adam flaot32"])
    err = capsys.readouterr().err
    assert "nothing is called 'adam flaot32'" in err and err.count("\n  ") >= 6


def test_loop_gate(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(states, "WARM", 3)
    loop_gate.main(["--minutes", "0.005", "--beside", str(ROOT), "--save", str(tmp_path / "x.json"), "784-40-20-10"])
    out, saved = capsys.readouterr().out, json.loads((tmp_path / "x.json").read_text())
    assert {row["of"] for row in saved["rows"]} == {"textbook", "beside"} and "BLAS on one thread" in out
    assert out.count("at most 0.66 ") == 2, "as it is measured, and among all rows"
    bounded = [row for row in saved["rows"] if row["most"] is not None]
    assert f"of {len(bounded)} reached" in out and len(saved["rows"]) - len(bounded) == 2, "two of the same code"


def test_loop_gate_marks_rows_by_state():
    summary = states.summary([TwoStates("textbook", 1.0), TwoStates("fastopt", 0.5), TwoStates("beside", 0.4)])
    rows = list(loop_gate.rows_of("x", summary, {"textbook": (0.7, 0.8), "beside": (1.0, 1.08)}))
    reached = {(row.what, row.of): row.is_reached for row in rows}
    assert reached == {
        ("x: fast", "textbook"): False,
        ("x: fast", "beside"): False,
        ("x: slow", "textbook"): True,
        ("x: slow", "beside"): True,
    }
    again = states.summary([TwoStates("textbook", 1.0), TwoStates("beside", 0.4), TwoStates(states.AGAIN, 0.54)])
    (*_, row) = loop_gate.rows_of("x", again, loop_gate.NEVER_SLOWER)
    assert row.median == 1.1 and row.is_reached and str(row).endswith("the same code")
    assert loop_gate.bounds("adam float64 784-100x4-10, batch 128") == {"textbook": (0.79, 0.76), "beside": (1.0, 1.0)}
    names = [case.name for case in states.CASES]
    assert all(any(name.startswith(start) for name in names) for start in loop_gate.MUST)


def test_dead_gradients_are_timed_and_kept(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(ratios, "DYING", (("adam", 1.0, 25),))
    monkeypatch.delitem(sys.modules, beside.NAME, raising=False)
    for _ in range(2):
        ratios.main(["dead", "--save", str(tmp_path / "x.json")])
    parts = json.loads((tmp_path / "x.json").read_text())["parts"]
    (sides,) = parts["dead"]["cases"].values()
    assert set(sides) == {"fastopt", "without a flush"} and capsys.readouterr().out.count("us before, at worst") == 4
    assert "| case | fastopt | without a flush |" in list(ratio_tables.dead(parts["dead"]["cases"]))


def test_ratios_beside_another_checkout(capsys, monkeypatch):
    monkeypatch.setattr(ratios, "DYING", (("adam", 1.0, 25),))
    monkeypatch.setattr(ratios, "LOOPS", (((20, 16, 2), 32, 1),))
    ratios.main(["dead", "loop", "--beside", str(ROOT)])
    assert capsys.readouterr().out.count("    beside ") == 2
    assert ratios.versions("nothing of that name") == ["fastopt"]


def test_ratios_become_tables():
    def case(**sides):
        return {name: {"seconds": 0.001, "ratio": ratio} for name, ratio in sides.items()}

    extras = {"adam, 1,000": case(plain=1, report=1.1), "adam, 1,000 in matrices": case(plain=1, centralize=1.4)}
    parts = {
        "extras": {"cases": {**extras, "sgd, 2,000": case(plain=1, report=1.25)}},
        "rows": {"cases": {"sgd, 7 of 9 rows": case(rows=1, dense=15.0)}},
        "constraints": {"cases": {"adam, 1,000": case(plain=1, bounds=1.0, simplex=9.0)}},
        "retaken": {"cases": {"adam, 1,000": case(plain=1, trial=2.5)}},
        "kernel": {"cases": {"sgd, 30 M": case(fastopt=1, limit=0.98), "adam, 1,000": case(fastopt=1, limit=0.5)}},
    }
    names = ("cold-serial", "cold-parallel", "warm-serial", "warm-parallel")
    start = {"import": 0.1} | {f"first_step[{name}]": 1.234 for name in names}
    start = {name: {"seconds inside": seconds} for name, seconds in start.items()}
    lines = list(ratio_tables.tables(parts, start, lambda part: "a machine"))
    for line in (
        "| setting | adam, 1,000 | sgd, 2,000 |",
        "| `report=True` | 1.10 | 1.25 |",
        "| `centralize`, of matrices | 1.40 |  |",
        "| `simplex` of rows | 9.00 |",
        "| the step on `trial` | 2.50 |",
        "| sgd, 7 of 9 rows | 1.00 |  | 15.0 |  |  |",
        "On 1,000 Adam takes 2.00 times as long.",
        "`python -m bench.ratios rows`, a machine.",
    ):
        assert line in lines, line
    assert "1.020 times as long as the same traffic (`sgd`)" in "".join(lines) and "in 1.2 s" in "".join(lines)


def test_two_states_are_told_apart():
    rng = np.random.default_rng(0)
    fast, slow = 620 * np.exp(0.03 * rng.standard_normal(30)), 1000 * np.exp(0.03 * rng.standard_normal(20))
    mixed = np.concatenate([fast, slow])[rng.permutation(50)]
    assert (states.states(mixed) == (mixed > 800)).all()
    assert not states.states(fast).any()
    assert not states.states(np.append(fast, 5000.0)).any(), "an outlier is no state"
    assert not states.states(np.array([1.0])).any()
    assert not states.states(np.linspace(600, 1000, 50)).any(), "a drift is no state"


class TwoStates:
    """A side that is slow every other turn."""

    def __init__(self, name, update):
        self.name = name
        self.turns = [np.tile([speed, speed * update], (4, 1)) for speed in (1.0, 2.0) * 10]


def test_summary():
    found = states.summary([TwoStates("textbook", 1.0), TwoStates("fastopt", 0.5), TwoStates("beside", 1.0)])
    assert found["fast"]["turns"] == found["slow"]["turns"] == 10
    assert found["slow"]["gradient"] == 2 and found["slow"]["sides"]["fastopt"]["update"] == 1
    for state in found.values():
        assert state["sides"]["fastopt"]["share of textbook"] == state["sides"]["fastopt"]["share of beside"] == 0.75
        assert "share of beside" not in state["sides"]["textbook"]
    sides = [
        TwoStates("textbook", 1.0),
        TwoStates("fastopt", 0.5),
        TwoStates("beside", 0.25),
        TwoStates(states.AGAIN, 0.8),
    ]
    (found, _) = states.summary(sides).values()
    assert found["sides"]["fastopt"]["share of beside"] == 1 and found["sides"][states.AGAIN]["share of beside"] == 1.44


def test_another_checkout_is_another_package(capsys):
    other = beside.load(ROOT)
    assert other.__name__ == "fastopt_beside" and other.Adam.__module__.startswith("fastopt_beside.")
    params = {"W": np.ones(3)}
    beside.optimizer(other, "momentum", lr=0.5).update(params, {"W": np.ones(3)})
    np.testing.assert_array_equal(params["W"], 0.5)
    with pytest.raises(SystemExit, match="no checkout of fastopt"):
        beside.load("/nowhere")


@pytest.mark.parametrize(
    "make", [lambda: models.Lstm(3, "float64", words=30, width=7, time=5), lambda: models.Convolution(5, "float64")]
)
def test_gradients_of_models(make):
    """Beside the difference of two losses, along a random direction of each parameter."""
    model, rng = make(), np.random.default_rng(1)
    for key in model.params:  # away from zero, where ReLU has a kink at empty patches
        model.params[key] += 0.1 if model.params[key].ndim == 1 else 0
    grads = model.gradient(0)
    assert set(grads) == set(model.params)
    for key, value in model.params.items():
        direction, losses, start = rng.standard_normal(value.shape), [], value.copy()
        for sign in (1, -1):
            value[...] = start + sign * 1e-7 * direction  # near enough that no maximum changes its place
            model.gradient(0)
            losses.append(model.last_loss)
        value[...] = start
        assert (losses[0] - losses[1]) / 2e-7 == pytest.approx((grads[key] * direction).sum(), rel=1e-4, abs=1e-6)


def test_a_new_run_of_the_benches_keeps_no_note_of_the_last():
    new = report.condensed({"benchmarks": [], "machine_info": {"fastopt": {}}, "datetime": "2026-11-26T19:00:00"})
    assert set(new) == {"machine", "date", "groups"}


def test_storage_keeps_what_it_measured(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "FILE", tmp_path / "x.json")
    monkeypatch.setattr(storage, "SIZES", {5000: (1, 1)})
    monkeypatch.setitem(storage.TIMED, "adam, 30 M", (5000, 1, 1))
    storage.main(["speed", "adam 30", "--save"])
    storage.main(["sizes", "--save"])
    assert "of float32's step" in capsys.readouterr().out
    kept = json.loads(storage.FILE.read_text())
    assert list(kept["speed"]["cases"]) == ["adam, 30 M"]
    assert set(kept["sizes"]["cases"]["5000"]) == {"traffic", "float32", "bfloat16", "int8", "bfloat16 traffic"}


def test_trainings_of_storage_go_on(capsys, tmp_path, monkeypatch):
    done = []
    monkeypatch.setattr(storage, "FILE", tmp_path / "x.json")
    monkeypatch.setattr(storage_training, "digits_run", lambda *run: done.append(run) or ([0.5] * 100, 0.25))
    for seeds in ("1", "2"):
        storage.main(["training", "lion", "--seeds", seeds, "--save"])
    assert done == [("lion", name, seed) for seed in range(2) for name in ("float32", "bfloat16", "int8")]
    assert json.loads(storage.FILE.read_text())["training"]["lion"]["int8"] == [[0.5, 0.25]] * 2
    assert "lion       int8      loss 0.5000 +- 0.0000, accuracy 0.2500 +- 0.0000 (2 seeds)" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:the MNIST subset")
def test_what_storage_trains_is_trained():
    losses, accuracy = storage_training.digits_run("adam", "float32", 0, 2)
    assert len(losses) == 2 and 0 <= accuracy <= 1
    losses, held_out = storage_training.characters_run("float32", 0, 2)
    assert len(losses) == 2 and 3 < held_out < 6
    ways = storage_maps.roundings()
    assert all(accuracy <= 1 for _, accuracy in (storage_maps.trained(way, 0, 1) for _, way in ways.values()))


def test_codes_of_8_bits_that_are_compared_with_those_of_fastopt():
    values, random = np.random.default_rng(0).standard_normal(6400).astype(np.float32) ** 3, np.random.default_rng(1)
    for nonnegative in (False, True):
        numbers = np.abs(values) if nonnegative else values
        run = codecs.empty_run("int8", numbers.size)
        codecs.encode("int8", nonnegative, numbers, 1, run)
        ours = codecs.decode("int8", nonnegative, run, numbers.size)
        errors = {
            name: np.linalg.norm(storage_maps.in_8_bits(numbers, one[nonnegative], 64, nonnegative, random) - numbers)
            for name, one in storage_maps.MAPS.items()
        }
        assert errors["float"] == pytest.approx(np.linalg.norm(ours - numbers), rel=0.05)
        assert errors["root"] < errors["float"] and errors["softsign"] < errors["float"]
