"""Dropout against overfitting."""

from __future__ import annotations

from fastopt.experiments.experiment import Experiment, Result, Settings
from fastopt.experiments.overfitting import HIDDEN, compare
from fastopt.nn import MultiLayerNetExtend

RATIO = 0.2


@Experiment
def run(settings: Settings) -> Result:
    """A deep network on 300 digits, without and with Dropout of ratio 0.2."""
    networks = {
        name: MultiLayerNetExtend(784, HIDDEN, 10, use_dropout=ratio > 0, dropout_ration=ratio, seed=settings.seed)
        for name, ratio in (("without Dropout", 0.0), (f"Dropout of {RATIO}", RATIO))
    }
    return compare(settings, networks, 40 if settings.quick else 301, "Dropout", "Dropout")
