"""The network toolkit: gradients against differences, dtypes, training, and a sentence for each mistake."""

import numpy as np
import pytest

import fastopt
from fastopt.nn import (
    Affine,
    BatchNormalization,
    Dropout,
    MultiLayerNet,
    MultiLayerNetExtend,
    Relu,
    Sigmoid,
    SoftmaxWithLoss,
    Trainer,
    load_mnist,
    numerical_gradient,
    shuffle_dataset,
    smooth_curve,
)
from fastopt.nn.mnist import SUBSET
from fastopt.optimizers import OPTIMIZERS


def relative_error(found, expected):
    return np.abs(found - expected).max() / np.abs(expected).max()


# -- layers -----------------------------------------------------------------------------------------------------------

PARAMS = {"W1": (5, 4), "b1": (4,), "gamma1": (5,), "beta1": (5,)}
LAYERS = {
    "Affine": lambda params: Affine(params, 1),
    "Relu": lambda params: Relu(),
    "Sigmoid": lambda params: Sigmoid(),
    "BatchNormalization": lambda params: BatchNormalization(params, 1),
    "Dropout": lambda params: Dropout(0.3, np.random.default_rng(0)),
}


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("name", LAYERS)
def test_layer_agrees_with_differences(name, train, rng):
    params = {key: rng.standard_normal(shape) for key, shape in PARAMS.items()}
    layer, x = LAYERS[name](params), 2 * rng.standard_normal((9, 5))
    weights = rng.standard_normal(layer.forward(x, train=True).shape)  # of the outputs in the loss
    before = np.random.default_rng(0).bit_generator.state

    def loss(_):
        if name == "Dropout":
            layer.rng.bit_generator.state = before
        return float((weights * layer.forward(x, train)).sum())

    loss(x)
    out = {key: np.full(shape, np.nan) for key, shape in PARAMS.items()}
    layer.gradients(weights, out)
    assert relative_error(layer.backward(weights), numerical_gradient(loss, x)) < 1e-6
    written = {key for key, value in out.items() if not np.isnan(value).any()}
    assert written == {"Affine": {"W1", "b1"}, "BatchNormalization": {"gamma1", "beta1"}}.get(name, set())
    for key in written:
        assert relative_error(out[key], numerical_gradient(loss, params[key])) < 1e-6


@pytest.mark.parametrize("one_hot", [False, True])
def test_loss_agrees_with_differences(one_hot, rng):
    layer, x, t = SoftmaxWithLoss(), rng.standard_normal((9, 5)), rng.integers(0, 5, 9)
    t = np.eye(5)[t] if one_hot else t
    expected = numerical_gradient(lambda x: layer.forward(x, t), x)
    layer.forward(x, t)
    assert relative_error(layer.backward(), expected) < 1e-6


def test_batch_normalization_outside_of_training(rng):
    params = {"gamma1": np.array([2.0]), "beta1": np.array([1.0])}
    layer = BatchNormalization(params, 1)
    for _ in range(200):
        y = layer.forward(rng.normal(3.0, 5.0, (1000, 1)), train=True)
    assert y.mean() == pytest.approx(1) and y.std() == pytest.approx(2)
    assert layer.running_mean[0] == pytest.approx(3, abs=0.2) and layer.running_variance[0] == pytest.approx(
        25, rel=0.1
    )
    kept = layer.running_mean.copy(), layer.running_variance.copy()
    (score,) = layer.forward(np.array([[8.0]])).ravel()
    assert score == pytest.approx(3, abs=0.2)  # one deviation above the mean
    assert (layer.running_mean, layer.running_variance) == kept
    first = BatchNormalization(params, 1)
    first.forward(np.array([[1.0], [3.0]]), train=True)
    assert first.running_mean[0] == pytest.approx(0.1 * 2) and first.running_variance[0] == pytest.approx(0.1 * 1)


def test_dropout():
    layer, x = Dropout(0.2, np.random.default_rng(0)), np.ones((100, 1000))
    y = layer.forward(x, train=True)
    assert set(np.unique(y)) == {0.0, 1.0} and y.mean() == pytest.approx(0.8, abs=0.005)
    assert (layer.forward(x, train=True) != y).any()  # another choice each time
    assert (layer.forward(x) == 0.8).all()
    assert (Dropout(0.0).forward(x, train=True) == 1).all()
    assert Dropout().ratio == 0.5


def test_scores_of_any_size_give_a_loss():
    layer, t = SoftmaxWithLoss(), np.array([0, 0])
    assert layer.forward(np.array([[1e6, -1e6]] * 2), t) == 0
    assert layer.forward(np.array([[-1e6, 1e6]] * 2), t) == 2e6


