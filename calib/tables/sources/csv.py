"""CSV files, streamed as text; which columns are whole numbers is decided over the whole file."""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from calib.tables.errors import InputError
from calib.tables.sources.base import CHUNK_ROWS, WHOLE, Source

NULL_WORDS = ("", "NA", "N/A", "null", "NULL", "None", "--", "<NA>", "\\N")
"""What stands for a missing value in text."""


class CsvSource(Source):
    """A CSV (or, by the ending .tsv, tab-separated) file with a header; lines before it that begin with # are comments.

    A column is int64 when every value of it in the file is a whole number that fits and has no leading zero,
    otherwise text, and text too where `as_text` says so. Numbers in text are converted, and counted where they cannot
    be, later.

    Parameters
    ----------
    path : Path

    Raises
    ------
    InputError
        The file cannot be read.
    """

    format_name = "CSV"

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), path)
        self._separator = "\t" if ".tsv" in path.suffixes else ","
        self._whole: dict[str, bool] = {}
        self._empty: set[str] = set()
        self.null_words = NULL_WORDS
        try:
            self._comments = _lines_before_header(path)
            own = self._scan(null_values=list(NULL_WORDS)).collect_schema().names()
            header = self._scan(has_header=False, n_rows=1).collect().row(0)
        except (pl.exceptions.PolarsError, OSError) as error:
            raise self.unreadable(error) from error
        written = [(name or "").strip().strip("\ufeff") for name in header]
        self._own = dict(zip(written, own, strict=True))
        self._repeated = {name: n for name in self._own if (n := written.count(name)) > 1}
        self.names = [name for name in self._own if name]

    def _scan(self, **options: Any) -> pl.LazyFrame:
        return pl.scan_csv(
            self.path or "",
            separator=self._separator,
            infer_schema=False,
            skip_lines=self._comments,
            glob=False,
            **options,
        )

    def _columns(self, names: Sequence[str]) -> pl.LazyFrame:
        for name in names:
            if name in self._repeated:
                raise InputError(
                    f"{self.where(name)} is there {self._repeated[name]} times; rename or remove all but one"
                )
        scan = self._scan(null_values=list(NULL_WORDS))
        return scan.select(pl.col(self._own[n]).str.strip_chars().alias(n) for n in names)

    def _find_whole(self, names: Sequence[str]) -> None:
        new = [n for n in names if n not in self._whole]
        if not new:
            return
        tests = [
            (pl.col(n).str.contains(WHOLE) & pl.col(n).cast(pl.Int64, strict=False).is_not_null()).all().alias(n)
            for n in new
        ]
        empty = [pl.col(n).is_null().all().alias(f"{n}\0") for n in new]
        answer = self._columns(new).select(*tests, *empty).collect(engine="streaming").row(0, named=True)
        self._whole.update({n: bool(answer[n]) and not answer[f"{n}\0"] for n in new})
        self._empty.update(n for n in new if answer[f"{n}\0"])

    def text_columns(self, names: Sequence[str]) -> set[str]:
        """See `Source.text_columns`."""
        try:
            self._find_whole(names)
        except (pl.exceptions.PolarsError, OSError) as error:
            raise self.unreadable(error) from error
        return {n for n in names if not self._whole[n] and n not in self._empty}

    def chunks(self, names: Sequence[str], batch_rows: int = CHUNK_ROWS) -> Iterator[pl.DataFrame]:
        """Frames of about `batch_rows` rows; see `Source.chunks`."""
        try:
            self._find_whole(names)
            whole = [n for n in names if self._whole[n] and n not in self.as_text]
            lazy = self._columns(names).with_columns(pl.col(whole).cast(pl.Int64))
            for frame in lazy.collect_batches(chunk_size=batch_rows, maintain_order=True, lazy=True):
                for start in range(0, frame.height, batch_rows):
                    yield frame.slice(start, batch_rows)
        except (pl.exceptions.PolarsError, OSError) as error:
            raise self.unreadable(error) from error


def _lines_before_header(path: Path) -> int:
    """Comments and empty lines above the header: below it a line that begins with # is a row, of a star called so."""
    with path.open("rb") as stream:
        packed = stream.read(2) == b"\x1f\x8b"
    with gzip.open(path) if packed else path.open("rb") as lines:
        n = 0
        for line in lines:
            text = line.removeprefix(b"\xef\xbb\xbf").strip()
            if text and not text.startswith(b"#"):
                break
            n += 1
    return n
