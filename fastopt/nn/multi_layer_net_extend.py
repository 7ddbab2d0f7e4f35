"""`MultiLayerNetExtend` under the module name of *Deep Learning from Scratch*."""

from fastopt.nn.network import MultiLayerNetExtend

__all__ = ["MultiLayerNetExtend"]