# -- networks ---------------------------------------------------------------------------------------------------------

NETWORKS = {
    "plain": (MultiLayerNet, {}),
    "extended": (MultiLayerNetExtend, {}),
    "batchnorm": (MultiLayerNetExtend, {"use_batchnorm": True}),
    "dropout": (MultiLayerNetExtend, {"use_dropout": True, "dropout_ration": 0.3}),
    "both": (MultiLayerNetExtend, {"use_batchnorm": True, "use_dropout": True, "dropout_ration": 0.3}),
}


def make(name, activation="relu", dtype="float64", **settings):
    network, extras = NETWORKS[name]
    return network(5, [7, 6], 4, activation, activation, dtype=dtype, seed=1, **extras, **settings)


def batch(rng, dtype="float64"):
    return rng.standard_normal((9, 5)).astype(dtype), rng.integers(0, 4, 9)


@pytest.mark.parametrize("one_hot", [False, True])
@pytest.mark.parametrize("weight_decay_lambda", [0.0, 0.1])
@pytest.mark.parametrize("activation", ["relu", "sigmoid"])
@pytest.mark.parametrize("name", NETWORKS)
def test_back_propagation_agrees_with_differences(name, activation, weight_decay_lambda, one_hot, rng):
    network = make(name, activation, weight_decay_lambda=weight_decay_lambda)
    for value in network.params.values():
        value += 0.1 * rng.standard_normal(value.shape)  # biases that are not zero, gammas that are not one
    x, t = batch(rng)
    t = np.eye(4)[t] if one_hot else t
    numerical = network.numerical_gradient(x, t)
    grads = network.gradient(x, t)
    largest = max(np.abs(value).max() for value in numerical.values())
    for name, value in network.params.items():
        assert grads[name].shape == value.shape and grads[name].dtype == value.dtype
        # A bias before batch normalization has no effect: its gradient is rounding.
        scale = max(np.abs(numerical[name]).max(), 1e-3 * largest)
        assert np.abs(grads[name] - numerical[name]).max() / scale < 1e-6, name
    if not network.__dict__.get("use_dropout"):
        assert network.last_loss == network.loss(x, t, train=True)


def test_numerical_gradients_leave_the_network_alone_and_are_float64(rng):
    network, untouched = make("both", dtype="float32"), make("both", dtype="float32")
    x, t = batch(rng, "float32")
    numerical = network.numerical_gradient(x, t)
    grads, expected = network.gradient(x, t), untouched.gradient(x, t)
    for name in grads:
        np.testing.assert_array_equal(grads[name], expected[name])
        assert numerical[name].dtype == np.float64
    assert relative_error(grads["W3"], numerical["W3"]) < 1e-5
    assert network.predict(x).tobytes() == untouched.predict(x).tobytes()


def test_numerical_gradient_wants_float64():
    with pytest.raises(TypeError, match="x has dtype float32, expected a float64 array; convert it"):
        numerical_gradient(lambda x: 0.0, np.ones(3, dtype=np.float32))
    with pytest.raises(TypeError, match="x has type list"):
        numerical_gradient(lambda x: 0.0, [1.0])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("activation", ["relu", "sigmoid"])
@pytest.mark.parametrize("name", NETWORKS)
def test_no_other_dtype_creeps_in(name, activation, dtype, rng):
    network = make(name, activation, dtype, weight_decay_lambda=np.float64(0.1))
    x, t = rng.standard_normal((9, 5)), rng.integers(0, 4, 9)  # float64 inputs in a float32 network
    for train in (True, False):
        value = network.predict(x, train)
        for layer in network.layers:
            kept = [value for value in vars(layer).values() if isinstance(value, np.ndarray)]
            assert {array.dtype for array in kept} <= {np.dtype(dtype), np.dtype(bool)}, type(layer)
        assert value.dtype == dtype
    grads = network.gradient(x, t)
    dy = network.last_layer.backward()
    for layer in reversed(network.layers):
        dy = layer.backward(dy)
        assert dy.dtype == dtype, type(layer)
    assert {value.dtype for value in [*network.params.values(), *grads.values()]} == {np.dtype(dtype)}
    assert network.last_layer.y.dtype == dtype


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_go_straight_into_a_flat_buffer(name, rng):
    network, twin = (make(name, weight_decay_lambda=0.1) for _ in range(2))
    x, t = batch(rng)
    expected, out = network.gradient(x, t), fastopt.flatten(network.params)
    assert twin.gradient(x, t, out=out) is out
    for key in expected:
        np.testing.assert_array_equal(out[key], expected[key])


