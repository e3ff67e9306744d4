"""Reference stars: the absolute scale."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import polars as pl

from calib.config import MATCH_RADIUS
from calib.tables.columns import check_mapping, resolve
from calib.tables.convert import Chunk, Converter, written_notes
from calib.tables.errors import InputError, count
from calib.tables.exposures import kind
from calib.tables.ids import names_of_text, read_ids_alike
from calib.tables.measurements import Measurements
from calib.tables.reasons import UNUSED_REASONS, count_reasons, mark
from calib.tables.sources import open_partitioned
from calib.tables.star_finder import StarFinder, mean_places

_KEYS = ("star_id", "band")
_WANTED = (*_KEYS, "mag", "mag_err", "flux", "flux_err", "flag")


@dataclass
class Reference:
    """Reference stars with canonical columns.

    Attributes
    ----------
    frame : polars.DataFrame
        Usable rows only, unique in star_id and band, sorted by them: star_id (Int64 or String), band (String, "" where
        the table has none), mag, mag_err (Float64, mag). Where positions are to tell stars, ra and dec (Float64, deg)
        in place of star_id.
    counts : dict of str to int
        Rows by reason, ``usable`` included; where positions told stars, ``unmatched`` and ``ambiguous`` ones too.
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
    def by_position(self) -> bool:
        """Whether positions are to tell stars."""
        return "ra" in self.frame.columns

    @property
    def text_ids(self) -> frozenset[str]:
        """``star_id`` where that is text."""
        return names_of_text(self.frame)

    def of(self, measurements: Measurements, match_radius: float = MATCH_RADIUS) -> Reference:
        """Return these reference stars under the names that some measurements have for them.

        Where positions tell stars, each is the measured star nearest to it, within the match radius; it is left out,
        and counted, where a second star is nearly as near, or another reference star of the band to the same star
        (`calib.tables.star_finder.StarFinder.one_to_one`).

        Parameters
        ----------
        measurements : Measurements
        match_radius : float
            arcsec.

        Raises
        ------
        InputError
            They cannot be those of the measurements: ids are of different types, measurements have no positions, or no
            star and band is in both.
        """
        named = self._named(measurements, match_radius) if self.by_position else self
        named.check(measurements)
        return named

    def _named(self, measurements: Measurements, match_radius: float) -> Reference:
        label = self.inputs[0]["path"]
        if not measurements.has("ra"):
            raise InputError(
                f"{label}: no column star_id, and the measurements have no ra and dec by which reference stars could "
                "be found; map one with --columns star_id=THEIR_NAME, or ra and dec"
            )
        usable = measurements.frame.select("star_id", "ra", "dec").filter(pl.Series(measurements.usable))
        find = StarFinder(mean_places(usable), match_radius)
        ra, dec = (self.frame[c].to_numpy() for c in ("ra", "dec"))
        star_id, unclear = find.one_to_one(ra, dec, self.frame["band"].rank("dense").to_numpy())
        frame = self.frame.with_columns(star_id).filter(star_id.is_not_null())
        if not frame.height:
            raise InputError(
                f"{label}: none of {count(self.frame.height, 'reference star')} can be told by position among the "
                f"measured ones, within {match_radius:g} arcsec; check ra and dec, their epoch, and match_radius"
            )
        n_unclear = int(np.count_nonzero(unclear))
        counts = {**self.counts, "usable": frame.height, "unmatched": self.frame.height - frame.height - n_unclear}
        counts |= {"ambiguous": n_unclear} if n_unclear else {}
        warnings = list(self.warnings)
        if n_unclear:
            warnings.append(
                f"{label}: {count(n_unclear, 'reference row')} not used: within {match_radius:g} arcsec they could be "
                "of either of two stars, or share one"
            )
        return replace(self, frame=frame.select(*_KEYS, "mag", "mag_err").sort(_KEYS), counts=counts, warnings=warnings)

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
    reference: Any, columns: Mapping[str, str] | None = None, text_ids: Iterable[str] = (), *, by_position: bool = False
) -> Reference:
    """Read reference stars.

    Parameters
    ----------
    reference : path, folder, glob or table
        star_id (or ra and dec), mag and mag_err (or flux and flux_err), and band where there are several; a flag keeps
        rows out.
    columns : mapping of str to str, optional
        Canonical to own name; names that the table lacks fall back to the canonical ones.
    text_ids : iterable of str, optional
        Which ids are text in the measurements: CSV files give theirs as text then.
    by_position : bool
        Whether ra and dec are to tell stars though there is a star_id, as where names of the measurements' stars are of
        our own.

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
        if by_position:
            own["star_id"] = ""
        placed = "star_id" not in resolve(source.names, ("star_id",), own)
        wanted = (*_WANTED, "ra", "dec") if placed else _WANTED
        converter = Converter(source, own, keys=("star_id",), wanted=wanted, by_position=True)
        if converter.system == "instrumental":
            raise InputError(f"{source.label}: reference magnitudes are in counts; give them on an absolute scale")
        system = system or converter.system
        rows = 0
        for raw in source.chunks(converter.columns):
            chunk = converter(raw)
            rows += raw.height
            parts.append(_rows(chunk))
            if converter.by_position:
                mark(chunk.reason, ~np.isfinite(chunk.numbers["ra"] + chunk.numbers["dec"]), "no_position")
            reasons.append(chunk.reason)
            ours, first = (part.schema.get("star_id") for part in (parts[-1], parts[0]))
            if ours is None or first is None:
                if ours != first:
                    raise InputError(f"{source.label}: star_id is not in all of the reference tables; give it in all")
            elif ours != first:
                raise InputError(f"{source.label}: star_id is {ours} and in {label} {first}; give one type in all")
        records.append(
            {"path": source.label, "rows": rows, "sha256": source.sha256(), "columns": converter.names}
            | kind("reference")
        )
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
    key = [c for c in ("star_id", "ra", "dec", "band") if c in alone.columns]
    twice = alone.filter(alone.select(key).is_duplicated())
    if twice.height:
        raise InputError(
            f"{label}: {count(twice.height, 'row')} give a star and band several magnitudes "
            f"(first: {', '.join(str(v) for v in twice.select(key[:-1]).row(0))}); give one each"
        )
    if not alone.height:
        raise InputError(f"{label}: no reference star is usable ({_spelled(counts)})")
    left_out = {k: v for k, v in counts.items() if k != "usable"}
    if left_out:
        warnings.append(f"{label}: {count(sum(left_out.values()), 'reference row')} not used ({_spelled(left_out)})")
    return Reference(alone.sort(key), counts, system, records, warnings)


def _rows(chunk: Chunk) -> pl.DataFrame:
    """Keys, or the place for want of star_id, and magnitudes."""
    columns = {name: pl.Series(name, chunk.numbers[name]) for name in ("mag", "mag_err")}
    columns["mag_err"] = columns["mag_err"].cast(pl.Float64)
    keys = {series.name: series for series in chunk.keys}
    if "star_id" not in keys:
        keys = {name: pl.Series(name, chunk.numbers[name]) for name in ("ra", "dec")} | keys
    keys.setdefault("band", pl.Series("band", [""]).new_from_index(0, len(columns["mag"])))
    return pl.DataFrame([*keys.values(), *columns.values()])


def _spelled(counts: Mapping[str, int]) -> str:
    known = [r.name for r in UNUSED_REASONS]
    return ", ".join(f"{name} {counts[name]:,}" for name in known if name in counts)
