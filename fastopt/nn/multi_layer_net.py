"""`MultiLayerNet` under the module name of *Deep Learning from Scratch*."""

from fastopt.nn.network import MultiLayerNet

__all__ = ["MultiLayerNet"]
