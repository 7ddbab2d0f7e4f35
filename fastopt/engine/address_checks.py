"""Checks of all addresses before a kernel reads them, with FASTOPT_CHECK=1."""

from __future__ import annotations

import numpy as np
from numpy.lib.array_utils import byte_bounds

from fastopt.engine.address_table import Table
from fastopt.kernels.constraints import COLUMNS


def check_addresses(table: Table) -> None:
    """Raises if an address in a table is not that of a live array, large enough and, where written, writable."""
    for number, leaf in enumerate(table.leaves):
        if leaf.row < 0 or leaf.sparse:
            continue
        size = leaf.layout.nbytes
        owners = [[leaf.array if leaf.staged is None else leaf.staged]]
        owners += [
            [array for array in (table.scratch.get(number), table.gradients[number]) if isinstance(array, np.ndarray)]
        ]
        owners += [table.state.blocks + list(table.stand_ins.values())] * (table.addresses.shape[1] - 3 - len(COLUMNS))
        owners += [[leaf.columns[name]] if name in leaf.columns else [] for name in COLUMNS] + [[table.scalars]]
        for column, (address, arrays) in enumerate(zip(table.addresses[leaf.row].tolist(), owners, strict=True)):
            places = [byte_bounds(array) for array in arrays if column == 1 or array.flags.writeable]
            most = table.scalars[0].nbytes if column == table.addresses.shape[1] - 1 else size
            if 2 <= column < 2 + len(table.rule.state):
                most = table.state.bytes_of(leaf.key, size)
            if address == 0 and column >= 2 + len(table.rule.state):  # an average that is not wanted
                continue
            if size and not any(low <= address and address + most <= high for low, high in places):
                raise RuntimeError(
                    f"{table.owner}: the address {address:#x} in column {column} of {table.name(leaf.key)} is not that "
                    f"of {most} bytes of a live array; please report this error"
                )
    for launch in table.launches:
        launch.check_rows(table.owner, table.state.blocks)
        if launch.statistics is not None and launch.table[-1, 0] != launch.statistics.ctypes.data:
            raise RuntimeError(f"{table.owner}: the address of the statistics is wrong; please report this error")
