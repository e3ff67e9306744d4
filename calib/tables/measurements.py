"""Measurements: any table in, checked columns out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from calib.config import MATCH_RADIUS
from calib.tables.association import Association, associate
from calib.tables.columns import CONDITION_COLUMNS, check_mapping, missing_column
from calib.tables.convert import Chunk, Converter, Exptime, written_notes
from calib.tables.duplicates import mark_duplicates
from calib.tables.errors import InputError
from calib.tables.exposures import CONDITIONS, ExposureGatherer, ExposureTable, join_exposures, load_exposures
from calib.tables.gather import Gatherer
from calib.tables.ids import names_of_text, read_ids_alike
from calib.tables.misplaced import mark_misplaced
from calib.tables.presets import PRESETS, mapping_of
from calib.tables.reasons import count_reasons
from calib.tables.sources import CHUNK_ROWS, Source, open_partitioned
from calib.tables.star_finder import StarFinder

UNSTATED = "without a stated system"
"""What magnitudes of a column without a unit are said to be."""


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
        path, rows, sha256 (None for a table in memory), columns (canonical to own name), of every file.
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
    mapping = check_mapping(columns)
    sources, table, converters = _open(inputs, mapping, exposures, text_ids, preset=preset)
    gatherer, exposure_gatherer = Gatherer(sum(s.rows or 0 for s in sources)), ExposureGatherer()
    records, warnings = [], [] if table is None else list(table.warnings)
    for source, converter in zip(sources, converters, strict=True):
        rows = 0
        for raw in source.chunks(converter.columns):
            chunk = _banded(converter(raw), table)
            del raw
            rows += chunk.keys.height
            gatherer.add(chunk, source.label)
            exposure_gatherer.add(chunk.keys, chunk.conditions, _sky(chunk))
        own = {**converter.names, **converter.conditions}
        records.append({"path": source.label, "rows": rows, "sha256": source.sha256(), "columns": own})
        warnings += source.notes + written_notes(converter.notes)
    if not gatherer.rows:
        raise InputError(f"{sources[0].label}: the table has no rows")
    frame, reason, bands = gatherer.finish()
    mark_duplicates(frame, reason)
    association = None
    if converters[0].by_position:
        frame, association = associate(frame, reason, match_radius)
        warnings += association.warnings
    elif {"ra", "dec"} <= set(frame.columns):
        mark_misplaced(frame, reason)
    measured, more = exposure_gatherer.frame()
    joined, missing = join_exposures(measured, table)
    joined = joined.with_columns(pl.col("band").cast(bands))
    warnings += more + missing + _count_warnings(converters[0])
    records += [] if table is None else table.inputs
    return Measurements(
        frame,
        reason,
        joined,
        given=_given(converters[0], joined, joined["band"]),
        system=converters[0].system,
        undivided=converters[0].undivided,
        time_scale=_time_scale(sources[0], converters[0], table),
        by_position=association is not None,
        association=association,
        inputs=records,
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
    mapping = check_mapping(columns)
    sources, table, converters = _open(inputs, mapping, exposures, text_ids, spare, exptime, preset)
    finder = None
    if converters[0].by_position:
        if stars is None:
            raise InputError(
                f"{sources[0].label}: no column star_id, and stars are told by position only where all rows are read "
                "together; map one with --columns star_id=THEIR_NAME"
            )
        finder = stars(sources[0].label)
    # whether there are bands is said for all batches alike, whatever exposures are in them
    bands_known = table.frame["band"] if table is not None and table.has_band else pl.Series("band", [], pl.String)
    types: dict[str, Any] = {}
    seen = 0
    for source, converter in zip(sources, converters, strict=True):
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
        raise InputError(f"{sources[0].label}: the table has no rows")


def _open(
    inputs: Any, mapping: Mapping[str, str], exposures: Any, text_ids: Iterable[str], spare: Collection[str] = (),
    exptime: Exptime | None = None, preset: str = "",
) -> tuple[list[Source], ExposureTable | None, list[Converter]]:  # fmt: skip
    """The tables, made ready to be read."""
    sources = open_partitioned(inputs)
    explicit, mapping = mapping, mapping_of(preset, sources, mapping)
    if preset:
        PRESETS[preset].check(sources[0], mapping, explicit)
    text = read_ids_alike(sources, mapping, text_ids)
    table = None
    if exposures is not None:
        table = load_exposures(exposures, explicit, text, preset)
        if table.frame["exposure_id"].dtype == pl.String:
            read_ids_alike(sources, mapping, {*text, "exposure_id"})
    _check_conditions({name: own for name, own in explicit.items() if name not in spare}, sources, table)
    return sources, table, _converters(sources, mapping, table, exptime)


def _converters(
    sources: list[Source], mapping: Mapping[str, str], table: ExposureTable | None, exptime: Exptime | None = None
) -> list[Converter]:
    """One for each table; all must have the same columns and the same kind of brightness."""
    converters = [Converter(source, mapping, by_position=True) for source in sources]
    first = converters[0]
    for source, converter in zip(sources, converters, strict=True):
        if table is not None and "exptime" in table.frame.columns:
            converter.exptime = table.exptime
        converter.other_exptime = exptime
        for mine, others in ((converter, first), (first, converter)):
            for name in {**mine.names, **mine.conditions}:
                if name not in others.names and name not in others.conditions:
                    raise InputError(
                        f"{others.source.label}: no column {name}, which {mine.source.label} has; "
                        f"add it, or leave it out of all with --columns {name}="
                    )
        said, wanted = (system_in_words(c.system, c.undivided) for c in (converter, first))
        if said != wanted:
            raise InputError(
                f"{source.label}: magnitudes are {said} and in {first.source.label} {wanted}; give one system"
            )
    return converters


def system_in_words(system: str, undivided: bool) -> str:
    """Return what magnitudes are, as messages say it: two that differ have no common scale."""
    return "of counts of whole exposures" if undivided else system or UNSTATED


def _check_conditions(mapping: Mapping[str, str], sources: Iterable[Source], table: ExposureTable | None) -> None:
    """Refuse a condition that is not mapped to a column that the measurements or the exposure table have."""
    known = {name for source in sources for name in source.names}
    if table is not None:
        known |= {own for record in table.inputs for own in record["columns"].values()}
    for name, own in mapping.items():
        if name in CONDITION_COLUMNS and own and own not in known:
            source = next(iter(sources))
            raise missing_column(source.label, f"{own}, which {name} was mapped to", source.names)


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
