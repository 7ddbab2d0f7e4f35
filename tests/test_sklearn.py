"""scikit-learn's networks with fastopt's optimizers."""

import importlib
import pickle
import sys
import warnings

import numpy as np
import pytest

import fastopt

theirs = pytest.importorskip("sklearn.neural_network")

from sklearn.base import clone  # noqa: E402
from sklearn.exceptions import ConvergenceWarning  # noqa: E402

from fastopt import sklearn as ours  # noqa: E402

KINDS = ["MLPClassifier", "MLPRegressor"]
SETTINGS = {"hidden_layer_sizes": (7,), "batch_size": 20, "random_state": 0}


@pytest.fixture(autouse=True)
def unconverged():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


@pytest.fixture
def data(rng):
    x = rng.standard_normal((60, 4))
    return x, (x.sum(axis=1) > 0).astype(int)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"beta_1": 0.8, "beta_2": 0.99, "epsilon": 1e-6, "learning_rate_init": 0.01},
        {"early_stopping": True},
        {"solver": "sgd"},
        {"solver": "sgd", "learning_rate": "invscaling", "momentum": 0.8},
        {"solver": "sgd", "learning_rate": "adaptive", "tol": 1.0, "n_iter_no_change": 2},
        {"solver": "lbfgs"},
    ],
    ids=repr,
)
@pytest.mark.parametrize("kind", KINDS)
def test_the_same_settings_train_the_same_network(kind, settings, data):
    expected = getattr(theirs, kind)(**SETTINGS, max_iter=12, **settings).fit(*data)
    found = getattr(ours, kind)(**SETTINGS, max_iter=12, **settings).fit(*data)
    assert found.n_iter_ == expected.n_iter_
    for a, b in zip(found.coefs_ + found.intercepts_, expected.coefs_ + expected.intercepts_, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_plain_momentum_has_scikit_learns_bits(data):
    settings = {**SETTINGS, "solver": "sgd", "nesterovs_momentum": False, "max_iter": 12}
    for dtype in ("float32", "float64"):
        x = data[0].astype(dtype)
        expected = theirs.MLPClassifier(**settings).fit(x, data[1])
        found = ours.MLPClassifier(**settings).fit(x, data[1])
        assert all(a.tobytes() == b.tobytes() for a, b in zip(found.coefs_, expected.coefs_, strict=True))
        assert found.coefs_[0].dtype == dtype


@pytest.mark.parametrize("kind", KINDS)
def test_any_optimizer_trains(kind, data):
    optimizer = fastopt.Lion(lr=fastopt.schedules.Linear(0.01, 0.001, steps=60))
    model = getattr(ours, kind)(optimizer=optimizer, max_iter=20, **SETTINGS).fit(*data)
    assert model.optimizer is optimizer and optimizer.iter == 0
    assert isinstance(model.optimizer_, fastopt.Lion) and model.optimizer_.iter == 60
    assert model.score(*data) > 0.6
    model.partial_fit(*data)
    assert model.optimizer_.iter == 63
    model.fit(*data)
    assert model.optimizer_.iter == 60  # begins anew, as scikit-learn's


def test_it_is_an_estimator(data):
    model = ours.MLPClassifier((5,), "tanh", optimizer=fastopt.Adam(lr=0.25), max_iter=2, random_state=0)
    assert model.hidden_layer_sizes == (5,) and model.activation == "tanh"
    assert set(model.get_params()) == {*theirs.MLPClassifier().get_params(), "optimizer"}
    copied = clone(model)
    assert copied.optimizer is not model.optimizer and copied.optimizer.lr == 0.25
    assert "optimizer=Adam(lr=0.25" in repr(model) and "optimizer" not in repr(ours.MLPClassifier())
    model.fit(*data)
    again = pickle.loads(pickle.dumps(model))
    model.partial_fit(*data)
    again.partial_fit(*data)
    assert all(a.tobytes() == b.tobytes() for a, b in zip(model.coefs_, again.coefs_, strict=True))

    class Mine(ours.MLPClassifier):
        pass

    assert Mine(max_iter=2, optimizer=fastopt.SGD()).fit(*data).optimizer_.iter == 2
    with pytest.raises(AttributeError, match="no optimizer before fit"):
        _ = clone(model).optimizer_


def test_mistakes(data):
    with pytest.raises(TypeError, match="MLPClassifier: expected an optimizer"):
        ours.MLPClassifier(optimizer=fastopt.Adam).fit(*data)
    with pytest.raises(ValueError, match="both solver='sgd' and an optimizer are given; leave solver"):
        ours.MLPClassifier(optimizer=fastopt.Adam(), solver="sgd").fit(*data)


def test_without_scikit_learn_an_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.delitem(sys.modules, "fastopt.sklearn")
    with pytest.raises(ImportError, match=r"pip install 'fastopt\[sklearn\]'"):
        importlib.import_module("fastopt.sklearn")
