"""Training with compact state, beside state in float32; `python -m bench.storage` says how it is run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from pydoc_data import topics
from typing import Any

import numpy as np
from matplotlib import rc_context
from threadpoolctl import threadpool_limits

from bench.models import Lstm
from fastopt.experiments.figures import finish, new_figure
from fastopt.kernels.codecs import STORAGES
from fastopt.nn import MultiLayerNet, load_mnist
from fastopt.optimizers import OPTIMIZERS

RULES_TRAINED = ("adam", "adamw", "amsgrad", "momentum", "rmsprop", "lion")
CHARACTERS = "characters"
"""In place of a rule: an LSTM on characters, with Adam."""


class Characters(Lstm):
    """The language model of `bench.models` on the characters of Python's own help texts; the last tenth is held out."""

    def __init__(self, seed: int, batch: int = 20) -> None:
        text = "".join(topics.topics.values())
        known = sorted(set(text))
        super().__init__(batch, "float32", words=len(known), width=100)
        rng, codes = np.random.default_rng(seed), np.searchsorted(np.array(known), np.array(list(text)))
        cut = len(codes) * 9 // 10
        self.text = np.stack([self._lines(codes[:cut], rng, batch) for _ in range(500)])
        self.held_out = self._lines(codes[cut:], np.random.default_rng(0), 200)
        for array in self.params.values():
            if array.ndim == 2:
                array[...] = rng.standard_normal(array.shape) / np.sqrt(self.width)

    @staticmethod
    def _lines(codes: Any, rng: np.random.Generator, count: int, time: int = 35) -> Any:
        starts = rng.integers(0, len(codes) - time - 1, count)
        return codes[starts[:, None] + np.arange(time + 1)]

    def loss(self) -> float:
        """Nats a character, of what is held out."""
        text, self.text = self.text, self.held_out[None]
        self.gradient(0)
        self.text = text
        return float(self.last_loss)


class Digits:
    """The network of `optimizers-mnist` and its data."""

    def __init__(self, seed: int) -> None:
        (self.x_train, self.t_train), (self.x_test, self.t_test) = load_mnist()
        np.random.seed(seed)  # noqa: NPY002  (the network's own)
        self.network, self.random = MultiLayerNet(784, [100] * 4, 10), np.random.default_rng(seed)
        self.params = self.network.params

    def train(self, optimizer: Any, steps: int, after: Callable[[], None] = lambda: None) -> list[float]:
        """Return the losses of all steps; calls `after` at the end of each."""
        losses = []
        for _ in range(steps):
            batch = self.random.integers(0, len(self.x_train), 128)
            x, t = self.x_train[batch], self.t_train[batch]
            optimizer.update(self.params, self.network.gradient(x, t))
            after()
            losses.append(float(self.network.loss(x, t)))
        return losses

    def accuracy(self) -> float:
        """Of the test images."""
        return float(self.network.accuracy(self.x_test, self.t_test))


def digits_run(rule: str, storage: str, seed: int, steps: int = 2000) -> tuple[list[float], float]:
    """Losses of all steps, and the test accuracy, of the network of `optimizers-mnist`."""
    digits = Digits(seed)
    losses = digits.train(OPTIMIZERS[rule](state_storage=storage, storage_seed=seed), steps)
    return losses, digits.accuracy()


def characters_run(storage: str, seed: int, steps: int = 500) -> tuple[list[float], float]:
    """Losses of all steps of the character model with Adam, and that of the text that is held out."""
    model, losses = Characters(seed), []
    optimizer = OPTIMIZERS["adam"](lr=0.003, state_storage=storage, storage_seed=seed)
    with threadpool_limits(1, user_api="blas"):  # of matrices this small a second thread takes longer
        for step in range(steps):
            optimizer.update(model.params, model.gradient(step))
            losses.append(float(model.last_loss))
        return losses, model.loss()


Runs = dict[str, dict[str, list[list[float]]]]
"""By rule and storage, of each seed the mean of the last 100 losses, and what `digits_run` returns beside them."""


