"""Every check of a formula of one's own, and every error text: in terms of the formula, not of what compiles it."""

from __future__ import annotations

import ast
import inspect
import keyword
import linecache
import numbers
import re
import textwrap
import types
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from fastopt.kernels.intrinsics import RESULTS
from fastopt.kernels.modulus import OF_PAIRS

Formula = Callable[..., Any]

KNOWN = (
    "a formula knows its arguments, names that it assigns, + - * / // % **, comparisons, `a if c else b`, `if`, abs, "
    "min, max, the functions of math and of NumPy that work on numbers, and squared, product, magnitude and clipped of "
    "fastopt.kernels"
)

# What a formula may be made of, besides names, calls, attributes and tuples, which are looked at one by one.
ALLOWED = (
    *(ast.Assign, ast.AugAssign, ast.Return, ast.If),
    *(ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.IfExp, ast.expr_context),
    *(ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow, ast.UAdd, ast.USub),
    *(ast.Not, ast.And, ast.Or, ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Eq, ast.NotEq),
)


def check(formula: Any, state: tuple[str, ...], settings: Mapping[str, Any], has_scalars: bool) -> None:
    """Raises if an optimizer cannot be made of a formula; compiles nothing."""
    if not isinstance(formula, types.FunctionType) or formula.__name__ == "<lambda>":
        raise TypeError(
            f"fastopt.rule: expected a function made with def, got {_described(formula)}; write a plain one with def, "
            "without other decorators"
        )
    _arguments(formula, state, settings, has_scalars)
    try:
        source = textwrap.dedent(inspect.getsource(formula))
    except OSError:  # typed in at a prompt: its lines cannot be read, and what is left is found when it is compiled
        for value in formula.__code__.co_consts:
            if _is_number(value):
                raise TypeError(f"{formula.__name__}: {_number(value)}") from None
        return
    tree = ast.parse(source).body[0]
    if not isinstance(tree, ast.FunctionDef):
        raise TypeError(f"{formula.__name__}: expected a function made with def, got one made with async def")
    _Reader(formula, state).read(tree)


def slots(names: Any) -> tuple[str, ...]:
    """The names of the state slots as a tuple."""
    listed = tuple(names) if isinstance(names, Iterable) and not isinstance(names, str) else (None,)
    if not all(isinstance(name, str) and name.isidentifier() and not keyword.iskeyword(name) for name in listed):
        example = names if isinstance(names, str) and names.isidentifier() else "v"
        raise TypeError(
            f"fastopt.rule: state must be a tuple of names, got {names!r}; write state=({example!r},) for one, and "
            "leave it out for none"
        )
    if len({"p", "g", *listed}) != 2 + len(listed):
        raise ValueError(
            f"fastopt.rule: state must be names other than one another's and than p and g, got {_list(listed)}; "
            "rename one"
        )
    return listed


def starts(values: Any) -> dict[str, Any]:
    """Return the initial values of the state by slot; the values are not checked yet."""
    if values is not None and not isinstance(values, Mapping):
        raise TypeError(f"fastopt.rule: start must be a dict such as {{'v': 0.1}}, got {_described(values)}")
    return dict(values or {})


def clash(owner: str, name: str, kind: str, taken_by: str) -> str:
    return f"{owner}: the {kind} {name} has the name of {taken_by}; choose another"


def taken_rule(name: str) -> str:
    return (
        f"{name}: fastopt has a rule {name.lower()!r} of its own, by whose name files know it; choose another, such as "
        f"my_{name.lower()}"
    )


def no_slot(owner: str, slot: Any, state: tuple[str, ...]) -> str:
    return f"{owner}: start has {slot!r}, but its state is {_list(state)}"


