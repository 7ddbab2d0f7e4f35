"""What all reference optimizers share: the walk over the parameters, and the flush of subnormal state."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class Reference:
    """Walks over the parameters; a subclass says in `step` what happens to one array and its state, in place."""

    slots: ClassVar[tuple[str, ...]] = ()
    flush = True
    iter = 0

    def __post_init__(self) -> None:
        for slot in self.slots:
            setattr(self, slot, None)

    def step(self, p: Array, g: Array, *state: Array) -> None:
        raise NotImplementedError

    def start_values(self) -> dict[str, float]:
        """The value before the first step of each state slot that does not start at zero."""
        return {}

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
                start = self.start_values().get(slot, 0.0)
                setattr(self, slot, {key: np.full_like(_array(p), start) for key, p in params.items()})
        for key in params:
            if grads[key] is None:
                continue
            p = _array(params[key])
            g = np.asarray(grads[key]).astype(p.dtype, copy=False)
            state = [getattr(self, slot)[key] for slot in self.slots]
            self.step(p, g, *state)
            if self.flush:
                for x in state:
                    x[np.abs(x) < np.finfo(x.dtype).tiny] *= 0  # zero of the same sign
            if not isinstance(params[key], np.ndarray):
                params[key] = p[()] if isinstance(params[key], np.floating) else p.item()


def _array(value: Any) -> Array:
    """An array as it is, a number as a 0-d array."""
    if isinstance(value, np.ndarray):
        return value
    return np.array(value, dtype=np.float32 if isinstance(value, np.float32) else np.float64)
