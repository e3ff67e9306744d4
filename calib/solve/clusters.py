# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs
# (compiled kernels carry no types)
"""What measurements that err together add to the errors: the wild bootstrap by clusters.

Residuals of one cluster change sign together (Mammen 1993, Ann. Stat. 21, 255; Cameron, Gelbach & Miller 2008, Rev.
Econ. Stat. 90, 414), so that the spread of the draws holds whatever a cluster's residuals have in common, known or not.
Against draws in which every measurement changes sign for itself the excess is what the noise model, which takes
measurements to be independent, has missed. The excesses of several ways to cluster add (Cameron, Gelbach & Miller 2011,
J. Bus. Econ. Stat. 29, 238).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from numba import njit
from numpy.typing import NDArray

from calib.model.camera import CELLS, cells
from calib.solve import kernels
from calib.solve.design import Design
from calib.solve.normal import NormalEquations, Spread
from calib.solve.predictions import LARGE
from graphs.places import star_offsets

Array = NDArray[np.float64]
Ints = NDArray[np.int32]
Places = NDArray[np.float32]
Cluster = Ints | NDArray[np.int64] | Literal["star", "measurement"]

DRAWS = 64
"""Draws: the bits of one hash of a cluster's number."""
PATCHES = 4
"""Patches a side of an exposure's field."""
SIDES_BYTES = 256e6
"""Right-hand sides that are held while there is no factor yet."""


def patches(design: Design, xy: Places) -> Ints:
    """(n,), part of the exposure's field that each measurement lies in: stars near each other may err together."""
    return np.asarray(design.graph.exposure * np.int32(PATCHES**2) + cells(xy, PATCHES), np.int32)


def places_by_stars(design: Design) -> Places:
    """Where in the field measurements lie (n, 2), half fields, as far as the stars that exposures share tell it.

    In each exposure the offsets of its stars (`graphs.places.star_offsets`) are ranked, so that they fill its field.
    Which way is up is not known, and is the same everywhere.
    """
    node = design.graph.exposure
    out = np.empty((node.size, 2), np.float32)
    first = np.concatenate([[0], np.cumsum(np.bincount(node, minlength=design.n_nodes))])
    for k, offset in enumerate(star_offsets(design.graph)):
        offset = np.round(offset, 6).astype(np.float32)  # stars of the same exposures are at one place
        order = np.lexsort((offset, node))
        of, offset = node[order], offset[order]
        starts = np.flatnonzero(np.append(True, (np.diff(of) != 0) | (np.diff(offset) != 0))[: of.size])
        ends = np.append(starts[1:], of.size)[: starts.size]
        rank = np.repeat(0.5 * (starts + ends), ends - starts)
        out[order, k] = 2.0 * (rank - first[of]) / (first[of + 1] - first[of]) - 1.0
    return out


