"""The characteristic matrix behind MIC and TIC: the best grids of every shape, by dynamic programming (ApproxMaxMI).

See :mod:`causalvae_pyro.metrics.information` for what it is and where it comes from.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["characteristic_matrices"]

# Sizes that trade the number of numpy calls against what fits into a core's cache. They change the time only.
_BLOCK = 48  # ends of columns that the dynamic programme treats in one call
_COSTS = 1 << 20  # pairs of ends and starts of columns, over all runs that go through it together
_TABLE = 1 << 18  # entries of the table of n log n summed over several rows of the grid
_POINTS = 1 << 18  # points, over all runs and numbers of rows, that are cut into clumps together


def characteristic_matrices(
    x: NDArray, y: NDArray, pairs: Sequence[tuple[int, int]], alpha: float, c: int, equicharacteristic: bool
) -> NDArray:
    """The characteristic matrices, ``[shapes, pairs]``, of columns of ``x`` ``[N, a]`` with columns of ``y`` ``[N, b]``."""
    if not 0 < alpha <= 1:
        raise ValueError(f"alpha: got {alpha}; expected more than 0 and at most 1")
    if not (c >= 1 and c % 1 == 0):
        raise ValueError(f"c: got {c}; expected a whole number of at least 1")
    size = len(x)
    # 1024 ** 0.6 is 63.999... in floating point, but grids of 64 cells belong to it.
    cells = int(max(size**alpha, 4) * (1 + 1e-12))
    rows = np.arange(2, cells // 2 + 1)
    columns = np.minimum(cells // rows, rows) if equicharacteristic else cells // rows
    # The shapes: a columns, cells of x, and b rows, cells of y.
    a, b = np.nonzero(np.outer(rows, rows) <= cells)
    a, b = rows[a], rows[b]
    smaller, larger = np.minimum(a, b), np.maximum(a, b)

    variables = np.concatenate([x.T, y.T])
    axes = _Axes.of(variables, rows)
    constant = axes.closes.sum(1) == 1
    matrices = []
    step = max(1, _POINTS // (2 * size))
    for start in range(0, len(pairs), step):
        first, second = np.array(pairs[start : start + step]).T
        second = second + x.shape[1]
        # The first half of the runs cuts y into rows and optimises the columns of x, the second half the other way round.
        found = _optima(axes, np.concatenate([second, first]), np.concatenate([first, second]), columns, int(c))
        of_y, of_x = found[: len(first)], found[len(first) :]
        if equicharacteristic:
            best = np.where(a < b, of_y[:, larger - 2, smaller - 2], of_x[:, larger - 2, smaller - 2])
        else:
            best = np.maximum(of_y[:, b - 2, a - 2], of_x[:, a - 2, b - 2])
        # Exactly 0, where rounding would leave some 1e-16.
        best[constant[first] | constant[second]] = 0
        matrices.append((best / np.log(smaller)).T)
    # Rounding may leave the range by an ulp.
    return np.concatenate(matrices, axis=1).clip(0, 1)


class _Axes(NamedTuple):
    """The variables' orders, and the rows of about equal size that each is cut into."""

    order: NDArray  # [m, N], the point at each position
    rank: NDArray  # [m, N], the position of each point
    closes: NDArray  # [m, N], whether a position is the last of its ties
    rows: NDArray  # [Y], numbers of rows
    ends: NDArray  # [Y, m, largest number of rows], points before each row's end

    @classmethod
    def of(cls, variables: NDArray, rows: NDArray) -> _Axes:
        order = np.argsort(variables, axis=1, kind="stable")
        rank = np.empty_like(order)
        np.put_along_axis(rank, order, np.arange(order.shape[1])[None], 1)
        ordered = np.take_along_axis(variables, order, 1)
        closes = np.ones(ordered.shape, dtype=bool)
        closes[:, :-1] = ordered[:, 1:] != ordered[:, :-1]
        m = len(variables)
        ends = _equipartition(closes, np.tile(np.arange(m), len(rows)), np.repeat(rows, m))
        return cls(order, rank, closes, rows, ends.reshape(len(rows), m, -1))


