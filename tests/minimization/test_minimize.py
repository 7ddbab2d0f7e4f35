"""`minimize`: SciPy's arguments and result, alone and as a method of SciPy's."""

import itertools
from typing import NamedTuple

import numpy as np
import pytest

import fastopt
from fastopt import Adam, reference

optimize = pytest.importorskip("scipy.optimize")

START = [-1.5, 2.0]
TARGET = np.array([1.0, -2.0, 3.0])


def bowl(x):
    return float(((x - TARGET) ** 2).sum())


def bowl_gradient(x):
    return 2 * (x - TARGET)


def steps_of_the_reference(steps, lr=0.1, project=lambda x: None):
    """Adam from zero down the bowl, written out."""
    x, optimizer = np.zeros(3), reference.Adam(lr=lr)
    for _ in range(steps):
        optimizer.update(x, bowl_gradient(x))
        project(x)
    return x


@pytest.mark.parametrize(
    ("fun", "jac"), [(bowl, bowl_gradient), (lambda x: (bowl(x), bowl_gradient(x)), True)], ids=["function", "True"]
)
def test_steps_are_those_of_the_optimizer(fun, jac):
    for result in (
        fastopt.minimize(fun, np.zeros(3), jac=jac, options={"lr": 0.1, "maxiter": 7}),
        fastopt.minimize(fun, np.zeros(3), jac=jac, method=Adam(lr=0.1), options={"maxiter": 7}),
        optimize.minimize(
            fun, np.zeros(3), jac=jac, method=fastopt.minimize, options={"optimizer": Adam(lr=0.1), "maxiter": 7}
        ),
    ):
        assert type(result) is optimize.OptimizeResult
        expected = steps_of_the_reference(7)
        assert result.x.tobytes() == expected.tobytes()
        assert result.fun == bowl(expected) and result.jac.tobytes() == bowl_gradient(expected).tobytes()
        assert (result.nit, result.nfev, result.njev, result.status, result.success) == (7, 8, 8, 1, False)
        assert result.message == "Maximum number of iterations has been exceeded."
        assert result.optimizer.iter == 7


@pytest.mark.parametrize("jac", ["gradient", "2-point", "3-point"])
def test_complex_points(jac):
    """A least-squares problem, whose solution NumPy knows; its gradient is 2 A^H (A z - b)."""
    rng = np.random.default_rng(0)
    matrix, b = (rng.standard_normal(shape) + 1j * rng.standard_normal(shape) for shape in ((6, 3), 6))

    def residual(x):
        return matrix @ np.append(x["z"], x["scale"]) - b

    def gradient(x):
        whole = 2 * matrix.conj().T @ residual(x)
        return {"z": whole[:2], "scale": whole[2]}

    result = fastopt.minimize(
        lambda x: np.linalg.norm(residual(x)) ** 2,
        {"z": np.zeros(2, complex), "scale": np.array(1j)},
        jac=gradient if jac == "gradient" else jac,
        method=Adam(lr=0.1),
        tol=1e-5,
    )
    assert result.success and max(np.abs(part).max() for part in result.jac.values()) <= 1e-5
    expected = np.linalg.lstsq(matrix, b, rcond=None)[0]
    np.testing.assert_allclose(np.append(result.x["z"], result.x["scale"]), expected, atol=1e-5)


def test_a_point_of_complex_numbers_is_one_array():
    for x0 in ([0.5j, 2], 1j, np.complex64(1j)):
        result = fastopt.minimize(lambda z: float(np.sum(np.abs(z - 1) ** 2)), x0, options={"lr": 0.1, "maxiter": 300})
        assert result.x.dtype == np.atleast_1d(x0).dtype and np.abs(result.x - 1).max() < 0.01


@pytest.mark.parametrize("method", ["adam", "RMSProp", "lion"])
def test_a_method_is_an_optimizer_with_its_settings(method):
    result = fastopt.minimize(bowl, np.zeros(3), jac=bowl_gradient, method=method, options={"lr": 0.5, "maxiter": 1})
    assert type(result.optimizer).rule == method.lower() and result.optimizer.lr == 0.5


def test_rosenbrock_by_scipy_with_all_its_arguments():
    def fun(x, scale, *, calls=[]):  # noqa: B006
        return scale * optimize.rosen(x)

    result = optimize.minimize(
        fun,
        START,
        args=(2.0,),
        jac=lambda x, scale: scale * optimize.rosen_der(x),
        method=fastopt.minimize,
        bounds=optimize.Bounds([-2.0, -np.inf], [0.8, np.inf]),
        tol=1e-4,
        options={"optimizer": Adam(lr=0.05)},
    )
    assert result.success and result.status == 0 and result.message == "The gradient is within gtol."
    np.testing.assert_allclose(result.x, [0.8, 0.64], atol=1e-4)
    exact = optimize.minimize(fun, START, args=(2.0,), bounds=[(-2.0, 0.8), (None, None)])
    assert result.fun == pytest.approx(exact.fun, rel=1e-3)


