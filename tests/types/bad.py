"""Mistakes that type checkers must refuse: each line with the code of mypy's error, and no other."""

import numpy as np

import fastopt
from fastopt import Adam, schedules

params, grads = {"W": np.ones(3)}, {"W": np.ones(3)}
optimizer = Adam()
optimizer.updaet(params, grads)  # E: attr-defined
optimizer.lrr = 0.3  # E: attr-defined
print(optimizer.lrr)  # E: attr-defined
optimizer.lr = "fast"  # E: assignment
optimizer.beta1 = lambda: 0.9  # E: misc, assignment
optimizer.form = "papr"  # E: assignment
optimizer.averaging = 3  # E: assignment
optimizer.groups = 3  # E: assignment
optimizer.on_nonfinite = "jump"  # E: assignment
Adam(form="papr")  # E: arg-type
Adam(averaging=3)  # E: arg-type
Adam(learning_rate=0.1)  # E: call-arg
Adam(lr="0.1")  # E: arg-type
Adam(on_nonfinite="jump")  # E: arg-type
fastopt.Muon(adjust="rms")  # E: arg-type
fastopt.EMA(decay="0.9")  # E: arg-type
fastopt.Adamm()  # E: attr-defined
schedules.Cosine(0.1, T_max=10)  # E: call-arg
optimizer.update(report=True)  # E: call-overload
print(optimizer.update(params, grads, report=optimizer.iter % 10 == 0).gradient_norm)  # E: union-attr
my = fastopt.rule(lambda p, g: (p,))
print(my.nothing)  # E: attr-defined
