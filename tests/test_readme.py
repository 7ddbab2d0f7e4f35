"""The README's programs run as they stand."""

import json
import re

import pytest

from bench import report
from fastopt.optimizers import OPTIMIZERS
from fastopt.schedules import SCHEDULES
from tests.conftest import ROOT, python

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_python_blocks_run(tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", README, re.S)
    assert blocks
    python("\n".join(f"exec({block!r}, {{'__name__': '__main__'}})" for block in blocks), cwd=tmp_path)


def test_the_first_example_says_what_comes_out(tmp_path):
    block = re.findall(r"```python\n(.*?)```", README, re.S)[0]
    assert sum(bool(line.strip()) and not line.startswith(("import", "from")) for line in block.splitlines()) <= 10
    numbers = [float(number) for number in re.findall(r"-?\d+\.\d*(?:e-\d+)?", python(block, cwd=tmp_path).stdout)]
    assert numbers == pytest.approx([1, -2, 3, 4], abs=0.01)


@pytest.mark.parametrize("marker", ["main job", "tests"])
def test_commands_are_one_line(marker):
    (block,) = re.findall(rf"<!-- {marker} -->\s*```bash\n(.*?)```", README, re.S)
    assert len(block.strip().splitlines()) == 1


def test_every_optimizer_is_counted_and_named():
    assert f"Each of {len(OPTIMIZERS)} update rules" in README and f"**{len(OPTIMIZERS)} optimizers**" in README
    assert all(f"`{optimizer.__name__}`" in README for optimizer in OPTIMIZERS.values())
    assert f"{len(SCHEDULES) - 2} schedules" in README  # Sequence and Product put others together


def test_it_is_one_screen():
    assert len(README.splitlines()) <= 150


def test_links_into_the_site_lead_somewhere():
    links = re.findall(r"\]\(https://fastopt.github.io/fastopt/([^)#]*)", README)
    assert len(links) > 5
    for link in links:
        page = link.removesuffix(".html") if link.endswith(".html") else f"{link}index"
        # The build writes the gallery.
        assert page == "gallery/index" or (ROOT / "docs" / "source" / f"{page}.md").is_file(), link
    for link in re.findall(r"\]\(((?!http|#)[^)]*)\)", README):
        assert (ROOT / link).exists(), link


def test_figures_are_those_of_the_results():
    kept = [
        json.loads((ROOT / "bench" / f"{name}.json").read_text()) for name in ("results", "states", "ratios", "storage")
    ]
    for path, text in report.filled(*kept).items():
        assert text == path.read_text(encoding="utf-8"), "run python -m bench.report --kept --readme"
    with pytest.raises(SystemExit, match="found no lines"):
        report.fill("nothing", report.FIGURES, "")
