"""What every table looks like from inside: names, units, and polars chunks with real nulls."""

from __future__ import annotations

import abc
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl

from calib.tables.errors import InputError

CHUNK_ROWS = 1 << 18
"""Rows read at a time."""
WHOLE = r"^(0|-?[1-9][0-9]{0,18})$"
"""Text that is a whole number, written as such a number is."""
_TEXT = (pl.String, pl.Binary, pl.Categorical, pl.Enum)


class Source(abc.ABC):
    """One table, in a file or in memory.

    Attributes
    ----------
    label : str
        What messages call it: the path, or words.
    path : Path or None
        Where it is a file.
    names : list of str
        Its columns.
    units : dict of str to str
        The unit of each column that states one.
    time_scales : dict of str to str
        The scale (utc, tai, tdb, ...) of each column that was a time.
    rows : int or None
        Number of rows where it is known before reading.
    notes : list of str
        Warnings about the table as a whole.
    as_text : set of str
        Columns of whole numbers to be given as text; only tables that are written as text can do so.
    null_words : tuple of str
        Words that stand for a missing value.
    blank_is_missing : bool
        Whether its format has no other way to say that text is missing.
    """

    def __init__(self, label: str, path: Path | None = None) -> None:
        self.label = label
        self.path = path
        self.names: list[str] = []
        self.units: dict[str, str] = {}
        self.time_scales: dict[str, str] = {}
        self.rows: int | None = None
        self.notes: list[str] = []
        self.as_text: set[str] = set()
        self.null_words: tuple[str, ...] = ()
        self.blank_is_missing = False
        self._blank: dict[str, bool] = {}

    @abc.abstractmethod
    def chunks(self, names: Sequence[str], batch_rows: int = CHUNK_ROWS) -> Iterator[pl.DataFrame]:
        """Frames of at most about `batch_rows` rows with these columns, in order; masked values are null.

        Times are days of MJD. It can be called again.
        """

    def text_columns(self, names: Sequence[str]) -> set[str]:
        """Return those of some columns that hold text."""
        first = next(self.chunks(names, 1), None) if names else None
        return set() if first is None else {n for n in names if first[n].dtype in _TEXT}

    def is_blank(self, name: str) -> bool:
        """Return whether all of a column of text is blank or null; it is looked at once."""
        if name not in self._blank:
            self._blank[name] = all((chunk[name].fill_null("") == "").all() for chunk in self.chunks([name]))
        return self._blank[name]

    def where(self, column: str) -> str:
        """Return the beginning of a message about a column."""
        return f"{self.label}: column {column}"

    def sha256(self) -> str | None:
        """Checksum of the file in hexadecimal; None for a table in memory."""
        if self.path is None:
            return None
        with self.path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()

    def unreadable(self, error: Exception) -> InputError:
        """Make the error for a file that the reader of its format cannot read."""
        text = str(error).split("\n")[0][:200] or type(error).__name__
        return InputError(f"{self.label}: cannot be read as {type(self).format_name} ({text}); is the file whole?")

    format_name = "a table"
