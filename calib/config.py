"""What a user may choose, checked when made."""

from __future__ import annotations

import dataclasses
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

METHODS = ("auto", "learned", "robust", "wls")
DEVICES = ("auto", "cpu", "cuda")
TERMS = ("auto", "on", "off")
SURVEYS = ("ztf", "lsst", "des", "ps1", "gaia")
"""Surveys whose tables' columns are known (`calib.tables.presets`)."""
MOST_SEED = 2**63 - 1
FLAT_GRADIENT = 2e-3
"""mag; a judgement, between cameras that star flats have levelled and those that nobody has (docs/accuracy.md)."""


MATCH_RADIUS = 1.0
"""arcsec: what LSST's FGCM and isolated-star tasks and Pan-STARRS take; detections of ground-based surveys scatter by a
tenth of it, and neighbours nearer than the seeing are one blend anyhow. SCAMP takes 2, before astrometry is solved."""
RADII = (0.01, 30.0)
"""arcsec: match radii for which positions are told well enough, and that are small on the sphere."""


NO_MATTER = frozenset({"workers"})
"""Keys on which the answer does not depend."""


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names the key, what was found and what is possible."""


@dataclass(frozen=True)
class Config:
    """Configuration of one run.

    Attributes
    ----------
    method
        ``robust``; ``learned``, the robust solve with what networks make of its residuals; ``wls``, weighted least
        squares with the reported errors; or ``auto``: the one that held-out stars prefer.
    device
        Where the networks of the learned method run: ``cpu``, ``cuda``, or ``auto``, a GPU if there is one.
    adapt
        Whether the learned method looks at how tightly this survey's nights and surfaces hold, on its own stars, before
        it is used (`calib.learn.adapt`); it keeps what it finds where stars not looked at are bettered.
    fine_tune
        Whether networks learn from them too, by gradient steps, and not one factor for all ties of a kind alone; on
        simulated surveys that did more harm than good (docs/learned.md).
    zeropoint_per
        ``exposure``, or ``detector`` for one zero-point of every exposure x detector.
    surface
        ``auto``, ``off``, ``plane`` or ``quadratic``: the surface across the field of each exposure.
    seeing_response
        ``auto``, ``on`` or ``off``: the response of each star to seeing, the given one or one that residuals show.
    magnitude_term
        What an exposure may do to stars by their magnitude: ``background``, a flux left in every star's aperture;
        ``slope``, with the magnitude; ``nonlinearity``, a loss in proportion to the flux; ``auto``: the one that
        residuals show, if any; ``off``: none.
    instrument
        ``auto``, ``off``, ``offset`` or ``color``: what each detector adds in a band, where the table names detectors
        and an exposure has one zero-point: an offset, or that and a slope with the stars' colours. With one detector an
        offset of each cell of its field, a star flat.
    extinction
        ``auto`` or ``on``: zero-points of a night and band are tied by extinction linear in airmass, as tightly as the
        night's own scatter allows, and differential extinction over the field is taken off where it is known; ``off``:
        zero-points are free and magnitudes left as they are.
    site
        Longitude to the east and latitude, deg: what airmass is worked out from where a table names none but mjd, ra
        and dec; empty where unknown.
    flat_gradient
        Standard deviation of the fall of sensitivity from the middle of the field to a side that is left after
        flat-fielding, mag, along each of two directions, at least: where the flat field curves more is allowed.
        Overlaps alone cannot tell it from a slope of the sky.
    factor_gb
        Largest factor that a choice of terms may need, GB, about a third of the memory of the whole solve. Terms beyond
        it are not tried, which is told.
    score
        Whether methods are scored on held-out stars; ``auto`` needs it.
    covariance
        Whether `Solution.write` writes the covariance between all zero-points, of up to 5,000.
    max_passes
        Most passes of the robust solve.
    tolerance
        Largest root mean square change of zero-points in the last pass, in their errors.
    seed
        Of the split of stars into halves and of the bootstrap; at most 2^63 - 1.
    match_radius
        How far measurements may lie from their star's place where that tells it, and reference stars from theirs,
        arcsec.
    preset
        The survey whose names columns have, where ``columns`` does not say otherwise; empty for none.
    workers
        Threads that share the solve's work on measurements; 0 for as many as the process has CPUs, and no more than
        ``NUMBA_NUM_THREADS`` where that is set. The answer is the same on any number.
    columns
        Canonical names to the table's own.
    """

    method: Literal["auto", "learned", "robust", "wls"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    adapt: bool = True
    fine_tune: bool = False
    zeropoint_per: Literal["exposure", "detector"] = "exposure"
    surface: Literal["auto", "off", "plane", "quadratic"] = "auto"
    seeing_response: Literal["auto", "on", "off"] = "auto"
    magnitude_term: Literal["auto", "off", "background", "slope", "nonlinearity"] = "auto"
    instrument: Literal["auto", "off", "offset", "color"] = "auto"
    extinction: Literal["auto", "on", "off"] = "auto"
    site: list[float] = field(default_factory=list)
    flat_gradient: float = FLAT_GRADIENT
    factor_gb: float = 0.7
    score: bool = True
    covariance: bool = False
    max_passes: int = 60
    tolerance: float = 0.02
    seed: int = 20240229
    match_radius: float = MATCH_RADIUS
    preset: Literal["", "ztf", "lsst", "des", "ps1", "gaia"] = ""
    workers: int = 0
    columns: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        choices = {
            "method": METHODS,
            "device": DEVICES,
            "zeropoint_per": ("exposure", "detector"),
            "surface": ("auto", "off", "plane", "quadratic"),
            "seeing_response": TERMS,
            "magnitude_term": ("auto", "off", "background", "slope", "nonlinearity"),
            "instrument": ("auto", "off", "offset", "color"),
            "extinction": TERMS,
            "preset": ("", *SURVEYS),
        }
        for name, allowed in choices.items():
            value = getattr(self, name)
            if value not in allowed:
                raise ConfigError(f"{name} is {value!r}; it is one of {', '.join(filter(None, allowed))}")
        for name in ("score", "adapt", "fine_tune", "covariance"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name} is {getattr(self, name)!r}; it is true or false")
        for name in ("max_passes", "seed", "workers"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < (name == "max_passes"):
                raise ConfigError(f"{name} is {value!r}; it is a whole number, not negative")
        if self.seed > MOST_SEED:
            raise ConfigError(f"seed is {self.seed!r}; it is at most {MOST_SEED}")
        if not isinstance(self.tolerance, int | float) or not 0 < self.tolerance < 1:
            raise ConfigError(f"tolerance is {self.tolerance!r}; it lies between 0 and 1")
        if not isinstance(self.flat_gradient, int | float) or not 0 < self.flat_gradient < 1:
            raise ConfigError(f"flat_gradient is {self.flat_gradient!r}; it is in mag, between 0 and 1")
        if not isinstance(self.factor_gb, int | float) or not 0 < self.factor_gb < 1e6:
            raise ConfigError(f"factor_gb is {self.factor_gb!r}; it is in GB, above 0")
        low, high = RADII
        if not _is_number(self.match_radius) or not low <= self.match_radius <= high:
            raise ConfigError(f"match_radius is {self.match_radius!r}; it is in arcsec, from {low:g} to {high:g}")
        object.__setattr__(self, "site", _site(self.site))
        if not isinstance(self.columns, dict) or not all(isinstance(s, str) for kv in self.columns.items() for s in kv):
            raise ConfigError(f'columns is {self.columns!r}; it maps names to names: canonical = "theirs"')

    @classmethod
    def from_mapping(cls, values: dict[str, Any], source: str = "config") -> Config:
        """From parsed TOML or a resolved run.json; unknown keys are refused."""
        known = {f.name for f in dataclasses.fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ConfigError(f"{source}: unknown key {', '.join(unknown)}; known are {', '.join(sorted(known))}")
        try:
            return cls(**values)
        except ConfigError as error:
            raise ConfigError(f"{source}: {error}") from None

    @classmethod
    def from_toml(cls, path: str | Path) -> Config:
        """Read a TOML file."""
        try:
            values = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: is not TOML ({error})") from None
        return cls.from_mapping(values, str(path))

    def resolved(self) -> dict[str, Any]:
        """All keys and values, for the record."""
        return dataclasses.asdict(self)

    def answers_as(self, resolved: dict[str, Any]) -> bool:
        """Whether the answer is that of another configuration, which is `resolved`."""
        mine = self.resolved()
        return all(
            key in NO_MATTER or (key in mine and key in resolved and mine[key] == resolved[key])
            for key in mine.keys() | resolved.keys()
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _site(value: Any) -> list[float]:
    """Longitude and latitude, deg; nothing where nothing is said."""
    if isinstance(value, list | tuple) and not value:
        return []
    good = isinstance(value, list | tuple) and len(value) == 2
    if not good or not all(_is_number(v) for v in value):
        raise ConfigError(f"site is {value!r}; it is [longitude to the east, latitude], deg")
    longitude, latitude = float(value[0]), float(value[1])
    if not (-180 <= longitude <= 360 and -90 <= latitude <= 90):
        raise ConfigError(f"site is {value!r}; longitude lies between -180 and 360, latitude between -90 and 90")
    return [longitude, latitude]
