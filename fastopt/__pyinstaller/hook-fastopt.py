"""PyInstaller reads this when a program imports fastopt."""

from PyInstaller.utils.hooks import collect_submodules

hiddenimports = collect_submodules("fastopt.kernels.rules")

# The source of formulas, from which `modulus=True` makes those of complex numbers.
module_collection_mode = {"fastopt.kernels": "pyz+py"}
