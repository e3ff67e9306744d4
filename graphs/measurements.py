"""The bipartite graph of stars and exposures, one edge per measurement."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from graphs import coding, kernels
from graphs.errors import GraphError
from graphs.exposures import ExposureGraph
from graphs.ids import deal_ids, encode_ids, read_ids

if TYPE_CHECKING:
    from torch_geometric.data import HeteroData

Int32s = NDArray[np.int32]
Int64s = NDArray[np.int64]
Floats = NDArray[np.floating[Any]]
Rows = NDArray[np.integer[Any]]

N_NEAR = 16384  # stars: with fewer, the places where a counting sort writes next are in the cache


@dataclass(frozen=True, eq=False)
class MeasurementGraph:
    """Stars x exposures, compressed sparse, sorted by star; within a star the measurements keep their input order.

    Attributes
    ----------
    star_ptr : (n_stars + 1,) int64
        Star s has the measurements ``star_ptr[s]:star_ptr[s + 1]``.
    exposure : (n_measurements,) int32
        Exposure of each measurement.
    order : (n_measurements,) int32, or int64 beyond 2**31 rows
        Input row of each measurement.
    n_exposures : int
        Exposures, with those that have no measurement.
    star_ids, exposure_ids : polars Series or None
        Identifier of each star and exposure, where the graph came from a table; sorted by value.

    Raises
    ------
    GraphError
        The arrays do not fit each other.
    """

    star_ptr: Int64s
    exposure: Int32s
    order: Rows
    n_exposures: int
    star_ids: pl.Series | None = None
    exposure_ids: pl.Series | None = None

    def __post_init__(self) -> None:
        n, ptr = self.exposure.size, self.star_ptr
        if ptr.size < 1 or ptr[0] != 0 or ptr[-1] != n or np.any(np.diff(ptr) < 0):
            raise GraphError(f"star_ptr must rise from 0 to the number of measurements, {n}")
        if self.order.size != n:
            raise GraphError(f"order has {self.order.size} rows for {n} measurements")
        if n and not (self.exposure.min() >= 0 and self.exposure.max() < self.n_exposures):
            raise GraphError(f"exposures must lie in 0 to {self.n_exposures - 1}")

    @classmethod
    def from_table(cls, table: Any, star: str = "star_id", exposure: str = "exposure_id") -> MeasurementGraph:
        """Graph of a table with one row per measurement.

        Parameters
        ----------
        table
            polars, pyarrow or astropy table, or a mapping of arrays.
        star, exposure
            Names of the columns with the identifiers, integers or strings.

        Raises
        ------
        GraphError
            A column is missing, has nulls, or holds neither integers nor strings.
        """
        star_codes, rows, star_ids = deal_ids(read_ids(table, star))
        exposure_codes, exposure_ids = encode_ids(read_ids(table, exposure))
        star_ptr, sorted_exposure, order = _sort_by_star(star_codes, rows, exposure_codes, len(star_ids))
        return cls(star_ptr, sorted_exposure, order, len(exposure_ids), star_ids, exposure_ids)

    @classmethod
    def from_codes(cls, star_codes: Int32s, exposure_codes: Int32s, n_stars: int, n_exposures: int) -> MeasurementGraph:
        """Graph of measurements whose stars and exposures are numbered already.

        Parameters
        ----------
        star_codes, exposure_codes : (n,) int32
            Star and exposure of each row.
        n_stars, n_exposures
            How many there are; some may have no measurement.

        Raises
        ------
        GraphError
            A code is out of range, or the two arrays differ in length.
        """
        star_codes = np.ascontiguousarray(star_codes, np.int32)
        exposure_codes = np.ascontiguousarray(exposure_codes, np.int32)
        star_ptr, exposure, order = _sort_by_star(star_codes, None, exposure_codes, n_stars)
        return cls(star_ptr, exposure, order, n_exposures)

    @property
    def n_stars(self) -> int:
        """Stars, with those that have no measurement."""
        return self.star_ptr.size - 1

    @property
    def n_measurements(self) -> int:
        """Measurements."""
        return self.exposure.size

    def star(self) -> Int32s:
        """Star of each measurement: (n_measurements,) int32, ascending."""
        return np.repeat(np.arange(self.n_stars, dtype=np.int32), np.diff(self.star_ptr))

    def by_exposure(self) -> tuple[Int64s, Rows]:
        """Transpose, by counting sort.

        Returns
        -------
        exposure_ptr : (n_exposures + 1,) int64
        position : (n_measurements,) int32, or int64 beyond 2**31 measurements
            Exposure e has the measurements ``position[exposure_ptr[e]:exposure_ptr[e + 1]]``, ascending.
        """
        return _counting_sort(self.exposure, self.n_exposures, "exposure")

    @cached_property
    def _is_distinct(self) -> bool:
        """Whether the exposures of each star are sorted and each there once."""
        return bool(kernels.is_distinct(self.star_ptr, self.exposure))

    def components(self) -> Int32s:
        """Component of each exposure, (n_exposures,) int32, without the exposure graph.

        Components count up in the order of their first exposure; an exposure that shares no star has its own.
        """
        label: Int32s = kernels.label_runs(self.star_ptr, self.exposure, False, self.n_exposures)
        return label

    def exposure_graph(self, weights: Floats | None = None) -> ExposureGraph:
        """Exposures linked by the stars they share: n_shared, and the weight of DESIGN's Laplacian.

        ``weight(e, f) = sum over stars s of w_se w_sf / D_s`` with ``D_s`` the sum of the star's weights: what is left
        between exposures when the stars are eliminated from weighted least squares. A star measured twice in an
        exposure counts once for n_shared, with both weights summed.

        Parameters
        ----------
        weights : (n_measurements,) float32 or float64, mag**-2
            In the order of this graph (``input_weights[graph.order]``). Measurements of weight 0 link nothing. All 1
            if None.

        Raises
        ------
        GraphError
            A weight is negative or not finite, or their number is wrong.
        """
        ptr, exposure, weight = self._visits(None if weights is None else self._checked(weights))
        exposure_ptr = np.zeros(self.n_exposures + 1, np.int64)
        kernels.count_codes(exposure, exposure_ptr)
        marked, copied = np.empty(exposure.size, np.int32), None if weight is None else np.empty_like(weight)
        stars = kernels.by_first_exposure(ptr, exposure, self.n_exposures)
        kernels.copy_runs(stars, ptr, exposure, weight, marked, copied)
        position, share = coding.empty_rows(exposure.size), np.empty(exposure.size, np.float64)
        kernels.place_visits(marked, copied, exposure_ptr, position, share)
        links = kernels.link_exposures(exposure_ptr, position, share, marked, copied)
        return ExposureGraph(*links, self.exposure_ids, (ptr, exposure))

    def _visits(self, weight: Floats | None) -> tuple[Int64s, Int32s, Floats | None]:
        """Exposures sorted and each once within a star, with their weights, None if all are 1."""
        if self._is_distinct and (weight is None or bool(np.all(weight > 0))):
            return self.star_ptr, self.exposure, weight
        if weight is None:
            exposure = self.exposure.copy()
            if kernels.sort_visits(self.star_ptr, exposure):
                return self.star_ptr, exposure, None
            weight = np.ones(self.n_measurements)
        merged: tuple[Int64s, Int32s, Floats] = kernels.merge_visits(self.star_ptr, self.exposure, weight)
        return merged

    def _checked(self, weights: Floats) -> Floats:
        weights = np.ascontiguousarray(weights)
        if weights.dtype not in (np.float32, np.float64):
            weights = weights.astype(np.float64)
        if weights.shape != (self.n_measurements,):
            raise GraphError(f"weights of shape {weights.shape} for {self.n_measurements} measurements")
        if weights.size and not (weights.min() >= 0 and weights.max() < np.inf):  # NaN fails both
            n_bad = int(np.sum(~((weights >= 0) & (weights < np.inf))))
            raise GraphError(f"{n_bad} weights are negative or not finite; give such measurements weight 0")
        return weights

    def to_hetero_data(self, measurement_nodes: bool = False, exposure_links: bool = True) -> HeteroData:
        """PyTorch Geometric HeteroData; see `graphs.convert.hetero_data`."""
        from graphs.convert import hetero_data

        return hetero_data(self, measurement_nodes, exposure_links)


def _counting_sort(codes: Int32s, n_groups: int, what: str) -> tuple[Int64s, Rows]:
    ptr = _count(codes, n_groups, what)
    order = coding.empty_rows(codes.size)
    kernels.place_rows(codes, None, ptr, order)
    return ptr, order


def _count(codes: Int32s, n_groups: int, what: str) -> Int64s:
    ptr: Int64s = np.zeros(n_groups + 1, np.int64)
    bad = kernels.count_codes(codes, ptr)
    if bad >= 0:
        raise GraphError(f"row {bad} has {what} code {codes[bad]}; codes lie in 0 to {n_groups - 1}")
    return ptr


def _sort_by_star(star: Int32s, rows: Rows | None, exposure: Int32s, n_stars: int) -> tuple[Int64s, Int32s, Rows]:
    """Sort measurements by star: (star_ptr, exposure, order); ``rows`` if the stars are dealt, see `deal_ids`."""
    if star.shape != exposure.shape or star.ndim != 1:
        raise GraphError(
            f"stars of shape {star.shape} and exposures of shape {exposure.shape}; give one of each per row"
        )
    star_ptr = _count(star, n_stars, "star")
    order = coding.empty_rows(star.size)
    if rows is None and kernels.is_ascending(star):
        order[:] = np.arange(star.size)
        return star_ptr, exposure.copy(), order
    if rows is None and n_stars <= N_NEAR:
        kernels.place_rows(star, None, star_ptr, order)
        return star_ptr, kernels.gather(exposure, order), order
    if rows is None:
        packs = coding.deal(star, 0, n_stars)
        star, rows = packs.keys, packs.rows
        del packs
    kernels.place_rows(star, rows, star_ptr, order)
    rows = kernels.gather(exposure, rows)  # dealt like the stars, where it is faster than to look up what is sorted
    sorted_exposure = np.empty(star.size, np.int32)
    kernels.place_rows(star, rows, star_ptr, sorted_exposure)
    return star_ptr, sorted_exposure, order