def number(owner: str, name: str, value: Any) -> None:
    """Check that an argument of the decorator is a finite number; schedules are for the optimizers that are made."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{owner}: {name} must be a number, got {_described(value)}")
    if not np.isfinite(_as_float(value)):
        raise ValueError(f"{owner}: {name} must be a finite number, got {value!r:.60}")


def _as_float(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:
        return float("inf")


def callable_with(owner: str, scalars: Any, settings: Mapping[str, Any]) -> None:
    """`scalars` takes the step and all settings."""
    call = f"scalars({', '.join(('step', *settings))})"
    try:
        inspect.signature(scalars).bind(1, **settings)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{owner}: scalars must be a function, called as {call}: {error}") from None


def scalar_values(owner: str, values: Any, names: tuple[str, ...]) -> tuple[float, ...]:
    """Return the result of `scalars` as floats, as many as the formula takes."""
    if not isinstance(values, tuple) or len(values) != len(names):
        found = f"{len(values)} values" if isinstance(values, tuple) else _described(values)
        raise TypeError(
            f"{owner}: scalars must return a tuple of {len(names)} numbers, those that the formula calls "
            f"{_list(names)}, got {found}"
        )
    for name, value in zip(names, values, strict=True):
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise TypeError(f"{owner}: scalars must return numbers, got {_described(value)} for {name}")
    return tuple([_as_float(value) for value in values])


def not_compiled(formula: Formula, state: tuple[str, ...], error: Exception) -> str:
    """The text for what the checks above let through; numba's own words are the cause of the error."""
    if RESULTS in str(error):
        return (
            f"{formula.__name__}: its formula must return a tuple of the new {_list(('p', *state))}, all of the dtype "
            "of the arrays; a function such as math.floor makes an integer of a number (np.floor does not), a "
            "comparison makes true or false"
        )
    code = formula.__code__
    lines = range(code.co_firstlineno, max(line or 0 for *_, line in code.co_lines()) + 1)
    line_numbers = [
        int(line) for line in re.findall(rf'"?{re.escape(Path(code.co_filename).name)}"?, line (\d+)', str(error))
    ]
    line_numbers += [int(line) for line in re.findall(rf"{re.escape(code.co_filename)} \((\d+)\)", str(error))]
    line = next((line for line in line_numbers if line in lines), None)
    where = "its formula" if line is None else _line(code.co_filename, line)
    return (
        f"{formula.__name__}: {where} cannot be compiled: a function in it has no compiled form, or not with these "
        f"arguments, or a name stands for a number here and for something else there; {KNOWN}"
    )


def _arguments(formula: Formula, state: tuple[str, ...], settings: Mapping[str, Any], has_scalars: bool) -> None:
    """The formula takes p, g, the state and the scalars, in this order."""
    owner, arguments = formula.__name__, inspect.signature(formula).parameters
    for name, argument in arguments.items():
        if argument.kind != argument.POSITIONAL_OR_KEYWORD:
            raise TypeError(f"{owner}: its argument {argument} must be a plain one; write them as p, g, state, scalars")
        if argument.default is not argument.empty:
            raise TypeError(
                f"{owner}: the default of {name} belongs in the decorator: @fastopt.rule({name}={argument.default!r})"
            )
    names, first = tuple(arguments), ("p", "g", *state)
    if names[: len(first)] != first:
        raise TypeError(
            f"{owner}: its arguments must be {_list(first)} and then its scalars, got {_list(names)}; state=(...) "
            "names the state in the order of the arguments"
        )
    for name in names[len(first) :]:
        if not has_scalars and name not in settings:
            raise TypeError(
                f"{owner}: its argument {name} has no value; give it one, @fastopt.rule({name}=...), or name it in "
                "state=(...) if it is state"
            )
    for name in settings:
        if not has_scalars and name not in names[len(first) :]:
            raise TypeError(
                f"{owner}: {name} is given a value, but is no scalar of the formula, which has "
                f"{_list(names[len(first) :])}; remove it, or compute with it in scalars=..."
            )


