"""The update rules, each written once as a formula on scalars, and the machinery that compiles them."""

from fastopt.kernels.adagrad import adagrad
from fastopt.kernels.adam import adam
from fastopt.kernels.build import Rule
from fastopt.kernels.momentum import momentum
from fastopt.kernels.nesterov import nesterov
from fastopt.kernels.rmsprop import rmsprop
from fastopt.kernels.sgd import sgd

RULES: dict[str, Rule] = {
    "sgd": Rule(sgd),
    "momentum": Rule(momentum, state=("v",)),
    "nesterov": Rule(nesterov, state=("v",)),
    "adagrad": Rule(adagrad, state=("h",)),
    "rmsprop": Rule(rmsprop, state=("h",)),
    "adam": Rule(adam, state=("m", "v")),
}
