"""The state of every exposure: when it was taken, through what air, and how badly."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calib.simulate.clouds import CloudView, cloud_history
from calib.simulate.focalplane import EDGE, N_MAPS, N_NIGHT_MAPS, STATIC, FocalPlane
from calib.simulate.layouts import LATITUDE_DEG, Pointings
from calib.simulate.processes import Nights, ornstein_uhlenbeck
from calib.simulate.spec import SurveySpec, passband

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

EXPTIME_S = 60.0
_READ_NOISE_E = 6.0
_PIXEL_ARCSEC = 0.5
_HIGHEST_AIRMASS = 2.3


@dataclass(frozen=True)
class Conditions:
    """Everything about the exposures, arrays of (n_exposures,) unless said, in the order they are taken.

    Attributes
    ----------
    exposure_id, night : int
        Identifiers.
    mjd, airmass, seeing, sky, exptime
        MJD (UTC, mid-exposure), airmass at the centre, FWHM (arcsec), mag/arcsec2, s.
    angle
        Rotation of the focal plane on the sky, rad.
    gradient_east, gradient_north
        Change of airmass per half field.
    extinction
        The night's extinction coefficient in the exposure's band, mag per airmass.
    zeropoint
        Field average; calibrated magnitude = mag + zeropoint + terms.
    cloud
        Field average of the clouds' extinction, mag; never negative.
    cloud_base
        Extinction before its structure: that at a place is cloud_base * exp(structure).
    view : CloudView
        Which part of which screen the exposure looks through.
    map_strength : float (n_exposures, N_MAPS)
        Factor of each of the focal plane's maps but the colour's.
    structure_rms
        Rms over the field of clouds, flat field, edge loss and the gradient of extinction, mag.
    surface_x, surface_y
        Plane of the terms to be added to mag, mag over the half field, along u and v of the focal plane.
    error_scale, floor, excess_noise
        True over reported photon error; noise floor and excess noise, mag.
    background
        Variance of sky and read-out under a star, electrons2.
    keep : int
        Stars that a poor exposure keeps, -1 for all.
    trail : float (n_exposures, 4)
        Satellite trail: direction (rad), distance from the centre and half width (half fields; 0 for none), depth.
    """

    exposure_id: Ints
    night: Ints
    mjd: Floats
    airmass: Floats
    seeing: Floats
    sky: Floats
    exptime: Floats
    angle: Floats
    gradient_east: Floats
    gradient_north: Floats
    extinction: Floats
    zeropoint: Floats
    cloud: Floats
    cloud_base: Floats
    view: CloudView
    map_strength: Floats
    structure_rms: Floats
    surface_x: Floats
    surface_y: Floats
    error_scale: Floats
    floor: Floats
    excess_noise: Floats
    background: Floats
    keep: Ints
    trail: Floats


def draw_conditions(
    spec: SurveySpec,
    pointings: Pointings,
    camera: FocalPlane,
    view_of: CloudView,
    nights: Nights,
    rng: np.random.Generator,
) -> Conditions:
    """Draw the conditions of all exposures, their zero-points and planes with them.

    zeropoint = zero level of the night - k (X - 1) - cloud - aperture loss - mean edge loss + jitter, with k the
    night's extinction coefficient and X the airmass.
    """
    n = spec.n_exposures
    bands = [passband(b) for b in spec.bands]
    night, hours = nights.night, nights.hours
    x, east, north = _airmass(pointings, hours, nights.transit_hour[night])
    half = np.radians(spec.fov_deg / 2)
    turned = rng.uniform(0, 2 * np.pi, n)
    angle = {"fixed": np.zeros(n), "flip": np.where(east > 0, np.pi, 0.0), "random": turned}[spec.rotator]

    ln_seeing = nights.ln_seeing[night] + 0.6 * spec.seeing_scatter * ornstein_uhlenbeck(rng, nights, 50.0)
    ln_seeing += 0.25 * spec.seeing_scatter * rng.standard_normal(n)
    seeing = spec.seeing * np.exp(ln_seeing) * x**0.6 / 1.2**0.6
    exptime = EXPTIME_S * np.where(rng.random(n) < 0.1, 0.5, 1.0)

    extinction = np.array([b.extinction for b in bands])[pointings.band] * nights.extinction_factor[night]
    base = cloud_history(spec, nights, rng)
    cloud, variance, cloud_u, cloud_v = view_of.averages(base, camera, angle)

    ratio = seeing / spec.seeing
    strength = np.zeros((n, N_MAPS))
    strength[:, STATIC] = 1.0
    strength[:, EDGE] = spec.edge * ratio**1.5 * np.exp(0.3 * rng.standard_normal(n))
    strength[:, -N_NIGHT_MAPS:] = nights.flat[night]

    zeropoint = np.array([b.zeropoint for b in bands])[pointings.band] + nights.zero[night]
    zeropoint += nights.slope[night] * (hours - 4) / 4
    zeropoint += spec.zero_jitter * rng.standard_normal(n)
    zeropoint -= (
        extinction * (x - 1) + cloud + spec.aperture_loss * np.log(ratio) + camera.edge_mean * strength[:, EDGE]
    )

    # planes: a grid even in u and v makes the coefficients plain projections
    u, v = camera.grid_u, camera.grid_v
    plane_u = strength @ (u @ camera.grid_maps / (u @ u)) + cloud_u
    plane_v = strength @ (v @ camera.grid_maps / (v @ v)) + cloud_v
    gx, gy = extinction * east * half, extinction * north * half
    plane_u += gx * np.cos(angle) + gy * np.sin(angle)
    plane_v += -gx * np.sin(angle) + gy * np.cos(angle)

    variance += (gx**2 + gy**2) / 3 + ((strength @ np.cov(camera.grid_maps.T)) * strength).sum(axis=1)

    sky = np.array([b.sky for b in bands])[pointings.band] - _moonlight(spec, nights) - 0.3 * (x - 1)
    sky += 0.08 * rng.standard_normal(n)
    sky_rate = 10 ** (0.4 * (np.array([b.zeropoint for b in bands])[pointings.band] - sky))
    area = 2.266 * seeing**2
    background = area * (sky_rate * exptime + _READ_NOISE_E**2 / _PIXEL_ARCSEC**2)

    excess = spec.excess_noise * np.exp(0.6 * rng.standard_normal(n))
    bad = rng.random(n) < spec.bad_exposures
    excess = np.where(bad, np.hypot(excess, spec.bad_noise * np.exp(0.5 * rng.standard_normal(n))), excess)
    low, high = np.log(spec.error_scale)
    error_scale = np.exp(rng.uniform(low, high) + spec.error_scale_scatter * rng.standard_normal(n))
    trail = np.stack(
        [rng.uniform(0, np.pi, n), rng.uniform(-1, 1, n), rng.uniform(0.004, 0.02, n), rng.uniform(0.03, 0.6, n)],
        axis=1,
    )
    trail[:, 2] *= rng.random(n) < spec.trail_fraction
    keep = np.where(rng.random(n) < spec.poor_exposures, rng.integers(4, 16, n), -1)
    return Conditions(
        exposure_id=100_000 + np.cumsum(rng.integers(1, 4, n)), night=nights.number[night], mjd=nights.mjd,
        airmass=x, seeing=seeing, sky=sky, exptime=exptime, angle=angle,
        gradient_east=east * half, gradient_north=north * half, extinction=extinction, zeropoint=zeropoint,
        cloud=cloud, cloud_base=base, view=view_of, map_strength=strength,
        structure_rms=np.sqrt(variance), surface_x=-plane_u, surface_y=-plane_v, error_scale=error_scale,
        floor=spec.floor * x**0.875 / 1.2**0.875, excess_noise=excess, background=background, keep=keep, trail=trail,
    )  # fmt: skip


def _airmass(pointings: Pointings, hours: Floats, transit: Floats) -> tuple[Floats, Floats, Floats]:
    """Return airmass sec z and its change per radian to the east and north.

    The survey's first field transits at ``transit`` hours into the night; hour angles stay within 80 degrees.
    With z the zenith distance, dX = -sec(z)^2 [cos(lat) sin(H), (sin(lat) - sin(dec) cos(z)) / cos(dec)].
    """
    east = np.mod(pointings.ra - pointings.ra[0] + 180, 360) - 180
    hour_angle = np.radians(15 * (hours - transit) - east)
    limit = np.radians(80)
    hour_angle = limit * np.tanh(hour_angle / limit)
    lat, dec = np.radians(LATITUDE_DEG), np.radians(pointings.dec)
    cos_z = np.sin(lat) * np.sin(dec) + np.cos(lat) * np.cos(dec) * np.cos(hour_angle)
    cos_z = np.clip(cos_z, 1 / _HIGHEST_AIRMASS, 1.0)
    gradient_east = -np.cos(lat) * np.sin(hour_angle) / cos_z**2
    gradient_north = -(np.sin(lat) - np.sin(dec) * cos_z) / np.cos(dec) / cos_z**2
    return 1 / cos_z, gradient_east, gradient_north


def _moonlight(spec: SurveySpec, nights: Nights) -> Floats:
    """Return how much brighter the Moon makes the sky, mag: up to 2.5 at full Moon, while it is up."""
    age = np.mod(nights.mjd, 29.530588) / 29.530588
    lit = (1 - np.cos(2 * np.pi * age)) / 2
    # the Moon culminates at age * 24 h after noon; the night begins six hours after noon
    from_culmination = np.mod(nights.hours + 6 - 24 * age - 12 + 12, 24) - 12
    up = np.clip(1.5 * np.cos(2 * np.pi * from_culmination / 24) + 0.2, 0, 1)
    return np.asarray(spec.moon * 2.5 * np.log10(1 + 9 * lit**2 * up))
