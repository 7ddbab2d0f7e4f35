"""Fixtures that tests of steps share."""

import pytest

from fastopt.engine import step


@pytest.fixture
def in_one_call(monkeypatch):
    """Steps made in any other way fail from here on when it is called."""

    def only():
        monkeypatch.setattr(step, "make", lambda *given: pytest.fail("not in one call"))

    return only
