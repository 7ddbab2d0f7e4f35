"""Gradients of a few rows of a large table, and every check of one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(eq=False, slots=True)
class Rows:
    """The gradient of a few rows of a parameter of two or more dimensions, such as an embedding: all others are zero.

    Takes the place of an array in `grads`: `{"embedding": Rows(indices, values), "W": array}`. A step reads and writes
    only the named rows of the parameter and its state; all others stay as they are. A row that is named several times
    takes one step, with the sum of its values in the order given. So named rows get the dense step, and the others miss
    what it does without a gradient (running means that decay, velocity, weight decay), as with PyTorch's `SparseAdam`.

    `SGD`, `Momentum`, `AdaGrad`, `RMSProp`, `Adam`, `AdamW` and rules of `fastopt.rule` take it; for SGD and AdaGrad
    without weight decay the step equals that of the dense gradient bit for bit. Weight decay acts on the named rows
    only; norms for clipping and reports are those of the sums. Averages of the weights cover all rows, so with
    `averaging` a step reads and writes the whole table and its average too; `lookahead` refuses rows.

    Parameters
    ----------
    indices : integer array of shape (n,)
        The rows, from 0 on, in any order, each as often as you like. Negative ones are refused.
    values : array of shape (n, ...), that of `parameter[indices]`
        The gradient of each. Another real dtype than the parameter's is converted first, before they are summed.
    exact : bool, default False
        Whether the other rows make the dense step too, with a gradient of zero: when they are next updated, all the
        steps that they skipped at once, in closed form, up to rounding. Until then they are out of date: call
        `optimizer.catch_up(params)` before using or saving parameters. Momentum's velocity carries on as a geometric
        series, RMSProp's mean decays, and decoupled weight decay acts; for SGD and AdaGrad there is only that. Adam
        and AdamW, whose p moves by a sum of m / (sqrt(v) + eps), have no closed form and refuse it, as do rules of
        your own, of which none is known, and weight decay that is not decoupled.

    Both arrays are checked at the step, and never written.

    Examples
    --------
    >>> import numpy as np
    >>> from fastopt import SGD
    >>> params = {"embedding": np.ones((4, 2))}
    >>> grads = {"embedding": Rows(np.array([2, 0, 2]), np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]))}
    >>> SGD(lr=0.5).update(params, grads)
    >>> params["embedding"]
    array([[-0.5, -1. ],
           [ 1. ,  1. ],
           [-2. , -3. ],
           [ 1. ,  1. ]])

    References
    ----------
    PyTorch, `torch.optim.SparseAdam` ("lazy" Adam), https://docs.pytorch.org/docs/stable/generated/torch.optim.SparseAdam.html
    """

    indices: Any
    values: Any
    exact: bool = False


# -- checks -----------------------------------------------------------------------------------------------------------


def unknown_form(owner: str, name: str, choices: Iterable[str]) -> str:
    return (
        f"{owner}: the gradient of {name} is Rows, but the rule has no form in which some rows only take a step; hand "
        f"in an array, or use one of the rules {', '.join(choices)}, or one of your own by fastopt.rule"
    )


def table(owner: str, name: str, value: Any, direct: bool) -> None:
    """A parameter that can be updated by rows; `direct` is whether it and its state lie in C order."""
    if not isinstance(value, np.ndarray) or value.ndim < 2:
        found = f"of shape {value.shape}" if isinstance(value, np.ndarray) else f"of type {type(value).__name__}"
        raise ValueError(
            f"{owner}: the gradient of {name} is Rows, but {name} is {found}, expected an array of two or more "
            "dimensions; hand in an array as its gradient, or give the parameter the shape (rows, 1)"
        )
    if not direct:
        raise ValueError(
            f"{owner}: the gradient of {name} is Rows, for which each row of {name} and of its state must lie in one "
            f"piece; make it so once, before the first step: np.ascontiguousarray({name})"
        )


def copied(owner: str, name: str) -> str:
    return (
        f"{owner}: the gradient of {name} is Rows, which a step writes in place, but params hands out another array "
        "for it at each access; make a dict of it once, params = dict(params), and hand that in"
    )


def centralized(owner: str, name: str) -> str:
    return (
        f"{owner}: the gradient of {name} is Rows, but it is to be centralized, which takes the mean over all rows; "
        f"hand in an array, or leave it out by a group: groups={{...: {{'centralize': False}}}}"
    )


def no_closed_form(owner: str, name: str, choices: Iterable[str]) -> str:
    return (
        f"{owner}: {name} is Rows with exact=True, but no closed form of steps without a gradient is known for this "
        f"rule; hand in Rows without it, an array with zeros elsewhere, or use one of the rules {', '.join(choices)}"
    )


def coupled_decay(owner: str) -> str:
    return (
        f"{owner}: Rows with exact=True need decoupled weight decay, as steps of an L2 penalty have no closed form; "
        "set decoupled=True or weight_decay=0, for a group if you like"
    )


def with_lookahead(owner: str) -> str:
    return (
        f"{owner}: gradients that are Rows leave most of an array alone, and Lookahead moves all of it; set "
        "lookahead to None, or give dense gradients"
    )


def skipped_with_average(owner: str) -> str:
    return (
        f"{owner}: gradients that are Rows with exact=True let rows skip steps, and averages are of weights that do "
        "not; hand in Rows without it, after catch_up(params), or set averaging to None"
    )


def tied(owner: str, name: str) -> str:
    return f"{owner}: the gradient of {name} is Rows with exact=True, but the array is there under another key too"


def other_table(owner: str, name: str, found: int, expected: int) -> str:
    return (
        f"{owner}: {name} has {found} rows, but had {expected} when some of them began to skip steps; use a new "
        "optimizer"
    )


def skipped_is_missing(owner: str, name: str) -> str:
    return f"{owner}: {name} is missing, of which rows have skipped steps; hand in what update() was given"


def arrays(owner: str, name: str, rows: Rows, parameter_name: str, target: Array) -> tuple[Array, Array]:
    """Indices as int64 and values in the dtype of the parameter, both in C order; their range is not checked yet."""
    indices, values = rows.indices, rows.values
    for part, array in (("indices", indices), ("values", values)):
        if not isinstance(array, np.ndarray):
            raise TypeError(
                f"{owner}: {name}.{part} is of type {type(array).__name__}, expected a NumPy array; convert it: "
                "np.asarray"
            )
        if isinstance(array, np.ma.MaskedArray):
            raise TypeError(
                f"{owner}: {name}.{part} is a masked array, expected a plain one, as a step would ignore the mask; "
                "leave out what is masked, or hand in its .data"
            )
    if indices.dtype.kind not in "iu":
        raise TypeError(
            f"{owner}: {name}.indices has dtype {indices.dtype}, expected integers, the numbers of rows; convert them: "
            "indices.astype(np.int64), or np.flatnonzero(mask) for a mask"
        )
    if indices.ndim != 1:
        raise ValueError(
            f"{owner}: {name}.indices has shape {indices.shape}, expected one dimension; flatten them: "
            "indices.ravel(), and the values likewise"
        )
    if not np.can_cast(values.dtype, target.dtype, casting="same_kind"):
        raise TypeError(
            f"{owner}: {name}.values has dtype {values.dtype}, which does not convert to {target.dtype}, the dtype of "
            f"{parameter_name}; hand in real numbers"
        )
    expected = (len(indices), *target.shape[1:])
    if values.shape != expected:
        raise ValueError(
            f"{owner}: {name}.values has shape {values.shape}, expected {expected}: for each of {len(indices)} indices "
            f"a row of {parameter_name}, whose shape is {target.shape}"
        )
    # Plain arrays even of subclasses, of which these may be.
    return np.asarray(indices, np.int64, order="C"), np.asarray(values, target.dtype, order="C")


def out_of_range(owner: str, name: str, rows: Rows, place: int, parameter_name: str, count: int) -> str:
    return (
        f"{owner}: {name}.indices has {rows.indices[place]} at {place}, but {parameter_name} has {count} rows, counted "
        "from 0; correct it (negative indices do not count from the end)"
    )
