"""Steps that choose how they run: what is chosen, when it is looked at again, and what it costs."""

import copy
import itertools
import pickle
import random
import runpy

import numpy as np
import pytest

import fastopt
from fastopt import machine, threads, tuning
from fastopt.kernels.stores import AHEAD, BURST, FORMS, NONTEMPORAL, PLAIN, PREFETCH
from fastopt.tuning import Choice, Tuner
from tests.conftest import python

US = 1000


@pytest.fixture
def auto():
    """Tuning as it is by default, whatever the environment says."""
    before = tuning.mode()
    tuning.set_tuning("auto")
    yield
    tuning.set_tuning(before)


class Loop:
    """A training loop on a machine with a clock of its own.

    update, gap : microseconds by form, of the update and of the gradient after it
    noise : the spread of the gradient
    """

    def __init__(self, monkeypatch, update, gap=(800,) * 5, noise=40, moved_bytes=(100_000,)):
        self.now, self.random, gap = 1, random.Random(0), gap[: len(update)]
        self.update, self.gap, self.noise = update, gap, noise
        self.spent = self.lost = 0
        monkeypatch.setattr(tuning, "perf_counter_ns", lambda: int(self.now))
        self.tuner = Tuner(list(moved_bytes), outgrows_caches=len(update) > AHEAD)

    def run(self, steps, every=0, pause=0.0):
        """So many steps; after each `every`-th the loop does something else for `pause` microseconds."""
        for number in range(1, steps + 1):
            form = self.tuner.choice.form
            begin, before = self.tuner.begin(), self.now
            if self.tuner.settled is None:
                whole = [update + gap for update, gap in zip(self.update, self.gap, strict=True)]
                self.lost += (whole[form] - min(whole)) * US
            self.now += self.update[form] * US * self.random.uniform(0.97, 1.05)
            if begin:
                self.tuner.end(begin)
            self.now += self.random.gauss(self.gap[form], self.noise) * US
            if every and number % every == 0:
                self.now += pause * US
            self.spent += self.now - before
        return self.form

    @property
    def form(self):
        settled = self.tuner.settled
        return None if settled is None else settled.choice.form


def test_the_fastest_update_is_chosen(monkeypatch):
    assert Loop(monkeypatch, update=(466, 460, 243, 81)).run(300) == NONTEMPORAL
    assert Loop(monkeypatch, update=(146, 112, 169, 152)).run(300) == PREFETCH
    assert Loop(monkeypatch, update=(200, 190, 120, 150)).run(300) == BURST


def test_memory_is_asked_for_ahead_where_that_pays(monkeypatch):
    """Only models that outgrow the caches try it, and of those some wait for memory and some do not."""
    assert Loop(monkeypatch, update=(15_000, 15_400, 15_600, 19_200, 12_400), gap=(26_000,) * 5).run(300) == AHEAD
    assert Loop(monkeypatch, update=(780, 790, 900, 1900, 940), gap=(33_000,) * 5).run(300) == PLAIN
    assert AHEAD not in [each.choice.form for each in Loop(monkeypatch, update=(100,) * 4).tuner._all]


def test_what_the_next_gradient_costs_counts(monkeypatch):
    """BLAS on one thread: stores past the caches save a little, and the gradient pays for it."""
    assert Loop(monkeypatch, update=(60, 60, 62, 55), gap=(860, 860, 860, 910)).run(300) == PLAIN


def test_where_nothing_is_to_be_gained_stores_stay_as_they_are(monkeypatch):
    for seed in range(20):
        loop = Loop(monkeypatch, update=(100, 100, 100, 100))
        loop.random.seed(seed)
        assert loop.run(300) == PLAIN


def test_evaluations_and_other_pauses_do_not_mislead(monkeypatch):
    for every in (2, 3, 4, 8, 25):
        loop = Loop(monkeypatch, update=(146, 112, 169, 152))
        assert loop.run(300, every=every, pause=50_000) == PREFETCH, every


def test_a_hopeless_candidate_is_dropped_after_few_turns(monkeypatch):
    loop = Loop(monkeypatch, update=(100, 8000, 100, 100))
    loop.run(100)
    (hopeless,) = (each for each in loop.tuner._all if each.choice.form == PREFETCH)
    assert len(hopeless.updates) == tuning.FEW_ROUNDS


def test_a_trial_is_over_after_some_tens_of_steps(monkeypatch):
    loop = Loop(monkeypatch, update=(100, 100, 100, 100))
    loop.run(tuning.WARM_UP + len(FORMS) * tuning.MOST_ROUNDS + 1)
    assert loop.form is not None


