"""Settings that do not go together: one table, for the errors and for the documentation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np


class Feature(NamedTuple):
    """Something that settings, a rule or a step may have.

    settings : the settings that decide it; () where it is the rule, or how a step is made, which names it itself
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
    """Whether the class, or one with the same metric that it is made of, says what its effective learning rate is."""
    defines = next(kind for kind in owner.__mro__ if "effective_lr" in vars(kind))
    return "_rule" in dir(defines) and defines._rule.metric is owner._rule.metric


def _of_a_step(owner: Any, settings: Any) -> bool:
    return False


FEATURES: dict[str, Feature] = {
    "bounds": Feature(("bounds", "nonnegative"), lambda owner, own: own.bounds is not None or own.nonnegative),
    "bounds that are arrays": Feature(("bounds",), lambda owner, own: _has_arrays(own.bounds)),
    "l1 or l2_prox": Feature(("l1", "l2_prox"), lambda owner, own: own.l1 != 0 or own.l2_prox != 0),
    "group_lasso": Feature(("group_lasso",), lambda owner, own: own.group_lasso != 0),
    "simplex": Feature(("simplex",), lambda owner, own: own.simplex),
    "unit_norm": Feature(("unit_norm",), lambda owner, own: own.unit_norm),
    "max_norm": Feature(("max_norm",), lambda owner, own: own.max_norm != math.inf),
    "group_lasso, max_norm, unit_norm or simplex": Feature(
        ("group_lasso", "max_norm", "unit_norm", "simplex"),
        lambda owner, own: own.group_lasso != 0 or own.max_norm != math.inf or own.unit_norm or own.simplex,
    ),
    "mask": Feature(("mask",), lambda owner, own: own.mask is not None),
    "centralize": Feature(("centralize", "groups"), lambda owner, own: own.centralize and not own.groups),
    "cautious": Feature(("cautious",), lambda owner, own: own.cautious),
    "cautious_decay": Feature(
        ("cautious_decay", "weight_decay"), lambda owner, own: own.cautious_decay and own.weight_decay != 0
    ),
    "an L2 penalty": Feature(
        ("weight_decay", "decoupled"), lambda owner, own: own.weight_decay != 0 and not own.decoupled
    ),
    "a rule with weight decay in its formula": Feature((), lambda owner, own: owner._decays_itself),
    "averaging": Feature(("averaging",), lambda owner, own: own.averaging is not None),
    "lookahead": Feature(("lookahead",), lambda owner, own: own.lookahead is not None),
    "a rule with norms of whole arrays": Feature((), lambda owner, own: owner._rule.is_by_array),
    "a rule without a step size of each element": Feature((), lambda owner, own: not _has_step_size(owner)),
    "a rule whose elements have step sizes of their own": Feature(
        (), lambda owner, own: not _has_step_size(owner) or owner._rule.metric is not None
    ),
    "ASGD": Feature((), lambda owner, own: owner.rule == "asgd"),
    "a rule that starts from lr": Feature((), lambda owner, own: owner.rule == "rprop"),
    "a schedule-free rule": Feature((), lambda owner, own: owner.rule.startswith("schedule_free")),
    "batch_axis": Feature(("batch_axis",), lambda owner, own: own.batch_axis is not None),
    "clip_array_norm": Feature(("clip_array_norm",), lambda owner, own: own.clip_array_norm != math.inf),
    "averages of the weights": Feature(
        ("averaging", "lookahead"), lambda owner, own: own.averaging is not None or own.lookahead is not None
    ),
    "compact state": Feature(("state_storage",), lambda owner, own: own.state_storage != "float32"),
    "gradients that are Rows": Feature((), _of_a_step),
    "Rows(..., exact=True)": Feature((), _of_a_step),
    "Sharded": Feature((), _of_a_step),
    "a rule of whole matrices": Feature((), lambda owner, own: owner._rule.prepare is not None),
    "complex parameters": Feature((), _of_a_step),
}
"""By the name that the table and the errors have for it."""

