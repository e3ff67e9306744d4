"""Ids of one type in all tables: whole numbers in CSV files are read as text where another table's ids are text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import polars as pl

from calib.tables.columns import resolve
from calib.tables.sources import Source

IDS = ("star_id", "exposure_id", "detector")


def read_ids_alike(sources: Sequence[Source], mapping: Mapping[str, str], text: Iterable[str] = ()) -> set[str]:
    """Have ids read as text where they are text in one of some tables, or in a table beside them.

    Only what is written as text anyhow can be read so: CSV files and names of folders. Whole numbers of other formats
    stay numbers.

    Parameters
    ----------
    sources : sequence of Source
    mapping : mapping of str to str
        Checked by `columns.check_mapping`.
    text : iterable of str
        Canonical names of ids that are text in another table.

    Returns
    -------
    set of str
        Canonical names of ids that are text in one of the tables or in another.
    """
    found = set(text)
    own = [resolve(source.names, IDS, mapping) for source in sources]
    for source, names in zip(sources, own, strict=True):
        are_text = source.text_columns(list(names.values()))
        found |= {name for name, theirs in names.items() if theirs in are_text}
    for source, names in zip(sources, own, strict=True):
        source.as_text.update(theirs for name, theirs in names.items() if name in found)
    return found


def names_of_text(*frames: pl.DataFrame) -> frozenset[str]:
    """Return the canonical names of ids that are text in one of some frames."""
    return frozenset(n for frame in frames for n in IDS if n in frame.columns and not frame[n].dtype.is_numeric())
