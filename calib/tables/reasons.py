"""Why a measurement is kept out of the solve: one registry, from which codes, counts and documentation are made."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Reason:
    """A reason for which a row is not used.

    Attributes
    ----------
    code : int
        Position in the registry, the value in `Measurements.reason`; 0 is usable.
    name : str
        The key in run.json's counts.
    description : str
        One line for the documentation.
    """

    code: int
    name: str
    description: str


_ROWS = (
    ("usable", "Used in the solve."),
    ("flagged", "`flag` is not zero: kept out of the solve, still calibrated."),
    ("null_flag", "`flag` is null or masked, so that nobody says the row is good: kept out, still calibrated."),
    ("null_mag", "The magnitude (or flux) is null or masked."),
    ("non_finite_mag", "The magnitude (or flux) is NaN or infinite."),
    ("nonpositive_flux", "The flux is zero or negative and has no magnitude."),
    ("implausible_mag", "The magnitude lies outside -50 to 60, as the 99 and -9999 that stand for missing do."),
    ("null_error", "The error is null or masked; the magnitude is calibrated, without an error."),
    ("non_finite_error", "The error is NaN or infinite; the magnitude is calibrated, without an error."),
    ("nonpositive_error", "The error is zero or negative; the magnitude is calibrated, without an error."),
    ("no_exptime", "The flux is in counts and the exposure time of this row is unknown or not positive."),
    ("null_band", "The band is null or masked."),
    ("duplicate", "The row repeats an earlier one in every column that is read, flag aside."),
    (
        "misplaced",
        "The row lies elsewhere on the sky than its star's other rows, by more than 5 arcsec and 20 times what is "
        "usual, or so in the focal plane of several detectors: kept out, still calibrated.",
    ),
    ("no_position", "ra or dec is missing, where stars are told by position: the row is a star of its own."),
    (
        "ambiguous",
        "Stars are told by position, and the row could be another star's, or its star another row's of the exposure: "
        "kept out, still calibrated.",
    ),
    (
        "isolated",
        "The row's exposure shares no star with any other and holds no reference star, which the solve finds: it has "
        "no zero-point.",
    ),
)

UNUSED_REASONS: tuple[Reason, ...] = tuple(Reason(i, name, text) for i, (name, text) in enumerate(_ROWS))
"""All reasons by code; element 0 is ``usable``."""

CODES: dict[str, int] = {r.name: r.code for r in UNUSED_REASONS}
"""Code of each reason by name."""

MAG_RANGE = (-50.0, 60.0)
"""Magnitudes outside this range are stand-ins for missing values, in any system."""


def mark(reason: NDArray[np.uint8], where: NDArray[np.bool_], name: str) -> None:
    """Give the rows `where` the reason `name`, in place, unless they already have one.

    Parameters
    ----------
    reason : uint8 array, shape (n,)
    where : bool array, shape (n,)
    name : str
    """
    reason[where & (reason == 0)] = CODES[name]


def count_reasons(reason: NDArray[np.uint8]) -> dict[str, int]:
    """Count rows by reason, in registry order, only those that occur, ``usable`` always.

    Parameters
    ----------
    reason : uint8 array, shape (n,)
    """
    n = [int(np.count_nonzero(reason == r.code)) for r in UNUSED_REASONS]  # bincount would make 8 bytes of every row
    return {r.name: n[r.code] for r in UNUSED_REASONS if r.code == 0 or n[r.code]}


def reasons_markdown() -> str:
    """Return the registry as a Markdown table, for the documentation."""
    rows = [f"| {r.code} | `{r.name}` | {r.description} |" for r in UNUSED_REASONS]
    return "\n".join(["| code | name | meaning |", "|---|---|---|", *rows])
