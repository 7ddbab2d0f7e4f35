"""Nested parameters with groups, reports, averages, checkpoints, and leaves that come and go."""

import copy
import pickle

import numpy as np
import pytest

import fastopt
from fastopt import Adam, Rows, structure
from tests.conftest import Pair, assert_same_bits
from tests.engine.nested import NAMES, Block, Layer, leaves, nested


def test_names_are_what_groups_reports_and_errors_use(rng):
    params = nested(rng)
    optimizer = Adam(lr=0.1, groups={"enc.*": {"frozen": True}, "block.heads.*": {"lr": 0.0}})
    before, grads = copy.deepcopy(params), nested(rng)
    del grads["enc"][1]["scale"]  # whose group is frozen
    report = optimizer.update(params, grads, report=True)
    assert list(report.by_key) == NAMES[4:]
    for name, new, old in zip(NAMES, leaves(params), leaves(before), strict=True):
        assert np.array_equal(new, old) == name.startswith(("enc", "block.heads"))
    optimizer = Adam(on_nonfinite="raise")
    grads = nested(rng)
    grads["enc"][1]["W"][0, 0] = np.nan
    with pytest.raises(FloatingPointError, match=r"Adam: grads\['enc'\]\[1\]\['W'\] has 1 of 4 values that are not"):
        optimizer.update(params, grads)


def test_tied_weights_are_stepped_once_per_path(rng):
    shared = rng.standard_normal((3, 2))
    params, flat = [shared, {"out": shared}], {"a": shared.copy()}
    flat["b"] = flat["a"]
    grads = [rng.standard_normal((3, 2)), {"out": rng.standard_normal((3, 2))}]
    fastopt.Momentum().update(params, grads)
    fastopt.Momentum().update(flat, {"a": grads[0], "b": grads[1]["out"]})
    assert_same_bits(shared, flat["a"])


def test_rows_in_nested_containers(rng):
    params, flat = [{"e": np.ones((4, 2))}, np.ones(2)], {"e": np.ones((4, 2))}
    optimizer, plain = fastopt.Momentum(), fastopt.Momentum()
    for row in (1, 2, 1):
        rows = Rows(np.array([row]), np.ones((1, 2)), exact=True)
        optimizer.update(params, [{"e": rows}, None])
        plain.update(flat, {"e": rows})
    optimizer.catch_up(params)
    plain.catch_up(flat)
    assert_same_bits(params[0]["e"], flat["e"])


def test_fields_without_a_gradient(rng):
    pair = Pair("momentum")
    fast, plain = ([Block(np.ones(2), [np.ones(1)]), Block(np.ones(3), [])] for _ in range(2))
    for grads in ([Block(None, [np.ones(1)]), Block(np.ones(3), [])], [Block(np.ones(2), None), None]):
        pair.update(fast, plain, grads)
    for one, other in zip(fast, plain, strict=True):
        assert_same_bits(one.W, other.W)
    assert_same_bits(fast[0].heads[0], plain[0].heads[0])
    assert (fast[0].W < 1).all() and (fast[1].W < 1).all()


def test_averages_have_the_form_of_the_parameters(rng):
    params, optimizer = nested(rng), Adam(averaging=fastopt.EMA(decay=0.5), lookahead=fastopt.Lookahead(every=2))
    for _ in range(3):
        optimizer.update(params, nested(rng))
    averaged, now = optimizer.averaged(params), copy.deepcopy(params)
    assert isinstance(averaged["enc"][0], Layer) and averaged["block"].activation == "relu"
    for mine, average in zip(leaves(averaged), leaves(optimizer.weight_average), strict=True):
        assert np.array_equal(mine, average)
    with optimizer.averaged_weights(params):
        for mine, average in zip(leaves(params), leaves(averaged), strict=True):
            assert_same_bits(mine, average)
    for mine, before in zip(leaves(params), leaves(now), strict=True):
        assert_same_bits(mine, before)


def test_checkpoints_name_paths_and_load_into_the_same_structure(rng, tmp_path):
    params, optimizer = nested(rng), Adam(lr=0.1)
    for _ in range(2):
        optimizer.update(params, nested(rng))
    assert list(optimizer.state_dict()["state"]["m"]) == NAMES
    optimizer.save(tmp_path / "state", params)
    other, resumed = nested(rng), Adam()
    assert not any(resumed.load(tmp_path / "state", other))
    for mine, saved in zip(leaves(other) + leaves(resumed.m), leaves(params) + leaves(optimizer.m), strict=True):
        assert_same_bits(mine, saved)
    grads = nested(rng)
    again = pickle.loads(pickle.dumps(optimizer))
    for one, held in ((optimizer, params), (resumed, other), (again, copy.deepcopy(params))):
        one.update(held, grads)
        assert_same_bits(one.m["block"].heads[0], optimizer.m["block"].heads[0])
    assert_same_bits(other["last"], params["last"])
    names = {name: np.array(leaf) for name, leaf in zip(NAMES, leaves(params), strict=True)}
    flat = Adam()
    flat.load(tmp_path / "state", names)  # by name, in whatever structure
    assert list(flat.m) == NAMES


