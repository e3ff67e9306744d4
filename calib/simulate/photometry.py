"""What the camera records of the stars in a block of exposures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from calib.simulate.conditions import EXPTIME_S, Conditions
from calib.simulate.focalplane import COLOR, FocalPlane
from calib.simulate.layouts import Pointings
from calib.simulate.spec import SurveySpec, passband
from calib.simulate.stars import MEAN_COLOR, Sky, Star
from calib.simulate.variability import departure, rms

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_MAG = 2.5 / np.log(10)
_ASTROMETRY_DEG = 0.05 / 3600


@dataclass(frozen=True)
class Block:
    """Measurements of a block of exposures, arrays (n,); mag = star's - zeropoint + systematic + offset + noise."""

    exposure: Ints
    star_id: Ints
    detector: Ints
    x: Floats
    y: Floats
    ra: Floats
    dec: Floats
    color: Floats
    mag: Floats
    mag_err: Floats
    flag: Ints
    sigma: Floats
    sigma_total: Floats
    systematic: Floats
    outlier: NDArray[np.bool_]
    outlier_offset: Floats
    noise: Floats


@dataclass(frozen=True)
class _Scene:
    """Stars that fall on the detectors: exposure (n,), stars (len(Star), n), east, north, u, v (n,), detector, x, y."""

    exposure: Ints
    stars: Floats
    east: Floats
    north: Floats
    u: Floats
    v: Floats
    detector: Ints
    x: Floats
    y: Floats

    def __getitem__(self, keep: NDArray[np.bool_]) -> _Scene:
        return _Scene(
            self.exposure[keep], self.stars[:, keep], self.east[keep], self.north[keep],
            self.u[keep], self.v[keep], self.detector[keep], self.x[keep], self.y[keep],
        )  # fmt: skip


