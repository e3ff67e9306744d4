"""Measurements: any table in, checked columns out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from calib.config import MATCH_RADIUS
from calib.tables.association import Association, associate
from calib.tables.convert import Chunk, Converter, Exptime, written_notes
from calib.tables.duplicates import mark_duplicates
from calib.tables.errors import InputError
from calib.tables.exposures import CONDITIONS, ExposureGatherer, ExposureTable, join_exposures, kind
from calib.tables.gather import Gatherer
from calib.tables.ids import names_of_text
from calib.tables.misplaced import mark_misplaced
from calib.tables.parts import Part, open_parts
from calib.tables.reasons import count_reasons
from calib.tables.sources import CHUNK_ROWS, Source
from calib.tables.star_finder import StarFinder


@dataclass
class Measurements:
    """Measurements with canonical columns, in input order, and the exposures they are of.

    Attributes
    ----------
    frame : polars.DataFrame
        n rows, no nulls: star_id, exposure_id (Int64 or String; star_id is null in a batch where no known star lies at
        the row's place), band (Enum, "" where the table has none), detector
        (Int64 or Enum) if given, mag (Float64, mag), mag_err (Float32, mag), and where given x, y (Float32, pixel),
        ra, dec (Float64, deg), color (Float32, mag), flag (Boolean). NaN where a value is missing: what no magnitude
        or no error can be, too.
    reason : uint8 array, shape (n,)
        0 where the row is usable, otherwise its code in `UNUSED_REASONS`.
    exposures : polars.DataFrame
        One row per exposure_id and band, sorted by them: exposure_id, band (the same Enum), n_rows (UInt32), mjd (d),
        night (Int64), airmass, seeing (arcsec), sky (mag / arcsec2), exptime (s), ra, dec (deg); Float64, null where
        unknown. ra and dec are the mean direction of the measurements where no table gives them.
    given : frozenset of str
        Canonical names of the columns that the input has, conditions included.
    system : str
        ``AB``, ``instrumental``, or empty where the input does not say.
    undivided : bool
        Whether magnitudes are of counts that are not divided by the exposure time, which nobody gave.
    time_scale : str
        Scale of mjd, empty where the input does not say.
    by_position : bool
        Whether stars were told by position, so that ra and dec are what names a row's star.
    association : Association or None
        How, where all rows were told apart.
    inputs : list of dict
        path, rows, sha256 (None for a table in memory), columns (canonical to own name), kind and part, of every file.
    parts : list of dict
        columns and preset of every part, as they were asked for.
    warnings : list of str
    """

    frame: pl.DataFrame
    reason: NDArray[np.uint8]
    exposures: pl.DataFrame
    given: frozenset[str] = frozenset()
    system: str = ""
    undivided: bool = False
    time_scale: str = ""
    by_position: bool = False
    association: Association | None = None
    inputs: list[dict[str, Any]] = field(default_factory=list)
    parts: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return self.frame.height

    @property
    def counts(self) -> dict[str, int]:
        """Number of rows by reason: ``usable``, and those reasons that occur."""
        return count_reasons(self.reason)

    @property
    def usable(self) -> NDArray[np.bool_]:
        """Where rows may be solved with, shape (n,)."""
        usable: NDArray[np.bool_] = self.reason == 0
        return usable

    @property
    def text_ids(self) -> frozenset[str]:
        """Which of star_id, exposure_id and detector are text."""
        return names_of_text(self.frame)

    @property
    def keys(self) -> list[str]:
        """Columns that name a row: star_id, exposure_id, band and detector if given, ra and dec if they tell stars."""
        given = [c for c in ("band", "detector") if self.has(c)]
        return ["star_id", "exposure_id", *given, *(("ra", "dec") if self.by_position else ())]

    def has(self, name: str) -> bool:
        """Whether the input has a column, by its canonical name."""
        return name in self.given


def read_measurements(
    inputs: Any,
    *,
    columns: Mapping[str, str] | None = None,
    exposures: Any = None,
    text_ids: Iterable[str] = (),
    match_radius: float = MATCH_RADIUS,
    preset: str = "",
) -> Measurements:
    """Read measurements and their exposures; a table without star_id has its stars told by ra and dec.

    A flux becomes ``mag = zero - 2.5 log10(flux)`` with the zero of its unit (AB for nJy, Jy and maggies; 0 for
    counts, which are divided by the exposure time where it is known), and ``mag_err = 2.5 / ln 10 * flux_err / flux``.

    Parameters
    ----------
    inputs : path, folder, glob, astropy Table, polars frame, pyarrow Table, or a list of these
        Several are one table.
    columns : mapping of str to str, optional
        Canonical to own name; an empty own name leaves a column out.
    exposures : path or table, optional
        One row per exposure_id (and band).
    text_ids : iterable of str, optional
        Which ids are text in a table that these are to be matched with: CSV files give theirs as text then.
    match_radius : float
        How far rows may lie from their star's place, where they are told by it, arcsec (`calib.tables.association`).
    preset : str
        The survey whose names columns have where `columns` does not say otherwise (`calib.tables.presets`).

    Raises
    ------
    InputError
        The table cannot be used as it is; one line says why and what to do.
    """
    return read_parts([Part(inputs, exposures, columns or {}, preset)], text_ids=text_ids, match_radius=match_radius)


def read_parts(
    parts: Sequence[Part], *, text_ids: Iterable[str] = (), match_radius: float = MATCH_RADIUS
) -> Measurements:
    """Read tables with names of their own as one table of measurements, part after part.

    Parameters
    ----------
    parts
        All have the same columns, under whatever names; a condition may stand with the measurements of one and in the
        exposure table of another.
    text_ids, match_radius
        As for `read_measurements`.

    Raises
    ------
    InputError
        As for `read_measurements`.
    """
    opened, table = open_parts(parts, text_ids)
    first = opened[0]
    gatherer, exposure_gatherer = Gatherer(sum(one.source.rows or 0 for one in opened)), ExposureGatherer()
    records, warnings = [], [] if table is None else list(table.warnings)
    for source, converter, part in opened:
        rows = 0
        for raw in source.chunks(converter.columns):
            chunk = _banded(converter(raw), table)
            del raw
            rows += chunk.keys.height
            gatherer.add(chunk, source.label)
            exposure_gatherer.add(chunk.keys, chunk.conditions, _sky(chunk))
        own = {**converter.names, **converter.conditions}
        records.append(
            {"path": source.label, "rows": rows, "sha256": source.sha256(), "columns": own} | kind("measurements", part)
        )
        warnings += source.notes + written_notes(converter.notes)
    if not gatherer.rows:
        raise InputError(f"{first.source.label}: the table has no rows")
    frame, reason, bands = gatherer.finish()
    mark_duplicates(frame, reason)
    association = None
    if first.converter.by_position:
        frame, association = associate(frame, reason, match_radius)
        warnings += association.warnings
    elif {"ra", "dec"} <= set(frame.columns):
        mark_misplaced(frame, reason)
    measured, more = exposure_gatherer.frame()
    joined, missing = join_exposures(measured, table)
    joined = joined.with_columns(pl.col("band").cast(bands))
    warnings += more + missing + _count_warnings(first.converter)
    records += [] if table is None else table.inputs
    return Measurements(
        frame,
        reason,
        joined,
        given=_given(first.converter, joined, joined["band"]),
        system=first.converter.system,
        undivided=first.converter.undivided,
        time_scale=_time_scale(first.source, first.converter, table),
        by_position=association is not None,
        association=association,
        inputs=records,
        parts=[{"columns": dict(part.columns), "preset": part.preset} for part in parts],
        warnings=list(dict.fromkeys(warnings)),
    )


def iter_measurements(
    inputs: Any,
    *,
    columns: Mapping[str, str] | None = None,
    exposures: Any = None,
    spare: Collection[str] = (),
    exptime: Exptime | None = None,
    batch_rows: int = CHUNK_ROWS,
    text_ids: Iterable[str] = (),
    stars: Callable[[str], StarFinder] | None = None,
    preset: str = "",
) -> Iterator[Measurements]:
    """Read measurements batch by batch, in input order, in memory that does not grow with the input.

    Every batch is checked as by `read_measurements`, with four differences: a duplicate is found only within its
    batch, rows that lie elsewhere on the sky than their star are not looked for, nights are not derived (both need all
    rows), and sha256 is None. ECSV, VOTable and compressed FITS files
    are read whole before they are cut.

    Parameters
    ----------
    inputs, columns, exposures
        As for `read_measurements`.
    spare : collection of str
        Conditions that may be mapped to a column that no table has.
    exptime : callable, optional
        Exposure time, s, of each row of a frame of keys, where no table has it.
    batch_rows : int
        Rows of a batch, at most.
    text_ids
        As for `read_measurements`.
    stars : callable, optional
        Gives the known stars among which those of a table without star_id are found by position; it is called with
        what messages call the table. Without it such a table is refused: stars are made only of all rows together.
    preset
        As for `read_measurements`.

    Raises
    ------
    InputError
        As for `read_measurements`; for a fault in the values when its batch is reached.
    """
    opened, table = open_parts([Part(inputs, exposures, columns or {}, preset)], text_ids, spare, exptime)
    label, finder = opened[0].source.label, None
    if opened[0].converter.by_position:
        if stars is None:
            raise InputError(
                f"{label}: no column star_id, and stars are told by position only where all rows are read "
                "together; map one with --columns star_id=THEIR_NAME"
            )
        finder = stars(label)
    # whether there are bands is said for all batches alike, whatever exposures are in them
    bands_known = table.frame["band"] if table is not None and table.has_band else pl.Series("band", [], pl.String)
    types: dict[str, Any] = {}
    seen = 0
    for source, converter, _ in opened:
        for raw in source.chunks(converter.columns, batch_rows):
            chunk = _banded(converter(raw), table)
            seen += chunk.keys.height
            if not chunk.keys.height:
                continue
            one = Gatherer(types=types)
            one.add(chunk, source.label)
            around = ExposureGatherer()
            around.add(chunk.keys, chunk.conditions, _sky(chunk))
            measured, more = around.frame()
            joined, _ = join_exposures(measured, table, nights=False)
            frame, reason, bands = one.finish()
            mark_duplicates(frame, reason)
            if finder is not None:
                frame.insert_column(0, finder(frame["ra"].to_numpy(), frame["dec"].to_numpy()))
            own = {**converter.names, **converter.conditions}
            yield Measurements(
                frame,
                reason,
                joined.with_columns(pl.col("band").cast(bands)),
                given=_given(converter, joined, bands_known),
                system=converter.system,
                undivided=converter.undivided,
                time_scale=_time_scale(source, converter, table),
                by_position=finder is not None,
                inputs=[{"path": source.label, "rows": frame.height, "sha256": None, "columns": own}],
                warnings=source.notes + written_notes(converter.notes) + more + _count_warnings(converter),
            )
    if not seen:
        raise InputError(f"{label}: the table has no rows")


def _banded(chunk: Chunk, table: ExposureTable | None) -> Chunk:
    """Give a chunk without band that of its exposures, or the empty one."""
    if "band" not in chunk.keys.columns:
        if table is not None and table.has_band:
            band = table.bands(chunk.keys)
            chunk.keys = chunk.keys.insert_column(_after_ids(chunk), band.alias("band"))
        else:
            empty = pl.Series("band", [""]).new_from_index(0, chunk.keys.height)
            chunk.keys = chunk.keys.insert_column(_after_ids(chunk), empty)
    return chunk


def _after_ids(chunk: Chunk) -> int:
    return chunk.keys.columns.index("exposure_id") + 1


def _sky(chunk: Chunk) -> tuple[NDArray[Any], NDArray[Any]] | None:
    return (chunk.numbers["ra"], chunk.numbers["dec"]) if "ra" in chunk.numbers else None


def _given(converter: Converter, exposures: pl.DataFrame, bands: pl.Series) -> frozenset[str]:
    known = {c for c in CONDITIONS if c not in {"ra", "dec"} and exposures[c].null_count() < exposures.height}
    band = {"band"} if "band" in converter.names or (bands.cast(pl.String) != "").any() else set()
    return frozenset({*converter.names, *known, *band})


def _time_scale(source: Source, converter: Converter, table: ExposureTable | None) -> str:
    own = source.time_scales.get(converter.conditions.get("mjd", ""), "")
    return (table.time_scale if table is not None else "") or own


def _count_warnings(converter: Converter) -> list[str]:
    if converter.undivided:
        return [
            f"{converter.source.label}: fluxes are in counts and no exposure time is known; "
            "each zero-point includes 2.5 log10 of its exposure time"
        ]
    return []
