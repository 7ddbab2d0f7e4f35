"""The experiments: what they give, write and print; with the full data (`pytest -m slow`) the figures that they must reach."""

import os
import re
import signal
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fastopt.commands import run
from fastopt.experiments import NAMES
from fastopt.experiments.experiment import Experiment, Settings, experiment
from fastopt.nn import DataError, mnist
from tests.commands.test_cli import run as command


@pytest.fixture(autouse=True)
def from_elsewhere(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # where `results` goes


def figures(row):
    return [float(number) for number in re.findall(r"-?\d+\.?\d*(?:e[+-]\d+)?", " ".join(row[1:]))]


@pytest.mark.parametrize("name", NAMES)
def test_quick_run_and_both_backends(name, tmp_path):
    run = experiment(name)
    assert isinstance(run, Experiment) and run.name == name and run.summary.endswith(".")
    result = run(quick=True, seed=1, out=tmp_path / "a b")
    assert result.name == name and not result.stopped
    assert len({len(curve) for curve in result.curves.values()}) == 1
    assert all(np.isfinite(curve).all() for curve in result.curves.values())
    assert result.rows and all(len(row) == len(result.header) for row in result.rows)
    assert result.finding.endswith(".") and "\n" not in result.finding

    picture = (tmp_path / "a b" / f"{name}.png").read_bytes()
    width, height = struct.unpack(">II", picture[16:24])
    assert picture.startswith(b"\x89PNG") and width > 1000 and height > 500
    table = np.genfromtxt(
        tmp_path / "a b" / f"{name}.csv", delimiter=",", names=True, deletechars="", replace_space=" "
    )
    assert len(table) == len(next(iter(result.curves.values())))
    header = (tmp_path / "a b" / f"{name}.csv").read_text().splitlines()[0]
    assert header == ",".join(result.curves)

    other = run(quick=True, seed=1, backend="reference")
    assert list(other.curves) == list(result.curves)
    for column, curve in result.curves.items():
        assert other.curves[column].tobytes() == curve.tobytes(), column
    assert other.rows == result.rows


@pytest.mark.parametrize("name", ["ravine", "weight-decay", "activations"])
def test_other_seeds_give_other_curves(name):
    """That the same ones give the same, `test_quick_run_and_both_backends` finds."""
    first, other = (experiment(name)(quick=True, seed=seed).curves for seed in (1, 2))
    assert name == "ravine" or any(first[column].tobytes() != other[column].tobytes() for column in first)


def test_all_names_are_modules():
    folder = Path(sys.modules["fastopt.experiments"].__file__).parent
    with_run = {path.stem.replace("_", "-") for path in folder.glob("*.py") if "@Experiment" in path.read_text()}
    assert with_run == set(NAMES)


def test_as_printed_adagrad_steps_along_the_sign():
    from fastopt import AdaGrad
    from fastopt.experiments.optimizers_sigmoid import Forgetful

    params, optimizer = {"p": np.zeros(3)}, Forgetful(AdaGrad(lr=0.01, eps=0.0))
    for _ in range(3):
        optimizer.update(params, {"p": np.array([1e-3, -5.0, 2.0])})
    np.testing.assert_allclose(params["p"], [-0.03, 0.03, -0.03])


def test_settings_that_are_wrong(tmp_path):
    run = experiment("ravine")
    with pytest.raises(ValueError, match="ravine: backend must be 'compiled' or 'reference', got 'numpy'"):
        run(backend="numpy")
    with pytest.raises(ValueError, match="ravine: seed must be a whole number of at least 0, got -1"):
        run(seed=-1)
    with pytest.raises(
        TypeError, match="ravine has no setting 'refine'; it has seed, quick, backend, data, out, console"
    ):
        run(refine=True)
    with pytest.raises(TypeError, match="ravine: quick must be True or False, got 'no'"):
        run(quick="no")
    with pytest.raises(DataError, match="is not a folder"):
        run(data=tmp_path / "nowhere")
    (tmp_path / "ravine.png").mkdir()
    with pytest.raises(OSError, match=r"ravine\.png"):
        run(out=tmp_path)


# -- the command ------------------------------------------------------------------------------------------------------


def test_one_experiment(capsys, tmp_path):
    status, out, err = command(capsys, "experiment", "optimizers-mnist", "--quick", "--seed", "3")
    assert status == 0 and err == "" and all(len(line) <= 80 for line in out.splitlines() if ".png" not in line)
    assert "data: the MNIST subset that comes with fastopt" in out
    for name in ("SGD", "Momentum", "AdaGrad", "Adam", "RMSProp"):
        assert re.search(rf"^{name} +━+ 200/200", out, re.M), name  # its progress bar
        assert re.search(rf"^ {name} +0\.\d+ +\d\.\d{{4}} +0\.\d{{4}} ?$", out, re.M), name  # its row
    assert "AdaGrad is ahead with" in " ".join(out.split()) and "results/optimizers-mnist.png" in out
    assert {path.name for path in (tmp_path / "results").iterdir()} == {"optimizers-mnist.png", "optimizers-mnist.csv"}


def test_pictures_of_other_formats_and_the_sentence_last(capsys, tmp_path):
    status, out, _ = command(capsys, "experiment", "ravine", "--format", "svg", "--out", str(tmp_path))
    assert status == 0 and "<svg" in (tmp_path / "ravine.svg").read_text() and not (tmp_path / "ravine.png").exists()
    assert out.index("ravine.svg") < out.index("SGD zig-zags")


def test_list(capsys):
    status, out, err = command(capsys, "experiment", "--list")
    assert status == 0 and err == "" and [line.split()[0] for line in out.splitlines()] == list(NAMES)


def test_run_shows_its_settings_and_can_be_sent_to_another_process():
    import inspect
    import pickle

    from fastopt.experiments import optimizers_sigmoid

    names = list(inspect.signature(optimizers_sigmoid.run).parameters)
    assert names == ["seed", "quick", "backend", "data", "out", "console", "as_printed"]
    assert (
        "prints an accuracy of 0.93" in optimizers_sigmoid.run.__doc__
        and "seed : int" in optimizers_sigmoid.run.__doc__
    )
    assert pickle.loads(pickle.dumps(optimizers_sigmoid.run)) is optimizers_sigmoid.run


def test_a_run_on_the_subset_says_so():
    with pytest.warns(
        UserWarning, match="the MNIST subset that comes with fastopt .* 6,000 training and 1,500 test digits"
    ):
        assert len(Settings().data.x_train) == 6000
    result = experiment("weight-decay")(quick=True)
    assert result.data.startswith("the MNIST subset")


def test_a_folder_with_brackets(capsys, tmp_path):
    status, out, err = command(capsys, "experiment", "ravine", "--out", "[/x] [red]")
    assert status == 0 and err == "" and "picture: [/x] [red]/ravine.png" in out
    assert (tmp_path / "[/x] [red]" / "ravine.png").is_file()


def test_files_that_cannot_be_written_are_found_first(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(run, "EXPERIMENTS", ("ravine", "activations"))
    for name in ("activations.csv", "index.html"):
        (tmp_path / name).mkdir()
        status, out, err = command(capsys, "experiment", "all", "--quick", "--out", str(tmp_path))
        assert status == 2 and name in err and out == ""
        (tmp_path / name).rmdir()


def test_all_writes_an_index(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(run, "EXPERIMENTS", ("ravine", "activations"))
    status, out, _ = command(capsys, "experiment", "all", "--quick", "--out", "here")
    assert status == 0 and "all pictures: here/index.html" in out
    page = (tmp_path / "here" / "index.html").read_text(encoding="utf-8")
    for name in ("ravine", "activations"):
        assert f'<img src="{name}.png"' in page and (tmp_path / "here" / f"{name}.png").is_file()
    assert "SGD zig-zags" in page and "f(x, y) = x²/20" in page and "quick: True" in page


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("ravin",), "unknown experiment 'ravin'; did you mean 'ravine'? Known are ravine, optimizers-mnist,"),
        ((), "no experiment was named; known are ravine"),
        (("ravine", "--refine"), "ravine has no --refine"),
        (("hyperparameters", "--as-printed"), "hyperparameters has no --as-printed"),
        (("ravine", "--backend", "numpy"), "--backend"),
        (("ravine", "--seed", "x"), "--seed: expected a whole number of at least 0, got 'x'"),
        (("ravine", "--data", "/nowhere"), "/nowhere is not a folder"),
        (("ravine", "--out", "/dev/null/x"), "/dev/null"),
    ],
)
def test_one_line_and_status_2(capsys, arguments, words):
    status, _, err = command(capsys, "experiment", *arguments)
    assert status == 2 and words in err and err.count("\n") == 1


