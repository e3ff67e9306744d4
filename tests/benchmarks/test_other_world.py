"""The other world's truth is true, and its physics is what it says."""

from __future__ import annotations

from functools import cache

import numpy as np
import polars as pl
import pytest
from other_world import PRESETS, OtherSurvey, camera, other_world, sky, weather
from other_world.accidents import mistaken_matches
from other_world.layouts import altitude_azimuth, sidereal
from scipy.integrate import quad

from calib import Config
from calib.model.problem import Problem
from calib.simulate.bounds import bounds, clip_solve, zeropoint_errors
from calib.tables import read_measurements

NAMES = sorted(PRESETS)


@cache
def survey(name: str) -> OtherSurvey:
    return other_world(name, 7)


def with_truth(s: OtherSurvey) -> pl.DataFrame:
    exposures = s.truth_exposures.select("exposure_id", "zeropoint", in_band="band")
    stars = s.truth_stars.select("star_id", in_band="band", true_mag="mag")
    rows = s.measurements.join(exposures, on="exposure_id", how="left", maintain_order="left")
    rows = rows.join(stars, on=["star_id", "in_band"], how="left", maintain_order="left")
    return pl.concat([rows, s.truth_measurements], how="horizontal")


@pytest.mark.parametrize("name", NAMES)
def test_magnitude_is_the_sum_of_its_parts(name: str) -> None:
    t = with_truth(survey(name))
    rest = t["mag"] - t["systematic"] - t["outlier_offset"] - t["noise"] + t["zeropoint"] - t["true_mag"]
    assert rest.abs().max() < 1e-9
    assert t.null_count().sum_horizontal().item() == 0
    assert (t["sigma_total"] >= t["sigma"]).all()
    assert ((t["outlier_offset"] != 0) == t["outlier"]).all()
    assert 0.002 < t["outlier"].mean() < 0.08


@pytest.mark.parametrize("name", NAMES)
def test_noise_has_the_stated_variance_and_the_reported_error_has_not(name: str) -> None:
    t = with_truth(survey(name))
    # far from the detection limit, where what is selected does not depend on the noise
    clear = t.filter(pl.col("sigma") < min(0.03, 0.4 * camera_limit(name)))
    ratio = (clear["noise"] / clear["sigma"]).to_numpy()
    assert ratio.size > 1000
    assert np.std(ratio) == pytest.approx(1, abs=0.03)
    assert np.mean(ratio) == pytest.approx(0, abs=0.03)
    bright, faint = t.filter(pl.col("sigma") < t["sigma"].quantile(0.1)), t.filter(pl.col("sigma") > 0.02)
    of_bright, of_faint = ((f["sigma"] / f["mag_err"]).median() for f in (bright, faint))
    assert of_bright > 1.1
    assert of_bright > of_faint  # no single factor mends the reported errors


def camera_limit(name: str) -> float:
    return 2.5 / np.log(10) / PRESETS[name].cut


