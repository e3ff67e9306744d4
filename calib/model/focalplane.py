"""Where detectors lie beside each other, from stars that move over them between dithered exposures.

A star at s on the sky, in an exposure that looks at t and is turned by a, is at ``R(-a) (s - t)`` in the focal plane,
and there a pixel (x, y) of detector d lies at ``A_d (x, y) + o_d``. All of ``s``, ``t``, ``a``, ``A_d`` and ``o_d`` but
those of one detector, whose pixels set the scale, follow from pixels alone by least squares, where dithers carry stars
from detector to detector. Angles are small, those of fields beside each other, whose norths are not parallel: a camera
that turns at will is not looked for.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cho_factor, cho_solve
from scipy.sparse import csr_array, diags_array, hstack
from scipy.sparse.csgraph import breadth_first_order

from graphs import MeasurementGraph

Array = NDArray[np.float64]

MOST_EXPOSURES = 500
"""Exposures that are looked at, neighbours of each other."""
MOST_MEASUREMENTS = 400_000
"""Measurements of them that are looked at, whole stars."""
MOST_DETECTORS = 400
"""Cameras of more detectors are not looked at."""
PASSES = 12
FAR = 6.0
"""Measurements farther from their star than this many standard deviations do not join the least squares."""
STRAY, LEAST = 20.0, 0.003
"""Those farther than so many, and than this share of a detector, are another star's."""
USUAL, TIMES_USUAL, NEAR = 0.9, 3.0, 0.05
"""Nor is one within so many times the distance that this share of its exposure's measurements of its detector keep to,
where that is no more than ``NEAR`` of a detector: refraction and wide fields bend what no angle tells."""
TURN = 0.3
"""Largest angle of an exposure, rad."""
SETTLED = 1e-5
"""Angles that change by less, rad, are found."""
STRAIGHT = 0.8
"""Of an exposure's measurements that must be at their stars before others are called another star's."""
FITS = 0.01
"""Largest scatter about the layout, and largest error of a detector's place, over the size of a detector."""
LIKE = 2.0
"""Detectors differ in scale by no more than this factor: a camera that turns would shrink all but one to a point."""


@dataclass(frozen=True)
class Layout:
    """Places of detectors in the focal plane, in pixels of one of them.

    Attributes
    ----------
    affine
        (D, 2, 3): ``u = affine[d, 0] . (x, y, 1)``, ``v = affine[d, 1] . (x, y, 1)``.
    """

    affine: Array

    def __call__(self, x: NDArray[np.floating], y: NDArray[np.floating], detector: NDArray[np.integer]) -> Array:
        """Places (2, n) in the focal plane of pixels (n,)."""
        a = self.affine[detector]
        return np.stack([a[:, k, 0] * x + a[:, k, 1] * y + a[:, k, 2] for k in range(2)])


def layout(
    graph: MeasurementGraph, x: Array, y: Array, detector: NDArray[np.integer], n_detectors: int
) -> tuple[Layout, NDArray[np.bool_]] | None:
    """Layout of the detectors of measurements (n,) sorted by star, and which (n,) lie elsewhere than their star.

    None where pixels do not tell it: where dithers are smaller than detectors, or the camera turns between exposures.
    Which measurements lie elsewhere is told only where all are looked at.
    """
    near = np.flatnonzero(_sampled(graph, np.isfinite(x) & np.isfinite(y) & _neighbours(graph)))
    counts = np.bincount(detector[near], minlength=n_detectors)
    if not 2 <= n_detectors <= MOST_DETECTORS or not counts.all():
        return None
    size = max(float(np.ptp(np.quantile(axis[near], [0.001, 0.999]))) for axis in (x, y))
    if not size > 0:
        return None
    # in units in which all unknowns are of like size
    sample = _Sample.of(graph, near, np.stack([x, y], 1)[near] / size, detector[near].astype(np.int64), n_detectors)
    keep, found = np.ones(near.size, bool), None
    for floor in (NEAR, LEAST):
        # without angles first, when what is near may be right: they would bend to what is wrong
        for _ in range(PASSES):
            last, found = found, sample.solve(keep, None if floor == NEAR else found)
            if found is None:
                return None
            scatter = float(np.median(found.distance[keep])) / 1.1774
            before, keep = keep, found.distance < max(FAR * scatter, floor)
            if (keep == before).all() and (last is None or np.abs(found.angle - last.angle).max() < SETTLED):
                break
    assert found is not None
    affine = found.affine
    kept = np.bincount(sample.detector[keep], minlength=n_detectors)
    scale = np.linalg.svd(affine[:, :, :2], compute_uv=False)
    if scatter > FITS or found.error.max() * scatter > FITS or scale.min() < 1 / LIKE or scale.max() > LIKE:
        return None
    if (kept < 0.5 * counts).any():
        return None
    stray = np.zeros(x.size, bool)
    if near.size == np.count_nonzero(np.isfinite(x) & np.isfinite(y)):
        allowed = np.minimum(TIMES_USUAL * sample.usual(found.distance), NEAR)
        far = found.distance > np.maximum(max(STRAY * scatter, LEAST), allowed)
        # an exposure most of whose stars are elsewhere was turned, or placed by nothing; not its stars stray
        straight = np.bincount(sample.node, ~far) > STRAIGHT * np.bincount(sample.node)
        stray[near] = far & straight[sample.node]
    affine[:, :, 2] *= size
    return Layout(affine), stray