class _Reader(ast.NodeVisitor):
    """Walks through a formula and raises at the first thing that cannot be compiled as it is meant."""

    def __init__(self, formula: Any, state: tuple[str, ...]) -> None:
        self.owner, self.code = formula.__name__, formula.__code__
        self.results = ("p", *state)
        self.defined = {*self.code.co_varnames[: self.code.co_argcount]}  # names that have a value here
        variables = inspect.getclosurevars(formula)
        self.outside = {**variables.builtins, **variables.globals, **variables.nonlocals}

    def read(self, tree: ast.FunctionDef) -> None:
        body = tree.body[1:] if ast.get_docstring(tree) is not None else tree.body
        for statement in body:
            self.visit(statement)
        if not _always_returns(body):
            self.refuse(tree.body[-1], f"the formula can end without `return {_list(self.results)}`")

    def generic_visit(self, node: ast.AST) -> None:
        operators = [part for part in ast.iter_child_nodes(node) if not hasattr(part, "lineno")]
        if not all(isinstance(part, ALLOWED) for part in (node, *operators)):
            self.refuse(node, f"`{_short(node)}` cannot stand in a formula; {KNOWN}")
        super().generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if _is_number(node.value):
            self.refuse(node, _number(node.value))
        self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Store):
            self.defined.add(node.id)
        elif node.id not in self.defined:
            self.refuse(node, self.stranger(node.id))

    def visit_Assign(self, node: ast.Assign) -> None:
        self.visit(node.value)
        for target in node.targets:
            self.visit(target)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        if isinstance(node.target, ast.Name) and node.target.id not in self.defined:
            self.refuse(node, self.stranger(node.target.id))
        self.generic_visit(node)

    def visit_If(self, node: ast.If) -> None:
        self.visit(node.test)
        before, after = self.defined, []
        for branch in (node.body, node.orelse):
            self.defined = set(before)
            for statement in branch:
                self.visit(statement)
            if not _always_returns(branch):
                after.append(self.defined)
        self.defined = set.intersection(*after) if after else before

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self.refuse(node, f"`{_short(node)}` cannot stand in a formula but as a function that is called; {KNOWN}")

    def visit_Tuple(self, node: ast.Tuple) -> None:
        for element in node.elts:
            self.visit(element)

    def visit_Return(self, node: ast.Return) -> None:
        count = len(node.value.elts) if isinstance(node.value, ast.Tuple) else 1
        if not isinstance(node.value, ast.Tuple) or count != len(self.results):
            comma = "," if len(self.results) == 1 else ""
            found = "nothing" if node.value is None else f"{count} value{'' if count == 1 else 's'}"
            if count == len(self.results):
                found = "a value that is no tuple"
            self.refuse(
                node,
                f"the formula returns {found}, expected the new {_list(self.results)}: "
                f"`return {_list(self.results)}{comma}`",
            )
        self.visit(node.value)

    def visit_Call(self, node: ast.Call) -> None:
        name, function, is_known = ast.unparse(node.func), None, False
        if isinstance(node.func, ast.Name) and node.func.id not in self.code.co_varnames:
            if node.func.id not in self.outside:
                self.refuse(node, self.stranger(node.func.id))
            function = self.outside[node.func.id]
            is_known = isinstance(function, types.FunctionType) and function in OF_PAIRS
            if is_known and node.func.id in self.code.co_freevars:
                self.refuse(node, f"{name} is imported within a function; import it at the top of the file")
        elif isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name):
            module = self.outside.get(node.func.value.id)
            function = getattr(module, node.func.attr, None) if isinstance(module, types.ModuleType) else None
        if not (is_known or _is_arithmetic(function)):
            self.refuse(node, f"it calls {name}{_instead(function)}; {KNOWN}")
        if node.keywords:
            self.refuse(node, f"`{_short(node)}` names an argument; write the value alone")
        for argument in node.args:
            self.visit(argument)
        count = len(node.args)
        if not _takes(function, count):
            self.refuse(node, f"{name} does not take {count} argument{'' if count == 1 else 's'}")

    def stranger(self, name: str) -> str:
        if name in self.code.co_varnames:
            return f"{name} has no value here, or not in every branch before; give it one first"
        if name not in self.outside:
            return f"{name} is neither an argument nor given a value in the formula"
        return (
            f"{name} is {_described(self.outside[name])} from outside of the formula; hand in numbers as arguments "
            f"with a value, such as @fastopt.rule(..., {name}=...)"
        )

    def refuse(self, node: Any, words: str) -> NoReturn:
        number = self.code.co_firstlineno + getattr(node, "lineno", 1) - 1
        raise TypeError(f"{self.owner}: {_line(self.code.co_filename, number)}: {words}")


def _always_returns(body: list[ast.stmt]) -> bool:
    last = body[-1] if body else None
    if isinstance(last, ast.If):
        return _always_returns(last.body) and _always_returns(last.orelse)
    return isinstance(last, ast.Return)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number(value: Any) -> str:
    return (
        f"the number {value!r} in a formula would make float32 arithmetic float64; make it an argument with a value, "
        f"such as @fastopt.rule(..., factor={value!r}), and write g * g for g ** 2"
    )


def _is_arithmetic(function: Any) -> bool:
    if isinstance(function, types.BuiltinFunctionType):
        return function.__module__ == "math" or any(function is allowed for allowed in (abs, min, max))
    return isinstance(function, np.ufunc)


def _instead(function: Any) -> str:
    """Return what to write in place of a call that cannot be compiled."""
    if isinstance(function, types.FunctionType) and not function.__module__.startswith("numpy"):
        return ", a Python function; write its lines into the formula"
    written = (np.where, "a if c else b"), (np.clip, "min(max(x, least), most)"), (pow, "x ** y")
    return next((f"; write `{text}`" for replaced, text in written if function is replaced), "")


def _takes(function: Any, count: int) -> bool:
    """Whether a function of arithmetic can be called with so many numbers; True where that cannot be told."""
    if isinstance(function, np.ufunc):
        return count == function.nin
    if function is min or function is max:
        return count > 1
    try:
        inspect.signature(function).bind(*range(count))
    except TypeError:
        return False
    except ValueError:  # without a signature
        pass
    return True


def _line(file: str, number: int) -> str:
    text = linecache.getline(file, number).strip()
    return f"line {number} of {Path(file).name}" + (f", `{text}`" if text else "")


def _short(node: ast.AST) -> str:
    text = ast.unparse(node).splitlines()
    return text[0] if text else type(node).__name__


def _list(names: tuple[str, ...]) -> str:
    return ", ".join(names) if names else "none"


def _described(value: Any) -> str:
    return f"{value!r:.60} of type {type(value).__name__}"
