"""The weighted normal equations of one solve: stars eliminated exactly, a block Laplacian over nodes left."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from calib.memory import give_back
from calib.solve import kernels
from calib.solve.assembly import assemble
from calib.solve.design import Design
from calib.solve.factor import Factor, Symbolic
from calib.solve.few_stars import StarFactor, worth_it
from calib.solve.gauge import along_gauge
from calib.solve.predictions import LARGE, prediction_variance

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Hubs:
    """Unknowns shared by many nodes: the border of the Laplacian, kept as extra nodes so that it stays sparse.

    A hub j couples to node e by a K x K block; what it means (the illumination of a night, an extinction coefficient)
    is known to whoever made it.

    Attributes
    ----------
    n
        H, number of hubs; they follow the E nodes of the design.
    row, column
        int32 (C,), coupled pairs, ``row < column``, column a hub (numbered from E), sorted by row then column.
    ties
        bool (C,), which pairs tie zero-points together, whatever component their stars put them in.
    """

    n: int
    row: NDArray[np.int32]
    column: NDArray[np.int32]
    ties: NDArray[np.bool_]

    @classmethod
    def none(cls) -> Hubs:
        """No border."""
        return cls(0, np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0, bool))


@dataclass(frozen=True)
class Prior:
    """A Gaussian prior of all unknowns, as precisions in 1/mag^2.

    Attributes
    ----------
    diagonal
        (E + H, K, K), of nodes and hubs.
    coupling
        (C, K, K), of the pairs of the hubs.
    rhs
        (E + H, K), precision times mean.
    star
        (S,), of each star's response to seeing.
    star_mean
        (S,), its mean, mag; zero when not given.
    """

    diagonal: Array
    coupling: Array
    rhs: Array
    star: Array
    star_mean: Array | None = None

    @classmethod
    def none(cls, design: Design) -> Prior:
        """No prior and no hubs; only for designs without local terms."""
        E, K = design.n_nodes, design.block
        return cls(np.zeros((E, K, K)), np.zeros((0, K, K)), np.zeros((E, K)), np.zeros(design.n_stars))


@dataclass(frozen=True)
class Estimate:
    """Unknowns at the minimum: ``theta`` (E + H, K), ``stars`` (S, P) and the residuals (n), all in mag.

    One zero-point of each group of components is held at zero; `NormalEquations.centred` gives the mean gauge.
    """

    theta: Array
    stars: Array
    residual: Array


@dataclass(frozen=True)
class Spread:
    """Variances that go with an estimate, in mag^2.

    Attributes
    ----------
    node
        (E + H, K, K), covariance of each node's unknowns in the gauge, hubs last.
    star
        (S, 3), packed covariance of each star's unknowns in the gauge.
    prediction
        (n,), variance of ``u . star - phi . theta``, the same in every gauge.
    grounded
        (E + H, K, K), the same as ``node`` with one zero-point of each group of components held at zero.
    coupling
        (C, K, K), covariance of the hubs' pairs, grounded likewise.
    """

    node: Array
    star: Array
    prediction: Array
    grounded: Array
    coupling: Array


class Topology:
    """What a design's pattern fixes while weights change: components, grounded nodes, the symbolic factor.

    Components are those of the stars' links alone; ``group`` says which of them hubs tie together, ``coupled`` which of
    them hubs join in any way.
    """

    def __init__(self, design: Design, hubs: Hubs | None = None) -> None:
        n = design.n_nodes
        self._design = design
        self.hubs = hubs = hubs or Hubs.none()
        self.component: NDArray[np.int32] = design.components
        labels = self.component
        self.n_components = int(labels.max(initial=-1)) + 1
        self.degree = np.bincount(design.graph.exposure, minlength=n)
        by_degree = np.lexsort((-self.degree, labels))
        first = by_degree[np.searchsorted(labels[by_degree], np.arange(self.n_components))]
        self.group = self._joined(n, hubs, hubs.ties)
        # hubs of surfaces join components without tying their zero-points: their covariances meet all the same
        self.coupled = self._joined(n, hubs, np.ones(hubs.row.size, bool))
        _, which = np.unique(self.group, return_index=True)
        self.grounded: NDArray[np.int64] = first[which]
        self.size = np.bincount(labels, minlength=self.n_components)

    @cached_property
    def _pattern(self) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int64]]:
        """Links with the hubs' pairs at the end of each row; left until asked, since dense fields have too many."""
        links, n, hubs = self._design.links, self._design.n_nodes, self.hubs
        counts = np.diff(links.indptr)
        extra = np.bincount(hubs.row, minlength=n + hubs.n)
        counts = np.concatenate([counts, np.zeros(hubs.n, counts.dtype)])
        indptr = np.concatenate([[0], np.cumsum(counts + extra)]).astype(np.int64)
        indices = np.empty(indptr[-1], np.int32)
        first_extra = np.concatenate([[0], np.cumsum(extra)])[:-1]
        pair_at = indptr[hubs.row] + counts[hubs.row] + np.arange(hubs.row.size) - first_extra[hubs.row]
        own = np.ones(indices.size, bool)
        own[pair_at] = False
        indices[own] = links.indices
        indices[pair_at] = hubs.column
        return indptr, indices, pair_at

    def about_mean(self, values: Array) -> Array:
        """Values of the nodes (E, ...) less the mean of each component: symmetric, so its own adjoint."""
        total = np.zeros((self.n_components, *values.shape[1:]))
        np.add.at(total, self.component, values)
        mean = total / self.size.reshape(-1, *[1] * (values.ndim - 1))
        return np.asarray(values - mean[self.component])

    @property
    def indptr(self) -> NDArray[np.int64]:
        """(E + H + 1,), rows of the upper triangle of the pattern of L."""
        return self._pattern[0]

    @property
    def indices(self) -> NDArray[np.int32]:
        """(links,), their columns."""
        return self._pattern[1]

    @property
    def pair_at(self) -> NDArray[np.int64]:
        """(C,), the hubs' pairs among the links."""
        return self._pattern[2]

    def _joined(self, n: int, hubs: Hubs, pairs: NDArray[np.bool_]) -> NDArray[np.int32]:
        """(components,), label shared by components that these pairs of the hubs join."""
        total = n + hubs.n
        row = np.concatenate([np.arange(n), hubs.row[pairs]])
        column = np.concatenate([self.component + total, hubs.column[pairs]])
        size = total + self.n_components
        pattern = csr_array((np.ones(row.size), (row, column)), shape=(size, size))
        _, labels = connected_components(pattern, directed=False)
        _, group = np.unique(labels[total:], return_inverse=True)
        return np.asarray(group, np.int32)

    @cached_property
    def symbolic(self) -> Symbolic:
        """Symbolic factor of the pattern."""
        return Symbolic(self.indptr, self.indices)


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
    prior
        Of the unknowns, with the hubs of the topology.
    topology
        Of the design; made when not given.
    moved
        (n,), what is added to the magnitudes; nothing when not given.
    """

    def __init__(
        self, design: Design, m: Array, w: NDArray[np.floating], prior: Prior, topology: Topology | None = None,
        moved: NDArray[np.floating] | None = None,
    ) -> None:  # fmt: skip
        self.design, self.m, self.w, self.prior, self.moved = design, m, w, prior, moved
        self.topology = topology or Topology(design)
        self._sorted = (design.graph.star_ptr, design.graph.exposure)
        xy, centre, response = design.arrays
        self._place = (xy, design.block, centre, design.star_block, response)
        self.star_inverse: Array = kernels.star_inverses(*self._sorted, w, design.star_block, response, prior.star)

    @cached_property
    def blocks(self) -> tuple[Array, Array]:
        """(diagonal (E + H, K, K), off-diagonal (links, K, K)) of L with its prior, without ground."""
        return self._assembled()

    def _assembled(self) -> tuple[Array, Array]:
        top = self.topology
        diagonal = self.prior.diagonal.copy()
        off = np.empty((top.indices.size, *diagonal.shape[1:]))
        walk, node = self.design.walk, self.design.graph.exposure
        pattern = (top.indptr, top.indices, self._place, diagonal, off)
        assemble(walk, node, self.w, self.star_inverse, *pattern, self.design.dense)
        off[top.pair_at] = self.prior.coupling  # no star links a hub
        return diagonal, off

    def with_prior(self, prior: Prior) -> NormalEquations:
        """The same measurements under another prior of nodes and hubs; what stars say of them is not gathered again.

        The stars' own prior stays.
        """
        rhs, blocks = self.rhs, None if self.few_stars else self.blocks
        out = copy(self)
        out.prior = replace(prior, star=self.prior.star, star_mean=self.prior.star_mean)
        for of_prior in ("factor", "blocks", "_log_det_nodes"):
            out.__dict__.pop(of_prior, None)
        out.__dict__["rhs"] = rhs + (prior.rhs - self.prior.rhs)
        if blocks is not None:
            diagonal, off = blocks
            off = off.copy()
            off[self.topology.pair_at] = prior.coupling
            out.__dict__["blocks"] = diagonal + (prior.diagonal - self.prior.diagonal), off
        return out

    @cached_property
    def rhs(self) -> Array:
        """T (E + H, K)."""
        out = self.prior.rhs.copy()
        kernels.right_hand_side(*self._sorted, self._m_beyond_prior, self.w, self.star_inverse, *self._place, out)
        return out

    def response_to(self, m: Array) -> Array:
        """(E + H, K), what is added to the answer when m (n,) is added to the magnitudes."""
        out = np.zeros_like(self.prior.rhs)
        kernels.right_hand_side(*self._sorted, np.asarray(m, float), self.w, self.star_inverse, *self._place, out)
        return self.factor.solve(out)

    def left_of(self, m: Array) -> Array:
        """(n,), what the solve leaves of m (n,) when there is nothing else in the magnitudes and in the prior."""
        left, stars = np.empty(m.size), np.empty((self.design.n_stars, self.design.star_block))
        theta = self.response_to(m)
        kernels.back_substitute(*self._sorted, m, self.w, self.star_inverse, *self._place, theta, stars, left)
        return left

    @property
    def _m_beyond_prior(self) -> Array:
        """Magnitudes, moved, less the response that the prior expects of each star."""
        mean, response = self.prior.star_mean, self.design.response
        m = self.m if self.moved is None else self.m + self.moved
        if mean is None or response is None:
            return m
        out = m if m is not self.m else m.copy()
        kernels.less_response(*self._sorted, mean, response, out)
        return out

    @cached_property
    def few_stars(self) -> bool:
        """Whether the system is solved through its stars."""
        design = self.design
        sizes = (design.n_nodes, self.topology.hubs.n, design.n_stars, design.block, design.star_block)
        return design.n_measurements < LARGE and worth_it(*sizes)

    @cached_property
    def factor(self) -> Factor | StarFactor:
        """Factor of L with one node held in each group of components.

        A large survey forgets its walk on the way.
        """
        if self.few_stars:
            return StarFactor(self)
        diagonal, off = self.__dict__["blocks"] if "blocks" in self.__dict__ else self._assembled()
        diagonal = diagonal.copy()
        symbolic = self.topology.symbolic
        if self.design.n_measurements >= LARGE:
            self.design.__dict__.pop("walk", None)
            give_back()
        g = self.topology.grounded
        diagonal[g, 0, 0] += np.where(diagonal[g, 0, 0] > 0, diagonal[g, 0, 0], 1.0)
        # a coefficient that neither data nor prior constrains stays where it is
        k = np.arange(self.design.block)
        stiff = diagonal[:, k, k]
        diagonal[:, k, k] = np.where(stiff > 0, stiff * (1.0 + 1e-12), 1.0)
        return Factor(symbolic, diagonal, off)

    @cached_property
    def _log_det_nodes(self) -> float:
        return self.factor.log_det

    def release(self) -> None:
        """Forget L and its factor, the largest arrays of a solve; they are made anew when they are asked for."""
        if "factor" in self.__dict__:
            assert np.isfinite(self._log_det_nodes)  # kept
        for kept in ("factor", "blocks"):
            self.__dict__.pop(kept, None)
        give_back()

    def apply(self, theta: Array) -> Array:
        """``L theta`` straight from the measurements, (E + H, K)."""
        theta = np.ascontiguousarray(theta, float)
        hubs, n = self.topology.hubs, self.design.n_nodes
        out = np.einsum("eab,eb->ea", self.prior.diagonal, theta)
        np.add.at(out, hubs.row, np.einsum("cab,cb->ca", self.prior.coupling, theta[hubs.column]))
        np.add.at(out, hubs.column, np.einsum("cab,ca->cb", self.prior.coupling, theta[hubs.row]))
        kernels.apply(*self._sorted, self.w, self.star_inverse, *self._place, theta[:n], out)
        return np.asarray(out)

    def centred(self, theta: Array) -> Array:
        """Theta with the zero-points of each component shifted to zero mean."""
        out = theta.copy()
        n = self.topology.component.size
        out[:n, 0] = self.topology.about_mean(theta[:n, 0])
        return out

    @cached_property
    def mean_functional(self) -> Array:
        """(E + H, K), the mean of the zero-points of each component of more than one node."""
        top = self.topology
        out = np.zeros((self.design.n_nodes + top.hubs.n, self.design.block))
        size = top.size[top.component]
        out[: self.design.n_nodes, 0] = np.where(size > 1, 1.0 / size, 0.0)
        return out

    def estimate(self, theta: Array | None = None) -> Estimate:
        """Solve by the factor (or take theta as given) and go back to stars and residuals."""
        if theta is None:
            rhs = self.rhs  # before the factor is there
            theta = self.factor.solve(rhs)
        design = self.design
        stars = np.empty((design.n_stars, design.star_block))
        n = design.n_measurements
        residual: Array = np.empty(n, np.float64 if n < LARGE else np.float32)
        m = self._m_beyond_prior
        kernels.back_substitute(*self._sorted, m, self.w, self.star_inverse, *self._place, theta, stars, residual)
        if self.prior.star_mean is not None and design.star_block == 2:
            stars[:, 1] += self.prior.star_mean
        return Estimate(theta, stars, residual)

    def spread(self, functional: Array | None = None) -> Spread:
        """Exact variances in the gauge where a functional of each component's theta is fixed.

        A large survey releases its factor on the way.

        Parameters
        ----------
        functional
            (E + H, K), its coefficients, summing to one over the zero-points of a component; their mean when not given.
        """
        top, design = self.topology, self.design
        n = design.n_nodes
        if functional is None:
            functional = self.mean_functional
        factor = self.factor
        along, variance_gauge = along_gauge(factor, functional, top.component, top.coupled)
        if isinstance(factor, StarFactor):
            grounded = factor.own_blocks()
            coupling = factor.pairs(top.hubs.row, top.hubs.column)
            prediction, star, star_gauge = factor.predictions(along)
        else:
            if design.n_measurements >= LARGE:
                selected = factor.last_selected_inverse()
                self.release()
            else:
                selected = factor.selected_inverse()
            grounded, coupling = selected.diagonal, selected.blocks[top.pair_at]
            prediction, star, star_gauge = prediction_variance(
                design.walk, design.graph.exposure, self.w, self.star_inverse, top.indptr, top.indices, self._place,
                selected.diagonal, selected.blocks, along, design.dense,
            )  # fmt: skip
            del selected
        node = grounded.copy()
        node[:n, :, 0] -= along[:n]
        node[:n, 0, :] -= along[:n]
        node[:n, 0, 0] += variance_gauge[top.component]
        first = design.graph.exposure[np.minimum(design.graph.star_ptr[:-1], max(design.n_measurements - 1, 0))]
        star[:, 0] += variance_gauge[top.component[first]] - 2.0 * star_gauge[:, 0]
        if design.star_block == 2:
            star[:, 1] -= star_gauge[:, 1]
        return Spread(node, star, prediction, grounded, coupling)

    @property
    def log_det(self) -> float:
        """Log determinant of the whole system, stars and nodes, up to what the ground adds."""
        inv = self.star_inverse
        det = inv[:, 0] if self.design.star_block == 1 else inv[:, 0] * inv[:, 2] - inv[:, 1] ** 2
        # a star whose response is undetermined was solved without it
        det = np.where(det > 0, det, inv[:, 0])
        return self._log_det_nodes - float(np.log(det[det > 0]).sum())
