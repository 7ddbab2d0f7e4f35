"""The optimizers: hyperparameters with their defaults, and how they become the scalars of a formula.

The defaults of SGD, Momentum, Nesterov, AdaGrad, RMSProp and Adam are those of *Deep Learning from Scratch* (O'Reilly
Japan, 2016, chapter 6): a script that is moved over by changing its import takes the same path. The formulas are in
`fastopt.kernels`, plain NumPy versions in `fastopt.reference`.
"""

from __future__ import annotations

from fastopt.kernels import RULES
from fastopt.optimizer import Optimizer
from fastopt.optimizers.adagrad import Adadelta, AdaGrad, CentredRMSProp, RMSProp, RMSprop, RMSPropMomentum
from fastopt.optimizers.adam import Adam, Adamax, AdamW, AMSGrad, NAdam, RAdam
from fastopt.optimizers.adam_variants import AdaBelief, Adan, AdEMAMix, Yogi
from fastopt.optimizers.layerwise import LAMB, LARS, Muon, NovoGrad, StableAdamW
from fastopt.optimizers.schedule_free import ScheduleFreeAdamW, ScheduleFreeSGD
from fastopt.optimizers.sgd import ASGD, SGD, Momentum, Nesterov, SGDMomentum, SGDNesterov
from fastopt.optimizers.sign_based import Lion, Rprop, Signum
from fastopt.optimizers.sophia import Sophia

__all__ = [
    "ASGD",
    "LAMB",
    "LARS",
    "SGD",
    "AMSGrad",
    "AdEMAMix",
    "AdaBelief",
    "AdaGrad",
    "Adadelta",
    "Adam",
    "AdamW",
    "Adamax",
    "Adan",
    "CentredRMSProp",
    "Lion",
    "Momentum",
    "Muon",
    "NAdam",
    "Nesterov",
    "NovoGrad",
    "RAdam",
    "RMSProp",
    "RMSPropMomentum",
    "RMSprop",
    "Rprop",
    "SGDMomentum",
    "SGDNesterov",
    "ScheduleFreeAdamW",
    "ScheduleFreeSGD",
    "Signum",
    "Sophia",
    "StableAdamW",
    "Yogi",
]

_CLASSES: dict[str, type[Optimizer]] = {optimizer.rule: optimizer for optimizer in map(globals().__getitem__, __all__)}

OPTIMIZERS: dict[str, type[Optimizer]] = {rule: _CLASSES[rule] for rule in RULES}
"""The optimizer of each rule, in the order of the registry."""
