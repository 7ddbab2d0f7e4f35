"""Saving and loading, for every optimizer."""

from __future__ import annotations

import os
from typing import Any

from fastopt.checkpoint import file, with_params
from fastopt.checkpoint.state_dict import Mismatch, load_state_dict, state_dict
from fastopt.engine import objects


class Saving:
    """Checkpoints, as dicts and as files."""

    def state_dict(self: Any) -> dict[str, Any]:
        """Rule, hyperparameters, step count and state by slot and key, as copies.

        Examples
        --------
        >>> import numpy as np
        >>> from fastopt import Momentum
        >>> optimizer = Momentum(lr=0.1)
        >>> optimizer.update({"W": np.ones(2)}, {"W": np.ones(2)})
        >>> optimizer.state_dict()["state"]
        {'v': {'W': array([-0.1, -0.1])}}
        """
        with self._not_stepping():
            return state_dict(self)

    def load_state_dict(self: Any, state_dict: Any, strict: bool = True, cast: Any = False) -> Mismatch:
        """Takes settings, step count and state from what `state_dict` returned, by name, as copies.

        An optimizer that has not stepped yet takes all state. One that has keeps its keys, shapes and dtypes. Where
        there is no `averaging` or `lookahead` in it the optimizer's stays, and begins anew.

        Parameters
        ----------
        state_dict : dict
            Its arrays are float32, float64 or complex, of the shapes of the parameters.
        strict : bool
            Whether all must fit; otherwise what fits is loaded.
        cast : bool, "float32" or "float64"
            Whether state of another precision is converted: to that of the optimizer's state where there is some, or
            to the one named. Small values become zero as they do in a step.

        Returns
        -------
        Mismatch
            `missing`, `unexpected` and `reshaped` keys and differing `settings`: what did not fit.

        Raises
        ------
        CheckpointError
            (a ValueError) if something does not fit, says what; the optimizer is then as it was.
        RuntimeError
            in the middle of a step.
        """
        with self._not_stepping():
            return load_state_dict(self, state_dict, strict, cast=cast)

    def save(self: Any, path: str | os.PathLike[str], params: Any = None) -> None:
        """Writes what `state_dict` returns, and `params` where they are given, to one file, which holds no code.

        `params` may be all that `update` takes, a model too. With the parameters in it, state and parameters are of one
        step whenever the process is killed.

        It is written beside, as `.NAME.XXXX.fastopt-tmp`, synced to the disk and renamed: whenever the process is
        killed or the disk is full, `path` is the old file or the new one, and never half of one. Of threads and
        processes that save to one path at once the last one wins; what a killed one left is removed by the next save.
        An existing file's mode, owner and group are kept as far as the process may; a symbolic link is written
        through, other hard links keep the old content. A rule without state (SGD) has settings and step count only.

        Raises
        ------
        CheckpointError
            if a key is neither text nor a number nor a tuple of them, a hyperparameter is a Python function, or keys
            are too long.
        RuntimeError
            in the middle of a step: in another thread, or in a signal handler, which should set a flag instead.
        OSError
            if the file cannot be written, or `path` is a folder, a device or a FIFO.

        Examples
        --------
        >>> import numpy as np, os, tempfile
        >>> from fastopt import Adam
        >>> optimizer, params = Adam(lr=0.1), {"W": np.ones(2)}
        >>> optimizer.update(params, {"W": np.ones(2)})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     optimizer.save(os.path.join(folder, "adam.safetensors"), params)
        ...     resumed, other = Adam(), {"W": np.zeros(2)}
        ...     mismatch = resumed.load(os.path.join(folder, "adam.safetensors"), other)
        >>> resumed.lr, resumed.iter, resumed.m["W"], other["W"].round(3)
        (0.1, 1, array([0.1, 0.1]), array([0.9, 0.9]))
        """
        with self._not_stepping():
            saved = state_dict(self)
            if params is not None:
                saved["params"] = with_params.copies(type(self).__name__, objects.by_name(self, params)[0])
        file.save(saved, type(self).__name__, path)

    def load(
        self: Any, path: str | os.PathLike[str], params: Any = None, *, strict: bool = True, cast: Any = False
    ) -> Mismatch:
        """Takes settings, step count and state from a file that `save` wrote, as `load_state_dict` does.

        Groups are those of the file, none where it has none.

        The file's parameters are written to `params` (containers, a model, or objects with `.data`) in place, where
        they are given; names, shapes and dtypes must be
        theirs. With `cast=True` parameters and state of another precision are converted to that of `params`.

        A file from a stranger cannot run code, nor take memory out of proportion to its own size.

        Raises
        ------
        CheckpointError
            if the file is damaged, truncated, not a checkpoint, of a newer format, of another rule, without parameters
            where they are asked for, or does not fit; optimizer and parameters are then as they were.
        TypeError, ValueError
            if `params` cannot be written to, as in `update`, or `cast` is no precision.
        OSError
            if the file cannot be read.
        RuntimeError
            in the middle of a step.
        """
        with self._not_stepping():
            arrays, names = objects.by_name(self, params)
            mismatch = file.load(self, path, arrays, strict, cast)
            if names:
                self.__dict__["_objects"] = names
            return mismatch