def wild_bootstrap(
    equations: NormalEquations, residual: NDArray[np.floating], spread: Spread, score: NDArray[np.floating],
    err: NDArray[np.floating], clusters: Sequence[Callable[[], Cluster]], seeds: Sequence[int],
) -> list[Array]:  # fmt: skip
    """(E,) for each way to cluster, variance of zero-points over the draws, mag^2, about their components' mean.

    Right-hand sides come first, many of them before a large survey makes its factor, which is then made once for all.

    Parameters
    ----------
    equations, spread
        Of the fit; draws use its factor.
    residual, score
        (n,), mag, and the weights with which residuals pull, 1/mag^2.
    err
        (n,), reported errors: by them stars and exposures are known, so that no draw hangs on a name.
    clusters
        Each gives what changes sign together: all measurements of a star, each for itself, or those of one number (n,).
    seeds
        Of the signs of each.
    """
    design, top = equations.design, equations.topology
    star_ptr, node = design.graph.star_ptr, design.graph.exposure
    xy, centre, response = design.arrays
    keys = _keys(design, err)
    shape = (design.n_nodes + top.hubs.n, design.block, DRAWS)
    at_once = max(int(SIDES_BYTES // (4 * np.prod(shape))), 1)
    out: list[Array] = []
    for start in range(0, len(clusters), at_once):
        sides: list[NDArray[np.float32]] = []
        inverse = kernels.star_inverses(star_ptr, node, score, design.star_block, response, equations.prior.star)
        for made, seed in zip(clusters[start : start + at_once], seeds[start : start + at_once], strict=True):
            rhs = np.zeros(shape)
            cluster = made()
            numbers = np.zeros(0, np.int32) if isinstance(cluster, str) else cluster
            _signed_sides(
                star_ptr, node, *keys, residual, equations.w, spread.prediction, equations.star_inverse, score, inverse,
                xy, design.block, centre, design.star_block, response, numbers,
                isinstance(cluster, str) and cluster == "star", np.uint64(seed), rhs,
            )  # fmt: skip
            sides.append(rhs.astype(np.float32))
            del rhs, cluster, numbers
        del inverse
        while sides:
            drawn = equations.factor.solve(sides.pop(0).astype(float))[: design.n_nodes, 0]
            out.append(np.asarray((top.about_mean(drawn) ** 2).mean(1)))
        if design.n_measurements >= LARGE:
            equations.release()  # before the next clusters are numbered
    return out


def bootstrap_variances(
    equations: NormalEquations, residual: NDArray[np.floating], spread: Spread, score: NDArray[np.floating],
    err: NDArray[np.floating], band: Ints, seed: int,
) -> tuple[Array, Array]:  # fmt: skip
    """(E,) twice, mag^2: variance of zero-points by stars, and what errors shared by part of a field add to it.

    Structure of one exposure finer than its surface, and patterns that all exposures have in common: by patches of an
    exposure, and where places are given by cells of the detector less what both hold. Each exposure's share of its
    variance is drawn towards the survey's by as much as the draws scatter. Arguments as for `wild_bootstrap`; band int
    (E,), of each node.
    """
    design, top = equations.design, equations.topology
    n, node = design.n_nodes, design.graph.exposure
    xy = places_by_stars(design) if design.xy is None else design.xy
    clusters: list[Callable[[], Cluster]] = [lambda: "star", lambda: patches(design, xy), lambda: "measurement"]
    if design.xy is not None:
        clusters.append(lambda: band[node] * np.int32(CELLS**2) + cells(xy))
        clusters.append(lambda: node * np.int32(CELLS**2) + cells(xy))
    by_star, *terms = wild_bootstrap(
        equations, residual, spread, score, err, clusters, [seed + k for k in range(len(clusters))]
    )
    signs = (1.0, -1.0, 1.0, -1.0)[: len(terms)]
    variance = np.maximum(spread.node[:n, 0, 0], 0.0)
    known = (top.size[top.component] > 1) & (variance > 0)
    out = np.zeros(n)
    if not known.any():
        return by_star, out
    share = sum(sign * v[known] for v, sign in zip(terms, signs, strict=True)) / variance[known]
    noise = 2.0 / DRAWS * float(np.mean(sum(v[known] ** 2 for v in terms) / variance[known] ** 2))
    # twice the scatter of a variance from so few exposures is no sign that they differ
    true = max(float(np.var(share)) - noise * (1.0 + 2.0 * np.sqrt(2.0 / share.size)), 0.0)
    mean = float(share.mean())
    out[known] = variance[known] * np.maximum(mean + true / (true + noise + 1e-12) * (share - mean), 0.0)
    return by_star, out


@njit(cache=True, nogil=True)
def _bits(number, seed):
    # splitmix64 (Steele, Lea & Flood 2014, OOPSLA): 64 signs of a cluster
    x = number * np.uint64(0x9E3779B97F4A7C15) + (seed + np.uint64(1)) * np.uint64(0xD1342543DE82EF95)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _keys(design: Design, err: NDArray[np.floating]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Numbers of stars (S,) and nodes (E,) made of what errors were reported: deaf to names, rows and zero-points."""
    star_ptr, node = design.graph.star_ptr, design.graph.exposure
    stars, nodes = np.zeros(star_ptr.size - 1, np.uint64), np.zeros(design.n_nodes, np.uint64)
    bits = np.ascontiguousarray(err).view(f"u{err.itemsize}")
    _add_to_nodes(node, bits, nodes)
    nodes = _told_apart(nodes)
    _add_to_stars(star_ptr, node, bits, nodes, stars)
    return _told_apart(stars), nodes


def _told_apart(keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    # those that nothing tells apart but their names are numbered in the order of these
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    first = np.concatenate([[True], ordered[1:] != ordered[:-1]])[: keys.size]
    place = np.arange(keys.size)
    repeat = (place - np.maximum.accumulate(np.where(first, place, 0))).astype(np.uint64)
    out = np.empty_like(keys)
    out[order] = ordered + repeat * np.uint64(0x9E3779B97F4A7C15)
    return out


@njit(cache=True, nogil=True)
def _add_to_nodes(node, bits, nodes):
    for i in range(node.size):
        nodes[node[i]] += _bits(np.uint64(bits[i]), np.uint64(0))


@njit(cache=True, nogil=True)
def _add_to_stars(star_ptr, node, bits, nodes, stars):
    for s in range(star_ptr.size - 1):
        for i in range(star_ptr[s], star_ptr[s + 1]):
            stars[s] += _bits(np.uint64(bits[i]) ^ nodes[node[i]], np.uint64(0))


@njit(cache=True, nogil=True)
def _signed_sides(
    star_ptr, node, star_key, node_key, residual, w, v, inv, score, score_inv, xy, K, centre, P, h, cluster, by_star,
    seed, rhs,
):  # fmt: skip
    # rhs (E, K, draws) += right-hand side of residuals whose clusters change sign together. w, v, inv: weights of the
    # fit, variances of its predictions and packed D_s^-1; score, score_inv: the weights of the right-hand side and
    # theirs. Residuals are scaled to the variance they had before zero-points were fitted, and before the star's own
    # magnitude was too unless the star is the cluster: its score is of residuals about it, before the fit as after.
    draws = rhs.shape[2]
    y0 = np.empty(draws)
    y1 = np.empty(draws)
    t = np.empty(draws)
    p = np.empty(K)
    one = np.uint64(1)
    for s in range(star_ptr.size - 1):
        low = star_ptr[s]
        high = star_ptr[s + 1]
        y0[:] = 0.0
        y1[:] = 0.0
        for step in range(2):
            if step == 1:
                for k in range(draws):
                    a = y0[k]
                    y0[k] = score_inv[s, 0] * a + score_inv[s, 1] * y1[k]
                    y1[k] = score_inv[s, 1] * a + score_inv[s, 2] * y1[k]
            for i in range(low, high):
                if score[i] == 0.0:
                    continue
                e = node[i]
                left = max(1.0 - w[i] * v[i], 0.05)
                alone = 1.0
                if by_star:
                    own = inv[s, 0]
                    if P == 2:
                        own += h[e] * (2.0 * inv[s, 1] + h[e] * inv[s, 2])
                    alone = min(max(1.0 - w[i] * own, 0.0), 1.0)
                r = residual[i] * np.sqrt(alone / left)
                wi = np.float64(score[i])
                if by_star:
                    number = star_key[s]
                elif cluster.size > 0:
                    number = np.uint64(cluster[i])
                else:
                    number = star_key[s] ^ _bits(node_key[e], one)
                bits = _bits(number, seed)
                if step == 0:
                    for k in range(draws):
                        x = wi * r if (bits >> np.uint64(k)) & one else -wi * r
                        y0[k] += x
                        if P == 2:
                            y1[k] += x * h[e]
                else:
                    for k in range(draws):
                        t[k] = wi * (y0[k] - (r if (bits >> np.uint64(k)) & one else -r))
                        if P == 2:
                            t[k] += wi * y1[k] * h[e]
                    kernels.phi(xy, i, K, centre, p)
                    for a in range(K):
                        for k in range(draws):
                            rhs[e, a, k] += t[k] * p[a]
