"""Local terms: surfaces across the field of each exposure, shrunk to their night's and survey's, and stars' responses to seeing.

    g_e ~ t(g_night, S_exposure),  g_night ~ t(g_band, S_night),  g_band ~ N(0, S_band)

Nights and bands are hubs of the Laplacian, so that what they take from all exposures, and the error that a shared
gradient leaves in the zero-points (it is nearly degenerate with a tilt of the sky), come out of the one solve.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calib.model.priors import GroupPrior
from calib.solve.design import Design
from calib.solve.normal import Estimate, Hubs, Prior, Spread

Array = NDArray[np.float64]
Ints = NDArray[np.int32]

GROUPS = {1: slice(1, 3), 2: slice(3, 6)}
"""Coefficients of an exposure that share a variance: the plane's and the quadratic's."""
SMALLEST_NIGHT = 4
"""Exposures that a night needs before it has an illumination of its own."""


@dataclass(frozen=True)
class Hierarchy:
    """Which hub each node and each night hangs on.

    Attributes
    ----------
    hubs
        Bands first, then nights of a band.
    parent
        int32 (E,), each node's hub, numbered from E.
    night_parent
        int32 (nights,), each night's hub.
    n_bands
        Number of bands.
    """

    hubs: Hubs
    parent: Ints
    night_parent: Ints
    n_bands: int

    @classmethod
    def of(cls, band: Ints, night: NDArray[np.int64] | None, *, most_nights: int = 400) -> Hierarchy:
        """Hang nodes on their night where it is known (not negative) and has exposures enough, else on their band."""
        n = band.size
        n_bands = int(band.max()) + 1 if n else 0
        parent = (n + band).astype(np.int32)
        night_parent = np.zeros(0, np.int32)
        if night is not None and n:
            keys, which, counts = np.unique(np.c_[band, night], axis=0, return_inverse=True, return_counts=True)
            which = which.ravel()
            good = (keys[:, 1] >= 0) & (counts >= SMALLEST_NIGHT)
            if 2 <= good.sum() <= most_nights:
                number = np.where(good, np.cumsum(good) - 1, -1)
                inside = number[which] >= 0
                parent[inside] = n + n_bands + number[which][inside]
                night_parent = (n + keys[good, 0]).astype(np.int32)
        row = np.arange(n, dtype=np.int32)
        nights = np.arange(night_parent.size, dtype=np.int32) + n + n_bands
        # a band's hub comes before its nights', so the band is the row of that pair
        rows = np.concatenate([row, night_parent])
        columns = np.concatenate([parent, nights])
        order = np.lexsort((columns, rows))
        hubs = Hubs(n_bands + night_parent.size, rows[order].astype(np.int32), columns[order].astype(np.int32))
        return cls(hubs, parent, night_parent, n_bands)


@dataclass
class Squares:
    """Sums of squares and of posterior variances of every group of one kind."""

    square: Array
    variance: Array


class LocalTerms:
    """Variances of the local terms of a design, and the prior they make."""

    def __init__(self, design: Design, hierarchy: Hierarchy | None, start: float = 3e-3) -> None:
        K = design.block
        self.hierarchy = hierarchy if K > 1 else None
        self.surfaces = {
            g: GroupPrior(len(range(*part.indices(6))), start**2) for g, part in GROUPS.items() if g <= design.degree
        }
        self.night = GroupPrior(K - 1, 1e-6, dof=10.0, strength=2.0, usual=2.5e-7)
        self.band = GroupPrior(K - 1, 1e-6, dof=30.0, strength=2.0, usual=1e-6)
        self.response = GroupPrior(1, start**2) if design.star_block == 2 else None
        self.last: dict[str, Squares] = {}

    def observe(self, design: Design, estimate: Estimate, spread: Spread) -> None:
        """Expected squares of all groups after a solve."""
        theta = estimate.theta
        variance = np.einsum("ekk->ek", spread.node)
        n, h = design.n_nodes, self.hierarchy
        self.last = {}
        if design.star_block == 2:
            b = np.nan_to_num(estimate.stars[:, 1])
            self.last["response"] = Squares(b**2, np.nan_to_num(spread.star[:, 2]))
        if h is None:
            return
        hubs = h.hubs
        gap = theta[hubs.row] - theta[hubs.column]
        gap_variance = variance[hubs.row] + variance[hubs.column] - 2.0 * np.einsum("ckk->ck", spread.coupling)
        own = hubs.row < n
        for g in self.surfaces:
            part = GROUPS[g]
            self.last[f"surface{g}"] = Squares((gap[own, part] ** 2).sum(1), gap_variance[own, part].sum(1))
        self.last["night"] = Squares((gap[~own, 1:] ** 2).sum(1), gap_variance[~own, 1:].sum(1))
        bands = slice(n, n + h.n_bands)
        self.last["band"] = Squares((theta[bands, 1:] ** 2).sum(1), variance[bands, 1:].sum(1))

    def update(self, topology_degree: NDArray[np.int64], visits: NDArray[np.int64]) -> float:
        """One step of every variance; returns the largest change of a log variance that matters."""
        priors = {f"surface{g}": p for g, p in self.surfaces.items()}
        if self.hierarchy is not None:
            priors |= {"night": self.night, "band": self.band}
        if self.response is not None:
            priors["response"] = self.response
        change = 0.0
        for name, prior in priors.items():
            s = self.last[name]
            informed = np.ones(s.square.size, bool)
            if name.startswith("surface"):
                informed = topology_degree > 0
            elif name == "response":
                informed = visits > 1
            before = prior.scale
            prior.update(s.square, s.variance, informed)
            if max(before, prior.scale) > 4e-8:  # 0.2 mmag
                change = max(change, abs(float(np.log(prior.scale / before))))
        return change

    def prior(self, design: Design) -> Prior:
        """The prior of all unknowns under these variances."""
        E, K, h = design.n_nodes, design.block, self.hierarchy
        star = np.zeros(design.n_stars)
        if self.response is not None:
            star[:] = self._precision(self.response, "response", star.size)
        n_hubs = 0 if h is None else h.hubs.n
        diagonal = np.zeros((E + n_hubs, K, K))
        if h is None:
            return Prior(diagonal, np.zeros((0, K, K)), np.zeros((E, K)), star)
        precision = np.zeros((h.hubs.row.size, K))
        own = h.hubs.row < E
        for g, p in self.surfaces.items():
            precision[own, GROUPS[g]] = self._precision(p, f"surface{g}", E)[:, None]
        precision[~own, 1:] = self._precision(self.night, "night", int((~own).sum()))[:, None]
        k = np.arange(K)
        for side in (h.hubs.row, h.hubs.column):
            total = np.stack([np.bincount(side, weights=precision[:, c], minlength=E + n_hubs) for c in range(K)], 1)
            diagonal[:, k, k] += total
        diagonal[E : E + h.n_bands, k[1:], k[1:]] += 1.0 / self.band.scale
        coupling = np.zeros((h.hubs.row.size, K, K))
        coupling[:, k, k] = -precision
        return Prior(diagonal, coupling, np.zeros((E + n_hubs, K)), star)

    def _precision(self, prior: GroupPrior, name: str, n: int) -> Array:
        if name not in self.last:
            return np.full(n, 1.0 / prior.scale)
        s = self.last[name]
        return prior.precision(s.square, s.variance)

    def log_density(self, measured: NDArray[np.bool_]) -> float:
        """Log density of the groups at their estimates; stars that were never measured say nothing."""
        total = 0.0
        for g, p in self.surfaces.items():
            total += float(p.log_density(self.last[f"surface{g}"].square).sum())
        if self.hierarchy is not None:
            total += float(self.night.log_density(self.last["night"].square).sum())
            total += float(self.band.log_density(self.last["band"].square).sum())
        if self.response is not None:
            total += float(self.response.log_density(self.last["response"].square[measured]).sum())
        return total
