"""Terms of the instrument: what each detector, or cell of one, adds to a band's magnitudes, in every exposure alike.

    calibrated magnitude = m + z_e + ... + o_bd + k_bd (colour - median colour)

Offsets o and slopes k of detector d in band b are t-distributed about zero with scales that are restricted-likelihood
estimates. They border the normal equations: with Phi the columns of all terms and P what zero-points and stars make of
a column, ``G = Phi' W (1 - P) Phi`` is the precision that measurements give to the terms when all else is solved for.
A step is along ``(G + 1/S)^-1 (Phi' W r - o / S)``; G is kept for some passes, as weights hardly change it, but where
detectors hang together by few stars they may: how far to go is what the weights of the pass say.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numba import njit
from numpy.typing import NDArray

from calib.model.camera import Camera
from calib.model.priors import GroupPrior
from calib.solve.design import Design
from calib.solve.kernels import phi
from calib.solve.normal import NormalEquations

Array = NDArray[np.float64]

LINK_PASSES = (1, 3, 6, 12, 24)
"""Passes in which G is made anew."""
AT_ONCE = 32
"""Columns solved for together."""

# ruff: noqa: D103 - each kernel's one line stands in its comment


@njit(cache=True, nogil=True)
def _add(node, band, detector, color, value, m, out):  # type: ignore[no-untyped-def]
    # out (n) = m with the terms' value (B, F, D + 1)
    F = value.shape[1]
    for i in range(node.size):
        b, d = band[node[i]], detector[i]
        term = value[b, 0, d]
        if F == 2:
            term += value[b, 1, d] * color[i]
        out[i] = m[i] + term


@njit(cache=True, nogil=True)
def _sums(node, band, detector, color, w, x, out):  # type: ignore[no-untyped-def]
    # out (B, F, D + 1) = Phi' (w x)
    F = out.shape[1]
    for i in range(node.size):
        if w[i] == 0.0:
            continue
        b, d = band[node[i]], detector[i]
        value = np.float64(w[i]) * x[i]
        out[b, 0, d] += value
        if F == 2:
            out[b, 1, d] += value * color[i]


@njit(cache=True, nogil=True)
def _cross(  # type: ignore[no-untyped-def]
    star_ptr, node, band, detector, color, w, inv, P, h, xy, K, centre, cross, own
):  # fmt: skip
    # own (B, F, D + 1, F, D + 1) = Phi' W (1 - stars) Phi, cross (E, K, F, D + 1) = what it is with the nodes' unknowns
    F = cross.shape[2]
    p = np.empty(K)
    a1 = 0.0
    xi = 0.0
    for s in range(star_ptr.size - 1):
        if inv[s, 0] <= 0.0:
            continue
        for j in range(star_ptr[s], star_ptr[s + 1]):
            wj = np.float64(w[j])
            if wj == 0.0:
                continue
            ej = node[j]
            dj = detector[j]
            b = band[ej]
            phi(xy, j, K, centre, p)
            a0 = wj * inv[s, 0]
            if P == 2:
                a0 += wj * inv[s, 1] * h[ej]
                a1 = wj * (inv[s, 1] + inv[s, 2] * h[ej])
            for i in range(star_ptr[s], star_ptr[s + 1]):
                wi = np.float64(w[i])
                if wi == 0.0:
                    continue
                c = -wi * (a0 + a1 * h[node[i]] if P == 2 else a0)
                if i == j:
                    c += wj
                di = detector[i]
                for a in range(K):
                    cross[ej, a, 0, di] += c * p[a]
                own[b, 0, dj, 0, di] += c
                if F == 2:
                    xi = color[i]
                    for a in range(K):
                        cross[ej, a, 1, di] += c * xi * p[a]
                    own[b, 0, dj, 1, di] += c * xi
                    own[b, 1, dj, 0, di] += c * color[j]
                    own[b, 1, dj, 1, di] += c * xi * color[j]


@dataclass(frozen=True)
class Columns:
    """Phi, as it is stored: of every measurement its detector and its colour, of every node its band.

    Attributes
    ----------
    node, band
        int32 (n,), (E,); a catalogue has the band of its stars.
    camera
        Detectors and colours.
    n_kinds
        F: 1, offsets alone, or 2, slopes with colour too.
    """

    node: NDArray[np.int32]
    band: NDArray[np.int32]
    camera: Camera
    n_kinds: int

    @property
    def n_detectors(self) -> int:
        """D."""
        return len(self.camera.names)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(B, F, D + 1), of values; the last detector is none and stays zero."""
        return int(self.band.max(initial=0)) + 1, self.n_kinds, self.n_detectors + 1

    @property
    def places(self) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.unsignedinteger], NDArray[np.float32]]:
        """Node, band, detector and colour, as the kernels take them."""
        color = self.camera.color
        return self.node, self.band, self.camera.detector, np.zeros(1, np.float32) if color is None else color

    def times(self, value: Array) -> Array:
        """``Phi value`` (n,), for value (B, F, D + 1)."""
        return self.added_to(np.zeros(self.node.size), value)

    def added_to(self, m: Array, value: Array) -> Array:
        """``m + Phi value`` (n,)."""
        out = np.empty(self.node.size)
        _add(*self.places, value, m, out)
        return out

    def sums(self, w: NDArray[np.floating], x: NDArray[np.floating]) -> Array:
        """``Phi' (w x)`` (B, F, D + 1)."""
        out = np.zeros(self.shape)
        _sums(*self.places, w, x, out)
        return out