def _equipartition(closes: NDArray, source: NDArray, parts: NDArray) -> NDArray:
    """Cuts sequences of points into parts of about equal size, never between points of one group.

    A group opens the next part if the current one is not empty and would, with the group, be at least as far from the
    desired size as without it. So a part ends at the boundary nearest to the desired end, the lower one of two as near,
    but no part is empty before the points are used up.

    Args:
        closes: ``[g, N]``, whether a point is the last of its group.
        source: ``[m]``, the sequence that each cut is of.
        parts: ``[m]``, the number of parts of each cut.

    Returns:
        ``[m, largest number of parts]``, the number of points before each part's end; ``N`` for unused parts.
    """
    size = closes.shape[1]
    # The last boundary up to each position and the first one after it.
    below = np.zeros((len(closes), size + 1), dtype=np.int64)
    np.maximum.accumulate(np.where(closes, np.arange(1, size + 1), 0), axis=1, out=below[:, 1:])
    above = np.full((len(closes), size + 1), size, dtype=np.int64)
    np.minimum.accumulate(np.where(closes, np.arange(1, size + 1), size)[:, ::-1], axis=1, out=above[:, -2::-1])
    below, above = below.ravel(), above.ravel()

    by_parts = np.argsort(-parts, kind="stable")
    parts = parts[by_parts]
    offset = source[by_parts] * (size + 1)
    ends = np.full((parts[0], len(parts)), size, dtype=np.int64)
    position = np.zeros(len(parts), dtype=np.int64)
    # How many cuts still have parts to fill at each step.
    active = np.searchsorted(-parts, -np.arange(parts[0])).tolist()
    for step, count in enumerate(active):
        position, offset = position[:count], offset[:count]
        # Twice the desired end, rounded up: all that tells on which side of the middle between two boundaries it lies.
        target = 2 * position - 2 * (position - size) // (parts[:count] - step)
        place = target // 2 + offset
        lower, upper = below.take(place), above.take(place)
        ends[step, :count] = position = np.where((lower > position) & (lower + upper >= target), lower, upper)
    result = np.empty_like(ends)
    result[:, by_parts] = ends
    return result.T


