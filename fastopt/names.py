"""Names of other libraries and misspelt ones: what errors suggest instead.

One table for all: `SETTINGS` are names of settings and what they are here, the first that the class has; `ELSEWHERE` is
what is not a setting here; `METHODS` and `CLASSES` are the same of methods and classes.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

SETTINGS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("learningrate", "stepsize", "eta", "lrate"), ("lr", "every")),
    "alpha": ("decay_rate", "lr"),
    "rho": ("decay_rate", "beta1"),
    **dict.fromkeys(("decay", "smoothing"), ("decay_rate", "lr_decay", "gamma")),
    "learningratedecay": ("lr_decay",),
    **dict.fromkeys(("betas", "beta"), ("momentum",)),
    **dict.fromkeys(("b1", "betaone"), ("beta1",)),
    **dict.fromkeys(("b2", "betatwo"), ("beta2",)),
    "b3": ("beta3",),
    **dict.fromkeys(("epsilon", "epsilonhat", "damping"), ("eps",)),
    **dict.fromkeys(("mu", "mom"), ("momentum", "beta1")),
    "etas": ("eta_minus and eta_plus",),
    "stepsizes": ("min_step_size and max_step_size",),
    **dict.fromkeys(("wd", "l2", "l2reg", "lambda", "weightdecayrate"), ("weight_decay",)),
    **dict.fromkeys(("weightdecouple", "decoupledweightdecay", "decoupleddecay"), ("decoupled",)),
    **dict.fromkeys(("initialaccumulatorvalue", "initaccumulator"), ("initial_accumulator",)),
    **dict.fromkeys(("clipvalue", "gradclip", "maxdelta"), ("clip_value",)),
    "clipnorm": ("clip_array_norm",),
    **dict.fromkeys(("globalclipnorm", "maxnorm", "maxgradnorm"), ("clip_norm",)),
    **dict.fromkeys(("gradientcentralization", "usegc"), ("centralize",)),
    **dict.fromkeys(("caution", "cautiousupdate"), ("cautious",)),
    **dict.fromkeys(("cautiousweightdecay", "cwd"), ("cautious_decay",)),
    "usebiascorrection": ("bias_correction",),
    **dict.fromkeys(("initd", "estimlr0"), ("d0",)),
    **dict.fromkeys(("repsrel", "reps", "initestim"), ("initial_distance",)),
    **dict.fromkeys(("useema", "ema", "emamomentum", "swa"), ("averaging",)),
    "lossscale": ("gradient_scale",),
    # of schedules
    **dict.fromkeys(
        ("tmax", "totalsteps", "totaliters", "decaysteps", "transitionsteps", "maxsteps"), ("steps", "every")
    ),
    **dict.fromkeys(("etamin", "minlr", "endvalue", "endlearningrate", "finallr"), ("end", "lowest")),
    **dict.fromkeys(("maxlr", "peakvalue", "peaklr"), ("peak", "start")),
    **dict.fromkeys(
        ("baselr", "initiallr", "initvalue", "initiallearningrate", "lr", "value"), ("start", "peak", "value")
    ),
    **dict.fromkeys(("warmupsteps", "numwarmupsteps"), ("warmup",)),
    "t0": ("period",),
    "tmult": ("growth",),
    **dict.fromkeys(("milestones", "boundaries"), ("at",)),
    "decayrate": ("gamma", "decay"),
    "pctstart": ("rise",),
    "divfactor": ("start_divisor",),
    "finaldivfactor": ("end_divisor",),
    "annealstrategy": ("shape",),
    "mode": ("better",),
}
"""By `plain` name."""

_UNNEEDED = "there is nothing like it here; leave it out"

ELSEWHERE: dict[str, str] = {
    "momentum": "use Momentum, or SGDMomentum for PyTorch's form",
    "momentum of RMSProp": "use RMSPropMomentum",
    "momentum of CentredRMSProp": "use CentredRMSProp",
    **{f"momentum of {owner}": "its share of the gradient's mean is beta1" for owner in ("Adam", "AdamW", "LAMB")},
    "nesterov": "use Nesterov, or SGDNesterov for PyTorch's form",
    **{f"nesterov of {owner}": "use NAdam" for owner in ("Adam", "AdamW")},
    "dampening": "use SGDMomentum",
    "centered": "use CentredRMSProp",
    "centred": "use CentredRMSProp",
    "amsgrad": "use AMSGrad",
    **dict.fromkeys(("foreach", "fused", "capturable", "differentiable", "jitcompile", "name", "verbose"), _UNNEEDED),
    "lastepoch": "the number of steps taken is the optimizer's `iter`",
    **dict.fromkeys(("params", "parameters", "net", "model"), "parameters go to update(params, grads)"),
    "lrdecay": "use a schedule: lr=schedules.InverseTime(0.01, decay=1e-4)",
    "decay": "use a schedule, such as lr=schedules.InverseTime(0.01, decay=1e-4)",
}
"""By `plain` name, with ` of CLASS` where it is another for that class."""

METHODS: dict[str, str] = {
    **dict.fromkeys(("step", "minimize", "applygradients", "apply", "applyupdates"), "call update(params, grads)"),
    **dict.fromkeys(
        ("zerograd", "zerograds", "cleargrads", "backward"),
        "gradients are handed to each update(params, grads) and kept nowhere; leave it out",
    ),
    **dict.fromkeys(("setup", "init", "initialize"), "state is made at the first update(params, grads); leave it out"),
    **dict.fromkeys(("paramgroups", "addparamgroup"), "settings of a part of the parameters are `groups`"),
    **dict.fromkeys(("getlr", "getlastlr", "setlr"), "the learning rate is `lr`"),
    **dict.fromkeys(("t", "iterations", "stepcount", "numsteps"), "the number of steps taken is `iter`"),
    "state": "state is in attributes by slot, and in state_dict()",
}

CLASSES: dict[str, str] = {
    **dict.fromkeys(("gd", "gradientdescent", "vanillasgd"), "SGD"),
    **dict.fromkeys(("momentumsgd", "sgdwithmomentum", "heavyball"), "Momentum"),
    **dict.fromkeys(("nag", "nesterovag", "nesterovsgd", "sgdn"), "Nesterov"),
    **dict.fromkeys(("centeredrmsprop", "rmspropcentered", "rmspropgraves"), "CentredRMSProp"),
    **dict.fromkeys(("signsgd", "signmomentum"), "Signum"),
    **dict.fromkeys(("adabeliefoptimizer",), "AdaBelief"),
    **dict.fromkeys(("steplr", "stepdecay"), "Step"),
    **dict.fromkeys(("multisteplr", "piecewiseconstant", "piecewiseconstantdecay"), "Milestones"),
    **dict.fromkeys(("exponentiallr", "exponentialdecay"), "Exponential"),
    **dict.fromkeys(("linearlr", "linearschedule"), "Linear"),
    **dict.fromkeys(("polynomiallr", "polynomialdecay", "polynomialschedule"), "Polynomial"),
    **dict.fromkeys(("cosineannealing", "cosineannealinglr", "cosinedecay", "cosinedecayschedule"), "Cosine"),
    **dict.fromkeys(("cosineannealingwarmrestarts", "sgdr", "cosinedecayrestarts"), "CosineRestarts"),
    **dict.fromkeys(("onecyclelr", "1cycle"), "OneCycle"),
    "reducelronplateau": "ReduceOnPlateau",
    **dict.fromkeys(("noam", "noamlr"), "InverseSquareRoot"),
    **dict.fromkeys(("inversetimedecay", "inversetimelr"), "InverseTime"),
    **dict.fromkeys(("sequentiallr", "joinschedules"), "Sequence"),
    **dict.fromkeys(("chainedscheduler",), "Product"),
    **dict.fromkeys(("constantlr", "constantschedule"), "Constant"),
}


def plain(name: Any) -> str:
    """A name without case, `_`, `-` and blanks: `StableAdamW`, `stable_adamw` and `stable-adamw` are one."""
    return "".join(letter for letter in str(name).lower() if letter.isalnum())


def find(name: Any, choices: Iterable[str]) -> str | None:
    """The one of the known names that a name is in another spelling."""
    by_plain = {plain(one): one for one in choices}
    exact = by_plain.get(plain(name)) if isinstance(name, str) else None
    return exact or (
        by_plain.get(plain(CLASSES[plain(name)])) if isinstance(name, str) and plain(name) in CLASSES else None
    )


def nearest(name: Any, choices: Iterable[str]) -> str | None:
    """The known name that a name is most like, if it is much like one."""
    if not isinstance(name, str) or not name or len(name) > 100:
        return None
    by_plain = {plain(one): one for one in choices}
    same = find(name, by_plain.values())
    if same is not None:
        return same
    turned = [one for one in by_plain if sorted(one) == sorted(plain(name))]  # two letters of a short name
    longer = [one for one in by_plain if len(plain(name)) > 2 and one.startswith(plain(name))]
    close = turned or (longer if len(longer) == 1 else [])
    close = close or difflib.get_close_matches(plain(name), by_plain, n=1, cutoff=0.7)
    return by_plain[close[0]] if close else None


def did_you_mean(name: Any, choices: Iterable[str]) -> str:
    """`; did you mean 'lr'?` to end a sentence with, or nothing."""
    close = nearest(name, choices)
    return "" if close is None else f"; did you mean {close!r}?"


def one_of(name: Any, choices: Iterable[str]) -> str:
    """The end of an error about an unknown setting: what it may have been, and all that there is."""
    choices = list(choices)
    close = nearest(name, choices)
    return (f"; did you mean {close!r}? Known are " if close else "; known are ") + ", ".join(choices)


def setting_elsewhere(owner: str, name: Any, choices: Iterable[str]) -> str | None:
    """The name here of a setting of another library, for a class that has the known ones."""
    choices = list(choices)
    here = SETTINGS.get(plain(name), ())
    if "beta1" in choices and "momentum" not in choices and plain(name) in ("betas", "beta"):
        betas = [one for one in choices if one in ("beta1", "beta2", "beta3")]
        return (
            f"its name here is {', '.join(betas[:-1])} and {betas[-1]}" if len(betas) > 1 else "its name here is beta1"
        )
    for one in here:
        if all(part.strip() in choices for part in one.replace(" and ", ",").split(",")) and one != name:
            return f"its name here is {one}"
    return ELSEWHERE.get(f"{plain(name)} of {owner}") or ELSEWHERE.get(plain(name))


def unknown_setting(owner: str, name: Any, choices: Iterable[str]) -> str:
    """The text of an error about a setting that a class has not."""
    choices = list(choices)
    there = setting_elsewhere(owner, name, choices)
    if there is not None:
        return f"{owner} has no setting {name!r}: {there}"
    close = nearest(name, choices)
    middle = "; it has" if close is None else f"; did you mean {close!r}? It has"
    return f"{owner} has no setting {name!r}{middle} {', '.join(choices)}"


def unknown_attribute(owner: str, name: str, settings: Iterable[str], methods: Iterable[str]) -> str:
    """The text of an error about an attribute that an optimizer has not."""
    if plain(name) in METHODS:
        return f"{owner} has no {name!r}: {METHODS[plain(name)]}"
    settings, methods = list(settings), list(methods)
    close = nearest(name, [*settings, *methods])
    if close is not None and close in methods and close != name and setting_elsewhere(owner, name, settings) is None:
        return f"{owner} has no {name!r}; did you mean {close!r}?"
    return unknown_setting(owner, name, settings)


def unknown_class(module: str, name: str, choices: Iterable[str]) -> str:
    """The text of an error about a class that a module has not."""
    return f"module {module!r} has no attribute {name!r}{'' if name.startswith('_') else did_you_mean(name, choices)}"
