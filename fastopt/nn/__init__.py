"""A small network toolkit in plain NumPy, to train with fastopt and to learn from."""

from fastopt.nn.gradient import numerical_gradient
from fastopt.nn.layers import Affine, BatchNormalization, Dropout, Layer, Relu, Sigmoid, SoftmaxWithLoss
from fastopt.nn.mnist import DataError, load_mnist
from fastopt.nn.network import MultiLayerNet, MultiLayerNetExtend
from fastopt.nn.trainer import Trainer
from fastopt.nn.util import shuffle_dataset, smooth_curve

__all__ = [
    "Affine",
    "BatchNormalization",
    "DataError",
    "Dropout",
    "Layer",
    "MultiLayerNet",
    "MultiLayerNetExtend",
    "Relu",
    "Sigmoid",
    "SoftmaxWithLoss",
    "Trainer",
    "load_mnist",
    "numerical_gradient",
    "shuffle_dataset",
    "smooth_curve",
]
