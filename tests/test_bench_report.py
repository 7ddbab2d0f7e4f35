"""The pages that `python -m bench.report` writes: figures of a run, cases that were lost, pictures. tests/test_readme.py compares."""

import json
import re

import pytest
from rich.console import Console

from bench import plots, report, states, storage
from fastopt.kernels import RULES

RESULTS = json.loads(report.RESULTS.read_text(encoding="utf-8"))
STATES = json.loads(states.FILE.read_text(encoding="utf-8"))
STORAGE = json.loads(storage.FILE.read_text(encoding="utf-8"))


def other(results):
    return json.loads(json.dumps(results))


def test_other_figures_would_be_noticed():
    changed = other(RESULTS)
    changed["groups"]["step adam float32 1e6"]["fastopt"]["median"] *= 2
    ratios = {"parts": {}}
    assert report.page(changed, STATES, ratios) != report.page(RESULTS, STATES, ratios)
    one_step = report.page(RESULTS, STATES, ratios).split("## One step")[1].split("\n## ")[0]
    assert len(re.findall(r"^\| (one array|dict)", one_step, re.M)) == len(report.STEPS)


def test_newer_rows_replace_those_of_their_name():
    results = {"groups": {"step": {"fastopt": {"median": 2.0}, "textbook": {"median": 9.0}}}}
    newer = {"step": {"fastopt": {"median": 1.0}}, "dict": {"fastopt": {"median": 3.0}}}
    report.renew(results, [{"groups": newer}])
    assert results["groups"] == {"step": newer["step"] | {"textbook": {"median": 9.0}}, "dict": newer["dict"]}


def test_training_steps_have_a_row_for_each_state():
    seen = other(STATES)
    case, found = next(iter(seen["cases"].items()))
    one = next(iter(found.values()))
    seen["cases"][case] = {"fast": one, "slow": other(one)}
    seen["cases"][case]["slow"]["sides"]["fastopt"]["share of textbook"] = 1.25
    text = report.page(RESULTS, seen, {"parts": {}})
    name = report.case_name(case)
    assert f"| {name}: fast | " in text
    assert re.search(rf"^\| {re.escape(name)}: slow \|.* \| \*\*1.25\*\* \|", text, re.M)
    assert set(STATES["cases"]) == {case.name for case in states.CASES}


def test_cases_in_which_fastopt_is_behind_stay():
    changed = other(RESULTS)
    rows = changed["groups"]["dict embedding"]
    rows["thinc"]["median"] = rows["fastopt"]["median"] / 2
    assert 'thinc in "dict embedding"' in report.readme(changed, STATES, STORAGE)
    assert "thinc" in report.page(changed, STATES, {"parts": {}}).split("## Where fastopt was behind")[1]


def test_every_group_is_shown():
    console = Console(width=110, record=True, file=open("/dev/null", "w", encoding="utf-8"))
    with console.file:
        report.show(RESULTS, console)
    text = console.export_text()
    for group in RESULTS["groups"]:
        assert group in text
    assert all(f"step {rule} float32 3e7" in RESULTS["groups"] for rule in RULES)


def test_every_picture_is_drawn(tmp_path):
    paths = plots.draw(RESULTS, STATES, STORAGE, tmp_path)
    assert {path.stem for path in paths} == {"speedup", "rules", "size", "training"}
    assert all("<svg" in path.read_text(encoding="utf-8")[:1000] for path in paths)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(1.234, "1.23 s"), (0.0123, "12.3 ms"), (0.25, "250 ms"), (2.5e-6, "2.5 µs"), (3e-7, "0.3 µs")],
)
def test_durations(seconds, text):
    assert report.duration(seconds) == text
