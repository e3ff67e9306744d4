"""The air: extinction that drifts, clouds that drift and boil, seeing and the brightness of the sky.

Clouds are a sheet of turbulence carried by the wind, a sum of plane waves whose structure function is a power of the
separation (D(r) ~ r^(2/3) to r, between inertial-range turbulence in three dimensions and steeper sheets; for what
cloud does to survey photometry see Ivezic et al. 2007 and Burke et al. 2014), each wave with its own slow phase, so
that the sheet evolves as it moves (Taylor's frozen flow, broken).
An exposure averages it along the wind. Airmass after Kasten & Young 1989; extinction is Rayleigh and ozone of the site,
plus an aerosol whose optical depth is a power law of wavelength (Angstrom exponent 1.3) and drifts linearly with time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from other_world.presets import Preset

Array = NDArray[np.float64]
WAVELENGTH = {"g": 480.0, "V": 550.0, "r": 620.0, "i": 760.0}  # nm
OZONE = {"g": 0.005, "V": 0.025, "r": 0.020, "i": 0.002}  # mag per airmass
DARK_SKY = {"g": 22.0, "V": 21.6, "r": 21.0, "i": 20.0}  # mag per arcsec2
SECOND_ORDER = {"g": -0.025, "V": -0.012, "r": -0.004, "i": -0.001}  # mag per airmass per mag of colour
WAVES = 90


def airmass(altitude: Array) -> Array:
    """Relative airmass at an altitude [rad] (Kasten & Young 1989)."""
    degrees = np.maximum(np.degrees(altitude), 3.0)
    return np.asarray(1.0 / (np.sin(np.radians(degrees)) + 0.50572 * (degrees + 6.07995) ** -1.6364))


@dataclass
class Sheet:
    """One night's cloud: waves [rad/km], their amplitudes, phases and rates [rad/h], wind [km/h], height [km]."""

    waves: Array
    amplitude: Array
    phase: Array
    rate: Array
    wind: Array
    height: float
    thickness: float
    cover: tuple[float, float]
    onset: float

    @classmethod
    def draw(cls, rng: np.random.Generator, thickness: float, cover: tuple[float, float], stretch: float) -> Sheet:
        """A sheet with a random wind; ``stretch`` draws structures out along it."""
        k = np.exp(rng.uniform(np.log(2 * np.pi / 300), np.log(2 * np.pi / 0.04), WAVES))
        angle = rng.uniform(0, 2 * np.pi, WAVES)
        heading = rng.uniform(0, 2 * np.pi)
        along = np.array([np.cos(heading), np.sin(heading)])
        across = np.array([-along[1], along[0]])
        waves = k[:, None] * (np.cos(angle)[:, None] * along / stretch + np.sin(angle)[:, None] * across)
        amplitude = k ** (-0.5 * rng.uniform(0.67, 1.0))
        amplitude *= np.sqrt(2 / np.sum(amplitude**2))
        rate = rng.normal(0, 0.8, WAVES) * (k / 0.1) ** (2 / 3)
        return cls(
            waves, amplitude, rng.uniform(0, 2 * np.pi, WAVES), rate, rng.uniform(35, 140) * along,
            rng.uniform(6, 11), thickness, cover, rng.uniform(0.25, 0.75),
        )  # fmt: skip

    def __call__(self, altitude: Array, azimuth: Array, hours: Array, length: float, exptime: float) -> Array:
        """Cloud [mag] along lines of sight (n,), ``hours`` into a night of ``length``, averaged over exptime [s]."""
        distance = self.height / np.tan(np.maximum(altitude, 0.15))
        place = np.stack([distance * np.sin(azimuth), distance * np.cos(azimuth)], axis=1)
        place -= hours[:, None] * self.wind
        smear = np.sinc((self.waves @ self.wind) * exptime / 3600 / (2 * np.pi))
        f = np.empty(hours.size)
        for part in range(0, hours.size, 50_000):
            s = slice(part, part + 50_000)
            argument = place[s] @ self.waves.T + hours[s, None] * self.rate + self.phase
            f[s] = np.cos(argument) @ (self.amplitude * smear)
        turn = 1 / (1 + np.exp(-(hours / length - self.onset) / 0.04))
        level = self.cover[0] + (self.cover[1] - self.cover[0]) * turn
        soft = np.logaddexp(0, (f + level) / 0.3) * 0.3  # never negative, and truly clear where the sheet has a hole
        return np.asarray(self.thickness * soft * airmass(altitude))


