"""Parquet files and pyarrow tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from calib.tables.errors import InputError
from calib.tables.sources.base import CHUNK_ROWS, Source


class _ArrowSource(Source):
    """What a file and a table in memory share: units, masks and times that astropy put beside the columns."""

    def _read_schema(self, schema: Any) -> None:
        plain = [str(n) for n in schema.names]
        self._masks: dict[str, str] = {}
        self._times: dict[str, tuple[str, str]] = {}
        for field in schema:
            unit = (field.metadata or {}).get(b"unit")
            if unit:
                self.units[field.name] = unit.decode()
        yaml_text = (schema.metadata or {}).get(b"table_meta_yaml")
        if yaml_text:
            self._read_astropy(yaml_text.decode(), set(plain))
        parts = {c for pair in self._times.values() for c in pair} | set(self._masks.values())
        self.names = [n for n in plain if n not in parts] + list(self._times)

    def _read_astropy(self, text: str, plain: set[str]) -> None:
        header = _load_yaml(text)
        for entry in header.get("datatype") or []:
            if entry.get("unit") and entry.get("name") in plain:
                self.units.setdefault(str(entry["name"]), str(entry["unit"]))
        for name in plain:
            if f"{name}.mask" in plain:
                self._masks[name] = f"{name}.mask"
        for name, how in _serialized(header.get("meta")).items():
            if how.get("__class__") == "astropy.time.core.Time" and f"{name}.jd1" in plain and f"{name}.jd2" in plain:
                self._times[name] = (f"{name}.jd1", f"{name}.jd2")
                self.time_scales[name] = str(how.get("scale", ""))

    def _needed(self, names: Sequence[str]) -> list[str]:
        needed: list[str] = []
        for name in names:
            needed += self._times.get(name, (name,))
            if name in self._masks:
                needed.append(self._masks[name])
        return list(dict.fromkeys(needed))

    def _finish(self, frame: pl.DataFrame, names: Sequence[str]) -> pl.DataFrame:
        out = []
        for name in names:
            if name in self._times:
                jd1, jd2 = self._times[name]
                values = ((frame[jd1] - 2400000.5) + frame[jd2]).alias(name)
            else:
                values = frame[name]
            mask = self._masks.get(name)
            if mask is not None:
                values = pl.select(pl.when(~frame[mask].fill_null(True)).then(values).alias(name)).to_series()
            out.append(values)
        return pl.DataFrame(out)


class ParquetSource(_ArrowSource):
    """A Parquet file, read by batches of the columns asked for.

    Parameters
    ----------
    path : Path

    Raises
    ------
    InputError
        The file cannot be read.
    """

    format_name = "Parquet"

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), path)
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with pq.ParquetFile(path) as file:
                self.rows = file.metadata.num_rows
                self._read_schema(file.schema_arrow)
        except (pa.ArrowException, OSError) as error:
            raise self.unreadable(error) from error

    def chunks(self, names: Sequence[str], batch_rows: int = CHUNK_ROWS) -> Iterator[pl.DataFrame]:
        """Frames of `batch_rows` rows; see `Source.chunks`."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with pq.ParquetFile(self.path, pre_buffer=False, buffer_size=1 << 20) as file:
                for batch in file.iter_batches(batch_rows, columns=self._needed(names), use_threads=False):
                    yield self._finish(_to_polars(pa.Table.from_batches([batch]), self.label), names)
        except (pa.ArrowException, OSError) as error:
            raise self.unreadable(error) from error


class ArrowTableSource(_ArrowSource):
    """A pyarrow Table in memory.

    Parameters
    ----------
    table : pyarrow.Table
    """

    format_name = "an Arrow table"

    def __init__(self, table: Any) -> None:
        super().__init__("the pyarrow Table")
        self._table = table
        self.rows = table.num_rows
        self._read_schema(table.schema)

    def chunks(self, names: Sequence[str], batch_rows: int = CHUNK_ROWS) -> Iterator[pl.DataFrame]:
        """Frames of `batch_rows` rows; see `Source.chunks`."""
        table = self._table.select(self._needed(names))
        for start in range(0, table.num_rows, batch_rows):
            yield self._finish(_to_polars(table.slice(start, batch_rows), self.label), names)


def _to_polars(table: Any, label: str) -> pl.DataFrame:
    try:
        frame = pl.from_arrow(table)
    except (pl.exceptions.PolarsError, ValueError, TypeError) as error:
        raise InputError(f"{label}: a column has a type that is not understood ({error})") from error
    assert isinstance(frame, pl.DataFrame)
    return frame


def _load_yaml(text: str) -> dict[str, Any]:
    """Read astropy's header with its own tags read as plain mappings: no object is made of what a file says."""
    import yaml  # type: ignore[import-untyped]

    class Plain(yaml.SafeLoader):  # type: ignore[misc]
        pass

    def plain(loader: yaml.SafeLoader, _tag: str, node: yaml.Node) -> Any:
        if isinstance(node, yaml.MappingNode):
            return loader.construct_mapping(node, deep=True)
        if isinstance(node, yaml.SequenceNode):
            return loader.construct_sequence(node, deep=True)
        return loader.construct_scalar(node)

    Plain.add_multi_constructor("!", plain)
    try:
        header = yaml.load(text, Plain)
    except yaml.YAMLError:
        return {}
    return header if isinstance(header, dict) else {}


def _serialized(meta: Any) -> dict[str, dict[str, Any]]:
    found: Any = None
    if isinstance(meta, dict):
        found = meta.get("__serialized_columns__")
    elif isinstance(meta, list):
        for item in meta:
            if isinstance(item, dict) and "__serialized_columns__" in item:
                found = item["__serialized_columns__"]
            elif isinstance(item, tuple) and item[0] == "__serialized_columns__":
                found = item[1]
    return {str(k): v for k, v in found.items() if isinstance(v, dict)} if isinstance(found, dict) else {}