@pytest.mark.parametrize("name", NAMES)
def test_zeropoint_is_the_average_over_the_field(name: str) -> None:
    """Held against random places on the detectors; the survey itself uses a grid."""
    s, rng = survey(name), np.random.default_rng(3)
    telescope, n = s.scene.preset.telescope, 4000
    e = np.repeat(np.arange(0, s.truth_exposures.height, s.truth_exposures.height // 12), n)
    w, h = telescope.half_width
    u, v = rng.uniform(-w, w, e.size), rng.uniform(-h, h, e.size)
    detector, x, _, inside = camera.on_detector(telescope, u, v)
    e, u, v, detector, x = (c[inside] for c in (e, u, v, detector, x))
    total = s.scene.taken(e, u, v, detector, x)
    count = np.bincount(e, minlength=s.truth_exposures.height)
    used = count > 0
    mean = np.bincount(e, total, count.size)[used] / count[used]
    scatter = np.sqrt(np.bincount(e, total**2, count.size)[used] / count[used] - mean**2)
    counts = 2.5 * np.log10(s.scene.exptime) if s.scene.preset.counts_not_rates else 0.0
    stated = (s.scene.instrument + counts - s.truth_exposures["zeropoint"].to_numpy())[used]
    assert np.all(np.abs(stated - mean) < 4 * scatter / np.sqrt(count[used]) + 2e-4)


def test_seeds_reproduce_and_differ() -> None:
    first, again, other = other_world("smallscope", 4), other_world("smallscope", 4), other_world("smallscope", 5)
    for table in ("measurements", "exposures", "truth_exposures", "truth_stars", "truth_measurements"):
        assert getattr(first, table).equals(getattr(again, table))
        assert not getattr(first, table).equals(getattr(other, table))


@pytest.mark.parametrize("name", NAMES)
def test_size_and_columns(name: str) -> None:
    s, preset = survey(name), PRESETS[name]
    assert 20_000 <= s.measurements.height <= 200_000
    assert 60 <= s.truth_exposures.height <= 400
    assert {"star_id", "exposure_id", "mag", "mag_err"} <= set(s.measurements.columns)
    assert not set(preset.without) & set(s.measurements.columns)
    assert not set(preset.exposures_without) & set(s.exposures.columns)
    assert ("detector" in s.measurements.columns) == (preset.telescope.columns > 1)
    assert s.scene.airmass.max() < 4


def test_the_bounds_of_calib_apply() -> None:
    s = survey("smallscope")
    problem = Problem.of(read_measurements(s.measurements, exposures=s.exposures), Config(method="robust", score=False))
    component = problem.graph.exposure_graph().components()
    truth = problem.nodes.join(s.truth_exposures, on="exposure_id", how="left", maintain_order="left")
    limits = bounds(problem, s.truth_measurements)
    z = truth["zeropoint"].to_numpy()
    floor, weights, clip = (
        zeropoint_errors(found, z, component).rms for found in (limits.noise, limits.weights, clip_solve(problem))
    )
    assert floor < weights < clip


def test_projection_returns_and_detectors_tile_the_field() -> None:
    rng = np.random.default_rng(1)
    xi, eta = rng.uniform(-8, 8, (2, 500))
    ra0, dec0 = rng.uniform(0, 360, 500), rng.uniform(-80, 80, 500)
    back = camera.tangent(*camera.from_tangent(xi, eta, ra0, dec0), ra0, dec0)
    np.testing.assert_allclose(back, (xi, eta), atol=1e-9)
    telescope = PRESETS["mosaic"].telescope
    u, v, detector, x = camera.area_grid(telescope, 5)
    found, px, _, inside = camera.on_detector(telescope, u, v)
    assert inside.all()
    assert (found == detector).all()
    np.testing.assert_allclose(px, x, atol=1e-6)


def test_moffat_light_and_noise_area_against_integrals() -> None:
    fwhm, beta = np.array([1.7]), 2.7
    telescope = PRESETS["badnight"].telescope
    alpha = camera.moffat_alpha(fwhm, beta)[0]

    def profile(r: float) -> float:
        return (beta - 1) / (np.pi * alpha**2) * (1 + (r / alpha) ** 2) ** -beta

    assert profile(0.85) == pytest.approx(0.5 * profile(0.0))
    inside, _ = quad(lambda r: 2 * np.pi * r * profile(r), 0, 3.4)
    square, _ = quad(lambda r: 2 * np.pi * r * profile(r) ** 2, 0, np.inf)
    assert camera.loss(telescope, fwhm, fwhm)[0] == pytest.approx(-0.25 * np.log10(inside))
    assert camera.measuring_area(telescope, fwhm)[0] == pytest.approx(1 / square)


def test_sky_turns_and_air_thickens() -> None:
    assert sidereal(51544.5, 0.0) == pytest.approx(280.46061837)
    lst = np.array([40.0])
    altitude, azimuth = altitude_azimuth(lst, np.array([10.0]), lst, 32.0)  # on the meridian, south of overhead
    assert np.degrees(altitude[0]) == pytest.approx(68.0)
    assert abs(np.degrees(azimuth[0])) == pytest.approx(180.0)
    rising, east = altitude_azimuth(lst + 60, np.array([10.0]), lst, 32.0)
    assert 0 < np.degrees(east[0]) < 180
    assert rising < altitude
    high = np.radians([90.0, 60.0, 40.0])
    np.testing.assert_allclose(weather.airmass(high), 1 / np.sin(high), rtol=3e-3)


def test_clouds_are_clouds() -> None:
    """Never negative, alike nearby and less so far away, carried by the wind."""
    rng = np.random.default_rng(5)
    sheet = weather.Sheet.draw(rng, 0.1, (0.5, 0.5), 1.0)
    n = 4000
    altitude, azimuth = np.full(n, 1.3), rng.uniform(0, 6, n)
    hours = rng.uniform(0, 8, n)
    here = sheet(altitude, azimuth, hours, 8.0, 60.0)
    assert here.min() >= 0
    assert here.mean() > 0.01
    rms = [np.std(here - sheet(altitude + step, azimuth, hours, 8.0, 60.0)) for step in (0.001, 0.01, 0.1)]
    assert rms[0] < rms[1] < rms[2]
    sheet.rate[:] = 0.0  # frozen: an hour later the same cloud is one hour's wind further on
    place = sheet.height / np.tan(1.3) * np.stack([np.sin(azimuth), np.cos(azimuth)], axis=1) + sheet.wind * 0.02
    moved = np.arctan(sheet.height / np.hypot(*place.T)), np.arctan2(place[:, 0], place[:, 1])
    later = sheet(*moved, hours + 0.02, 8.0, 60.0) / weather.airmass(moved[0])
    before = sheet(altitude, azimuth, hours, 8.0, 60.0) / weather.airmass(altitude)
    seen = moved[0] > 0.2
    np.testing.assert_allclose(later[seen], before[seen], atol=1e-9)


def test_stars_fill_the_union_of_fields_evenly() -> None:
    ra, dec = np.array([10.0, 10.4, 14.0]), np.array([20.0, 20.0, 20.0])
    at = sky.positions(ra, dec, 0.5, 4000.0, 0.0, np.random.default_rng(2))
    inside = [np.sum(at @ sky.unit(ra[k : k + 1], dec[k : k + 1])[0] > np.cos(np.radians(0.5))) for k in range(3)]
    np.testing.assert_allclose(inside, 4000, rtol=0.08)


def test_swaps_are_mutual_and_within_an_exposure() -> None:
    rng = np.random.default_rng(8)
    e = np.repeat(np.arange(50), 60)
    preset = PRESETS["ring"]
    given = mistaken_matches(preset, e, *rng.uniform(-1, 1, (2, e.size)), rng)
    assert (given[given] == np.arange(e.size)).all()
    assert (e[given] == e).all()


def test_light_curves_keep_their_level() -> None:
    """Pulsators, spots and long periods average to nothing; eclipses only dim and flares only brighten."""
    s = survey("stare")
    rng = np.random.default_rng(6)
    stars = sky.draw_stars(PRESETS["stare"], s.scene.at.ra, s.scene.at.dec, 0.3, 6000.0, (10.0, 15.0), rng)
    for k, name in enumerate(sky.KINDS):
        which = np.flatnonzero(stars.kind == k)[:20]
        assert which.size == 20
        mjd = np.tile(59800 + rng.uniform(0, 4000, 1500), which.size)
        change = sky.light_curve(stars, np.repeat(which, 1500), mjd, np.full(mjd.size, "V"), rng)
        change = change.reshape(which.size, -1)
        if name == "":
            assert (change == 0).all()
        elif name == "eclipsing":
            assert change.min() >= 0
            assert np.median(change) < 1e-3
        elif name == "flare":
            assert change.max() <= 0
        else:
            chance = change.std(axis=1) / np.sqrt(change.shape[1])  # and 1500 cycles need not be whole ones
            assert np.all(np.abs(change.mean(axis=1)) < 5 * chance + 0.02 * stars.amplitude[which])
            assert np.all(change.std(axis=1) > 0.1 * stars.amplitude[which])
