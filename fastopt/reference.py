"""The same optimizers in plain NumPy, to read beside the formulas and to check the compiled ones against.

Same names, same settings, same `update(params, grads)`, one NumPy expression per operation as in *Deep Learning from
Scratch*. Every number that a compiled optimizer gives is equal to the last bit to what these give, in float64 and, as
all scalars are Python floats, which NumPy takes in the dtype of the array, in float32.

They do not check their input. The one thing added to the textbook is `flush`: a state value smaller than the smallest
normal number becomes zero, as in the compiled kernels; with `optimizer.flush = False` the textbook stands alone, for a
fair comparison of times.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

__all__ = ["SGD", "AdaGrad", "Adam", "Momentum", "Nesterov", "RMSProp", "RMSprop"]


@dataclass(eq=False)
class Reference:
    """Walks over the parameters; a subclass says in `step` what happens to one array and its state, in place."""

    slots: ClassVar[tuple[str, ...]] = ()
    lr: float = 0.01
    weight_decay: float = field(default=0.0, kw_only=True, repr=False)
    decoupled: bool = field(default=False, kw_only=True, repr=False)
    maximize: bool = field(default=False, kw_only=True, repr=False)
    gradient_scale: float = field(default=1.0, kw_only=True, repr=False)
    clip_value: float = field(default=math.inf, kw_only=True, repr=False)
    clip_norm: float = field(default=math.inf, kw_only=True, repr=False)

    # Not annotated, which would make settings of them.
    flush = True
    iter = 0

    def __post_init__(self) -> None:
        for slot in self.slots:
            setattr(self, slot, None)

    def step(self, p: Array, g: Array, *state: Array) -> None:
        raise NotImplementedError

    def start_value(self) -> float:
        return 0.0

    def update(self, params: Any, grads: Any) -> None:
        """One step: writes `params` (a dict of arrays or numbers, or one array) and the state in place."""
        if isinstance(params, np.ndarray):
            self._update({None: params}, {None: grads})
        else:
            self._update(params, grads)

    def _update(self, params: dict[Any, Any], grads: dict[Any, Any]) -> None:
        self.iter += 1
        for slot in self.slots:
            if getattr(self, slot) is None:
                setattr(self, slot, {key: np.full_like(_array(p), self.start_value()) for key, p in params.items()})
        seen = {
            key: np.asarray(grads[key]).astype(_array(params[key]).dtype, copy=False)
            for key in params
            if grads[key] is not None
        }
        scale = self._scale(seen)
        for key in seen:
            p = _array(params[key])
            g = self._processed(p, seen[key], scale)
            state = [getattr(self, slot)[key] for slot in self.slots]
            self.step(p, g, *state)
            if self.flush:
                for x in state:
                    x[np.abs(x) < np.finfo(x.dtype).tiny] *= 0  # zero of the same sign
            if not isinstance(params[key], np.ndarray):
                params[key] = p[()] if isinstance(params[key], np.floating) else p.item()

    def _scale(self, grads: dict[Any, Array]) -> float:
        scale = -self.gradient_scale if self.maximize else self.gradient_scale
        if self.clip_norm < math.inf:
            norm = global_norm(grads) * self.gradient_scale
            if not norm <= self.clip_norm:
                scale = scale * (self.clip_norm / norm)
        return scale

    def _processed(self, p: Array, g: Array, scale: float) -> Array:
        """The gradient that the rule sees; writes p where weight decay is decoupled."""
        if scale != 1:
            g = g * scale
        if self.clip_value < math.inf:
            g = np.where(g < -self.clip_value, -self.clip_value, np.where(g > self.clip_value, self.clip_value, g))
            g = g.astype(p.dtype, copy=False)
        if self.weight_decay and self.decoupled:
            p *= 1 - self.lr * self.weight_decay
        elif self.weight_decay:
            g = g + self.weight_decay * p
        return g


def global_norm(grads: dict[Any, Array]) -> float:
    """The norm of all arrays together: the root of the number nearest to the sum of the float64 squares.

    `math.fsum` rounds once, so the order of the arrays and of their elements does not matter.
    """
    squares = [np.square(g, dtype=np.float64).ravel() for g in grads.values()]
    total = sum(float(square.sum()) for square in squares)
    if not math.isfinite(total):
        return total
    return math.sqrt(math.fsum(x for square in squares for x in square.tolist()))


def _array(value: Any) -> Array:
    """An array as it is, a number as a 0-d array."""
    if isinstance(value, np.ndarray):
        return value
    return np.array(value, dtype=np.float32 if isinstance(value, np.float32) else np.float64)


@dataclass(eq=False)
class SGD(Reference):
    lr: float = 0.01

    def step(self, p: Array, g: Array) -> None:  # type: ignore[override]
        p -= self.lr * g


@dataclass(eq=False)
class Momentum(Reference):
    lr: float = 0.01
    momentum: float = 0.9
    slots = ("v",)

    def step(self, p: Array, g: Array, v: Array) -> None:  # type: ignore[override]
        v *= self.momentum
        v -= self.lr * g
        p += v


@dataclass(eq=False)
class Nesterov(Reference):
    lr: float = 0.01
    momentum: float = 0.9
    slots = ("v",)

    def step(self, p: Array, g: Array, v: Array) -> None:  # type: ignore[override]
        p += self.momentum * self.momentum * v
        p -= (1 + self.momentum) * self.lr * g
        v *= self.momentum
        v -= self.lr * g


@dataclass(eq=False)
class AdaGrad(Reference):
    lr: float = 0.01
    eps: float = 1e-7
    initial_accumulator: float = 0.0
    slots = ("h",)

    def start_value(self) -> float:
        return self.initial_accumulator

    def step(self, p: Array, g: Array, h: Array) -> None:  # type: ignore[override]
        h += g * g
        p -= self.lr * g / (np.sqrt(h) + self.eps)


@dataclass(eq=False)
class RMSProp(Reference):
    lr: float = 0.01
    decay_rate: float = 0.99
    eps: float = None  # type: ignore[assignment]
    eps_root: float = 0.0
    slots = ("h",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.eps is None:
            self.eps = 0.0 if self.eps_root else 1e-7

    def step(self, p: Array, g: Array, h: Array) -> None:  # type: ignore[override]
        h *= self.decay_rate
        h += (1 - self.decay_rate) * g * g
        if self.eps_root:
            p -= self.lr * g / (np.sqrt(h + self.eps_root) + self.eps)
        else:
            p -= self.lr * g / (np.sqrt(h) + self.eps)


RMSprop = RMSProp


@dataclass(eq=False)
class Adam(Reference):
    lr: float = 0.001
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = None  # type: ignore[assignment]
    eps_root: float = 0.0
    form: str = "textbook"
    slots = ("m", "v")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.eps is None:
            self.eps = 0.0 if self.eps_root else 1e-8 if self.form == "paper" else 1e-7

    def step(self, p: Array, g: Array, m: Array, v: Array) -> None:  # type: ignore[override]
        t = self.iter
        lr_t = self.lr * math.sqrt(1.0 - self.beta2**t) / (1.0 - self.beta1**t)
        m += (1 - self.beta1) * (g - m)
        v += (1 - self.beta2) * (g**2 - v)
        if self.form == "textbook" and not self.eps_root:
            p -= lr_t * m / (np.sqrt(v) + self.eps)
        else:
            # lr m_hat / (sqrt(v_hat + eps_root) + eps) with both sides of the fraction times sqrt(1 - beta2^t), which
            # leaves one division per element instead of three
            eps = self.eps * math.sqrt(1.0 - self.beta2**t) if self.form == "paper" else self.eps
            p -= lr_t * m / (np.sqrt(v + self.eps_root * (1.0 - self.beta2**t)) + eps)
