"""Programs that type checkers must accept, and types that they must know; mypy reads it, nothing runs it."""

from typing import Any, assert_type

import numpy as np

import fastopt
from fastopt import Adam, schedules
from fastopt.groups import Groups
from fastopt.report import Report

params, grads = {"W": np.ones(3)}, {"W": np.ones(3)}
optimizer = Adam(lr=schedules.Cosine(0.001, steps=10), weight_decay=lambda step: 0.1 / step, form="paper")
optimizer.beta1 = lambda step: 0.9 - 0.4 / step
optimizer.lr = 0.3
optimizer.lr = 1
optimizer.lr = schedules.ReduceOnPlateau(0.1)
optimizer.lr.observe(0.25)
optimizer.clip_norm = schedules.Constant(1.0)
optimizer.m = None
print(optimizer.m["W"], optimizer.v, optimizer.weight_average, optimizer.lr * 2, optimizer.iter + optimizer.skipped)

optimizer.update(params, grads)
assert_type(optimizer.update(params, grads, report=True), Report)
every_ten = optimizer.iter % 10 == 0
assert_type(optimizer.update(params, grads, report=every_ten), Report | None)
assert_type(optimizer.updated([0.5], [1.0]), list[float])

optimizer.groups = {"b*": {"lr": 0.1, "frozen": True}, fastopt.is_vector: {"weight_decay": 0.0}}
optimizer.groups["b*"]["lr"] = schedules.Constant(0.1)
assert_type(optimizer.groups, Groups)
optimizer.groups = None
optimizer.averaging = fastopt.EMA(decay=lambda step: min(0.999, step / 10))
optimizer.averaging = fastopt.SWA(start=1)
optimizer.lookahead = fastopt.Lookahead(alpha=schedules.Constant(0.5))
optimizer.averaging = None


@fastopt.rule(state=("v",), lr=0.01, momentum=0.9)
def my_momentum(p, g, v, lr, momentum):  # type: ignore[no-untyped-def]
    v = momentum * v - lr * g
    return p + v, v


mine = my_momentum(lr=0.1, momentum=schedules.Constant(0.5), weight_decay=0.01)
assert_type(mine.update(params, grads, report=True), Report)
assert_type(mine.v, Any)
mine.momentum = 0.5
optimizers: list[fastopt.Optimizer] = [optimizer, mine, fastopt.SGD(0.1)]
for one in optimizers:
    one.update(params, grads)
    one.weight_decay = 0.1
