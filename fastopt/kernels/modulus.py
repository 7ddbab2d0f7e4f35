"""Squares in a formula that may be those of complex numbers, for `modulus=True`, and formulas on pairs of real numbers.

A formula steps real numbers, and a complex one is a pair of them. Where second moments are to be those of |z|^2 the
square of one part needs the other: `in_pairs` makes of a formula one that steps both parts side by side.
"""

from __future__ import annotations

import ast
import copy
import inspect
import math
import textwrap
import types
from collections.abc import Callable
from functools import cache
from typing import Any

from fastopt.kernels.intrinsics import times, times_itself

LANES = 2
"""The numbers of a pair."""

COMPLEX = {"float32": "complex64", "float64": "complex128"}
"""The dtype of pairs of numbers of a dtype."""


def squared(x):
    """The square of a number; of a complex one, with `modulus=True`, `|x|^2`."""
    return x * x


def product(x, y):
    """The product of two numbers; of complex ones, with `modulus=True`, the real part of conj(x) y."""
    return x * y


def magnitude(x):
    """The magnitude of a number; of a complex one, with `modulus=True`, `|x|`."""
    return abs(x)


def clipped(x, most):
    """A number clipped to [-most, most]; a complex one, with `modulus=True`, shortened to `|x| = most`."""
    return -most if x < -most else most if x > most else x


def squared_of_pair(x, other):
    return x * x + other * other


def product_of_pair(x, y, other_x, other_y):
    return x * y + other_x * other_y


def magnitude_of_pair(x, other):
    """Without squares that overflow or vanish; the order of the two does not matter."""
    x, other = abs(x), abs(other)
    larger, smaller = x if x > other else other, other if x > other else x
    ratio, one = smaller / larger, larger / larger
    # Where that is no one, of zeros, infinity or NaN, the sum is right.
    return larger * math.sqrt(one + ratio * ratio) if one == one else larger + smaller


def clipped_of_pair(x, most, other, other_most):
    size = magnitude_of_pair(x, other)
    return x * (most / size) if size > most else x


OF_PAIRS: dict[Callable[..., Any], Callable[..., Any]] = {
    squared: squared_of_pair,
    product: product_of_pair,
    magnitude: magnitude_of_pair,
    clipped: clipped_of_pair,
}
"""By the function of a formula the one of a pair, which takes the arguments of a part, then those of the other."""


COMPILED: dict[Any, Any] = {squared: times_itself, product: times}
"""Stands for such a function in compiled formulas; it compiles sooner."""


def names_in(formula: Callable[..., Any]) -> dict[str, Callable[..., Any]]:
    """The functions of pairs by the names that a formula has for those of `OF_PAIRS`."""
    called = inspect.getclosurevars(formula).globals
    return {
        name: OF_PAIRS[value]
        for name, value in called.items()
        if isinstance(value, types.FunctionType) and value in OF_PAIRS
    }


@cache
def in_pairs(function: Callable[..., Any], count: int) -> Callable[..., Any]:
    """A formula or transform that takes and returns pairs of numbers, from one on numbers.

    Every statement is there for both parts, so that what one needs of the other is at hand.

    count : of its arguments so many, the first ones, are pairs; the others are numbers
    """
    tree = _tree(function)
    arguments = [argument.arg for argument in tree.args.args]
    rest = tree.args.vararg
    stored = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    paired = {*arguments[:count], *stored}
    names, suffix = {*function.__code__.co_varnames}, "_other"
    while any(name + suffix in names for name in names):
        suffix += "_"
    squares = names_in(function)
    own, other = _Lane(paired, squares, ""), _Lane(paired, squares, suffix)
    own.opposite, other.opposite = other, own
    body: list[str] = []
    for name in arguments:
        if name in paired:
            start = f"{name}, {name}" if name in arguments[count:] else name
            body.append(f"{name}, {name}{suffix} = {start}")
    for statement in tree.body:
        body += _both(function, statement, own, other)
    head = ", ".join([*arguments, *([f"*{rest.arg}"] if rest else [])])
    lines = [f"def {tree.name}({head}):", *(f"    {line}" for line in body)]
    outside = inspect.getclosurevars(function).nonlocals
    names_there: dict[str, Any] = {**function.__globals__, **outside, **squares}
    exec(compile("\n".join(lines), f"<{tree.name} on pairs>", "exec"), names_there)
    made: Callable[..., Any] = names_there[tree.name]
    return made


def _tree(function: Callable[..., Any]) -> ast.FunctionDef:
    """The syntax tree of a function, whose source must be at hand, and be what it was compiled from."""
    problem, code = "its source cannot be read", function.__code__
    try:
        lines, number = inspect.findsource(function)
        if code.co_code in _codes(compile("".join(lines), "<source>", "exec", dont_inherit=True), code.co_name):
            tree = ast.parse(textwrap.dedent("".join(inspect.getblock(lines[number:])))).body[0]
            if isinstance(tree, ast.FunctionDef):
                return tree
        problem = "its source has changed since it was loaded"
    except (OSError, SyntaxError):
        pass
    raise TypeError(
        f"{function.__name__}: modulus=True needs the source of the formula, to make one of complex numbers from it, "
        f"but {problem}; define it in a file or a notebook, which a frozen program takes along, or leave modulus out"
    )


def _codes(code: types.CodeType, name: str) -> set[bytes]:
    """The byte code of the functions of a name within a module's."""
    inside = [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
    return {each.co_code for each in inside if each.co_name == name}.union(*(_codes(each, name) for each in inside))


def _both(function: Callable[..., Any], statement: ast.stmt, own: _Lane, other: _Lane) -> list[str]:
    """The lines of a statement for both parts."""
    match statement:
        case ast.Expr(value=ast.Constant()):  # the docstring
            return []
        case ast.Assign(targets=targets, value=value):
            results = f"{own.text(value)}, {other.text(value)}"
            return [f"{own.text(target)}, {other.text(target)} = {results}" for target in targets]
        case ast.AugAssign(target=ast.Name() as name, op=op, value=value):
            return _both(function, ast.Assign([name], ast.BinOp(name, op, value)), own, other)
        case ast.Return(value=ast.Tuple(elts=values)):
            return [f"return {''.join(f'({own.text(value)}, {other.text(value)}), ' for value in values)}"]
    line = function.__code__.co_firstlineno + statement.lineno - 1
    raise TypeError(
        f"{function.__name__}: line {line}, `{ast.unparse(statement).splitlines()[0]}`, cannot go for real and "
        "imaginary part side by side, which modulus=True needs; write it with `a if c else b`, or leave modulus out"
    )


class _Lane(ast.NodeTransformer):
    """Turns an expression into that of one part of a pair."""

    def __init__(self, paired: set[str], squares: dict[str, Any], suffix: str) -> None:
        self.paired, self.squares, self.suffix = paired, squares, suffix
        self.opposite = self

    def text(self, node: ast.AST) -> str:
        return ast.unparse(self.visit(copy.deepcopy(node)))

    def visit_Name(self, node: ast.Name) -> ast.Name:
        return ast.Name(node.id + self.suffix if node.id in self.paired else node.id, ast.Load())

    def visit_Call(self, node: ast.Call) -> ast.Call:
        more = []
        if isinstance(node.func, ast.Name) and node.func.id in self.squares:
            more = [self.opposite.visit(copy.deepcopy(argument)) for argument in node.args]
        return ast.Call(node.func, [self.visit(argument) for argument in node.args] + more, [])
