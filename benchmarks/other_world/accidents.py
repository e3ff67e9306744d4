"""What goes wrong: trails, ghosts, cosmic rays, failed fits, mistaken matches, bad exposures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from other_world.presets import Preset

Array = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass
class BadExposures:
    """Per exposure (E,): widening of the image, scatter in flux, and a gradient (E, 2) [mag over the half field]."""

    widening: Array
    scatter: Array
    gradient: Array


def bad_exposures(preset: Preset, night: Ints, rng: np.random.Generator) -> BadExposures:
    """Trailed (the mount slipped), out of focus, or with light leaking across; most exposures are none of these."""
    n = night.size
    chance = np.full(n, preset.bad_exposures)
    if preset.bad_night:
        chance[night == (night.max() + 1) // 2] = 0.4
    kind = np.where(rng.uniform(size=n) < chance, rng.integers(1, 4, n), 0)
    widening = np.where(kind == 1, rng.uniform(1.3, 1.8, n), np.where(kind == 2, rng.uniform(1.5, 2.5, n), 1.0))
    scatter = np.where(kind == 1, rng.uniform(0.01, 0.05, n), np.where(kind == 2, 0.008, 0.0))
    gradient = np.where(kind[:, None] == 3, rng.normal(0, 0.04, (n, 2)), 0.0)
    return BadExposures(widening, scatter, gradient)


def added_light(
    preset: Preset, e: Ints, p: Array, q: Array, area: Array, sky: Array, exptime: Array, rng: np.random.Generator
) -> Array:
    """Electrons (n,) that are not the star's: trails, ghosts and cosmic rays, at places ``p, q`` in half fields.

    A trail is a line across one exposure, brighter within it and oversubtracted beside it; a ghost is a disc, out of
    focus, whose edges are undersubtracted and whose inside is over; both take every star in their way.
    ``sky`` is in electrons per arcsec2.
    """
    out = np.zeros(e.size)
    bounds = np.searchsorted(e, np.arange(int(e.max()) + 2))
    for first, last in zip(bounds[:-1], bounds[1:], strict=True):
        s = slice(first, last)
        if first == last:
            continue
        for _ in range(rng.poisson(preset.trails)):
            angle, middle = rng.uniform(0, np.pi), rng.uniform(-0.7, 0.7)
            distance = np.abs(p[s] * np.cos(angle) + q[s] * np.sin(angle) - middle) / rng.uniform(0.006, 0.02)
            shape = np.where(distance < 1, 1.0, np.where(distance < 2.5, -0.35, 0.0))
            out[s] += shape * rng.lognormal(-0.7, 1.0) * sky[s] * area[s]
        for _ in range(rng.poisson(preset.ghosts)):
            centre = rng.uniform(-0.9, 0.9, 2)
            distance = np.hypot(p[s] - centre[0], q[s] - centre[1]) / rng.uniform(0.06, 0.2)
            shape = np.where(distance < 0.85, -0.25, np.where(distance < 1.1, 0.5, 0.0))
            out[s] += shape * rng.lognormal(-1.0, 0.8) * sky[s] * area[s]
    rays = rng.uniform(size=e.size) < 2e-6 * exptime * area / preset.telescope.pixel**2
    return out + rays * rng.exponential(2500.0, e.size)


def failed_fits(preset: Preset, n: int, rng: np.random.Generator) -> Array:
    """Offsets (n,), mag, mostly zero: a gamma law of shape 0.8, more often fainter than brighter."""
    hit = rng.uniform(size=n) < preset.failures
    sign = np.where(rng.uniform(size=n) < preset.fainter, 1.0, -1.0)
    return np.asarray(hit * sign * rng.gamma(0.8, preset.failure_scale, n))


def mistaken_matches(preset: Preset, e: Ints, u: Array, v: Array, rng: np.random.Generator) -> Ints:
    """For each measurement (n,), sorted by exposure, the index of the measurement whose light it was given.

    In some exposures the astrometry is off, and the closest tenth of mutual nearest neighbours swap places.
    """
    given = np.arange(e.size)
    for exposure in np.unique(e)[rng.uniform(size=np.unique(e).size) < preset.swaps]:
        s = np.flatnonzero(e == exposure)
        if s.size < 20:
            continue
        place = np.stack([u[s], v[s]], axis=1)
        distance, nearest = cKDTree(place).query(place, k=2)
        nearest, distance = nearest[:, 1], distance[:, 1]
        mutual = (nearest[nearest] == np.arange(s.size)) & (distance < np.quantile(distance, 0.1))
        given[s[mutual]] = s[nearest[mutual]]
    return given