def test_what_changes_for_long_is_looked_at_again(monkeypatch):
    loop = Loop(monkeypatch, update=(146, 112, 169, 152))
    assert loop.run(300) == PREFETCH
    loop.update = (466, 460, 243, 81)
    assert loop.run(8000) == NONTEMPORAL


def test_what_changes_for_a_moment_is_not(monkeypatch):
    loop = Loop(monkeypatch, update=(146, 112, 169, 152))
    loop.run(300)
    settled = loop.tuner._settled_at
    for _ in range(20):
        loop.update = (466, 460, 443, 481)
        loop.run(100)
        loop.update = (146, 112, 169, 152)
        loop.run(200)
    assert loop.tuner._settled_at == settled


def test_a_changed_form_is_found_without_a_changed_time(monkeypatch):
    """Another form may have become the best while the chosen one stayed as it was."""
    loop = Loop(monkeypatch, update=(146, 112, 169, 152))
    assert loop.run(300) == PREFETCH
    loop.update = (146, 112, 169, 60)
    assert loop.run(100 * 150) == NONTEMPORAL


def test_looking_costs_at_most_one_percent(monkeypatch):
    """The loss of trials to the best form, also on a machine that changes its state all the time."""
    for states in ([(146, 112, 169, 152)], [(146, 112, 169, 152), (466, 460, 243, 281)]):
        loop = Loop(monkeypatch, update=states[0])
        loop.run(300)
        loop.spent = loop.lost = 0
        for turn in range(60):
            loop.update = states[turn % len(states)]
            loop.run(2000)
        assert 0 < loop.lost < 0.01 * loop.spent


