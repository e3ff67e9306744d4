"""What the network sees of a robust fit: bounded numbers without units, relative to the fit's own variances.

Residuals are over the robust model's standard deviation and what their own leverage left of it; errors, brightness,
seeing and sky are relative to the survey. So nothing depends on the unit, the zero of magnitudes or a common factor on
reported errors, and a table with only the four needed columns has zeros and masks where others have values.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from calib.learn.links import Links, links_of
from calib.learn.standardised import CELLS, LARGEST, by_place, describe, standardise
from calib.model.jitter import JITTER_GRID
from calib.model.problem import Problem
from calib.solve.robust import RobustFit

if TYPE_CHECKING:
    from calib.learn.pyg import HeteroData

Array = NDArray[np.float64]
Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

MEASUREMENT = (
    "residual", "residual_size", "weight", "reported_error", "brightness", "leverage", "radius", "edge", "response",
    "error_share", "variability_share", "local_mean", "local_count", "has_place", "has_response",
)  # fmt: skip
"""Columns of a measurement's features."""
OWN_RESIDUAL = ("residual", "residual_size", "weight", "response")
"""Those of them that a measurement's own residual is in: the decoder does not see them."""
STAR = (
    "visits", "chi2", "mean_size", "skewness", "variable", "variability", "response_sigma", "response_held",
    "has_response",
)  # fmt: skip
EXPOSURE = (
    "excess", "error_scale", "measurements", "chi2", "mean", "skewness", "tails", "outliers", "patchiness", "surface",
    "surface_held", "zeropoint_error", "seeing", "sky", "airmass", "jitter", "jitter_held", "photometric",
    "has_surface", "has_seeing", "has_sky", "has_night",
)  # fmt: skip
SCATTERS = (0.003, 0.012, 0.05)
"""Scatters of nights, mag, that part the first four columns of NIGHT."""
NIGHT = ("tightest", "tight", "medium", "loose", "exposures", "spread")


@dataclass
class Features:
    """All that the network sees, float32, and which belongs to which.

    Attributes
    ----------
    measurement, star, exposure, night
        (n, len(MEASUREMENT)), (S, len(STAR)), (E, len(EXPOSURE)), (G, len(NIGHT)).
    star_of, exposure_of
        int64 (n,).
    night_of
        int64 (E,), -1 where an exposure has no night model.
    links
        Between exposures.
    t
        (n,), residual over what is expected of it.
    """

    measurement: Floats
    star: Floats
    exposure: Floats
    night: Floats
    star_of: Ints
    exposure_of: Ints
    night_of: Ints
    links: Links
    t: Floats

    def to_hetero_data(self) -> HeteroData:
        """As a PyTorch Geometric graph of measurements, stars, exposures and nights."""
        import torch

        from calib.learn.pyg import HeteroData

        data: Any = HeteroData()
        for name in ("measurement", "star", "exposure", "night"):
            data[name].x = torch.from_numpy(getattr(self, name))
        data["measurement"].t = torch.from_numpy(self.t)
        data["measurement"].star = torch.from_numpy(self.star_of)
        data["measurement"].exposure = torch.from_numpy(self.exposure_of)
        own = np.flatnonzero(self.night_of >= 0)
        data["exposure", "in", "night"].edge_index = torch.from_numpy(np.stack([own, self.night_of[own]]))
        data["exposure", "links", "exposure"].edge_index = torch.from_numpy(self.links.edge_index)
        data["exposure", "links", "exposure"].edge_attr = torch.from_numpy(self.links.edge_attr)
        return data


