"""The same optimizers in plain NumPy, to read beside the formulas and to check the compiled ones against.

Same names, same settings, same `update(params, grads)`, one NumPy expression per operation as in *Deep Learning from
Scratch*. Every number that a compiled optimizer gives is equal to the last bit to what these give, in float64 and, as
all scalars are Python floats, which NumPy takes in the dtype of the array, in float32.

They do not check their input. The one thing added to the textbook is `flush`: a state value smaller than the smallest
normal number becomes zero, as in the compiled kernels; with `optimizer.flush = False` the textbook stands alone, for a
fair comparison of times.
"""

from fastopt.reference.adagrad import Adadelta, AdaGrad, CentredRMSProp, RMSProp, RMSprop, RMSPropMomentum
from fastopt.reference.adam import Adam, Adamax, AdamW, AMSGrad, NAdam, RAdam
from fastopt.reference.adam_variants import AdaBelief, Adan, AdEMAMix, Yogi
from fastopt.reference.base import Reference as Reference
from fastopt.reference.layerwise import LAMB, LARS, Muon, NovoGrad, StableAdamW
from fastopt.reference.schedule_free import ScheduleFreeAdamW, ScheduleFreeSGD
from fastopt.reference.sgd import ASGD, SGD, Momentum, Nesterov, SGDMomentum, SGDNesterov
from fastopt.reference.sign_based import Lion, Rprop, Signum
from fastopt.reference.sophia import Sophia

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
