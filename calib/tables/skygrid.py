"""Points on the sphere in cells as wide as a radius: who is near whom, in time that goes with their number.

Points are unit vectors in whole numbers of `UNIT`, so that sums, means and distances are the same in whatever order
they are made. Cells are cubes: neither poles nor right ascension 0 are special. All arrays of points are in ascending
order of their cells' numbers, and so are the neighbours of consecutive cells: pointers that only go forward find them.
"""

# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs
# (compiled kernels carry no types)
from __future__ import annotations

import numpy as np
from numba import njit

ONE = 1 << 42
"""A unit vector's length in `UNIT`, which is 5e-8 arcsec."""
UNIT = 1.0 / ONE
AXIS = 21
"""Bits of a cell's number along each axis."""
NARROWEST = -(-2 * ONE // ((1 << AXIS) - 4))
"""Width of the narrowest cells that can be numbered, 0.2 arcsec."""
GRAINS = 8
"""Grains across a radius: points of a grain are one when density is looked at."""
SHARP = 4
"""Power of the density's kernel, ``(1 - distance / radius)``: sharp enough to tell two stars within a radius."""
_STEP_X, _STEP_Y = 1 << (2 * AXIS), 1 << AXIS


@njit(cache=True)
def _unit_vector(ra, dec):
    a, d = np.radians(ra), np.radians(dec)
    x, y, z = np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d)
    return np.int64(np.rint(ONE * x)), np.int64(np.rint(ONE * y)), np.int64(np.rint(ONE * z))


@njit(cache=True)
def _cell(x, y, z, width):
    i, j, k = (x + ONE) // width, (y + ONE) // width, (z + ONE) // width
    return ((i + 1) << (2 * AXIS)) | ((j + 1) << AXIS) | (k + 1)


@njit(cache=True)
def unit_vectors(ra, dec, row, out):
    """Fill out (k, 3) with the unit vectors of some rows of ra and dec, deg."""
    for i in range(row.size):
        out[i, 0], out[i, 1], out[i, 2] = _unit_vector(ra[row[i]], dec[row[i]])


@njit(cache=True)
def cells_of_rows(ra, dec, row, width, out):
    """Fill out (k,) with the numbers of the cells in which some rows of ra and dec lie, deg."""
    for i in range(row.size):
        x, y, z = _unit_vector(ra[row[i]], dec[row[i]])
        out[i] = _cell(x, y, z, width)


@njit(cache=True)
def number_cells(xyz, width, out):
    """Fill out (n,) with the number of each point's cell."""
    for i in range(out.size):
        out[i] = _cell(xyz[i, 0], xyz[i, 1], xyz[i, 2], width)


@njit(cache=True)
def _follow(cell, cells, low, high):
    # low, high (9,): where the points begin and end that lie in the cells around one, in rows of three cells
    b = 0
    for i in range(-1, 2):
        for j in range(-1, 2):
            first = cell + i * _STEP_X + j * _STEP_Y - 1
            p = low[b]
            while p < cells.size and cells[p] < first:
                p += 1
            low[b] = p
            while p < cells.size and cells[p] <= first + 2:
                p += 1
            high[b] = p
            b += 1


@njit(cache=True)
def _distance2(a, i, b, j):
    x, y, z = a[i, 0] - b[j, 0], a[i, 1] - b[j, 1], a[i, 2] - b[j, 2]
    return x * x + y * y + z * z


