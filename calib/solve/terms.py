"""All that the solve assumes beforehand, learned as it goes: surfaces, responses to seeing, levels of nights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib.model.blends import BlendPrior
from calib.model.priors import GroupPrior
from calib.solve.border import Border
from calib.solve.design import Design
from calib.solve.nights import LevelPriors
from calib.solve.normal import Estimate, Prior, Spread

Array = NDArray[np.float64]

GROUPS = {1: slice(1, 3), 2: slice(3, 6)}
"""Coefficients of an exposure that share a variance: the plane's and the quadratic's."""
GRADIENT_OF_CURVED = 0.7
"""Gradient of a flat field, which overlaps hardly tell, over its curvature, which they tell: a judgement. Flats that
curve are seldom level."""

BAND_STRENGTH = {1: 300.0, 2: 2.0}
"""Belief in the sizes of a flat field's gradient and of its curvature, in coefficients' worth. What data say of the
gradient goes through small print (how the field is projected, how the flat curves further out), where a model that is
a little wrong speaks loudest: it may not talk the gradient to a size that its curvature does not suggest."""


@dataclass
class Squares:
    """Sums of squares and of posterior variances of every group of one kind."""

    square: Array
    variance: Array


class Terms:
    """Variances of the terms of a design, and the prior they make.

    Parameters
    ----------
    design
        Whose degree and response say which terms there are.
    border
        The hubs they hang on.
    start
        Surfaces and responses to begin from, mag.
    """

    def __init__(self, design: Design, border: Border, start: float = 3e-3) -> None:
        self.border = border
        self.surfaces = {
            g: GroupPrior(len(range(*part.indices(6))), start**2) for g, part in GROUPS.items() if g <= design.degree
        }
        # of each degree apart: a shared plane is hardly determined, and would be taken for as large as the quadratic is
        self.night = {g: GroupPrior(p.size, 1e-6, 10.0, strength=2.0, usual=2.5e-7) for g, p in self.surfaces.items()}
        usual = {1: border.flat_gradient**2, 2: 1e-6}
        self.band = {
            g: GroupPrior(p.size, usual[g], 30.0, strength=BAND_STRENGTH[g], usual=usual[g])
            for g, p in self.surfaces.items()
        }
        self.by_magnitude = None if design.by_magnitude is None else GroupPrior(1, start**2)
        self.response = BlendPrior(design.n_stars) if design.star_block == 2 else None
        self.levels = None if border.levels is None else LevelPriors(border.levels)
        self.last: dict[str, Squares] = {}

    def like(self, other: Terms) -> Terms:
        """Begin from what another survey, or another part of this one, has learned of the terms that both have."""
        return self.begin(other.learned())

    def learned(self) -> dict[str, Any]:
        """What another may begin from, as JSON has it: scale, mag^2, and dof of every prior, and shares of mixtures."""
        scales = {name: [prior.scale, prior.dof] for name, prior in self._scales().items()}
        response = None if self.response is None else self.response.shares.tolist()
        jitter = None if self.levels is None else self.levels.jitter.learned()
        return {"scales": scales, "response": response, "jitter": jitter}

    def begin(self, learned: dict[str, Any]) -> Terms:
        """Begin from what `learned` of others says of the terms that these have too."""
        for name, prior in self._scales().items():
            if name in learned["scales"]:
                prior.scale, prior.dof = learned["scales"][name]
        if self.response is not None and learned["response"] is not None:
            self.response.shares = np.array(learned["response"])
        if self.levels is not None and learned["jitter"] is not None:
            self.levels.jitter.begin(learned["jitter"])
        return self

    def observe(self, design: Design, estimate: Estimate, spread: Spread, step: float = 1.0) -> None:
        """Expected squares of all groups after a solve; sites of nights go this share of their way."""
        theta = estimate.theta
        variance = np.einsum("ekk->ek", spread.grounded)
        n, light = design.n_nodes, self.border.illumination
        self.last = {}
        if self.response is not None:
            self.response.observe(estimate.stars[:, 1], spread.star[:, 2])
        if light is not None:
            gap = theta[light.row] - theta[light.column]
            covariance = np.einsum("ckk->ck", spread.coupling[self.border.illumination_at])
            gap_variance = variance[light.row] + variance[light.column] - 2.0 * covariance
            own = light.row < n
            for g in self.surfaces:
                part = GROUPS[g]
                for kind, rows in (("surface", own), ("night", ~own)):
                    squares = Squares((gap[rows, part] ** 2).sum(1), gap_variance[rows, part].sum(1))
                    self.last[f"{kind}{g}"] = squares
                bands = slice(light.first, light.first + light.n_bands)
                self.last[f"band{g}"] = Squares((theta[bands, part] ** 2).sum(1), variance[bands, part].sum(1))
        if self.by_magnitude is not None:
            self.last["by_magnitude"] = Squares(theta[:n, -1] ** 2, variance[:n, -1])
        if self.levels is not None:
            pairs = self.levels.levels.pairs
            of_pairs = spread.coupling[self.border.levels_at, pairs.of_row, pairs.of_column]
            self.levels.observe(theta, spread.grounded, of_pairs, step)

    def update(self, topology_degree: NDArray[np.int64]) -> float:
        """One step of every variance; returns the largest change of a log variance that matters."""
        change = 0.0 if self.levels is None else self.levels.update()
        if 2 in self.band:
            curved = GRADIENT_OF_CURVED**2 * self.last["band2"].square.mean() / self.band[2].size
            self.band[1].usual = max(self.border.flat_gradient**2, float(curved))
        for name, prior in self._groups().items():
            s = self.last[name]
            informed = np.ones(s.square.size, bool)
            if name == "by_magnitude" or name.startswith("surface"):
                informed = topology_degree > 0
            change = max(change, prior.update(s.square, s.variance, informed))
        return change

    def prior(self, design: Design) -> Prior:
        """The prior of all unknowns under these variances."""
        E, K, light, hubs = design.n_nodes, design.block, self.border.illumination, self.border.hubs
        star, star_mean = np.zeros(design.n_stars), None
        if self.response is not None:
            star, star_mean = self.response.precision, self.response.mean
        k = np.arange(K)
        diagonal = np.zeros((E + hubs.n, K, K))
        coupling = np.zeros((hubs.row.size, K, K))
        rhs = np.zeros((E + hubs.n, K))
        if light is not None:
            precision = np.zeros((light.row.size, K))
            own = light.row < E
            for g, p in self.surfaces.items():
                precision[own, GROUPS[g]] = self._precision(p, f"surface{g}", E)[:, None]
                nights = int((~own).sum())
                precision[~own, GROUPS[g]] = self._precision(self.night[g], f"night{g}", nights)[:, None]
            for side in (light.row, light.column):
                for c in range(1, design.surface_block):
                    diagonal[:, c, c] += np.bincount(side, weights=precision[:, c], minlength=E + hubs.n)
            for g, p in self.band.items():
                part = k[GROUPS[g]]
                diagonal[light.first : light.first + light.n_bands, part, part] += 1.0 / p.scale
            coupling[self.border.illumination_at[:, None], k, k] -= precision
        if self.by_magnitude is not None:
            diagonal[:E, -1, -1] += self._precision(self.by_magnitude, "by_magnitude", E)
        if self.levels is not None:
            form = self.levels.quadratic(E + hubs.n)
            diagonal += form.diagonal
            rhs += form.rhs
            pairs = self.levels.levels.pairs
            np.add.at(coupling, (self.border.levels_at, pairs.of_row, pairs.of_column), form.pair)
        return Prior(diagonal, coupling, rhs, star, star_mean)

    def _groups(self) -> dict[str, GroupPrior]:
        """Priors by the name of their squares: of surfaces about nights, nights about bands, bands; by magnitude."""
        kinds = {"surface": self.surfaces, "night": self.night, "band": self.band}
        of_surfaces = {f"{kind}{g}": p for kind, priors in kinds.items() for g, p in priors.items()}
        return of_surfaces | ({} if self.by_magnitude is None else {"by_magnitude": self.by_magnitude})

    def _scales(self) -> dict[str, GroupPrior]:
        """Every prior that has a scale, by name."""
        return self._groups() | ({} if self.levels is None else self.levels.groups)

    def _precision(self, prior: GroupPrior, name: str, n: int) -> Array:
        if name not in self.last:
            return np.full(n, 1.0 / prior.scale)
        s = self.last[name]
        return prior.precision(s.square, s.variance)

    def log_density(self) -> float:
        """Log density of the groups at their estimates, without stars' responses, whose gain is counted apart."""
        total = sum(float(p.log_density(self.last[name].square).sum()) for name, p in self._groups().items())
        if self.levels is not None:
            total += self.levels.log_density()
        return total