def features_of(problem: Problem, fit: RobustFit) -> Features:
    """Look at a robust fit."""
    graph, design = problem.graph, fit.design
    node, star = graph.exposure, graph.star()
    n, n_nodes, n_stars = node.size, design.n_nodes, design.n_stars
    estimate, spread, noise = fit.estimate, fit.spread, fit.noise
    w, residual = np.asarray(fit.equations.w, float), np.asarray(estimate.residual, float)
    noisy = graph.star_ptr, node, w, noise.base(node, fit.err), fit.weighted.variability
    t, leverage = np.empty(n), np.empty(n)
    sums, node_sums = np.zeros((n_stars, 5)), np.zeros((n_nodes, 8))
    standardise(*noisy, noise.information, spread.prediction, residual, t, leverage, sums, node_sums)
    xy = np.zeros((0, 2), np.float32) if problem.xy is None else problem.xy
    cells, patchiness = _local(t, xy, node, n_nodes)

    slope, b_sigma, b_held = np.zeros(0), np.zeros(n_stars), np.zeros(n_stars)
    if design.star_block == 2:
        slope = np.nan_to_num(estimate.stars[:, 1])
        b_variance = np.maximum(np.nan_to_num(spread.star[:, 2]), 1e-14)
        b_sigma = slope / np.sqrt(b_variance)
        b_held = np.clip(fit.equations.prior.star * b_variance, 0.0, 1.0)
    log_err = np.log(np.maximum(fit.err, 1e-9))
    typical = np.stack([_per_band(x, problem.band, node) for x in (problem.m, log_err)], axis=1)
    measurement = np.empty((n, len(MEASUREMENT)), np.float32)
    describe(
        *noisy, t, leverage, fit.err, log_err, problem.m, typical, noise.error_scale2, xy, cells, slope,
        design.arrays[2], measurement,
    )  # fmt: skip

    visits = np.maximum(np.diff(graph.star_ptr), 1.0)
    variable = np.clip(np.nan_to_num(fit.weighted.variable, nan=0.5), 1e-4, 1 - 1e-4)
    log_base, chi2, free, size, root = sums.T
    of_stars = np.stack(
        [
            np.log(visits), np.log(chi2 / np.maximum(free, 0.2) + 0.05), size / visits, root / visits,
            np.log(variable / (1.0 - variable)) / 3.0, np.log1p(fit.weighted.variability / np.exp(log_base / visits)),
            np.arcsinh(b_sigma), b_held, np.full(n_stars, float(slope.size > 0)),
        ],
        axis=1,
    )  # fmt: skip

    count, log_base, square, weighted, weight, root, fourth, far = node_sums.T
    count = np.maximum(count, 1.0)
    of_exposures = np.stack(
        [
            np.log1p(10.0 * noise.excess / np.exp(log_base / count)),
            np.log(noise.error_scale2 / noise.survey_scale2[problem.band]),
            np.log(count), np.log(square / count + 0.05), np.sqrt(count) * weighted / np.maximum(weight, 1e-3),
            root / count, np.log(fourth / count + 0.1), np.sqrt(far / count), patchiness,
            *_exposures(problem, fit, n_nodes),
        ],
        axis=1,
    )  # fmt: skip
    night, night_of = _nights(fit, n_nodes)
    links = links_of(graph, w, np.nan_to_num(residual))
    return Features(
        measurement, _finite(of_stars), _finite(of_exposures), _finite(night), star.astype(np.int64),
        node.astype(np.int64), night_of, links, np.clip(t, -LARGEST, LARGEST).astype(np.float32),
    )  # fmt: skip


def _finite(x: Array) -> Floats:
    return np.clip(np.nan_to_num(x, nan=0.0, posinf=10.0, neginf=-10.0), -10.0, 10.0).astype(np.float32)


def _per_band(values: NDArray[np.floating], band: NDArray[np.int32], node: NDArray[np.int32]) -> Array:
    """The median of a node's band, (E,), of values of measurements."""
    out = np.zeros(int(band.max(initial=-1)) + 1)
    of = band[node] if out.size > 1 else node
    for b in range(out.size):
        inside = values[of == b] if out.size > 1 else values
        out[b] = np.median(inside) if inside.size else 0.0
    return out[band]


def _local(t: Array, xy: NDArray[np.floating], node: NDArray[np.int32], n_nodes: int) -> tuple[Array, Array]:
    """Sums over parts of the field, and how much parts differ beyond noise.

    Structure finer than a surface, as under cloud, shows in parts whose residuals agree.
    """
    if not xy.size:
        return np.zeros((0, 3)), np.zeros(n_nodes)
    cells, power = np.zeros((n_nodes * CELLS * CELLS, 3)), np.zeros(n_nodes)
    by_place(node, xy, t, cells, power)
    total, square, count = cells.T
    # pairs of one part: sum over i != j of t_i t_j, over its standard deviation were they independent
    cross = (total**2 - square).reshape(n_nodes, -1).sum(1)
    pairs = (count * (count - 1.0)).reshape(n_nodes, -1).sum(1)
    power = np.maximum(power / np.maximum(count.reshape(n_nodes, -1).sum(1), 1.0), 0.1)
    return cells, np.arcsinh(cross / (power * np.sqrt(2.0 * pairs + 1.0)))