class Camera:
    """Takes exposures of a sky under given conditions.

    Parameters
    ----------
    spec : SurveySpec
        The survey.
    sky : Sky
        The stars.
    plane : FocalPlane
        The detectors.
    pointings : Pointings
        Where the exposures look.
    conditions : Conditions
        Their state.
    """

    def __init__(
        self, spec: SurveySpec, sky: Sky, plane: FocalPlane, pointings: Pointings, conditions: Conditions
    ) -> None:
        self.spec, self.sky, self.plane, self.pointings, self.conditions = spec, sky, plane, pointings, conditions
        filters = [passband(b) for b in spec.bands]
        self._color_slope = np.array([f.color_slope for f in filters])
        self._second_order = np.array([f.second_order for f in filters]) * spec.second_order

    def observe(self, exposures: Ints, rng: np.random.Generator) -> Block:
        """Take a block of exposures; rows come in random order."""
        spec, c = self.spec, self.conditions
        scene = self._scene(exposures, rng)
        e, s = scene.exposure, scene.stars
        truth = self.magnitude(s, self.pointings.band[e])
        systematic = self._systematic(scene)
        clean = truth - c.zeropoint[e] + systematic
        electrons = np.exp(clean / -_MAG) * c.exptime[e]

        # bright stars: response bends below full well, then saturates
        well = electrons * (spec.seeing / c.seeing[e]) ** 2 / self._full_well()
        bent = np.flatnonzero(well > 0.2)
        extra = spec.nonlinearity * np.minimum(well[bent], 20.0) ** 3
        extra[well[bent] > 1] = spec.nonlinearity + _MAG * 0.6 * np.log(well[bent][well[bent] > 1])
        systematic[bent] += extra
        clean[bent] += extra
        electrons[bent] *= np.exp(-extra / _MAG)
        saturated = well > 1

        background = c.background[e]
        photon = _MAG * np.sqrt(electrons + background) / electrons
        variance = photon**2 + (c.floor**2 + c.excess_noise**2)[e]
        sigma = np.sqrt(variance)
        noise = sigma * rng.standard_normal(len(sigma))
        offset, misread = self._glitches(scene, rng)
        seen = electrons * np.exp((offset + noise) / -_MAG)
        signal_to_noise = seen / np.sqrt(seen + background)
        detected = rng.random(len(seen)) < expit(np.log(signal_to_noise / spec.detection_snr) / 0.07)
        if not spec.flag_saturated:
            detected &= ~saturated

        keep = np.flatnonzero(detected)
        rng.shuffle(keep)
        claimed = self._misidentified(scene, truth, offset, misread, keep, rng)
        e, k = e[keep], keep
        variability = rms(s[Star.KIND, k].astype(np.int64), s[Star.AMPLITUDE, k])
        jitter = _ASTROMETRY_DEG * rng.standard_normal((2, len(k)))
        dec = s[Star.DEC, k]
        own = claimed if len(claimed) else k
        return Block(
            exposure=e, star_id=s[Star.ID, own].astype(np.int64), detector=scene.detector[k],
            x=scene.x[k], y=scene.y[k],
            ra=np.mod(s[Star.RA, k] + jitter[0] / np.cos(np.radians(dec)), 360), dec=dec + jitter[1],
            color=s[Star.COLOR_SEEN, own],
            mag=truth[own] - c.zeropoint[e] + systematic[k] + offset[k] + noise[k],
            mag_err=_MAG / signal_to_noise[k] / c.error_scale[e], flag=saturated[k].astype(np.int64),
            sigma=sigma[k], sigma_total=np.sqrt(variance[k] + variability**2 + c.structure_rms[e] ** 2),
            systematic=systematic[k], outlier=offset[k] != 0, outlier_offset=offset[k], noise=noise[k],
        )  # fmt: skip

    def magnitude(self, stars: Floats, band: Ints) -> Floats:
        """Return the stars' mean calibrated magnitudes (n,) in bands (n,) of the spec."""
        return np.asarray(stars[Star.MAG] + self._color_slope[band] * (stars[Star.COLOR] - MEAN_COLOR))

    def _full_well(self) -> float:
        """Return the electrons of a star that saturates in median seeing; the same in every band."""
        zeropoint = passband(self.spec.bands[0]).zeropoint
        return float(10 ** (-0.4 * (self.spec.saturation - zeropoint)) * EXPTIME_S)

    def _scene(self, exposures: Ints, rng: np.random.Generator) -> _Scene:
        """Project the sky on each exposure (gnomonic) and keep the stars on the field."""
        p, half = self.pointings, np.radians(self.spec.fov_deg / 2)
        reach = self.spec.fov_deg / 2 * (np.sqrt(2) if self.spec.rotator == "random" else 1.0)
        ra, dec = np.radians(p.ra), np.radians(p.dec)
        parts, places, counts = [], [], []
        for e in exposures:
            stars = self.sky.near(float(p.ra[e]), float(p.dec[e]), reach)
            sin_a, cos_a, sin_d, cos_d = np.sin(ra[e]), np.cos(ra[e]), np.sin(dec[e]), np.cos(dec[e])
            axes = np.array(
                [[-sin_a, cos_a, 0], [-sin_d * cos_a, -sin_d * sin_a, cos_d], [cos_d * cos_a, cos_d * sin_a, sin_d]]
            )
            place = np.einsum("ij,jn->in", axes, stars[:3])
            place = place[:2] / (place[2] * half)
            angle = self.conditions.angle[e]
            if angle:
                cos, sin = np.cos(angle), np.sin(angle)
                place = np.concatenate([place, [place[0] * cos + place[1] * sin, place[1] * cos - place[0] * sin]])
            else:
                place = np.concatenate([place, place])
            inside = np.flatnonzero(np.abs(place[2:]).max(axis=0) < 1)
            few = self.conditions.keep[e]
            if 0 <= few < len(inside):
                inside = rng.choice(inside, few, replace=False)
            parts.append(np.take(stars, inside, axis=1))
            places.append(np.take(place, inside, axis=1))
            counts.append(len(inside))
        stars, (east, north, u, v) = np.concatenate(parts, axis=1), np.concatenate(places, axis=1)
        detector, x, y = self.plane.detector(u, v)
        scene = _Scene(np.repeat(exposures, counts), stars, east, north, u, v, detector, x, y)
        return scene if self.plane.columns * self.plane.rows == 1 else scene[detector >= 0]

    def surface(self, exposure: Ints, u: Floats, v: Floats) -> Floats:
        """Return the surfaces across the field of exposure (n,) at u, v (n,), mag; positive is faint.

        Clouds, flat field with the detectors' offsets, edge loss and the gradient of extinction: zero on average over
        the detectors. For a star of mean colour; NaN in the gaps between detectors.
        """
        cos, sin = np.cos(self.conditions.angle)[exposure], np.sin(self.conditions.angle)[exposure]
        detector, x, y = self.plane.detector(u, v)
        stars = np.zeros((len(Star), len(u)))
        scene = _Scene(exposure, stars, u * cos - v * sin, u * sin + v * cos, u, v, detector, x, y)
        return np.where(detector < 0, np.nan, self._surface(scene, self.plane.at(u, v)))

    def _surface(self, scene: _Scene, maps: Floats) -> Floats:
        c, e = self.conditions, scene.exposure
        total: Floats = np.einsum("nm,nm->n", maps, np.take(c.map_strength, e, axis=0))
        total += self.plane.offset[scene.detector]
        total += (c.extinction * c.gradient_east)[e] * scene.east + (c.extinction * c.gradient_north)[e] * scene.north
        cloudy = np.flatnonzero(c.cloud_base[e] > 0)
        i = e[cloudy]
        total[cloudy] += c.cloud_base[i] * c.view.factor(i, scene.east[cloudy], scene.north[cloudy]) - c.cloud[i]
        return total

    def _systematic(self, scene: _Scene) -> Floats:
        """Return the sum of all that is neither star, zero-point, noise nor glitch, mag; positive is faint."""
        c, e, s = self.conditions, scene.exposure, scene.stars
        maps = self.plane.at(scene.u, scene.v)
        total = self._surface(scene, maps)
        chromatic = maps[:, COLOR] + self.plane.color_offset[scene.detector]
        chromatic += (self._second_order[self.pointings.band] * (c.airmass - 1))[e]
        total += (s[Star.COLOR] - MEAN_COLOR) * chromatic

        blended = np.flatnonzero(s[Star.BLEND_RATIO] > 0)
        total[blended] -= blend(s[Star.BLEND_RATIO, blended], s[Star.BLEND_SEPARATION, blended], c.seeing[e[blended]])

        kind = s[Star.KIND].astype(np.int64)
        v = np.flatnonzero(kind)
        total[v] += departure(kind[v], s[Star.AMPLITUDE, v], s[Star.PERIOD, v], s[Star.PHASE, v], c.mjd[e[v]])
        return total

    def _glitches(self, scene: _Scene, rng: np.random.Generator) -> tuple[Floats, Ints]:
        """Return the offsets of cosmic rays, bad columns and satellites, and the rows to be given to a wrong star."""
        spec, c, e = self.spec, self.conditions, scene.exposure
        n = len(e)
        offset = np.zeros(n)
        hit = np.flatnonzero(rng.random(n) < spec.outlier_fraction)
        size = 0.03 + rng.exponential(0.25, len(hit))
        offset[hit] = np.where(rng.random(len(hit)) < 0.65, -size, size)
        offset += self.plane.bad_column_loss(scene.detector, scene.x)
        crossed = np.flatnonzero(c.trail[e, 2] > 0)
        if len(crossed):
            direction, distance, width, depth = c.trail[e[crossed]].T
            away = scene.u[crossed] * np.cos(direction) + scene.v[crossed] * np.sin(direction) - distance
            under = np.abs(away) < width
            offset[crossed[under]] -= depth[under] * rng.uniform(0.5, 1.5, int(under.sum()))
        return offset, np.flatnonzero(rng.random(n) < spec.misidentified)

    def _misidentified(
        self, scene: _Scene, truth: Floats, offset: Floats, misread: Ints, keep: Ints, rng: np.random.Generator
    ) -> Ints:
        """Return for each kept row the row of the star it is taken for, and charge the difference to its offset."""
        own = np.arange(len(truth))
        if len(misread):
            e = scene.exposure
            first = np.searchsorted(e, e[misread], "left")
            last = np.searchsorted(e, e[misread], "right")
            own[misread] = np.clip(misread + rng.integers(1, 6, len(misread)), first, last - 1)
            offset[misread] += truth[misread] - truth[own[misread]]
        return own[keep]


def blend(ratio: Floats, separation: Floats, seeing: Floats) -> Floats:
    """Return how much brighter a neighbour makes a star, mag; arguments (n,).

    2.5 log10(1 + ratio F), F = exp(-d^2 / (2 (0.9 seeing)^2)), with the flux ratio, the separation d and the seeing's
    FWHM in arcsec: the part of the neighbour's light that the aperture takes in.
    """
    return np.asarray(_MAG * np.log1p(ratio * np.exp(-0.5 * (separation / (0.9 * seeing)) ** 2)))
