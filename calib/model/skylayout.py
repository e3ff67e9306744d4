"""Where detectors lie beside each other, from the sky positions of their stars.

A star of an exposure lies at u in its tangent plane, and in the camera at ``p = a_d x + b_d y + c_d`` of its detector's
pixels (complex numbers, deg). The camera is turned and shifted from exposure to exposure: ``u = r_e p + t_e``, |r| = 1.
Exposures and detectors are found in turn by least squares, beginning from one exposure's tangent plane. Places in the
camera are better than those on the sky where the camera turns: what its flat field does turns with it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from calib.model.focalplane import FAR, FITS, MOST_DETECTORS, Layout

Array = NDArray[np.float64]
Complex = NDArray[np.complex128]

ROUNDS = 40
"""Most rounds of exposures and detectors."""
SETTLED = 1e-3
"""Change of the places, over their scatter, that ends them."""
LEAST_STARS = 5
"""Measurements that a detector of an exposure, or an exposure, needs to be placed by them."""
KEPT = 0.8
"""Share of the measurements that must be where the layout puts them."""


def sky_layout(
    u: Complex, x: Array, y: Array, node: NDArray[np.integer], detector: NDArray[np.integer], n_detectors: int
) -> Layout | None:
    """Layout of the detectors, deg, from places u (n,) in each exposure's tangent plane, deg, and pixels (n,).

    None where not all detectors are told, or where measurements are not where one rigid camera would have them.
    """
    told = np.flatnonzero(np.isfinite(u) & np.isfinite(x) & np.isfinite(y))
    if not 2 <= n_detectors <= MOST_DETECTORS or told.size < LEAST_STARS * n_detectors:
        return None
    u, x, y, d = u[told], x[told], y[told], detector[told].astype(np.int64)
    node = np.unique(node[told], return_inverse=True)[1]
    size = max(float(np.ptp(np.quantile(axis, [0.001, 0.999]))) for axis in (x, y))
    if not size > 0:
        return None
    pixels = np.stack([x / size, y / size, np.ones(x.size)], 1)
    n_nodes = int(node.max()) + 1
    pairs = np.bincount(node * n_detectors + d, minlength=n_nodes * n_detectors)
    well = (pairs.reshape(n_nodes, n_detectors) >= LEAST_STARS).sum(1)
    keep = node == well.argmax()  # the exposure that shows most detectors is where the camera begins from
    turn, shift = np.ones(n_nodes, complex), np.zeros(n_nodes, complex)
    place, before, scatter = np.full(u.size, np.nan, complex), None, np.inf
    for _ in range(ROUNDS):
        affine = _detectors(pixels, (u - shift[node]) * np.conj(turn[node]), d, keep, n_detectors)
        place = np.einsum("ik,ik->i", pixels, affine[d])
        turn, shift = _exposures(u, place, node, keep | (before is None), n_nodes)
        gap = np.abs(u - shift[node] - turn[node] * place)
        known = np.isfinite(gap)
        if not known.any():
            return None
        scatter = max(float(np.median(gap[known])) / 1.1774, 1e-12)
        # of a detector that is not placed yet all may place it, where their exposure is
        keep = np.where(known, gap < FAR * scatter, np.isfinite(turn[node]))
        moved = np.inf if before is None else np.abs(place - before)[known & np.isfinite(before)].max(initial=0.0)
        if known.all() and moved < SETTLED * scatter:
            break
        before = place
    extent = float(np.median(np.abs(affine[:, :2])))  # of a detector, deg
    if not np.isfinite(affine).all() or scatter > FITS * extent or np.mean(keep) < KEPT:
        return None
    affine[:, :2] /= size
    return Layout(np.stack([affine.real, affine.imag], 1))


def _detectors(pixels: Array, p: Complex, d: NDArray[np.integer], keep: NDArray[np.bool_], n: int) -> Complex:
    """(D, 3), a, b, c of each detector by least squares over the kept rows; NaN where too few tell."""
    use = keep & np.isfinite(p)
    rows, of = pixels[use], d[use]
    count = np.bincount(of, minlength=n)
    normal = np.zeros((n, 3, 3))
    side = np.zeros((n, 3), complex)
    for j in range(3):
        side[:, j] = np.bincount(of, rows[:, j] * p[use].real, n) + 1j * np.bincount(of, rows[:, j] * p[use].imag, n)
        for k in range(3):
            normal[:, j, k] = np.bincount(of, rows[:, j] * rows[:, k], n)
    out = np.full((n, 3), np.nan, complex)
    good = (count >= LEAST_STARS) & (np.linalg.cond(normal + np.eye(3) * 1e-300) < 1e10)
    if good.any():
        out[good] = np.linalg.solve(normal[good], side[good, :, None])[:, :, 0]
    return out


def _exposures(
    u: Complex, p: Complex, node: NDArray[np.integer], keep: NDArray[np.bool_], n: int
) -> tuple[Complex, Complex]:
    """Turn and shift (E,) of each exposure by least squares over the kept rows; NaN where too few tell."""
    use = keep & np.isfinite(p)
    of, u, p = node[use], u[use], p[use]

    def mean(value: Complex) -> Complex:
        total = np.bincount(of, value.real, n) + 1j * np.bincount(of, value.imag, n)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(total / count)

    count = np.bincount(of, minlength=n)
    mean_u, mean_p = mean(u), mean(p)
    turn = mean((u - mean_u[of]) * np.conj(p - mean_p[of]))
    with np.errstate(invalid="ignore", divide="ignore"):
        turn = np.where(count >= LEAST_STARS, turn / np.abs(turn), np.nan)
    return turn, mean_u - turn * mean_p