def _exposures(problem: Problem, fit: RobustFit, n_nodes: int) -> list[Array]:
    """The columns of EXPOSURE from ``surface`` on."""
    K, theta, node_spread = fit.design.surface_block, fit.estimate.theta, fit.spread.node
    zeros = np.zeros(n_nodes)
    prior, border = fit.equations.prior, fit.terms.border
    surface, surface_held = zeros, zeros
    if K > 1 and border.illumination is not None:
        light = border.illumination
        gap = theta[:n_nodes, 1:K] - theta[light.column[:n_nodes], 1:K]
        variance = np.einsum("ekk->ek", node_spread[:n_nodes])[:, 1:K]
        precision = np.einsum("ekk->ek", prior.diagonal[:n_nodes])[:, 1:K]
        scale = np.median(gap**2, axis=0) + 1e-12
        surface = np.log((gap**2 / scale).mean(1) + 0.05)
        surface_held = np.clip(variance * precision, 0.0, 1.0).mean(1)
    z_variance = np.maximum(np.nan_to_num(node_spread[:n_nodes, 0, 0]), 1e-14)
    z_error = 0.5 * np.log(z_variance / np.median(z_variance))
    seeing, has_seeing = problem.log_seeing, np.asarray(problem.log_seeing != 0.0, float)
    sky, has_sky = _relative(problem, "sky", n_nodes)
    airmass = zeros if problem.airmass is None else np.nan_to_num(problem.airmass - 1.2)
    jitter, held, photometric, has_night = zeros.copy(), zeros.copy(), zeros.copy(), zeros.copy()
    levels = fit.terms.levels
    if levels is not None and levels.jitter.posterior is not None:
        h, precision = levels.levels, levels.jitter.precision
        jitter[h.node] = np.arcsinh(h.jitter(theta) * np.sqrt(precision))
        held[h.node] = np.clip(precision * z_variance[h.node], 0.0, 2.0)
        photometric[h.node] = np.log(precision * 1e-4) / 4.0
        has_night[h.node] = 1.0
    return [
        surface, surface_held, z_error, 3.0 * seeing, sky, airmass, jitter, held, photometric,
        np.full(n_nodes, float(K > 1)), has_seeing, has_sky, has_night,
    ]  # fmt: skip


def _relative(problem: Problem, name: str, n_nodes: int) -> tuple[Array, Array]:
    """A condition less its band's median, and whether it is known."""
    if name not in problem.nodes.columns:
        return np.zeros(n_nodes), np.zeros(n_nodes)
    values = problem.nodes[name].cast(float).fill_null(np.nan).to_numpy()
    known = np.isfinite(values)
    out = np.zeros(n_nodes)
    for b in np.unique(problem.band[known]):
        inside = known & (problem.band == b)
        out[inside] = values[inside] - np.median(values[inside])
    return out, known.astype(float)


def _nights(fit: RobustFit, n_nodes: int) -> tuple[Array, NDArray[np.int64]]:
    levels, night_of = fit.terms.levels, np.full(n_nodes, -1, np.int64)
    if levels is None or levels.jitter.posterior is None:
        return np.zeros((0, len(NIGHT))), night_of
    h, p = levels.levels, levels.jitter.posterior
    night_of[h.node] = h.group
    count = np.bincount(h.group, minlength=h.n_groups)
    edges = [0, *np.searchsorted(np.sqrt(JITTER_GRID), SCATTERS), JITTER_GRID.size]
    within = [slice(i, j) for i, j in pairwise(edges)]
    spread = np.bincount(h.group, np.log(levels.jitter.precision), h.n_groups) / np.maximum(count, 1)
    return (
        np.stack(
            [*(p[:, part].sum(1) for part in within), np.log(count), (9.0 - spread) / 4.0],
            axis=1,
        ),
        night_of,
    )
