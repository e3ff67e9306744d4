"""Clouds: extinction that comes and goes in a night and has structure across the field."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calib.simulate.focalplane import FocalPlane
from calib.simulate.processes import Nights, ornstein_uhlenbeck
from calib.simulate.screens import FIELDS_PER_SCREEN, Screens
from calib.simulate.spec import SurveySpec

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_THICKEST = 1.5
_CHUNK = 256


def cloud_history(spec: SurveySpec, nights: Nights, rng: np.random.Generator) -> Floats:
    """Draw the clouds' extinction (n_exposures,), mag, exactly zero in clear hours and on clear nights.

    A slow and a fast process, cut below zero: clouds come in banks, with ripples of minutes on them. Observers stop
    at 1.5 mag.
    """
    n = len(nights.count)
    level = spec.cloud * np.exp(0.6 * rng.standard_normal(n))
    cover = rng.normal(0.5, 0.8, n)
    state = 0.9 * ornstein_uhlenbeck(rng, nights, spec.cloud_minutes) + 0.4 * ornstein_uhlenbeck(rng, nights, 6.0)
    bank = np.maximum(0, state + cover[nights.night])
    return np.asarray(np.minimum(np.where(nights.cloudy, level, 0.0)[nights.night] * bank, _THICKEST))


@dataclass(frozen=True)
class CloudView:
    """What each exposure sees of the cloud screens; the extinction at a place is base * exp(strength * screen).

    Attributes
    ----------
    screens : Screens
        Periodic screens.
    strength : float
        Rms structure in the field relative to the extinction.
    screen : int (n_exposures,)
        Which screen.
    wind : float (n_exposures,)
        Direction of the wind from the east to the north, rad.
    x, y : float (n_exposures,)
        The field's centre on the screen along and across the wind, fields.
    """

    screens: Screens
    strength: float
    screen: Ints
    wind: Floats
    x: Floats
    y: Floats

    @classmethod
    def draw(
        cls, spec: SurveySpec, nights: Nights, ra: Floats, dec: Floats, screens: Screens, rng: np.random.Generator
    ) -> CloudView:
        """Blow the screens over the fields: a wind per night, of 0.02 to 0.08 deg/s."""
        n = len(nights.count)
        wind = rng.uniform(0, 2 * np.pi, n)[nights.night]
        speed = rng.uniform(0.02, 0.08, n)[nights.night] * 3600 / spec.fov_deg
        screen = rng.integers(0, len(screens.values), n)[nights.night]
        offset = rng.uniform(0, FIELDS_PER_SCREEN, (2, n))[:, nights.night]
        east, north = ra * np.cos(np.radians(dec)) / spec.fov_deg, dec / spec.fov_deg
        x = offset[0] + east * np.cos(wind) + north * np.sin(wind) - speed * nights.hours
        y = offset[1] - east * np.sin(wind) + north * np.cos(wind)
        x, y = np.mod(x, FIELDS_PER_SCREEN), np.mod(y, FIELDS_PER_SCREEN)
        return cls(screens, spec.cloud_structure, screen, wind, x, y)

    def factor(self, exposure: Ints, east: Floats, north: Floats) -> Floats:
        """Return extinction over base for exposure (n,) at a place east and north of its centre, half fields (n,)."""
        cos, sin = np.cos(self.wind)[exposure], np.sin(self.wind)[exposure]
        along = self.x[exposure] + 0.5 * (east * cos + north * sin)
        across = self.y[exposure] + 0.5 * (north * cos - east * sin)
        return np.asarray(np.exp(self.strength * self.screens(self.screen[exposure], along, across)))

    def averages(self, base: Floats, camera: FocalPlane, angle: Floats) -> tuple[Floats, Floats, Floats, Floats]:
        """Return field average, variance and plane of the extinction (mag, mag2, mag over the half field along u, v).

        Parameters
        ----------
        base : float (n_exposures,)
            Extinction before structure, mag.
        camera : FocalPlane
            Its grid is averaged over.
        angle : float (n_exposures,)
            Rotation of the focal plane, rad.
        """
        mean, variance, plane_u, plane_v = np.zeros((4, len(base)))
        u, v = camera.grid_u, camera.grid_v
        cloudy = np.flatnonzero(base > 0)
        for start in range(0, len(cloudy), _CHUNK):
            e = cloudy[start : start + _CHUNK]
            cos, sin = np.cos(angle[e])[:, None], np.sin(angle[e])[:, None]
            east, north = (u * cos - v * sin).ravel(), (u * sin + v * cos).ravel()
            extinction = base[e, None] * self.factor(np.repeat(e, len(u)), east, north).reshape(len(e), -1)
            mean[e] = extinction.mean(axis=1)
            variance[e] = extinction.var(axis=1)
            plane_u[e] = extinction @ u / (u @ u)
            plane_v[e] = extinction @ v / (v @ v)
        return mean, variance, plane_u, plane_v
