"""The registry of zero-point flags, from which the documentation is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Flag:
    """A name and what it means."""

    name: str
    meaning: str


FLAGS: tuple[Flag, ...] = (
    Flag("no_measurements", "no measurement of the exposure could be used; zeropoint is NaN"),
    Flag("isolated", "shares no star with any other exposure and holds no reference star; zeropoint is NaN"),
    Flag("reference_only", "shares no star with any other exposure; reference stars alone fix its zeropoint"),
    Flag("few_stars", "fewer than five stars tie it to the rest"),
    Flag("outlier_rich", "more than a quarter of its measurements are probable outliers"),
    Flag("excess_noise", "its noise is more than twice what the reported errors and the survey's floor explain"),
    Flag("uncertain", "its error is more than three times the survey's median"),
    Flag("unanchored", "reference stars were given, but none is in its component"),
)
"""All flags, in the order in which they are joined."""


def join_flags(raised: Mapping[str, NDArray[np.bool_]]) -> list[str]:
    """Names of the flags raised for each row, joined by commas; empty where all is well."""
    known = [f.name for f in FLAGS]
    unknown = set(raised) - set(known)
    if unknown:
        raise KeyError(f"unknown flags: {sorted(unknown)}")
    columns = [(name, raised[name]) for name in known if name in raised]
    n = len(columns[0][1]) if columns else 0
    return [",".join(name for name, where in columns if where[i]) for i in range(n)]


def flags_markdown() -> str:
    """The flags as a table for the documentation."""
    return "\n".join(["| flag | meaning |", "|---|---|", *(f"| {f.name} | {f.meaning} |" for f in FLAGS)]) + "\n"
