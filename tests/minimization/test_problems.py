"""`minimize` of many problems at once."""

import numpy as np
import pytest

import fastopt
from tests.conftest import assert_same_bits

TARGETS = np.linspace(-2.0, 3.0, 7)[:, None] * np.array([1.0, 0.5])
SCALES = np.linspace(1.0, 4.0, 7)


def parabolas(x, first=0, scales=SCALES):
    error = x - TARGETS[first : first + len(x)]
    return scales * np.square(error).sum(axis=1), 2 * scales[:, None] * error


def test_each_problem_stops_where_it_would_alone():
    seen = []
    result = fastopt.minimize(
        lambda x: (seen.append(len(x)), parabolas(x))[1],
        np.zeros((7, 2)),
        jac=True,
        method=fastopt.Adam(lr=0.1, batch_axis=0),
        callback=lambda x: seen.append(x.shape),
        options={"gtol": 1e-3, "maxiter": 500},
    )
    assert result.success and result.status.tolist() == [0] * 7 and result.fun.shape == (7,)
    np.testing.assert_allclose(result.x, TARGETS, atol=1e-3)
    steps = result.optimizer.problem_steps
    assert len(set(steps.tolist())) > 3 and steps.max() == result.nit and (7, 2) in seen
    for problem in range(7):
        alone = fastopt.minimize(
            lambda x, number=problem: tuple(
                part[0] for part in parabolas(x[None], number, SCALES[number : number + 1])
            ),
            np.zeros(2),
            jac=True,
            method=fastopt.Adam(lr=0.1),
            options={"gtol": 1e-3, "maxiter": 500},
        )
        assert alone.nit == steps[problem]
        assert_same_bits(alone.x, result.x[problem])


def test_problems_that_do_not_come_to_an_end():
    def with_a_bad_one(x):
        value, gradient = parabolas(x)
        value[2] = np.nan
        return value, gradient

    method = fastopt.Adam(lr=0.1, batch_axis=0)
    result = fastopt.minimize(with_a_bad_one, np.zeros((7, 2)), jac=True, method=method, options={"maxiter": 3})
    assert result.status.tolist() == [1, 1, 3, 1, 1, 1, 1] and not result.success and result.nit == 3
    result = fastopt.minimize(with_a_bad_one, np.zeros((7, 2)), jac=True, method=method, options={"gtol": 1e-2})
    assert result.status[2] == 3 and not result.success and "1 of 7 problems" in result.message


def test_mistakes():
    method, x0 = fastopt.Adam(batch_axis=0), np.zeros((7, 2))

    def refused(kind, text, **given):
        with pytest.raises(kind, match=text):
            fastopt.minimize(**{"fun": parabolas, "x0": x0, "jac": True, "method": method, **given})

    refused(ValueError, "finite differences are not supported", jac=None, fun=lambda x: parabolas(x)[0])
    refused(ValueError, "patience is not supported with batch_axis=0", options={"patience": 3})
    refused(ValueError, "bounds is not supported with batch_axis=0", bounds=[(0, 1)] * 14)
    refused(TypeError, r"value of each problem, in shape \(7,\), got shape \(\)", fun=lambda x: (0.0, x))
    refused(ValueError, r"of shape \(problems, ...\)", x0={"a": np.zeros(2), "b": np.zeros(3)})