def _sheet(kind: str, thickness: float, rng: np.random.Generator) -> Sheet | None:
    t = thickness * rng.lognormal(0, 0.4)
    if kind == "clear":
        return None
    if kind == "cirrus":
        return Sheet.draw(rng, t, (rng.uniform(-1.5, 0.5),) * 2, 2.0)
    if kind == "bands":
        return Sheet.draw(rng, 1.5 * t, (-2.0, -0.3), 8.0)
    if kind == "onset":  # clear until it is not, or the other way round
        cover = (-6.0, 0.8)
        return Sheet.draw(rng, 1.5 * t, cover if rng.uniform() < 0.6 else cover[::-1], 1.5)
    if kind == "broken":
        return Sheet.draw(rng, 5 * t, (-0.2, 0.4), 1.0)
    raise ValueError(f"no night is called {kind!r}")


@dataclass
class Weather:
    """The sheets of all nights (None where clear), and per exposure (E,): extinction [mag/airmass], seeing, sky."""

    kinds: list[str]
    sheets: list[Sheet | None]
    extinction: Array
    seeing: Array
    sky: Array
    start: Array
    length: Array


def draw_weather(
    preset: Preset, mjd: Array, night: NDArray[np.int64], bands: list[str], x: Array, rng: np.random.Generator
) -> Weather:
    """Weather of exposures at ``mjd`` (E,) with airmass ``x``; ``bands`` names each exposure's."""
    n_nights = int(night.max()) + 1
    kinds = [str(k) for k in rng.choice(list(preset.nights), n_nights, p=list(preset.nights.values()))]
    thickness = np.full(n_nights, preset.thickness)
    if preset.bad_night:
        bad = n_nights // 2
        kinds[bad], thickness[bad] = "broken", 0.12
    sheets = [_sheet(k, t, rng) for k, t in zip(kinds, thickness, strict=True)]
    start = np.array([mjd[night == n].min() for n in range(n_nights)])
    length = np.array([max(24 * np.ptp(mjd[night == n]), 1.0) for n in range(n_nights)])
    hours = 24 * (mjd - start[night])
    wavelength = np.array([WAVELENGTH[b] for b in bands])
    pressure = np.exp(-preset.telescope.altitude / 8400)
    aerosol = preset.aerosol * rng.lognormal(0, 0.4, n_nights)
    drift = rng.normal(0, 0.004, n_nights)  # per hour at 550 nm
    tau = np.maximum(aerosol[night] + drift[night] * hours, 0.005) * (wavelength / 550) ** -1.3
    extinction = 0.11 * pressure * (wavelength / 550) ** -4.05 + np.array([OZONE[b] for b in bands]) + tau
    order = np.argsort(mjd, kind="stable")
    log_seeing = np.empty(mjd.size)
    state = 0.0
    for last, e in zip(np.r_[order[0], order[:-1]], order, strict=True):  # an autoregression with a memory of an hour
        keep = np.exp(-abs(mjd[e] - mjd[last]) * 24)
        state = keep * state + np.sqrt(max(1 - keep**2, 0.02)) * rng.normal(0, preset.seeing_scatter)
        log_seeing[e] = state
    seeing = preset.seeing * np.exp(log_seeing) * x**0.6 * (wavelength / 620) ** -0.2
    moon = 0.5 * (1 - np.cos(2 * np.pi * (mjd - 59804.0) / 29.53))  # 0 new, 1 full
    dark = np.array([DARK_SKY[b] for b in bands])
    sky = dark - 2.2 * moon**2 * (wavelength / 550) ** -1.5 - 0.25 * (x - 1) + rng.normal(0, 0.08, mjd.size)
    return Weather(kinds, sheets, extinction, seeing, sky, start, length)


def cloud(weather: Weather, night: NDArray[np.int64], mjd: Array, alt: Array, az: Array, exptime: float) -> Array:
    """Cloud [mag] of lines of sight (n,), each with its night and time."""
    out = np.zeros(mjd.size)
    for n, sheet in enumerate(weather.sheets):
        here = np.flatnonzero(night == n)
        if sheet is not None and here.size:
            hours = 24 * (mjd[here] - weather.start[n])
            out[here] = sheet(alt[here], az[here], hours, weather.length[n], exptime)
    return out