def _neighbours(graph: MeasurementGraph) -> NDArray[np.bool_]:
    """(n,), measurements of the exposures looked at: all, or those nearest to the one with most measurements."""
    node, n_stars, n = graph.exposure, graph.n_stars, graph.n_exposures
    if n <= MOST_EXPOSURES:
        return np.ones(node.size, bool)
    star = graph.star()
    pattern = csr_array((np.ones(node.size, np.int8), (star, node + n_stars)), shape=(n_stars + n,) * 2)
    start = n_stars + int(np.bincount(node, minlength=n).argmax())
    order = breadth_first_order(pattern, start, directed=False, return_predecessors=False)
    near = np.zeros(n, bool)
    near[(order[order >= n_stars] - n_stars)[:MOST_EXPOSURES]] = True
    return near[node]


def _sampled(graph: MeasurementGraph, among: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(n,), those of every so many stars, so that they are not too many."""
    every = -(-np.count_nonzero(among) // MOST_MEASUREMENTS)
    return among if every <= 1 else among & (graph.star() % every == 0)


@dataclass(frozen=True)
class _Found:
    """A layout, affine (D, 2, 3), with the error of each detector's place (D,) over the scatter.

    Exposures are turned by angle (E,), rad; distance (m,) is that of measurements from where most of their star's are,
    plane (2, m) their places in the focal plane, about its middle.
    """

    affine: Array
    error: Array
    angle: Array
    plane: Array
    distance: Array


@dataclass(frozen=True)
class _Sample:
    """What a layout is looked for in: star, node, detector int (m,), pixels (m, 2) over a detector's size."""

    star: NDArray[np.integer]
    node: NDArray[np.integer]
    detector: NDArray[np.integer]
    pixels: Array
    n_detectors: int

    @classmethod
    def of(
        cls, graph: MeasurementGraph, rows: NDArray[np.integer], pixels: Array, detector: NDArray[np.integer], n: int
    ) -> _Sample:
        """Stars and nodes numbered anew."""
        star, node = (np.unique(v[rows], return_inverse=True)[1] for v in (graph.star(), graph.exposure))
        return cls(star, node, detector, pixels, n)

    def solve(self, keep: NDArray[np.bool_], last: _Found | None = None) -> _Found | None:
        """Least squares over the kept; None where nothing can be said.

        Angles are those of ``last`` and what follows for them from its places, to first order; without it none.
        """
        d, n, D = self.detector[keep], int(keep.sum()), self.n_detectors
        count = np.bincount(d, minlength=D)
        if not count.all():
            return None
        reference, at = int(count.argmax()), np.arange(n)
        xy = self.pixels[keep]
        # pixels about each detector's middle, so that its offset is that of its middle
        middle = np.stack([np.bincount(d, xy[:, k], D) / count for k in (0, 1)], 1)
        about = xy - middle[d]
        n_nodes = int(self.node.max()) + 1
        exposures = csr_array((np.full(n, -1.0), (at, self.node[keep])), shape=(n, n_nodes))
        free = np.where(d == reference, -1, d - (d > reference))
        own = free >= 0
        columns = [
            csr_array((-v[own], (at[own], free[own])), shape=(n, D - 1)) for v in (about[:, 0], about[:, 1], np.ones(n))
        ]
        X = hstack([exposures, *columns]).tocsr()
        _, star = np.unique(self.star[keep], return_inverse=True)
        of_stars = csr_array((np.ones(n), (star, at)))
        visits = np.bincount(star).astype(float)
        mean = diags_array(1.0 / visits) @ of_stars

        def product(a: csr_array, b: csr_array) -> Array:
            """Return a' b of what is left when each star's mean is taken away."""
            return np.asarray((a.T @ b - (mean @ a).T @ (diags_array(visits) @ (mean @ b))).toarray())

        angle, added = np.zeros(n_nodes), np.zeros((2, n))
        if last is not None:
            angle = last.angle
            added = (_turned(last.plane, angle[self.node]) - last.plane)[:, keep]
        rhs = np.where(own[:, None], 0.0, xy) + added.T
        rhs -= (mean @ rhs)[star]
        factor = _factor(product(X, X))
        if factor is None:
            return None
        unknown = cho_solve(factor, X.T @ rhs)
        variance = np.diag(cho_solve(factor, np.eye(X.shape[1])[:, n_nodes:])[n_nodes:])
        if last is not None:
            # a small step of an angle moves a measurement across its place
            u, v = last.plane[:, keep] + added
            turns = [csr_array((move, (at, self.node[keep])), shape=(n, n_nodes)) for move in (v, -u)]
            both = [product(X, turn) for turn in turns]
            freed = [cho_solve(factor, p) for p in both]
            left = _factor(sum(product(t, t) - p.T @ f for t, p, f in zip(turns, both, freed, strict=True)))
            if left is None:
                return None
            step = cho_solve(left, sum(turns[k].T @ rhs[:, k] - both[k].T @ unknown[:, k] for k in (0, 1)))
            unknown -= np.stack([f @ step for f in freed], 1)
            variance = variance + np.max([(f * cho_solve(left, f.T).T)[n_nodes:].sum(1) for f in freed], 0)
            angle = np.clip(angle + step, -TURN, TURN)
        values = unknown[n_nodes:].reshape(3, D - 1, 2).transpose(1, 2, 0)
        affine, error = np.zeros((D, 2, 3)), np.zeros(D)
        others = np.setdiff1d(np.arange(D), [reference])
        affine[reference] = np.eye(2, 3)
        affine[others], error[others] = values, np.sqrt(variance.reshape(3, -1).max(0))
        affine[others, :, 2] -= np.einsum("dkj,dj->dk", affine[others][:, :, :2], middle[others])
        plane = Layout(affine)(self.pixels[:, 0], self.pixels[:, 1], self.detector)
        plane -= plane.mean(1)[:, None]
        sky = _turned(plane, angle[self.node]) + unknown[:n_nodes][self.node].T
        return _Found(affine, error, angle, plane, np.hypot(*(sky - self._of_stars(sky))))

    def usual(self, distance: Array) -> Array:
        """(m,), what `USUAL` of the distances (m,) of the same exposure and detector keep to."""
        which = self.node * self.n_detectors + self.detector
        order = np.lexsort((distance, which))
        _, first, back, n = np.unique(which[order], return_index=True, return_inverse=True, return_counts=True)
        out = np.empty(distance.size)
        out[order] = distance[order][first + (USUAL * (n - 1)).astype(int)][back]
        return out

    def _of_stars(self, sky: Array) -> Array:
        """(2, m), the place of each measurement's star: that of its measurement nearest to the median of all."""
        ptr = np.concatenate([[0], np.cumsum(np.bincount(self.star))])
        middle = ptr[:-1] + (np.diff(ptr) - 1) // 2
        median = np.stack([axis[np.lexsort((axis, self.star))[middle]][self.star] for axis in sky])
        nearest = np.lexsort((np.hypot(*(sky - median)), self.star))[ptr[:-1]]
        return np.asarray(sky[:, nearest][:, self.star])


def _turned(plane: Array, angle: Array) -> Array:
    """Places (2, n) turned by angles (n,), rad."""
    u, v = plane
    return np.stack([np.cos(angle) * u - np.sin(angle) * v, np.sin(angle) * u + np.cos(angle) * v])


def _factor(normal: Array) -> tuple[Array, bool] | None:
    """Of equations that need not tell everything; what they do not has a large error. None where they tell nothing."""
    try:
        factor: tuple[Array, bool] = cho_factor(normal + 1e-9 * np.diag(normal).max() * np.eye(normal.shape[0]))
    except LinAlgError:
        return None
    return factor