TABLE: tuple[Combination, ...] = (
    Combination(
        "bounds",
        "lookahead",
        "slow weights between two points within bounds may round to one outside",
        "use averaging=EMA(...), whose average is evaluated beside the parameters",
    ),
    Combination(
        "bounds",
        "ASGD",
        "its average is of parameters before the projection",
        "use SGD(averaging=SWA(start=...))",
    ),
    Combination(
        "bounds",
        "a schedule-free rule",
        "the weights to evaluate are an average that no projection reaches",
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
        "each process has a share of the parameters only",
        "give numbers as bounds",
    ),
    Combination(
        "l1 or l2_prox",
        "a rule without a step size of each element",
        "a penalty must act in proportion to the rule's steps",
        "use SGD, Momentum, RMSProp, AdaGrad, Adam or another that has effective_lr, or weight_decay",
    ),
    Combination(
        "l1 or l2_prox",
        "lookahead",
        "slow weights between two points are not zero where one of them is",
        "use averaging=EMA(...)",
    ),
    Combination(
        "l1 or l2_prox",
        "Rows(..., exact=True)",
        "steps that rows skip are made in closed form, without the penalty",
        "use exact=False, with which rows shrink only in steps that have a gradient of theirs",
    ),
    *(
        Combination(
            name,
            "a rule whose elements have step sizes of their own",
            "a step to the nearest point, by the plain distance, would not end at the minimum",
            "use SGD, Momentum, Nesterov, SGDMomentum or SGDNesterov",
        )
        for name in ("group_lasso", "simplex")
    ),
    *(
        Combination(
            "group_lasso, max_norm, unit_norm or simplex",
            other,
            "they come after the step, and it would be of parameters before them",
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
        "rows would move elements that the mask keeps",
        "leave one of them out, or give masked arrays groups without the others",
    ),
    Combination(
        "group_lasso, max_norm, unit_norm or simplex",
        "gradients that are Rows",
        "the pass is over whole parameters",
        "hand in dense gradients",
    ),
    Combination(
        "group_lasso, max_norm, unit_norm or simplex",
        "Sharded",
        "each process has a share of the parameters only",
        "use bounds, l1 or l2_prox",
    ),
    Combination("simplex", "bounds", "the nearest point within both is another", "leave bounds out"),
    Combination("simplex", "unit_norm", "rows cannot sum to one and have norm one", "choose one of them"),
    Combination("simplex", "max_norm", "the nearest point within both is another", "leave max_norm out"),
    Combination("unit_norm", "max_norm", "rows of norm one need no largest norm", "choose one of them"),
    Combination(
        "mask",
        "a rule with norms of whole arrays",
        "the norms, or the direction, would be of masked elements too",
        "use a rule without, such as AdamW, or groups={...: {'frozen': True}} for whole arrays",
    ),
    Combination(
        "mask",
        "centralize",
        "the means would be of masked elements too",
        "leave centralize out, or set it in groups for arrays without a mask",
    ),
    Combination(
        "mask",
        "cautious",
        "the share of elements that move would count masked ones too",
        "leave cautious out; cautious_decay works",
    ),
    Combination("mask", "ASGD", "its average would not begin where a mask is", "use SGD(averaging=SWA(start=...))"),
    Combination(
        "mask",
        "gradients that are Rows",
        "rows without a gradient are left alone as it is",
        "leave rows out of the gradient, or hand in a dense one",
    ),
    Combination(
        "cautious",
        "ASGD",
        "its average is of parameters before steps are left out",
        "use SGD(averaging=SWA(start=...))",
    ),
    Combination(
        "cautious",
        "a schedule-free rule",
        "the average that it keeps would not follow the steps that are left out",
        "use AdamW with averaging=EMA(...)",
    ),
    Combination(
        "cautious",
        "Rows(..., exact=True)",
        "steps that rows skip have no gradient, so caution would leave them out",
        "use exact=False",
    ),
    Combination(
        "cautious_decay",
        "an L2 penalty",
        "decay that depends on the step must come after it",
        "set decoupled=True",
    ),
    Combination(
        "cautious_decay",
        "a rule with weight decay in its formula",
        "the step that decay would depend on has it in it",
        "leave cautious_decay out",
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
        "the norm would be that of all problems together",
        "use a rule whose steps are by element, such as Adam",
    ),
    Combination(
        "batch_axis",
        "a rule that starts from lr",
        "its state is made for all problems at once",
        "use RMSProp or Adam",
    ),
    Combination(
        "batch_axis",
        "clip_array_norm",
        "the norm would be that of an array of all problems",
        "clip_norm is that of each problem by itself",
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
        "the share of elements that move would be that of all problems",
        "leave cautious out; cautious_decay works",
    ),
    Combination(
        "batch_axis",
        "averages of the weights",
        "they would move at the steps of all problems together",
        "keep a mean of the parameters yourself",
    ),
    Combination(
        "batch_axis",
        "compact state",
        "groups of elements that share a scale may be of two problems",
        "leave state_storage out",
    ),
    Combination(
        "batch_axis",
        "l1 or l2_prox",
        "the step size of an element is that of one problem",
        "subtract the penalty's gradient yourself, or use weight_decay",
    ),
    Combination(
        "batch_axis",
        "group_lasso, max_norm, unit_norm or simplex",
        "the rows that they are of are problems there",
        "project each problem's parameters after the step",
    ),
    Combination(
        "batch_axis",
        "mask",
        "a mask is of elements of all problems",
        "use optimizer.active for whole problems, gradients of zero for elements",
    ),
    Combination(
        "batch_axis",
        "bounds that are arrays",
        "they would be read by element of all problems",
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
        "a share of the parameters may end within a problem",
        "give each process problems, and an optimizer, of its own",
    ),
    Combination("mask", "Sharded", "each process has a share of the parameters only", "set gradients to zero instead"),
    *(
        Combination("complex parameters", other, reason, advice)
        for other, reason, advice in (
            ("bounds", "complex numbers have no order", "hand in z.view(float), whose bounds are those of both parts"),
            ("l1 or l2_prox", "parts would go to zero one by one", "use weight_decay, or hand in z.view(float)"),
            ("simplex", "complex numbers have no order", "use unit_norm, which keeps the sum of |z|**2 at one"),
            ("centralize", "the means would be of both parts together", "subtract the mean yourself"),
            ("a rule of whole matrices", "it would see another matrix", "use AdamW for complex matrices"),
            ("compact state", "it is for float32 parameters", "give them a group with state_storage='float32'"),
            ("gradients that are Rows", "rows of pairs are not added up", "hand in z.view(float), and Rows of it"),
            ("batch_axis", "problems are of real numbers", "hand in z.view(float) of shape (problems, ...)"),
            ("Sharded", "a share of the parameters may end within a number", "hand in z.view(float)"),
        )
    ),
)
"""All of them; what is not here works together."""

SETTINGS = frozenset(name for feature in FEATURES.values() for name in feature.settings)
"""The settings on which it depends whether there is an error."""


def check(owner: Any, settings: Mapping[str, Any]) -> None:
    """Raises ValueError for the first combination of which both sides are there.

    owner : the class of the optimizer, whose defaults count where `settings` has nothing
    """
    merged = SimpleNamespace(**{name: settings.get(name, getattr(owner, name, None)) for name in SETTINGS})
    _check(owner.__name__, {name for name, feature in FEATURES.items() if feature.is_there(owner, merged)})


def check_step(owner: str, there: Mapping[str, bool]) -> None:
    """The same for features of which it shows only at a step whether they are there; `owner` is a name."""
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
