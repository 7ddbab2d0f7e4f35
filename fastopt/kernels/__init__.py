"""The update rules, each written once as a formula on scalars, and the machinery that compiles them.

>>> from fastopt.kernels import RULES, sgd
>>> sgd(1.0, 0.5, 0.1)  # p, g, lr
(0.95,)
>>> RULES["adam"].state
('m', 'v')
"""

from fastopt.kernels.modulus import clipped, magnitude, product, squared
from fastopt.kernels.rule import Rule
from fastopt.kernels.rules import RULES

__all__ = ["RULES", "Rule", "clipped", "magnitude", "product", "squared"]

globals().update({rule.name: rule.formula for rule in RULES.values()})