@pytest.mark.parametrize("jac", [None, "2-point", "3-point"])
def test_differences_find_the_same(jac):
    result = fastopt.minimize(bowl, [0, 0, 0], jac=jac, options={"lr": 0.1})
    np.testing.assert_allclose(result.x, TARGET, atol=1e-5)
    assert result.success and result.nfev == (result.nit + 1) * (7 if jac == "3-point" else 4) and result.njev == 0


def test_autograds_gradient():
    autograd = pytest.importorskip("autograd")

    def fun(params):
        return autograd.numpy.sum((params["W"] - 2.0) ** 2) + params["b"] ** 2

    x0 = {"W": np.zeros((2, 2)), "b": 1.0}
    result = fastopt.minimize(fun, x0, jac=autograd.grad(fun), options={"lr": 0.1})
    np.testing.assert_allclose(result.x["W"], 2.0, atol=1e-4)
    assert abs(result.x["b"]) < 1e-4 and x0["b"] == 1.0 and not x0["W"].any()
    with pytest.raises(TypeError, match=r"jac=grad\(fun\), not jac=grad"):
        fastopt.minimize(fun, x0, jac=autograd.grad)


def test_a_dict_takes_the_steps_of_the_vector():
    def fun(params):
        x = np.concatenate([params["a"], params["b"].ravel()])
        gradient = bowl_gradient(x)
        return bowl(x), {"a": gradient[:2], "b": gradient[2:].reshape(1, 1)}

    result = fastopt.minimize(
        fun, {"a": np.zeros(2), "b": np.zeros((1, 1))}, jac=True, options={"lr": 0.1, "maxiter": 7}
    )
    expected = steps_of_the_reference(7)
    assert result.x["a"].tobytes() == expected[:2].tobytes() and result.x["b"].tobytes() == expected[2:].tobytes()


class Layer(NamedTuple):
    W: np.ndarray
    b: np.ndarray


@pytest.mark.parametrize("jac", [True, "2-point"])
def test_nested_containers(jac):
    """x, gradients and result have the form of x0; bounds go by the names of the arrays."""

    def fun(x):
        layer, (scale, *_) = x["layers"]
        assert type(layer) is Layer
        value = ((layer.W - 2) ** 2).sum() + ((layer.b + 1) ** 2).sum() + (scale - 3) ** 2
        gradient = {"layers": [Layer(2 * (layer.W - 2), 2 * (layer.b + 1)), (2 * (scale - 3), None)]}
        return (float(value), gradient) if jac is True else float(value)

    x0 = {"layers": [Layer(np.zeros((2, 2)), np.zeros(2)), (np.zeros(()), np.ones(2))]}
    result = fastopt.minimize(fun, x0, jac=jac, bounds={"layers.0.W": (None, 1.0)}, options={"lr": 0.1})
    layer, (scale, rest) = result.x["layers"]
    assert type(layer) is Layer and (layer.W == 1.0).all() and result.success
    np.testing.assert_allclose(layer.b, -1.0, atol=1e-4)
    assert abs(scale - 3) < 1e-4 and (rest == 1).all() and not x0["layers"][0].W.any()
    with pytest.raises(KeyError, match=r"bounds has 'W', but x0 has 'layers.0.W', 'layers.0.b'"):
        fastopt.minimize(fun, x0, bounds={"W": (0, 1)})


def test_an_array_under_two_names_stays_one():
    W = np.zeros(2)
    x0 = [W, W]
    result = fastopt.minimize(
        lambda x: float(((x[0] + x[1] - 1) ** 2).sum()),
        x0,
        jac=lambda x: [2 * (x[0] + x[1] - 1)] * 2,
        method="sgd",
        options={"lr": 0.05},
    )
    assert result.x[0] is result.x[1] and result.x[0] == pytest.approx(0.5, abs=1e-4)


@pytest.mark.parametrize(
    ("x0", "shape"), [(1, (1,)), ([1, 2.0], (2,)), (((1, 2), (3, 4)), (2, 2)), (np.float32(1), (1,)), (np.ones(()), (1,))]
)  # fmt: skip
def test_numbers_are_one_array_as_in_scipy(x0, shape):
    result = fastopt.minimize(lambda x: float((x**2).sum()), x0, options={"maxiter": 1})
    assert result.x.shape == shape and result.x.dtype == (np.float32 if isinstance(x0, np.float32) else np.float64)


