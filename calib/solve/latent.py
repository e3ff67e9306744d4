"""The seeing of exposures that came without one, from what their stars' residuals share.

Blended stars brighten together as seeing worsens: residuals hold a product ``b_s h_e``. Factors of that form are found
by expectation-maximisation with loadings ``b_s ~ N(0, 1)`` (probabilistic principal components; the systematics of
Tamuz, Mazeh & Zucker 2005, MNRAS 356, 1466, with shrinkage). Clouds and drifting flat fields make such factors too, but
what they do to stars of all places is symmetric and bounded; only blends go one way, and are few. So of the two largest
factors that mixture is taken whose loadings are most skew (as in independent components), and it counts as seeing where
they are skew and heavy-tailed enough. Its sign is that by which blends brighten.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calib.solve.robust import RobustFit

Array = NDArray[np.float64]

LEAST_VISITS = 15.0
"""Measurements of the star of a typical measurement, below which no factor can be told from noise."""
LEAST_FACTOR = 5e-4
"""Root mean square over exposures, mag per standard deviation of the loadings, of a factor that is one."""
LEAST_SKEWNESS, LEAST_KURTOSIS = 1.0, 6.0
"""Of the loadings, a judgement between those of blends and those of clouds, flat fields and noise."""
LEAST_INFORMED = 100.0
"""Stars' worth of information on loadings that can tell their shape."""
N_FACTORS = 2
"""Directions between them are angles."""
START = 3e-3
"""Size of factors to begin from, mag, and the least that they may have while they are being found."""
NOTHING = 1e-12
"""Mean square of loadings that have faded: before any data it is 1."""
FREE_PASSES, PASSES = 30, 60
"""Passes in which they are being found, and all."""


def latent_seeing(fit: RobustFit, seed: int = 0) -> Array | None:
    """Standardised seeing of each exposure (E,), 0 in components that show none; None where none shows any.

    Parameters
    ----------
    fit
        Without responses.
    """
    graph, top = fit.design.graph, fit.equations.topology
    visits = np.diff(graph.star_ptr)
    if not visits.sum() or float((visits.astype(float) ** 2).sum() / visits.sum()) < LEAST_VISITS:
        return None
    star, node = graph.star(), graph.exposure
    w = np.nan_to_num(np.asarray(fit.equations.w, float))
    factors = _factors(star, node, w, fit.estimate.residual, (graph.n_stars, graph.n_exposures), seed)
    out = np.zeros(graph.n_exposures)
    of_star = top.component[node[np.minimum(graph.star_ptr[:-1], node.size - 1)]]
    for c in np.unique(top.component[np.bincount(node, w, graph.n_exposures) > 0]):
        inside = top.component == c
        shape = _most_skew(factors.loading[of_star == c], factors.covariance[of_star == c])
        q = factors.factor[inside] @ shape.direction
        if shape.told and q.std() >= LEAST_FACTOR:
            out[inside] = -np.sign(shape.skewness) * _standardised(q)
    return out if out.any() else None


def refreshed(fit: RobustFit) -> Array:
    """The latent seeing (E,) anew, from the responses that a fit with it has found."""
    graph, top, before = fit.design.graph, fit.equations.topology, fit.design.response
    assert before is not None
    star, node = graph.star(), graph.exposure
    w = np.nan_to_num(np.asarray(fit.equations.w, float))
    b, variance = np.nan_to_num(fit.estimate.stars[:, 1]), np.nan_to_num(fit.spread.star[:, 2])
    sums = [np.bincount(node, w * x, graph.n_exposures) for x in (1.0, b[star], b[star] ** 2 + variance[star])]
    right = [np.bincount(node, w * fit.estimate.residual * x, graph.n_exposures) for x in (1.0, b[star])]
    determinant = sums[0] * (sums[2] + 1.0) - sums[1] ** 2  # with a prior of unit variance
    with np.errstate(invalid="ignore", divide="ignore"):
        step = np.where(determinant > 0, (sums[0] * (right[1] - before) - sums[1] * right[0]) / determinant, 0.0)
    out = before + np.where(before != 0, step, 0.0)
    for c in np.unique(top.component[before != 0]):
        inside = top.component == c
        out[inside] = _standardised(out[inside])
    return out


def _standardised(q: Array) -> Array:
    """About their mean, in their standard deviation, within four: as a given seeing is taken."""
    return np.asarray(np.clip((q - q.mean()) / max(float(q.std()), 1e-12), -4.0, 4.0))


@dataclass(frozen=True)
class _Factors:
    """Factors (E, k), mag; loadings (S, k) and their covariances (S, k, k), 1 before any data."""

    factor: Array
    loading: Array
    covariance: Array


