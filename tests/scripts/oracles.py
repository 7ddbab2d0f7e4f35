"""The optimizers of books and courses by their formulas, as scripts have them: one expression per line of the formula.

`By(formula, **settings)` walks a dict, a list or one array and writes in place, as those classes do.
"""

import numpy as np


def sgd(p, g, t, s, lr=0.01):
    return p - lr * g


def momentum(p, g, t, s, lr=0.01, momentum=0.9):
    s["v"] = momentum * s["v"] - lr * g
    return p + s["v"]


def nesterov(p, g, t, s, lr=0.01, momentum=0.9):
    p = p + momentum * momentum * s["v"]
    p = p - (1 + momentum) * lr * g
    s["v"] = momentum * s["v"] - lr * g
    return p


def adagrad(p, g, t, s, lr=0.01, eps=1e-7):
    s["h"] = s["h"] + g * g
    return p - lr * g / (np.sqrt(s["h"]) + eps)


def rmsprop(p, g, t, s, lr=0.01, decay_rate=0.99, eps=1e-7):
    s["h"] = decay_rate * s["h"]
    s["h"] = s["h"] + (1 - decay_rate) * g * g
    return p - lr * g / (np.sqrt(s["h"]) + eps)


def adam(p, g, t, s, lr=0.001, beta1=0.9, beta2=0.999, eps=1e-7):
    s["m"] = s["m"] + (1 - beta1) * (g - s["m"])
    s["v"] = s["v"] + (1 - beta2) * (g**2 - s["v"])
    return p - float(lr * np.sqrt(1.0 - beta2**t) / (1.0 - beta1**t)) * s["m"] / (np.sqrt(s["v"]) + eps)


def adagrad_of_min_char_rnn(p, g, t, s, lr=0.1):
    s["memory"] = s["memory"] + g * g
    return p + -lr * g / np.sqrt(s["memory"] + 1e-8)


def adam_of_evolution(p, g, t, s, lr=0.01, beta1=0.99, beta2=0.999, eps=1e-8):
    s["m"] = beta1 * s["m"] + (1 - beta1) * g
    s["v"] = beta2 * s["v"] + (1 - beta2) * (g * g)
    return p - lr * np.sqrt(1 - beta2**t) / (1 - beta1**t) * s["m"] / (np.sqrt(s["v"]) + eps)


class Zeros(dict):
    """State that is zero before the first step."""

    def __missing__(self, slot):
        return 0.0


class By:
    """An optimizer of a formula, with `update(params, grads)`."""

    def __init__(self, formula, **settings):
        self.formula, self.settings, self.state, self.t = formula, settings, {}, 0

    def update(self, params, grads):
        self.t += 1
        if isinstance(params, np.ndarray):
            params, grads = [params], [grads]
        for key in params if isinstance(params, dict) else range(len(params)):
            state = self.state.setdefault(key, Zeros())
            new = self.formula(params[key], grads[key], self.t, state, **self.settings)
            if isinstance(params[key], np.ndarray):
                params[key][...] = new
            else:
                params[key] = new


def assert_same_bits(found, expected):
    """Every array of two lists or dicts has the same bits."""
    keys = list(expected) if isinstance(expected, dict) else range(len(expected))
    assert len(found) == len(expected)
    for key in keys:
        assert np.asarray(found[key]).tobytes() == np.asarray(expected[key]).tobytes(), key
