"""A small network toolkit in plain NumPy, to train with fastopt and to learn from."""

from fastopt.nn.layers import Affine, Relu, Sigmoid, SoftmaxWithLoss
from fastopt.nn.mnist import DataError, load_mnist
from fastopt.nn.network import MultiLayerNet

__all__ = ["Affine", "DataError", "MultiLayerNet", "Relu", "Sigmoid", "SoftmaxWithLoss", "load_mnist"]
