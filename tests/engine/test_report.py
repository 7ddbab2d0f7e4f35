"""The README's figures are what the script makes of a run, and the script shows and draws that run."""

import json
import re
from pathlib import Path

import pytest
from rich.console import Console

from bench import plots, report, states
from fastopt.kernels import RULES

RESULTS = json.loads(report.RESULTS.read_text(encoding="utf-8"))
STATES = json.loads(states.FILE.read_text(encoding="utf-8"))
README = (report.ROOT / "README.md").read_text(encoding="utf-8")


def test_the_readmes_figures_are_the_scripts():
    assert report.fill(README, report.readme(RESULTS, STATES)) == README
    table = README.split(report.BEGIN)[1].split(report.END)[0]
    assert len(re.findall(r"^\| (one array|dict)", table, re.M)) == len(report.STEPS)
    for picture in re.findall(r"\]\((bench/plots/.*?)\)", table):
        assert (report.ROOT / picture).is_file()


def test_other_figures_would_be_noticed():
    changed = json.loads(json.dumps(RESULTS))
    changed["groups"]["step adam float32 1e6"]["fastopt"]["median"] *= 2
    assert report.fill(README, report.readme(changed, STATES)) != README


def test_training_steps_have_a_row_for_each_state():
    seen = json.loads(json.dumps(STATES))
    (case, found) = next(iter(seen["cases"].items()))
    one = next(iter(found.values()))
    seen["cases"][case] = {"fast": one, "slow": json.loads(json.dumps(one))}
    seen["cases"][case]["slow"]["sides"]["fastopt"]["share of textbook"] = 1.25
    text = report.readme(RESULTS, seen)
    assert f"| {case}: fast | " in text and re.search(
        rf"^\| {re.escape(case)}: slow \|.* \| \*\*1.25\*\* \|", text, re.M
    )
    assert set(STATES["cases"]) == {case.name for case in states.CASES}


def test_cases_in_which_fastopt_is_behind_stay():
    changed = json.loads(json.dumps(RESULTS))
    rows = changed["groups"]["dict embedding"]
    rows["thinc"]["median"] = rows["fastopt"]["median"] / 2
    text = report.readme(changed, STATES)
    assert "**0.50**" in text and 'thinc in "dict embedding"' in text


def test_every_group_is_shown():
    console = Console(width=110, record=True, file=open("/dev/null", "w", encoding="utf-8"))
    with console.file:
        report.show(RESULTS, console)
    text = console.export_text()
    for group in RESULTS["groups"]:
        assert group in text
    assert all(f"step {rule} float32 3e7" in RESULTS["groups"] for rule in RULES)


def test_every_picture_is_drawn(tmp_path):
    paths = plots.draw(RESULTS, tmp_path)
    assert {path.stem for path in paths} == {"speedup", "rules", "size", "limit", "loop", "threads"}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)
    assert plots.draw({"groups": {}}, tmp_path) == []


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(1.234, "1.23 s"), (0.0123, "12.3 ms"), (0.25, "250 ms"), (2.5e-6, "2.5 µs"), (3e-7, "0.3 µs")],
)
def test_durations(seconds, text):
    assert report.duration(seconds) == text


def test_markers_are_needed():
    with pytest.raises(SystemExit, match=r"README.md has no lines"):
        report.fill("no markers", "figures")
    assert Path(report.__file__).with_name("plots").is_dir()
