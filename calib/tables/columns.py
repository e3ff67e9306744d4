"""The input columns by canonical name, and how a table's own names are mapped to them.

A column is never guessed: it has the canonical name, or the caller maps it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from calib.tables.errors import InputError, listing

Kind = Literal["id", "label", "magnitude", "flux", "number", "flag", "condition"]


@dataclass(frozen=True)
class InputColumn:
    """An input column.

    Attributes
    ----------
    name : str
        Canonical name.
    kind : str
        How values are checked and converted.
    unit : str
        The unit inside, and the one assumed where the table states none.
    description : str
        One line for the documentation.
    """

    name: str
    kind: Kind
    unit: str
    description: str


def _registry(*columns: InputColumn) -> dict[str, InputColumn]:
    return {c.name: c for c in columns}


MEASUREMENT_COLUMNS = _registry(
    InputColumn("star_id", "id", "", "Which star; int64 or string."),
    InputColumn("exposure_id", "id", "", "Which exposure; int64 or string."),
    InputColumn("mag", "magnitude", "mag", "Instrumental or provisional magnitude."),
    InputColumn("mag_err", "magnitude", "mag", "Reported standard error of mag."),
    InputColumn("flux", "flux", "nJy", "Linear flux; the AB magnitude is taken of it."),
    InputColumn("flux_err", "flux", "nJy", "Reported standard error of flux."),
    InputColumn("band", "label", "", "Each band is its own graph."),
    InputColumn("detector", "label", "", "CCD or readout channel; int64 or string."),
    InputColumn("x", "number", "pix", "Position on the detector."),
    InputColumn("y", "number", "pix", "Position on the detector."),
    InputColumn("ra", "number", "deg", "Right ascension of the star."),
    InputColumn("dec", "number", "deg", "Declination of the star."),
    InputColumn("color", "number", "mag", "Colour of the star."),
    InputColumn("flag", "flag", "", "Rows where it is not zero are kept out of the solve, and still calibrated."),
)
"""Columns of a measurement table."""

CONDITION_COLUMNS = _registry(
    InputColumn("mjd", "condition", "d", "Modified Julian Date of the exposure."),
    InputColumn("night", "condition", "", "Night number; derived from mjd where absent."),
    InputColumn("airmass", "condition", "", "Airmass."),
    InputColumn("seeing", "condition", "arcsec", "Full width at half maximum of a star's image."),
    InputColumn("sky", "condition", "mag / arcsec2", "Sky brightness."),
    InputColumn("exptime", "condition", "s", "Exposure time."),
    InputColumn("ra", "condition", "deg", "Right ascension of the exposure's centre."),
    InputColumn("dec", "condition", "deg", "Declination of the exposure's centre."),
)
"""Columns of an exposure table beside exposure_id and band."""

CANONICAL: tuple[str, ...] = tuple(dict.fromkeys([*MEASUREMENT_COLUMNS, *CONDITION_COLUMNS]))
"""Every name that can stand on the left of a mapping."""


def check_mapping(columns: Mapping[str, str] | None) -> dict[str, str]:
    """Check a mapping and return it as a dict.

    Parameters
    ----------
    columns : mapping of str to str, optional
        Canonical name to the table's own name; an empty own name means that the column is not to be read.

    Raises
    ------
    InputError
        A canonical name does not exist.
    """
    mapping = dict(columns or {})
    unknown = [name for name in mapping if name not in CANONICAL]
    if unknown:
        raise InputError(
            f"columns: {listing(unknown)} cannot be mapped; the names to map to are {listing(list(CANONICAL), 40)}"
        )
    return mapping


def resolve(names: Sequence[str], wanted: Iterable[str], mapping: Mapping[str, str]) -> dict[str, str]:
    """Find the own names of the wanted columns that this table has.

    Parameters
    ----------
    names : sequence of str
        Columns of the table.
    wanted : iterable of str
        Canonical names.
    mapping : mapping of str to str
        Checked mapping; a name mapped to a column that this table lacks falls back to its canonical name only if
        the table has that.

    Returns
    -------
    dict of str to str
        Canonical to own name, in the order of `wanted`.
    """
    have = set(names)
    found: dict[str, str] = {}
    for name in wanted:
        own = mapping.get(name, name)
        if own and own in have:
            found[name] = own
        elif own and name in have:
            found[name] = name
    return found


def missing_column(label: str, needed: str, names: Sequence[str]) -> InputError:
    """Make the error for a table that lacks a needed column.

    Parameters
    ----------
    label : str
        The file.
    needed : str
        What is missing, in words or as a canonical name.
    names : sequence of str
        Columns that the table has.
    """
    first = needed.split()[0].strip(",")
    return InputError(
        f"{label}: no column {needed}; it has {listing(list(names))}: map one with --columns {first}=THEIR_NAME"
    )
