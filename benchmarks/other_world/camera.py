"""The camera: projection, response across the field and between amplifiers, the stellar image, and noise.

Moffat images and their noise-equivalent area pi alpha^2 (2 beta - 1) / (beta - 1)^2 (King 1983); scintillation after
Young 1967 with the site's coefficient of Osborn et al. 2015 (1.5 on average); photon noise as in the CCD equation
(Howell 2006); noise of a resampled image understated by R = r / (1 - 1 / (3 r)), r = pixfrac / scale >= 1, or
1 / (1 - r / 3) below (Fruchter & Hook 2002); the image of a bright star spreads (brighter-fatter, Antilogus et al.
2014).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from other_world.presets import Preset, Telescope

Array = NDArray[np.float64]
Ints = NDArray[np.int64]


def tangent(ra: Array, dec: Array, ra0: Array, dec0: Array) -> tuple[Array, Array]:
    """Gnomonic coordinates of positions about pointings, all in degrees."""
    d, d0, h = np.radians(dec), np.radians(dec0), np.radians(ra - ra0)
    cos_c = np.sin(d0) * np.sin(d) + np.cos(d0) * np.cos(d) * np.cos(h)
    xi = np.cos(d) * np.sin(h) / cos_c
    eta = (np.cos(d0) * np.sin(d) - np.sin(d0) * np.cos(d) * np.cos(h)) / cos_c
    return np.degrees(xi), np.degrees(eta)


def from_tangent(xi: Array, eta: Array, ra0: Array, dec0: Array) -> tuple[Array, Array]:
    """Positions [deg] at gnomonic coordinates [deg] about pointings."""
    x, y, d0 = np.radians(xi), np.radians(eta), np.radians(dec0)
    across = np.cos(d0) - y * np.sin(d0)
    ra = ra0 + np.degrees(np.arctan2(x, across))
    return ra % 360, np.degrees(np.arctan2(np.sin(d0) + y * np.cos(d0), np.hypot(x, across)))


def rotate(u: Array, v: Array, degrees: Array) -> tuple[Array, Array]:
    """Turn coordinates by an angle."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return c * u - s * v, s * u + c * v


def on_detector(telescope: Telescope, u: Array, v: Array) -> tuple[Ints, Array, Array, NDArray[np.bool_]]:
    """Detector, pixel x and y on it, and whether the place [deg in the focal plane] is on silicon."""
    w, h = telescope.half_width
    px, py = (u + w) * 3600 / telescope.pixel, (v + h) * 3600 / telescope.pixel
    column, row = px // (telescope.nx + telescope.gap), py // (telescope.ny + telescope.gap)
    x, y = px - column * (telescope.nx + telescope.gap), py - row * (telescope.ny + telescope.gap)
    inside = (px >= 0) & (py >= 0) & (column < telescope.columns) & (row < telescope.rows)
    inside &= (x < telescope.nx) & (y < telescope.ny)
    return (row * telescope.columns + column).astype(np.int64), x, y, inside


def area_grid(telescope: Telescope, n: int) -> tuple[Array, Array, Ints, Array]:
    """Midpoints of ``n`` x ``n`` equal cells of every detector: u, v [deg], detector, x [pixel]."""
    cell = (np.arange(n) + 0.5) / n
    w, h = telescope.half_width
    d, j, i = np.meshgrid(np.arange(telescope.rows * telescope.columns), cell, cell, indexing="ij")
    x, y = i.ravel() * telescope.nx, j.ravel() * telescope.ny
    row, column = np.divmod(d.ravel(), telescope.columns)
    u = (column * (telescope.nx + telescope.gap) + x) * telescope.pixel / 3600 - w
    v = (row * (telescope.ny + telescope.gap) + y) * telescope.pixel / 3600 - h
    return u, v, d.ravel().astype(np.int64), x


def moffat_alpha(fwhm: Array, beta: float) -> Array:
    """Scale radius of a Moffat profile of this full width."""
    return np.asarray(fwhm / (2 * np.sqrt(2 ** (1 / beta) - 1)))


def loss(telescope: Telescope, fwhm: Array, model_fwhm: Array) -> Array:
    """Light outside the aperture, mag; a PSF fit loses a tenth of what is outside two widths of its model.

    The fit's model is made from stars of the same image, so that what is left is its lag behind the true image.
    """
    radius = telescope.aperture or 2.0 * model_fwhm
    outside = (1 + (radius / moffat_alpha(fwhm, telescope.beta)) ** 2) ** (1 - telescope.beta)
    return np.asarray(-2.5 * np.log10(1 - outside) * (1.0 if telescope.aperture else 0.1))


