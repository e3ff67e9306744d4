"""Where and when a survey points: fields are scheduled by altitude, as an observer would, not drawn at random."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from other_world.presets import Preset, Telescope

Array = NDArray[np.float64]
FIRST_NIGHT = 59800


@dataclass
class Pointings:
    """One entry per exposure (E,): degrees, MJD (UTC), rotation of the field [deg], indices of night, run and band."""

    ra: Array
    dec: Array
    rotation: Array
    mjd: Array
    night: NDArray[np.int64]
    run: NDArray[np.int64]
    band: NDArray[np.int64]


def sidereal(mjd: Array | float, longitude: float) -> Array:
    """Local mean sidereal time, deg (Meeus 1998, equation 12.4, to its linear term)."""
    return np.asarray((280.46061837 + 360.98564736629 * (np.asarray(mjd) - 51544.5) + longitude) % 360)


def altitude_azimuth(ra: Array, dec: Array, lst: Array, latitude: float) -> tuple[Array, Array]:
    """Altitude and azimuth (from north through east), radians."""
    h, d, phi = np.radians(lst - ra), np.radians(dec), np.radians(latitude)
    sin_alt = np.sin(phi) * np.sin(d) + np.cos(phi) * np.cos(d) * np.cos(h)
    az = np.arctan2(-np.cos(d) * np.sin(h), np.sin(d) * np.cos(phi) - np.cos(d) * np.cos(h) * np.sin(phi))
    return np.arcsin(np.clip(sin_alt, -1, 1)), az


def _dusk(night: float, longitude: float) -> float:
    return FIRST_NIGHT + night - longitude / 360 - 0.17


def _overhead(telescope: Telescope, night: float, hours: float = 0.0) -> float:
    """Right ascension on the meridian ``hours`` after midnight."""
    return float(sidereal(_dusk(night, telescope.longitude) + 0.17 + hours / 24, telescope.longitude))


def _start(telescope: Telescope, ra: Array, dec: Array, night: float, block: float, rng: np.random.Generator) -> float:
    """When the night's work, ``block`` days of it, begins: at an hour with the fields well up, else at the best."""
    begin = _dusk(night, telescope.longitude) + np.linspace(0, max(0.34 - block, 0.0), 16)
    lst = sidereal(begin + 0.5 * block, telescope.longitude)
    up = altitude_azimuth(ra, dec, lst[:, None], telescope.latitude)[0].clip(0).mean(axis=1)
    return float(rng.choice(begin[up > min(0.8 * up.max(), 0.9)]))


def _schedule(
    preset: Preset, ra: Array, dec: Array, nights: Array, rng: np.random.Generator, dither: float, angles: Array
) -> Pointings:
    """At every slot of every night the field that is highest, least visited and not just visited; all bands in turn."""
    telescope, n_bands = preset.telescope, len(preset.bands)
    visits_total = preset.exposures // n_bands
    slots = np.diff(np.linspace(0, visits_total, nights.size + 1).round().astype(int))
    step = min(0.34 / slots.max(), n_bands * (preset.exptime + 240) / 86400)
    visits = np.zeros(ra.size)
    rows = []
    for index, night in enumerate(nights):
        tonight = np.zeros(ra.size)
        start = _start(telescope, ra, dec, night, step * slots[index], rng)
        for slot in range(slots[index]):
            mjd = start + slot * step
            lst = np.full(ra.size, sidereal(mjd, telescope.longitude))
            altitude, _ = altitude_azimuth(ra, dec, lst, telescope.latitude)
            score = altitude - 0.25 * visits - 0.35 * tonight + rng.normal(0, 0.1, ra.size) - 9 * (altitude < 0.5)
            k = int(np.argmax(score))
            if altitude[k] < 0.35:
                continue
            visits[k] += 1
            tonight[k] += 1
            du, dv = rng.uniform(-dither, dither, 2)
            angle = rng.choice(angles)
            for b in range(n_bands):
                place = ra[k] + du / np.cos(np.radians(dec[k])), dec[k] + dv
                rows.append((*place, angle, mjd + b * step / n_bands, index, b))
    r, d, a, t, n, b = (np.array(c) for c in zip(*rows, strict=True))
    run = np.cumsum(np.diff(nights, prepend=nights[0]) > 4)
    return Pointings(r % 360, d, a, t, n.astype(np.int64), run[n].astype(np.int64), b.astype(np.int64))


def _box(telescope: Telescope, n_ra: int, n_dec: int, ra: float, dec: float, step: float) -> tuple[Array, Array]:
    """A grid of fields, ``step`` field widths apart."""
    w, h = telescope.half_width
    j, i = np.divmod(np.arange(n_ra * n_dec), n_ra)
    d = dec + (j - (n_dec - 1) / 2) * 2 * h * step
    return ra + (i - (n_ra - 1) / 2) * 2 * w * step / np.cos(np.radians(d)), d


