"""From checked tables to what the solve takes: numbered stars and nodes, their graph, and arrays sorted by star."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from calib.config import FLAT_GRADIENT, Config
from calib.model.camera import Camera
from calib.model.field import Field, Places, tangent_offsets
from calib.model.focalplane import MOST_MEASUREMENTS, Layout, layout
from calib.model.noise import LARGE
from calib.model.rows import Rows, detector_codes, mean_positions
from calib.model.skylayout import sky_layout
from calib.tables.measurements import Measurements
from calib.tables.reasons import mark
from graphs import MeasurementGraph
from graphs.ids import encode_ids

Array = NDArray[np.float64]

SEEING_POWER = 2.0
"""Stars answer to this power of the seeing: a neighbour's light in the aperture grows with the area of its image."""


class Channels(NamedTuple):
    """What has a level and a flat field of its own.

    Attributes
    ----------
    of_node
        int32 (E,), number of each node's.
    band
        int32 (channels,), the band of each.
    detector
        Names, empty where all detectors are one.
    """

    of_node: NDArray[np.int32]
    band: NDArray[np.int32]
    detector: list[str]


@dataclass
class Problem:
    """One solve: every star x band, every exposure x band (x detector), and the usable measurements.

    Attributes
    ----------
    graph
        Of the usable measurements; ``graph.order`` gives their input rows.
    rows
        What is known of all input rows.
    m, err
        (n,), magnitude and its reported error, mag, sorted by star.
    stars
        polars frame, one row per star: star_id, band.
    nodes
        polars frame, one row per node: exposure_id, band, [detector], and the exposure's conditions.
    band
        int32 (E,), number of each node's band; ``bands`` their names.
    night
        int64 (E,), -1 where unknown; None when no night is known.
    xy
        float32 (n, 2), place in the field; None when unknown.
    field
        How places were found; None when they were not.
    response
        (E,), standardised seeing; None when unknown.
    seeing_scale
        Mean and standard deviation of the power of the seeing, by which it was standardised.
    airmass, mjd
        (E,), NaN where unknown; None when none is known.
    log_seeing
        (E,), logarithm of the seeing over its median; 0 where unknown.
    n_catalogue
        Nodes at the end that are no exposures but catalogues of reference stars (`calib.model.catalogue`).
    survey_nodes
        (E,), number of each node in the survey that this is a part of; None where it is the survey.
    camera
        Detectors and colours of the measurements, or with one detector the cells of its field; None where no terms of
        theirs are asked for, where each has its zero-point, or where the survey is too large for cells.
    flat_gradient
        As in `calib.config.Config`, mag.
    tilt
        (E, 5), coefficients of surfaces, mag, that magnitudes have had added already (differential extinction); None
        where none.
    """

    graph: MeasurementGraph
    rows: Rows
    m: Array
    err: NDArray[np.float32]
    stars: pl.DataFrame
    nodes: pl.DataFrame
    band: NDArray[np.int32]
    bands: list[str]
    night: NDArray[np.int64] | None
    xy: Places | None
    field: Field | None
    response: Array | None
    seeing_scale: tuple[float, float] | None
    airmass: Array | None
    mjd: Array | None
    log_seeing: Array
    n_catalogue: int = 0
    survey_nodes: NDArray[np.int64] | None = None
    camera: Camera | None = None
    flat_gradient: float = FLAT_GRADIENT
    tilt: Array | None = None

    @classmethod
    def of(cls, measurements: Measurements, config: Config) -> Problem:
        """Number, sort and scale. Memory beyond the table: about 40 bytes a measurement.

        Rows that pixels show to be another star's are given a reason in the table.
        """
        frame = measurements.frame
        band_code = frame["band"].to_physical().to_numpy().astype(np.int32)
        kind = frame["band"].dtype
        assert isinstance(kind, pl.Enum)
        bands = [str(b) for b in kind.categories]
        star_code, stars = _number(frame, "star_id", band_code, bands)
        node_code, nodes = _nodes(frame, band_code, bands, measurements, config)
        rows = Rows.of(measurements, star_code, node_code, stars.height)
        if rows.unusable.size:
            usable = np.flatnonzero(measurements.usable)
            graph = MeasurementGraph.from_codes(star_code[usable], node_code[usable], stars.height, nodes.height)
            graph = replace(graph, order=usable[graph.order].astype(graph.order.dtype))
            del usable
        else:
            graph = MeasurementGraph.from_codes(star_code, node_code, stars.height, nodes.height)
        del star_code, node_code, band_code
        take = graph.order
        m = frame["mag"].to_numpy()[take]
        err = frame["mag_err"].to_numpy().astype(np.float32, copy=False)[take]
        night = None
        if "night" in nodes.columns and nodes["night"].null_count() < nodes.height:
            night = nodes["night"].fill_null(-1).cast(pl.Int64).to_numpy()
        field, xy, stray = _places(frame, nodes, graph, rows, config)
        if stray is not None and stray.any():
            where = np.zeros(frame.height, bool)
            where[take[stray]] = True
            mark(measurements.reason, where, "misplaced")
            return cls.of(measurements, config)
        response, seeing_scale = _response(nodes)
        airmass, mjd = (x if np.isfinite(x).any() else None for x in (_condition(nodes, n) for n in ("airmass", "mjd")))
        band = nodes["band"].to_physical().to_numpy().astype(np.int32)
        camera = None
        if "detector" not in nodes.columns and config.instrument != "off":
            camera = Camera.of(frame, take, rows)
            if camera is None and xy is not None and m.size < LARGE:
                camera = Camera.of_field(xy, graph.star_ptr)
        return cls(
            graph, rows, m, err, stars, nodes, band, bands, night, xy, field, response, seeing_scale,
            airmass, mjd, _log_seeing(nodes),
            camera=camera, flat_gradient=config.flat_gradient,
        )  # fmt: skip

    @property
    def channels(self) -> Channels:
        """Bands, or each detector of a band where detectors have zero-points of their own."""
        if "detector" not in self.nodes.columns:
            return Channels(self.band, np.arange(len(self.bands), dtype=np.int32), [""] * len(self.bands))
        name = self.nodes["detector"].cast(pl.String).fill_null("")
        detector = name.rank("dense").to_numpy()
        _, first, which = np.unique(np.c_[self.band, detector], axis=0, return_index=True, return_inverse=True)
        return Channels(which.ravel().astype(np.int32), self.band[first], name.gather(first).to_list())

    @property
    def n_exposures(self) -> int:
        """Number of nodes that are exposures."""
        return self.graph.n_exposures - self.n_catalogue

    @property
    def own(self) -> slice | NDArray[np.bool_]:
        """Which of the sorted arrays' rows are measurements: all but the catalogue's."""
        return self.graph.exposure < self.n_exposures if self.n_catalogue else slice(None)

    @property
    def centre(self) -> Array:
        """(6,), mean of the surface's basis over the field."""
        return np.zeros(6) if self.field is None else np.asarray(self.field.centre)

    @property
    def input_row(self) -> NDArray[np.integer]:
        """Input row of each measurement of the sorted arrays, (n,), without the catalogue's."""
        return self.graph.order[self.own]

    @property
    def star_code(self) -> NDArray[np.int32]:
        """int32 (rows of the input,): the star of every row, usable or not."""
        return self._of_rows(self.graph.star()[self.own], self.rows.star)

    @property
    def node_code(self) -> NDArray[np.int32]:
        """int32 (rows of the input,): the node of every row, usable or not."""
        return self._of_rows(self.graph.exposure[self.own], self.rows.node)

    def _of_rows(self, usable: NDArray[np.int32], unusable: NDArray[np.int32]) -> NDArray[np.int32]:
        out = np.empty(self.rows.n, np.int32)
        out[self.input_row], out[self.rows.unusable] = usable, unusable
        return out