@njit(cache=True)
def make_grains(xyz, cells, width, grain, mean, cell, weight):
    """Fill mean (k, 3), cell (k,) and weight (k,) with the grains that hold points; returns k."""
    n, k, start = cells.size, 0, 0
    name = np.empty(n, np.int64)
    across = width // grain + 1
    while start < n:
        end = start + 1
        while end < n and cells[end] == cells[start]:
            end += 1
        first = k
        for i in range(start, end):
            x, y, z = (xyz[i, 0] + ONE) % width, (xyz[i, 1] + ONE) % width, (xyz[i, 2] + ONE) % width
            own = ((x // grain) * across + y // grain) * across + z // grain
            p = k
            while p > first and name[p - 1] > own:
                p -= 1
            if p == first or name[p - 1] != own:
                for q in range(k, p, -1):
                    name[q], weight[q] = name[q - 1], weight[q - 1]
                    mean[q, 0], mean[q, 1], mean[q, 2] = mean[q - 1, 0], mean[q - 1, 1], mean[q - 1, 2]
                name[p], weight[p], cell[k] = own, 0, cells[start]
                mean[p, 0] = mean[p, 1] = mean[p, 2] = 0
                k += 1
                p += 1
            weight[p - 1] += 1
            mean[p - 1, 0] += x
            mean[p - 1, 1] += y
            mean[p - 1, 2] += z
        for p in range(first, k):
            for axis in range(3):
                corner = xyz[start, axis] - (xyz[start, axis] + ONE) % width
                mean[p, axis] = corner + mean[p, axis] // weight[p]
        start = end
    return k


@njit(cache=True)
def density(xyz, cells, weight, radius, out):
    """Fill out (k,) with the weight around each grain, ``sum w (1 - distance / radius)^SHARP``."""
    low, high = np.zeros(9, np.int64), np.zeros(9, np.int64)
    r2 = radius * radius
    for i in range(cells.size):
        if i == 0 or cells[i] != cells[i - 1]:
            _follow(cells[i], cells, low, high)
        total = 0.0
        for b in range(9):
            for j in range(low[b], high[b]):
                d2 = _distance2(xyz, i, xyz, j)
                if d2 < r2:
                    total += weight[j] * (1.0 - np.sqrt(float(d2)) / radius) ** SHARP
        out[i] = total


@njit(cache=True)
def leaders(order, xyz, cells, radius, out):
    """Fill out (k,) with grains no two of which lie within the radius, the first in the order first; returns how many.

    Every grain lies within the radius of one of them.
    """
    covered = np.zeros(cells.size, np.bool_)
    r2, n = radius * radius, 0
    for i in order:
        if covered[i]:
            continue
        out[n] = i
        n += 1
        for x in range(-1, 2):
            for y in range(-1, 2):
                first = cells[i] + x * _STEP_X + y * _STEP_Y - 1
                j = np.searchsorted(cells, first)
                while j < cells.size and cells[j] <= first + 2:
                    if _distance2(xyz, i, xyz, j) <= r2:
                        covered[j] = True
                    j += 1
    return n


@njit(cache=True)
def nearest_two(xyz, cells, star, star_cells, radius, best, d2, other2):
    """Fill best (n,) with the star nearest to each point, -1 where none lies within the radius.

    d2 and other2 (n,) are the squares of the distances to it and to the next one, ``radius^2 + 1`` where none is.
    """
    low, high = np.zeros(9, np.int64), np.zeros(9, np.int64)
    r2 = radius * radius
    for i in range(cells.size):
        if i == 0 or cells[i] != cells[i - 1]:
            _follow(cells[i], star_cells, low, high)
        which, near, next_ = -1, r2 + 1, r2 + 1
        for b in range(9):
            for j in range(low[b], high[b]):
                d = _distance2(xyz, i, star, j)
                if d < near or (d == near and d <= r2 and j < which):
                    which, near, next_ = j, d, near
                elif d < next_:
                    next_ = d
        best[i], d2[i], other2[i] = which, near, next_


@njit(cache=True)
def nearest_of_exposure(best, d2, exposure, row, mag, err, n_stars, n_exposures, lost_to):
    """Fill lost_to (n,) with the point of the same exposure and star that lies nearer to it, -1 where none does.

    Of two as near as each other the brighter is nearer, and of two as bright the one with the smaller error.
    """
    ptr = np.zeros(n_stars + 1, np.int64)
    for i in range(best.size):
        lost_to[i] = -1
        if best[i] >= 0:
            ptr[best[i] + 1] += 1
    for s in range(n_stars):
        ptr[s + 1] += ptr[s]
    order = np.empty(ptr[n_stars], np.int32)
    fill = ptr[:-1].copy()
    for i in range(best.size):
        if best[i] >= 0:
            order[fill[best[i]]] = i
            fill[best[i]] += 1
    seen, holder = np.full(n_exposures, -1, np.int32), np.empty(n_exposures, np.int32)
    for s in range(n_stars):
        several = False
        for i in order[ptr[s] : ptr[s + 1]]:
            e = exposure[i]
            if seen[e] != s:
                seen[e], holder[e] = s, i
                continue
            several = True
            h, a, b = holder[e], row[i], row[holder[e]]
            if d2[i] < d2[h] or (
                d2[i] == d2[h] and (mag[a] < mag[b] or (mag[a] == mag[b] and err[a] < err[b]))
            ):
                holder[e] = i
        if several:
            for i in order[ptr[s] : ptr[s + 1]]:
                if holder[exposure[i]] != i:
                    lost_to[i] = holder[exposure[i]]


@njit(cache=True)
def add_up(xyz, star, best, lost_to, total, n):
    """Add to total (S, 3) where the points of each star lie from it, and to n (S,) how many they are."""
    for i in range(best.size):
        s = best[i]
        if s >= 0 and lost_to[i] < 0:
            n[s] += 1
            for axis in range(3):
                total[s, axis] += xyz[i, axis] - star[s, axis]


@njit(cache=True)
def distances(xyz, star, owner, d2):
    """Fill d2 (n,) with the square of each point's distance from its star."""
    for i in range(d2.size):
        d2[i] = _distance2(xyz, i, star, owner[i])
