"""Exposures: read from their own table, gathered from the measurements, and joined into one row each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from calib.tables import values
from calib.tables.columns import CONDITION_COLUMNS, check_mapping, missing_column, resolve
from calib.tables.convert import condition_factors, read_conditions, written_notes
from calib.tables.errors import InputError, count
from calib.tables.ids import read_ids_alike
from calib.tables.nights import derive_nights
from calib.tables.presets import mapping_of
from calib.tables.sources import open_partitioned

CONDITIONS = tuple(CONDITION_COLUMNS)
"""mjd, night, airmass, seeing, sky, exptime, ra, dec."""

_CONSTANT_WITHIN = {"mjd": 1e-3, "ra": 1.0, "dec": 1.0}
_RELATIVE = 1e-4
_COMPACT_ROWS = 200_000


@dataclass
class ExposureTable:
    """An exposure table as read.

    Attributes
    ----------
    frame : polars.DataFrame
        exposure_id (Int64 or String), band (String) where given, and those of mjd, night, airmass, seeing, sky,
        exptime, ra, dec that the table has, Float64, null where unknown; one row per exposure_id (x band).
    label : str
        What messages call it.
    time_scale : str
        Scale of mjd, empty where not stated.
    warnings : list of str
    inputs : list of dict
        path, rows, sha256, columns.
    """

    frame: pl.DataFrame
    label: str
    time_scale: str = ""
    warnings: list[str] = field(default_factory=list)
    inputs: list[dict[str, Any]] = field(default_factory=list)

    @property
    def has_text_ids(self) -> bool:
        """Whether exposure_id is text."""
        return self.frame["exposure_id"].dtype == pl.String

    @property
    def has_band(self) -> bool:
        """Whether rows are told apart by band."""
        return "band" in self.frame.columns

    def keys(self, measured: pl.DataFrame) -> list[str]:
        """Return the columns by which it is joined to a frame of measured keys.

        Parameters
        ----------
        measured : polars.DataFrame

        Raises
        ------
        InputError
            The ids are of different types, or the measurements do not say of which of an exposure's bands they are.
        """
        repeated = self.frame.height - self.frame["exposure_id"].n_unique()
        if repeated and "band" not in measured.columns:
            raise InputError(
                f"{self.label}: exposure_id has several bands in {count(repeated, 'row')} and the measurements have no "
                "column band; map one with --columns band=THEIR_NAME"
            )
        theirs, ours = self.frame["exposure_id"].dtype, measured["exposure_id"].dtype
        if theirs != ours:
            raise InputError(
                f"{self.label}: exposure_id is {theirs} and in the measurements {ours}; give both one type"
            )
        return ["exposure_id", "band"] if self.has_band and "band" in measured.columns else ["exposure_id"]

    def exptime(self, measured: pl.DataFrame) -> NDArray[np.float64]:
        """Return the exposure time of each row of a frame of keys, s, NaN where unknown."""
        keys = self.keys(measured)
        found = measured.select(keys).join(
            self.frame.select(*keys, "exptime"), on=keys, how="left", maintain_order="left"
        )
        return found["exptime"].fill_null(np.nan).to_numpy()

    def bands(self, measured: pl.DataFrame) -> pl.Series:
        """Return the band of each row of a frame of keys that has none, empty where the exposure is not here."""
        keys = self.keys(measured)
        pairs = self.frame.select(*keys, "band")
        found = measured.select(keys).join(pairs, on=keys, how="left", maintain_order="left")
        return found["band"].fill_null("")


def load_exposures(
    exposures: Any, columns: Mapping[str, str] | None = None, text_ids: Iterable[str] = (), preset: str = ""
) -> ExposureTable:
    """Read an exposure table.

    Parameters
    ----------
    exposures : path, folder, glob or table
    columns : mapping of str to str, optional
        Canonical to own name; names that the table lacks fall back to the canonical ones.
    text_ids : iterable of str, optional
        Which ids are text in the measurements: CSV files give theirs as text then.
    preset : str
        The survey whose names columns have where `columns` does not say otherwise.

    Raises
    ------
    InputError
        It has no exposure_id, two rows for one exposure (and band), or values that cannot be read.
    """
    mapping = check_mapping(columns)
    parts: list[pl.DataFrame] = []
    notes: dict[str, int] = {}
    table = ExposureTable(pl.DataFrame(), "")

    def note(text: str, n: int) -> None:
        notes[text] = notes.get(text, 0) + n

    sources = open_partitioned(exposures)
    mapping = mapping_of(preset, sources, mapping)
    read_ids_alike(sources, mapping, text_ids)
    for source in sources:
        table.label = table.label or source.label
        table.warnings += source.notes
        keys = resolve(source.names, ("exposure_id", "band"), mapping)
        names = resolve(source.names, CONDITIONS, mapping)
        if "exposure_id" not in keys:
            raise missing_column(source.label, "exposure_id", source.names)
        factors = condition_factors(source, names)
        if "mjd" in names:
            table.time_scale = source.time_scales.get(names["mjd"], table.time_scale)
        rows = 0
        for raw in source.chunks(list(dict.fromkeys([*keys.values(), *names.values()]))):
            rows += raw.height
            series = [values.to_id(raw[keys["exposure_id"]], source, keys["exposure_id"]).alias("exposure_id")]
            if "band" in keys:
                series.append(values.to_label(raw[keys["band"]], source, keys["band"])[0].alias("band"))
            numbers = read_conditions(raw, names, factors, source, note)
            series += [pl.Series(k, v, nan_to_null=True) for k, v in numbers.items()]
            if parts and parts[0].schema != pl.DataFrame(series).schema:
                raise InputError(f"{source.label}: its columns or their types differ from those of {table.label}")
            parts.append(pl.DataFrame(series))
        table.inputs.append(
            {"path": source.label, "rows": rows, "sha256": source.sha256(), "columns": {**keys, **names}}
            | kind("exposures")
        )
    if not parts or not sum(p.height for p in parts):
        raise InputError(f"{table.label}: the exposure table has no rows")
    table.frame = pl.concat(parts, rechunk=True)
    _refuse_repeated(table)
    table.warnings += written_notes(notes)
    return table


def _refuse_repeated(table: ExposureTable) -> None:
    key = [c for c in ("exposure_id", "band") if c in table.frame.columns]
    repeated = table.frame.filter(table.frame.select(key).is_duplicated())
    if repeated.height:
        first = ", ".join(str(v) for v in repeated.select(key).row(0))
        raise InputError(
            f"{table.label}: {count(repeated.height, 'row')} share {' and '.join(key)} with another (first: {first}); "
            "give one row per exposure" + ("" if "band" in key else ", or a column band that tells them apart")
        )


def union(tables: Sequence[ExposureTable]) -> ExposureTable:
    """Put exposure tables together: an exposure that several have with the same conditions counts once.

    Parameters
    ----------
    tables : sequence of ExposureTable
        One or more.

    Raises
    ------
    InputError
        Their columns differ, or what two of them say of an exposure.
    """
    first = tables[0]
    if len(tables) == 1:
        return first
    for table in tables:
        if table.frame.schema != first.frame.schema:
            raise InputError(f"{table.label}: its columns or their types differ from those of {first.label}")
    out = ExposureTable(
        pl.concat([table.frame for table in tables]).unique(maintain_order=True),
        ", ".join(dict.fromkeys(table.label for table in tables)),
        next((table.time_scale for table in tables if table.time_scale), ""),
        list(dict.fromkeys(text for table in tables for text in table.warnings)),
        [record for table in tables for record in table.inputs],
    )
    _refuse_repeated(out)
    return out


def kind(name: str, part: int = 0) -> dict[str, Any]:
    """Return what the record of an input says of its place among all: what it holds, and of which part it is."""
    return {"kind": name, "part": part}


def read_exposures(exposures: Any, columns: Mapping[str, str] | None = None) -> pl.DataFrame:
    """Read an exposure table; see `load_exposures`.

    Returns
    -------
    polars.DataFrame
        exposure_id, band where given, and the conditions that the table has, Float64 with nulls; in table order.
    """
    return load_exposures(exposures, columns).frame


class ExposureGatherer:
    """Exposures and what the measurement table says of each, gathered chunk by chunk.

    A column that belongs to an exposure should be constant within it. Where it is not (airmass at each star), the
    mean is taken and a warning counts the exposures. ra and dec are the mean direction of the measurements.
    """

    def __init__(self) -> None:
        self._parts: list[pl.DataFrame] = []
        self._height = 0
        self._limit = _COMPACT_ROWS

    def add(
        self, keys: pl.DataFrame, conditions: Mapping[str, NDArray[Any]], sky: tuple[NDArray[Any], NDArray[Any]] | None
    ) -> None:
        """Take in a chunk.

        Parameters
        ----------
        keys : polars.DataFrame
            exposure_id and band (String), n rows.
        conditions : dict of str to float64 array, shape (n,)
        sky : (ra, dec), float64 arrays, shape (n,), deg; or None
        """
        columns = {name: pl.Series(name, v, nan_to_null=True) for name, v in conditions.items()}
        frame = keys.select("exposure_id", "band").with_columns(*columns.values())
        aggregate = [pl.len().alias("rows")]
        for name in columns:
            c = pl.col(name)
            aggregate += [
                c.min().alias(f"{name}.min"),
                c.max().alias(f"{name}.max"),
                c.sum().alias(f"{name}.sum"),
                c.count().alias(f"{name}.n"),
            ]
        if sky is not None:
            ra, dec = np.deg2rad(sky[0]), np.deg2rad(sky[1])
            unit = (np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec))
            for axis, v in zip("xyz", unit, strict=True):
                frame = frame.with_columns(pl.Series(f"sky.{axis}", v, nan_to_null=True))
                aggregate.append(pl.col(f"sky.{axis}").sum())
        self._parts.append(frame.group_by("exposure_id", "band").agg(aggregate))
        self._height += self._parts[-1].height
        if self._height > self._limit:
            self._parts = [self._merge()]
            self._height = self._parts[0].height
            self._limit = max(_COMPACT_ROWS, 4 * self._height)

    def _merge(self) -> pl.DataFrame:
        frame = pl.concat(self._parts, how="diagonal")
        how = {"min": "min", "max": "max"}
        rest = [c for c in frame.columns if c not in {"exposure_id", "band"}]
        return frame.group_by("exposure_id", "band").agg(
            getattr(pl.col(c), how.get(c.rpartition(".")[2], "sum"))() for c in rest
        )

    def frame(self) -> tuple[pl.DataFrame, list[str]]:
        """Return one row per exposure_id and band, sorted by them, and warnings.

        Returns
        -------
        frame : polars.DataFrame
            exposure_id, band (String), n_rows, and the conditions that the measurements have, Float64 with nulls.
        warnings : list of str
        """
        merged = self._merge().sort("exposure_id", "band")
        out = merged.select("exposure_id", "band", pl.col("rows").alias("n_rows"))
        warnings = []
        for name in CONDITIONS:
            if f"{name}.min" not in merged.columns:
                continue
            low, high = merged[f"{name}.min"], merged[f"{name}.max"]
            mean = (merged[f"{name}.sum"] / merged[f"{name}.n"].cast(pl.Float64)).fill_nan(None)
            same = low == high
            out = out.with_columns(pl.select(pl.when(same).then(low).otherwise(mean)).to_series().alias(name))
            tolerance = _CONSTANT_WITHIN.get(name) or _RELATIVE * mean.abs().clip(lower_bound=1.0)
            varying = int(((high - low) > tolerance).sum())
            if name == "night" and varying:
                raise InputError(f"column night has several values in {count(varying, 'exposure')}; give one each")
            if varying:
                warnings.append(f"{name} varies within {count(varying, 'exposure')}; the mean was taken")
        if "sky.x" in merged.columns:
            x, y, z = (merged[f"sky.{axis}"].to_numpy() for axis in "xyz")
            norm = np.sqrt(x * x + y * y + z * z)
            with np.errstate(invalid="ignore", divide="ignore"):
                ra = np.where(norm > 0, np.rad2deg(np.arctan2(y, x)) % 360.0, np.nan)
                dec = np.where(norm > 0, np.rad2deg(np.arcsin(np.clip(z / norm, -1, 1))), np.nan)
            out = out.with_columns(pl.Series("ra", ra, nan_to_null=True), pl.Series("dec", dec, nan_to_null=True))
        return out, warnings


def join_exposures(
    measured: pl.DataFrame, table: ExposureTable | None, *, nights: bool = True
) -> tuple[pl.DataFrame, list[str]]:
    """Join what the measurements and the exposure table say of each exposure; the table comes first.

    Parameters
    ----------
    measured : polars.DataFrame
        From `ExposureGatherer.frame`.
    table : ExposureTable, optional
    nights : bool
        Whether night is derived from mjd where no night at all is given.

    Returns
    -------
    frame : polars.DataFrame
        exposure_id, band (String), n_rows, mjd, night (Int64), airmass, seeing, sky, exptime, ra, dec; null where
        unknown; rows as in `measured`.
    warnings : list of str
    """
    warnings: list[str] = []
    frame = measured
    if table is not None:
        keys = table.keys(measured)
        names = [c for c in CONDITIONS if c in table.frame.columns]
        theirs = table.frame.select(*keys, *[pl.col(c).alias(f"{c}.table") for c in names])
        frame = frame.join(theirs, on=keys, how="left", maintain_order="left")
        for c in names:
            parts = [pl.col(f"{c}.table")] + ([pl.col(c)] if c in measured.columns else [])
            frame = frame.with_columns(pl.coalesce(parts).alias(c)).drop(f"{c}.table")
        unknown = frame.filter(pl.all_horizontal(pl.col(c).is_null() for c in names)) if names else frame
        lacking = unknown.join(table.frame, on=keys, how="anti")
        if lacking.height:
            warnings.append(
                f"{table.label}: {count(lacking.height, 'exposure')} of {measured.height:,} measured are not in it "
                f"(first: {lacking['exposure_id'][0]}); their conditions are unknown"
            )
        spare = table.frame.join(measured, on=keys, how="anti").height
        if spare:
            warnings.append(f"{table.label}: {count(spare, 'exposure')} without measurements")
    absent = [pl.lit(None, pl.Float64).alias(c) for c in CONDITIONS if c not in frame.columns]
    frame = frame.with_columns(*absent).select("exposure_id", "band", "n_rows", *CONDITIONS)
    if nights and frame["night"].null_count() == frame.height and frame["mjd"].null_count() < frame.height:
        mjd = frame["mjd"].fill_null(np.nan).to_numpy()
        frame = frame.with_columns(pl.Series("night", derive_nights(mjd), nan_to_null=True))
    return frame.with_columns(pl.col("night").cast(pl.Int64)), warnings
