"""Output in notebooks: pictures and tables for results, and a short traceback for a mistake in a rule."""

import traceback

import numpy as np
import pytest

import fastopt
from fastopt.compare import Check, Row
from fastopt.experiments import ravine


def test_a_result_shows_its_picture_and_its_table():
    result = ravine.run(backend="reference")
    assert result._repr_png_().startswith(b"\x89PNG")
    html = result._repr_html_()
    assert html.count('<img src="data:image/png;base64,') == 1 and html.count("<tr>") == 1 + len(result.rows)
    assert repr(result) == f"Result of ravine: {result.finding}"


def test_a_check_shows_a_table():
    rows = [Row("a & b", "float32", 10, 0, 0), Row("on two", "float64", 10, 3, 0)]
    html = Check("SGD(lr=0.01)", rows, 1.0, 0.5, None)._repr_html_()
    assert "SGD(lr=0.01)" in html and "a &amp; b" in html and "DIFFERENT by 3 ulps" in html and "NumPy" not in html
    assert html.count("<tr>") == 5 and "plain NumPy" in Check("SGD()", rows, 1.0, 0.5, 2.0)._repr_html_()


@pytest.mark.parametrize("number", [2.0, 3])
def test_a_mistake_in_a_rule_has_a_short_traceback(number):
    def wrong(p, g, lr):
        return (p - (lr * (g * np.sin(p + unknown))),)  # noqa: F821

    for make in (lambda: fastopt.rule(lr=number)(wrong), lambda: fastopt.rule(wrong, lr=number)):
        with pytest.raises(TypeError, match="unknown is neither an argument nor") as caught:
            make()
        frames = traceback.extract_tb(caught.value.__traceback__)
        assert len(frames) <= 5 and all("formulas" not in frame.filename for frame in frames)
        assert caught.value.__cause__ is None and caught.value.__suppress_context__