@pytest.mark.parametrize("name", NETWORKS)
def test_parameters_in_one_buffer(name, rng):
    network, plain = (make(name) for _ in range(2))
    network.params = fastopt.flatten(network.params)
    x, t = batch(rng)
    grads, optimizers = fastopt.flatten(network.params), (fastopt.Adam(), fastopt.Adam())
    for _ in range(3):
        optimizers[0].update(network.params, network.gradient(x, t, out=grads))
        optimizers[1].update(plain.params, plain.gradient(x, t))
    for key in plain.params:
        np.testing.assert_array_equal(network.params[key], plain.params[key])
    assert network.predict(x).tobytes() == plain.predict(x).tobytes()


def test_initial_weights():
    for name, deviation in (("relu", 2), ("he", 2), ("sigmoid", 1), ("xavier", 1), ("He", 2)):
        weights = MultiLayerNet(400, [300], 10, weight_init_std=name, seed=0).params["W1"]
        assert weights.std() == pytest.approx(np.sqrt(deviation / 400), rel=0.01)
    params = MultiLayerNet(400, [300], 10, weight_init_std=0.01, seed=0).params
    assert params["W1"].std() == pytest.approx(0.01, rel=0.01) and (params["b1"] == 0).all()
    other = MultiLayerNetExtend(400, [300], 10, weight_init_std=0.01, use_dropout=True, use_batchnorm=True, seed=0)
    np.testing.assert_array_equal(other.params["W2"], params["W2"])  # extras do not change the weights of a seed


# -- training ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["plain", "both"])
def test_trainer(name, capsys):
    (x, t), (x_test, t_test) = load_mnist(directory=SUBSET)
    kind, extras = NETWORKS[name]
    network = kind(784, [50], 10, seed=0, **extras)
    trainer = Trainer(
        network, x, t, x_test, t_test, 8, 100, "Adam", {"lr": 0.002}, evaluate_sample_num_per_epoch=1000, seed=0
    )
    trainer.train()
    assert isinstance(trainer.optimizer, fastopt.Adam) and trainer.optimizer.lr == 0.002
    assert len(trainer.train_loss_list) == 480 == trainer.max_iter and len(trainer.train_acc_list) == 8
    assert trainer.test_acc_list[0] < 0.5 and trainer.test_acc_list[-1] > 0.87
    out = capsys.readouterr().out.splitlines()
    assert len(out) == 9 and out[7].startswith("epoch   8: loss ") and out[8].startswith("final test accuracy: 0.")


@pytest.mark.parametrize(("rows", "size", "per_epoch"), [(100, 30, 3), (100, 100, 1), (99, 50, 1), (7, 2, 3)])
def test_no_epoch_is_missed(rows, size, per_epoch, rng):
    x, t = rng.standard_normal((rows, 5)), rng.integers(0, 4, rows)
    trainer = Trainer(make("plain"), x, t, x, t, epochs=5, mini_batch_size=size, verbose=False)
    trainer.train()
    assert trainer.iter_per_epoch == per_epoch and trainer.current_iter == trainer.max_iter == 5 * per_epoch
    assert len(trainer.train_loss_list) == 5 * per_epoch
    assert len(trainer.train_acc_list) == len(trainer.test_acc_list) == trainer.current_epoch == 5


def test_trainer_takes_its_defaults_from_the_book(rng):
    x, t = rng.standard_normal((200, 5)), rng.integers(0, 4, 200)
    trainer = Trainer(make("plain"), x, t, x, t)
    assert (trainer.epochs, trainer.batch_size) == (20, 100)
    assert isinstance(trainer.optimizer, fastopt.SGD) and trainer.optimizer.lr == 0.01
    trainer.train_step()
    assert len(trainer.train_loss_list) == len(trainer.train_acc_list) == 1


def test_trainer_takes_any_optimizer(rng):
    x, t = rng.standard_normal((200, 5)), rng.integers(0, 4, 200)
    runs = []
    for optimizer in (fastopt.Momentum(lr=0.02), fastopt.reference.Momentum(lr=0.02)):
        runs.append(Trainer(make("both"), x, t, x, t, 4, 50, optimizer, verbose=False, seed=3))
        runs[-1].train()
    assert runs[0].train_loss_list == runs[1].train_loss_list and runs[0].test_acc_list == runs[1].test_acc_list


