"""Checks that all processes have the same arrays, gradients and settings, before they exchange anything."""

from __future__ import annotations

from collections.abc import Hashable
from operator import is_
from typing import Any

from fastopt import array_checks, checks, rows
from fastopt.engine import gradient_sums
from fastopt.engine.objects import OWN
from fastopt.kernels import RULES
from fastopt.mpi.agreement import digest_of
from fastopt.mpi.binding import Binding, name_of
from fastopt.mpi.exchange import ARRAY, EXACT_ROWS, NONE, Exchange
from fastopt.mpi.layout import Shards
from fastopt.mpi.rank_sums import AllProcesses
from fastopt.schedules import to_dict

AFTER_A_STEP = ("save", "load", "state_dict", "load_state_dict", "update_hessian")
"""Methods that cannot be called between `accumulate` and `update`."""


class Consensus:
    """The checks of `Sharded`, which all processes pass or all fail."""

    def _checked(
        self: Any, operation: str, params: Any, grads: Any, report: bool = False
    ) -> tuple[Binding, Exchange, dict[Hashable, Any]]:
        """Parameters and gradients that all processes have alike; raises on all otherwise."""
        error: Exception | None = None
        binding = exchange = kinds = None
        checked: dict[Hashable, Any] = {}
        try:
            binding, exchange = self._bound(params)
            if grads is OWN and not exchange.calls:
                raise TypeError(f"Sharded {self._owner}: {operation}() got no gradients, and none were accumulated")
            if grads is not OWN and exchange.calls:
                raise RuntimeError(gradient_sums.with_gradients(f"Sharded {self._owner}", exchange.calls))
            checked = {} if grads is OWN else exchange.checked(grads, binding)
            kinds = exchange.kinds_with(checked)
            self._check_kinds(kinds)
        except Exception as caught:
            error = caught
        self._agree(operation, binding, error, kinds, report)
        assert binding is not None and exchange is not None
        self._commit(binding, exchange)
        return binding, exchange, checked

    def _bind(self: Any, operation: str, params: Any) -> Binding:
        """The arrays of `params`, which all processes have alike; raises on all otherwise."""
        error: Exception | None = None
        binding: Binding | None = None
        exchange = None
        try:
            binding, exchange = self._bound(params)
        except Exception as caught:
            error = caught
        self._agree(operation, binding, error)
        assert binding is not None
        self._commit(binding, exchange)
        return binding

    def _commit(self: Any, binding: Binding, exchange: Exchange) -> None:
        """Takes up the arrays that all processes agreed on."""
        if exchange is not self._exchange:
            self.optimizer.__dict__["_processes"] = AllProcesses(exchange.shards, self.comm)
        self.__dict__.update(_binding=binding, _exchange=exchange)

    def _bound(self: Any, params: Any) -> tuple[Binding, Exchange]:
        """The arrays of `params` and their exchange; those of the last step, if they are the same."""
        if self._binding is not None and self._binding.fits(params):
            binding, exchange = self._binding, self._exchange
        else:
            binding = Binding(self._owner, params)
            exchange = self._exchange
            if exchange is None:
                shards = Shards(binding.leaves, self.comm.size, needs_whole_arrays(self.optimizer))
                exchange = Exchange(self._owner, shards, self.comm, self.transport is not None, self.reduce == "mean")
            _check_leaves(self._owner, binding, exchange.shards)
            binding.cut(exchange.shards, self.comm.rank)
        if needs_whole_arrays(self.optimizer) and not exchange.shards.whole:
            raise ValueError(
                f"Sharded {self._owner}: centralize and compact state need whole arrays, which were cut at the "
                "first step; set it before"
            )
        self.optimizer.groups.take_up(binding.arrays)
        return binding, exchange

    def _check_kinds(self: Any, kinds: dict[Hashable, str]) -> None:
        """Raises where gradients are Rows that this optimizer cannot step, which later one process alone would find."""
        optimizer, rule = self.optimizer, self.optimizer._rule
        for path, kind in kinds.items():
            if kind in (NONE, ARRAY):
                continue
            name = name_of(path)
            if not rule.rows:
                raise TypeError(rows.unknown_form(self._owner, name, (name for name in RULES if RULES[name].rows)))
            if optimizer.lookahead is not None:
                raise ValueError(rows.with_lookahead(self._owner))
            if kind == EXACT_ROWS and rule.skipped is None:
                supported = (name for name in RULES if RULES[name].skipped)
                raise TypeError(rows.no_closed_form(self._owner, name_of(path, "grads"), supported))
            if kind == EXACT_ROWS and optimizer.averaging is not None:
                raise ValueError(rows.skipped_with_average(self._owner))

    def _agree(
        self: Any,
        operation: str,
        binding: Binding | None,
        error: Exception | None = None,
        kinds: dict[Hashable, str] | None = None,
        report: bool = False,
    ) -> None:
        """Returns where all processes are about to do the same; raises the same error on all otherwise."""

        def describe() -> dict[str, str]:
            return {
                "the call": f"{operation}{' with report=True' if report else ''}",
                "the optimizer": f"{self._owner}, reduce={self.reduce!r}, transport={self.transport!r}",
                **self._settings_as_text(),
                "iter": str(self.optimizer.iter),
                "the number of accumulated gradients": str(self._calls()),
                **({} if binding is None else binding.as_text()),
                **{name_of(path, "grads"): kind for path, kind in (kinds or {}).items()},
            }

        if error is None and operation in AFTER_A_STEP and self._exchange is not None:
            if self._calls():
                error = RuntimeError(
                    f"Sharded {self._owner}: gradients were accumulated, which {operation} does not know; call update "
                    "before"
                )
        leaves = b"" if binding is None else binding.digest
        parts = operation, report, self.reduce, self.transport, self.optimizer.iter, self._calls(), leaves, kinds
        self._agreement.reach(digest_of(*parts, self._settings_digest()), describe, error)

    def _calls(self: Any) -> int:
        return 0 if self._exchange is None else self._exchange.calls

    def _settings_digest(self: Any) -> bytes:
        """A digest of all settings; worked out anew only where one was assigned to, or follows a schedule."""
        optimizer = self.optimizer
        attributes = optimizer.__dict__
        values = [attributes.get(name) for name in self._settings_names] + [optimizer.groups.changes]
        last: list[Any]
        digest: bytes
        last, digest = self._last_settings
        if optimizer._scheduled or len(last) != len(values) or not all(map(is_, last, values)):
            digest = digest_of(self._settings_as_text())
            self.__dict__["_last_settings"] = values, digest
        return digest

    def _settings_as_text(self: Any) -> dict[str, str]:
        optimizer = self.optimizer
        texts = {name: _as_text(getattr(optimizer, name)) for name in optimizer._hyperparameters() if name != "groups"}
        for selector, group in optimizer.groups.items():
            texts |= {f"groups[{_as_text(selector)}][{name!r}]": _as_text(value) for name, value in group.items()}
        return {"rule": optimizer.rule, **texts}


