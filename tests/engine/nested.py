"""Parameters in every kind of container in one another."""

from collections import OrderedDict, namedtuple
from dataclasses import dataclass

import numpy as np

Layer = namedtuple("Layer", "W b")
Turned = namedtuple("Turned", "b W")


@dataclass
class Block:
    W: np.ndarray
    heads: list
    activation: str = "relu"


def nested(rng, dtype="float64", number=float):
    """Every kind of container in one another, with nothing in some of them."""

    def array(*shape):
        return np.asarray(rng.standard_normal(shape)).astype(dtype)

    return {
        "enc": [Layer(array(3, 2), array(2)), {"W": array(2, 2), "scale": number(0.5)}, (), None],
        "ordered": OrderedDict(b=array(3), a=np.asfortranarray(array(2, 3))),
        "block": Block(array(4), [array(2), [array(1)]]),
        "last": array(2),
    }


NAMES = ["enc.0.W", "enc.0.b", "enc.1.W", "enc.1.scale", "ordered.b", "ordered.a", "block.W", "block.heads.0"]
NAMES += ["block.heads.1.0", "last"]


def leaves(params):
    return [
        *params["enc"][0],
        *params["enc"][1].values(),
        *params["ordered"].values(),
        params["block"].W,
        params["block"].heads[0],
        params["block"].heads[1][0],
        params["last"],
    ]