def test_what_is_handed_over_is_not_written_to():
    optimizer, x0, seen = Adam(lr=0.1), np.zeros(3), []

    def fun(x):
        seen.append(x)
        value = bowl(x)
        x[:] = np.nan
        return value

    result = fastopt.minimize(fun, x0, jac=bowl_gradient, method=optimizer, options={"maxiter": 5})
    assert optimizer.iter == 0 and not optimizer.m and not x0.any()
    assert result.x.tobytes() == steps_of_the_reference(5).tobytes()
    assert len({id(x) for x in seen}) == 6


def test_the_optimizer_of_a_result_goes_on():
    first = fastopt.minimize(bowl, np.zeros(3), jac=bowl_gradient, options={"lr": 0.1, "maxiter": 4})
    then = fastopt.minimize(bowl, first.x, jac=bowl_gradient, method=first.optimizer, options={"maxiter": 3})
    assert then.x.tobytes() == steps_of_the_reference(7).tobytes()
    assert first.optimizer.iter == 4 and then.optimizer.iter == 7


def test_float32_stays():
    result = fastopt.minimize(bowl, np.zeros(3, np.float32), jac=bowl_gradient, options={"lr": 0.1, "maxiter": 9})
    assert result.x.dtype == np.float32


def test_bounds_are_projected_onto_after_each_step():
    bounds = [(None, 0.5), (-1.0, None), (-0.2, 0.2)]
    result = fastopt.minimize(bowl, np.zeros(3), jac=bowl_gradient, bounds=bounds, options={"lr": 0.1, "maxiter": 6})
    expected = steps_of_the_reference(6, project=lambda x: np.clip(x, [-np.inf, -1.0, -0.2], [0.5, np.inf, 0.2], out=x))
    assert result.x.tobytes() == expected.tobytes()
    done = fastopt.minimize(bowl, np.zeros(3), jac=bowl_gradient, bounds=bounds, options={"lr": 0.1})
    assert done.success and done.x.tolist() == [0.5, -1.0, 0.2] and done.message == "The gradient is within gtol."
    with pytest.warns(RuntimeWarning, match="x0 is beyond the bounds"):
        fastopt.minimize(bowl, np.full(3, 9.0), jac=bowl_gradient, bounds=bounds, options={"maxiter": 0})


def test_no_progress():
    calls = itertools.count()
    result = fastopt.minimize(
        lambda x: float(max(5 - next(calls), 0)), 1.0, jac=lambda x: 1.0, options={"patience": 3, "gtol": None}
    )
    assert result.success and result.message == "The value made no progress within patience steps."
    assert result.nit == 5 + 3


def test_slow_progress_adds_up():
    calls = itertools.count()
    result = fastopt.minimize(
        lambda x: -0.04 * next(calls), 1.0, jac=lambda x: 1.0, options={"patience": 2, "ftol": 0.05, "maxiter": 5}
    )
    assert result.nit == 5 and not result.success


def test_smoothing():
    values = iter([4.0, 0.0, 4.0, 3.0, 3.0, 3.0])
    result = fastopt.minimize(
        lambda x: next(values),
        0.0,
        jac=lambda x: 1.0,
        options={"smoothing": 0.5, "keep_best": True, "maxiter": 5, "gtol": None, "lr": 1.0},
    )
    # Means, corrected for their start: 4, 1.33, 2.86, 2.93, 2.97, 2.98.
    assert result.fun == 0.0 and result.x == pytest.approx(-1.0, rel=1e-5)


def test_the_best_point_is_kept_on_request():
    def fun(x):  # momentum overshoots
        return float(x[0] ** 2), 2 * x

    settings = {"lr": 0.1, "momentum": 0.95, "maxiter": 12}
    last = fastopt.minimize(fun, 1.0, jac=True, method="momentum", options=settings)
    best = fastopt.minimize(fun, 1.0, jac=True, method="momentum", options={**settings, "keep_best": True})
    assert best.fun < last.fun and best.fun == best.x[0] ** 2 and best.jac == 2 * best.x and best.nit == last.nit


def test_callbacks_as_scipy_calls_them():
    points, results = [], []

    def by_name(intermediate_result):
        results.append(intermediate_result)
        if len(results) == 3:
            raise StopIteration

    one = fastopt.minimize(bowl, np.zeros(3), jac=bowl_gradient, callback=points.append, options={"maxiter": 4})
    assert len(points) == 4 and points[-1].tobytes() == one.x.tobytes() and points[0] is not points[1]
    two = optimize.minimize(
        bowl, np.zeros(3), jac=bowl_gradient, callback=by_name, method=fastopt.minimize, options={"lr": 0.001}
    )
    assert two.nit == 3 and two.status == 99 and not two.success
    assert results[-1].x.tobytes() == two.x.tobytes() == points[2].tobytes() and results[-1].fun == two.fun


def test_a_callback_without_a_signature():
    assert fastopt.minimize(bowl, np.zeros(3), callback=max, options={"maxiter": 1}).nit == 1