@dataclass(frozen=True)
class _Shape:
    """Direction (k,) in which loadings are most skew, and their moments there; ``informed`` is in stars."""

    direction: Array
    skewness: float
    kurtosis: float
    informed: float

    @property
    def told(self) -> bool:
        """Whether blends are in it."""
        far = abs(self.skewness) >= LEAST_SKEWNESS and self.kurtosis >= LEAST_KURTOSIS
        return far and self.informed >= LEAST_INFORMED


def _factors(
    star: NDArray[np.integer], node: NDArray[np.integer], w: Array, y: Array, size: tuple[int, int], seed: int
) -> _Factors:
    """Of ``y = M_s + b_s . q_e + z_e + noise`` of precision w, with magnitudes and zero-points free."""
    n_stars, n_nodes = size
    k = N_FACTORS
    own = np.arange(1, k + 1)
    q = START * np.random.default_rng([seed, 7]).standard_normal((n_nodes, k))
    z, scale2 = np.zeros(n_nodes), np.full(k, START**2)
    live = np.bincount(star, w, n_stars) > 0
    loading, covariance = np.zeros((n_stars, k)), np.broadcast_to(np.eye(k), (n_stars, k, k))
    for n_pass in range(PASSES):
        normal, right = _sums(star, n_stars, w, y - z[node], q[node])
        normal[:, own, own] += 1.0
        normal[~live] = np.eye(k + 1)
        inverse = np.linalg.inv(normal)
        mean = np.einsum("sij,sj->si", inverse, right)
        loading, cross = mean[:, 1:], inverse[:, 0, 1:]
        covariance = np.asarray(inverse[:, 1:, 1:], float)
        normal, right = _sums(node, n_nodes, w, y - mean[star, 0], loading[star])
        for i in range(k):
            right[:, 1 + i] -= np.bincount(node, w * cross[star, i], n_nodes)
            for j in range(k):
                normal[:, 1 + i, 1 + j] += np.bincount(node, w * covariance[star, i, j], n_nodes)
        normal[:, own, own] += 1.0 / scale2
        normal[:, 0, 0] += 1e-6
        inverse = np.linalg.inv(normal)
        found = np.einsum("eij,ej->ei", inverse, right)
        z, q = found[:, 0], found[:, 1:]
        # loadings of unit variance along principal axes
        second = (np.einsum("si,sj->ij", loading[live], loading[live]) + covariance[live].sum(0)) / max(live.sum(), 1)
        root = np.linalg.cholesky(second)
        variance, axes = np.linalg.eigh(root.T @ (q.T @ q / n_nodes + inverse[:, 1:, 1:].mean(0)) @ root)
        turn = root @ axes
        back = np.linalg.inv(turn)
        # while they are being found none may fade
        q, scale2 = q @ turn, np.maximum(variance, START**2 if n_pass < FREE_PASSES else 1e-12)
        loading = loading @ back.T
        covariance = back @ covariance @ back.T
    return _Factors(q, loading, np.where(live[:, None, None], covariance, np.eye(k)))


def _sums(
    index: NDArray[np.integer], n: int, w: Array, y: Array, x: Array
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Normal matrices (n, 1 + k, 1 + k) and right-hand sides (n, 1 + k) of y on (1, x) by index."""
    columns = [np.ones(w.size), *x.T]
    normal = np.empty((n, len(columns), len(columns)))
    right = np.empty((n, len(columns)))
    for i, a in enumerate(columns):
        right[:, i] = np.bincount(index, w * y * a, n)
        for j, b in enumerate(columns[: i + 1]):
            normal[:, i, j] = normal[:, j, i] = np.bincount(index, w * a * b, n)
    return normal, right


def _most_skew(loading: Array, covariance: Array, tries: int = 24) -> _Shape:
    """By fixed-point steps on the third moment from many beginnings, all the same in every run."""
    k = loading.shape[1]
    weight = np.clip(1.0 - np.einsum("sii->s", covariance) / k, 0.0, 1.0)
    best = _Shape(np.eye(k)[0], 0.0, 0.0, 0.0)
    for angle in np.linspace(0.0, np.pi, tries, endpoint=False):
        v = np.array([np.cos(angle), np.sin(angle)])
        for _ in range(50):
            up = ((weight * (loading @ v) ** 2)[:, None] * loading).sum(0)
            size = float(np.linalg.norm(up))
            if size == 0.0:
                break
            v, before = up / size, v
            if abs(v @ before) > 1.0 - 1e-10:
                break
        shape = _moments(loading @ v, np.clip(1.0 - np.einsum("i,sij,j->s", v, covariance, v), 0.0, 1.0), v)
        if abs(shape.skewness) > abs(best.skewness):
            best = shape
    return best


def _moments(x: Array, weight: Array, direction: Array) -> _Shape:
    total = float(weight.sum())
    second = float((weight * x**2).sum()) / max(total, 1e-30)
    if not second > NOTHING:
        return _Shape(direction, 0.0, 0.0, total)
    third, fourth = (float((weight * x**n).sum()) / total for n in (3, 4))
    return _Shape(direction, third / second**1.5, fourth / second**2, total)
