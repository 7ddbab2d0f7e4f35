"""Scripts of courses and blogs: cs231n's Solver, min-char-rnn, an evolution strategy."""

import copy

import numpy as np
import pytest

import fastopt
from fastopt.functional import cs231n
from tests.functional.test_cs231n import DEFAULTS, EXACT, written_out
from tests.scripts import oracles
from tests.scripts.models import cross_entropy, digits
from tests.scripts.oracles import By, assert_same_bits


class TwoLayers:
    """Affine, ReLU, affine: the model of a Solver, with `params` and `loss(x, t)`."""

    def __init__(self, rng):
        self.params = {
            "W1": 0.3 * rng.standard_normal((16, 12)),
            "b1": np.zeros(12),
            "W2": 0.3 * rng.standard_normal((12, 10)),
            "b2": np.zeros(10),
        }

    def loss(self, x, t):
        W1, b1, W2, b2 = self.params.values()
        hidden = np.maximum(x @ W1 + b1, 0)
        loss, back = cross_entropy(hidden @ W2 + b2, t)
        inner = back @ W2.T * (hidden > 0)
        return loss, {"W1": x.T @ inner, "b1": inner.sum(0), "W2": hidden.T @ back, "b2": back.sum(0)}


class Solver:
    """Steps each parameter by a rule that it looks up by name, with a config of its own; lr falls after each epoch."""

    def __init__(self, model, rules, update_rule, optim_config, lr_decay):
        self.model, self.rule, self.lr_decay = model, rules(update_rule), lr_decay
        self.configs = {name: dict(optim_config) for name in model.params}
        self.losses = []

    def train(self, x, t, epochs):
        for _ in range(epochs):
            for rows in np.split(np.arange(len(x)), 4):
                loss, grads = self.model.loss(x[rows], t[rows])
                self.losses.append(loss)
                for name, w in self.model.params.items():
                    self.model.params[name], self.configs[name] = self.rule(w, grads[name], self.configs[name])
            for config in self.configs.values():
                config["learning_rate"] *= self.lr_decay


@pytest.mark.parametrize("name", DEFAULTS)
def test_cs231n_solver(name, rng):
    """sgd and sgd_momentum: the same bits; rmsprop and adam to 1e-9 after 20 epochs."""

    def by_formula(name):
        def rule(w, dw, config):
            config = {**DEFAULTS[name], **config}
            return written_out(name, w, dw, config), config

        return rule

    x, t = digits(rng)
    first = TwoLayers(rng)
    solvers = []
    for rules in (lambda name: getattr(cs231n, name), by_formula):
        solvers.append(Solver(copy.deepcopy(first), rules, name, {"learning_rate": 1e-2}, 0.95))
        solvers[-1].train(x, t, 20)
    found, expected = (solver.model.params for solver in solvers)
    if name in EXACT:
        assert_same_bits(found, expected)
    for key in expected:
        np.testing.assert_allclose(found[key], expected[key], rtol=1e-9, atol=1e-11)
    assert solvers[0].losses[-1] < solvers[0].losses[0]
    assert solvers[0].configs["W1"]["learning_rate"] == pytest.approx(1e-2 * 0.95**20)


def character_gradients(params, inputs, targets, state):
    """Loss, gradients clipped to [-5, 5], and the last state of a network that predicts the next character."""
    states, indicators, losses, outputs = [state], np.eye(len(params["by"])), 0.0, []
    for character, target in zip(inputs, targets, strict=True):
        states.append(np.tanh(params["Wxh"][:, character] + params["Whh"] @ states[-1] + params["bh"]))
        scores = params["Why"] @ states[-1] + params["by"]
        odds = np.exp(scores) / np.exp(scores).sum()
        losses -= np.log(odds[target])
        outputs.append(odds - indicators[target])
    grads, following = {key: np.zeros_like(value) for key, value in params.items()}, np.zeros_like(state)
    for step in reversed(range(len(inputs))):
        grads["Why"] += np.outer(outputs[step], states[step + 1])
        grads["by"] += outputs[step]
        inner = (params["Why"].T @ outputs[step] + following) * (1 - states[step + 1] ** 2)
        grads["bh"] += inner
        grads["Wxh"] += np.outer(inner, indicators[inputs[step]])
        grads["Whh"] += np.outer(inner, states[step])
        following = params["Whh"].T @ inner
    for grad in grads.values():
        np.clip(grad, -5, 5, out=grad)
    return losses, grads, states[-1]


def test_min_char_rnn(rng):
    """AdaGrad with its constant under the root, five lines in the script: the same bits."""
    text = [ord(letter) - ord("a") for letter in "abcabdabeabc" * 20]
    shapes = {"Wxh": (8, 5), "Whh": (8, 8), "Why": (5, 8), "bh": (8,), "by": (5,)}
    first = {key: 0.1 * rng.standard_normal(shape) for key, shape in shapes.items()}
    runs = []
    for optimizer in (fastopt.AdaGrad(lr=0.1, eps_root=1e-8), By(oracles.adagrad_of_min_char_rnn)):
        params, state, losses = copy.deepcopy(first), np.zeros(8), []
        for start in range(0, 200, 10):
            loss, grads, state = character_gradients(
                params, text[start : start + 10], text[start + 1 : start + 11], state
            )
            optimizer.update(params, grads)
            losses.append(loss)
        runs.append((params, losses))
    assert_same_bits(runs[0][0], runs[1][0])
    assert runs[0][1] == runs[1][1] and losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize("rule", ["sgd", "adam"])
def test_evolution_strategy(rule, rng):
    """OpenAI's: plain ascent has the same bits; Adam on the negative gradient with weight decay is within 1e-12."""
    target, population, sigma, lr = np.array([0.5, 0.1, -0.3]), 50, 0.1, 0.02
    ours, formula = {
        "sgd": (fastopt.SGD(lr=lr, maximize=True), By(lambda p, g, t, s: p + lr * g)),
        "adam": (
            fastopt.Adam(lr=lr, beta1=0.99, eps=1e-8, maximize=True),
            By(lambda p, g, t, s: oracles.adam_of_evolution(p, -g, t, s, lr=lr)),
        ),
    }[rule]
    ends = []
    for optimizer in (ours, formula):
        theta, noise = np.zeros(3), np.random.default_rng(5)
        for _ in range(150):
            steps = noise.standard_normal((population, 3))
            rewards = -((theta + sigma * steps - target) ** 2).sum(axis=1)
            advantages = (rewards - rewards.mean()) / rewards.std()
            optimizer.update(theta, steps.T @ advantages / (population * sigma))
        ends.append(theta)
    if rule == "sgd":
        assert ends[0].tobytes() == ends[1].tobytes()
    np.testing.assert_allclose(ends[0], ends[1], rtol=1e-12)
    np.testing.assert_allclose(ends[0], target, atol=0.1)
