"""An evolution strategy over MPI balances a pole: `mpiexec -n 2 python evolution_strategy.py`.

Every process tries its own perturbations of the policy, made from seeds, and tells the others only the rewards
(`Allgather`). Their ranks weigh the perturbations of a step, and `fastopt.mpi.Sharded` adds up what each process found.
The outcome does not depend on the number of processes, up to rounding.

Salimans, Ho, Chen, Sidor and Sutskever, Evolution strategies as a scalable alternative to reinforcement learning, 2017,
arXiv:1703.03864. The pole is that of Barto, Sutton and Anderson, 1983, as in Gym's CartPole-v1.
"""

import numpy as np
from mpi4py import MPI

import fastopt
import fastopt.mpi

comm = MPI.COMM_WORLD
POPULATION, SIGMA, LONGEST, HIDDEN = 48, 0.3, 500, 8
SHAPES = {"W1": (4, HIDDEN), "b1": (HIDDEN,), "W2": (HIDDEN, 1)}


def balanced(policies, seed):
    """Steps that each policy keeps the pole up for, of at most 500; policies: {name: (n, *shape)}."""
    n = len(policies["b1"])
    x, v, angle, spin = state = np.random.default_rng(seed).uniform(-0.05, 0.05, (4, 1)) + np.zeros((4, n))
    steps, upright = np.zeros(n), np.ones(n, bool)
    for _ in range(LONGEST):
        hidden = np.tanh(np.einsum("in,nih->nh", state, policies["W1"]) + policies["b1"])
        force = np.where(np.einsum("nh,nho->n", hidden, policies["W2"]) > 0, 10.0, -10.0)
        pull = (force + 0.05 * spin**2 * np.sin(angle)) / 1.1
        turn = (9.8 * np.sin(angle) - np.cos(angle) * pull) / (0.5 * (4 / 3 - 0.1 * np.cos(angle) ** 2 / 1.1))
        push = pull - 0.05 * turn * np.cos(angle) / 1.1
        x, v, angle, spin = state = state + 0.02 * np.stack([v, push, spin, turn])
        upright &= (np.abs(x) < 2.4) & (np.abs(angle) < np.radians(12))
        steps += upright
        if not upright.any():
            break
    return steps


def main(generations=40):
    params = {name: np.zeros(shape) for name, shape in SHAPES.items()}
    optimizer = fastopt.mpi.Sharded(fastopt.Adam(lr=0.1, maximize=True), reduce="sum")
    optimizer.broadcast(params)
    mine = range(comm.rank, POPULATION // 2, comm.size)  # pairs: a perturbation and its opposite
    for generation in range(generations):
        noise = {name: np.zeros((len(mine), *shape)) for name, shape in SHAPES.items()}
        for row, pair in enumerate(mine):
            draw = np.random.default_rng([generation, pair])
            for name, shape in SHAPES.items():
                noise[name][row] = draw.standard_normal(shape)
        rewards = np.full(POPULATION, -np.inf)
        for sign, half in ((1, slice(0, None, 2)), (-1, slice(1, None, 2))):
            tried = {name: params[name] + sign * SIGMA * noise[name] for name in params}
            rewards[half][list(mine)] = balanced(tried, generation)
        every = np.empty((comm.size, POPULATION))
        comm.Allgather(rewards, every)
        rewards = every.max(axis=0)

        weights = rewards.argsort(kind="stable").argsort() / (POPULATION - 1) - 0.5
        of_pairs = (weights[::2] - weights[1::2])[list(mine)] / (POPULATION * SIGMA)
        optimizer.update(params, {name: np.tensordot(of_pairs, noise[name], 1) for name in params})

        policy = {name: value[None] for name, value in params.items()}
        test = np.mean([balanced(policy, [7, episode])[0] for episode in range(comm.rank, 20, comm.size)])
        mean = comm.allreduce(test) / comm.size
        if comm.rank == 0:
            print(
                f"generation {generation + 1:2}: best {rewards.max():3.0f}, the policy {mean:5.1f} steps",
                flush=True,
            )
        if mean >= 495:
            break
    optimizer.check_synced(params)
    return mean


if __name__ == "__main__":
    mean = main()
    if comm.rank == 0:
        print(f"the pole stays up for {mean:.0f} of {LONGEST} steps")
