"""Where the time of a training loop goes, and what fastopt could save of it: `fastopt.profile`."""

from __future__ import annotations

import functools
import statistics
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import CodeType, FrameType, TracebackType
from typing import Any, NamedTuple, Self

import numpy as np

from fastopt import blas, compare, machine, names
from fastopt.optimizer import Optimizer
from fastopt.optimizers import OPTIMIZERS
from fastopt.pairs import pairs
from fastopt.profile_report import report

WARM_UP = 20  # steps in which caches fill and kernels compile
BLOCK = 0.03  # seconds between changes of BLAS's threads, at least 5 steps
STEP_NAMES = ("update", "step")


class Enough(BaseException):
    """Ends a script after as many steps as were asked for."""


class _Step(NamedTuple):
    total: float
    optimizer: float
    gradient: float
    blas_threads: int

    @property
    def rest(self) -> float:
        return self.total - self.optimizer - self.gradient


@dataclass
class _Model:
    """Facts about parameters and optimizer, from the first step."""

    optimizer: Any
    sizes: dict[str, int]
    """Elements by dtype."""
    arrays: int

    @property
    def rule(self) -> str:
        """The rule of fastopt that does the same: by the optimizer's name, else by the arrays that it keeps."""
        if isinstance(self.optimizer, Optimizer):
            return self.optimizer.rule
        rule = names.find(type(self.optimizer).__name__, OPTIMIZERS)
        if rule is not None:
            return rule
        kept = [value for value in vars(self.optimizer).values() if isinstance(value, Mapping) and value]
        slots = sum(all(isinstance(array, np.ndarray) for array in value.values()) for value in kept)
        return ("sgd", "momentum", "adam")[min(slots, 2)]


