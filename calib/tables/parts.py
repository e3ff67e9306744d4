"""Tables put together: each part has its own names of columns, and all have the same columns."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from calib.tables.columns import CONDITION_COLUMNS, check_mapping, missing_column
from calib.tables.convert import Converter, Exptime
from calib.tables.errors import InputError
from calib.tables.exposures import ExposureTable, load_exposures, union
from calib.tables.ids import read_ids_alike
from calib.tables.presets import PRESETS, mapping_of
from calib.tables.sources import Source, open_partitioned

UNSTATED = "without a stated system"
"""What magnitudes of a column without a unit are said to be."""


@dataclass(frozen=True)
class Part:
    """Measurements whose tables have the same names, and a table of their exposures.

    Attributes
    ----------
    inputs : path, folder, glob, astropy Table, polars frame, pyarrow Table, or a list of these
    exposures : the same, or None
    columns : mapping of str to str
        Canonical to own name; an empty own name leaves a column out.
    preset : str
        The survey whose names columns have where `columns` does not say otherwise.
    """

    inputs: Any
    exposures: Any = None
    columns: Mapping[str, str] = field(default_factory=dict)
    preset: str = ""


class Opened(NamedTuple):
    """One table of measurements, ready to be read, and the number of its part."""

    source: Source
    converter: Converter
    part: int


def open_parts(
    parts: Sequence[Part], text_ids: Iterable[str] = (), spare: Collection[str] = (), exptime: Exptime | None = None
) -> tuple[list[Opened], ExposureTable | None]:
    """Open all tables, and read those of exposures into one.

    Parameters
    ----------
    parts
        One or more.
    text_ids
        Which ids are text in a table that these are to be matched with.
    spare
        Conditions that may be mapped to a column that no table has.
    exptime
        Exposure time, s, of each row of a frame of keys, where no table has it.

    Raises
    ------
    InputError
        A table cannot be used, or two do not go together: other columns, or another system of magnitudes.
    """
    text = set(text_ids)
    explicit = [check_mapping(part.columns) for part in parts]
    sources, mappings = [], []
    for part, asked in zip(parts, explicit, strict=True):
        sources.append(open_partitioned(part.inputs))
        mappings.append(mapping_of(part.preset, sources[-1], asked))
        if part.preset:
            PRESETS[part.preset].check(sources[-1][0], mappings[-1], asked)
        text = read_ids_alike(sources[-1], mappings[-1], text)
    tables = _exposures(parts, explicit, text)
    if "exposure_id" not in text and any(table is not None and table.has_text_ids for table in tables):
        text.add("exposure_id")
        tables = _exposures(parts, explicit, text)
    together = [table for table in tables if table is not None]
    table = union(together) if together else None
    opened: list[Opened] = []
    for k, (mine, mapping) in enumerate(zip(sources, mappings, strict=True)):
        read_ids_alike(mine, mapping, text)
        wanted = {name: own for name, own in explicit[k].items() if name not in spare}
        _check_conditions(wanted, mine, tables[k])
        opened += [Opened(source, c, k) for source, c in zip(mine, _converters(mine, mapping), strict=True)]
    for one in opened:
        if table is not None and "exptime" in table.frame.columns:
            one.converter.exptime = table.exptime
        one.converter.other_exptime = exptime
    _go_together(opened, tables)
    return opened, table


def _exposures(parts: Sequence[Part], explicit: list[dict[str, str]], text: set[str]) -> list[ExposureTable | None]:
    tables: list[ExposureTable | None] = []
    for k, (part, columns) in enumerate(zip(parts, explicit, strict=True)):
        table = None if part.exposures is None else load_exposures(part.exposures, columns, text, part.preset)
        for record in () if table is None else table.inputs:
            record["part"] = k
        tables.append(table)
    return tables


def _converters(sources: list[Source], mapping: Mapping[str, str]) -> list[Converter]:
    """One for each table of a part; all must have the same columns."""
    converters = [Converter(source, mapping, by_position=True) for source in sources]
    first = converters[0]
    for converter in converters:
        for mine, others in ((converter, first), (first, converter)):
            _refuse_lacking(mine, {**others.names, **others.conditions}.keys(), others.source)
    return converters


def _go_together(opened: list[Opened], tables: list[ExposureTable | None]) -> None:
    """Refuse parts of other columns, wherever they have their conditions, and magnitudes of another system."""
    firsts = {one.part: one for one in reversed(opened)}
    known = {}
    for k, one in firsts.items():
        table = tables[k]
        around = set() if table is None else set(table.frame.columns) - {"exposure_id", "ra", "dec"}
        known[k] = {**one.converter.names, **one.converter.conditions}.keys() | around
    for k in firsts:
        for mine, others in ((k, 0), (0, k)):
            for name in sorted(known[mine] - known[others]):
                table = tables[mine]
                own = {*firsts[mine].converter.names, *firsts[mine].converter.conditions}
                has = firsts[mine].source.label if table is None or name in own else table.label
                raise _lacking(firsts[others].source, name, has)
    first = opened[0]
    for source, converter, _ in opened:
        said, wanted = (system_in_words(c.system, c.undivided) for c in (converter, first.converter))
        if said != wanted:
            raise InputError(
                f"{source.label}: magnitudes are {said} and in {first.source.label} {wanted}; give one system"
            )


def _refuse_lacking(mine: Converter, theirs: Collection[str], other: Source) -> None:
    for name in {**mine.names, **mine.conditions}:
        if name not in theirs:
            raise _lacking(other, name, mine.source.label)


def _lacking(source: Source, name: str, has: str) -> InputError:
    return InputError(
        f"{source.label}: no column {name}, which {has} has; add it, or leave it out of all with --columns {name}="
    )


def system_in_words(system: str, undivided: bool) -> str:
    """Return what magnitudes are, as messages say it: two that differ have no common scale."""
    return "of counts of whole exposures" if undivided else system or UNSTATED


def _check_conditions(mapping: Mapping[str, str], sources: Sequence[Source], table: ExposureTable | None) -> None:
    """Refuse a condition that is not mapped to a column that the measurements or the exposure table have."""
    known = {name for source in sources for name in source.names}
    if table is not None:
        known |= {own for record in table.inputs for own in record["columns"].values()}
    for name, own in mapping.items():
        if name in CONDITION_COLUMNS and own and own not in known:
            raise missing_column(sources[0].label, f"{own}, which {name} was mapped to", sources[0].names)