def test_candidates_near_the_threshold_of_threads(monkeypatch):
    if not threads.layer() or threads.most() < 2:
        pytest.skip("one thread")
    size = threads.PARALLEL_BYTES[threads.layer()]
    near = [each.choice.in_parallel for each in Tuner([size // 2])._all]
    assert sorted(set(near)) == [False, True] and near[0] is False
    assert Tuner([size * 2])._all[0].choice.in_parallel is True
    for far in (size // threads.NEAR - 1, size * threads.NEAR + 1):
        assert {each.choice.in_parallel for each in Tuner([far])._all} == {None}


def test_a_choice_obeys_the_number_of_threads():
    if not threads.layer() or threads.most() < 2:
        pytest.skip("one thread")
    moved, parallel = threads.PARALLEL_BYTES[threads.layer()], Choice(PLAIN, True)
    assert parallel.threads_for(moved) == threads.most() and Choice(PLAIN, False).threads_for(moved) == 1
    with fastopt.num_threads(1):
        assert parallel.threads_for(moved) == 1
    with threads.exactly(3):
        assert parallel.threads_for(moved) == 3


# -- optimizers -------------------------------------------------------------------------------------------------------

LARGE = tuning.SMALLEST // 4


def trained(optimizer, steps, size=LARGE, **report):
    params, grads = {"W": np.ones(size, np.float32)}, {"W": np.ones(size, np.float32)}
    for _ in range(steps):
        optimizer.update(params, grads, **report)
    return params


needs_two_cpus = pytest.mark.skipif(len(machine.available()) < 2, reason="nothing is tried on one CPU")


@needs_two_cpus
def test_an_optimizer_tunes_itself_and_says_so(auto):
    optimizer = fastopt.Momentum()
    assert repr(optimizer.tuning) == "Tuning: plain, no step has been made yet"
    trained(optimizer, 10)
    assert "candidates take turns: 5 steps so far" in repr(optimizer.tuning)
    params = {"W": np.ones(LARGE, np.float32)}
    other = fastopt.Momentum()
    for _ in range(400):
        other.update(params, {"W": np.full(LARGE, 1e-3, np.float32)})
    found = other.tuning
    assert found.form in FORMS and "chosen after" in found.reason
    assert found.trials[0].form == found.form and {trial.form for trial in found.trials} == set(FORMS[:AHEAD])
    assert all(0 < trial.update < trial.whole and trial.threads == 1 for trial in found.trials)
    assert len(repr(found).splitlines()) == 2 + len(found.trials)


@needs_two_cpus
def test_a_model_that_outgrows_the_caches_may_ask_for_memory_ahead(auto, monkeypatch):
    monkeypatch.setattr(machine, "cache_bytes", lambda: 16 * LARGE)  # parameter, gradient and two slots
    for size, forms in ((LARGE, {*FORMS}), (LARGE - 1, {*FORMS[:AHEAD]})):
        monkeypatch.setattr(tuning, "SMALLEST", 4 * size)
        optimizer, asks = fastopt.Adam(), "ahead" if size == LARGE else "plain"
        trained(optimizer, 20, size)
        assert {trial.form for trial in optimizer.tuning.trials} == forms
        fastopt.set_tuning("off")
        assert optimizer.tuning.form == asks
        fastopt.set_tuning("plain")
        assert optimizer.tuning.form == "plain"
        fastopt.set_tuning("auto")


@needs_two_cpus
def test_small_models_are_not_tuned(auto):
    optimizer = fastopt.Adam()
    trained(optimizer, 3, size=LARGE - 1)
    assert optimizer._plan.tuner is None and "less than 64 KB" in optimizer.tuning.reason


def test_what_can_be_fixed(auto):
    for mode in ("off", *FORMS):
        fastopt.set_tuning(mode)
        optimizer = fastopt.Adam()
        trained(optimizer, 3)
        assert optimizer.tuning.form == ("plain" if mode == "off" else mode)
        assert "fixed by set_tuning or FASTOPT_TUNE" in optimizer.tuning.reason
    with pytest.raises(ValueError, match="set_tuning: there is no 'fast'; it is one of auto, off, plain, prefetch"):
        fastopt.set_tuning("fast")


@pytest.mark.parametrize(("value", "mode"), [("0", "off"), ("1", "auto"), ("", "auto"), ("Burst", "burst")])
def test_the_environment_variable(value, mode, monkeypatch):
    monkeypatch.setenv("FASTOPT_TUNE", value)
    assert runpy.run_path(tuning.__file__)["mode"]() == mode  # as an import reads it


def test_a_bad_environment_variable_warns_and_tunes():
    process = python("import fastopt.tuning as t; print(t.mode())", FASTOPT_TUNE="fastest")
    assert process.stdout.strip() == "auto"
    assert "FASTOPT_TUNE: there is no 'fastest'; it is one of 0, 1, auto, off" in process.stderr


def test_nothing_is_tried_on_one_cpu(auto, monkeypatch):
    monkeypatch.setattr(machine, "available", lambda: {0})
    optimizer = fastopt.Adam()
    trained(optimizer, 3)
    assert optimizer._plan.tuner is None and "one CPU" in optimizer.tuning.reason


@needs_two_cpus
def test_reports_are_not_counted(auto):
    optimizer = fastopt.Adam()
    trained(optimizer, 20, report=True)
    assert not any(each.updates for each in optimizer._report_plan.tuner._all)


@needs_two_cpus
def test_copies_and_pickles_begin_anew(auto):
    optimizer = fastopt.Adam()
    trained(optimizer, 20)
    for other in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert "no step" in other.tuning.reason
        trained(other, 1)
        assert other._plan.tuner is not optimizer._plan.tuner
    assert "tun" not in repr(optimizer.state_dict())


@needs_two_cpus
def test_a_new_plan_for_arrays_of_the_same_sizes_goes_on(auto):
    """Parameters that are replaced between steps do not begin a trial each time."""
    optimizer, grads = fastopt.Adam(), {"W": np.ones(LARGE, np.float32)}
    for _ in range(30):
        optimizer.update({"W": np.ones(LARGE, np.float32)}, grads)
    assert sum(len(each.updates) for each in optimizer._plan.tuner._all) == 30 - tuning.WARM_UP


@needs_two_cpus
@pytest.mark.parametrize("size", [LARGE, 150_000])  # the second on one thread and on several in turns
def test_bits_do_not_depend_on_trials(auto, size):
    rng = np.random.default_rng(0)
    grads = [rng.standard_normal(size).astype(np.float32) for _ in range(60)]
    results = []
    for mode in ("auto", "off"):
        fastopt.set_tuning(mode)
        params, optimizer = np.ones(size, np.float32), fastopt.Adam()
        for gradient in grads:
            optimizer.update(params, gradient)
        results.append(params)
        if mode == "auto" and size > LARGE and threads.most() > 1:
            assert {each.choice.in_parallel for each in optimizer._plan.tuner._all if each.updates} == {True, False}
    np.testing.assert_array_equal(*results)


@needs_two_cpus
def test_a_step_that_fails_does_not_stop_the_trial(auto):
    optimizer = fastopt.Adam(on_nonfinite="raise")
    params, good = np.ones(LARGE, np.float32), np.ones(LARGE, np.float32)
    bad = np.full(LARGE, np.nan, np.float32)
    for number in itertools.count():
        if number % 3 == 1:
            with pytest.raises(FloatingPointError):
                optimizer.update(params, bad)
        else:
            optimizer.update(params, good)
        if "chosen" in optimizer.tuning.reason:
            break
        assert number < 2000
