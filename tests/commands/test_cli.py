"""The command: what it prints, what it writes, and one line for each mistake."""

import itertools
import re
import subprocess
import sys

import numpy as np
import pytest

import fastopt
from fastopt import cli, reference, threads
from fastopt.commands import explain, warmup
from fastopt.commands.verify import cases
from fastopt.engine import centralized_launch, launch, one_call, problem_step
from fastopt.kernels import RULES
from fastopt.optimizers import OPTIMIZERS
from fastopt.optimizers.sophia import HESSIAN
from tests.commands.support import run
from tests.conftest import THREAD_COUNTS, python


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("train", "--data", "/nowhere"), "/nowhere is not a folder"),
        (("train", "--out", "/dev/null/x"), "/dev/null"),
        (
            ("train", "--optimizer", "adagard"),
            "unknown optimizer 'adagard'; did you mean 'adagrad'? Known are sgd, momentum, nesterov, sgd_momentum",
        ),
        (("train", "--hidden", "999999999999"), "GB of memory, and the machine has"),
        (("train", "--hidden", "9" * 400), "--hidden: expected a whole number of at most"),
        (("train", "--steps", "999999999999"), "choose smaller --hidden, --batch or --steps"),
        (("train", "--lr", "fast"), "--lr: expected a number, got 'fast'"),
        (("train", "--lr", "-1"), "Adam: lr must be in [0, inf), got -1.0"),
        (("train", "--set", "speed=1"), "Adam has no setting 'speed'; it has lr, beta1"),
        (("train", "--steps", "0"), "--steps: expected a whole number of at least 1, got '0'"),
        (("train", "--batch", "x"), "--batch: expected a whole number"),
        (("train", "--batch", "6001"), "a batch of 6001 is larger than the training data, 6000 rows"),
        (("train", "--hidden", "10,,3"), "--hidden: expected a whole number"),
        (("train", "--dtype", "float16"), "float16"),
        (("verify", "--threads", "0"), "--threads: expected a whole number"),
        (("train", "--seed", "-1"), "--seed: expected a whole number of at least 0, got '-1'"),
        (("info", "--parameters", "0"), "--parameters: expected a whole number"),
        (("warmup", "Adamm"), "unknown optimizer 'Adamm'; did you mean 'adam'? Known are sgd"),
        (("warmup", "Adam", "--set", "speed=1"), "Adam has no setting 'speed'; it has lr, beta1"),
        (("warmup", "--set", "momentum=0.5"), "SGD has no setting 'momentum': use Momentum, or SGDMomentum"),
        (("nothing",), "unknown command 'nothing'; known are train, profile"),
        (("exper",), "unknown command 'exper'; did you mean 'experiment'?"),
    ],
)
def test_one_line_and_status_2(capsys, arguments, words):
    status, out, err = run(capsys, *arguments)
    assert status == 2 and words in err and err.count("\n") == 1 and out == ""


def test_no_command_shows_the_help(capsys):
    status, out, err = run(capsys)
    assert status == 2 and err.startswith("usage: fastopt") and "profile" in err and out == ""


def test_verify(capsys):
    counts = THREAD_COUNTS[:2]
    status, out, err = run(capsys, "verify", "--threads", ",".join(map(str, counts)), "--steps", "5")
    assert status == 0 and err == ""
    assert f"all {2 * len(cases()) * len(counts)} cases are identical, bit for bit" in out
    assert all(len(line) <= 80 for line in out.splitlines())


def test_verify_finds_a_difference(capsys, monkeypatch):
    monkeypatch.setattr(reference.Momentum, "step", reference.Nesterov.step)
    status, out, _ = run(capsys, "verify", "--threads", "1", "--steps", "3")
    assert status == 1 and out.count("DIFFERENT") == 2 and f"2 of {2 * len(cases())} cases differ" in out


def test_ulps():
    import numpy as np

    from fastopt.compare import ulps

    for dtype in (np.float32, np.float64):
        one, info = np.ones(1, dtype), np.finfo(dtype)
        assert ulps(one, one) == 0 and ulps(one, one + info.eps) == 1 and ulps(one, one - info.epsneg) == 1
        assert ulps(np.array([0.0], dtype), np.array([-0.0], dtype)) == 1
        assert ulps(np.array([info.smallest_subnormal]), -np.array([info.smallest_subnormal])) == 3
        assert ulps(np.array([np.nan], dtype), np.array([np.nan], dtype)) == 0
        assert ulps(np.array([np.nan], dtype), one) > 1000 and ulps(np.array([], dtype), np.array([], dtype)) == 0
        assert ulps(np.array([-np.inf], dtype), np.array([np.inf], dtype)) > 2**31


