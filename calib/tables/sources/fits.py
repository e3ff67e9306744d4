"""FITS binary tables, read by blocks of rows straight from the file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from calib.tables.errors import InputError
from calib.tables.sources.base import CHUNK_ROWS, Source
from calib.tables.sources.memory import array_to_series, read_astropy


class FitsSource(Source):
    """The first table of a FITS file; only a block of rows is in memory at a time.

    Parameters
    ----------
    path : Path
    hdu : astropy.io.fits.BinTableHDU
        The open table; nothing of it is kept but its layout.
    """

    format_name = "FITS"

    def __init__(self, path: Path, hdu: Any) -> None:
        super().__init__(str(path), path)
        self._offset = int(hdu.fileinfo()["datLoc"])
        self._dtype = np.dtype(hdu.columns.dtype).newbyteorder(">")
        self.rows = int(hdu.header["NAXIS2"])
        self._layout = {c.name: _Layout(c) for c in hdu.columns}
        self.names = list(self._layout)
        self.blank_is_missing = True
        self.units = {c.name: c.unit for c in hdu.columns if c.unit}

    def chunks(self, names: Sequence[str], batch_rows: int = CHUNK_ROWS) -> Iterator[pl.DataFrame]:
        """Frames of `batch_rows` rows; see `Source.chunks`."""
        rows = self.rows or 0
        with open(self.label, "rb") as stream:
            stream.seek(self._offset)
            for start in range(0, rows, batch_rows):
                block = np.fromfile(stream, self._dtype, min(batch_rows, rows - start))
                if len(block) < min(batch_rows, rows - start):
                    raise InputError(f"{self.label}: ends at row {start + len(block):,} of {rows:,}; is it whole?")
                yield pl.DataFrame([self._layout[n].series(n, block[n], self.where(n)) for n in names])


class _Layout:
    """How the bytes of one FITS column become values."""

    def __init__(self, column: Any) -> None:
        self.format = str(column.format).lstrip("0123456789")[:1]
        self.null = column.null
        self.scale = column.bscale if column.bscale not in (None, "") else 1
        self.zero = column.bzero if column.bzero not in (None, "") else 0

    def series(self, name: str, raw: Any, where: str) -> pl.Series:
        """One block of the column as a polars series."""
        mask = None
        if self.format == "L":
            raw = raw.view(np.uint8)
            return array_to_series(name, raw == ord("T"), raw == 0, where)
        if raw.dtype.kind in "iu":
            if self.null not in (None, ""):
                mask = raw == self.null
            raw = raw.astype(raw.dtype.newbyteorder("="))
            if self.scale == 1 and self.zero == 2**63 and raw.dtype == np.int64:
                raw = raw.view(np.uint64) ^ np.uint64(2**63)
            elif self.scale == 1 and float(self.zero).is_integer():
                raw = raw.astype(np.int64) + int(self.zero) if self.zero else raw
            else:
                raw = raw * float(self.scale) + float(self.zero)
        elif raw.dtype.kind == "f" and (self.scale != 1 or self.zero != 0):
            raw = raw.astype(np.float64) * float(self.scale) + float(self.zero)
        return array_to_series(name, raw, mask, where)


def open_fits(path: Path) -> Source:
    """Open the first table of a FITS file.

    Plain binary tables are read by blocks; compressed files, text tables, and tables in which astropy stored times or
    logarithmic units are read whole by astropy.

    Parameters
    ----------
    path : Path

    Raises
    ------
    InputError
        The file cannot be read or holds no table.
    """
    from astropy.io import fits

    with path.open("rb") as stream:
        if stream.read(6) != b"SIMPLE":  # compressed
            return read_astropy(path, "fits")
        stream.seek(0)
        try:
            with fits.open(stream, memmap=True) as hdus:
                tables = [h for h in hdus if isinstance(h, fits.BinTableHDU | fits.TableHDU)]
                tables = [h for h in tables if not isinstance(h, fits.CompImageHDU)]
                if not tables:
                    raise InputError(f"{path}: holds no table, only {len(hdus)} images; give a file with a table")
                whole = _needs_astropy(tables[0])
                source: Source = read_astropy(path, "fits") if whole else FitsSource(path, tables[0])
        except InputError:
            raise
        except Exception as error:  # astropy raises OSError, ValueError, KeyError and its own
            text = str(error).split("\n")[0][:200] or type(error).__name__
            raise InputError(f"{path}: cannot be read as FITS ({text}); is the file whole?") from error
    if len(tables) > 1:
        source.notes = [f"{path}: holds {len(tables)} tables; the first is read"]
    return source


def _needs_astropy(hdu: Any) -> bool:
    from astropy.io import fits

    if not isinstance(hdu, fits.BinTableHDU) or isinstance(hdu, fits.CompImageHDU) or "ZTABLE" in hdu.header:
        return True
    comments = "".join(str(c) for c in hdu.header.get("COMMENT", []))
    times = any(str(k).startswith(("TCTYP", "TRPOS")) for k in hdu.header)
    return "ASTROPY-SERIALIZED" in comments or "ASTROPY SERIALIZED" in comments or times