def needs_whole_arrays(optimizer: Any) -> bool:
    """Whether a rule, or a setting of all or of a group, steps arrays that must not be cut."""
    settings = [vars(optimizer), *optimizer.groups.values()]
    centralize = any(values.get("centralize") for values in settings)
    compact = any(values.get("state_storage", "float32") != "float32" for values in settings)  # in groups of elements
    return bool(centralize or compact or optimizer._rule.prepare)


def _check_leaves(owner: str, binding: Binding, shards: Shards) -> None:
    """Raises where parameters are not those of the first step."""
    for path, array in binding.arrays.items():
        if path not in shards.leaves:
            raise KeyError(checks.no_state(owner, path, shards.leaves, binding.name))
        array_checks.replaced(owner, binding.name(path), array, *shards.leaves[path][:2])
        if binding.leaves[path].order != shards.leaves[path].order:
            raise ValueError(
                f"{owner}: {binding.name(path)} lies in {binding.leaves[path].order} order and lay in "
                f"{shards.leaves[path].order} order at the first step, by which it was shared out; keep its order"
            )
    for path in shards.leaves:
        if path not in binding.arrays:
            raise KeyError(
                f"{owner}: {name_of(path)} is missing, which was there at the first step; hand in all parameters, and "
                "None as the gradient of those that are not to be updated"
            )


def _as_text(value: Any) -> str:
    """A setting as all processes write it."""
    if not callable(value):
        return repr(value)
    try:
        return repr(to_dict(value))
    except (ValueError, TypeError, AttributeError):
        return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__qualname__)}"