def test_a_picture_that_cannot_be_written_is_found_before_training(capsys, tmp_path):
    (tmp_path / "train-adam.png").mkdir()
    status, out, err = run(capsys, "train", "--out", str(tmp_path))
    assert status == 2 and "train-adam.png" in err and err.count("\n") == 1 and out == ""


def test_info(capsys):
    status, out, err = run(capsys, "info", "--parameters", "100")
    assert status == 0 and err == ""
    for name in (
        "versions",
        "processor",
        "machine",
        "threading layer",
        "threads",
        "parallel from",
        "compact state",
        "kernels are kept in",
        "NumPy's BLAS",
    ):
        assert re.search(rf"^{name}: +\S", out, re.M), name
    assert re.search(
        r"^Adam of 100 float32: +28 bytes per element, 0.0 MB a step: the serial kernel, as it moves less than 6 MB",
        out,
        re.M,
    )
    big = run(capsys, "info", "--parameters", "10000000", "--optimizer", "sgd", "--dtype", "float64")[1]
    if threads.layer():
        assert "240.0 MB a step: the parallel kernel on" in big
    with threads.num_threads(1):
        assert "as limited to one thread" in run(capsys, "info", "--parameters", "10000000")[1].replace("it is ", "")


WARMUP = """
from fastopt.cli import main
main(["warmup", "sgd", "AdamW"])
main(["warmup", "Momentum", "--set", "weight_decay=0.1", "--set", "clip_value=1", "--averaging"])
"""

STEP_WITHOUT_COMPILING = """
import numba.core.compiler as compiler, numpy as np, fastopt
def refuse(*args, **kwargs):
    raise AssertionError("compiled")
compiler.compile_extra = refuse
for size in (10, 2_000_000):
    for dtype in (np.float32, np.float64):
        for optimizer in (
            fastopt.SGD(on_nonfinite="skip"),
            fastopt.AdamW(on_nonfinite="raise"),
            fastopt.Momentum(weight_decay=0.1, clip_value=1.0, averaging=fastopt.SWA(2, 2)),
        ):
            params = {"p": np.ones(size, dtype)}
            for form in ("plain", "prefetch", "burst", "nontemporal", "ahead"):
                fastopt.set_tuning(form)
                optimizer.update(params, {"p": np.ones(size, dtype)})
"""


def test_warmup_is_for_every_kernel():
    found = warmup.kernels([make() for make in OPTIMIZERS.values()])
    assert {rule.name for rule, which, _ in found if which == "step"} >= {rule.name for rule in RULES.values()}
    assert {which for _, which, _ in found} == {
        *("finite", "finite_squares", "norm", "quick_norm", "step", "measure", "prepare"),
        *("large_measure", "small_measure", "totals"),
    }
    assert (HESSIAN, "step", ()) in found and len(found) == len(set(found))
    both = warmup.kernels([OPTIMIZERS["sgd"](weight_decay=0.1, decoupled=True)], ("averaging", "lookahead"))
    before = ("decoupled_weight_decay",)
    after = [(), ("lookahead",), ("averaging",), ("lookahead", "averaging")]
    assert [options for _, which, options in both if which == "step"] == [(*before, *more) for more in after]


@pytest.mark.parametrize("rule", RULES)
def test_warmup_knows_what_a_step_needs(rule, monkeypatch):
    """With and without norms; which kernels steps ask for, without compiling any."""
    wanted = set()

    def kernel(rule, dtype, in_parallel, which="step", transforms=(), form=0, modulus=False):
        wanted.add((rule, which, transforms))
        return lambda *_: None

    monkeypatch.setattr(launch, "kernel_of", kernel)
    monkeypatch.setattr(centralized_launch, "compiled_find_means", lambda *_: lambda *_: 0)
    more = {"clip_norm": 1.0, "on_nonfinite": "raise", "weight_decay": 0.1}
    for settings in ({}, more, {"centralize": True}, {"centralize": True, **more}):
        optimizer = OPTIMIZERS[rule](**settings)
        optimizer.update({"W": np.ones((3, 2))}, {"W": np.ones((3, 2))})
        assert wanted <= {*warmup.kernels([optimizer])}
        wanted.clear()


