"""Solves with the exposure graph's Laplacian, component by component."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import LinearOperator, cg, splu

from graphs.errors import GraphError

if TYPE_CHECKING:
    from graphs.exposures import ExposureGraph

Float64s = NDArray[np.float64]
Int64s = NDArray[np.int64]

DIRECT_LIMIT = 200_000  # exposures of a component beyond which a sparse factor costs more than multigrid
CG_TOLERANCE = 1e-11  # of the residual; rounding stops nothing above 1e-12 on strips of 100 thousand


@dataclass(frozen=True, eq=False)
class Blocks:
    """The Laplacian with exposures sorted by component: one connected block each.

    Attributes
    ----------
    members : (n_exposures,) int64
        Exposures sorted by component, ascending within each.
    ptr : (n_components + 1,) int64
        Component c holds ``members[ptr[c]:ptr[c + 1]]``.
    laplacian : (n_exposures, n_exposures) sparse, mag**-2
        Rows and columns in the order of ``members``.
    """

    members: Int64s
    ptr: Int64s
    laplacian: sparse.csr_array

    @classmethod
    def of(cls, graph: ExposureGraph) -> Blocks:
        """Sort the Laplacian of a graph by component."""
        labels = graph.components()
        members = np.argsort(labels, kind="stable")
        ptr = np.concatenate([[0], np.cumsum(np.bincount(labels))]).astype(np.int64)
        laplacian = graph.laplacian()
        return cls(members, ptr, sparse.csr_array(laplacian[members][:, members]) if graph.n_exposures else laplacian)

    @property
    def n_components(self) -> int:
        """Components, with isolated exposures."""
        return self.ptr.size - 1

    def size(self, component: int) -> int:
        """Exposures of a component."""
        return int(self.ptr[component + 1] - self.ptr[component])

    def exposures(self, component: int) -> Int64s:
        """Exposures of a component, ascending."""
        return self.members[self.ptr[component] : self.ptr[component + 1]]

    def block(self, component: int) -> sparse.csr_array:
        """Laplacian of one component, rows in the order of `exposures`."""
        low, high = self.ptr[component], self.ptr[component + 1]
        indptr = self.laplacian.indptr[low : high + 1]
        inside = slice(indptr[0], indptr[-1])
        n = high - low
        return sparse.csr_array(
            (self.laplacian.data[inside], self.laplacian.indices[inside] - low, indptr - indptr[0]), shape=(n, n)
        )


def _centred(values: Float64s) -> Float64s:
    return np.asarray(values - values.mean())


class PseudoInverse:
    """``L+`` of the Laplacian of one connected component.

    A grounded sparse factor (SuperLU, minimum degree on A' + A) up to `DIRECT_LIMIT` exposures, conjugate gradients
    with a Ruge-Stuben multigrid beyond. Grounding any exposure and then removing the mean is exact, since L's only
    null vector is constant.

    Parameters
    ----------
    laplacian : (n, n) sparse, mag**-2
        Connected.
    """

    def __init__(self, laplacian: sparse.csr_array) -> None:
        self.n = laplacian.shape[0]
        self.method = "none" if self.n == 1 else "direct" if self.n <= DIRECT_LIMIT else "multigrid"
        if self.method == "direct":
            self.ground = int(np.argmax(laplacian.diagonal()))
            self.free = np.delete(np.arange(self.n), self.ground)
            grounded = sparse.csc_array(laplacian[self.free][:, self.free])
            self.factor = splu(
                grounded, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True}
            )
        elif self.method == "multigrid":
            import pyamg

            self.laplacian = laplacian
            matrix = sparse.csr_matrix(laplacian)
            cycle = pyamg.ruge_stuben_solver(matrix, coarse_solver="pinv").aspreconditioner()
            self.preconditioner = LinearOperator(  # without the constant, which would grow from rounding
                laplacian.shape, matvec=lambda r: _centred(cycle.matvec(_centred(r))), dtype=np.float64
            )

    def apply(self, b: Float64s) -> Float64s:
        """``L+ b`` for (n,) or (n, m) right-hand sides; the answer has zero mean."""
        b = b - b.mean(axis=0)
        if self.method == "none":
            return np.zeros_like(b)
        if self.method == "direct":
            x = np.zeros_like(b)
            x[self.free] = self.factor.solve(np.ascontiguousarray(b[self.free]))
        elif b.ndim == 2:
            x = np.column_stack([self._iterate(column) for column in b.T])
        else:
            x = self._iterate(b)
        return np.asarray(x - x.mean(axis=0))

    def _iterate(self, b: Float64s) -> Float64s:
        x, failed = cg(self.laplacian, b, rtol=CG_TOLERANCE, maxiter=1000, M=self.preconditioner)
        if failed:
            raise GraphError(f"conjugate gradients did not converge on a component of {self.n} exposures")
        return np.asarray(x)
