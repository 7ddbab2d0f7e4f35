"""The update rules, each written once as a formula on scalars, and the machinery that compiles them."""

from fastopt.kernels.build import Rule
from fastopt.kernels.rules.adabelief import adabelief
from fastopt.kernels.rules.adadelta import adadelta
from fastopt.kernels.rules.adagrad import adagrad
from fastopt.kernels.rules.adam import adam
from fastopt.kernels.rules.adamax import adamax
from fastopt.kernels.rules.adan import adan
from fastopt.kernels.rules.ademamix import ademamix
from fastopt.kernels.rules.amsgrad import amsgrad
from fastopt.kernels.rules.asgd import asgd
from fastopt.kernels.rules.centred_rmsprop import centred_rmsprop
from fastopt.kernels.rules.lamb import lamb, lamb_measure
from fastopt.kernels.rules.lars import lars, lars_measure
from fastopt.kernels.rules.lion import lion
from fastopt.kernels.rules.momentum import momentum
from fastopt.kernels.rules.muon import muon, muon_direction
from fastopt.kernels.rules.nadam import nadam
from fastopt.kernels.rules.nesterov import nesterov
from fastopt.kernels.rules.novograd import novograd, novograd_measure
from fastopt.kernels.rules.radam import radam
from fastopt.kernels.rules.rmsprop import rmsprop
from fastopt.kernels.rules.rmsprop_momentum import rmsprop_momentum
from fastopt.kernels.rules.rprop import rprop
from fastopt.kernels.rules.schedule_free_adamw import schedule_free_adamw
from fastopt.kernels.rules.schedule_free_sgd import schedule_free_sgd
from fastopt.kernels.rules.sgd import sgd
from fastopt.kernels.rules.sgd_momentum import sgd_momentum
from fastopt.kernels.rules.sgd_nesterov import sgd_nesterov
from fastopt.kernels.rules.signum import signum
from fastopt.kernels.rules.sophia import sophia
from fastopt.kernels.rules.stable_adamw import stable_adamw, stable_adamw_measure
from fastopt.kernels.rules.yogi import yogi
from fastopt.kernels.skipped_steps import adagrad_idle, momentum_idle, rmsprop_idle, sgd_idle

RULES: dict[str, Rule] = {
    "sgd": Rule(sgd, rows=True, idle=sgd_idle),
    "momentum": Rule(momentum, state=("v",), rows=True, idle=momentum_idle),
    "nesterov": Rule(nesterov, state=("v",)),
    "sgd_momentum": Rule(sgd_momentum, state=("v",)),
    "sgd_nesterov": Rule(sgd_nesterov, state=("v",)),
    "asgd": Rule(asgd, state=("average",)),
    "rprop": Rule(rprop, state=("previous", "step_size"), nonnegative=("step_size",), exact=("previous",)),
    "signum": Rule(signum, state=("m",), signed=("m",)),
    "lion": Rule(lion, state=("m",), signed=("m",)),
    "adagrad": Rule(adagrad, state=("h",), nonnegative=("h",), rows=True, idle=adagrad_idle),
    "rmsprop": Rule(rmsprop, state=("h",), nonnegative=("h",), rows=True, idle=rmsprop_idle),
    "rmsprop_momentum": Rule(rmsprop_momentum, state=("h", "v"), nonnegative=("h",)),
    "centred_rmsprop": Rule(centred_rmsprop, state=("h", "m", "v"), nonnegative=("h",)),
    "adadelta": Rule(adadelta, state=("h", "d"), nonnegative=("h", "d")),
    "adam": Rule(adam, state=("m", "v"), nonnegative=("v",), rows=True),
    "amsgrad": Rule(amsgrad, state=("m", "v", "v_max"), nonnegative=("v", "v_max")),
    "adamw": Rule(adam, state=("m", "v"), nonnegative=("v",), rows=True),
    "adamax": Rule(adamax, state=("m", "u"), nonnegative=("u",)),
    "nadam": Rule(nadam, state=("m", "v"), nonnegative=("v",)),
    "radam": Rule(radam, state=("m", "v"), nonnegative=("v",)),
    "adabelief": Rule(adabelief, state=("m", "s"), nonnegative=("s",)),
    "yogi": Rule(yogi, state=("m", "v"), nonnegative=("v",)),
    "ademamix": Rule(ademamix, state=("m", "slow", "v"), nonnegative=("v",)),
    "adan": Rule(adan, state=("m", "v", "n", "previous"), nonnegative=("n",)),
    "sophia": Rule(sophia, state=("m", "h")),
    "schedule_free_sgd": Rule(schedule_free_sgd, state=("offset",)),
    "schedule_free_adamw": Rule(schedule_free_adamw, state=("v", "offset"), nonnegative=("v",)),
    "lars": Rule(lars, state=("v",), measure=lars_measure),
    "lamb": Rule(lamb, state=("m", "v"), measure=lamb_measure),
    "stable_adamw": Rule(stable_adamw, state=("m", "v"), measure=stable_adamw_measure),
    "novograd": Rule(novograd, state=("m", "v"), measure=novograd_measure, squares_norms=True),
    "muon": Rule(muon, state=("m", "o"), prepare=muon_direction),
}