def test_after_warmup_nothing_compiles(tmp_path):
    """With a rule without state, and one whose defaults are more than its formula; all would take a minute."""
    process = python(WARMUP, NUMBA_CACHE_DIR=str(tmp_path), COLUMNS="80")
    # For two dtypes: three of all rules, and a step of each; or a step with the average and one without. For float64:
    # two more, for norms of the largest and of the smallest numbers. For float32: plain sums of squares.
    assert process.stdout.count("13 kernels in") == 2 and str(tmp_path) in process.stdout
    python(STEP_WITHOUT_COMPILING, NUMBA_CACHE_DIR=str(tmp_path))


@pytest.mark.parametrize("settings", [{}, {"clip_norm": 1.0, "on_nonfinite": "skip"}])
def test_warmup_knows_what_steps_of_many_problems_need(settings, monkeypatch):
    """Which numbers differ between problems decides which kernels; alike, restarted, stopped, an lr for each."""
    asked_for, rng = set(), np.random.default_rng(0)
    for module in (problem_step, one_call):
        monkeypatch.setattr(
            module, "problems_kernel", lambda *what, make=module.problems_kernel: asked_for.add(what) or make(*what)
        )
    monkeypatch.setattr(warmup, "kernels", lambda *_: [])
    warmup.main([fastopt.Adam(batch_axis=0, **settings)])
    warm = {*asked_for}
    in_parallel = (False, True) if threads.layer() else (False,)
    assert {what[1:3] for what in warm} == {*itertools.product(("float32", "float64"), in_parallel)}
    asked_for.clear()
    for lr, restarts, size in itertools.product((0.1, rng.random(9)), (False, True), (2, 5)):
        optimizer = fastopt.Adam(batch_axis=0, **{**settings, "lr": lr})
        params, grads = np.ones((9, size)), rng.standard_normal((9, size))
        for step in range(5):
            optimizer.update(params, grads)
            if restarts and step < 2:
                optimizer.restart(rng.random(9) < 0.5)
            if step == 3:
                optimizer.active = rng.random(9) < 0.5
    assert asked_for and asked_for <= warm


def test_explain_and_warmup_know_compact_state(capsys, monkeypatch):
    cli.main(["explain", "adam", "--set", "state_storage=int8"])
    text = " ".join(capsys.readouterr().out.split())
    assert "16.25 bytes per element, of which state takes 2.125 (float32: 8)" in text
    cli.main(["explain", "lamb", "--set", "state_storage=int8"])
    assert "state stays in float32 where state_storage is 'int8'" in capsys.readouterr().out
    compiled = []
    monkeypatch.setattr(warmup, "compiled_codecs", lambda: compiled.append(1))
    assert [which for rule, which, _ in warmup.kernels([OPTIMIZERS["adam"](state_storage="int8")]) if rule.state] == [
        "step",
        "int8",
    ]
    monkeypatch.setattr(warmup, "kernels", lambda *given: [])
    for storage, count in (("float32", 0), ("bfloat16", 1)):
        warmup.main([OPTIMIZERS["adam"](state_storage=storage)])
        assert len(compiled) == count


def test_explain_knows_constraints_and_problems():
    def text(optimizer):
        return " ".join(explain.explain(optimizer).split())

    assert "mask" not in text(fastopt.Adam()).partition("Settings of every optimizer")[0]
    found = text(fastopt.SGD(mask={"W": np.array([True, False, False])}, bounds=(np.zeros(3), 2.0)))
    assert "The mask keeps value and state of 2 elements of W; its array is read too, 4 bytes an element" in found
    assert "Bounds that are arrays are read too, 4 bytes an element" in found and "upper 2" in found
    found = text(fastopt.SGD(max_norm=3.0, constraint_axis=0))
    assert "after the step reads and writes p, for max_norm=3.0 of the groups of elements along axis 0" in found
    assert "unit_norm=True of whole arrays" in text(fastopt.Adam(unit_norm=True, constraint_axis=None))
    found = text(fastopt.Adam(lr=np.array([0.5, 0.25]), batch_axis=0))
    assert "each has an lr of its own, a step count" in found and "step_size 0.158" in found


