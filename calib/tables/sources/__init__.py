"""Anything that is a table, opened: paths, folders, globs, and tables in memory."""

from __future__ import annotations

import glob
import gzip
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import polars as pl

from calib.tables.errors import InputError
from calib.tables.sources.base import CHUNK_ROWS, Source

__all__ = ["CHUNK_ROWS", "Source", "open_partitioned", "open_sources"]

_FORMATS = "Parquet, FITS, ECSV, VOTable and CSV"


def open_sources(inputs: Any) -> list[Source]:
    """Open every table behind `inputs`, in order; several are one table.

    Parameters
    ----------
    inputs : path, folder, glob, astropy Table, polars frame, pyarrow Table, or a list of these

    Raises
    ------
    InputError
        Nothing is there, it cannot be read, or it has no rows.
    """
    several = isinstance(inputs, Iterable) and isinstance(inputs, list | tuple | set | frozenset)
    items = list(inputs) if several else [inputs]
    if not items:
        raise InputError("no input was given; give a file, a folder, a glob or a table")
    sources: list[Source] = []
    for item in items:
        if isinstance(item, str | Path):
            sources += [_open_file(path) for path in _files(item)]
        else:
            sources.append(_open_object(item))
    return sources


def open_partitioned(inputs: Any) -> list[Source]:
    """Open every table behind `inputs` as `open_sources` does, with the columns that names of folders hold.

    Parameters
    ----------
    inputs
        As for `open_sources`; below a folder ``band=g`` every table has a column band.

    Raises
    ------
    InputError
        As for `open_sources`.
    """
    from calib.tables.sources.partitions import partitioned

    return [partitioned(source) for source in open_sources(inputs)]


def _files(item: str | Path) -> list[Path]:
    path = Path(item).expanduser()
    if path.is_dir():
        below = list(path.rglob("*"))
        zeropoints = {p.parent for p in below if p.name == "zeropoints.parquet"}
        solved = zeropoints.intersection(p.parent for p in below if p.name == "run.json") - {path}
        found = sorted(
            p
            for p in below
            if p.suffix in {".parquet", ".parq", ".pq"}
            and p.is_file()
            and not any(part.startswith((".", "_")) for part in p.relative_to(path).parts)
            and solved.isdisjoint(p.parents)  # what was made of the tables is none of them
        )
        if not found:
            raise InputError(f"{item}: the folder holds no Parquet file; name the files")
        return found
    if path.exists():
        return [path]
    if glob.has_magic(str(path)):
        found = sorted(p for p in map(Path, glob.glob(str(path), recursive=True)) if p.is_file())
        if not found:
            raise InputError(f"{item}: no file matches; check the pattern")
        return found
    raise InputError(f"{item}: no such file or folder")


def _open_file(path: Path) -> Source:
    try:
        with path.open("rb") as stream:
            head = stream.read(512)
        if head[:2] == b"\x1f\x8b":
            with gzip.open(path) as packed:
                head = packed.read(512)
    except (OSError, EOFError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from error
    if not head:
        raise InputError(f"{path}: the file is empty (0 bytes)")
    if head.startswith(b"PAR1"):
        from calib.tables.sources.arrow import ParquetSource

        return ParquetSource(path)
    if head.startswith(b"SIMPLE"):
        from calib.tables.sources.fits import open_fits

        return open_fits(path)
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if text.startswith(b"# %ECSV"):
        from calib.tables.sources.memory import read_astropy

        return read_astropy(path, "ascii.ecsv")
    if text.startswith((b"<?xml", b"<VOTABLE", b"<!")):
        from calib.tables.sources.memory import read_astropy

        return read_astropy(path, "votable")
    if {".csv", ".tsv"} & set(path.suffixes):
        from calib.tables.sources.csv import CsvSource

        return CsvSource(path)
    known = {".parquet": "Parquet", ".fits": "FITS", ".ecsv": "ECSV", ".vot": "VOTable"}
    for suffix, name in known.items():
        if suffix in path.suffixes:
            raise InputError(f"{path}: is not {name} inside; is the file whole?")
    raise InputError(f"{path}: the format is not known; {_FORMATS} can be read, and CSV must end in .csv")


def _open_object(table: Any) -> Source:
    if isinstance(table, pl.LazyFrame):
        table = table.collect()
    if isinstance(table, pl.DataFrame):
        from calib.tables.sources.memory import PolarsSource

        return PolarsSource(table)
    module = type(table).__module__.split(".")[0]
    if module == "pyarrow" and hasattr(table, "column_names") and hasattr(table, "slice"):
        import pyarrow as pa

        from calib.tables.sources.arrow import ArrowTableSource

        return ArrowTableSource(pa.Table.from_batches([table]) if isinstance(table, pa.RecordBatch) else table)
    if hasattr(table, "colnames") and hasattr(table, "itercols"):
        from calib.tables.sources.memory import AstropySource

        return AstropySource(table)
    kind = f"{type(table).__module__}.{type(table).__qualname__}"
    hint = "; pass polars.from_pandas(frame)" if module == "pandas" else ""
    raise InputError(
        f"a {kind} is not a table that can be read; "
        f"give a path, an astropy Table, a polars frame or a pyarrow Table{hint}"
    )
