# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs
# (compiled kernels carry no types)
"""Fields seen over and over: matrix products in place of pairs.

Where most stars of a component are in most of its nodes, the pairs of measurements that assembly and predictions walk
are nearly all pairs of nodes, star after star. Laid out as a matrix V of a row for each star (and each of its unknowns)
and K columns for each node, all of them at once are ``V' V``, and ``X C`` with the covariance C of the nodes: the same
sums at the speed of a matrix product. Panels of nodes and chunks of stars bound the memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from calib.solve import kernels

if TYPE_CHECKING:
    from calib.solve.assembly import Walk

Array = NDArray[np.float64]

FILL = 0.3
"""Share of a component's stars and nodes that are met in a measurement from which on it counts as dense."""
LEAST_NODES = 60
"""Of such a component."""
CHUNK = 4_000_000
"""Numbers in the rows that are laid out at a time."""
PANEL = 1024
"""Columns of a panel."""

# ruff: noqa: D103 - each kernel's one line stands in its comment


@dataclass(frozen=True)
class DenseField:
    """One dense component.

    Attributes
    ----------
    nodes
        int64 (E_c,), its nodes.
    stars
        int64 (S_c,), its stars, as places in the order of the walk.
    """

    nodes: NDArray[np.int64]
    stars: NDArray[np.int64]

    def chunks(self, K: int, P: int) -> Iterator[NDArray[np.int64]]:
        """Its stars, as many at a time as are laid out together."""
        rows = max(CHUNK // (self.nodes.size * K * P), 1)
        for first in range(0, self.stars.size, rows):
            yield self.stars[first : first + rows]

    def panels(self, K: int) -> Iterator[tuple[int, int]]:
        """First node and the one after the last, of its own numbering."""
        width = max(PANEL // K, 1)
        for first in range(0, self.nodes.size, width):
            yield first, min(first + width, self.nodes.size)


@dataclass(frozen=True)
class DenseFields:
    """All dense components of a design.

    Attributes
    ----------
    fields
        One by one.
    place
        int32 (E,), each node's place in its field; -1 for those in none.
    node_ptr, slot
        int64 (E + 1,), int32: the measurements of the nodes in none, as `calib.solve.assembly.Walk` has all of them.
    """

    fields: list[DenseField]
    place: NDArray[np.int32]
    node_ptr: NDArray[np.int64]
    slot: NDArray[np.int32]

    @classmethod
    def of(cls, walk: Walk, component: NDArray[np.int32]) -> DenseFields | None:
        """Of measurements in this order, and the component of each node; None where no component is dense."""
        visits = np.diff(walk.star_ptr)
        seen = np.flatnonzero(visits > 0)
        of_star = component[walk.nodes[walk.star_ptr[seen]]]
        n_components = int(component.max(initial=-1)) + 1
        n_nodes = np.bincount(component, minlength=n_components)
        n_stars = np.bincount(of_star, minlength=n_components)
        met = np.bincount(of_star, visits[seen], n_components)
        found = np.flatnonzero((n_nodes >= LEAST_NODES) & (met > FILL * n_nodes * n_stars))
        if not found.size:
            return None
        place = np.full(component.size, -1, np.int32)
        fields = [DenseField(np.flatnonzero(component == c), seen[of_star == c]) for c in found]
        for field in fields:
            place[field.nodes] = np.arange(field.nodes.size, dtype=np.int32)
        count = np.diff(walk.node_ptr)
        rest = np.repeat(place < 0, count)
        node_ptr = np.concatenate([[0], np.cumsum(np.where(place < 0, count, 0))])
        return cls(fields, place, node_ptr, walk.slot[rest])


@njit(cache=True, nogil=True)
def _lay_out(stars, star_ptr, node, place, w, star, rows, h, P, places, K, centre, out):
    # out (stars P, E_c K), overwritten: w A u of each measurement times phi, rows (S, 4) the star's A: [0, 0], [0, 1],
    # [1, 1], [1, 0]
    out[:] = 0.0
    phi = np.empty(K)
    for t in range(stars.size):
        for j in range(star_ptr[stars[t]], star_ptr[stars[t] + 1]):
            wj = np.float64(w[j])
            if wj == 0.0:
                continue
            e = node[j]
            s = star[j]
            kernels.phi(places, j, K, centre, phi)
            at = place[e] * K
            if P == 1:
                v = wj * rows[s, 0]
                for a in range(K):
                    out[t, at + a] += v * phi[a]
            else:
                v0 = wj * (rows[s, 0] + rows[s, 1] * h[e])
                v1 = wj * (rows[s, 3] + rows[s, 2] * h[e])
                for a in range(K):
                    out[2 * t, at + a] += v0 * phi[a]
                    out[2 * t + 1, at + a] += v1 * phi[a]


@njit(cache=True, nogil=True)
def _own_part(stars, star_ptr, node, w, places, K, centre, diagonal):
    # sum of w phi phi' added to diagonal (E, K, K)
    phi = np.empty(K)
    for t in range(stars.size):
        for j in range(star_ptr[stars[t]], star_ptr[stars[t] + 1]):
            wj = np.float64(w[j])
            if wj == 0.0:
                continue
            kernels.phi(places, j, K, centre, phi)
            for a in range(K):
                for b in range(K):
                    diagonal[node[j], a, b] += wj * phi[a] * phi[b]


@njit(cache=True, nogil=True)
def _take_off(nodes, place, first, stop, product, indptr, indices, diagonal, blocks, K):
    # product ((stop - first) K, (E_c - first) K) = V_panel' V_from_first, taken off L
    E = place.size
    for p in range(first, stop):
        e = nodes[p]
        row = (p - first) * K
        for a in range(K):
            for b in range(K):
                diagonal[e, a, b] -= product[row + a, row + b]
        for k in range(indptr[e], indptr[e + 1]):
            if indices[k] >= E or place[indices[k]] < 0:
                continue
            column = (place[indices[k]] - first) * K
            for a in range(K):
                for b in range(K):
                    blocks[k, a, b] = -product[row + a, column + b]


@njit(cache=True, nogil=True)
def _covariance(nodes, place, first, stop, indptr, indices, diagonal, blocks, K, out):
    # out ((stop - first) K, (E_c - first) K): the panel's rows of the covariance, from its own columns on
    out[:] = 0.0
    E = place.size
    for p in range(first, stop):
        e = nodes[p]
        row = (p - first) * K
        for a in range(K):
            for b in range(K):
                out[row + a, row + b] = diagonal[e, a, b]
        for k in range(indptr[e], indptr[e + 1]):
            if indices[k] >= E or place[indices[k]] < 0:
                continue
            f = place[indices[k]]
            column = (f - first) * K
            for a in range(K):
                for b in range(K):
                    out[row + a, column + b] = blocks[k, a, b]
                    if f < stop:
                        out[column + b, row + a] = blocks[k, a, b]


@njit(cache=True, nogil=True)
def _read(stars, star_ptr, node, place, places, K, centre, P, found, q):
    # q (n, P): phi' of each measurement with its node's part of found (stars P, E_c K)
    phi = np.empty(K)
    for t in range(stars.size):
        for j in range(star_ptr[stars[t]], star_ptr[stars[t] + 1]):
            kernels.phi(places, j, K, centre, phi)
            at = place[node[j]] * K
            for p in range(P):
                total = 0.0
                for a in range(K):
                    total += phi[a] * found[t * P + p, at + a]
                q[j, p] = total


def assemble_dense(
    dense: DenseFields, star_ptr: NDArray[np.int64], node: NDArray[np.int32], w: NDArray[np.floating[Any]],
    star: NDArray[np.int32], root: Array, indptr: NDArray[np.int64], indices: NDArray[np.int32],
    place: tuple[NDArray[np.float32], int, Array, int, Array], diagonal: Array, blocks: Array,
) -> None:  # fmt: skip
    """Add L of the dense components to its diagonal and write its blocks between their nodes.

    Parameters
    ----------
    star_ptr, node, w, star
        Of the measurements in the order of the walk.
    root
        (S, 3), of ``D_s^-1``, as `calib.solve.assembly` has them.
    indptr, indices, place, diagonal, blocks
        As for `calib.solve.assembly.assemble`, places in the order of the walk.
    """
    xy, K, centre, P, h = place
    rows = np.column_stack([root[:, :2], root[:, 2], np.zeros(root.shape[0])])
    for field in dense.fields:
        _own_part(field.stars, star_ptr, node, w, xy, K, centre, diagonal)
        chunks = list(field.chunks(K, P))
        width = field.nodes.size * K
        laid = np.empty((chunks[0].size * P, width))
        for first, stop in field.panels(K):
            product = np.zeros(((stop - first) * K, width - first * K))
            for stars in chunks:
                v = laid[: stars.size * P]
                if len(chunks) > 1 or first == 0:
                    _lay_out(stars, star_ptr, node, dense.place, w, star, rows, h, P, xy, K, centre, v)
                product += v[:, first * K : stop * K].T @ v[:, first * K :]
            _take_off(field.nodes, dense.place, first, stop, product, indptr, indices, diagonal, blocks, K)


def predict_dense(
    dense: DenseFields, star_ptr: NDArray[np.int64], node: NDArray[np.int32], w: NDArray[np.floating[Any]],
    star: NDArray[np.int32], inverse: Array, indptr: NDArray[np.int64], indices: NDArray[np.int32],
    place: tuple[NDArray[np.float32], int, Array, int, Array], var_diagonal: Array, var_blocks: Array,
    q: NDArray[np.floating[Any]],
) -> None:  # fmt: skip
    """Write q (n, P), ``sum_j b_j G_ij`` of `calib.solve.predictions`, for the measurements of dense components.

    Parameters as there and as for `assemble_dense`; ``inverse`` (S, 3) is the packed ``D_s^-1``.
    """
    xy, K, centre, P, h = place
    rows = np.column_stack([inverse, inverse[:, 1]])
    for field in dense.fields:
        width = field.nodes.size * K
        for stars in field.chunks(K, P):
            x, found = np.empty((stars.size * P, width)), np.zeros((stars.size * P, width))
            _lay_out(stars, star_ptr, node, dense.place, w, star, rows, h, P, xy, K, centre, x)
            for first, stop in field.panels(K):
                a, b = first * K, stop * K
                covariance = np.empty((b - a, width - a))
                _covariance(
                    field.nodes, dense.place, first, stop, indptr, indices, var_diagonal, var_blocks, K, covariance
                )  # fmt: skip
                found[:, a:b] += x[:, a:] @ covariance.T
                if b < width:
                    found[:, b:] += x[:, a:b] @ covariance[:, b - a :]
            _read(stars, star_ptr, node, dense.place, xy, K, centre, P, found, q)
