"""Numbers as words, and tables of text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Table:
    """A table of the page: text only, escaped by the template.

    Attributes
    ----------
    numeric
        Which columns are numbers, and stand at the right.
    strong
        Row that is set in bold, -1 for none.
    fold
        Whether it is folded away until asked for.
    """

    title: str
    columns: Sequence[str]
    rows: list[list[str]]
    caption: str = ""
    numeric: frozenset[int] = field(default_factory=frozenset)
    strong: int = -1
    fold: bool = False

    @property
    def wide(self) -> bool:
        """Whether it takes the whole width of the page."""
        return len(self.columns) > 5


def count(value: Any) -> str:
    """Whole number with thin spaces between thousands."""
    return f"{int(value):,}".replace(",", "\u2009")


def number(value: Any, digits: int = 3) -> str:
    """Number to some significant digits; a dash where there is none."""
    if value is None or isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return "–"
    if abs(value) >= 1e5:
        text = f"{value:.0f}"
    else:
        text = f"{value:.{digits}g}" if abs(value) >= 1e-4 or value == 0 else f"{value:.1e}"
    return text.replace("-", "\u2212")


def fixed(value: Any, digits: int) -> str:
    """Number to some decimals; a dash where there is none."""
    if value is None or not isinstance(value, int | float) or not math.isfinite(value):
        return "–"
    return f"{value:.{digits}f}".replace("-", "\u2212")


def percent(value: Any) -> str:
    """Share as a percentage."""
    return f"{100 * value:.0f} %" if isinstance(value, int | float) and math.isfinite(value) else "–"


def mmag(value: Any) -> float | None:
    """Magnitudes as millimagnitudes."""
    return None if value is None else 1e3 * value