def test_random_numbers_are_the_same_in_value_gradient_and_differences():
    seen = []

    def fun(x, rng, scale):
        noise = rng.standard_normal(3)
        seen.append(noise[0])
        return scale * bowl(x + noise)

    result = fastopt.minimize(fun, np.zeros(3), args=(2.0,), options={"rng": 0, "lr": 0.1, "maxiter": 400})
    assert len(set(seen)) == result.nit + 1 and len(seen) == result.nfev == 4 * len(set(seen))
    np.testing.assert_allclose(result.x, TARGET, atol=0.5)
    again = fastopt.minimize(fun, np.zeros(3), args=(2.0,), options={"rng": 0, "lr": 0.1, "maxiter": 400})
    assert again.x.tobytes() == result.x.tobytes()
    rng = np.random.default_rng(0)
    fastopt.minimize(fun, np.zeros(3), args=(2.0,), options={"rng": rng, "maxiter": 1})
    assert rng.bit_generator.state != np.random.default_rng(0).bit_generator.state


def test_batches_are_taken_once_each():
    data = np.random.default_rng(0).standard_normal((50, 8, 3))
    batches = list(data)

    def fun(x, batch):
        return float(((batch @ (x - TARGET)) ** 2).mean()), 2 * batch.T @ (batch @ (x - TARGET)) / len(batch)

    points = []
    result = fastopt.minimize(
        fun, np.zeros(3), jac=True, callback=points.append, options={"batches": batches, "lr": 0.1}
    )
    x, optimizer = np.zeros(3), reference.Adam(lr=0.1)
    for batch in batches:
        optimizer.update(x, fun(x, batch)[1])
    assert result.x.tobytes() == x.tobytes() == points[-1].tobytes()
    assert result.success and result.nit == result.nfev == len(points) == 50
    assert result.message == "All batches were used."
    endless = fastopt.minimize(
        fun, np.zeros(3), jac=True, options={"batches": itertools.cycle(batches), "lr": 0.1, "maxiter": 60}
    )
    assert endless.nit == 60 and not endless.success
    with pytest.raises(ValueError, match="batches is empty"):
        fastopt.minimize(fun, np.zeros(3), jac=True, options={"batches": []})


@pytest.mark.parametrize("optimizer", [fastopt.ScheduleFreeSGD(lr=0.1), Adam(lr=0.1, averaging=fastopt.SWA(start=3))])
def test_an_average_is_what_is_returned(optimizer):
    result = fastopt.minimize(bowl, np.zeros(3), jac=bowl_gradient, method=optimizer, options={"maxiter": 9})
    x, exact = np.zeros(3), type(optimizer)(**{"lr": 0.1, "averaging": optimizer.averaging})
    for _ in range(9):
        exact.update(x, bowl_gradient(x))
    assert result.x.tobytes() == exact.averaged(x).tobytes() != x.tobytes()
    assert result.fun == bowl(result.x) and result.jac.tobytes() == bowl_gradient(result.x).tobytes()


@pytest.mark.parametrize(("value", "slope"), [(np.nan, 1.0), (1.0, np.nan), (1.0, np.inf)])
def test_values_that_are_no_numbers_stop_before_they_are_written(value, slope):
    calls = itertools.count()

    def fun(x):
        return (1.0, 1.0) if next(calls) < 2 else (value, slope)

    result = fastopt.minimize(fun, 1.0, jac=True)
    assert (result.nit, result.status, result.success) == (2, 3, False) and np.isfinite(result.x).all()
    assert "NaN" in result.message


def test_nonfinite_gradients_are_the_optimizers_affair_if_it_says_so():
    calls = itertools.count()

    def fun(x):
        return bowl(x), bowl_gradient(x) * (np.nan if next(calls) == 3 else 1.0)

    skipping = Adam(lr=0.1, on_nonfinite="skip")
    result = fastopt.minimize(fun, np.zeros(3), jac=True, method=skipping, options={"maxiter": 8})
    assert result.x.tobytes() == steps_of_the_reference(7).tobytes() and result.optimizer.skipped == 1
    with pytest.raises(FloatingPointError):
        fastopt.minimize(lambda x: (1.0, np.full(3, np.nan)), np.zeros(3), jac=True, method=Adam(on_nonfinite="raise"))


def test_progress_is_shown_on_request(capsys):
    fastopt.minimize(bowl, np.zeros(3), jac=bowl_gradient, options={"maxiter": 3})
    assert capsys.readouterr() == ("", "")
    result = fastopt.minimize(bowl, np.zeros(3), jac=bowl_gradient, options={"maxiter": 3, "disp": True})
    shown = capsys.readouterr().out
    assert "Maximum number of iterations has been exceeded.\n" in shown and "Iterations: 3" in shown
    assert f"Current function value: {result.fun:f}" in shown
