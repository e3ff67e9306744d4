"""The bipartite graph of stars and exposures, one edge per measurement."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numba.core import config
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
PER_THREAD = 250_000  # measurements that are worth another thread


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
        stars, exposures = read_ids(table, star), read_ids(table, exposure)
        _refuse_lengths(stars.shape, exposures.shape)
        exposure_codes, exposure_ids = encode_ids(exposures)
        star_codes, rows, star_ids, carried = deal_ids(stars, exposure_codes)
        assert carried is not None
        star_ptr, sorted_exposure, order = _sort_by_star(star_codes, rows, carried, len(star_ids))
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
        _refuse_lengths(star_codes.shape, exposure_codes.shape)
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

    def exposure_graph(self, weights: Floats | None = None, *, threads: int | None = None) -> ExposureGraph:
        """Exposures linked by the stars they share: n_shared, and the weight of DESIGN's Laplacian.

        ``weight(e, f) = sum over stars s of w_se w_sf / D_s`` with ``D_s`` the sum of the star's weights: what is left
        between exposures when the stars are eliminated from weighted least squares. A star measured twice in an
        exposure counts once for n_shared, with both weights summed.

        Parameters
        ----------
        weights : (n_measurements,) float32 or float64, mag**-2
            In the order of this graph (``input_weights[graph.order]``). Measurements of weight 0 link nothing. All 1
            if None.
        threads
            At most; as many as numba may use if None. The graph is the same on any number.

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
        links = _linked(threads, exposure_ptr, position, share, marked, copied)
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


def _linked(
    threads: int | None, exposure_ptr: Int64s, *arrays: Any
) -> tuple[Int64s, Int32s, Int32s, NDArray[np.float64]]:
    """Rows of the exposure graph: (indptr, indices, n_shared, weight).

    A row is the sum of its stars in their order, whatever the part that it is in.
    """
    most = threads or config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]
    n_threads = min(most, 1 + int(exposure_ptr[-1]) // PER_THREAD)
    n_parts = 1 if n_threads == 1 else 8 * n_threads
    inner = np.searchsorted(exposure_ptr, np.linspace(0, exposure_ptr[-1], n_parts + 1)[1:-1])
    bounds = np.unique(np.concatenate([[0], inner, [exposure_ptr.size - 1]]))
    parts = list(itertools.pairwise(bounds.tolist())) or [(0, 0)]
    rows = partial(kernels.link_exposures, exposure_ptr, *arrays)
    if n_threads == 1:
        done = list(itertools.starmap(rows, parts))
    else:
        with ThreadPoolExecutor(n_threads) as pool:
            done = list(pool.map(lambda part: rows(*part), parts))
    n_links, indices, n_shared, weight = (np.concatenate(pieces) for pieces in zip(*done, strict=True))
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(n_links)]), indices, n_shared, weight


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


def _refuse_lengths(star: tuple[int, ...], exposure: tuple[int, ...]) -> None:
    if star != exposure or len(star) != 1:
        raise GraphError(f"stars of shape {star} and exposures of shape {exposure}; give one of each per row")


def _sort_by_star(star: Int32s, rows: Rows | None, exposure: Int32s, n_stars: int) -> tuple[Int64s, Int32s, Rows]:
    """Sort measurements by star: (star_ptr, exposure, order); ``rows`` if they are dealt by star, see `deal_ids`."""
    star_ptr = _count(star, n_stars, "star")
    order = coding.empty_rows(star.size)
    if rows is None and kernels.is_ascending(star):
        order[:] = np.arange(star.size)
        return star_ptr, exposure.copy(), order
    if rows is None and n_stars > N_NEAR:
        packs = coding.deal(star, 0, n_stars, exposure)
        assert packs.carried is not None
        star, rows, exposure = packs.keys, packs.rows, packs.carried
        del packs
    kernels.place_rows(star, rows, star_ptr, order)
    rows = None
    sorted_exposure = np.empty(star.size, np.int32)
    kernels.place_rows(star, exposure, star_ptr, sorted_exposure)
    return star_ptr, sorted_exposure, order