def _number(
    frame: pl.DataFrame, name: str, band: NDArray[np.int32], bands: list[str]
) -> tuple[NDArray[np.int32], pl.DataFrame]:
    codes, ids = encode_ids(frame[name])
    kind = pl.Enum(bands)
    if len(bands) == 1:
        return codes, pl.DataFrame({name: ids.alias(name), "band": pl.Series([bands[0]] * len(ids), dtype=kind)})
    both = codes.astype(np.int64) * len(bands) + band
    present = np.unique(both)
    out = np.searchsorted(present, both).astype(np.int32)
    which = pl.Series((present % len(bands)).astype(np.uint32))
    names = pl.Series("band", bands).cast(kind).gather(which)
    return out, pl.DataFrame({name: ids.gather(present // len(bands)).alias(name), "band": names})


def _nodes(
    frame: pl.DataFrame, band: NDArray[np.int32], bands: list[str], measurements: Measurements, config: Config
) -> tuple[NDArray[np.int32], pl.DataFrame]:
    codes, nodes = _number(frame, "exposure_id", band, bands)
    if config.zeropoint_per == "detector" and "detector" in frame.columns:
        detector, names = detector_codes(frame)
        both = codes.astype(np.int64) * len(names) + detector
        present = np.unique(both)
        codes = np.searchsorted(present, both).astype(np.int32)
        nodes = nodes[present // len(names)].with_columns(names.gather(present % len(names)).alias("detector"))
    conditions = measurements.exposures.drop("n_rows", strict=False)
    return codes, nodes.join(conditions, on=["exposure_id", "band"], how="left", maintain_order="left")


def _places(
    frame: pl.DataFrame, nodes: pl.DataFrame, graph: MeasurementGraph, rows: Rows, config: Config
) -> tuple[Field | None, Places | None, NDArray[np.bool_] | None]:
    """Where measurements lie in the field, from the first of these that the table has; and which are not their star's.

    x, y of one detector, or where each detector has its zero-point; x, y of several detectors, where ra, dec tell how
    they lie beside each other; ra, dec about the exposure's centre; x, y of several detectors, where stars tell it.
    """
    has, take = frame.columns, graph.order
    n_detectors = 1 if rows.detectors is None else len(rows.detectors)
    if "x" in has and "y" in has and (n_detectors == 1 or config.zeropoint_per == "detector"):
        which = None if n_detectors == 1 or rows.detector is None else rows.detector[take]
        return *Field.from_detector(frame["x"].to_numpy()[take], frame["y"].to_numpy()[take], which), None
    several = "x" in has and "y" in has
    if several and rows.detector is not None and "ra" in has and "dec" in has:
        camera = _layout_on_sky(frame, nodes, graph, rows)
        if camera is not None:
            x, y, which = frame["x"].to_numpy()[take], frame["y"].to_numpy()[take], rows.detector[take]
            return *Field.from_plane(x, y, which, camera), None
    if "ra" in has and "dec" in has and nodes["ra"].null_count() == 0:
        return *Field.from_sky(
            frame["ra"].to_numpy()[take], frame["dec"].to_numpy()[take], graph.exposure,
            nodes["ra"].to_numpy(), nodes["dec"].to_numpy(),
        ), None  # fmt: skip
    if several and rows.detector is not None:
        x, y, which = frame["x"].to_numpy()[take], frame["y"].to_numpy()[take], rows.detector[take]
        found = layout(graph, x, y, which, n_detectors)
        if found is not None:
            return *Field.from_plane(x, y, which, found[0]), found[1]
    return None, None, None


def _layout_on_sky(frame: pl.DataFrame, nodes: pl.DataFrame, graph: MeasurementGraph, rows: Rows) -> Layout | None:
    """Layout of the detectors from sky positions, in each exposure's tangent plane at the mean of its stars."""
    assert rows.detector is not None
    assert rows.detectors is not None
    exposure = encode_ids(nodes["exposure_id"])[0][graph.exposure]
    part = np.flatnonzero(exposure % max(1, -(-exposure.size // MOST_MEASUREMENTS)) == 0)  # whole exposures
    take, exposure = graph.order[part], exposure[part]
    ra, dec = (frame[c].to_numpy()[take] for c in ("ra", "dec"))
    centre = mean_positions(frame[take].select("ra", "dec"), exposure, int(exposure.max(initial=-1)) + 1)
    u = tangent_offsets(ra, dec, *centre[exposure].T)
    x, y = (frame[c].to_numpy()[take].astype(float) for c in ("x", "y"))
    return sky_layout(u[0] + 1j * u[1], x, y, exposure, rows.detector[take], len(rows.detectors))


def _condition(nodes: pl.DataFrame, name: str) -> Array:
    if name not in nodes.columns:
        return np.full(nodes.height, np.nan)
    return nodes[name].cast(pl.Float64).fill_null(np.nan).to_numpy()


def _response(nodes: pl.DataFrame) -> tuple[Array, tuple[float, float]] | tuple[None, None]:
    """Standardised power of the seeing, 0 where unknown; None when nothing is known or nothing varies."""
    seeing = _condition(nodes, "seeing")
    good = np.isfinite(seeing) & (seeing > 0)
    if good.sum() < 3 or good.mean() < 0.5:
        return None, None
    power = np.where(good, seeing, 1.0) ** SEEING_POWER
    mean, spread = float(power[good].mean()), float(power[good].std())
    if not spread > 1e-6 * mean:
        return None, None
    return standardised(seeing, (mean, spread)), (mean, spread)


def standardised(seeing: Array, scale: tuple[float, float]) -> Array:
    """Standardised power of the seeing, kept within four standard deviations; 0 where unknown."""
    good = np.isfinite(seeing) & (seeing > 0)
    return np.where(good, np.clip((np.where(good, seeing, 1.0) ** SEEING_POWER - scale[0]) / scale[1], -4, 4), 0.0)


def _log_seeing(nodes: pl.DataFrame) -> Array:
    seeing = _condition(nodes, "seeing")
    good = np.isfinite(seeing) & (seeing > 0)
    if not good.any():
        return np.zeros(nodes.height)
    return np.where(good, np.log(np.where(good, seeing, 1.0) / np.median(seeing[good])), 0.0)