def links(columns: Columns, equations: NormalEquations) -> Array:
    """G (B, F D, F D), 1/mag^2: of the terms when zero-points, stars and local terms are solved for.

    A measurement has one detector, so that one walk over the pairs within stars gives what all columns share with stars
    and with zero-points; the factor solves for the latter, some columns at a time. Bands share no unknown but the
    terms' priors, so that one detector's columns of all bands are solved for at once. Memory: 8 bytes for each unknown
    of an exposure and each column of a band.
    """
    B, F, D = columns.shape[0], columns.n_kinds, columns.n_detectors
    design = equations.design
    xy, centre, response = design.arrays
    own = np.zeros((B, F, D + 1, F, D + 1))
    cross = np.zeros((design.n_nodes + equations.topology.hubs.n, design.block, F, D + 1))
    _cross(
        design.graph.star_ptr, *columns.places, equations.w, equations.star_inverse, design.star_block, response, xy,
        design.block, centre, cross, own,
    )  # fmt: skip
    out = np.ascontiguousarray(own[:, :, :D, :, :D]).reshape(B, F * D, F * D)
    sides = cross[:, :, :, :D].reshape(cross.shape[0], design.block, F * D)
    nodes = [np.flatnonzero(columns.band == b) for b in range(B)]
    for first in range(0, F * D, AT_ONCE):
        part = slice(first, first + AT_ONCE)
        solved = equations.factor.solve(sides[:, :, part])
        for b, mine in enumerate(nodes):
            out[b, :, part] -= np.einsum("ekt,eku->tu", sides[mine], solved[mine], optimize=True)
    return np.asarray(0.5 * (out + out.transpose(0, 2, 1)))