def test_warmup_knows_constraints_with_arrays_and_of_rows(monkeypatch):
    bounds, mask = (np.zeros(3), 2.0), {"W": np.ones(3, bool)}
    steps = [what[2] for what in warmup.kernels([fastopt.SGD(bounds=bounds, mask=mask)]) if what[1] == "step"]
    assert steps == [("upper", *more) for more in ((), ("lower_array",), ("mask",), ("lower_array", "mask"))]
    steps = [what[2] for what in warmup.kernels([fastopt.SGD()], (), ["mask"]) if what[1] == "step"]
    assert steps == [(), ("mask",)]
    grouped = fastopt.SGD(groups={"W": {"bounds": (None, np.ones(3))}})
    assert ("upper_array",) in [what[2] for what in warmup.kernels([grouped])]
    compiled, given = [], []
    monkeypatch.setattr(warmup, "projection", lambda *what: compiled.append(what[:2]))
    monkeypatch.setattr(warmup, "kernels", lambda *what: given.append(what[1:]) or [])
    warmup.main([fastopt.SGD(groups={"W": {"max_norm": 1.0}}), fastopt.SGD(simplex=True)])
    assert {*compiled} == {(kind, dtype) for kind in ("max_norm", "simplex") for dtype in ("float32", "float64")}
    cli.main(["warmup", "sgd", "--mask", "--bound-arrays"])
    assert given[-1] == ([], ["mask", "lower_array", "upper_array"])


def test_without_the_extra_a_sentence_says_what_to_install():
    commands = ["train", "experiment", "schedule"]
    code = f"import sys; sys.modules['matplotlib'] = None; from fastopt.cli import main; print(*(main([command]) for command in {commands}))"
    process = python(code)
    assert process.stdout.split() == ["2"] * 3
    assert process.stderr == "".join(
        f"fastopt: `fastopt {command}` needs matplotlib: pip install 'fastopt[experiments]'\n" for command in commands
    )


# In one process, as its import takes longest.
PLAIN = """
import sys
sys.modules["rich"] = None
from fastopt.cli import main
for command in sys.argv[1:]:
    print(f"COMMAND {command}")
    assert main(command.split()) == 0
"""


def test_without_rich_it_prints_plainly(tmp_path):
    words = {
        "train --optimizer sgd --steps 3 --hidden 5": r"optimizer step +[\d.,]+ µs +[\d.,]+ µs",
        "verify --threads 1 --steps 1": "cases are identical, bit for bit",
        "warmup sgd": r"\d+ kernels in",
        "experiment ravine --quick": "(?m)^ravine: ",
    }
    process = python(PLAIN, *words, cwd=tmp_path)
    assert process.stderr == "" and "[/]" not in process.stdout
    outputs = process.stdout.split("COMMAND ")[1:]
    for output, (command, pattern) in zip(outputs, words.items(), strict=True):
        assert output.startswith(command) and re.search(pattern, output)


def test_python_m_fastopt():
    command = [sys.executable, "-m", "fastopt", "--version"]
    assert subprocess.run(command, capture_output=True, text=True).stdout.startswith("fastopt ")


def test_info_and_explain_say_the_same_bytes(capsys):
    for name, size in (("Muon", 40), ("Adam", 28), ("LAMB", None)):
        found = re.search(r": +(\d+) bytes per element", run(capsys, "info", "--optimizer", name)[1])
        explained = re.search(r"(\d+) bytes per element", " ".join(run(capsys, "explain", name)[1].split()))
        assert found[1] == explained[1] and size in (int(found[1]), None)


def test_help_names_no_default_where_there_is_none(capsys):
    for command in ("train", "verify", "info", "explain", "warmup", "experiment", "schedule"):
        out = " ".join(run(capsys, command, "--help")[1].split())
        assert "(default: None)" not in out and "(default: [])" not in out and "(default: False)" not in out
    assert "FASTOPT_MNIST_DIR" in run(capsys, "train", "--help")[1]


def test_help_and_version(capsys):
    status, out, _ = run(capsys, "--help")
    assert status == 0 and "train" in out and "verify" in out
    status, out, _ = run(capsys, "train", "--help")
    assert status == 0 and "--optimizer" in out
    assert run(capsys, "--version")[1].startswith("fastopt ")


def test_completion_in_the_shell(monkeypatch, capsys):
    completed = []
    monkeypatch.setitem(sys.modules, "argcomplete", type("Module", (), {"autocomplete": completed.append}))
    assert run(capsys, "schedule", "--list")[0] == 0 and completed[0].prog == "fastopt"
    monkeypatch.setitem(sys.modules, "argcomplete", None)  # as where it is not installed
    assert run(capsys, "schedule", "--list")[0] == 0