def test_shuffle_dataset(rng):
    x, t = rng.standard_normal((50, 1, 2, 2)), np.arange(50)
    x[:, 0, 0, 0] = t
    x_new, t_new = shuffle_dataset(x, t, seed=0)
    assert sorted(t_new) == list(range(50)) and (t_new != t).any() and (x_new[:, 0, 0, 0] == t_new).all()
    assert (t == np.arange(50)).all()
    assert (shuffle_dataset(x, t, seed=0)[1] == t_new).all() and (shuffle_dataset(x, t, seed=1)[1] != t_new).any()


def test_smooth_curve(rng):
    x = rng.random(60)
    window = np.kaiser(11, 2) / np.kaiser(11, 2).sum()
    smooth = smooth_curve(x)
    assert len(smooth) == 60 and smooth[20] == pytest.approx((window * x[15:26]).sum())
    assert smooth[0] == pytest.approx((window * x[[5, 4, 3, 2, 1, 0, 1, 2, 3, 4, 5]]).sum())
    assert smooth[-1] == pytest.approx((window * x[[-6, -5, -4, -3, -2, -1, -1, -2, -3, -4, -5]]).sum())
    for length in (1, 2, 5, 10, 11):
        np.testing.assert_allclose(smooth_curve(np.full(length, 3.0)), np.full(length, 3.0))


# -- mistakes ---------------------------------------------------------------------------------------------------------

X, T = np.zeros((6, 5), dtype=np.float32), np.zeros(6, dtype=int)


def gradient(x=X, t=T):
    return make("plain").gradient(x, t)


def trainer(network=None, x=X, t=T, x_test=X, t_test=T, **settings):
    return Trainer(network or make("plain"), x, t, x_test, t_test, **{"mini_batch_size": 2, **settings})


def into(out):
    network = make("plain")
    return network.gradient(X, T, out=out(network))


def accident():
    network = make("plain", dtype="float32")
    network.params["W1"] = network.params["W1"] - np.float64(0.1) * np.ones((5, 7))
    return network.gradient(X, T)