def measuring_area(telescope: Telescope, fwhm: Array) -> Array:
    """Area over which sky is measured with the star, arcsec2: the aperture, or the fit's noise-equivalent area."""
    if telescope.aperture:
        return np.full(fwhm.shape, np.pi * telescope.aperture**2)
    beta = telescope.beta
    return np.asarray(np.pi * moffat_alpha(fwhm, beta) ** 2 * (2 * beta - 1) / (beta - 1) ** 2)


def instrument_zeropoint(telescope: Telescope, band: str) -> float:
    """Magnitude of a star that gives one electron a second, above the air."""
    return 24.1 + 5 * np.log10(telescope.diameter) + {"g": 0.15, "V": 0.0, "r": 0.0, "i": -0.35}[band]


def scintillation(telescope: Telescope, x: Array, exptime: Array) -> Array:
    """Relative rms of scintillation."""
    size = (100 * telescope.diameter) ** (-2 / 3)
    return np.asarray(1.5 * 0.09 * size * x**1.75 * np.exp(-telescope.altitude / 8000) / np.sqrt(2 * exptime))


def resampling_factor(r: float) -> float:
    """How many times the noise of a resampled image exceeds what its pixels' rms says."""
    return 1.0 if r == 0 else r / (1 - 1 / (3 * r)) if r >= 1 else 1 / (1 - r / 3)


def peak_fraction(telescope: Telescope, electrons: Array, sky: Array, fwhm: Array) -> Array:
    """Brightest pixel over full well."""
    alpha = moffat_alpha(fwhm, telescope.beta)
    peak = electrons * (telescope.beta - 1) / (np.pi * alpha**2) * telescope.pixel**2
    return np.asarray((peak + sky) / telescope.full_well)


def nonlinearity(preset: Preset, fraction: Array) -> Array:
    """Light lost by bright stars, mag: in proportion to the peak, and steeply from 85 per cent of full well."""
    return np.asarray(preset.nonlinearity * fraction + 0.05 * (np.clip(fraction - 0.85, 0, None) / 0.15) ** 2)


@dataclass
class Response:
    """The camera's error of flat field, mag, by run (and band): new flats for every observing run.

    Radial terms about a centre off the axis (vignetting and scattered light left in the flat), a gradient, steps
    between amplifiers, offsets and colour terms of detectors; and a smaller gradient of every night.
    """

    radial: Array  # (runs, bands, 2)
    centre: Array  # (runs, bands, 2)
    gradient: Array  # (runs, bands, 2)
    night: Array  # (nights, 2)
    steps: Array  # (runs, detectors, amplifiers)
    offset: Array  # (runs, bands, detectors)
    color: Array  # (detectors,)

    @classmethod
    def draw(cls, preset: Preset, runs: int, nights: int, rng: np.random.Generator) -> Response:
        """A camera; each run keeps part of the pattern of the camera and adds its own."""
        telescope, bands = preset.telescope, len(preset.bands)
        detectors, size = telescope.rows * telescope.columns, preset.illumination

        def kept(shape: tuple[int, ...], scale: float) -> Array:
            return rng.normal(0, 0.8 * scale, (1, *shape[1:])) + rng.normal(0, 0.6 * scale, shape)

        return cls(
            radial=kept((runs, bands, 2), size), centre=rng.normal(0, 0.15, (runs, bands, 2)),
            gradient=kept((runs, bands, 2), 0.4 * size), night=rng.normal(0, 0.15 * size, (nights, 2)),
            steps=kept((runs, detectors, telescope.amplifiers), preset.steps),
            offset=kept((runs, bands, detectors), preset.detector_offset),
            color=rng.normal(0, 0.4 * preset.detector_offset, detectors),
        )  # fmt: skip

    def __call__(
        self, telescope: Telescope, run: Ints, band: Ints, night: Ints, u: Array, v: Array, detector: Ints, x: Array
    ) -> Array:
        """Error of response at places (n,) in the focal plane [deg], mag."""
        w, h = telescope.half_width
        p, q = u / max(w, h), v / max(w, h)
        c, g = self.centre[run, band], self.gradient[run, band]
        rho2 = (p - c[:, 0]) ** 2 + (q - c[:, 1]) ** 2
        radial = self.radial[run, band]
        amplifier = np.minimum((x * telescope.amplifiers / telescope.nx).astype(np.int64), telescope.amplifiers - 1)
        tilt = g + self.night[night]
        smooth = radial[:, 0] * rho2 + 0.5 * radial[:, 1] * rho2**2 + tilt[:, 0] * p + tilt[:, 1] * q
        return np.asarray(smooth + self.steps[run, detector, amplifier] + self.offset[run, band, detector])
