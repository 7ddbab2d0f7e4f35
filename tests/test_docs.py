"""Documentation of each optimizer: `fastopt explain` and the pages in docs/."""

import dataclasses
import re
from collections import defaultdict

import pytest

import fastopt
from docs import build, latex, paths, render
from fastopt import cli
from fastopt.commands import docstrings
from fastopt.commands.explain import explain, find
from fastopt.experiments import ravine
from fastopt.optimizers import OPTIMIZERS
from tests.commands.test_cli import run


@pytest.fixture(scope="module")
def pages():
    return render.pages()


def test_every_public_name_is_looked_for():
    names = build.public_names()
    assert {
        "fastopt.Adam",
        "fastopt.Rows",
        "fastopt.schedules.Cosine",
        "fastopt.nn.Affine",
        "fastopt.reference.Adam",
    } <= names
    assert build.missing(names) == []
    assert build.missing(names - {"fastopt.Rows"}) == ["fastopt.Rows"]


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
def test_every_optimizer_has_its_page_and_its_row(rule, pages):
    optimizer = OPTIMIZERS[rule]
    size = docstrings.bytes_per_element(optimizer)
    (row,) = re.findall(
        rf"^\| \[`{optimizer.__name__}`\]\({rule}.md\) \| .* \|$", pages[f"{render.FOLDER}/index.md"], re.M
    )
    assert row.endswith(f"| {size} |") and all(f"`{slot}`" in row for slot in optimizer._rule.state)
    assert len(re.findall(r"(?<!\\)\|", row)) == 5
    page = pages[f"{render.FOLDER}/{rule}.md"]
    assert page.startswith(f"# {optimizer.__name__}\n") and f"**{size} bytes" in page and "{cite}`" in page
    assert page.count(r"\begin{aligned}") == 1 and f"/_generated/paths/{rule}.svg" in page
    assert all(f"\n{other}\n: " in page for other in ("PyTorch", "Keras", "optax"))


def test_equations_become_latex():
    lines = ["h_t = decay_rate h_{t-1} + g_t^2", "p_t = p_{t-1} - lr g_t / (sqrt(h_t) + eps),  with the norms |g_t|"]
    text, used = latex.equations(lines, {"decay_rate", "lr", "eps", "h"})
    assert used == ["decay_rate", "lr", "eps"]
    assert r"h_{t} &= {\rho} \, h_{t-1} + g_{t}^{2} \\" in text
    assert r"\frac{{\eta} \, g_{t}}{\sqrt{h_{t}} + {\varepsilon}}" in text and r"\text{ with the norms }" in text
    assert r"\lVert g_{t} \rVert" in text


@pytest.mark.parametrize("rule", OPTIMIZERS)
def test_braces_of_equations_match(rule):
    optimizer = OPTIMIZERS[rule]
    names = {*optimizer._rule.scalars, *optimizer._rule.state, *optimizer._hyperparameters()}
    text, _ = latex.equations(docstrings.equations(optimizer), names)
    assert text.count("{") == text.count("}") and text.count(r"\left") == text.count(r"\right")
    assert text.count("&=") == len(docstrings.equations(optimizer))


def test_every_path_goes_down_the_ravine():
    for rule in OPTIMIZERS:
        path = paths.path(rule, paths.settings(rule))
        assert ravine.height(*path[-1]) < ravine.height(*path[0]) / 2, rule


@pytest.mark.parametrize("rule", OPTIMIZERS)
def test_explain(rule):
    optimizer = OPTIMIZERS[rule](lr=0.25)
    text = explain(optimizer, 3)
    assert text.startswith(f"{OPTIMIZERS[rule].__name__}: ") and re.search(
        rf"^def {optimizer._rule.name}\(\s*p,\s*g", text, re.M
    )
    assert "type: ignore" not in text and f"Scalars at step 3 of {optimizer!r}:" in text
    values = optimizer.scalars(3)
    after = (optimizer._rule.measure is not None) + len(optimizer.total_scalars(defaultdict(float)))
    assert len(values) == len(optimizer._rule.scalars) - after
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
        assert pages[f"{render.FOLDER}/index.md"].count(f"\n`{name}` : default ") == 1


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
