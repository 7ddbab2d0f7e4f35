"""Ten experiments of the kind that a course on deep learning shows, each a function that returns its curves.

>>> from fastopt.experiments import ravine
>>> result = ravine.run(backend="reference")
>>> sorted(result.curves)[:3]
['AdaGrad x', 'AdaGrad y', 'Adam x']

`fastopt experiment NAME` runs one and writes its picture and its curves, `fastopt experiment --list` names all.
"""

NAMES = (
    "ravine",
    "optimizers-mnist",
    "optimizers-sigmoid",
    "rmsprop-adagrad",
    "activations",
    "weight-init",
    "batchnorm",
    "weight-decay",
    "dropout",
    "hyperparameters",
)
"""In the order of a course; each is the module of that name, with `_` for `-`."""
