"""`fastopt train`: what it prints and writes, and what it says of differences and of the machine."""

import re
import shutil
import struct

import pytest

from fastopt import machine, reference
from fastopt.commands import train
from fastopt.experiments import textbook
from fastopt.nn import mnist
from fastopt.optimizers import OPTIMIZERS
from tests.commands.support import run


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--optimizer", "momentum", "--hidden", "20", "--dtype", "float64"),
        ("--optimizer", "RMSProp", "--batch", "7", "--steps", "21", "--hidden", "30,20"),
        ("--optimizer", "sgd", "--steps", "1"),
    ],
)
def test_train(capsys, tmp_path, arguments):
    steps = () if "--steps" in arguments else ("--steps", "50")
    status, out, err = run(capsys, "train", "--out", str(tmp_path / "a b"), *arguments, *steps)
    assert status == 0 and err == ""
    assert "the MNIST subset that comes with fastopt" in out and "6,000 training and 1,500 test digits" in " ".join(
        out.split()
    )
    for line in ("gradient", "optimizer step", "both", "first step", "last loss", "test accuracy"):
        assert re.search(rf"{line} +[\d.,]+", out), line
    words = " ".join(out.split())
    assert re.search(r"machine: load average [\d.]+ on \d+ CPUs; (a store to a cache line|one CPU)", words)
    assert re.search(r"others kept ([\d.]+|nan) CPUs busy", words)
    if steps:  # a single step compiles
        assert re.search(r"optimizer step .* (x faster|of the speed)", out)
    assert "identical bits" in out and "DIFFERENT" not in out
    if arguments:
        loss = re.search(r"last loss +([\d.e-]+) +([\d.e-]+) +equal", out)
        assert loss and loss[1] == loss[2] and "rounds differently" not in out
    else:
        assert "fastopt beside fastopt.reference, 50 steps: identical bits" in out
        assert re.search("all parameters +differs by rounding", out)
        assert "The textbook rounds differently, which grows in training: it computes float32 steps in float64" in words
    (picture,) = (tmp_path / "a b").glob("train-*.png")
    content = picture.read_bytes()
    assert content.startswith(b"\x89PNG") and struct.unpack(">II", content[16:24]) == (1200, 630)
    assert str(picture) in out


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "lamb"])
def test_train_says_so_when_results_differ(capsys, tmp_path, monkeypatch, optimizer):
    """Of the exact reference; a textbook that is wrong is found where it should have the same bits."""
    kind = getattr(reference, OPTIMIZERS[optimizer].__name__)
    step = kind.step
    monkeypatch.setattr(kind, "step", lambda self, p, g, *state: step(self, p, g * 1.0001, *state))
    monkeypatch.setitem(textbook.BOOK, "sgd", reference.SGD)
    status, out, _ = run(capsys, "train", "--optimizer", optimizer, "--steps", "20", "--out", str(tmp_path))
    assert status == 1 and out.count("DIFFERENT") >= 2 and "identical" not in out


def test_train_with_norms_and_when_state_dies(capsys, tmp_path, monkeypatch):
    status, out, _ = run(capsys, "train", "--optimizer", "lamb", "--steps", "30", "--out", str(tmp_path))
    assert status == 0 and "np.linalg.norm is not exact" in " ".join(out.split())
    assert "fastopt.reference, 20 steps: identical bits" in out
    # A textbook that is not the reference, in a rule whose bits should be its: the reference decides.
    monkeypatch.setitem(textbook.BOOK, "sgd", lambda: textbook.SGD(lr=0.0100001))
    status, out, _ = run(capsys, "train", "--optimizer", "sgd", "--steps", "30", "--out", str(tmp_path))
    assert status == 0 and "fastopt.reference, 30 steps: identical bits" in out


def test_train_warns_of_a_busy_machine(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(machine.OthersLoad, "value", lambda self: 0.7)
    out = run(capsys, "train", "--optimizer", "sgd", "--steps", "5", "--hidden", "5", "--out", str(tmp_path))[1]
    assert "busy with other processes: do not rely on the ratios" in " ".join(out.split())


def test_ratios_below_one_are_shares():
    assert train.faster(1.331) == "1.33 x faster" and train.faster(0.94) == "0.94 of the speed"


def test_ratios_are_of_neighbouring_turns():
    """The machine slows down by half between turns, and both sides with it."""
    runs = [train.Run(name, None, None) for name in "ab"]
    for turn in range(6):
        for run_, update in zip(runs, (3.0, 1.0), strict=True):
            speed = 1000 if turn == 0 else 2 if turn % 2 else 1  # the first compiles
            run_.gradient_seconds += [speed * 1.0] * train.TURN
            run_.update_seconds += [speed * update] * train.TURN
    comparison = train.Comparison(*runs, 0, True, True, 0, [], 0.0)
    assert comparison.ratios() == pytest.approx((1, 3, 2))


def test_train_on_a_folder(capsys, tmp_path):
    folder = tmp_path / "mnist"
    shutil.copytree(mnist.SUBSET, folder)
    status, out, _ = run(
        capsys, "train", "--data", str(folder), "--steps", "5", "--hidden", "5", "--out", str(tmp_path)
    )
    assert status == 0 and str(folder) in out.replace("\n", "")
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(b"damaged")
    status, out, err = run(capsys, "train", "--data", str(folder), "--out", str(tmp_path))
    assert status == 2 and "t10k-images-idx3-ubyte.gz is damaged" in err and err.count("\n") == 1 and out == ""


def test_train_takes_settings(capsys, tmp_path):
    few = ("--steps", "5", "--hidden", "5", "--out", str(tmp_path))
    for more, title in (
        (("--optimizer", "momentum", "--lr", "0.1", "--set", "momentum=0.5"), "Momentum(momentum=0.5, lr=0.1)"),
        (("--optimizer", "adam", "--set", "form=paper"), "Adam(form='paper')"),
        (("--optimizer", "sgd", "--set", "clip_norm=0.5", "--set", "weight_decay=0.1"), "SGD(clip_norm=0.5, weight_"),
    ):
        status, out, _ = run(capsys, "train", *more, *few)
        assert status == 0 and title in " ".join(out.split()) and "identical bits" in out, out
    assert ", 1 step\n" in run(capsys, "train", "--steps", "1", "--hidden", "5", "--out", str(tmp_path))[1]


OWN = """
import fastopt

@fastopt.rule(state=("v",), lr=0.01, momentum=0.9)
def mine(p, g, v, lr, momentum):
    v = momentum * v + g
    return p - lr * v, v

@fastopt.rule(lr=0.01)
def branches(p, g, lr):
    return (p - lr * g if g > lr else p,)
"""


def test_train_takes_a_rule_of_ones_own(capsys, tmp_path, monkeypatch):
    (tmp_path / "own_rules.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    few = ("--steps", "25", "--hidden", "5", "--out", str(tmp_path))
    status, out, _ = run(capsys, "train", "--optimizer", "own_rules:mine", "--lr", "0.1", *few)
    assert status == 0 and "mine(lr=0.1), 784-5-10" in " ".join(out.split()), out
    assert "identical bits" in out and "DIFFERENT" not in out and (tmp_path / "train-mine.png").is_file()
    status, _, err = run(capsys, "train", "--optimizer", "own_rules:branches", *few)
    assert status == 2 and "own_rules:branches: the formula has no form on whole arrays" in err
    status, _, err = run(capsys, "train", "--optimizer", "own_rules:mein", *few)
    assert status == 2 and "did you mean 'mine'?" in err and err.count("\n") == 1