MISTAKES = {
    "input size": (lambda: gradient(np.zeros((6, 3))), ValueError, r"x has shape \(6, 3\), expected \(batch, 5\).*input_size that the data have"),
    "images": (lambda: gradient(np.zeros((6, 1, 1, 5))), ValueError, r"x\.reshape\(len\(x\), -1\)"),
    "one input": (lambda: gradient(np.zeros(5)), ValueError, r"a batch of one: x\[None\]"),
    "no inputs": (lambda: gradient(np.zeros((0, 5)), T[:0]), ValueError, r"x has no rows"),
    "words": (lambda: gradient(np.full((6, 5), "a")), TypeError, "x has dtype <U1, expected numbers"),
    "label too large": (lambda: gradient(t=np.array([0, 1, 2, 3, 4, 0])), ValueError, "labels t hold 4, expected integers from 0 to 3"),
    "label too small": (lambda: gradient(t=np.array([0, 1, 2, 3, -1, 0])), ValueError, "labels t hold -1, expected integers from 0 to 3.*count classes from 0"),
    "labels of floats": (lambda: gradient(t=np.zeros(6)), TypeError, r"labels t have dtype float64.*t\.astype\(int\)"),
    "labels in a column": (lambda: gradient(t=T[:, None]), ValueError, r"labels t have shape \(6, 1\).*t\.ravel\(\)"),
    "labels in rows": (lambda: gradient(t=np.ones((6, 4), int)), ValueError, "are not one-hot: each row needs one 1"),
    "scaled one-hot": (lambda: gradient(t=2 * np.eye(4, dtype=int)[T]), ValueError, "are not one-hot"),
    "one-hot of another size": (lambda: gradient(t=np.eye(3)[T]), ValueError, "output_size that the one-hot rows have"),
    "one one-hot": (lambda: gradient(X[:1], np.eye(4)[0]), ValueError, r"a batch of one: t\[None\]"),
    "too few labels": (lambda: gradient(t=T[:3]), ValueError, r"labels t have shape \(3,\).*same number of rows"),
    "accuracy": (lambda: make("plain").accuracy(X, T[:, None]), ValueError, r"t\.ravel\(\)"),
    "activation": (lambda: MultiLayerNet(3, [2], 2, "elu"), ValueError, "activation must be one of relu, sigmoid, got 'elu'"),
    "activation in extended": (lambda: MultiLayerNetExtend(3, [2], 2, "elu"), ValueError, "one of relu, sigmoid"),
    "initialisation": (lambda: MultiLayerNet(3, [2], 2, weight_init_std="big"), ValueError, "weight_init_std must be one of relu, he, sigmoid, xavier, got 'big'"),
    "one hidden size": (lambda: MultiLayerNet(3, 2, 2), TypeError, r"hidden_size_list must be a list of widths such as \[100, 100\], got 2"),
    "size of nothing": (lambda: MultiLayerNet(3, [0], 2), ValueError, "whole numbers of at least 1, got 0"),
    "half a neuron": (lambda: MultiLayerNet(3, [2.5], 2), ValueError, "whole numbers of at least 1, got 2.5"),
    "dtype": (lambda: MultiLayerNet(3, [2], 2, dtype="float16"), TypeError, "dtype must be 'float32' or 'float64', got 'float16'"),
    "dropout": (lambda: MultiLayerNetExtend(3, [2], 2, use_dropout=True, dropout_ration=1.0), ValueError, r"in \[0, 1\), got 1.0"),
    "optimizer": (lambda: trainer(optimizer="adagard"), ValueError, f"optimizer must be one of {', '.join(OPTIMIZERS)}, got 'adagard'"),
    "optimizer class": (lambda: trainer(optimizer=3), TypeError, r"a name \(sgd, .*\) or an object with update\(params, grads\), got 3"),
    "settings for an object": (lambda: trainer(optimizer=fastopt.Adam(), optimizer_param={"lr": 0.1}), ValueError, "optimizer_param is for optimizers by name"),
    "batch": (lambda: trainer(mini_batch_size=7), ValueError, "a batch of 7 is larger than the training data, 6 rows"),
    "batch of none": (lambda: trainer(mini_batch_size=0), ValueError, "the size of a batch must be a whole number of at least 1, got 0"),
    "inputs without labels": (lambda: trainer(t=T[:5]), ValueError, "training data: 6 inputs and 5 labels"),
    "test inputs without labels": (lambda: trainer(t_test=T[:5]), ValueError, "test data: 6 inputs and 5 labels"),
    "shuffled halves": (lambda: shuffle_dataset(X, T[:5]), ValueError, "shuffle_dataset: 6 inputs and 5 labels"),
    "no curve": (lambda: smooth_curve([]), ValueError, r"expected numbers in a row, got an array of shape \(0,\)"),
    "class of optimizers": (lambda: trainer(optimizer=fastopt.Adam), TypeError, "an object with update"),
    "epochs": (lambda: trainer(epochs=-1), ValueError, "epochs must be a whole number of at least 1, got -1"),
    "samples": (lambda: trainer(evaluate_sample_num_per_epoch=0), ValueError, "evaluate_sample_num_per_epoch must be a whole number"),
    "no test data": (lambda: trainer(x_test=X[:0], t_test=T[:0]), ValueError, "test data: there are no inputs"),
    "negative decay": (lambda: MultiLayerNet(3, [2], 2, weight_decay_lambda=-1), ValueError, "weight_decay_lambda must be a number of at least 0, got -1"),
    "initialisation of nothing": (lambda: MultiLayerNet(3, [2], 2, weight_init_std=None), ValueError, "weight_init_std must be a number of at least 0, got None"),
    "gradients into params": (lambda: into(lambda network: network.params), ValueError, r"out shares memory with params\['W1'\]"),
    "gradients into nothing": (lambda: into(lambda network: {}), ValueError, "out must have the names W1, b1"),
    "gradients of another dtype": (lambda: into(lambda network: fastopt.flatten(network.params, "float32")), ValueError, r"out\['W1'\] must be float64 of shape \(5, 7\), got float32"),
    "gradients into lists": (lambda: into(lambda network: {key: [] for key in network.params}), TypeError, r"out\['W1'\] must be an array, got list"),
    "float64 by accident": (lambda: accident(), ValueError, r"params\['W1'\] must be float32 of shape \(5, 7\), got float64 of shape \(5, 7\); write into the arrays in place"),
    "params of another size": (lambda: setattr(make("plain"), "params", MultiLayerNet(5, [7], 4).params), ValueError, "W3, b3; 'W3', 'b3' is missing|'W3', 'b3' is missing or too many"),
    "params of another shape": (lambda: setattr(make("plain"), "params", MultiLayerNet(5, [7, 7], 4, dtype="float64").params), ValueError, r"params\['W2'\] must be float64 of shape \(7, 6\), got float64 of shape \(7, 7\)"),
    "params of another dtype": (lambda: setattr(make("plain"), "params", make("plain", dtype="float32").params), ValueError, "must be float64 .*, got float32"),
    "no params": (lambda: setattr(make("plain"), "params", [1]), TypeError, "params must be a dict of arrays, got list"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes(mistake):
    call, error, words = MISTAKES[mistake]
    with pytest.raises(error, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)
