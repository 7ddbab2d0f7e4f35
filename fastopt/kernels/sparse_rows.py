"""Gradients of some rows: duplicates are summed, and each updated row becomes an array of a launch's table."""

from __future__ import annotations


def add_up(indices, values, slots, distinct, sums):
    """Sums the values of each distinct index, in the order given and starting at zero, as `np.add.at` does.

    indices : int64[n]
    values : [n, width]
    slots : int64[rows of the parameter], -1 everywhere, and so again afterwards
    distinct : int64[most], is filled with the distinct indices in the order in which they come first
    sums : [most, width], is filled with their sums

    Returns the number of distinct indices, or -1 - k if index k is not that of a row; then nothing is written.
    """
    for k in range(len(indices)):
        if indices[k] < 0 or indices[k] >= len(slots):
            return -1 - k
    count = 0
    for k in range(len(indices)):
        slot = slots[indices[k]]
        if slot < 0:
            slot = count
            slots[indices[k]] = slot
            distinct[slot] = indices[k]
            sums[slot] = 0
            count += 1
        for column in range(values.shape[1]):
            sums[slot, column] += values[k, column]
    for slot in range(count):
        slots[distinct[slot]] = -1
    return count


def spread(whole, distinct, count, width, width_bytes, first, table, starts):
    """Writes into a launch's table, from row `first` on, the addresses of each updated row of one parameter.

    whole : int64[3 + state slots], the addresses of parameter, sums and state, and of the scalars
    distinct : int64[most], the updated rows, of which there are `count`
    width, width_bytes : the number of elements of a row, and of its bytes

    After them comes an empty array, by which a parameter without updated rows too has its place in the table and in the
    statistics. Returns the row after it.
    """
    last = table.shape[1] - 1
    for slot in range(count + 1):
        number = distinct[slot] if slot < count else 0
        row = first + slot
        table[row, 0] = whole[0] + number * width_bytes
        table[row, 1] = whole[1] + slot * width_bytes
        for column in range(2, last):
            table[row, column] = whole[column] + number * width_bytes
        table[row, last] = whole[last]
        starts[row + 1] = starts[row] + (width if slot < count else 0)
    return first + count + 1
