"""PyInstaller reads this when a program imports fastopt."""

from PyInstaller.utils.hooks import collect_submodules

hiddenimports = collect_submodules("fastopt.kernels.rules")