@dataclass(repr=False)
class Profile:
    """Times of a training loop's parts; what `with fastopt.profile() as found` gives. Seconds, medians of steps.

    `str()` of it, and so `print`, is the report.
    """

    optimizer_object: Any = None
    try_blas: bool = True
    stop_after: int | None = None
    replace_by: str | None = None
    """The rule of fastopt that steps in the place of the loop's own optimizer, with the settings of the same names."""
    steps: list[_Step] = field(default_factory=list)
    memory_limit: float = float("nan")
    """Reading and writing parameters, gradients and state once, without arithmetic."""
    fastopt_step: float = float("nan")
    """A step of the same rule by fastopt, on arrays of the same sizes."""

    replacement: Optimizer | None = None
    _model: _Model | None = None
    _gradient_name: str = ""
    _patched: list[tuple[Any, str, Any]] = field(default_factory=list)
    _in_step: bool = False
    _in_gradient: bool = False
    _gradient: float = 0.0
    _last_end: float | None = None
    _blas: blas.Threads = field(default_factory=blas.Threads)
    _until: float = 0.0
    _load: machine.OthersLoad = field(default_factory=machine.OthersLoad)
    others: float = 0.0
    """CPUs that other processes kept busy meanwhile, on average; NaN where the system does not say."""
    _fresh: bool = False

    # -- results ------------------------------------------------------------------------------------------------------

    @property
    def step(self) -> float:
        """A whole step: gradient, optimizer and the rest."""
        return self._median("total")

    @property
    def optimizer(self) -> float:
        """The optimizer's step."""
        return self._median("optimizer")

    @property
    def gradient(self) -> float | None:
        """The call that made the gradients; None where it was not found."""
        return self._median("gradient") if self._gradient_name else None

    @property
    def rest(self) -> float:
        """Everything else; the gradient too where its call was not found."""
        return self._median("rest")

    @property
    def gain(self) -> float:
        """How many times as fast the loop can become at most, with the optimizer's step at the memory limit."""
        return self.gain_on(self._blas.default)

    def gain_on(self, blas_threads: int) -> float:
        """`gain` on a number of BLAS threads that was tried."""
        step, optimizer = self._median("total", blas_threads), self._median("optimizer", blas_threads)
        return step / (step - optimizer + min(self.memory_limit, optimizer))

    @property
    def blas_threads(self) -> dict[int, float]:
        """Seconds of a whole step by BLAS's threads, those that were tried."""
        counts = sorted({step.blas_threads for step in self._counted()})
        return {count: self._median("total", count) for count in counts}

    def _counted(self) -> list[_Step]:
        """The steps after warming up."""
        return self.steps[min(WARM_UP, len(self.steps) // 4) :]

    def _median(self, what: str, blas_threads: int | None = None) -> float:
        count = self._blas.default if blas_threads is None else blas_threads
        values = [getattr(step, what) for step in self._counted() if step.blas_threads == count]
        return statistics.median(values) if values else float("nan")

    def __str__(self) -> str:
        return report(self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len(self.steps)} steps>"

    # -- recording ----------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        if self.optimizer_object is not None:
            self._watch_optimizer(type(self.optimizer_object))
        elif sys.getprofile() is not None:
            raise RuntimeError(
                "fastopt.profile: another profiler is running, and the loop can only be found without it; stop it, or "
                "name the optimizer: fastopt.profile(optimizer)"
            )
        self._returned: deque[tuple[Any, CodeType, FrameType | None, Any]] = deque(maxlen=50)
        if sys.getprofile() is None:
            sys.setprofile(self._on_event)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> bool:
        self._stop_looking()
        for owner, name, original in reversed(self._patched):
            if isinstance(owner, dict):
                owner[name] = original
            else:
                setattr(owner, name, original)
        self._patched.clear()
        self._blas.restore()
        self.others = self._load.value()
        if self._model is not None and len(self.steps) > 1:
            rule = self.replace_by or self._model.rule
            self.memory_limit = sum(compare.memory_limit(rule, n, dtype) for dtype, n in self._model.sizes.items())
            self.fastopt_step = sum(compare.step_time(rule, n, dtype) for dtype, n in self._model.sizes.items())
        return kind is not None and issubclass(kind, Enough)

    def _stop_looking(self) -> None:
        if sys.getprofile() == self._on_event:
            sys.setprofile(None)
        self._returned.clear()

    def _on_event(self, frame: FrameType, event: str, value: Any) -> None:
        """Python's profiling hook until the first step: which method steps, and which call made its gradients."""
        code = frame.f_code
        if event == "return" and isinstance(value, (dict, list, tuple, np.ndarray)):
            owner = frame.f_locals.get(code.co_varnames[0]) if code.co_argcount else None
            self._returned.append((value, code, frame.f_back, owner))
        elif event == "call" and code.co_name in STEP_NAMES and code.co_argcount >= 3:
            stepping, params, grads = (frame.f_locals.get(name) for name in code.co_varnames[:3])
            is_right = self.optimizer_object in (None, stepping)
            if is_right and _is_model(params, grads) and frame.f_back is not None:
                self._find_gradient(grads, frame.f_back)
                self._stop_looking()
                if self.optimizer_object is None:
                    self.optimizer_object = stepping
                    self._watch_optimizer(type(stepping), code.co_name)

    def _find_gradient(self, grads: Any, loop: FrameType) -> None:
        """Times the function that returned the gradients to the loop, where it can be found by name."""
        for value, made_by, caller, owner in reversed(self._returned):
            name = made_by.co_name
            is_here = value is grads or (isinstance(value, (list, tuple)) and any(part is grads for part in value))
            if not (is_here and caller is loop):
                continue
            for kind in type(owner).__mro__:
                if getattr(vars(kind).get(name), "__code__", None) is made_by:
                    self._gradient_name = f"{type(owner).__name__}.{name}"
                    self._patch(kind, name, self._timed_gradient)
                    return
            for alias, function in loop.f_globals.items():
                if getattr(function, "__code__", None) is made_by:
                    self._gradient_name = alias
                    self._patch(loop.f_globals, alias, self._timed_gradient)
                    return
            return

    def _watch_optimizer(self, kind: type, name: str | None = None) -> None:
        for owner in kind.__mro__:
            for step_name in (name,) if name else STEP_NAMES:
                if step_name in vars(owner):
                    self._patch(owner, step_name, self._timed_step)
                    return
        raise TypeError(
            f"fastopt.profile: expected an optimizer with a method update(params, grads), got {self.optimizer_object!r}"
        )

    def _patch(self, owner: Any, name: str, wrapped: Callable[[Any], Any]) -> None:
        original = owner[name] if isinstance(owner, dict) else vars(owner)[name]
        self._patched.append((owner, name, original))
        new = functools.wraps(original)(wrapped(original))
        if isinstance(owner, dict):
            owner[name] = new
        else:
            setattr(owner, name, new)

    def _timed_gradient(self, original: Any) -> Any:
        def gradient(*values: Any, **named: Any) -> Any:
            if self._in_gradient:
                return original(*values, **named)
            self._in_gradient, start = True, time.perf_counter()
            try:
                return original(*values, **named)
            finally:
                self._gradient += time.perf_counter() - start
                self._in_gradient = False

        return gradient

    def _timed_step(self, original: Any) -> Any:
        def step(stepping: Any, params: Any, grads: Any, *more: Any, **named: Any) -> Any:
            if self._in_step or stepping is not self.optimizer_object:
                return original(stepping, params, grads, *more, **named)
            if self._model is None:
                self._model = _model(stepping, params)
                if self.replace_by is not None:
                    self.replacement = _like(stepping, self.replace_by)
            self._in_step, start = True, time.perf_counter()
            try:
                if self.replacement is not None:
                    return self.replacement.update(params, grads)
                return original(stepping, params, grads, *more, **named)
            finally:
                self._in_step = False
                self._record(start, time.perf_counter())

        return step

    def _record(self, start: float, end: float) -> None:
        if self._last_end is not None and not self._fresh:
            self.steps.append(_Step(end - self._last_end, end - start, self._gradient, self._blas.now))
        self._gradient, self._fresh = 0.0, False
        if self.stop_after is not None and len(self.steps) >= self.stop_after:
            raise Enough
        if self.try_blas and len(self.steps) >= WARM_UP and end >= self._until and self._blas.choices:
            self._blas.change()
            self._fresh = True  # the step in which threads start or stop is not counted
            block = max(BLOCK, 5 * self.steps[-1].total)
            self._until = time.perf_counter() + block
        self._last_end = time.perf_counter()


def profile(optimizer: Any = None, *, blas_threads: bool = True) -> Profile:
    """Measures where the time of a training loop goes, and how much of it fastopt could save.

    A context manager around a few hundred steps of any loop that calls an object's `update(params, grads)`. It finds
    that object and the call that computes the gradients by itself. Steps are timed from one to the next and medians
    taken, so that an evaluation every epoch does not count.

    Parameters
    ----------
    optimizer : object, optional
        The one to time, where several step or it is not found.
    blas_threads : bool, default True
        Whether to run the loop with NumPy's BLAS on one thread, on two and on all, in turns (needs threadpoolctl); the
        number is put back at the end. Sums of another number of threads may differ in the last bit.

    Returns
    -------
    Profile
        `step`, `gradient`, `optimizer`, `memory_limit` and `fastopt_step` in seconds, `gain`, and `blas_threads`;
        `print` shows them with what they mean.

    Raises
    ------
    RuntimeError
        At the start, where another profiler runs and no optimizer is named.
    TypeError
        At the start, where what is named has no method `update`.

    Examples
    --------
    >>> import numpy as np
    >>> import fastopt
    >>> params, optimizer = {"W": np.ones((100, 100))}, fastopt.SGD()
    >>> with fastopt.profile(optimizer, blas_threads=False) as found:
    ...     for step in range(50):
    ...         optimizer.update(params, {"W": 0.1 * params["W"]})
    >>> found.step >= found.optimizer > 0
    True
    """
    return Profile(optimizer, blas_threads)


def _model(optimizer: Any, params: Any) -> _Model:
    sizes: dict[str, int] = {}
    arrays = _arrays(params)
    for array in arrays:
        sizes[array.dtype.name] = sizes.get(array.dtype.name, 0) + array.size
    return _Model(optimizer, sizes, len(arrays))


def _like(optimizer: Any, rule: str) -> Optimizer:
    """An optimizer of fastopt, of a rule, with the numbers that another one has under the same names."""
    kind = OPTIMIZERS[rule]
    given = {name: getattr(optimizer, name, None) for name in kind._hyperparameters()}
    return kind(**{name: value for name, value in given.items() if isinstance(value, (int, float))})


def _arrays(values: Any) -> list[Any]:
    """Arrays of a dict, of a list or alone; those of other dtypes count as float64, complex numbers as two."""
    if isinstance(values, Mapping):
        values = list(values.values())
    arrays = [np.asarray(value) for value in (values if isinstance(values, (list, tuple)) else [values])]
    arrays = [pairs(array) for array in arrays]
    return [array if array.dtype in (np.float32, np.float64) else array.astype(np.float64) for array in arrays]


def _is_model(params: Any, grads: Any) -> bool:
    """Whether the arguments of a call are parameters and gradients."""
    if isinstance(params, Mapping):
        return isinstance(grads, Mapping) and 0 < len(params) and bool(params.keys() & grads.keys())
    if isinstance(params, np.ndarray):
        return isinstance(grads, np.ndarray) and params.shape == grads.shape
    is_list = isinstance(params, Sequence) and isinstance(grads, Sequence) and not isinstance(params, str)
    return is_list and 0 < len(params) == len(grads) and all(isinstance(one, np.ndarray) for one in params)