def test_state_is_written_through_its_structure():
    params, optimizer = [[np.ones(2)], Block(np.ones(1), [np.ones(1)])], Adam()
    optimizer.update(params, [[np.ones(2)], Block(np.ones(1), [np.ones(1)])])
    optimizer.m[0][0] = 5.0
    optimizer.m[1].W = 6.0
    assert optimizer.m[0][0].tolist() == [5.0, 5.0] and optimizer.state_dict()["state"]["m"]["1.W"].tolist() == [6.0]
    assert "heads=" in repr(optimizer.m[1])
    with pytest.raises(AttributeError, match=r"Block has no array 'x'; it has W, heads"):
        optimizer.m[1].x = 1.0
    with pytest.raises(TypeError, match=r"the length of .* is that of the parameters"):
        optimizer.m.append(1.0)
    optimizer.m = None
    optimizer.update({"W": np.ones(2)}, {"W": np.ones(2)})
    assert list(optimizer.m) == ["W"]


def growing(draw):
    """Containers of four steps: a list that grows, a nested one, later fewer; all of arrays that live on."""
    first, second, third, fourth = draw(3), draw(2, 2), draw(4), draw(1)
    return [
        [first],
        [first, {"W": second}],
        [first, {"W": second, "b": (third, [fourth])}],
        [first, {"b": (third, [])}],
    ]


@pytest.mark.parametrize("rule", ["adam", "lamb", "sgd"])
def test_lists_whose_length_changes_begin_and_keep_state_by_path(rule, rng):
    pair = Pair(rule)
    params = growing(lambda *shape: rng.standard_normal(shape))
    params += params[2:1:-1]
    plain = copy.deepcopy(params)  # in one call, so that arrays live on there too
    for fast, slow in zip(params, plain, strict=True):
        for _ in range(2):
            pair.update(fast, slow, like(fast, rng))
    for fast, slow in zip(structure_leaves(params[2]), structure_leaves(plain[2]), strict=True):
        assert_same_bits(fast, slow)
    if rule == "sgd":
        return
    names = ["0", "1.W", "1.b.0", "1.b.1.0"]
    assert pair.fast._leaf_counts() == dict(zip(names, [(10, 0), (6, 0), (6, 0), (4, 0)], strict=True))
    for slot in pair.plain.slots:
        state = getattr(pair.plain, slot)
        for name, shown in zip(names, structure_leaves(getattr(pair.fast, slot)), strict=True):
            assert_same_bits(shown, state[name])


def like(params, rng):
    node = structure.node_of(params)
    return structure.like(node, params, iter([rng.standard_normal(leaf.shape) for leaf in structure_leaves(params)]))


def structure_leaves(params):
    if isinstance(params, dict):
        params = list(params.values())
    return (
        [leaf for held in params for leaf in structure_leaves(held)] if isinstance(params, list | tuple) else [params]
    )


def test_a_path_that_is_forgotten_begins_anew_and_the_others_stay_in_place():
    params, optimizer = [np.ones(2), {"W": np.ones((3, 2)), "b": np.ones(2)}, (np.ones(1),)], Adam()
    grads = copy.deepcopy(params)
    optimizer.update(params, grads)
    optimizer.forget(["1.W", "2.0"])
    assert list(optimizer.m[1]) == ["b"] and optimizer.m[2] == (None,)
    optimizer.update(params[:1], grads[:1])
    assert optimizer.m[1]["b"].shape == (2,)
    params[1]["W"], grads[1]["W"] = np.ones((1, 2)), np.ones((1, 2))
    optimizer.update(params, grads)
    assert optimizer._leaf_counts() == {"0": (3, 0), "1.b": (2, 0), "1.W": (1, 0), "2.0": (1, 0)}
    assert optimizer.m[1]["W"].shape == (1, 2) and optimizer.m[2][0].shape == (1,)
    optimizer.reindex("1.W", [0, -1])
    assert optimizer.m[1]["W"].shape == (2, 2)


def test_errors_about_leaves_name_the_path_as_python_writes_it(tmp_path):
    params, optimizer = [np.ones(2), {"W": np.ones((3, 2))}], Adam(averaging=fastopt.EMA())
    optimizer.update(params, copy.deepcopy(params))
    optimizer.save(tmp_path / "state", params)
    other = [np.ones(2), {"W": np.ones((4, 2)), "V": np.ones(1)}]
    wrong = [
        (KeyError, r"params\['1\.V'\] has no state.* params\[0\], params\[1\]\['W'\]", lambda: optimizer.forget("1.V")),
        (ValueError, r"params\[1\]\['W'\] had 3 rows", lambda: optimizer.reindex("1.W", [3])),
        (TypeError, r"rows of params\[1\]\['W'\] is of dtype float64", lambda: optimizer.reindex("1.W", [0.5])),
        (ValueError, r"new rows of params\[1\]\['W'\] begin as the", lambda: optimizer.reindex("1.W", [-1])),
        (ValueError, r"params\[1\]\['W'\] has shape \(4, 2\)", lambda: optimizer.update(other, copy.deepcopy(other))),
        (KeyError, r"params\[1\]\['V'\] has no state", lambda: optimizer.averaged([params[0], {"V": np.ones(1)}])),
        (
            ValueError,
            r"it has no params\[1\]\['V'\]; params\[1\]\['W'\] is",
            lambda: optimizer.load(tmp_path / "state", other),
        ),
    ]
    for kind, words, call in wrong:
        with pytest.raises(kind, match=words):
            call()
    assert optimizer.iter == 1 and list(optimizer._leaf_counts()) == ["0", "1.W"]
