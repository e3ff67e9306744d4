"""Stars: where they stand, how bright, what stands beside them, and how they vary."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from other_world.camera import moffat_alpha
from other_world.presets import Preset

Array = NDArray[np.float64]
Ints = NDArray[np.int64]
BAND_COLOR = {"g": 0.55, "V": 0.2, "r": 0.0, "i": -0.35}  # magnitude in a band = mag + this * colour
KINDS = ("", "rrlyrae", "eclipsing", "long_period", "spotted", "flare")
SHARE = (0.06, 0.2, 0.06, 0.5, 0.18)  # of the variable stars
PULSATION = {"g": 1.25, "V": 1.0, "r": 0.85, "i": 0.65}  # amplitude of a pulsator relative to V
FLARE_BAND = {"g": 2.0, "V": 1.2, "r": 0.8, "i": 0.4}


def unit(ra: Array, dec: Array) -> Array:
    """Unit vectors (n, 3) of positions in degrees."""
    a, d = np.radians(ra), np.radians(dec)
    return np.stack([np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d)], axis=1)


def positions(ra: Array, dec: Array, radius: float, per_cap: float, contrast: float, rng: np.random.Generator) -> Array:
    """Unit vectors of stars over the union of caps of ``radius`` [deg], ``per_cap`` in each on average.

    Points are drawn in every cap and kept with probability one over the number of caps that hold them, which is
    uniform over the union (of somewhat larger caps, where many centres nearly coincide); the density is log-normal,
    exp of a few plane waves across the survey, of rms ``contrast``, cut off at 1.5 times that.
    """
    every = unit(ra, dec)
    chord = 2 * np.sin(np.radians(0.2 * radius) / 2)
    left, chosen = np.ones(ra.size, bool), []
    while left.any():
        chosen.append(int(np.argmax(left)))
        left &= np.linalg.norm(every - every[chosen[-1]], axis=1) > chord
    centres, wide = every[chosen], 1.2 * radius
    tree, chord = cKDTree(centres), 2 * np.sin(np.radians(wide) / 2)
    draws = int(np.ceil(per_cap * 1.2**2 * np.exp(1.5 * contrast)))
    cos_r = 1 - rng.uniform(0, 1 - np.cos(np.radians(wide)), (len(centres), draws))
    sin_r, turn = np.sqrt(1 - cos_r**2), rng.uniform(0, 2 * np.pi, cos_r.shape)
    pole = np.where(np.abs(centres[:, 2:]) < 0.9, np.array([0.0, 0.0, 1.0]), np.array([1.0, 0.0, 0.0]))
    east = np.cross(pole, centres)
    east /= np.linalg.norm(east, axis=1, keepdims=True)
    north = np.cross(centres, east)
    at = (
        cos_r[..., None] * centres[:, None]
        + (sin_r * np.cos(turn))[..., None] * east[:, None]
        + (sin_r * np.sin(turn))[..., None] * north[:, None]
    ).reshape(-1, 3)
    at = at[rng.uniform(size=len(at)) < 1 / np.maximum(tree.query_ball_point(at, chord, return_length=True), 1)]
    extent = 2 * max(float(np.linalg.norm(centres - centres.mean(axis=0), axis=1).max()), np.radians(radius))
    waves = rng.normal(0, 2 * np.pi / extent, (5, 3))
    log_density = contrast * np.sqrt(2 / 5) * np.cos(at @ waves.T + rng.uniform(0, 2 * np.pi, 5)).sum(axis=1)
    return at[rng.uniform(size=len(at)) < np.exp(log_density - 1.5 * contrast)]


@dataclass
class Stars:
    """Stars (S,): position, magnitude at colour zero, colour, and what varies or stands beside them.

    ``close_ratio``, ``close_distance``: flux ratio and distance [arcsec] of a neighbour within about two seeing discs;
    ``bright_ratio``, ``bright_distance`` of a brighter one farther off, whose wings are in the star's sky annulus, and
    ``wing`` what is left of them after sky subtraction (negative: too much sky was taken off).
    """

    at: Array
    mag: Array
    color: Array
    kind: Ints
    amplitude: Array
    period: Array
    phase: Array
    depth: Array
    close_ratio: Array
    close_distance: Array
    bright_ratio: Array
    bright_distance: Array
    wing: Array


def draw_stars(
    preset: Preset, ra: Array, dec: Array, radius: float, per_cap: float, limits: tuple[float, float],
    rng: np.random.Generator,
) -> Stars:  # fmt: skip
    """Stars between ``limits`` [mag], counts rising as 10^(slope m), ``per_cap`` within ``radius`` of a pointing."""
    at = positions(ra, dec, radius, per_cap, preset.density_contrast, rng)
    size = len(at)
    slope = preset.slope * np.log(10)
    bright, faint = limits
    mag = np.log(rng.uniform(np.exp(slope * bright), np.exp(slope * faint), size)) / slope
    late = rng.uniform(size=size) < 0.35
    color = np.where(late, rng.normal(1.35, 0.12, size), rng.gamma(9.0, 0.06, size) + 0.05)
    kind = np.where(rng.uniform(size=size) < preset.variables, rng.choice(np.arange(1, 6), size, p=SHARE), 0)
    u = rng.uniform(size=size)
    amplitude = np.select(
        [kind == k for k in range(1, 6)],
        [0.3 + 0.8 * u, 0.05 + 0.6 * u**2, 0.2 * 12**u, 0.004 * 15**u, 0.1 * 20**u], 0.0,
    )  # fmt: skip
    period = np.select(
        [kind == k for k in range(1, 6)], [0.35 + 0.4 * u, 0.3 * 20**u, 80 * 5**u, 0.8 * 30**u, 0.006 * 8**u], 1.0
    )
    beam = 2.0 * max(preset.seeing, preset.telescope.instrument_fwhm)
    close = rng.uniform(size=size) < 1 - np.exp(-preset.crowding * rng.gamma(4.0, 0.25, size))
    dm = np.log(rng.uniform(np.exp(-0.5 * slope), np.exp(3.5 * slope), size)) / slope
    loud = rng.uniform(size=size) < 1 - np.exp(-1.5 * preset.crowding)
    brighter = np.log(rng.uniform(np.exp(-5.0 * slope), np.exp(-0.5 * slope), size)) / slope
    return Stars(
        at=at, mag=mag, color=color, kind=kind, amplitude=amplitude, period=period,
        phase=rng.uniform(size=size), depth=rng.uniform(0.1, 0.9, size),
        close_ratio=np.where(close, 10 ** (-0.4 * dm), 0.0), close_distance=beam * np.sqrt(rng.uniform(size=size)),
        bright_ratio=np.where(loud, 10 ** (-0.4 * brighter), 0.0),
        bright_distance=beam * np.sqrt(rng.uniform(2.0, 20.0, size)), wing=rng.normal(-0.5, 0.5, size),
    )  # fmt: skip


def light_curve(stars: Stars, s: Ints, mjd: Array, band: NDArray[np.str_], rng: np.random.Generator) -> Array:
    """Departure from the star's magnitude (n,), mag, of stars ``s`` at times ``mjd``.

    RR Lyrae rise in 15 per cent of the period; eclipses are flat-bottomed dips, two in a period, from a constant level;
    long-period stars have a harmonic and cycles of unequal height; spots drift through a slow beat; flares rise at once
    and decay exponentially, many a night, most of them small.
    """
    out = np.zeros(s.size)
    kind = stars.kind[s]
    for k, name in enumerate(KINDS):
        i = np.flatnonzero(kind == k)
        if not name or not i.size:
            continue
        j, t = s[i], mjd[i]
        a, p = stars.amplitude[j], stars.period[j]
        cycles = t / p + stars.phase[j]
        phi = cycles % 1
        if name == "rrlyrae":
            ramp = np.where(phi < 0.15, 0.5 - phi / 0.15, -0.5 + (phi - 0.15) / 0.85)
            out[i] = a * ramp * np.vectorize(PULSATION.__getitem__)(band[i])
        elif name == "eclipsing":
            width = 0.02 + 0.06 * stars.depth[j]
            first, second = np.minimum(phi, 1 - phi), np.abs(phi - 0.5)
            out[i] = a * np.exp(-((first / width) ** 4)) + a * stars.depth[j] * np.exp(-((second / width) ** 4))
        elif name == "long_period":
            unequal = 1 + 0.4 * np.sin(2 * np.pi * cycles / 7.3)
            out[i] = 0.5 * a * unequal * (np.cos(2 * np.pi * phi) + 0.3 * np.cos(4 * np.pi * phi + 1.0))
        elif name == "spotted":
            beat = 1 + 0.5 * np.sin(2 * np.pi * cycles / 11.7)
            out[i] = a * beat * (np.sin(2 * np.pi * phi) + stars.depth[j] * np.sin(4 * np.pi * phi))
        else:
            nights = np.unique(np.floor(mjd))
            for star in np.unique(j):
                mine = i[j == star]
                begins = rng.choice(nights, 4 * nights.size) + rng.uniform(size=4 * nights.size)
                size = stars.amplitude[star] * rng.pareto(2.0, begins.size)
                since = mjd[mine][:, None] - begins
                light = size * np.exp(-np.clip(since, 0, None) / stars.period[star]) * (since >= 0)
                out[mine] = -2.5 * np.log10(1 + light.sum(axis=1) * np.vectorize(FLARE_BAND.__getitem__)(band[mine]))
    return out


def blending(stars: Stars, s: Ints, fwhm: Array, area: Array, beta: float) -> Array:
    """What neighbours do to a star's magnitude (n,), mag: a merged neighbour makes it brighter, a wing either.

    A neighbour nearer than 0.7 FWHM is measured with the star, beyond it is told apart, with a soft step; a bright one
    leaves ``wing`` times its Moffat wing over the measuring ``area`` [arcsec2].
    """
    merged = stars.close_ratio[s] / (1 + np.exp((stars.close_distance[s] - 0.7 * fwhm) / (0.12 * fwhm)))
    alpha = moffat_alpha(fwhm, beta)
    profile = (beta - 1) / (np.pi * alpha**2) * (1 + (stars.bright_distance[s] / alpha) ** 2) ** -beta
    wings = stars.wing[s] * stars.bright_ratio[s] * profile * area
    return np.asarray(-2.5 * np.log10(np.maximum(1 + merged + wings, 0.2)))
