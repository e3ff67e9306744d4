"""The weighted normal equations of one solve: stars eliminated exactly, a block Laplacian over nodes left."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from calib.solve import kernels
from calib.solve.design import Design
from calib.solve.factor import Factor, Symbolic

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Precisions:
    """Gaussian priors of the unknowns, as precisions in 1/mag^2 (0: none).

    Attributes
    ----------
    node
        (E, K), of each node's zero-point and surface.
    node_mean
        (E, K), the means they pull towards, in mag.
    star
        (S,), of each star's response to seeing; its mean is zero.
    """

    node: Array
    node_mean: Array
    star: Array

    @classmethod
    def none(cls, design: Design) -> Precisions:
        """No priors; only for designs without local terms."""
        shape = (design.n_nodes, design.block)
        return cls(np.zeros(shape), np.zeros(shape), np.zeros(design.n_stars))


@dataclass(frozen=True)
class Estimate:
    """Unknowns at the minimum: ``theta`` (E, K), ``stars`` (S, P) and the residuals (n), all in mag."""

    theta: Array
    stars: Array
    residual: Array


@dataclass(frozen=True)
class Spread:
    """Variances that go with an estimate, in mag^2.

    Attributes
    ----------
    node
        (E, K, K), covariance of each node's unknowns in the gauge.
    star
        (S, 3), packed covariance of each star's unknowns in the gauge.
    prediction
        (n,), variance of ``u . star - phi . theta``, the same in every gauge.
    """

    node: Array
    star: Array
    prediction: Array


class Topology:
    """What a design's pattern fixes while weights change: components, grounded nodes, the symbolic factor."""

    def __init__(self, design: Design) -> None:
        links = design.links
        n = design.n_nodes
        pattern = csr_array((np.ones(links.indices.size, np.int8), links.indices, links.indptr), shape=(n, n))
        self.n_components, labels = connected_components(pattern, directed=False)
        self.component: NDArray[np.int32] = labels.astype(np.int32)
        degree = np.bincount(design.graph.exposure, minlength=n)
        by_degree = np.lexsort((-degree, labels))
        first = np.searchsorted(labels[by_degree], np.arange(self.n_components))
        self.grounded: NDArray[np.int64] = by_degree[first]
        self.degree = degree
        self.size = np.bincount(labels, minlength=self.n_components)
        self._links = links

    @cached_property
    def symbolic(self) -> Symbolic:
        """Symbolic factor of the links' pattern."""
        return Symbolic(self._links.indptr, self._links.indices)

    @cached_property
    def mean_gauge(self) -> Array:
        """(E,), the functional of zero-points that is held at zero in each component: their mean."""
        return 1.0 / self.size[self.component]


