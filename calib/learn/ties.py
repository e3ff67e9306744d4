"""The ties of the prior, one by one: what holds a zero-point to its night and a surface to its illumination.

A tie is ``pi (c . x - mu)^2`` over a few coefficients of nodes and hubs: the jitter of a zero-point
about its night's level, ``x = (z, a, k, s, d)``, ``c = (1, -1, X - 1, -q, t X)``; and each coefficient of a surface
less that of its hub, with mu zero. Robust precisions are read from the prior itself; the learned engine multiplies
them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from calib.solve.border import Border
from calib.solve.design import Design
from calib.solve.normal import Prior

Array = NDArray[np.float64]
Ints = NDArray[np.int64]

MOST = 5
"""Coefficients of a row."""
SMOOTH, CURVED = 1, 2
"""Degrees of surfaces that have a factor of their own: planes and quadratics."""


@dataclass(frozen=True)
class Ties:
    """Ties of R rows under P factors.

    Attributes
    ----------
    unknown
        (R, MOST), node or hub of each coefficient of a row; 0 where a row has fewer, with coefficient 0.
    coefficient
        (R, MOST).
    component
        (R, MOST), which coefficient of the node or hub it is: of nodes 0 the zero-point, then the surface's.
    pair
        (R, pairs), the hubs' pair of each two; -1 where there is none, or both are of one hub.
    precision, mean
        (R,), under the robust prior, mag^-2 and mag.
    node, kind
        (R,), the exposure that a row belongs to, and its kind: 0 jitter, 1 plane, 2 quadratic.
    n_nodes
        E; factors are (E, 3).
    """

    unknown: Ints
    coefficient: Array
    component: Ints
    pair: Ints
    precision: Array
    mean: Array
    node: Ints
    kind: Ints
    n_nodes: int

    @classmethod
    def of(cls, border: Border, prior: Prior, design: Design) -> Ties:
        """Read the ties of a prior; a term by magnitude is tied to nothing."""
        n_nodes, K = design.n_nodes, design.surface_block
        hubs, light, levels = border.hubs, border.illumination, border.levels
        unknown, coefficient, component, node, kind = [], [], [], [], []
        if levels is not None and levels.node.size:
            n, more = levels.node.size, ((0, 0), (0, MOST - levels.unknown.shape[1]))
            unknown.append(np.pad(levels.unknown, more))
            coefficient.append(np.pad(levels.coefficient, more))
            component.append(np.pad(np.tile(levels.component, (n, 1)), more))
            node.append(levels.node)
            kind.append(np.zeros(n))
        if light is not None and K > 1:
            own = light.row < n_nodes
            n = int(own.sum())
            for c in range(1, K):
                unknown.append(np.pad(np.stack([light.row[own], light.column[own]], 1), ((0, 0), (0, MOST - 2))))
                coefficient.append(np.tile([1.0, -1.0, *[0.0] * (MOST - 2)], (n, 1)))
                component.append(np.full((n, MOST), c))
                node.append(light.row[own])
                kind.append(np.full(n, SMOOTH if c < 3 else CURVED))
        if not unknown:
            nothing = np.zeros(0, np.int64)
            return cls(
                nothing.reshape(0, MOST), np.zeros((0, MOST)), nothing.reshape(0, MOST),
                nothing.reshape(0, len(_PAIRS)), np.zeros(0), np.zeros(0), nothing, nothing, n_nodes,
            )  # fmt: skip
        u = np.concatenate(unknown).astype(np.int64)
        coef = np.concatenate(coefficient)
        comp = np.concatenate(component).astype(np.int64)
        width = n_nodes + hubs.n + 1
        keys = hubs.row.astype(np.int64) * width + hubs.column
        pair = np.full((u.shape[0], len(_PAIRS)), -1)
        for j, (a, b) in enumerate(_PAIRS):
            low, high = np.minimum(u[:, a], u[:, b]), np.maximum(u[:, a], u[:, b])
            at = np.minimum(np.searchsorted(keys, low * width + high), max(keys.size - 1, 0))
            there = (coef[:, a] != 0) & (coef[:, b] != 0) & (low < high)
            pair[:, j] = np.where(there, at, -1)
        # of the first two, a node and a hub, with coefficients 1 and -1
        precision = -prior.coupling[pair[:, 0], comp[:, 0], comp[:, 1]]
        owner = np.concatenate(node).astype(np.int64)
        # nothing but its jitter pulls at a node
        mean = np.where(comp[:, 0] == 0, prior.rhs[owner, 0] / np.maximum(precision, 1e-300), 0.0)
        return cls(u, coef, comp, pair, precision, mean, owner, np.concatenate(kind).astype(np.int64), n_nodes)

    def gap(self, theta: Array) -> Array:
        """``c . x`` of every tie, (R,), or (R, ...) of theta with more axes behind."""
        x = theta[self.unknown, self.component]
        return np.asarray(np.einsum("rk,rk...->r...", self.coefficient, x))

    def away(self, theta: Array) -> Array:
        """``c . x - mu`` of every tie, (R,)."""
        return self.gap(theta) - self.mean

    def added(self, prior: Prior, extra: Array) -> Prior:
        """The prior with these precisions (R,) added to the ties, negative ones too."""
        diagonal, coupling, rhs = prior.diagonal.copy(), prior.coupling.copy(), prior.rhs.copy()
        u, c = self.unknown, self.component
        for k in range(MOST):
            np.add.at(diagonal, (u[:, k], c[:, k], c[:, k]), extra * self.coefficient[:, k] ** 2)
            np.add.at(rhs, (u[:, k], c[:, k]), extra * self.mean * self.coefficient[:, k])
        for j, (a, b) in enumerate(_PAIRS):
            value = extra * self.coefficient[:, a] * self.coefficient[:, b]
            first = np.where(u[:, a] < u[:, b], c[:, a], c[:, b])
            second = np.where(u[:, a] < u[:, b], c[:, b], c[:, a])
            apart, inside = self.pair[:, j] >= 0, (u[:, a] == u[:, b]) & (value != 0)
            np.add.at(coupling, (self.pair[apart, j], first[apart], second[apart]), value[apart])
            for one, other in ((a, b), (b, a)):
                np.add.at(diagonal, (u[inside, a], c[inside, one], c[inside, other]), value[inside])
        return replace(prior, diagonal=diagonal, coupling=coupling, rhs=rhs)

    def factors(self, of_nodes: Array) -> Array:
        """(R,), the factor of every tie from those of nodes, (E, 3)."""
        return np.asarray(of_nodes[self.node, self.kind])

    def pulled(self, theta: Array, adjoint: Array) -> Array:
        """Derivative to factors of nodes (E, 3) at one, when ``H adjoint`` is that to the unknowns theta."""
        return self.gathered(-self.gap(adjoint) * self.away(theta) * self.precision)

    def gathered(self, values: Array) -> Array:
        """Sum over ties of values (R,) to their factors, (E, 3)."""
        at = self.node * 3 + self.kind
        out = np.bincount(at, weights=values, minlength=3 * self.n_nodes)
        return np.asarray(out, float).reshape(self.n_nodes, 3)


_PAIRS = tuple(combinations(range(MOST), 2))
