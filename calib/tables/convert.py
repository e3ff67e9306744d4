"""One chunk of a table to canonical arrays and the reason of each row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import polars as pl
from numpy.typing import NDArray

from calib.tables import units, values
from calib.tables.columns import CONDITION_COLUMNS, MEASUREMENT_COLUMNS, missing_column, resolve
from calib.tables.errors import InputError, count
from calib.tables.reasons import MAG_RANGE, mark
from calib.tables.sources import Source

Exptime = Callable[[pl.DataFrame], NDArray[np.float64]]
"""Exposure time of each row of a frame of keys, in seconds, NaN where unknown."""

_PLAUSIBLE = {
    "airmass": (0.99, 60.0),
    "seeing": (0.0, 600.0),
    "exptime": (0.0, 1e7),
    "mjd": (-2e5, 1e6),
    "sky": MAG_RANGE,
}
"""Conditions outside these ranges are stand-ins for missing values and become null; open at 0."""


@dataclass
class Chunk:
    """A chunk with canonical names.

    Attributes
    ----------
    keys : polars.DataFrame
        star_id, exposure_id (Int64 or String), band (String), detector (Int64 or String) if given.
    numbers : dict of str to array, shape (n,)
        mag float64, mag_err float32, and x, y, color float32, ra, dec float64 where given; NaN for null.
    flag : bool array, shape (n,), or None
    reason : uint8 array, shape (n,)
    conditions : dict of str to float64 array, shape (n,)
        Exposure columns found in the table, NaN for null.
    """

    keys: pl.DataFrame
    numbers: dict[str, NDArray[np.floating]]
    flag: NDArray[np.bool_] | None
    reason: NDArray[np.uint8]
    conditions: dict[str, NDArray[np.float64]]


@dataclass
class Converter:
    """Columns and units of one table, looked up once; then each chunk is converted.

    Parameters
    ----------
    source : Source
    mapping : mapping of str to str
        Checked by `columns.check_mapping`.
    keys : sequence of str
        Key columns without which the table is refused; but star_id, where stars may be told by position, need not be
        there beside ra and dec, and is no key then.
    wanted : sequence of str
        Canonical names to look for.

    Raises
    ------
    InputError
        A needed column is missing or a unit cannot be converted.

    Attributes
    ----------
    names : dict of str to str
        Canonical to own name of the measurement columns that are read.
    conditions : dict of str to str
        The same for exposure columns in the table.
    system : str
        ``AB``, ``instrumental`` or empty where the table does not say.
    by_position : bool
        Whether stars may be told by position; once made, whether they have to be.
    exptime, other_exptime : callable or None
        Set by the reader where exposure times come from another table, and where some are known if no table has them.
    notes : dict of str to int
        What was repaired, with the number of rows.
    """

    source: Source
    mapping: Mapping[str, str]
    keys: tuple[str, ...] = ("star_id", "exposure_id")
    wanted: tuple[str, ...] = (*MEASUREMENT_COLUMNS, *CONDITION_COLUMNS)
    names: dict[str, str] = field(init=False)
    conditions: dict[str, str] = field(init=False)
    exptime: Exptime | None = None
    other_exptime: Exptime | None = None
    by_position: bool = False
    notes: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        source = self.source
        found = resolve(source.names, [c for c in MEASUREMENT_COLUMNS if c in self.wanted], self.mapping)
        for name, own in self.mapping.items():
            if name in MEASUREMENT_COLUMNS and own and own not in source.names and name not in CONDITION_COLUMNS:
                raise InputError(
                    f"{source.label}: no column {own}, which {name} was mapped to; "
                    f"{missing_column(source.label, name, source.names).args[0].split('; ', 1)[1]}"
                )
        self.by_position = self.by_position and "star_id" not in found
        if self.by_position:
            self.keys = tuple(name for name in self.keys if name != "star_id")
            if not {"ra", "dec"} & found.keys():
                needed = "star_id, nor ra and dec by which stars could be told"
                raise missing_column(source.label, needed, source.names)
        for name in self.keys:
            if name not in found:
                raise missing_column(source.label, name, source.names)
        self._choose_brightness(found)
        for a, b in (("x", "y"), ("ra", "dec")):
            for have, lack in ((a, b), (b, a)):
                if have in found and lack not in found:
                    raise InputError(
                        f"{source.label}: column {have} is there without {lack}; give both or --columns {have}="
                    )
        self.names = found
        wanted = [c for c in CONDITION_COLUMNS if c in self.wanted and c not in MEASUREMENT_COLUMNS]
        self.conditions = resolve(source.names, wanted, self.mapping)
        self._find_units()

    def _choose_brightness(self, found: dict[str, str]) -> None:
        mapped = {k for k in ("mag", "flux") if self.mapping.get(k)}
        if len(mapped) == 2:
            raise InputError(f"{self.source.label}: both mag and flux are mapped; map one of them")
        has_mag, has_flux = "mag" in found and "mag_err" in found, "flux" in found and "flux_err" in found
        if has_mag and has_flux and not mapped:
            self._note(f"{self.source.label}: has mag and flux; mag is used", 0)
        self.is_flux = has_flux and (not has_mag or mapped == {"flux"})
        if not has_mag and not has_flux:
            lack = "flux_err" if "flux" in found and "mag" not in found else "mag_err" if "mag" in found else "mag"
            raise missing_column(self.source.label, lack, self.source.names)
        for name in ("mag", "mag_err") if self.is_flux else ("flux", "flux_err"):
            found.pop(name, None)

    def _find_units(self) -> None:
        unit, where = self.source.units.get, self.source.where
        main = self.names["flux" if self.is_flux else "mag"]
        error = self.names["flux_err" if self.is_flux else "mag_err"]
        if self.is_flux:
            self.scale = units.flux_scale(unit(main), where(main))
            self.error_factor = units.error_factor(unit(error), unit(main), where(error))
        else:
            self.scale = units.magnitude_scale(unit(main), where(main))
            self.error_factor = units.magnitude_scale(unit(error), where(error)).factor
        self.system = self.scale.system
        self.factors = {
            name: units.factor(unit(own), MEASUREMENT_COLUMNS[name].unit, where(own))
            for name, own in self.names.items()
            if name in {"ra", "dec", "color"}
        }
        self.condition_factors = condition_factors(self.source, self.conditions)

    @property
    def columns(self) -> list[str]:
        """Own names of all columns to read."""
        return list(dict.fromkeys([*self.names.values(), *self.conditions.values()]))

    @property
    def undivided(self) -> bool:
        """Whether magnitudes are of counts as they are, since no exposure time is known."""
        known = self.exptime is not None or self.other_exptime is not None or "exptime" in self.conditions
        return self.scale.counts and not known

    def _note(self, text: str, n: int) -> None:
        self.notes[text] = self.notes.get(text, 0) + n

    def __call__(self, raw: pl.DataFrame) -> Chunk:
        """Convert a chunk with the columns `columns`."""
        source, names = self.source, self.names
        reason = np.zeros(raw.height, np.uint8)
        keys = [values.to_id(raw[names[k]], source, names[k]).alias(k) for k in self.keys]
        null_band = None
        if "band" in names:
            band, null_band = values.to_label(raw[names["band"]], source, names["band"])
            keys.append(band.alias("band"))
        if "detector" in names:
            keys.append(values.to_id(raw[names["detector"]], source, names["detector"]).alias("detector"))
        frame = pl.DataFrame(keys)
        flag = None
        if "flag" in names:
            flag, null_flag = values.to_flag(raw[names["flag"]], source, names["flag"])
            mark(reason, flag & ~null_flag, "flagged")
            mark(reason, null_flag, "null_flag")
        conditions = read_conditions(raw, self.conditions, self.condition_factors, source, self._note)
        numbers = self._brightness(raw, frame, reason, conditions)
        if null_band is not None:
            mark(reason, null_band, "null_band")
        numbers.update(self._places(raw))
        return Chunk(frame, numbers, flag, reason, conditions)

    def _brightness(
        self,
        raw: pl.DataFrame,
        keys: pl.DataFrame,
        reason: NDArray[np.uint8],
        conditions: Mapping[str, NDArray[np.float64]],
    ) -> dict[str, NDArray[np.floating]]:
        main = self.names["flux" if self.is_flux else "mag"]
        error = self.names["flux_err" if self.is_flux else "mag_err"]
        value, null = values.to_number(raw[main], self.source, main)
        err, null_err = values.to_number(raw[error], self.source, error)
        mark(reason, null, "null_mag")
        mark(reason, ~np.isfinite(value), "non_finite_mag")
        no_time = None
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            if self.is_flux:
                mark(reason, value <= 0, "nonpositive_flux")
                mag = self.scale.zero - 2.5 * np.log10(np.where(value > 0, value, np.nan))
                err = units.MAG_PER_RELATIVE_FLUX * self.error_factor * err / np.where(value > 0, value, np.nan)
                if self.scale.counts:
                    time = self._times(keys, conditions)
                    if time is not None:
                        no_time = ~(time > 0)
                        mag = mag + 2.5 * np.log10(np.where(no_time, np.nan, time))
            else:
                mag = value * self.scale.factor + self.scale.zero
                err = err * self.error_factor
            err32 = err.astype(np.float32)
        mag[~np.isfinite(mag)] = np.nan
        implausible = (mag < MAG_RANGE[0]) | (mag > MAG_RANGE[1])
        mark(reason, implausible, "implausible_mag")
        mark(reason, null_err, "null_error")
        mark(reason, ~np.isfinite(err32), "non_finite_error")
        mark(reason, err32 <= 0, "nonpositive_error")
        mag[implausible] = np.nan  # what stands for missing is missing, whatever reason comes first
        err32[~(np.isfinite(err32) & (err32 > 0))] = np.nan
        if no_time is not None:
            mark(reason, no_time, "no_exptime")
        return {"mag": mag, "mag_err": err32}

    def _times(self, keys: pl.DataFrame, conditions: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64] | None:
        times = self.exptime(keys) if self.exptime is not None else None
        inside = conditions.get("exptime")
        other = self.other_exptime(keys) if self.other_exptime is not None else None
        for more in (inside, other):
            if more is not None:
                times = more if times is None else np.where(np.isfinite(times), times, more)
        return times

    def _places(self, raw: pl.DataFrame) -> dict[str, NDArray[np.floating]]:
        out: dict[str, NDArray[np.floating]] = {}
        for name in ("x", "y", "ra", "dec", "color"):
            if name not in self.names:
                continue
            own = self.names[name]
            value, _ = values.to_number(raw[own], self.source, own)
            value = value * self.factors.get(name, 1.0)
            value[~np.isfinite(value)] = np.nan
            if name in {"ra", "dec"}:
                value = self._on_sky(name, own, value)
            out[name] = value if name in {"ra", "dec"} else value.astype(np.float32)
        return out

    def _on_sky(self, name: str, own: str, value: NDArray[np.float64]) -> NDArray[np.float64]:
        return on_sky(name, value, self.source.where(own), self._note)


def condition_factors(source: Source, names: Mapping[str, str]) -> dict[str, float]:
    """Return the numbers that take exposure columns to the units inside.

    Parameters
    ----------
    source : Source
    names : mapping of str to str
        Canonical to own name.

    Raises
    ------
    InputError
        A unit cannot be converted.
    """
    return {
        name: units.factor(source.units.get(own), CONDITION_COLUMNS[name].unit, source.where(own))
        for name, own in names.items()
        if name != "night"
    }


def read_conditions(
    raw: pl.DataFrame,
    names: Mapping[str, str],
    factors: Mapping[str, float],
    source: Source,
    note: Callable[[str, int], None],
) -> dict[str, NDArray[np.float64]]:
    """Convert the exposure columns of a chunk: NaN where null, not finite or implausible.

    Parameters
    ----------
    raw : polars.DataFrame
        Own names.
    names, factors : mappings
        As of `condition_factors`.
    source : Source
    note : callable of (str, int)
        Told what was repaired and in how many rows.

    Returns
    -------
    dict of str to float64 array, shape (n,)
    """
    out: dict[str, NDArray[np.float64]] = {}
    for name, own in names.items():
        if name == "night":
            out[name], _ = values.to_night(raw[own], source, own)
            continue
        value, _ = values.to_number(raw[own], source, own)
        value = value * factors[name]
        if name == "mjd":
            value, julian = values.to_mjd(value)
            if julian:
                note(f"{source.where(own)} holds Julian Dates; 2400000.5 was subtracted", julian)
        value[~np.isfinite(value)] = np.nan
        if name in _PLAUSIBLE:
            low, high = _PLAUSIBLE[name]
            bad = (value <= low) | (value > high)
            if bad.any():
                note(f"{source.where(own)} is no possible {name}; read as unknown", int(bad.sum()))
                value[bad] = np.nan
        elif name in {"ra", "dec"}:
            value = on_sky(name, value, source.where(own), note)
        out[name] = value
    return out


def on_sky(name: str, value: NDArray[np.float64], where: str, note: Callable[[str, int], None]) -> NDArray[np.float64]:
    """Return right ascensions or declinations in degrees, NaN where they are outside the sky.

    Parameters
    ----------
    name : {"ra", "dec"}
    value : float64 array, shape (n,), deg
    where : str
        File and column.
    note : callable of (str, int)
    """
    limit = 360.0 if name == "ra" else 90.0
    bad = np.abs(value) > limit
    if bad.any():
        note(f"{where} is outside the sky; read as unknown", int(bad.sum()))
        value = np.where(bad, np.nan, value)
    return value


def written_notes(notes: Mapping[str, int]) -> list[str]:
    """Return what was repaired as warnings."""
    return [f"{text} ({count(n, 'row')})" if n else text for text, n in notes.items()]