class NormalEquations:
    """``L theta = t`` for given weights, with what is needed to go back to stars and residuals.

    Parameters
    ----------
    design
        The measurements.
    m
        float64 (n,), magnitudes, sorted by star.
    w
        float (n,), weights in 1/mag^2, none negative.
    precisions
        Priors of the unknowns.
    topology
        Of the design; made when not given.
    """

    def __init__(
        self, design: Design, m: Array, w: NDArray[np.floating], precisions: Precisions, topology: Topology | None = None
    ) -> None:
        self.design, self.m, self.w, self.precisions = design, m, w, precisions
        self.topology = topology or Topology(design)
        self._sorted = (design.graph.star_ptr, design.graph.exposure)
        xy, centre, response = design.arrays
        self._place = (xy, design.block, centre, design.star_block, response)
        self.star_inverse: Array = kernels.star_inverses(
            *self._sorted, w, design.star_block, response, precisions.star
        )

    @cached_property
    def blocks(self) -> tuple[Array, Array]:
        """(diagonal (E, K, K), off-diagonal (links, K, K)) of L, with precisions, without ground."""
        design, K = self.design, self.design.block
        diagonal = np.zeros((design.n_nodes, K, K))
        diagonal[:, np.arange(K), np.arange(K)] = self.precisions.node
        off = np.empty((design.links.indices.size, K, K))
        by_node = design.by_node
        kernels.assemble(
            *self._sorted, *by_node, self.w, self.star_inverse, design.links.indptr, design.links.indices,
            *self._place, diagonal, off,
        )  # fmt: skip
        return diagonal, off

    @cached_property
    def rhs(self) -> Array:
        """T (E, K)."""
        out = self.precisions.node * self.precisions.node_mean
        kernels.right_hand_side(*self._sorted, self.m, self.w, self.star_inverse, *self._place, out)
        return out

    @cached_property
    def factor(self) -> Factor:
        """Cholesky factor of L with one node of each floating component held."""
        diagonal, off = self.blocks
        diagonal = diagonal.copy()
        ground = self.topology.grounded
        floating = np.ones(ground.size, bool)
        held = np.bincount(
            self.topology.component, weights=self.precisions.node[:, 0], minlength=self.topology.n_components
        )
        floating = held == 0.0
        g = ground[floating]
        diagonal[g, 0, 0] += np.where(diagonal[g, 0, 0] > 0, diagonal[g, 0, 0], 1.0)
        loose = ~(diagonal[:, 0, 0] > 0)  # a node whose every weight is zero
        diagonal[loose] += np.eye(self.design.block)
        # a coefficient that neither data nor prior constrains stays where it is
        k = np.arange(self.design.block)
        stiff = diagonal[:, k, k]
        diagonal[:, k, k] = np.where(stiff > 0, stiff * (1.0 + 1e-12), 1.0)
        return Factor(self.topology.symbolic, diagonal, off)

    def apply(self, theta: Array) -> Array:
        """``L theta`` straight from the measurements, (E, K)."""
        out = self.precisions.node * theta
        kernels.apply(*self._sorted, self.w, self.star_inverse, *self._place, np.ascontiguousarray(theta, float), out)
        return out

    def centred(self, theta: Array) -> Array:
        """Theta with the zero-points of each floating component shifted to zero mean."""
        out = theta.copy()
        top = self.topology
        floating = np.bincount(top.component, weights=self.precisions.node[:, 0], minlength=top.n_components) == 0.0
        mean = np.bincount(top.component, weights=theta[:, 0], minlength=top.n_components) / top.size
        out[:, 0] -= np.where(floating, mean, 0.0)[top.component]
        return out

    def estimate(self, theta: Array | None = None) -> Estimate:
        """Solve by the factor (or take theta as given) and go back to stars and residuals."""
        if theta is None:
            theta = self.centred(self.factor.solve(self.rhs))
        design = self.design
        stars = np.empty((design.n_stars, design.star_block))
        residual = np.empty(design.n_measurements)
        kernels.back_substitute(*self._sorted, self.m, self.w, self.star_inverse, *self._place, theta, stars, residual)
        return Estimate(theta, stars, residual)

    def spread(self, gauge: Array | None = None) -> Spread:
        """Exact variances in the gauge where ``sum(gauge * zeropoint)`` of each component is fixed (default: the mean).

        In a component held by priors on its zero-points no gauge is needed and none is applied.
        """
        top, design, K = self.topology, self.design, self.design.block
        selected = self.factor.selected_inverse()
        functional = np.zeros((design.n_nodes, K))
        functional[:, 0] = top.mean_gauge if gauge is None else gauge
        held = np.bincount(top.component, weights=self.precisions.node[:, 0], minlength=top.n_components) > 0.0
        functional[held[top.component]] = 0.0
        along = self.factor.solve(functional)  # covariance of theta with the gauge
        variance_gauge = np.bincount(top.component, weights=(along * functional).sum(1), minlength=top.n_components)
        node = selected.diagonal.copy()
        node[:, :, 0] -= along
        node[:, 0, :] -= along
        node[:, 0, 0] += variance_gauge[top.component]
        prediction = np.empty(design.n_measurements)
        star = np.empty((design.n_stars, 3))
        star_gauge = np.empty((design.n_stars, design.star_block))
        kernels.prediction_variance(
            *self._sorted, self.w, self.star_inverse, design.links.indptr, design.links.indices, *self._place,
            selected.diagonal, selected.blocks, along, prediction, star, star_gauge,
        )  # fmt: skip
        first = design.graph.exposure[np.minimum(design.graph.star_ptr[:-1], max(design.n_measurements - 1, 0))]
        star[:, 0] += variance_gauge[top.component[first]] - 2.0 * star_gauge[:, 0]
        if design.star_block == 2:
            star[:, 1] -= star_gauge[:, 1]
        return Spread(node, star, prediction)

    @property
    def log_det(self) -> float:
        """Log determinant of the whole system, stars and nodes, up to what the ground adds."""
        inv = self.star_inverse
        det = inv[:, 0] if self.design.star_block == 1 else inv[:, 0] * inv[:, 2] - inv[:, 1] ** 2
        # a star whose response is undetermined was solved without it
        det = np.where(det > 0, det, inv[:, 0])
        return self.factor.log_det - float(np.log(det[det > 0]).sum())
