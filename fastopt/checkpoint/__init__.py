"""Checkpoints: settings, state and step count of an optimizer as a dict and as a file."""

from fastopt.checkpoint.state_dict import CheckpointError, Mismatch, load_state_dict, state_dict

__all__ = ["CheckpointError", "Mismatch", "load_state_dict", "state_dict"]