class Instrument:
    """Values of the terms and what was learned of them.

    Parameters
    ----------
    camera
        Of the measurements of the design.
    design, band
        Whose measurements these are, and int (E,), the band of each node.
    n_kinds
        1, offsets; 2, slopes with colour as well.
    """

    def __init__(self, camera: Camera, design: Design, band: NDArray[np.int32], n_kinds: int) -> None:
        if n_kinds == 2 and camera.color is None:
            raise ValueError("slopes with colour need the stars' colours")
        graph, band = design.graph, band.astype(np.int32)
        # a catalogue's rows have no detector, and follow those of their stars, whose band theirs is here
        rows = np.flatnonzero(camera.detector == len(camera.names))
        if rows.size:
            band[graph.exposure[rows]] = band[graph.exposure[graph.star_ptr[graph.star()[rows]]]]
        self.columns = Columns(graph.exposure, band, camera, n_kinds)
        self.value: Array = np.zeros(self.columns.shape)
        # few detectors say little about their scale; it is thought of as a flat field's
        self.priors = [GroupPrior(1, 2.5e-5, 5.0, strength=2.0, usual=2.5e-5) for _ in range(n_kinds)]
        self.G: Array | None = None
        self.covariance: Array | None = None

    def like(self, other: Instrument | None) -> Instrument:
        """Begin from what another part of the survey has learned."""
        if other is not None:
            B, F = (min(a, b) for a, b in zip(self.value.shape[:2], other.value.shape[:2], strict=True))
            self.value[:B, :F] = other.value[:B, :F]
            for mine, theirs in zip(self.priors, other.priors, strict=False):
                mine.scale, mine.dof = theirs.scale, theirs.dof
        return self

    def begin(self, terms: pl.DataFrame, bands: list[str]) -> Instrument:
        """Begin from the rows of terms.ecsv that another solve has found, by band and detector."""
        camera = self.columns.camera
        kinds = camera.kinds[: self.columns.n_kinds]
        known = terms.filter(pl.col("name").is_in(kinds) & pl.col("band").is_in(bands[: self.value.shape[0]]))
        place = {name: d for d, name in enumerate(camera.names)}
        for name, band, detector, value in known.select("name", "band", "detector", "value").iter_rows():
            if detector in place:
                self.value[bands.index(band), kinds.index(name), place[detector]] = value
        return self

    def added_to(self, m: Array) -> Array:
        """Magnitudes (n,) with the terms' values."""
        return self.columns.added_to(m, self.value)

    def link(self, n_pass: int, equations: NormalEquations) -> None:
        """Make G anew where it is due, of the weights by which this pass's measurements resist."""
        if self.G is None or n_pass in LINK_PASSES:
            self.G = links(self.columns, equations)

    def step(self, equations: NormalEquations, left: Array) -> None:
        """Move the values by one step, and their scales.

        Parameters
        ----------
        equations
            Of this pass.
        left
            (n,), what they leave of their magnitudes.
        """
        assert self.G is not None
        B, F, D = self.value.shape[0], self.value.shape[1], self.columns.n_detectors
        gradient = -self.columns.sums(equations.w, left)[:, :, :D].reshape(B, -1)
        value = self.value[:, :, :D].reshape(B, -1)
        precision = self._precision()
        curved = self.G + precision[:, :, None] * np.eye(F * D)
        inverse = np.linalg.inv(curved)
        downhill = gradient - precision * value
        move = np.einsum("bij,bj->bi", inverse, downhill)
        bend = self._curvature(equations, move) + (precision * move**2).sum(1)
        far = (downhill * move).sum(1) / np.maximum(bend, 1e-300)
        self.covariance = self._centred(inverse)
        self.value[:, :, :D] = (self._about_mean() @ (value + far[:, None] * move)[:, :, None]).reshape(B, F, D)
        self._learn()

    def settle(self, equations: NormalEquations) -> None:
        """Make G and the covariance of the values those of the last equations."""
        self.G = links(self.columns, equations)
        curved = self.G + self._precision()[:, :, None] * np.eye(self.G.shape[1])
        self.covariance = self._centred(np.linalg.inv(curved))

    def log_density(self) -> float:
        """What the terms add to the logarithm of a marginal likelihood that takes their values as given."""
        assert self.G is not None
        precision = self._precision()
        value = self.value[:, :, :-1].reshape(precision.shape)
        size = self.G.shape[1]
        spread = np.linalg.slogdet(np.eye(size) + self.G / precision[:, :, None])[1].sum()
        return float(-0.5 * (precision * value**2).sum() - 0.5 * spread)

    @property
    def error(self) -> Array:
        """(B, F, D), standard errors of the values, mag."""
        assert self.covariance is not None
        shape = (self.value.shape[0], self.value.shape[1], self.columns.n_detectors)
        return np.asarray(np.sqrt(np.einsum("bkk->bk", self.covariance)).reshape(shape))

    @property
    def measured(self) -> NDArray[np.bool_]:
        """(B, D), detectors with measurements in a band."""
        assert self.G is not None
        D = self.columns.n_detectors
        return np.asarray(np.einsum("bkk->bk", self.G)[:, :D] > 0)

    def directions(self) -> Array:
        """(n_columns, B, F, D + 1), values whose squares add up to the covariance: errors that measurements share."""
        assert self.covariance is not None
        B, F, D = self.value.shape[0], self.value.shape[1], self.columns.n_detectors
        size, vectors = np.linalg.eigh(self.covariance)
        root = vectors * np.sqrt(np.maximum(size, 0.0))[:, None, :]
        out = np.zeros((F * D, B, F, D + 1))
        out[:, :, :, :D] = root.transpose(2, 0, 1).reshape(F * D, B, F, D)
        return out

    def _curvature(self, equations: NormalEquations, move: Array) -> Array:
        """(B,), ``move' G move`` of each band with G that of these equations."""
        B, F, D = self.value.shape[0], self.value.shape[1], self.columns.n_detectors
        value = np.zeros(self.value.shape)
        value[:, :, :D] = move.reshape(B, F, D)
        along = self.columns.times(value)
        bent = equations.w * along * equations.left_of(along)
        return np.asarray(np.bincount(self.columns.band[self.columns.node], bent, B), float)

    def _about_mean(self) -> Array:
        """(B, F D, F D), which takes the mean over a band's detectors from values of each kind: zero-points have it."""
        seen = self.measured.astype(float)
        mean = seen[:, :, None] * seen[:, None, :] / np.maximum(seen.sum(1), 1.0)[:, None, None]
        B, D = seen.shape
        one = np.eye(D) - mean
        F = self.columns.n_kinds
        return np.asarray(np.einsum("fg,bij->bfigj", np.eye(F), one).reshape(B, F * D, F * D))

    def _centred(self, covariance: NDArray[np.floating]) -> Array:
        about = self._about_mean()
        return np.asarray(about @ covariance @ about)

    def _precision(self) -> Array:
        """(B, F D), expected precision of each value under its prior."""
        B, F, D = self.value.shape[0], self.value.shape[1], self.columns.n_detectors
        variance = np.zeros((B, F, D)) if self.covariance is None else self.error**2
        square = self.value[:, :, :D] ** 2
        parts = [p.precision(square[:, f], variance[:, f]) for f, p in enumerate(self.priors)]
        return np.stack(parts, 1).reshape(B, F * D)

    def _learn(self) -> None:
        square, variance = self.value[:, :, :-1] ** 2, self.error**2
        seen = self.measured.ravel()
        for f, prior in enumerate(self.priors):
            prior.update(square[:, f].ravel(), variance[:, f].ravel(), seen)
