"""Checkpoints: settings, state and step count of an optimizer as a dict and as a file."""

from fastopt.checks import CheckpointError

__all__ = ["CheckpointError"]
