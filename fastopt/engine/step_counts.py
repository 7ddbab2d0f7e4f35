"""Step counts of leaves, which bias corrections, first-step cases and warm-ups inside rules take.

`iter` counts calls of `update`, and is what schedules see. A leaf counts the steps in which it was updated, so one that
joins late, is unfrozen or had no gradient for a while moves as in an optimizer of its own. Leaves that were always
updated at the same steps are a cohort: they share a count, and with it a row of scalars.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from typing import NamedTuple

Counts = tuple[int, ...]
"""A number for each cohort."""


class StepCounts(NamedTuple):
    """The cohorts of an optimizer and how far each is. Never changed in place: a step puts others in its place."""

    cohorts: Mapping[Hashable, int] = {}
    """The number of its cohort, by leaf."""
    steps: Counts = ()
    """The number of steps of each cohort."""
    averages: Counts = ()
    """How often the averages of its weights moved."""

    def divided(self, *sets: Iterable[Hashable]) -> StepCounts:
        """Return the same counts with cohorts of which a step can count each as a whole.

        sets : leaves that the step treats alike: those that it updates, and those that it leaves alone. A leaf that is
            not known yet begins at 0. Cohorts are never put together again, so loops whose steps update different
            leaves in turns come to an end with this.
        """
        cohorts, steps, averages = dict(self.cohorts), list(self.steps), list(self.averages)
        sizes = Counter(self.cohorts.values())
        for leaf_set in sets:
            members: dict[int | None, list[Hashable]] = {}
            for leaf in leaf_set:
                members.setdefault(self.cohorts.get(leaf), []).append(leaf)
            for cohort, leaves in members.items():
                if cohort is not None and len(leaves) == sizes[cohort]:
                    continue
                cohorts.update(dict.fromkeys(leaves, len(steps)))
                steps.append(0 if cohort is None else self.steps[cohort])
                averages.append(0 if cohort is None else self.averages[cohort])
                if cohort is not None:
                    sizes[cohort] -= len(leaves)
        return self if len(steps) == len(self.steps) else StepCounts(cohorts, tuple(steps), tuple(averages))

    def by_leaf(self) -> dict[Hashable, tuple[int, int]]:
        """Steps and averages of each leaf."""
        return {leaf: (self.steps[cohort], self.averages[cohort]) for leaf, cohort in self.cohorts.items()}


def of_leaves(counts: Mapping[Hashable, tuple[int, int]]) -> StepCounts:
    """Return what `by_leaf` was of."""
    numbers: dict[tuple[int, int], int] = {}
    cohorts = {leaf: numbers.setdefault(pair, len(numbers)) for leaf, pair in counts.items()}
    return StepCounts(cohorts, tuple(steps for steps, _ in numbers), tuple(averages for _, averages in numbers))


def counted(counts: Counts, cohorts: Iterable[int]) -> Counts:
    """Return counts with one more for some cohorts."""
    result = list(counts)
    for cohort in cohorts:
        result[cohort] += 1
    return tuple(result)


class CountedLeaves:
    """The leaves of a plan, by cohort.

    counts : those of all leaves before its first step; None where leaves are not known, and not counted
    updated, others : the leaves that a step updates, and those that it leaves alone
    """

    def __init__(self, counts: StepCounts | None, updated: list[Hashable], others: list[Hashable]) -> None:
        self.are_counted = counts is not None
        divided = None if counts is None else counts.divided(updated, others)
        self.counts = divided if divided and divided.steps else StepCounts({}, (0,), (0,))
        """The same with cohorts of which a step counts each as a whole."""
        self.cohort_of = {leaf: self.counts.cohorts.get(leaf, 0) for leaf in (*updated, *others)}
        self.stepping = tuple(dict.fromkeys(self.cohort_of[leaf] for leaf in updated)) if self.are_counted else (0,)
        """The cohorts that a step counts."""
        self.left_out = tuple({self.cohort_of[leaf] for leaf in others} - {*self.stepping})
        """Those of leaves that it leaves alone, of which averages are too."""

    def follow(self, cohorts: Mapping[Hashable, int]) -> bool:
        """Whether the leaves are counted so by the cohorts of today, too."""
        if not self.are_counted or self.counts.cohorts is cohorts:
            return True
        if any(cohorts.get(leaf) != cohort for leaf, cohort in self.cohort_of.items()):
            return False
        self.counts = self.counts._replace(cohorts=cohorts)
        return True
