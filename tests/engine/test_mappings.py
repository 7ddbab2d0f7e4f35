"""Mappings other than dicts, among them those that hand out another array at each access."""

import shelve
from collections import OrderedDict, UserDict
from types import MappingProxyType

import numpy as np
import pytest

import fastopt
from fastopt import Rows
from fastopt.optimizers import OPTIMIZERS
from tests.conftest import ONE_OF_EACH_KIND, assert_same_bits


class Copying(UserDict):
    """Whose every access is a copy."""

    def __getitem__(self, key):
        return np.copy(super().__getitem__(key))


class CopyingDict(dict):
    """Whose `values` are its own, and whose accesses are copies."""

    def __getitem__(self, key):
        return super().__getitem__(key).copy()


class Views(UserDict):
    """Whose every access is another view of the same memory."""

    def __getitem__(self, key):
        return super().__getitem__(key)[...]


def model():
    return {"W": np.arange(6.0).reshape(2, 3), "b": np.ones(2, np.float32), "F": np.asfortranarray(np.ones((3, 4)))}


def run(rule, params, steps=4, **settings):
    optimizer = OPTIMIZERS[rule](**settings)
    for step in range(steps):
        grads = {key: np.full(params[key].shape, 0.5 + step) for key in params}
        optimizer.update(params, grads, report=step == 2)
    return optimizer


@pytest.mark.parametrize("kind", [Copying, CopyingDict, Views, OrderedDict, UserDict])
@pytest.mark.parametrize("rule", ONE_OF_EACH_KIND)
def test_steps_arrive(rule, kind):
    plain, params = model(), kind(model())
    one, other = run(rule, plain), run(rule, params)
    for key in plain:
        assert_same_bits(np.asarray(params[key]), plain[key])
    for slot in one._rule.state:
        for key in plain:
            assert_same_bits(getattr(other, slot)[key], getattr(one, slot)[key])


@pytest.mark.parametrize("kind", [Copying, CopyingDict])
@pytest.mark.parametrize(
    "settings", [{"averaging": fastopt.EMA(0.5)}, {"lookahead": fastopt.Lookahead(2)}, {"clip_norm": 1.0}]
)
def test_steps_with_more_to_do(kind, settings):
    plain, params = model(), kind(model())
    one, other = run("lamb", plain, **settings), run("lamb", params, **settings)
    for key in plain:
        assert_same_bits(params[key], plain[key])
    if one.averaging:
        with one.averaged_weights(plain), other.averaged_weights(params):
            for key in plain:
                assert_same_bits(params[key], plain[key])
        for key in plain:
            assert_same_bits(params[key], plain[key])


def test_a_shelf(tmp_path):
    plain = {"W": np.ones(3)}
    with shelve.open(str(tmp_path / "file")) as shelf:
        shelf["W"] = np.ones(3)
        run("adam", shelf)
        run("adam", plain)
        assert_same_bits(shelf["W"], plain["W"])


@pytest.mark.parametrize("make", ["npz", "proxy", "refusing"])
def test_what_cannot_be_assigned_to_is_refused(tmp_path, make):
    class Refusing(Copying):
        def __setitem__(self, key, value):
            if key in self.data:
                raise OSError("read-only file")
            super().__setitem__(key, value)

    np.savez(tmp_path / "file.npz", W=np.ones(3))
    params = {
        "npz": lambda: np.load(tmp_path / "file.npz"),
        "proxy": lambda: MappingProxyType(Copying(W=np.ones(3))),
        "refusing": lambda: Refusing(W=np.ones(3)),
    }[make]()
    optimizer = fastopt.Adam()
    words = r"Adam: params, of type \w+, hands out another array for 'W' at each access.* params = dict\(params\)"
    with pytest.raises(TypeError, match=words):
        optimizer.update(params, {"W": np.ones(3)})
    assert optimizer.iter == 0 and not optimizer.m and (params["W"] == 1).all()
    steady = dict(params)
    optimizer.update(steady, {"W": np.ones(3)})
    assert (steady["W"] != 1).all()
    with pytest.raises(TypeError, match=words):
        optimizer.update(params, {"W": np.ones(3)})
    if make == "npz":
        params.close()


def test_a_proxy_of_a_dict_is_taken():
    params = {"W": np.ones(3)}
    fastopt.SGD(lr=1.0).update(MappingProxyType(params), {"W": np.ones(3)})
    assert (params["W"] == 0).all()


def test_a_mapping_that_begins_to_copy():
    class Later(UserDict):
        copies = False

        def __getitem__(self, key):
            return super().__getitem__(key).copy() if self.copies else super().__getitem__(key)

    params, optimizer = Later(W=np.full(3, 8.0)), fastopt.SGD(lr=1.0)
    for copies in (False, False, True, True, False, True):
        params.copies = copies
        optimizer.update(params, {"W": np.ones(3)})
    assert (params["W"] == 2).all()


def test_rows_of_copies_are_refused():
    rows = Rows(np.array([1]), np.ones((1, 2)), exact=True)
    with pytest.raises(TypeError, match=r"the gradient of params\['e'\] is Rows, .* hands out another array"):
        fastopt.SGD().update(Copying(e=np.ones((3, 2))), {"e": rows})
    params, optimizer = {"e": np.ones((3, 2))}, fastopt.Momentum()
    for row in (0, 1):
        optimizer.update(params, {"e": Rows(np.array([row]), np.ones((1, 2)), exact=True)})
    with pytest.raises(TypeError, match="hands out another array for 'e'"):
        optimizer.catch_up(Copying(params))


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("key", model())
def test_a_step_is_finished_though_a_mapping_fails_at_one_of_its_keys(key, error):
    """It fails once, as a signal handler in its method does."""

    class Failing(Copying):
        fails = False

        def __setitem__(self, name, value):
            super().__setitem__(name, value)
            if self.fails and name == key:
                self.fails = False
                raise error("once")

    plain, params = model(), Failing(model())
    one, other = run("momentum", plain), run("momentum", params)
    grads = {name: np.full(value.shape, 3.0) for name, value in plain.items()}
    one.update(plain, grads)
    params.fails = True
    with pytest.raises(error, match="once"):
        other.update(params, grads)
    assert other.iter == one.iter == 5
    for name in plain:
        assert_same_bits(params[name], plain[name])
        assert_same_bits(other.v[name], one.v[name])
