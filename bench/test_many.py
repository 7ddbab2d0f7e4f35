"""`many`: what is done once for each array, with 10,000 and 100,000 of three elements: ten times as long at most.

The first step makes the plan; with parameters replaced it takes up other addresses; gradients that lie in the
parameters, and views between one another, are looked for in their memory. Files are saved and loaded; arrays come, go
and get other rows.
"""

import numpy as np
import pytest

import fastopt


def apart(count):
    return {f"p{number}": np.ones(3, np.float32) for number in range(count)}


def interleaved(count, step=1):
    buffer = np.ones((3, step * count), np.float32)
    return [{f"p{number}": buffer[:, step * number + place] for number in range(count)} for place in range(step)]


def first_step(count, folder):
    params, grads = apart(count), apart(count)
    return lambda: fastopt.Adam().update(params, grads)


def own_gradients(count, folder):
    params, optimizer = apart(count), fastopt.Adam()
    return lambda: optimizer.update(params, params)


def views(count, folder):
    (params,), grads = interleaved(count), apart(count)
    return lambda: fastopt.Adam().update(params, grads)


def own_views(count, folder):
    (params,) = interleaved(count)
    return lambda: fastopt.Adam().update(params, params)


def views_between(count, folder):
    params, grads = interleaved(count, 2)
    return lambda: fastopt.Adam().update(params, grads)


def replaced(count, folder):
    params, grads, optimizer = apart(count), apart(count), fastopt.Adam()
    optimizer.update(params, grads)
    copies = [params, apart(count)]

    def step():
        copies.reverse()
        optimizer.update(copies[0], grads)

    return step


def stepped(count):
    params, optimizer = apart(count), fastopt.Adam()
    optimizer.update(params, apart(count))
    return optimizer, params


def save(count, folder):
    optimizer, _ = stepped(count)
    return lambda: optimizer.save(folder / "state")


def load(count, folder):
    optimizer, _ = stepped(count)
    optimizer.save(folder / "state")
    return lambda: fastopt.Adam().load(folder / "state")


def load_again(count, folder):
    optimizer, _ = stepped(count)
    optimizer.save(folder / "state")
    return lambda: optimizer.load(folder / "state")


def load_with_parameters(count, folder):
    optimizer, params = stepped(count)
    optimizer.save(folder / "state", params)
    return lambda: fastopt.Adam().load(folder / "state", params)


def come_and_go(count, folder):
    """As many new arrays join, and are forgotten after the step."""
    optimizer, params = stepped(count)
    more = {f"q{number}": np.ones(3, np.float32) for number in range(count)}
    both, grads = {**params, **more}, {**apart(count), **more}

    def step():
        optimizer.update(both, grads)
        optimizer.forget(more)

    return step


def reindex(count, folder):
    """Ten of them, which are told from the others."""
    optimizer, params = stepped(count)

    def rows():
        for key in list(params)[:10]:
            optimizer.reindex(key, [2, 1, 0])

    return rows


CASES = [first_step, own_gradients, views, own_views, views_between, replaced, save, load, load_again]
CASES += [load_with_parameters, come_and_go, reindex]


@pytest.mark.parametrize("count", [10_000, 100_000])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_many(benchmark, tmp_path, case, count):
    benchmark.group = f"many {case.__name__}"
    run = case(count if not benchmark.disabled else count // 250, tmp_path)
    benchmark.pedantic(run, rounds=2, warmup_rounds=1)
    benchmark.extra_info["us per array"] = 1e6 * benchmark.stats["min"] / count if not benchmark.disabled else None
