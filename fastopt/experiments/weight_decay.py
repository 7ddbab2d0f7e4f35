"""Weight decay against overfitting."""

from __future__ import annotations

from fastopt.experiments.experiment import Experiment, Result, Settings
from fastopt.experiments.overfitting import HIDDEN, compare
from fastopt.nn import MultiLayerNet

DECAY = 0.1


@Experiment
def run(settings: Settings) -> Result:
    """A deep network on 300 digits, without and with weight decay of 0.1."""
    networks = {
        name: MultiLayerNet(784, HIDDEN, 10, weight_decay_lambda=decay, seed=settings.seed)
        for name, decay in (("without weight decay", 0.0), (f"weight decay {DECAY}", DECAY))
    }
    return compare(settings, networks, 40 if settings.quick else 201, "Weight decay", "weight decay")
