"""Optimizers as functions, under the names and with the arguments that other libraries have.

- `fastopt.functional.cs231n`: `new_w, config = adam(w, dw, config)`, as in Stanford's course cs231n; also here.
- `fastopt.functional.autograd`: `adam(grad, x0, callback, num_iters, step_size)`, as `autograd.misc.optimizers`.
- `fastopt.functional.optax`: `init(params)` and `update(grads, state, params) -> updates, state`, as optax, on NumPy.
"""

from fastopt.functional.cs231n import adam, rmsprop, sgd, sgd_momentum

__all__ = ["adam", "rmsprop", "sgd", "sgd_momentum"]
