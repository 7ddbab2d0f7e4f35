"""Hypothesis tries to break it: random sequences of operations on random models, each step against the reference.

After each step parameters, state, averages and step counts are the reference's to the bit. `sides.py` has the
operations, `random_models.py` says how many sequences are tried: few by default, of all that there is for one rule of
each kind, of plain settings for all.
"""

import pytest
from hypothesis import given, settings

from fastopt.optimizers import OPTIMIZERS
from tests.conftest import ONE_OF_EACH_KIND, ROOT, python
from tests.random_models import EXAMPLES, REAL, USUAL, Tape, operations, tapes, told, try_many
from tests.sides import MORE_OPERATIONS, OPERATIONS, PLAIN, Sides, ways_to_make

FEW = [*ONE_OF_EACH_KIND, "lamb", "muon"]


@pytest.mark.parametrize("rule", OPTIMIZERS)
def test_any_sequence_of_operations_equals_the_reference(rule, tmp_path):
    everything = rule in FEW or EXAMPLES > USUAL
    names = MORE_OPERATIONS if everything else OPERATIONS
    ways = ways_to_make(rule, EXAMPLES > USUAL) if everything else [(PLAIN, REAL)]

    @settings(try_many, max_examples=EXAMPLES if EXAMPLES > USUAL else max(2, EXAMPLES // 4) if everything else 2)
    @given(start=tapes, operations=operations)
    def sequence(start, operations):
        with told(*map(Tape, (start, *operations))) as (tape, *others):
            sides = Sides(rule, ways, tape, tmp_path)
            for sides.tape in others:
                getattr(sides, sides.draw(names))()

    sequence()


def test_addresses_are_checked():
    """FASTOPT_CHECK=1: sequences and more in pure Python, after a look at every address."""
    files = [str(ROOT / "tests" / name) for name in ("test_any_sequence.py", "test_any_input.py")]
    code = f"import sys, pytest; sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider', '-k', 'sequence_of or bad_input or resized', *{files}]))"
    out = python(code, cwd=ROOT, FASTOPT_CHECK="1", FASTOPT_EXAMPLES="8").stdout
    assert f"{len(OPTIMIZERS) + 4} passed" in out
