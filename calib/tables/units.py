"""Units at the edge: everything becomes mag, degrees, arcsec, seconds or days, or is refused.

astropy does the conversions; it is imported only where a table states a unit other than the one wanted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from calib.tables.errors import InputError

AB_NJY = 31.4
"""AB magnitude of 1 nJy: 2.5 log10 of the AB zero flux, 10^(-48.6 / 2.5) erg s^-1 cm^-2 Hz^-1, in nJy."""

MAG_PER_RELATIVE_FLUX = 2.5 / math.log(10.0)
"""mag_err = 2.5 / ln 10 * flux_err / flux, to first order."""

_ALIASES = {
    "ADU": "adu", "ADUs": "adu", "DN": "adu", "dn": "adu", "counts": "ct", "e-": "electron", "e": "electron",
    "electrons": "electron", "maggies": "mgy", "nanomaggies": "nmgy", "nmaggy": "nmgy", "nanomaggie": "nmgy",
    "ABmag": "mag(AB)", "abmag": "mag(AB)", "AB mag": "mag(AB)", "mag AB": "mag(AB)", "mags": "mag",
    "magnitude": "mag", "magnitudes": "mag", "degrees": "deg", "degree": "deg", "radians": "rad", "days": "d",
    "seconds": "s", "sec": "s", "arcseconds": "arcsec", "arcsecs": "arcsec", "pixels": "pix", "pixel": "pix",
    "MJD": "d", "mag/arcsec^2": "mag / arcsec2", "mag/arcsec2": "mag / arcsec2", "mag/arcsec**2": "mag / arcsec2",
    "mag arcsec-2": "mag / arcsec2", "mag / arcsec^2": "mag / arcsec2",
}  # fmt: skip


def _name(unit: str | None) -> str:
    text = (unit or "").strip()
    return _ALIASES.get(text, text)


def _parse(unit: str, where: str) -> Any:
    from astropy import units as u

    for kind in (None, "fits", "vounit", "cds"):
        try:
            return u.Unit(unit, format=kind)
        except (ValueError, TypeError):
            continue
    raise InputError(f"{where}: unit '{unit}' is not known; correct it in the table or drop it")


@dataclass(frozen=True)
class MagnitudeScale:
    """How a magnitude or flux column becomes magnitudes.

    Attributes
    ----------
    factor : float
        Number by which magnitudes are multiplied.
    zero : float
        Magnitude of a flux of one unit: ``mag = zero - 2.5 log10(flux)``.
    system : str
        ``AB``, ``instrumental``, or empty where the table does not say.
    counts : bool
        Whether the flux is in counts not yet divided by the exposure time.
    """

    factor: float = 1.0
    zero: float = 0.0
    system: str = ""
    counts: bool = False


def magnitude_scale(unit: str | None, where: str) -> MagnitudeScale:
    """Return the scale of a magnitude column.

    Parameters
    ----------
    unit : str or None
        As the table states it; none means mag.
    where : str
        File and column, for the message.

    Raises
    ------
    InputError
        The unit is not a magnitude, or one of a system that has no constant relation to mag.
    """
    name = _name(unit)
    if name in {"", "mag"}:
        return MagnitudeScale()
    from astropy import units as u

    parsed = _parse(name, where)
    physical = getattr(parsed, "physical_unit", None)
    if physical is not None:
        if parsed.function_unit != u.mag:
            raise InputError(f"{where}: unit '{unit}' is not magnitudes; convert it to mag")
        if physical.is_equivalent(u.AB):
            return MagnitudeScale(zero=-2.5 * math.log10((1 * physical).to_value(u.AB)), system="AB")
        if _count_like(physical) is not None:
            return MagnitudeScale(system="instrumental")
        raise InputError(f"{where}: magnitudes in '{unit}' cannot be put on one scale; give AB or plain mag")
    try:
        return MagnitudeScale(factor=float(parsed.to(u.mag)))
    except u.UnitConversionError:
        hint = "map it with --columns flux=... instead" if _is_flux(parsed) else "convert it to mag"
        raise InputError(f"{where}: unit '{unit}' is not magnitudes; {hint}") from None


def flux_scale(unit: str | None, where: str) -> MagnitudeScale:
    """Return the scale of a flux column: nJy and its kin, maggies, or counts.

    Parameters
    ----------
    unit : str or None
        As the table states it; none means nJy.
    where : str
        File and column, for the message.

    Raises
    ------
    InputError
        The unit is not a spectral flux density, maggies or counts.
    """
    name = _name(unit)
    if name in {"", "nJy"}:
        return MagnitudeScale(zero=AB_NJY, system="AB")
    from astropy import units as u

    parsed = _parse(name, where)
    if getattr(parsed, "physical_unit", None) is not None or parsed.is_equivalent(u.mag):
        raise InputError(f"{where}: unit '{unit}' is a magnitude; map it with --columns mag=... instead")
    if parsed.is_equivalent(u.AB):
        return MagnitudeScale(zero=-2.5 * math.log10(parsed.to(u.AB)), system="AB")
    if parsed.is_equivalent(u.mgy):
        return MagnitudeScale(zero=-2.5 * math.log10(parsed.to(u.mgy)), system="AB")
    counts = _count_like(parsed)
    if counts is None:
        raise InputError(f"{where}: a flux in '{unit}' has no magnitude; give nJy, Jy, maggies, adu, electron or mag")
    scale, rate = counts
    return MagnitudeScale(zero=-2.5 * math.log10(scale), system="instrumental", counts=not rate)


def _is_flux(parsed: Any) -> bool:
    from astropy import units as u

    return parsed.is_equivalent(u.AB) or parsed.is_equivalent(u.mgy) or _count_like(parsed) is not None


def _count_like(parsed: Any) -> tuple[float, bool] | None:
    """Scale to counts (per second) and whether it is a rate; None where it is neither."""
    from astropy import units as u

    for base in (u.adu, u.electron, u.ct, u.DN, u.ph, u.dimensionless_unscaled):
        if parsed.is_equivalent(base):
            return float(parsed.to(base)), False
        if parsed.is_equivalent(base / u.s):
            return float(parsed.to(base / u.s)), True
    return None


def factor(unit: str | None, wanted: str, where: str) -> float:
    """Return the number that takes values of `unit` to `wanted`.

    Parameters
    ----------
    unit : str or None
        As the table states it; none means `wanted`.
    wanted : str
        The unit inside.
    where : str
        File and column, for the message.

    Raises
    ------
    InputError
        The units have nothing to do with each other.
    """
    name = _name(unit)
    if name in {"", wanted, _name(wanted)}:
        return 1.0
    from astropy import units as u

    parsed = _parse(name, where)
    try:
        return float(parsed.to(u.Unit(wanted) if wanted else u.dimensionless_unscaled))
    except (u.UnitConversionError, u.UnitTypeError):
        column = where.rsplit(" ", 1)[-1]
        raise InputError(
            f"{where}: unit '{unit}' cannot become {wanted or 'a plain number'}; "
            f"convert it, or leave the column out with --columns {column}="
        ) from None


def error_factor(unit: str | None, of: str | None, where: str) -> float:
    """Return the number that takes an error in `unit` to the unit of the flux it belongs to.

    Parameters
    ----------
    unit, of : str or None
        Units of the error and of the flux; an error without a unit has that of the flux.
    where : str
        File and column, for the message.

    Raises
    ------
    InputError
        The two units are of different kinds.
    """
    if not _name(unit) or _name(unit) == _name(of):
        return 1.0
    return factor(unit, _name(of) or "nJy", where)
