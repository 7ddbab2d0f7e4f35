"""All ranks raise the same, before anything is written."""

import numpy as np

import fastopt
import fastopt.mpi
from fastopt.mpi import Sharded
from tests.conftest import assert_same_bits
from tests.mpi.support import RANK, SIZE, raises, same_on_all


def check_differences():
    if SIZE == 1:
        return
    last = RANK == SIZE - 1
    who = f"rank {SIZE - 1}"

    def refused(kind, params, grads, *parts, optimizer=None):
        sharded = Sharded(fastopt.Adam()) if optimizer is None else optimizer
        before = {key: np.array(value) for key, value in params.items()}
        with raises(kind, *parts) as error:
            sharded.update(params, grads)
        same_on_all(error.text)
        for key in params:
            assert_same_bits(np.array(params[key]), before[key])
        assert sharded.iter == 0

    name = "c" if last else "b"
    refused(ValueError, {"W": np.ones(3), name: np.ones(2)}, {"W": np.ones(3), name: np.ones(2)}, who, "params['b']")
    shape = (3, 4) if last else (4, 3)
    refused(ValueError, {"W": np.ones(shape)}, {"W": np.ones(shape)}, who, "params['W']", "(3, 4)", "(4, 3)")
    dtype = np.float32 if last else np.float64
    refused(ValueError, {"W": np.ones(3, dtype)}, {"W": np.ones(3)}, who, "params['W']", "float32", "float64")
    order = ("b", "a") if last else ("a", "b")
    ordered = dict.fromkeys(order, 1.0)
    refused(ValueError, dict(ordered), dict(ordered), who, "order")
    refused(ValueError, {"W": np.ones(3)}, {"W": np.ones(2) if last else np.ones(3)}, who, "grads['W']", "(2,)")
    refused(ValueError, {"W": np.ones(3)}, {"W": None if last else np.ones(3)}, who, "grads['W']", "None")
    refused(KeyError, {"W": np.ones(3)}, {} if last else {"W": np.ones(3)}, who, "W")
    sharded = Sharded(fastopt.Adam())
    sharded.lr = 0.5 if last else 0.25
    refused(ValueError, {"W": np.ones(3)}, {"W": np.ones(3)}, who, "lr = 0.5", "0.25", optimizer=sharded)
    sharded = Sharded(fastopt.Adam(groups={"W": {"lr": 0.5}}))
    sharded.groups["W"]["lr"] = 0.75 if last else 0.5
    refused(ValueError, {"W": np.ones(3)}, {"W": np.ones(3)}, who, "groups['W']['lr']", "0.75", optimizer=sharded)
    with raises(ValueError, who, "SGD"):
        Sharded(fastopt.SGD() if last else fastopt.Adam())
    sharded = Sharded(fastopt.Adam())
    params = {"W": np.ones(3)}
    with raises(ValueError, who, "check_synced", "update"):
        sharded.check_synced(params) if last else sharded.update(params, params)
    params["W"][1] = RANK
    with raises(RuntimeError, "rank 1", "params['W']", "broadcast"):
        sharded.check_synced(params)


def check_what_cannot_work():
    with raises(TypeError, "Sharded"):
        Sharded(fastopt.Adam)
    with raises(ValueError, "reduce", "'max'"):
        Sharded(fastopt.Adam(), reduce="max")
    with raises(ValueError, "transport"):
        Sharded(fastopt.Adam(), transport="float16")
    stepped = fastopt.Adam()
    stepped.update({"W": np.ones(3)}, {"W": np.ones(3)})
    with raises(ValueError, "stepped already"):
        Sharded(stepped)
    shared = np.ones(40)
    with raises(ValueError, "share memory"):
        Sharded(fastopt.Adam()).update({"a": shared, "b": shared}, {"a": shared, "b": shared})
    z = np.ones(40, complex)
    with raises(ValueError, "complex parameters and Sharded do not go together"):
        Sharded(fastopt.Adam()).update({"z": z}, {"z": z.copy()})
    sharded = Sharded(fastopt.Adam())
    sharded.update({"W": np.ones(3)}, {"W": np.ones(3)})
    with raises(KeyError, "'V'"):
        sharded.update({"V": np.ones(3)}, {"V": np.ones(3)})
    with raises(ValueError, "centralize"):
        sharded.centralize = True
        sharded.update({"W": np.ones(3)}, {"W": np.ones(3)})
    for name, settings in {
        "mask": {"mask": {"W": np.ones(3, bool)}},
        "bounds that are arrays": {"bounds": (np.zeros(3), None)},
        "max_norm": {"max_norm": 1.0},
    }.items():
        params = {"W": np.ones(3)}
        with raises(ValueError, name, "Sharded do not go together"):
            Sharded(fastopt.SGD(**settings)).update(params, {"W": np.ones(3)})
        assert_same_bits(params["W"], np.ones(3))
    with raises(AttributeError, "learning_rate"):
        sharded.learning_rate  # noqa: B018
    with raises(AttributeError, "learning_rate"):
        sharded.learning_rate = 1.0
    with raises(ValueError, "lr"):
        sharded.lr = -1.0
