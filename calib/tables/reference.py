"""Reference stars: the absolute scale."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl

from calib.tables.columns import check_mapping
from calib.tables.convert import Converter, written_notes
from calib.tables.errors import InputError, count
from calib.tables.ids import names_of_text, read_ids_alike
from calib.tables.measurements import Measurements
from calib.tables.reasons import UNUSED_REASONS, count_reasons
from calib.tables.sources import open_partitioned

_KEYS = ("star_id", "band")
_WANTED = (*_KEYS, "mag", "mag_err", "flux", "flux_err", "flag")


@dataclass
class Reference:
    """Reference stars with canonical columns.

    Attributes
    ----------
    frame : polars.DataFrame
        Usable rows only, unique in star_id and band, sorted by them: star_id (Int64 or String), band (String, "" where
        the table has none), mag, mag_err (Float64, mag).
    counts : dict of str to int
        Rows by reason, ``usable`` included.
    system : str
        ``AB``, or empty where the table does not say.
    inputs : list of dict
        path, rows, sha256, columns.
    warnings : list of str
    """

    frame: pl.DataFrame
    counts: dict[str, int] = field(default_factory=dict)
    system: str = ""
    inputs: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def text_ids(self) -> frozenset[str]:
        """``star_id`` where that is text."""
        return names_of_text(self.frame)

    def check(self, measurements: Measurements) -> None:
        """Refuse reference stars that cannot be those of some measurements.

        Parameters
        ----------
        measurements : Measurements

        Raises
        ------
        InputError
            The ids are of different types, or no star and band is in both.
        """
        label = self.inputs[0]["path"]
        theirs, ours = self.frame["star_id"].dtype, measurements.frame["star_id"].dtype
        if theirs != ours:
            raise InputError(f"{label}: star_id is {theirs} and in the measurements {ours}; give both one type")
        ours_frame = measurements.frame.select("star_id", "band").unique().with_columns(pl.col("band").cast(pl.String))
        if not self.frame.join(ours_frame, on=list(_KEYS), how="semi").height:
            raise InputError(
                f"{label}: none of {count(self.frame.height, 'reference star')} is measured; "
                "check star_id and the names of bands"
            )


def read_reference(
    reference: Any, columns: Mapping[str, str] | None = None, text_ids: Iterable[str] = ()
) -> Reference:
    """Read reference stars.

    Parameters
    ----------
    reference : path, folder, glob or table
        star_id, mag and mag_err (or flux and flux_err), and band where there are several; a flag keeps rows out.
    columns : mapping of str to str, optional
        Canonical to own name; names that the table lacks fall back to the canonical ones.
    text_ids : iterable of str, optional
        Which ids are text in the measurements: CSV files give theirs as text then.

    Raises
    ------
    InputError
        It cannot be used as it is, or gives one star and band two magnitudes.
    """
    mapping = check_mapping(columns)
    parts: list[pl.DataFrame] = []
    reasons, records, warnings = [], [], []
    system, label = "", ""
    sources = open_partitioned(reference)
    read_ids_alike(sources, mapping, text_ids)
    for source in sources:
        label = label or source.label
        own = {k: v for k, v in mapping.items() if not v or v in source.names}
        converter = Converter(source, own, keys=("star_id",), wanted=_WANTED)
        if converter.system == "instrumental":
            raise InputError(f"{source.label}: reference magnitudes are in counts; give them on an absolute scale")
        system = system or converter.system
        rows = 0
        for raw in source.chunks(converter.columns):
            chunk = converter(raw)
            rows += raw.height
            keys = chunk.keys if "band" in chunk.keys.columns else chunk.keys.with_columns(band=pl.lit(""))
            parts.append(
                keys.select(_KEYS).with_columns(
                    pl.Series("mag", chunk.numbers["mag"]),
                    pl.Series("mag_err", chunk.numbers["mag_err"]).cast(pl.Float64),
                )
            )
            reasons.append(chunk.reason)
            ours, first = parts[-1]["star_id"].dtype, parts[0]["star_id"].dtype
            if ours != first:
                raise InputError(f"{source.label}: star_id is {ours} and in {label} {first}; give one type in all")
        records.append({"path": source.label, "rows": rows, "sha256": source.sha256(), "columns": converter.names})
        warnings += source.notes + written_notes(converter.notes)
    if not parts:
        raise InputError(f"{label}: the reference table has no rows")
    reason = np.concatenate(reasons)
    frame = pl.concat(parts).filter(pl.Series(reason == 0))
    counts = count_reasons(reason)
    alone = frame.unique(maintain_order=True)
    if alone.height < frame.height:
        counts["duplicate"] = frame.height - alone.height
        counts["usable"] = alone.height
    twice = alone.filter(alone.select(_KEYS).is_duplicated())
    if twice.height:
        raise InputError(
            f"{label}: {count(twice.height, 'row')} give a star and band several magnitudes "
            f"(first: {twice['star_id'][0]}); give one each"
        )
    if not alone.height:
        raise InputError(f"{label}: no reference star is usable ({_spelled(counts)})")
    left_out = {k: v for k, v in counts.items() if k != "usable"}
    if left_out:
        warnings.append(f"{label}: {count(sum(left_out.values()), 'reference row')} not used ({_spelled(left_out)})")
    return Reference(alone.sort(_KEYS), counts, system, records, warnings)


def _spelled(counts: Mapping[str, int]) -> str:
    known = [r.name for r in UNUSED_REASONS]
    return ", ".join(f"{name} {counts[name]:,}" for name in known if name in counts)
