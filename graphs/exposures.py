"""The exposure graph: nodes are exposures, edges the stars they share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import sparse

from graphs import kernels
from graphs.errors import GraphError

if TYPE_CHECKING:
    import igraph
    import networkx
    from torch_geometric.data import Data

    from graphs.cuts import WeakLinks
    from graphs.modes import WeakModes
    from graphs.planning import LinkGain

Float64s = NDArray[np.float64]
Int32s = NDArray[np.int32]
Int64s = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ExposureGraph:
    """Exposures and the same-star links between them, as the upper triangle of a sparse symmetric matrix.

    Made by `MeasurementGraph.exposure_graph`, or from links with `from_links`.

    Attributes
    ----------
    indptr : (n_exposures + 1,) int64
        Row e has the links ``indptr[e]:indptr[e + 1]``.
    indices : (n_links,) int32
        The other exposure of each link, greater than e and ascending within the row.
    n_shared : (n_links,) int32
        Stars the two exposures share.
    weight : (n_links,) float64, mag**-2
        Weight of the link in the Laplacian.
    exposure_ids : polars Series or None
        Identifier of each exposure, where known.
    incidence : (star_ptr, exposure) or None
        The stars behind the links: star s is in the exposures ``exposure[star_ptr[s]:star_ptr[s + 1]]``, sorted, each
        once. Without it every shared star of every link is taken as a star of its own.

    Raises
    ------
    GraphError
        The arrays are not an upper triangle with sorted rows, or a weight or a number of stars is not positive.
    """

    indptr: Int64s
    indices: Int32s
    n_shared: Int32s
    weight: Float64s
    exposure_ids: pl.Series | None = None
    incidence: tuple[Int64s, Int32s] | None = None

    def __post_init__(self) -> None:
        n = self.indices.size
        if self.indptr.size < 1 or self.indptr[0] != 0 or self.indptr[-1] != n or np.any(np.diff(self.indptr) < 0):
            raise GraphError(f"indptr must rise from 0 to the number of links, {n}")
        if self.n_shared.size != n or self.weight.size != n:
            raise GraphError(f"{n} links, with {self.n_shared.size} numbers of stars and {self.weight.size} weights")
        if not kernels.is_upper_triangle(self.indptr, self.indices):
            raise GraphError("row e must hold exposures above e, ascending; `from_links` sorts them for you")
        if n and not (self.n_shared.min() > 0 and self.weight.min() > 0 and self.weight.max() < np.inf):
            raise GraphError("links need at least one star and a positive finite weight; leave out those without")

    @classmethod
    def from_links(
        cls,
        n_exposures: int,
        pairs: NDArray[np.integer[Any]],
        n_shared: NDArray[np.integer[Any]] | None = None,
        weight: NDArray[np.floating[Any]] | None = None,
    ) -> ExposureGraph:
        """Graph of given links, in any order.

        Parameters
        ----------
        n_exposures
            Exposures, with those that have no link.
        pairs : (n_links, 2) int
            The two exposures of each link; each pair once, never an exposure with itself.
        n_shared : (n_links,) int
            Stars they share; 1 if None.
        weight : (n_links,) float, mag**-2
            ``n_shared`` if None.

        Raises
        ------
        GraphError
            A pair is out of range, repeated, or an exposure with itself.
        """
        ends = checked_pairs(pairs, n_exposures)
        if np.any(ends[:, 0] == ends[:, 1]):
            raise GraphError("an exposure cannot be linked with itself")
        stars = np.ones(len(ends), np.int32) if n_shared is None else np.asarray(n_shared, np.int32)
        values = stars.astype(np.float64) if weight is None else np.asarray(weight, np.float64)
        ends.sort(axis=1)
        by_row = np.lexsort((ends[:, 1], ends[:, 0]))
        indptr = np.zeros(n_exposures + 1, np.int64)
        np.cumsum(np.bincount(ends[:, 0], minlength=n_exposures), out=indptr[1:])
        return cls(indptr, ends[by_row, 1].astype(np.int32), stars[by_row], values[by_row])

    @property
    def n_exposures(self) -> int:
        """Exposures, with those that have no link."""
        return self.indptr.size - 1

    @property
    def n_links(self) -> int:
        """Pairs of exposures that share a star."""
        return self.indices.size

    def pairs(self) -> Int32s:
        """List the two exposures of each link: (n_links, 2) int32, the lower first."""
        rows = np.repeat(np.arange(self.n_exposures, dtype=np.int32), np.diff(self.indptr))
        return np.column_stack([rows, self.indices])

    def adjacency(self, values: NDArray[Any] | None = None) -> sparse.csr_array:
        """Symmetric sparse matrix of the link weights, or of other ``values`` (n_links,) on the links."""
        shape = (self.n_exposures, self.n_exposures)
        upper = sparse.csr_array((self.weight if values is None else values, self.indices, self.indptr), shape=shape)
        return sparse.csr_array(upper + upper.T)

    def laplacian(self) -> sparse.csr_array:
        """L = diag(sum of link weights) - link weights, (n_exposures, n_exposures), mag**-2."""
        adjacency = self.adjacency()
        return sparse.csr_array(sparse.diags_array(np.asarray(adjacency.sum(axis=1)).ravel()) - adjacency)

    @cached_property
    def _labels(self) -> Int32s:
        labels: Int32s = kernels.label_runs(self.indptr, self.indices, True, self.n_exposures)
        labels.flags.writeable = False
        return labels

    def components(self) -> Int32s:
        """Component of each exposure, (n_exposures,) int32, counted in the order of their first exposure."""
        return self._labels

    def bridges(self) -> Int32s:
        """Links without which the graph falls apart: (n_bridges, 2) int32 exposures, sorted.

        A star in three exposures makes a triangle, which has no bridge: see `weak_links` for what hangs on few stars.
        """
        from graphs.structure import bridges

        return bridges(self)

    def articulation_exposures(self) -> Int32s:
        """Exposures without which the graph falls apart, ascending int32."""
        from graphs.structure import articulation_exposures

        return articulation_exposures(self)

    def spanning_tree(self) -> Int32s:
        """Links of the spanning forest with the most shared stars: (n_exposures - n_components, 2) int32, sorted."""
        from graphs.structure import spanning_tree

        return spanning_tree(self)

    def weak_links(self, max_shared: int = 10, max_cuts: int = 1000) -> WeakLinks:
        """Find what hangs on few stars; see `graphs.cuts.weak_links`."""
        from graphs.cuts import weak_links

        return weak_links(self, max_shared, max_cuts)

    def weak_modes(self, k: int = 3, component: int | None = None) -> WeakModes:
        """Softest patterns of zero-points; see `graphs.modes.weak_modes`."""
        from graphs.modes import weak_modes

        return weak_modes(self, k, component)

    def places(self) -> Float64s:
        """Where exposures lie beside each other, (n_exposures, 2), in field widths; see `graphs.places.places`."""
        from graphs.places import places

        return places(self)

    def effective_resistance(self, pairs: NDArray[np.integer[Any]] | Sequence[Sequence[int]]) -> Float64s:
        """Variance of the difference of two zero-points, mag**2; see `graphs.planning.effective_resistance`."""
        from graphs.planning import effective_resistance

        return effective_resistance(self, np.asarray(pairs))

    def best_new_links(
        self,
        k: int = 5,
        groups: NDArray[np.integer[Any]] | None = None,
        weight: float | None = None,
        place: Float64s | None = None,
        reach: float = np.inf,
    ) -> list[LinkGain]:
        """Where one more overlapping exposure helps most; see `graphs.planning.best_new_links`."""
        from graphs.planning import best_new_links

        return best_new_links(self, k, groups, weight, place, reach)

    def to_igraph(self) -> igraph.Graph:
        """As igraph.Graph, with ``n_shared`` and ``weight`` on the edges and ``exposure_id`` on the vertices."""
        from graphs.convert import to_igraph

        return to_igraph(self)

    def to_networkx(self) -> networkx.Graph:
        """As networkx.Graph, nodes numbered, ``n_shared`` and ``weight`` on the edges, ``exposure_id`` on the nodes."""
        from graphs.convert import to_networkx

        return to_networkx(self)

    def to_pyg(self) -> Data:
        """As PyTorch Geometric Data; see `graphs.convert.to_pyg`."""
        from graphs.convert import to_pyg

        return to_pyg(self)


def checked_pairs(pairs: NDArray[np.integer[Any]], n_exposures: int) -> Int64s:
    """Copy of exposure pairs as (m, 2) int64, with every exposure in range."""
    ends = np.array(pairs)
    if ends.size == 0:
        return np.zeros((0, 2), np.int64)
    if ends.ndim != 2 or ends.shape[1] != 2 or ends.dtype.kind not in "iu":
        raise GraphError(f"pairs of shape {ends.shape} and type {ends.dtype}; give integers of shape (m, 2)")
    if ends.min() < 0 or ends.max() >= n_exposures:
        raise GraphError(f"pairs name exposures {ends.min()} to {ends.max()}; they lie in 0 to {n_exposures - 1}")
    return ends.astype(np.int64)
