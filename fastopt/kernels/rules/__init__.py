"""The update rules: a file each, or one for several that share a formula.

A file has the formula and its `Rule` under the rule's name in capitals, by which it is found here.
"""

from importlib import import_module
from pkgutil import iter_modules

from fastopt.kernels.rule import Rule

RULES: dict[str, Rule] = {
    name.lower(): rule
    for module in iter_modules(__path__, f"{__name__}.")
    for name, rule in vars(import_module(module.name)).items()
    if isinstance(rule, Rule)
}
"""The rules by name, in alphabetical order of their files; `fastopt.optimizers.OPTIMIZERS` has them by family."""