INTERRUPTED = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background jobs ignore, and their children
from fastopt import cli
from fastopt.experiments.experiment import Settings
track, number = Settings.track, 0
def interrupted(self, things, what, total=None):
    global number
    for thing in track(self, things, what, total):
        yield thing
        number += 1
        if number == int(sys.argv[1]):
            os.killpg(0, signal.SIGINT)  # as the terminal does: to all processes
            signal.sigtimedwait([], 5)
Settings.track = interrupted
sys.exit(cli.main(["experiment", *sys.argv[2:], "--quick", "--out", "here"]))
"""


def interrupt(name, after, folder, *options):
    return subprocess.run(
        [sys.executable, "-c", INTERRUPTED, str(after), name, *options],
        capture_output=True,
        text=True,
        cwd=folder,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),  # as in a background job
        timeout=120,
    )


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="POSIX")
def test_interrupted_search_keeps_what_is_finished(tmp_path):
    process = interrupt("hyperparameters", 7, tmp_path)
    assert process.returncode == 130 and process.stderr == "", process.stderr
    assert re.search(r"Stopped by Ctrl-C\. The best of [78] trials", process.stdout)
    assert "search next" not in process.stdout
    assert 8 <= len((tmp_path / "here" / "hyperparameters.csv").read_text().splitlines()) <= 9
    assert (tmp_path / "here" / "hyperparameters.png").stat().st_size > 10_000


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="POSIX")
def test_interrupted_second_search_keeps_the_first(tmp_path):
    process = interrupt("hyperparameters", 21, tmp_path, "--refine")
    assert process.returncode == 130 and process.stderr == "", process.stderr
    assert re.search(r"Stopped by Ctrl-C\. The best of (21|22) trials", process.stdout)
    assert 22 <= len((tmp_path / "here" / "hyperparameters.csv").read_text().splitlines()) <= 23


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="POSIX")
def test_interrupted_experiment(tmp_path):
    process = interrupt("weight-init", 20, tmp_path)
    assert (process.returncode, process.stderr) == (130, "fastopt: stopped\n")
    assert list((tmp_path / "here").iterdir()) == []


# -- figures ----------------------------------------------------------------------------------------------------------

FULL = os.environ.get(mnist.DIRECTORY_VARIABLE)
needs_all_data = pytest.mark.skipif(not FULL, reason=f"needs {mnist.DIRECTORY_VARIABLE}, the folder with all of MNIST")


def full(name, seed=0, **options):
    result = experiment(name)(seed=seed, data=FULL, **options)
    return result, {row[0]: figures(row) for row in result.rows}


def test_ravine_figures():
    result = experiment("ravine")()
    y = {name: result.curves[f"{name} y"] for name in ("SGD", "Momentum", "Nesterov", "AdaGrad", "RMSProp", "Adam")}
    way = {name: np.abs(np.diff(path)).sum() for name, path in y.items()}
    assert (np.sign(y["SGD"]) == [(-1) ** step for step in range(31)]).all() and way["SGD"] > 30
    assert max(length for name, length in way.items() if name != "SGD") < 10
    # The first two steps by hand: y - lr 2 y, and Momentum's with its velocity.
    np.testing.assert_allclose(y["SGD"][:3], [2, 2 - 0.95 * 4, -1.8 + 0.95 * 3.6])
    np.testing.assert_allclose(y["Momentum"][:3], [2, 1.6, 1.6 + 0.9 * -0.4 - 0.1 * 3.2])


def test_activation_figures():
    rows = {row[:2]: row for row in experiment("activations")().rows}
    deviation = {key: float(row[3]) for key, row in rows.items()}
    assert deviation["sigmoid", "std 1"] > 0.4 and deviation["sigmoid", "std 0.01"] < 0.02  # saturated, bunched
    assert 0.05 < deviation["sigmoid", "Xavier"] < 0.3
    assert deviation["ReLU", "He"] > 0.6 > 0.3 > deviation["ReLU", "Xavier"] > deviation["ReLU", "std 0.01"]
    assert deviation["tanh", "Xavier"] > 0.2 and deviation["tanh", "std 0.01"] < 1e-4


@pytest.mark.slow
@needs_all_data
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_optimizers_mnist_figures(seed):
    _, rows = full("optimizers-mnist", seed)
    loss = {name: row[1] for name, row in rows.items()}
    assert 0.17 < loss["SGD"] < 0.25  # measured 0.20 to 0.22; the material, a single point: about 0.16
    assert all(value < 0.6 * loss["SGD"] for name, value in loss.items() if name != "SGD")
    assert min(loss, key=loss.get) == "AdaGrad" and 0.02 < loss["AdaGrad"] < 0.04  # 0.028 to 0.035; about 0.02


@pytest.mark.slow
@needs_all_data
@pytest.mark.parametrize("seed", [0, 1])
def test_optimizers_sigmoid_figures(seed):
    _, rows = full("optimizers-sigmoid", seed)
    accuracy = {name: row[1] for name, row in rows.items()}
    assert accuracy["SGD"] == pytest.approx(0.11, abs=0.015) and accuracy["Momentum"] == pytest.approx(0.11, abs=0.015)
    assert 0.18 < accuracy["AdaGrad"] < 0.37  # 0.2 to 0.35
    assert 0.92 < accuracy["RMSProp"] < 0.955 and 0.93 < accuracy["Adam"] < 0.96  # 0.93 to 0.94, 0.94 to 0.95


@pytest.mark.slow
@needs_all_data
def test_optimizers_sigmoid_as_printed():
    _, rows = full("optimizers-sigmoid", as_printed=True)
    assert 0.91 < rows["AdaGrad"][1] < 0.95  # 0.93


@pytest.mark.slow
@needs_all_data
@pytest.mark.parametrize("seed", [0, 1])
def test_rmsprop_adagrad_figures(seed):
    result, _ = full("rmsprop-adagrad", seed)
    loss = {row[0]: float(row[1]) for row in result.rows}
    assert 1.9 < loss["RMSProp 0.1"] < 2.7 and 0.08 < loss["AdaGrad 0.1"] < 0.2  # about 2.3 and 0.13
    assert 0.1 < loss["RMSProp 0.01"] < 0.25 and 0.08 < loss["AdaGrad 0.01"] < 0.18  # 0.19 and 0.12
    lengths = {name: result.curves[f"{name} length"] for name in loss}
    assert 0.7 < lengths["RMSProp 0.1"][0] <= 1.0 + 1e-6
    late = {name: (values[100:200].mean(), values[-100:].mean()) for name, values in lengths.items()}
    assert late["AdaGrad 0.01"][1] < 0.5 * late["AdaGrad 0.01"][0]  # shrinking
    assert late["RMSProp 0.01"][1] > 0.7 * late["RMSProp 0.01"][0]  # steady


@pytest.mark.slow
@needs_all_data
@pytest.mark.parametrize("seed", [0, 1])
def test_weight_init_figures(seed):
    _, rows = full("weight-init", seed)
    loss = {name: row[0] for name, row in rows.items()}
    assert loss["std 0.01"] == pytest.approx(2.30, abs=0.01)
    # Measured with six seeds, as with the book's own lines: 0.20 to 0.22 and 0.28 to 0.31. The material has a single
    # point of a smoothed curve, about 0.16 and 0.21.
    assert 0.17 < loss["He"] < 0.25 and 0.24 < loss["Xavier"] < 0.35 and loss["He"] < 0.8 * loss["Xavier"]


@pytest.mark.slow
@needs_all_data
@pytest.mark.parametrize("seed", [0, 1])
def test_batchnorm_figures(seed):
    result, _ = full("batchnorm", seed)
    ends = [(float(with_it), float(without)) for _, with_it, without in result.rows]
    assert len(ends) == 16 and sum(a > b for a, b in ends) >= 13  # nearly always
    assert 1 <= sum(without > 0.5 for _, without in ends) <= 4  # only at good scales


@pytest.mark.slow
@needs_all_data
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_weight_decay_figures(seed):
    _, rows = full("weight-decay", seed)
    (train, test, gap), (decayed_train, decayed_test, decayed_gap) = (row[-3:] for row in rows.values())
    assert train > 0.98 and 0.7 < test < 0.79  # measured 0.75 to 0.77; the material: 0.7 to 0.76
    assert 0.8 < decayed_train < 0.97 and 0.65 < decayed_test and decayed_gap < gap - 0.03


@pytest.mark.slow
@needs_all_data
@pytest.mark.parametrize("seed", [0, 1])
def test_dropout_figures(seed):
    _, rows = full("dropout", seed)
    (train, _, gap), (dropped_train, dropped_test, dropped_gap) = (row[-3:] for row in rows.values())
    assert train > 0.98 and dropped_gap < gap - 0.05
    assert 0.5 < dropped_train < 0.98 and dropped_test > 0.4  # it learns, more slowly


@pytest.mark.slow
@needs_all_data
def test_hyperparameters_figures():
    result, _ = full("hyperparameters")
    best = result.curves["lr"][:10]
    assert len(result.curves["lr"]) == 100 and (best > 1e-3).all() and (best < 1e-2).all()
    refined = full("hyperparameters", refine=True)[0].curves
    second = refined["search"] == 2
    assert second.sum() == len(second) - 100 == 100
    assert refined["lr"][second].min() >= best.min() and refined["lr"][second].max() <= best.max()
    accuracy = refined["validation accuracy epoch 49"]
    assert np.median(accuracy[second]) > np.median(accuracy[~second]) + 0.2
