"""What the README shows runs as it stands."""

import re
from pathlib import Path

import pytest

from fastopt.commands.docstrings import bytes_per_element
from fastopt.optimizers import OPTIMIZERS
from tests.conftest import python

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def test_the_python_blocks_run(tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", README, re.S)
    assert blocks
    python("\n".join(f"exec({block!r}, {{'__name__': '__main__'}})" for block in blocks), cwd=tmp_path)


def test_the_first_example_says_what_comes_out(tmp_path):
    block = re.findall(r"```python\n(.*?)```", README, re.S)[0]
    assert sum(bool(line.strip()) and not line.startswith(("import", "from")) for line in block.splitlines()) <= 10
    numbers = [float(number) for number in re.findall(r"-?\d+\.\d*(?:e-\d+)?", python(block, cwd=tmp_path).stdout)]
    assert numbers == pytest.approx([1, -2, 3, 4], abs=0.01)


def test_gradients_from_elsewhere_say_what_comes_out(tmp_path):
    autograd, evolution = (
        next(block for block in re.findall(r"```python\n(.*?)```", README, re.S) if word in block)
        for word in ("autograd", "generation")
    )
    assert 0 < float(python(autograd, cwd=tmp_path).stdout) < 0.001
    numbers = [float(number) for number in re.findall(r"-?\d+\.\d*", python(evolution, cwd=tmp_path).stdout)]
    assert numbers == pytest.approx(range(10), abs=0.3)


@pytest.mark.parametrize("marker", ["main job", "tests"])
def test_commands_are_one_line(marker):
    (block,) = re.findall(rf"<!-- {marker} -->\s*```bash\n(.*?)```", README, re.S)
    assert len(block.strip().splitlines()) == 1


def test_every_optimizer_is_counted_and_has_its_row():
    assert f"[{len(OPTIMIZERS)} update rules](#optimizers)" in README
    for optimizer in OPTIMIZERS.values():
        assert re.search(rf"^\| `{optimizer.__name__}` \|.*\| {bytes_per_element(optimizer)} \|$", README, re.M)
