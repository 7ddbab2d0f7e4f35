"""`fastopt.minimize`: an optimizer behind the signature of `scipy.optimize.minimize`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from fastopt import array_checks
from fastopt.minimization.bounds import is_within, limits_of, project
from fastopt.minimization.descent import Descent
from fastopt.minimization.objective import Objective
from fastopt.minimization.options import Options
from fastopt.minimization.points import Form, is_scalar
from fastopt.minimization.problems import ProblemDescent
from fastopt.optimizer import Optimizer

if TYPE_CHECKING:
    from scipy.optimize import OptimizeResult


def minimize(
    fun: Callable[..., Any],
    x0: Any,
    args: Any = (),
    jac: Any = None,
    method: str | Optimizer = "adam",
    bounds: Any = None,
    tol: float | None = None,
    callback: Callable[..., Any] | None = None,
    options: Mapping[str, Any] | None = None,
    *,
    hess: Any = None,
    hessp: Any = None,
    constraints: Any = (),
    **method_options: Any,
) -> OptimizeResult:
    """Minimizes a function with an optimizer of fastopt; takes and returns what `scipy.optimize.minimize` does.

    It is also a method of SciPy's: `scipy.optimize.minimize(fun, x0, jac=True, method=fastopt.minimize,
    options={"optimizer": Adam(lr=0.1)})`.

    Parameters
    ----------
    fun : function
        `fun(x, *args)` returns the value, one number. With the option `rng` it is `fun(x, rng, *args)`, with `batches`
        `fun(x, batch, *args)`. It gets a copy of x and may keep it.
    x0 : array, number, list of numbers, or container of arrays
        The point to start from; it is not written to. A list of numbers is one array, as in SciPy; otherwise what
        `Optimizer.update` takes, such as nested dicts and lists, in which numbers become 0-d arrays. Integers become
        float64; float32, float64, complex64 and complex128 stay what they are.
    args : tuple
        More arguments of `fun` and `jac`.
    jac : True, function, "2-point" or "3-point", optional
        True: `fun` returns value and gradient. A function: `jac(x, *args)`, with rng or batch as `fun`, returns the
        gradient in the form of x; `autograd.grad(fun)` is one. Of complex x it is the derivative by the real part plus
        i times that by the imaginary part, the conjugate of autograd's. Otherwise finite differences, with SciPy's
        steps: "2-point", the default, evaluates `fun` once for each number and step, "3-point" twice, and both twice as
        often for complex ones.
    method : str or Optimizer
        The name of an optimizer, in any case, whose settings are among the options; or an optimizer. The optimizer is
        copied, with its state if it has any, and not changed. With `batch_axis=0` x0 is (problems, ...), `fun`
        returns the value of each, (problems,), and `jac` is True or a function; each problem stops by itself.
    bounds : scipy.optimize.Bounds, sequence of pairs, or dict of pairs, optional
        (low, high) for each element of x0, or for a container {path: (low, high)}, such as {"enc.1.W": (0, None)}; None
        is no bound. Each step is followed by the projection onto the bounds; x0 beyond them is projected first, with a
        warning.
    tol : float, optional
        Sets gtol and ftol.
    callback : function, optional
        Called after each step, as SciPy does: `callback(x)`, or `callback(intermediate_result)`, by that name, with
        `x` and `fun`. Raising StopIteration ends the minimization.
    options : dict, optional
        - **optimizer**: an optimizer, instead of `method`;
        - **maxiter**: the largest number of steps; 10,000 by default, with `batches` their number;
        - **gtol**: stop once no element of the gradient is larger, apart from those held by bounds; 1e-5, or None
          (never) where `fun` is stochastic;
        - **patience**: stop after so many steps without progress of the smoothed value; None: never;
        - **ftol**: what counts as progress, relative to the value or to 1; 1e-9;
        - **smoothing**: the decay rate of the running mean of values; 0, or 0.9 where `fun` is stochastic;
        - **keep_best**: whether to return the point of the least smoothed value rather than the last one;
        - **rng**: a seed or a NumPy generator; value, gradient and differences of a step see the same random numbers;
        - **batches**: an iterable, of which each step takes one;
        - **disp**: whether to show a progress bar, where rich is installed, and print how it ended;
        - settings of the optimizer that `method` names, such as lr.
    hess, hessp, constraints
        Arguments that SciPy hands to its methods: Hessians are ignored with a warning, constraints are refused.

    Returns
    -------
    scipy.optimize.OptimizeResult
        `x`, in the form of x0; `fun` and `jac`, value and gradient there (on the last batch: before the last step);
        `nit`, `nfev`, `njev`; `success`, `status`, `message`; `optimizer`, the copy with its state, which continues as
        `method` of another call. With `batch_axis=0`, `fun` and `status` have shape (problems,). Where the optimizer
        averages (`averaging`, schedule-free) x is the average.

    Raises
    ------
    ImportError
        without SciPy, whose result this is: pip install "fastopt[scipy]".
    TypeError, ValueError, KeyError
        for an argument that is none of the above, before `fun` is called; and as `Optimizer.update` does.

    Examples
    --------
    >>> import numpy as np
    >>> import fastopt
    >>> def rosenbrock(x):
    ...     return (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2
    >>> result = fastopt.minimize(rosenbrock, [-1.5, 2.0], options={"lr": 0.05})
    >>> result.x.round(2), result.success
    (array([1., 1.]), True)
    """
    try:
        from scipy.optimize import OptimizeResult
    except ImportError:
        raise ImportError(
            "fastopt.minimize returns SciPy's OptimizeResult, and SciPy is not installed: pip install 'fastopt[scipy]'"
        ) from None
    if any(given is not None for given in (hess, hessp)):
        warnings.warn("fastopt.minimize does not use Hessian information (hess, hessp)", RuntimeWarning, stacklevel=2)
    if constraints is not None and (not hasattr(constraints, "__len__") or len(constraints)):
        raise ValueError("minimize: constraints are not supported; hand in bounds, or add a penalty to fun")
    chosen = Options.of({**(options or {}), **method_options}, method, tol)
    vector = np.atleast_1d(x0) if isinstance(x0, np.ndarray) or is_scalar(x0) else x0
    form = Form("minimize", vector, dtypes=array_checks.PARAMETER_DTYPES)
    x = form.start()
    limits = limits_of(bounds, form, x)
    objective = Objective(fun, jac, args, form, limits, chosen.rng, chosen.batches)
    if not is_within(form.leaves(x), limits):
        warnings.warn("fastopt.minimize: x0 is beyond the bounds and was projected", RuntimeWarning, stacklevel=2)
        project(form.leaves(x), limits)
    kind = Descent if chosen.optimizer.batch_axis is None else ProblemDescent
    descent = kind(objective, form, x, limits, chosen, callback, OptimizeResult)
    if not chosen.disp:
        return descent.run()
    from fastopt.minimization.display import shown  # which needs rich, or a moment to find that it is not there

    return shown(descent)