def _optima(axes: _Axes, cut: NDArray, along: NDArray, columns: NDArray, c: int) -> NDArray:
    """The largest mutual informations, in nats, over the columns of a grid whose rows are fixed.

    Args:
        axes: The variables.
        cut: ``[R]``, the variable that each run cuts into rows of equal size.
        along: ``[R]``, the variable whose columns it optimises.
        columns: ``[Y]``, the largest number of columns for each number of rows.
        c: Clumps per column.

    Returns:
        ``[R, Y, most columns - 1]`` for 2, 3, ... columns; 0 beyond ``columns``.
    """
    runs, size = len(cut), axes.order.shape[1]
    # Where in the order of `cut` the points are, taken in the order of `along`.
    where = axes.rank[cut[:, None], axes.order[along]] + cut[:, None] * size
    table = np.arange(size + 1.0)
    table[1:] *= np.log(table[1:])
    # Shifted, to give -inf for columns that end before they start.
    losses = np.concatenate([[-np.inf], -table])
    found = np.zeros((runs, len(columns), columns.max() - 1))
    step = max(1, _POINTS // (runs * size))
    for start in range(0, len(columns), step):
        batch = slice(start, start + step)
        row = _parts_of_points(axes.ends[batch], size).reshape(len(columns[batch]), -1).take(where, axis=1)
        closes = _clumps(row, axes.closes, along).reshape(-1, size)
        ends, clumps = _merge(closes, np.repeat(c * columns[batch], runs))
        clump = _parts_of_points(ends, size).reshape(row.shape)
        clumps = clumps.reshape(-1, runs)
        for here, (rows, most) in enumerate(zip(axes.rows[batch].tolist(), columns[batch].tolist(), strict=True)):
            top = int(clumps[here].max())
            key = (clump[here] + np.arange(runs)[:, None] * top) * rows + row[here]
            counts = np.zeros((runs, top + 1, rows), dtype=np.int64)
            counts[:, 1:] = np.bincount(key.ravel(), minlength=runs * top * rows).reshape(runs, top, rows)
            counts = counts.cumsum(1).transpose(2, 0, 1)
            # N times the entropy of the rows.
            entropy = table[size] - table[counts[:, :, -1]].sum(0)
            total = counts.sum(0)
            codes, sums = _codes(counts, table)
            # Runs of about as many clumps go together; fewer are filled up with empty ones, which change nothing.
            by_clumps = np.argsort(-clumps[here], kind="stable")
            while len(by_clumps):
                width = int(clumps[here, by_clumps[0]]) + 1
                now, by_clumps = np.split(by_clumps, [max(1, _COSTS // width**2)])
                best = _best_columns(codes[:, now, :width], sums, total[now, :width], losses, most)
                found[now, start + here, : most - 1] = (entropy[now, None] + best) / size
    return found


def _parts_of_points(ends: NDArray, size: int) -> NDArray:
    """The index of each point's part, ``[..., N]``, from the numbers of points before the parts' ends ``[..., parts]``."""
    marks = np.zeros((*ends.shape[:-1], size + 1), dtype=np.int64)
    np.put_along_axis(marks, ends, 1, -1)
    return marks[..., :-1].cumsum(-1)


def _clumps(row: NDArray, closes: NDArray, along: NDArray) -> NDArray:
    """Whether a point is the last of its clump, ``[Y, R, N]``, from the points' rows ``[Y, R, N]``.

    A clump is a run of points in one row; points tied in the other variable but not in one row are a clump of their own.
    """
    change = row[..., 1:] != row[..., :-1]
    last = np.ones(row.shape, dtype=bool)
    last[..., :-1] = change
    for variable in np.unique(along):
        apart = closes[variable, :-1]
        if apart.all():
            continue
        runs = np.flatnonzero(along == variable)
        group = np.concatenate([[0], apart.cumsum()])
        inside = np.zeros((len(row), len(runs), row.shape[-1]), dtype=bool)
        inside[..., :-1] = change[:, runs] & ~apart
        mixed = np.logical_or.reduceat(inside, np.flatnonzero(np.diff(group, prepend=-1)), axis=-1)[..., group]
        last[:, runs, :-1] = apart & (change[:, runs] | mixed[..., 1:] | mixed[..., :-1])
    return last


def _merge(closes: NDArray, limits: NDArray) -> tuple[NDArray, NDArray]:
    """Merges clumps into super-clumps of equal size where there are more than the limit.

    Args:
        closes: ``[g, N]``, whether a point is the last of its clump.
        limits: ``[g]``.

    Returns:
        The numbers of points before the clumps' ends, ``[g, k]``, filled up with ``N``; and the clumps' numbers ``[g]``.
    """
    size = closes.shape[1]
    clumps = closes.sum(1)
    many = clumps > limits
    clumps = np.minimum(clumps, limits)
    ends = np.full((len(closes), clumps.max()), size, dtype=np.int64)
    few = np.flatnonzero(~many)
    row, last = np.nonzero(closes[few])
    number = np.arange(len(row)) - np.concatenate([[0], clumps[few].cumsum()])[row]
    ends[few[row], number] = last + 1
    many = np.flatnonzero(many)
    if len(many):
        merged = _equipartition(closes[many], np.arange(len(many)), limits[many])
        ends[many, : merged.shape[1]] = merged
    return ends, clumps


def _best_columns(codes: NDArray, sums: NDArray, total: NDArray, losses: NDArray, most: int) -> NDArray:
    """Dynamic programming over the boundaries of clumps.

    A column with ``n_i`` points in row ``i`` and ``n`` in all contributes ``sum_i n_i log n_i - n log n`` to the mutual
    information (times ``N``, less the entropy of the rows, which is the same for all). Columns may be empty, so that where
    there are fewer clumps than columns, the value at the number of clumps holds.

    Args:
        codes: Of the numbers of points of each row in the first 0, 1, ..., k clumps; see :func:`_codes`.
        sums: The table for them.
        total: ``[R, k + 1]``, the numbers of points in the first 0, 1, ..., k clumps.
        losses: ``-inf``, then ``-n log n`` for n = 0, 1, ..., N.
        most: The largest number of columns.

    Returns:
        ``[R, most - 1]``, the largest sum of contributions of 2, 3, ..., ``most`` columns.
    """
    runs, width = total.shape
    contribution = _contribution(codes, sums, total, losses)
    buffer = np.empty(runs * min(_BLOCK, width) * width)
    # [run, l - 1, t]: the most that the first t clumps reach with l columns.
    value = np.zeros((runs, most - 1, width))
    value[:, 0] = contribution(slice(0, width), slice(0, 1))[:, :, 0]
    # Block by block of t and, within it, level by level, so that a block's contributions stay in the cache for all levels.
    for start in range(0, width if most > 2 else 0, _BLOCK):
        stop = min(start + _BLOCK, width)
        gain = contribution(slice(start, stop), slice(0, stop))
        low = [0] * (most - 2)
        if start:
            # No end from t on needs a last column that starts at s if, ended at t, it reaches no more than t does with one
            # column fewer: starting it at t is as good then, because splitting a column never lowers the sum.
            reached = value[:, :-1, :start] + gain[:, None, 0, :start]
            value[:, 1:, start] = reached.max(2)
            np.maximum.accumulate(value[:, :, start], axis=1, out=value[:, :, start])
            useful = reached > value[:, :-1, start, None]
            low = np.where(useful.any(2), useful.argmax(2), start).min(0).tolist()
        for level, first in enumerate(low, 1):
            shape = runs, stop - start, stop - first
            window = buffer[: math.prod(shape)].reshape(shape)
            np.add(value[:, level - 1, None, first:stop], gain[:, :, first:], out=window)
            # Much faster than the maximum itself.
            place = window.reshape(-1, stop - first).argmax(1)
            place += np.arange(0, window.size, stop - first)
            value[:, level, start:stop] = buffer.take(place).reshape(runs, -1)
    return (value + contribution(slice(width - 1, width), slice(0, width))).max(2)


def _codes(counts: NDArray, table: NDArray) -> tuple[NDArray, NDArray]:
    """Codes for the counts of several rows at once, and the table of their summed ``n log n``, to save look-ups.

    Args:
        counts: ``[rows, R, k + 1]``, the number of points of each row in the first 0, 1, ..., k clumps.
        table: ``n log n`` for n = 0, 1, ..., N.

    Returns:
        Codes ``[groups of rows, R, k + 1]`` whose differences are the codes of the differences, and the table for them.
    """
    base = int(counts[:, :, -1].max()) + 1
    together = max(1, min(len(counts), int(math.log(_TABLE) / math.log(base))))
    codes = counts[::together].copy()
    sums = table[:base]
    for offset in range(1, together):
        more = counts[offset::together]
        codes[: len(more)] += more * base**offset
        sums = (table[:base, None] + sums).ravel()
    return codes, sums


def _contribution(codes: NDArray, sums: NDArray, total: NDArray, losses: NDArray) -> Callable[[slice, slice], NDArray]:
    """The function that gives columns' contributions, ``[R, ends, starts]``, from the boundaries they end and start at."""
    runs, width = total.shape
    # Buffers, because fresh memory for every call would cost more than the arithmetic.
    points = np.empty(runs * min(_BLOCK, width) * width, dtype=np.int64)
    looked_up, result = np.empty(len(points)), np.empty(len(points))

    def contribution(end: slice, start: slice) -> NDArray:
        shape = runs, end.stop - end.start, start.stop - start.start
        index, values, gain = (array[: math.prod(shape)].reshape(shape) for array in (points, looked_up, result))
        # Differences below 0 are those of columns that end before they start; the first of the losses is theirs.
        np.subtract(total[:, end, None] + 1, total[:, None, start], out=index)
        losses.take(index, out=gain, mode="clip")
        for code in codes:
            np.subtract(code[:, end, None], code[:, None, start], out=index)
            gain += sums.take(index, out=values, mode="clip")
        return gain

    return contribution