def _nights(preset: Preset, rng: np.random.Generator, gap: int = 20) -> Array:
    """Nights in runs of three or four, ``gap`` nights apart."""
    k = np.arange(preset.n_nights)
    return (k + gap * (k // 4) + rng.integers(0, 2, k.size).cumsum()).astype(float)


def pointings(preset: Preset, rng: np.random.Generator) -> Pointings:
    """The survey's exposures in order of time."""
    telescope, layout = preset.telescope, preset.layout
    w, h = telescope.half_width
    upright = np.zeros(1)
    if layout == "ring":
        n = 40
        dec = telescope.latitude - 12.0
        # 40 fields of 0.68 deg close a loop of 9 deg about a point, wound as a ring on the sky
        angle = 2 * np.pi * np.arange(n) / n
        radius = n * 2 * w * 0.86 / (2 * np.pi)
        ra0 = _overhead(telescope, 45.0)
        d = dec + radius * np.cos(angle)
        ra = ra0 + radius * np.sin(angle) / np.cos(np.radians(d))
        season = np.repeat(np.array([0.0, 30.0, 60.0, 90.0]), preset.n_nights // 4)
        nights = season + np.tile(np.arange(preset.n_nights // 4), 4)
        return _schedule(preset, ra, d, nights, rng, 0.03, np.array([0.0, 180.0]))
    if layout == "allsky":
        k = np.arange(220)
        sin_dec = 1 - (2 * k + 1) / 220
        ra, dec = (k * 137.50776405) % 360, np.degrees(np.arcsin(sin_dec))
        seen = dec > telescope.latitude - 50
        nights = np.arange(preset.n_nights) * 45.0
        return _schedule(preset, ra[seen], dec[seen], nights, rng, 0.5, upright)
    if layout == "stare":
        n = preset.exposures
        t = _dusk(0.0, telescope.longitude) + np.linspace(0.0, 0.33, n)
        drift = np.cumsum(rng.normal(0, 0.15, (2, n)), axis=1) + np.array([[2.0], [-3.0]]) * np.linspace(0, 1, n)
        flip = np.where(np.arange(n) < 0.55 * n, 0.0, 180.0)  # the mount turns over as the field crosses the meridian
        offset = drift * telescope.pixel / 3600
        ra = _overhead(telescope, 0.0, 1.0) + offset[0]
        zero = np.zeros(n, np.int64)
        return Pointings(ra % 360, telescope.latitude - 18.0 + offset[1], flip, t, zero, zero, zero)
    if layout == "islands":
        nights = _nights(preset, rng)
        ra0 = _overhead(telescope, round(nights.mean()))
        centre = rng.uniform(-4.0, 4.0, (5, 2))
        ra, dec = [], []
        for i, (u, v) in enumerate(centre):
            for du, dv in rng.uniform(-0.45 * w, 0.45 * w, (6, 2)):
                ra.append(u + du), dec.append(v + dv)
            if i:  # a chain of single pointings to the island before, just touching
                last = centre[i - 1]
                steps = int(np.ceil(np.hypot(*(centre[i] - last)) / (1.5 * w)))
                for f in (np.arange(1, steps) / steps)[: 24 if i < 4 else None]:
                    ra.append(last[0] + f * (u - last[0])), dec.append(last[1] + f * (v - last[1]))
        d = telescope.latitude + np.array(dec)
        return _schedule(preset, ra0 + np.array(ra) / np.cos(np.radians(d)), d, nights, rng, 0.02, upright)
    if layout == "stripes":
        per = preset.exposures // preset.n_nights
        rows = []
        start = _overhead(telescope, 0.0, -2.5)
        for night in range(preset.n_nights):
            i = np.arange(per)
            # each stripe is half a field from the last and begins elsewhere; a third overlap along the drift
            ra = start + 2 * w * (0.66 * i + rng.uniform(0, 8))
            dec = np.full(per, -14.0 + (night % 4) * 1.1 * h) + 0.01 * np.sin(i / 9)
            t = _dusk(float(night), telescope.longitude) + 0.06 + 0.66 * 2 * w * i / 360 + i * 30 / 86400
            rows.append(np.stack([ra, dec, t, np.full(per, night)]))
        r, d, t, n = np.concatenate(rows, axis=1)
        zero = np.zeros(r.size, np.int64)
        return Pointings(r % 360, d, zero.astype(float), t, n.astype(np.int64), (n // 3).astype(np.int64), zero)
    shapes = {"dither": (3, 2, 0.8), "patch": (1, 1, 1.0), "grid": (6, 5, 0.85)}
    if layout not in shapes:
        raise ValueError(f"no layout is called {layout!r}")
    nights = _nights(preset, rng)
    n_ra, n_dec, spacing = shapes[layout]
    overhead = _overhead(telescope, round(nights.mean()))
    ra, dec = _box(telescope, n_ra, n_dec, overhead, telescope.latitude - 8.0, spacing)
    dither = {"dither": 0.5 * w, "patch": 0.25 * h, "grid": 0.04}[layout]
    angles = np.array([0.0, 90.0, 180.0, 270.0]) if layout == "dither" else upright
    return _schedule(preset, ra, dec, nights, rng, dither, angles)
