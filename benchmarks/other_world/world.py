"""Put a survey together: point, draw sky and weather, expose, measure, report, with all that is hidden kept.

    mag = M + F(exposure, place) - Z + own + noise + accident

F is what air and camera take away at a place in the field, Z the instrument's zero-point, ``own`` what belongs to the
star in that exposure (variability, blends, colour, non-linearity). The true zero-point is Z minus the mean of F over
the area of the detectors, so that calibrated = mag + zeropoint is right on average over the field.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from other_world import accidents, camera, sky, weather
from other_world.layouts import Pointings, altitude_azimuth, pointings, sidereal
from other_world.presets import PRESETS, Preset

Array = NDArray[np.float64]
Ints = NDArray[np.int64]
POGSON = 2.5 / np.log(10)


@dataclass
class Scene:
    """Everything that acts on an exposure as a whole; arrays (E,)."""

    preset: Preset
    at: Pointings
    band: NDArray[np.str_]
    airmass: Array
    weather: weather.Weather
    response: camera.Response
    bad: accidents.BadExposures
    exptime: Array
    instrument: Array
    fwhm: Array
    defocus: Array

    def sight(self, e: Ints, u: Array, v: Array) -> tuple[Array, Array]:
        """Altitude and azimuth [rad] of places [deg] in the focal plane."""
        xi, eta = camera.rotate(u, v, -self.at.rotation[e])
        ra, dec = camera.from_tangent(xi, eta, self.at.ra[e], self.at.dec[e])
        telescope = self.preset.telescope
        return altitude_azimuth(ra, dec, sidereal(self.at.mjd[e], telescope.longitude), telescope.latitude)

    def halves(self, u: Array, v: Array) -> tuple[Array, Array]:
        """Places in units of the longer half width."""
        size = max(self.preset.telescope.half_width)
        return u / size, v / size

    def image(self, e: Ints, u: Array, v: Array) -> Array:
        """FWHM at places [arcsec]: the focal surface is curved, and focus wanders from exposure to exposure."""
        p, q = self.halves(u, v)
        return np.asarray(self.fwhm[e] * (1 + self.defocus[e] * (p**2 + q**2 - 0.6) + 0.02 * p))

    def cloud(self, e: Ints, u: Array, v: Array) -> Array:
        """Cloud at places, mag."""
        altitude, azimuth = self.sight(e, u, v)
        exptime = self.preset.exptime
        return weather.cloud(self.weather, self.at.night[e], self.at.mjd[e], altitude, azimuth, exptime)

    def taken(self, e: Ints, u: Array, v: Array, detector: Ints, x: Array) -> Array:
        """F: what air and camera take from a star of mean colour at places (n,), mag."""
        altitude, _ = self.sight(e, u, v)
        p, q = self.halves(u, v)
        at, telescope = self.at, self.preset.telescope
        return np.asarray(
            self.weather.extinction[e] * weather.airmass(altitude)
            + self.cloud(e, u, v)
            + camera.loss(telescope, self.image(e, u, v), self.fwhm[e])
            + self.response(telescope, at.run[e], at.band[e], at.night[e], u, v, detector, x)
            + self.bad.gradient[e, 0] * p + self.bad.gradient[e, 1] * q
        )  # fmt: skip

    def field_mean(self, cells: int) -> tuple[Array, Array]:
        """Mean over the detectors of F and of cloud, per exposure (E,), mag."""
        u, v, detector, x = camera.area_grid(self.preset.telescope, cells)
        e = np.repeat(np.arange(self.at.mjd.size), u.size)
        u, v, detector, x = (np.tile(c, self.at.mjd.size) for c in (u, v, detector, x))
        shape = (self.at.mjd.size, -1)
        return (
            self.taken(e, u, v, detector, x).reshape(shape).mean(axis=1),
            self.cloud(e, u, v).reshape(shape).mean(axis=1),
        )


@dataclass
class OtherSurvey:
    """A survey and its truth, in tables of polars.

    ``truth_measurements``, row by row with ``measurements``: noise as drawn and its standard deviation sigma;
    systematic, all of mag that is not noise, zero-point or outlier, so that mag - systematic - outlier_offset is
    M - zeropoint + noise; sigma_total, sigma with the mean square over the exposure of what acts on its field and
    over the star of what acts on it alone: what a solve with variances but without such terms could at best know.
    Faint stars are in the table where they were measured bright enough, so that their noise leans to the bright side.
    """

    name: str
    seed: int
    measurements: pl.DataFrame
    exposures: pl.DataFrame
    truth_exposures: pl.DataFrame
    truth_stars: pl.DataFrame
    truth_measurements: pl.DataFrame
    scene: Scene


def _scene(preset: Preset, rng: np.random.Generator) -> Scene:
    at, telescope = pointings(preset, rng), preset.telescope
    n = at.mjd.size
    band = np.array(preset.bands)[at.band]
    altitude, _ = altitude_azimuth(at.ra, at.dec, sidereal(at.mjd, telescope.longitude), telescope.latitude)
    x = weather.airmass(altitude)
    air = weather.draw_weather(preset, at.mjd, at.night, list(band), x, rng)
    bad = accidents.bad_exposures(preset, at.night, rng)
    exptime = np.full(n, preset.exptime)
    if preset.counts_not_rates:
        exptime *= rng.choice([0.5, 1.0, 2.0], n, p=[0.2, 0.6, 0.2])
    days = at.mjd - at.mjd.min()
    dust = 0.0004 * (days - np.where(days > 45, 45, 0))  # mirrors gather dust, and are washed on day 45
    nights, bands = int(at.night.max()) + 1, len(preset.bands)
    electronics = rng.normal(0, 0.004, (nights, bands))[at.night, at.band]
    instrument = np.array([camera.instrument_zeropoint(telescope, b) for b in band])
    instrument += electronics - dust + rng.normal(0, 0.0015, n)
    fwhm = np.hypot(air.seeing, telescope.instrument_fwhm) * bad.widening
    return Scene(
        preset, at, band, x, air, camera.Response.draw(preset, int(at.run.max()) + 1, nights, rng), bad, exptime,
        instrument, fwhm, np.abs(rng.normal(0.03, 0.03, n)),
    )  # fmt: skip


def _limits(scene: Scene) -> tuple[float, float]:
    """Magnitudes, between which stars are drawn: half a magnitude past saturation and the median detection limit."""
    preset, telescope = scene.preset, scene.preset.telescope
    fwhm = np.median(scene.fwhm)[None]
    area = camera.measuring_area(telescope, fwhm)
    zero = float(np.median(scene.instrument - scene.weather.extinction * scene.airmass))
    mag = np.linspace(-2, 27, 600)
    electrons = preset.exptime * 10 ** (-0.4 * (mag - zero))
    background = preset.exptime * 10 ** (-0.4 * (float(np.median(scene.weather.sky)) - zero))
    noise = np.sqrt(electrons + area * (background + (telescope.read_noise / telescope.pixel) ** 2))
    full = camera.peak_fraction(telescope, electrons, np.array(background * telescope.pixel**2), fwhm)
    faint = float(mag[electrons / noise > 1.1 * preset.cut].max())
    return max(float(mag[full > 1].max()) - 0.5, faint - 7.0), faint


def _pairs(scene: Scene, at: Array, radius: float) -> tuple[Ints, Ints, Array, Array]:
    """Stars on silicon: exposure and star of each pair, sorted by exposure, and the place [deg] in the focal plane."""
    centres = sky.unit(scene.at.ra, scene.at.dec)
    near = cKDTree(at).query_ball_point(centres, 2 * np.sin(np.radians(radius) / 2), return_sorted=True)
    e = np.repeat(np.arange(len(near)), [len(k) for k in near])
    s = np.concatenate([np.asarray(k, np.int64) for k in near])
    ra, dec = np.degrees(np.arctan2(at[s, 1], at[s, 0])) % 360, np.degrees(np.arcsin(at[s, 2]))
    u, v = camera.rotate(*camera.tangent(ra, dec, scene.at.ra[e], scene.at.dec[e]), scene.at.rotation[e])
    inside = camera.on_detector(scene.preset.telescope, u, v)[3]
    return e[inside], s[inside], u[inside], v[inside]


def _mean(values: Array, group: Ints) -> Array:
    """Mean of ``values`` in each group, at every row."""
    _, g, count = np.unique(group, return_inverse=True, return_counts=True)
    return np.asarray((np.bincount(g, values) / count)[g])


def _runs(e: Ints, n: int) -> list[tuple[int, int]]:
    """First and last + 1 row of each of ``n`` exposures in sorted ``e``."""
    edge = np.searchsorted(e, np.arange(n + 1))
    return list(zip(edge[:-1].tolist(), edge[1:].tolist(), strict=True))


def other_world(name: str, seed: int) -> OtherSurvey:
    """Simulate a survey of this world; the same name and seed give the same survey.

    Raises
    ------
    KeyError
        If no preset has that name.
    """
    preset = PRESETS[name]
    telescope = preset.telescope
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    scene = _scene(preset, rng)
    radius = float(np.hypot(*telescope.half_width)) * 1.02
    mean_f, mean_cloud = scene.field_mean(24 if telescope.columns * telescope.rows == 1 else 8)

    # twice the stars that are wanted, thinned below to the wanted number of measurements
    silicon = telescope.columns * telescope.rows * telescope.nx * telescope.ny * (telescope.pixel / 3600) ** 2
    per_cap = 2.0 * preset.measurements / scene.at.mjd.size * np.pi * radius**2 / silicon
    stars = sky.draw_stars(preset, scene.at.ra, scene.at.dec, radius, per_cap, _limits(scene), rng)
    e, s, u, v = _pairs(scene, stars.at, radius)

    detector, x, y, _ = camera.on_detector(telescope, u, v)
    band = scene.band[e]
    color_of_band = np.vectorize(sky.BAND_COLOR.__getitem__)(band)
    true_mag = stars.mag[s] + color_of_band * stars.color[s]
    taken = scene.taken(e, u, v, detector, x)
    fwhm = scene.image(e, u, v)
    area = camera.measuring_area(telescope, fwhm)
    altitude, _ = scene.sight(e, u, v)
    mass = weather.airmass(altitude)
    color = stars.color[s] - np.median(stars.color)
    second = np.vectorize(weather.SECOND_ORDER.__getitem__)(band)
    own = sky.light_curve(stars, s, scene.at.mjd[e], band, rng)
    own += sky.blending(stars, s, fwhm, area, telescope.beta)
    own += second * mass * color + scene.response.color[detector] * color

    exptime = scene.exptime[e]
    background = exptime * 10 ** (-0.4 * (scene.weather.sky[e] - scene.instrument[e]))  # electrons per arcsec2
    background *= 1 + 0.5 * np.minimum(mean_cloud[e], 1.0)  # cloud is lit from below and by the moon
    electrons = exptime * 10 ** (-0.4 * (true_mag + own + taken - scene.instrument[e]))
    full = camera.peak_fraction(telescope, electrons, background * telescope.pixel**2, fwhm)
    own += camera.nonlinearity(preset, full)
    electrons = exptime * 10 ** (-0.4 * (true_mag + own + taken - scene.instrument[e]))

    floor = (telescope.read_noise / telescope.pixel) ** 2
    relative = camera.scintillation(telescope, mass, exptime) ** 2 + preset.unreported**2 + scene.bad.scatter[e] ** 2
    sky_variance = area * (background + floor)
    deviation = np.sqrt(electrons + sky_variance + relative * electrons**2)
    counted = electrons + rng.normal(size=e.size) * deviation
    extra = accidents.added_light(preset, e, *scene.halves(u, v), area, background, exptime, rng)
    with np.errstate(invalid="ignore", divide="ignore"):
        noise = -2.5 * np.log10(counted / electrons)
        offset = -2.5 * np.log10(np.maximum(counted + extra, 0.05 * counted) / counted)
        offset += accidents.failed_fits(preset, e.size, rng)
        reported = np.sqrt(counted + sky_variance / camera.resampling_factor(preset.resampling) ** 2) / counted
    reported = np.hypot(POGSON * reported * rng.lognormal(0, preset.fit_scatter, e.size), preset.reported_floor)
    sigma = POGSON * deviation / electrons

    detected = (counted > 0) & (reported < POGSON / preset.cut) & (full < 1.1)
    detected &= (rng.uniform(size=stars.mag.size) < preset.measurements / max(detected.sum(), 1))[s]
    e, s, u, v, detector, x, y, own, noise, sigma, offset, reported = (
        c[detected] for c in (e, s, u, v, detector, x, y, own, noise, sigma, offset, reported)
    )
    field, true_mag, band = taken[detected] - mean_f[e], true_mag[detected], band[detected]
    zeropoint = scene.instrument - mean_f
    if preset.counts_not_rates:
        zeropoint = zeropoint + 2.5 * np.log10(scene.exptime)

    mag = true_mag - zeropoint[e] + field + own + noise + offset
    given = accidents.mistaken_matches(preset, e, u, v, rng)
    offset, mag, reported = offset + mag[given] - mag, mag[given], reported[given]
    if preset.rounded:
        rounded = mag.round(3)
        noise, mag, reported = noise + rounded - mag, rounded, np.maximum(reported.round(3), 0.001)
    outlier = (np.abs(offset) > 3 * sigma) & (np.abs(offset) > 0.01)
    small = np.where(outlier, 0.0, offset)
    star = s * len(preset.bands) + scene.at.band[e]
    of_field, of_star = field + small, own - _mean(own, star)
    total = np.sqrt(sigma**2 + _mean(of_field**2, e) + _mean(of_star**2, star))
    truth = pl.DataFrame(
        {
            "sigma": sigma, "sigma_total": total, "systematic": field + own + small, "outlier": outlier,
            "outlier_offset": np.where(outlier, offset, 0.0), "noise": noise,
        }
    )  # fmt: skip

    xi, eta = camera.rotate(u, v, -scene.at.rotation[e])
    ra, dec = camera.from_tangent(xi, eta, scene.at.ra[e], scene.at.dec[e])
    jitter = rng.normal(0, 0.05 * telescope.pixel / 3600, (2, e.size))
    measurements = pl.DataFrame(
        {
            "star_id": s, "exposure_id": 1000 + e, "band": band, "mag": mag, "mag_err": reported, "detector": detector,
            "x": x.astype(np.float32), "y": y.astype(np.float32),
            "ra": ra + jitter[0] / np.cos(np.radians(dec)), "dec": dec + jitter[1],
            "color": stars.color[s] + rng.normal(0, 0.03, stars.mag.size)[s],
        }
    )  # fmt: skip
    if telescope.columns * telescope.rows == 1:
        measurements = measurements.drop("detector")
    return OtherSurvey(
        name, seed, measurements.drop(preset.without), _exposures(scene, rng),
        _truth_exposures(scene, zeropoint, mean_cloud, e, sigma / reported, field),
        _truth_stars(preset, stars, np.unique(s)), truth, scene,
    )  # fmt: skip


def _exposures(scene: Scene, rng: np.random.Generator) -> pl.DataFrame:
    """What the survey's log says: seeing as measured, airmass of the field's centre, no word on clouds."""
    n, preset = scene.at.mjd.size, scene.preset
    night = np.floor(scene.at.mjd + preset.telescope.longitude / 360 - 0.5).astype(np.int64)
    return pl.DataFrame(
        {
            "exposure_id": 1000 + np.arange(n), "band": scene.band, "mjd": scene.at.mjd, "night": night,
            "airmass": scene.airmass, "seeing": scene.fwhm * rng.lognormal(0, 0.03, n),
            "sky": scene.weather.sky + rng.normal(0, 0.03, n), "exptime": scene.exptime,
            "ra": scene.at.ra, "dec": scene.at.dec,
        }
    ).drop(preset.exposures_without, *(["band"] if "band" in preset.without else []))  # fmt: skip


def _truth_exposures(
    scene: Scene, zeropoint: Array, mean_cloud: Array, e: Ints, scale: Array, field: Array
) -> pl.DataFrame:
    """The hidden state of every exposure."""
    n = zeropoint.size
    ratio = [np.median(scale[a:b]) if b > a else np.nan for a, b in _runs(e, n)]
    structure = [np.std(field[a:b]) if b > a else np.nan for a, b in _runs(e, n)]
    return pl.DataFrame(
        {
            "exposure_id": 1000 + np.arange(n), "band": scene.band, "zeropoint": zeropoint, "cloud": mean_cloud,
            "photometric": mean_cloud < 0.004, "extinction_coefficient": scene.weather.extinction,
            "excess_noise": scene.bad.scatter, "error_scale": ratio, "structure_rms": structure,
            "kind_of_night": np.array(scene.weather.kinds)[scene.at.night],
        }
    )  # fmt: skip


def _truth_stars(preset: Preset, stars: sky.Stars, seen: Ints) -> pl.DataFrame:
    """Stars that were measured, once per band."""
    frames = [
        pl.DataFrame(
            {
                "star_id": seen, "band": np.full(seen.size, band),
                "mag": stars.mag[seen] + sky.BAND_COLOR[band] * stars.color[seen], "color": stars.color[seen],
                "variable": stars.kind[seen] > 0, "kind": np.array(sky.KINDS)[stars.kind[seen]],
                "amplitude": stars.amplitude[seen], "blend_ratio": stars.close_ratio[seen],
                "blend_separation": stars.close_distance[seen],
            }
        )
        for band in preset.bands
    ]  # fmt: skip
    return pl.concat(frames)