def training(rules: list[str], seeds: int, runs: Runs, keep: Callable[[], None]) -> None:
    """Adds the runs of so many seeds that are not there yet, calls `keep` after each, and prints means and spreads."""
    for rule in rules:
        of_rule = runs.setdefault(rule, {})
        for seed in range(seeds):  # so that all storages have as many
            for storage in STORAGES:
                results = of_rule.setdefault(storage, [])
                if len(results) > seed:
                    continue
                run = characters_run(storage, seed) if rule == CHARACTERS else digits_run(rule, storage, seed)
                results.append([float(f"{value:.6g}") for value in (np.mean(run[0][-100:]), run[1])])
                keep()
        for storage, results in of_rule.items():
            (loss, last), (loss_spread, last_spread) = summary(results)
            what = "held out" if rule == CHARACTERS else "accuracy"
            print(
                f"{rule:10} {storage:9} loss {loss:.4f} +- {loss_spread:.4f}, {what} {last:.4f} +- {last_spread:.4f} "
                f"({len(results)} seeds)",
                flush=True,
            )


def summary(results: list[list[float]]) -> tuple[Any, Any]:
    """Means and standard deviations over seeds, of one seed 0."""
    return np.mean(results, axis=0), np.std(results, axis=0, ddof=min(1, len(results) - 1))


def roots(storage: str, steps: int = 5000) -> Iterator[tuple[int, float]]:
    """The mean of sqrt(v) of Adam after gradients have fallen by 100 times, every 100 steps."""
    rng, params = np.random.default_rng(0), {"W": np.zeros(8192, np.float32)}
    optimizer = OPTIMIZERS["adam"](lr=0.0, state_storage=storage)
    for step in range(1000 + steps):
        scale = np.float32(1.0 if step < 1000 else 0.01)
        optimizer.update(params, {"W": scale * rng.standard_normal(8192, dtype=np.float32)})
        if step >= 1000 and step % 100 == 99:
            yield step - 999, float(np.sqrt(optimizer.v["W"]).mean())


def decay() -> None:
    """Prints the root of v over float32's after gradients have fallen by 100 times."""
    exact = dict(roots("float32"))
    for storage in STORAGES[1:]:
        ratios = [root / exact[step] for step, root in roots(storage) if step % 500 == 0]
        print(f"{storage:9} sqrt(v) over float32's, each 500 steps: {', '.join(f'{r:.3f}' for r in ratios)}")


def picture(path: Path) -> None:
    """Draws loss curves and the decay of v."""
    figure = new_figure(4.2, "State in 16 and 8 bits trains as float32's does")
    left, right = figure.subplots(1, 2)
    styles = {"float32": ("#000000", "-"), "bfloat16": ("#0072B2", "--"), "int8": ("#D55E00", ":")}
    exact = dict(roots("float32"))
    for storage, (colour, line) in styles.items():
        losses = np.mean([digits_run("adam", storage, seed, 1000)[0] for seed in range(3)], axis=0)
        smooth = np.convolve(losses, np.ones(25) / 25, "valid")
        left.plot(np.arange(25, 1001), smooth, line, color=colour, label=storage)
        steps, values = zip(*roots(storage), strict=True)
        right.plot(steps, [value / exact[step] for step, value in zip(steps, values, strict=True)], line, color=colour)
    left.set_yscale("log")
    left.legend()
    finish(left, xlabel="step", ylabel="training loss, mean of 3 seeds", title="Adam on MNIST, 784-100x4-10")
    right.axhspan(0.97, 1.03, color="0.9")
    finish(
        right,
        xlabel="steps since gradients fell by 100 times",
        ylabel="mean sqrt(v), of float32's",
        title="v decays as it does in float32",
        ylim=(0.9, 1.1),
    )
    with rc_context({"svg.hashsalt": path.stem}):  # the same bytes each time
        figure.savefig(path, metadata={"Date": None})
    print(path)
