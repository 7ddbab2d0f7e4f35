"""What is to be read about each optimizer: `fastopt explain` and the pages in docs/."""

import dataclasses
import re
from pathlib import Path

import pytest

import fastopt
from docs import render
from fastopt import cli
from fastopt.commands import docstrings
from fastopt.commands.explain import explain, find
from fastopt.optimizers import OPTIMIZERS
from tests.commands.test_cli import run

DOCS = Path(__file__).parent.parent / "docs"


@pytest.fixture(scope="module")
def pages():
    return render.pages()


def test_the_pages_are_what_the_docstrings_say(pages):
    assert {path.name for path in DOCS.glob("*.md")} == set(pages)
    for name, text in pages.items():
        assert (DOCS / name).read_text(encoding="utf-8") == text, "run python -m docs.render"


@pytest.mark.parametrize("rule", OPTIMIZERS)
def test_every_docstring_says_what_there_is_to_say(rule):
    optimizer, slots = OPTIMIZERS[rule], OPTIMIZERS[rule]._rule.state
    about = docstrings.sections(optimizer)
    assert docstrings.summary(optimizer).endswith((".", ":")) and about["References"] and ">>>" in about["Examples"]
    assert bool(about.get("State")) == bool(slots)
    described = {name for names, _ in docstrings.entries(about["Parameters"]) for name in names.split(", ")}
    own = {name for name in optimizer._hyperparameters() if not hasattr(fastopt.Optimizer, name)}
    assert own <= described
    assert [name for name, _ in docstrings.entries(about["Differences"])] == ["PyTorch", "Keras", "optax"]
    assert all(text.endswith(".") for _, text in docstrings.entries(about["Differences"]))


@pytest.mark.parametrize("rule", OPTIMIZERS)
def test_every_optimizer_is_in_the_table_and_on_its_page(rule, pages):
    optimizer = OPTIMIZERS[rule]
    size = docstrings.bytes_per_element(optimizer)
    page = f"{optimizer.__module__.split('.')[-1]}.md"
    (row,) = re.findall(
        rf"^\| \[`{optimizer.__name__}`\]\({page}#{optimizer.__name__.lower()}\): .* \|$", pages["README.md"], re.M
    )
    assert f"| {size} |" in row and all(f"`{slot}`" in row for slot in optimizer._rule.state)
    assert row.count("PyTorch: ") == 1 and len(re.findall(r"(?<!\\)\|", row)) == 7
    assert f"\n## {optimizer.__name__}\n" in pages[page]


@pytest.mark.parametrize("rule", OPTIMIZERS)
def test_explain(rule):
    optimizer = OPTIMIZERS[rule](lr=0.25)
    text = explain(optimizer, 3)
    assert text.startswith(f"{OPTIMIZERS[rule].__name__}: ") and re.search(
        rf"^def {optimizer._rule.name}\(\s*p, g", text, re.M
    )
    assert "type: ignore" not in text and f"Scalars at step 3 of {optimizer!r}:" in text
    values = optimizer.scalars(3)
    assert len(values) == len(optimizer._rule.scalars) - (optimizer._rule.measure is not None)
    for name, value in zip(optimizer._rule.scalars, values, strict=False):
        assert re.search(rf"^  {name} +{re.escape(f'{value:.10g}')}$", text, re.M)
    for words in (
        "State: ",
        f"{docstrings.bytes_per_element(type(optimizer))} bytes",
        "Source: ",
        "  PyTorch  ",
        "  optax  ",
    ):
        assert words in text or words in " ".join(text.split())


def test_settings_of_every_optimizer_are_listed_once(pages):
    shared = docstrings.shared_settings()
    assert [name for name, *_ in shared] == [field.name for field in dataclasses.fields(fastopt.Optimizer)]
    assert {"averaging", "lookahead", "groups", "weight_decay"} < {name for name, *_ in shared}
    explained = explain(fastopt.Adam())
    for name, _, text in shared:
        assert text.endswith(".") and "\n" not in text
        assert len(re.findall(rf"^  {name}  ", explained.partition("Settings of every optimizer:")[2], re.M)) == 1
        assert sum(page.count(f"\n- **{name}**, default ") for page in pages.values()) == 1
    assert "- **clip_norm**, default infinity: The largest norm of all" in pages["README.md"]


def test_explain_shows_what_goes_before_the_formula():
    text = explain(fastopt.SGD(lr=fastopt.schedules.Linear(1.0, 0.0, steps=4), weight_decay=0.5, decoupled=True), 3)
    assert re.search(r"  lr +0.5\n  decoupled_weight_decay +0.75\n", text)
    text = explain(fastopt.SGD(clip_norm=1.0, clip_value=2.0, centralize=True, weight_decay=0.5))
    assert re.search(
        r"  scale +what makes norms .*\n  clip +2\n  centralize +the means .*\n  weight_decay +0.5\n", text
    )


def test_the_command(capsys):
    status, out, err = run(capsys, "explain", "RMSprop", "--step", "2", "--set", "lr=0.5", "--set", "maximize=True")
    assert status == 0 and err == ""
    assert "Scalars at step 2 of RMSProp(lr=0.5, decay_rate=0.99" in out and re.search(r"  scale +-1\n", out)
    assert find("adamw") is fastopt.AdamW and "form='paper'" in run(capsys, "explain", "Adam", "--set", "form=paper")[1]


OWN = """
import fastopt

@fastopt.rule(lr=0.1)
def shrink(p, g, lr):
    # the new one
    return (p - lr * g,)
"""


def test_the_command_knows_rules_of_ones_own(capsys, tmp_path, monkeypatch):
    (tmp_path / "rules_to_explain.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [path for path in cli.sys.path if path != str(tmp_path)])
    status, out, _ = run(capsys, "explain", "rules_to_explain:shrink", "--set", "lr=0.5")
    assert status == 0 and "    # the new one\n    return (p - lr * g,)\n" in out and "  lr  0.5\n" in out
    assert "State: none." in out and "12 bytes" in out and "Source" not in out and "Elsewhere" not in out
    status, _, err = run(capsys, "explain", "rules_to_explain:grow")
    assert status == 2 and "no optimizer 'grow' in module 'rules_to_explain', which has shrink" in err
    err = run(capsys, "explain", "rules_to_explain:shrnk")[2]
    assert "which has shrink; did you mean 'shrink'?" in err
    err = run(capsys, "explain", "rules_to_explain:fastopt")[2]
    assert "rules_to_explain:fastopt: expected an optimizer or its class, got <module" in err
    assert "no optimizer 'x' in module 'math', which has none" in run(capsys, "explain", "math:x")[2]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ("Adamm",),
            "unknown optimizer 'Adamm'; did you mean 'adam'\\? Known are sgd, momentum, .* and module:Name for one of your own",
        ),
        (("nowhere:Adam",), "No module named 'nowhere'"),
        (("Adam", "--step", "0"), "--step: expected a whole number of at least 1, got '0'"),
        (("Adam", "--set", "lr"), "--set: expected NAME=VALUE, such as lr=0.1, got 'lr'"),
        (("Adam", "--set", "speed=1"), "Adam has no setting 'speed'; it has lr, beta1"),
        (("Adam", "--set", "lr=-1"), r"Adam: lr must be in \[0, inf\), got -1.0"),
        (("Adam", "--set", "lr=fast"), "Adam: lr must be a number"),
    ],
)
def test_one_line_and_status_2(capsys, arguments, words):
    status, out, err = run(capsys, "explain", *arguments)
    assert status == 2 and re.search(words, err) and err.count("\n") == 1 and out == ""
