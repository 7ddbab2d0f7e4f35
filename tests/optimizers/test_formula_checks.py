"""Formulas of one's own that cannot be: refused with the line, why, and what to write; never in numba's words."""

import math

import numpy as np
import pytest

import fastopt
from fastopt import hyperparameters

OUTSIDE = 0.5
TABLE = np.ones(3)


def defined(lines, name="mine"):
    """Names that lines of a file define, as if that file had been imported."""
    import linecache

    file = f"mine_{abs(hash(lines))}.py"
    linecache.cache[file] = (len(lines), None, lines.splitlines(keepends=True), file)
    names = {"fastopt": fastopt, "math": math, "np": np, "OUTSIDE": OUTSIDE, "TABLE": TABLE, "__name__": __name__}
    exec(compile(lines, file, "exec"), names)
    return names[name]


DECORATOR = '@fastopt.rule(state=("v",), lr=0.1)\n'
START = f"{DECORATOR}def mine(p, g, v, lr):\n    "

# lines, the error, and what it says
BAD_FORMULAS = {
    "float": (START + "v = 0.5 * v - lr * g\n    return p + v, v", TypeError, r"mine: line 3 of .*\.py, `v = 0\.5 \* v - lr \* g`: the number 0\.5 in a formula would make float32 arithmetic float64; make it an argument with a value, such as @fastopt\.rule\(\.\.\., factor=0\.5\)"),
    "int": (START + "return p - lr * g, v ** 2", TypeError, r"the number 2 in a formula .* write g \* g for g \*\* 2"),
    "default": (f"{DECORATOR}def mine(p, g, v, lr=0.1):\n    return p, v", TypeError, r"mine: the default of lr belongs in the decorator: @fastopt\.rule\(lr=0\.1\)"),
    "outside number": (START + "return p - OUTSIDE * g, v", TypeError, r"OUTSIDE is 0\.5 of type float from outside of the formula; hand in numbers as arguments with a value, such as @fastopt\.rule\(\.\.\., OUTSIDE=\.\.\.\)"),
    "outside array": (START + "return p - TABLE * g, v", TypeError, "TABLE is array.* of type ndarray from outside"),
    "unknown name": (START + "return p - rate * g, v", TypeError, "rate is neither an argument nor given a value in the formula"),
    "branch": (START + "if g > v:\n        x = g\n    return p - x, v", TypeError, "line 5 .*: x has no value here, or not in every branch before"),
    "used before": (START + "v += x\n    x = g\n    return p, v", TypeError, "x has no value here"),
    "added to nothing": (START + "x += g\n    return p, x", TypeError, "x has no value here"),
    "list": (START + "return p - lr * g, [v]", TypeError, r"`\[v\]` cannot stand in a formula; a formula knows its arguments, names that it assigns"),
    "dict": (START + "x = {v: g}\n    return p, v", TypeError, r"`\{v: g\}` cannot stand"),
    "text": (START + "x = 'lr'\n    return p, v", TypeError, "`'lr'` cannot stand"),
    "None": (START + "return p, None", TypeError, "`None` cannot stand"),
    "attribute": (START + "return p.real, v", TypeError, r"`p\.real` cannot stand in a formula but as a function"),
    "pi": (START + "return p, math.pi", TypeError, r"`math\.pi` cannot stand"),
    "index": (START + "return p, v[p]", TypeError, r"`v\[p\]` cannot stand"),
    "loop": (START + "while g > v:\n        v = g\n    return p, v", TypeError, "`while g > v:` cannot stand"),
    "matrix product": (START + "return p @ g, v", TypeError, r"line 3 .*: `p @ g` cannot stand"),
    "bits": (START + "return p & g, v", TypeError, r"line 3 .*: `p & g` cannot stand"),
    "not of bits": (START + "return ~p, v", TypeError, r"line 3 .*: `~p` cannot stand"),
    "identity": (START + "return p if g is v else g, v", TypeError, r"line 3 .*: `g is v` cannot stand"),
    "membership": (START + "return p if g in (v, p) else g, v", TypeError, r"line 3 .*: `g in \(v, p\)` cannot stand"),
    "complex number": (START + "return p * 1j, v", TypeError, "`1j` cannot stand in a formula"),
    "spread": (START + "return p - math.hypot(*g), v", TypeError, r"`\*g` cannot stand in a formula"),
    "print": (START + "print(v)\n    return p, v", TypeError, "cannot stand"),
    "function": (START + "return p, float(v)", TypeError, "it calls float; a formula knows"),
    "where": (START + "return np.where(g > v, g, p), v", TypeError, r"it calls np\.where; write `a if c else b`; a formula"),
    "clip": (START + "return p - np.clip(g, v, lr), v", TypeError, r"it calls np\.clip; write `min\(max\(x, least\), most\)`; a form"),
    "power": (START + "return pow(g, v), v", TypeError, r"it calls pow; write `x \*\* y`; a formula"),
    "Python function": (f"def square(x):\n    return x * x\n\n{START}return p - square(g), v", TypeError, "it calls square, a Python function; write its lines into the formula; a formula knows"),
    "arguments of math": (START + "return p - math.sqrt(g, v), v", TypeError, r"line 3 .*`: math\.sqrt does not take 2 arguments"),
    "arguments of NumPy": (START + "return p - np.maximum(g), v", TypeError, r"np\.maximum does not take 1 argument"),
    "arguments of abs": (START + "return p - abs(g, v), v", TypeError, r": abs does not take 2 arguments"),
    "least of one": (START + "return p - min(g), v", TypeError, r"min does not take 1 argument"),
    "method": (START + "return p, g.sum()", TypeError, r"it calls g\.sum"),
    "array function": (START + "return p, np.linspace(p, g)", TypeError, r"it calls np\.linspace"),
    "unknown function": (START + "return p, root(g)", TypeError, "root is neither an argument"),
    "no such function": (START + "return p, math.root(g)", TypeError, r"it calls math\.root"),
    "named argument": (START + "return p, np.add(g, x2=v)", TypeError, "names an argument"),
    "too few": (START + "return p - lr * g,", TypeError, r"line 3 .*: the formula returns 1 value, expected the new p, v: `return p, v`"),
    "too many": (START + "return p, v, g", TypeError, "the formula returns 3 values, expected the new p, v"),
    "no tuple": ("@fastopt.rule(lr=0.1)\ndef mine(p, g, lr):\n    return p - lr * g", TypeError, r"returns a value that is no tuple, expected the new p: `return p,`"),
    "nothing": (START + "v = g", TypeError, "line 3 .*: the formula can end without `return p, v`"),
    "bare return": (START + "return", TypeError, "returns nothing, expected"),
    "one branch": (START + "if g > v:\n        return p, v", TypeError, "the formula can end without"),
    "order": (f"{DECORATOR}def mine(p, v, g, lr):\n    return p, v", TypeError, r"mine: its arguments must be p, g, v and then its scalars, got p, v, g, lr; state=\(\.\.\.\) names the state"),
    "no gradient": ("@fastopt.rule()\ndef mine(p):\n    return p,", TypeError, "its arguments must be p, g and then"),
    "no value": (f"{DECORATOR}def mine(p, g, v, lr, decay):\n    return p, v", TypeError, r"mine: its argument decay has no value; give it one, @fastopt\.rule\(decay=\.\.\.\), or name it in state=\(\.\.\.\)"),
    "no argument": ("@fastopt.rule(lr=0.1, decay=0.5)\ndef mine(p, g, lr):\n    return p,", TypeError, "mine: decay is given a value, but is no scalar of the formula, which has lr"),
    "keyword-only": (f"{DECORATOR}def mine(p, g, v, *, lr):\n    return p, v", TypeError, r"its argument lr must be a plain one"),
    "any number": (f"{DECORATOR}def mine(p, g, v, *lr):\n    return p, v", TypeError, r"its argument \*lr must be a plain one"),
    "lambda": ("mine = fastopt.rule(lr=0.1)(lambda p, g, lr: (p,))", TypeError, r"fastopt\.rule: expected a function made with def, got <function <lambda>"),
    "compiled": ("import numba\n@fastopt.rule(lr=0.1)\n@numba.njit\ndef mine(p, g, lr):\n    return p,", TypeError, "expected a function made with def, got CPUDispatcher.*; write a plain one with def, without other decorators"),
    "builtin": ("mine = fastopt.rule(lr=0.1)(math.hypot)", TypeError, r"expected a function made with def, got <built-in function hypot>"),
    "coroutine": (f"{DECORATOR}async def mine(p, g, v, lr):\n    return p, v", TypeError, "expected a function made with def"),
    "bare": ("@fastopt.rule\ndef mine(p, g, lr):\n    return p,", TypeError, "its argument lr has no value"),
    "state as text": ('@fastopt.rule(state="v", lr=0.1)\ndef mine(p, g, v, lr):\n    return p, v', TypeError, r"state must be a tuple of names, got 'v'; write state=\('v',\) for one"),
    "state of numbers": ("@fastopt.rule(state=(1,))\ndef mine(p, g, v):\n    return p, v", TypeError, "state must be a tuple of names"),
    "no state": ("@fastopt.rule(state=None)\ndef mine(p, g):\n    return p,", TypeError, r"state must be a tuple of names, got None; write state=\('v',\) for one, and leave it out for none"),
    "state of a keyword": ('@fastopt.rule(state=("lambda",))\ndef mine(p, g, v):\n    return p, v', TypeError, r"state must be a tuple of names, got \('lambda',\)"),
    "state twice": ('@fastopt.rule(state=("v", "v"))\ndef mine(p, g, v, w):\n    return p, v, w', ValueError, "state must be names other than one another's and than p and g, got v, v; rename one"),
    "state of p": ('@fastopt.rule(state=("p",))\ndef mine(p, g, v):\n    return p, v', ValueError, "other than one another's and than p and g, got p; rename"),
    "taken state": ('@fastopt.rule(state=("iter",))\ndef mine(p, g, iter):\n    return p, iter', ValueError, "mine: the state iter has the name of something that every optimizer has; choose another"),
    "taken setting": ("@fastopt.rule(weight_decay=0.1)\ndef mine(p, g, weight_decay):\n    return p,", ValueError, "the setting weight_decay has the name of something that every optimizer has"),
    "private setting": ("@fastopt.rule(_lr=0.1)\ndef mine(p, g, _lr):\n    return p,", ValueError, "the setting _lr has the name"),
    "state and setting": ('@fastopt.rule(state=("v",), scalars=lambda step, v: (v,), v=1.0)\ndef mine(p, g, v, lr):\n    return p, v', ValueError, "the setting v has the name of its state"),
    "taken name": ("@fastopt.rule(lr=0.1)\ndef Adam(p, g, lr):\n    return p,", ValueError, "Adam: fastopt has a rule 'adam' of its own, .*; choose another, such as my_adam"),
    "bad default": ("@fastopt.rule(lr=-0.1)\ndef mine(p, g, lr):\n    return p,", ValueError, r"mine: lr must be in \[0, inf\), got -0\.1"),
    "default of a kind": ("@fastopt.rule(lr='fast')\ndef mine(p, g, lr):\n    return p,", TypeError, "mine: the default of lr must be a number, got 'fast' of type str"),
    "schedule as default": ("@fastopt.rule(lr=fastopt.schedules.Constant(0.1))\ndef mine(p, g, lr):\n    return p,", TypeError, "mine: the default of lr must be a number, got Constant"),
    "endless default": ("@fastopt.rule(most=math.inf)\ndef mine(p, g, most):\n    return p,", ValueError, "the default of most must be a finite number, got inf"),
    "beyond floats": ("@fastopt.rule(most=10**400)\ndef mine(p, g, most):\n    return p,", ValueError, "the default of most must be a finite number, got 1000"),
    "start of no slots": ('@fastopt.rule(state=("v",), start=1.0)\ndef mine(p, g, v):\n    return p, v', TypeError, r"start must be a dict such as \{'v': 0\.1\}, got 1\.0 of type float"),
    "unknown start": ('@fastopt.rule(state=("v",), start={"h": 1.0}, lr=0.1)\ndef mine(p, g, v, lr):\n    return p, v', TypeError, "mine: start has 'h', but its state is v"),
    "start of a kind": ('@fastopt.rule(state=("v",), start={"v": None}, lr=0.1)\ndef mine(p, g, v, lr):\n    return p, v', TypeError, "the start of v must be a number, got None of type NoneType"),
    "few scalars": ("@fastopt.rule(scalars=lambda step, lr: (lr,), lr=0.1)\ndef mine(p, g, lr, decay):\n    return p,", TypeError, "mine: scalars must return a tuple of 2 numbers, those that the formula calls lr, decay, got 1 values"),
    "scalars of no tuple": ("@fastopt.rule(scalars=lambda step, lr: lr, lr=0.1)\ndef mine(p, g, lr):\n    return p,", TypeError, "got 0.1 of type float"),
    "scalars of a kind": ("@fastopt.rule(scalars=lambda step, lr: (None,), lr=0.1)\ndef mine(p, g, lr):\n    return p,", TypeError, "scalars must return numbers, got None of type NoneType for lr"),
    "scalars without step": ("@fastopt.rule(scalars=lambda lr: (lr,), lr=0.1)\ndef mine(p, g, lr):\n    return p,", TypeError, r"scalars must be a function, called as scalars\(step, lr\)"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_FORMULAS)
def test_a_formula_that_cannot_be_is_refused_when_it_is_defined(case):
    lines, error, words = BAD_FORMULAS[case]
    with pytest.raises(error, match=words) as found:
        defined(lines)
    assert "numba" not in str(found.value) and "\n" not in str(found.value)


def test_a_formula_whose_lines_cannot_be_read():
    """As at Python's prompt: what its lines would have told is found when it is compiled, but for numbers in it."""

    def mine(result):
        names = {"fastopt": fastopt}
        exec(compile(f"{DECORATOR}def mine(p, g, v, lr):\n    return {result}", "<nowhere>", "exec"), names)
        return names["mine"]

    params, grads = {"W": np.ones(3, np.float32)}, {"W": np.ones(3, np.float32)}
    mine("p - lr * g, v")(lr=0.5).update(params, grads)
    assert params["W"].tolist() == [0.5] * 3
    with pytest.raises(TypeError, match=r"mine: the number 0\.5 in a formula would make"):
        mine("p - 0.5 * g, v")
    for wrong in ("p", "(p, v, g)", "(p, [v])"):
        with pytest.raises(TypeError, match="mine: its formula must return a tuple of the new p, v"):
            mine(wrong)().update(params, grads)


NOT_COMPILED = {
    "no compiled form": ("return p, np.heaviside(g, v)", r"line 3 of .*, `return p, np\.heaviside\(g, v\)` cannot be compiled"),
    "products": ("return p, np.matmul(g, v)", r"line 3 of .*, `return p, np\.matmul\(g, v\)` cannot be compiled"),
    "two kinds": ("x = p if g > v else (p, g)\n    return x, v", r"line 3 of .* cannot be compiled"),
    "integer": ("return p - lr * math.floor(g), v", "its formula must return a tuple of the new p, v, all of the dtype of the arrays; a function such as math.floor"),
    "comparison": ("return p, g > v", "its formula must return a tuple of the new p, v, all"),
}  # fmt: skip


@pytest.mark.parametrize("case", NOT_COMPILED)
def test_what_only_compiling_finds_is_told_in_terms_of_the_formula(case):
    body, words = NOT_COMPILED[case]
    optimizer, params = defined(START + body)(), {"W": np.ones(3, np.float32)}
    with pytest.raises(TypeError, match=f"mine: {words}") as found:
        optimizer.update(params, {"W": np.ones(3, np.float32)})
    assert "numba" not in str(found.value) and "\n" not in str(found.value)
    assert optimizer.iter == 0 and params["W"].tolist() == [1.0] * 3


def test_an_optimizer_of_no_rule_is_told_what_to_do():
    with pytest.raises(KeyError, match=r"Mine: there is no rule 'mine'; make an optimizer .* with @fastopt\.rule"):
        type("Mine", (fastopt.Optimizer,), {"rule": "mine"})
    assert "mine" not in hyperparameters.RANGES
