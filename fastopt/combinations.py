"""Settings that do not go together: one table, for the errors and for the documentation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np


class Feature(NamedTuple):
    """Something that settings, a rule or a step may have.

    settings : the settings that decide it; () where the rule does, or a step, which then names the feature itself
    is_there : `(class of the optimizer, its settings) -> bool`
    """

    settings: tuple[str, ...]
    is_there: Callable[[Any, Any], bool]


class Combination(NamedTuple):
    """Two features that do not go together, the reason, and what to do."""

    one: str
    other: str
    reason: str
    advice: str


def _has_arrays(bounds: Any) -> bool:
    return bounds is not None and any(isinstance(bound, np.ndarray) for bound in bounds)


def _has_step_size(owner: Any) -> bool:
    """Whether the class, or a base class with the same metric, defines its effective learning rate."""
    defines = next(kind for kind in owner.__mro__ if "effective_lr" in vars(kind))
    return hasattr(defines, "_rule") and defines._rule.metric is owner._rule.metric


def _of_a_step(owner: Any, settings: Any) -> bool:
    return False


FEATURES: dict[str, Feature] = {
    "bounds": Feature(("bounds", "nonnegative"), lambda owner, given: given.bounds is not None or given.nonnegative),
    "bounds that are arrays": Feature(("bounds",), lambda owner, given: _has_arrays(given.bounds)),
    "l1 or l2_prox": Feature(("l1", "l2_prox"), lambda owner, given: given.l1 != 0 or given.l2_prox != 0),
    "group_lasso": Feature(("group_lasso",), lambda owner, given: given.group_lasso != 0),
    "simplex": Feature(("simplex",), lambda owner, given: given.simplex),
    "unit_norm": Feature(("unit_norm",), lambda owner, given: given.unit_norm),
    "max_norm": Feature(("max_norm",), lambda owner, given: given.max_norm != math.inf),
    "group_lasso, max_norm, unit_norm or simplex": Feature(
        ("group_lasso", "max_norm", "unit_norm", "simplex"),
        lambda owner, given: given.group_lasso != 0 or given.max_norm != math.inf or given.unit_norm or given.simplex,
    ),
    "mask": Feature(("mask",), lambda owner, given: given.mask is not None),
    "centralize": Feature(("centralize", "groups"), lambda owner, given: given.centralize and not given.groups),
    "modulus": Feature(("modulus",), lambda owner, given: given.modulus),
    "clip_value": Feature(("clip_value",), lambda owner, given: given.clip_value != math.inf),
    "cautious": Feature(("cautious",), lambda owner, given: given.cautious),
    "cautious_decay": Feature(
        ("cautious_decay", "weight_decay"),
        lambda owner, given: given.cautious_decay and given.weight_decay != 0,
    ),
    "an L2 penalty": Feature(
        ("weight_decay", "decoupled"), lambda owner, given: given.weight_decay != 0 and not given.decoupled
    ),
    "a rule with weight decay in its formula": Feature((), lambda owner, given: owner._decays_itself),
    "averaging": Feature(("averaging",), lambda owner, given: given.averaging is not None),
    "lookahead": Feature(("lookahead",), lambda owner, given: given.lookahead is not None),
    "a rule without squares of single elements": Feature((), lambda owner, given: not owner._rule.squares_elements),
    "a rule with norms of whole arrays": Feature((), lambda owner, given: owner._rule.is_by_array),
    "a rule without an effective learning rate": Feature((), lambda owner, given: not _has_step_size(owner)),
    "a rule with a step size for each element": Feature(
        (), lambda owner, given: not _has_step_size(owner) or owner._rule.metric is not None
    ),
    "ASGD": Feature((), lambda owner, given: owner.rule == "asgd"),
    "a rule that starts from lr": Feature((), lambda owner, given: owner.rule == "rprop"),
    "a schedule-free rule": Feature((), lambda owner, given: owner.rule.startswith("schedule_free")),
    "batch_axis": Feature(("batch_axis",), lambda owner, given: given.batch_axis is not None),
    "clip_array_norm": Feature(("clip_array_norm",), lambda owner, given: given.clip_array_norm != math.inf),
    "averages of the weights": Feature(
        ("averaging", "lookahead"),
        lambda owner, given: given.averaging is not None or given.lookahead is not None,
    ),
    "compact state": Feature(("state_storage",), lambda owner, given: given.state_storage != "float32"),
    "gradients that are Rows": Feature((), _of_a_step),
    "Rows(..., exact=True)": Feature((), _of_a_step),
    "Sharded": Feature((), _of_a_step),
    "a rule of whole matrices": Feature((), lambda owner, given: owner._rule.prepare is not None),
    "complex parameters": Feature((), _of_a_step),
}
"""By the name that the table and the errors have for it."""

TABLE: tuple[Combination, ...] = (
    Combination(
        "bounds",
        "lookahead",
        "a slow weight between two points within the bounds may round to one outside",
        "use averaging=EMA(...), whose average is evaluated beside the parameters",
    ),
    Combination("bounds", "ASGD", "its average is of unclipped parameters", "use SGD(averaging=SWA(start=...))"),
    Combination(
        "bounds",
        "a schedule-free rule",
        "the weights to evaluate are an average, which is not clipped",
        "use AdamW or SGD with averaging=EMA(...)",
    ),
    Combination(
        "bounds",
        "Rows(..., exact=True)",
        "steps that rows skip are made in closed form, which may leave the bounds on the way",
        "use exact=False",
    ),
    Combination(
        "bounds that are arrays",
        "Sharded",
        "each process has only a shard of the parameters",
        "give numbers as bounds",
    ),
    Combination(
        "l1 or l2_prox",
        "a rule without an effective learning rate",
        "a penalty must act in proportion to the rule's steps",
        "use SGD, Momentum, RMSProp, AdaGrad, Adam or another rule that has one, or weight_decay",
    ),
    Combination("l1 or l2_prox", "lookahead", "slow weights would not stay exactly zero", "use averaging=EMA(...)"),
    Combination(
        "l1 or l2_prox",
        "Rows(..., exact=True)",
        "steps that rows skip are made in closed form, without the penalty",
        "use exact=False, with which rows shrink only at steps in which they have a gradient",
    ),
    *(
        Combination(
            name,
            "a rule with a step size for each element",
            "the nearest point in the Euclidean distance would not lead to the minimum",
            "use SGD, Momentum, Nesterov, SGDMomentum or SGDNesterov",
        )
        for name in ("group_lasso", "simplex")
    ),
    *(
        Combination(
            "group_lasso, max_norm, unit_norm or simplex",
            other,
            "these are applied after the step, so the average would be of parameters without them",
            advice,
        )
        for other, advice in (
            ("averaging", "average copies of the parameters after each step"),
            ("lookahead", "leave lookahead out"),
            ("ASGD", "use SGD"),
            ("a schedule-free rule", "use SGD or AdamW"),
        )
    ),
    Combination(
        "group_lasso, max_norm, unit_norm or simplex",
        "mask",
        "acting on whole rows would move masked elements",
        "leave one of them out, or give masked arrays groups without the others",
    ),
    Combination(
        "group_lasso, max_norm, unit_norm or simplex",
        "gradients that are Rows",
        "these act on whole parameters",
        "hand in dense gradients",
    ),
    Combination(
        "group_lasso, max_norm, unit_norm or simplex",
        "Sharded",
        "each process has only a shard of the parameters",
        "use bounds, l1 or l2_prox",
    ),
    Combination("simplex", "bounds", "together they have another nearest point", "leave bounds out"),
    Combination("simplex", "unit_norm", "rows cannot sum to one and have norm one", "choose one of them"),
    Combination("simplex", "max_norm", "together they have another nearest point", "leave max_norm out"),
    Combination("unit_norm", "max_norm", "rows of norm one need no limit of their norm", "choose one of them"),
    Combination(
        "mask",
        "a rule with norms of whole arrays",
        "its norms, or its direction, would include masked elements",
        "use a rule without norms, such as AdamW, or groups={...: {'frozen': True}} for whole arrays",
    ),
    Combination(
        "mask",
        "centralize",
        "the means would include masked elements",
        "leave centralize out, or set it in groups for arrays without a mask",
    ),
    Combination(
        "mask",
        "cautious",
        "the share of elements that move would include masked ones",
        "leave cautious out; cautious_decay works",
    ),
    Combination("mask", "ASGD", "its average would miss the masked values", "use SGD(averaging=SWA(start=...))"),
    Combination(
        "mask",
        "gradients that are Rows",
        "rows without a gradient are left alone anyway",
        "leave rows out of the gradient, or hand in a dense one",
    ),
    Combination(
        "cautious",
        "ASGD",
        "its average would include the steps that are left out",
        "use SGD(averaging=SWA(start=...))",
    ),
    Combination(
        "cautious",
        "a schedule-free rule",
        "its average would include the steps that are left out",
        "use AdamW with averaging=EMA(...)",
    ),
    Combination(
        "cautious",
        "Rows(..., exact=True)",
        "steps that rows skip have no gradient, so caution would leave them out",
        "use exact=False",
    ),
    Combination("cautious_decay", "an L2 penalty", "decay by the step must follow the step", "set decoupled=True"),
    Combination(
        "cautious_decay",
        "a rule with weight decay in its formula",
        "the step, on which the decay would depend, already contains it",
        "leave cautious_decay out",
    ),
    Combination(
        "cautious_decay",
        "a schedule-free rule",
        "its decay is part of the gradient, by which the average goes too",
        "leave cautious_decay out, or use AdamW with averaging=EMA(...)",
    ),
    Combination(
        "cautious_decay",
        "Rows(..., exact=True)",
        "steps that rows skip are made in closed form, in which decay does not depend on the step",
        "use exact=False",
    ),
    Combination(
        "batch_axis",
        "a rule with norms of whole arrays",
        "the norm would be over all problems together",
        "use an element-wise rule, such as Adam",
    ),
    Combination("batch_axis", "a rule that starts from lr", "its state starts from one lr", "use RMSProp or Adam"),
    Combination(
        "batch_axis",
        "clip_array_norm",
        "the norm would be over all problems of an array",
        "use clip_norm, which is by problem",
    ),
    Combination(
        "batch_axis",
        "centralize",
        "the means would be over problems",
        "subtract the mean from each problem's gradient before the step",
    ),
    Combination(
        "batch_axis",
        "cautious",
        "the share of elements that move would be over all problems",
        "leave cautious out; cautious_decay works",
    ),
    Combination(
        "batch_axis",
        "averages of the weights",
        "they would count the steps of all problems together",
        "average the parameters yourself",
    ),
    Combination(
        "batch_axis",
        "compact state",
        "elements that share a scale may belong to two problems",
        "leave state_storage out",
    ),
    Combination(
        "batch_axis",
        "l1 or l2_prox",
        "the threshold would differ from problem to problem",
        "subtract the penalty's gradient yourself, or use weight_decay",
    ),
    Combination(
        "batch_axis",
        "group_lasso, max_norm, unit_norm or simplex",
        "rows are problems there",
        "project each problem's parameters after the step",
    ),
    Combination(
        "batch_axis",
        "mask",
        "a mask is by element, not by problem",
        "use optimizer.active for whole problems, zero gradients for elements",
    ),
    Combination(
        "batch_axis",
        "bounds that are arrays",
        "they are by element, not by problem",
        "give numbers as bounds, or scale the problems",
    ),
    Combination(
        "batch_axis",
        "gradients that are Rows",
        "rows are problems there",
        "use optimizer.active to step some of them",
    ),
    Combination(
        "batch_axis",
        "Sharded",
        "a shard may end within a problem",
        "give each process its own problems and its own optimizer",
    ),
    Combination("mask", "Sharded", "each process has only a shard of the parameters", "set gradients to zero instead"),
    Combination(
        "modulus",
        "a rule without squares of single elements",
        "there is no second moment that it would change",
        "leave modulus out; a rule of your own has one by `squared`, from fastopt.kernels, in its formula",
    ),
    *(
        Combination(
            "modulus",
            other,
            "real and imaginary part would be treated by themselves, so steps would not turn with the complex plane",
            advice,
        )
        for other, advice in (
            ("clip_value", "use clip_norm or clip_array_norm"),
            ("cautious", "leave one of them out"),
            ("cautious_decay", "leave one of them out"),
        )
    ),
    *(
        Combination("complex parameters", other, reason, advice)
        for other, reason, advice in (
            ("bounds", "complex numbers have no order", "hand in z.view(float), whose bounds are those of both parts"),
            (
                "l1 or l2_prox",
                "real and imaginary part would become zero separately",
                "use weight_decay, or hand in z.view(float)",
            ),
            ("simplex", "complex numbers have no order", "use unit_norm, which keeps the sum of |z|**2 at one"),
            ("centralize", "the means would mix real and imaginary parts", "subtract the mean yourself"),
            ("a rule of whole matrices", "it would see a matrix of pairs", "use AdamW for complex matrices"),
            ("compact state", "it is for float32 parameters", "give them a group with state_storage='float32'"),
            ("gradients that are Rows", "rows of pairs are not added up", "hand in z.view(float), and Rows of it"),
            ("batch_axis", "problems are of real numbers", "hand in z.view(float) of shape (problems, ...)"),
            ("Sharded", "a shard may end within a number", "hand in z.view(float)"),
        )
    ),
)
"""All that do not go together; what is not here does."""

SETTINGS = frozenset(name for feature in FEATURES.values() for name in feature.settings)
"""The settings that may make a combination an error."""


def check(owner: Any, settings: Mapping[str, Any]) -> None:
    """Raises ValueError for the first combination of two features that are there.

    owner : the class of the optimizer, whose defaults count where `settings` has nothing
    """
    merged = SimpleNamespace(**{name: settings.get(name, getattr(owner, name, None)) for name in SETTINGS})
    _check(owner.__name__, {name for name, feature in FEATURES.items() if feature.is_there(owner, merged)})


def check_step(owner: str, there: Mapping[str, bool]) -> None:
    """The same for features that only a step knows; `owner` is a name."""
    _check(owner, {name for name, is_there in there.items() if is_there})


def check_complex(owner: Any, settings: Any) -> None:
    """The same for the settings of complex parameters at a step."""
    others = {row.other for row in TABLE if row.one == "complex parameters"}
    _check(
        owner.__name__, {"complex parameters", *(name for name in others if FEATURES[name].is_there(owner, settings))}
    )


def _check(owner: str, there: set[str]) -> None:
    for one, other, reason, advice in TABLE:
        if one in there and other in there:
            raise ValueError(f"{owner}: {one} and {other} do not go together: {reason}; {advice}")
