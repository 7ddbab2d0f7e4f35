"""The memory that a step writes, and gradients that lie in it."""

from __future__ import annotations

from bisect import bisect_right
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.lib.array_utils import byte_bounds

from fastopt import array_checks
from fastopt.engine import arguments
from fastopt.engine.containers import Container
from fastopt.engine.launch import Leaf
from fastopt.engine.overlaps import Memory, moved_blocks, share_memory
from fastopt.engine.state import State
from fastopt.flat import Array


class WrittenMemory:
    """Parameters and state that a step writes; raises where some of them overlap.

    leaves : the parameters that are updated
    container : that of the parameters, which has their names

    blocks : int64[2, n], starts and ends of disjoint blocks of memory, ascending
    """

    blocks: Array

    def __init__(self, owner: str, leaves: list[Leaf], state: State, container: Container) -> None:
        self.owner, self._updated, self._name_of = owner, leaves, container.name
        self._memory: Memory | None = None
        memory = self._of_parameters()
        if memory.overlapping:
            names = sorted(container.name(self._leaves[number].key) for number in memory.overlapping)
            raise ValueError(array_checks.overlapping(owner, *names))
        merged = [[block.start, block.end] for block in memory.blocks]
        for block in state.blocks:
            low, high = byte_bounds(block)
            number = bisect_right(merged, low, key=itemgetter(1))
            if number < len(memory.blocks) and merged[number][0] < high and low < high:
                members = [self._leaves[member] for member in memory.blocks[number].members]
                leaf = next(leaf for leaf in members if byte_bounds(leaf.array)[0] < high)
                raise ValueError(array_checks.overlapping_state(owner, container.name(leaf.key)))
        merged += [[low, high] for low, high in map(byte_bounds, state.blocks) if low < high]
        self.blocks = np.array(sorted(merged), dtype=np.int64).reshape(-1, 2).T.copy()

    def _of_parameters(self) -> Memory:
        """The memory of the parameters; worked out anew where some have become other arrays."""
        if self._memory is None:
            self._leaves = list(
                {leaf.identity: leaf for leaf in self._updated if leaf.array.size and not leaf.copied}.values()
            )
            self._memory = Memory([leaf.array for leaf in self._leaves])
        return self._memory

    def holds(self, name: str, leaf: Leaf, gradient: Array, state: State) -> bool:
        """Whether a gradient lies in its own parameter's memory; in any other that the step writes it is refused."""
        if gradient.size == 0:
            return False
        start, end = byte_bounds(gradient)
        block = int(self.blocks[1].searchsorted(start, side="right"))
        if block == self.blocks.shape[1] or self.blocks[0, block] >= end:
            return False
        memory = self._of_parameters()
        sharing = [self._leaves[number] for number in memory.sharing(gradient)]
        for other in sharing:
            if other.identity != leaf.identity:
                raise ValueError(arguments.gradient_in_written_memory(self.owner, name, self._name_of(other.key)))
        if any(share_memory(block, gradient) for block in state.blocks):
            raise ValueError(arguments.gradient_in_written_memory(self.owner, name, "the optimizer's state"))
        return bool(sharing)

    def moved(self, moves: list[tuple[int, int, int]]) -> tuple[Any, Any] | None:
        """The blocks after some arrays have moved, as `overlaps.moved_blocks`; None where they would overlap."""
        return moved_blocks(self.blocks, moves)

    def take(self, blocks: tuple[Any, Any]) -> None:
        """Takes up the blocks of parameters that are other arrays now."""
        self.blocks[:], self._memory = blocks, None
