"""Parameters, gradients and comparisons for checks on several processes."""

import numpy as np
from mpi4py import MPI

from fastopt.mpi import Sharded
from tests.conftest import assert_same_bits

COMM = MPI.COMM_WORLD
RANK, SIZE = COMM.rank, COMM.size


def arrays(seed, kinds=("float32", "float64")):
    """Parameters or gradients, the same on all ranks: matrices, vectors, a number, nothing, and not contiguous ones."""
    rng = np.random.default_rng(seed)
    draw = rng.standard_normal
    found = {
        "W": draw((37, 13)).astype(np.float32),
        "b": draw(13).astype(np.float32),
        "V": np.asfortranarray(draw((5, 7))),
        "empty": np.zeros((0, 3), np.float32),
        "s": draw(()),
        "strided": draw((9, 9)).astype(np.float32)[::2, ::2],
    }
    return {key: array for key, array in found.items() if array.dtype.name in kinds}


def added_up(of_ranks, reduce="mean"):
    """The gradients of all ranks as one process adds them up."""
    total = {}
    for key, first in of_ranks[0].items():
        sum_ = first
        for other in of_ranks[1:]:
            sum_ = sum_ + other[key]
        total[key] = sum_ * first.dtype.type(1 / SIZE) if reduce == "mean" else sum_
    return total


def assert_alike(sharded, plain, params, reference):
    for key in reference:
        assert_same_bits(params[key], reference[key])
    assert (sharded.iter, sharded.skipped) == (plain.iter, plain.skipped)
    for slot in plain._rule.state:
        for leaf_slice, values in getattr(sharded, slot).items():
            whole = getattr(plain, slot)[leaf_slice.path].ravel(order="K")
            assert_same_bits(values.ravel(order="K"), whole[leaf_slice.start : leaf_slice.stop])
    sharded.check_synced(params)


def compare(make, steps=3, reduce="mean", kinds=("float32", "float64"), change=None):
    """Steps of `make()` shared out, and on one process, side by side."""
    params, reference = arrays(0, kinds), arrays(0, kinds)
    for array in params.values():
        array[...] *= RANK == 0
    sharded, plain = Sharded(make(), reduce=reduce), make()
    sharded.broadcast(params)
    for step in range(steps):
        gradients = [arrays(100 * step + rank + 1, kinds) for rank in range(SIZE)]
        if change is not None:
            change(step, gradients)
        sharded.update(params, gradients[RANK])
        with np.errstate(all="ignore"):
            plain.update(reference, added_up(gradients, reduce))
    assert_alike(sharded, plain, params, reference)
    return sharded, params


def raises(kind, *parts):
    """A context in which an error of this kind, with these parts in its text, is raised."""

    class Context:
        def __enter__(self):
            return self

        def __exit__(self, found, error, traceback):
            assert found is not None and issubclass(found, kind), f"{found} {error}"
            self.text = str(error)
            for part in parts:
                assert part in self.text, self.text
            return True

    return Context()


def same_on_all(value):
    assert len(set(COMM.allgather(value))) == 1, COMM.allgather(value)
