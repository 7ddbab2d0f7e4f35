"""Scripts written as those of *Deep Learning from Scratch*, chapter 6, with the names of its modules changed."""

import pytest

from fastopt.nn.mnist import SUBSET
from tests.conftest import python

COMPARE_MNIST = """
import os
import sys
sys.path.append(os.pardir)
import matplotlib.pyplot as plt
from fastopt.nn.mnist import load_mnist
from fastopt.nn.util import smooth_curve
from fastopt.nn.multi_layer_net import MultiLayerNet
from fastopt import *

(x_train, t_train), (x_test, t_test) = load_mnist(normalize=True)

train_size = x_train.shape[0]
batch_size = 128
max_iterations = 3

optimizers = {}
optimizers['SGD'] = SGD()
optimizers['Momentum'] = Momentum()
optimizers['AdaGrad'] = AdaGrad()
optimizers['Adam'] = Adam()

networks = {}
train_loss = {}
for key in optimizers.keys():
    networks[key] = MultiLayerNet(
        input_size=784, hidden_size_list=[100, 100, 100, 100],
        output_size=10)
    train_loss[key] = []

for i in range(max_iterations):
    batch_mask = np.random.choice(train_size, batch_size)
    x_batch = x_train[batch_mask]
    t_batch = t_train[batch_mask]

    for key in optimizers.keys():
        grads = networks[key].gradient(x_batch, t_batch)
        optimizers[key].update(networks[key].params, grads)

        loss = networks[key].loss(x_batch, t_batch)
        train_loss[key].append(loss)

markers = {"SGD": "o", "Momentum": "x", "AdaGrad": "s", "Adam": "D"}
x = np.arange(max_iterations)
for key in optimizers.keys():
    plt.plot(x, smooth_curve(train_loss[key]), marker=markers[key], markevery=100, label=key)
plt.ylim(0, 1)
plt.legend()
plt.savefig("compare.png")
"""

COMPARE_NAIVE = """
from collections import OrderedDict
from fastopt import *

def df(x, y):
    return x / 10.0, 2.0*y

params = {}
optimizers = OrderedDict()
optimizers["SGD"] = SGD(lr=0.95)
optimizers["Momentum"] = Momentum(lr=0.1)
optimizers["AdaGrad"] = AdaGrad(lr=1.5)
optimizers["Adam"] = Adam(lr=0.3)
for key in optimizers:
    grads = {}
    params['x'], params['y'] = -7.0, 2.0
    for i in range(30):
        grads['x'], grads['y'] = df(params['x'], params['y'])
        optimizers[key].update(params, grads)
    assert np.hypot(params['x'], params['y']) < 2.5, (key, params)
"""

OVERFIT = """
from fastopt.nn.mnist import load_mnist
from fastopt.nn.multi_layer_net import MultiLayerNet
from fastopt.nn.multi_layer_net_extend import MultiLayerNetExtend
from fastopt.nn.trainer import Trainer
from fastopt.nn.util import shuffle_dataset
from fastopt import *

(x_train, t_train), (x_test, t_test) = load_mnist(normalize=True)
x_train, t_train = shuffle_dataset(x_train[:300], t_train[:300])

network = MultiLayerNet(input_size=784, hidden_size_list=[100, 100], output_size=10, weight_decay_lambda=0.1)
optimizer = SGD(lr=0.01)
for i in range(3):
    batch_mask = np.random.choice(x_train.shape[0], 100)
    grads = network.gradient(x_train[batch_mask], t_train[batch_mask])
    optimizer.update(network.params, grads)
network.accuracy(x_test, t_test)

network = MultiLayerNetExtend(input_size=784, hidden_size_list=[100, 100], output_size=10, weight_init_std=0.05,
                              use_dropout=True, dropout_ration=0.2, use_batchnorm=True)
trainer = Trainer(network, x_train, t_train, x_test, t_test,
                  epochs=2, mini_batch_size=100,
                  optimizer='sgd', optimizer_param={'lr': 0.01}, verbose=True)
trainer.train()
train_acc_list, test_acc_list = trainer.train_acc_list, trainer.test_acc_list
assert len(train_acc_list) == 2
"""


@pytest.mark.parametrize("script", [COMPARE_MNIST, COMPARE_NAIVE, OVERFIT], ids=["mnist", "naive", "overfit"])
def test_a_script_of_the_book_runs_with_other_module_names(script, tmp_path):
    """No import of NumPy but the star, as in the book's `from common.optimizer import *`."""
    assert "import numpy" not in script
    python(script, cwd=tmp_path, FASTOPT_MNIST_DIR=str(SUBSET), MPLBACKEND="Agg")
