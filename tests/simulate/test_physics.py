"""The physics of the troubles: clouds, surfaces, airmass, blends, light curves, noise."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from calib.simulate import PRESETS, Simulation, SurveySpec, simulate
from calib.simulate.photometry import blend
from calib.simulate.screens import Screens
from calib.simulate.stars import Star
from calib.simulate.variability import KINDS, departure, rms


@pytest.mark.parametrize("preset", ["cloudy", "ccds", "dirty"])
def test_surfaces_average_to_zero_over_the_field_and_have_the_planes_told(preset: str) -> None:
    simulation = Simulation(PRESETS[preset], 5)
    line = (np.arange(301) + 0.5) / 150.5 - 1
    u, v = (a.ravel() for a in np.meshgrid(line, line))
    truth = simulation.truth_exposures()
    cloudy = np.flatnonzero(simulation.conditions.cloud > 0)
    for e in [0, 5, *cloudy[:8]]:
        surface = simulation.camera.surface(np.full(len(u), e), u, v)
        on = np.isfinite(surface)
        size = surface[on].std()
        assert abs(surface[on].mean()) < 2e-5 + 0.01 * size
        plane = surface[on] @ u[on] / (u[on] @ u[on]), surface[on] @ v[on] / (v[on] @ v[on])
        np.testing.assert_allclose(truth.row(e, named=True)["surface_x"], -plane[0], atol=5e-5 + 0.02 * size)
        np.testing.assert_allclose(truth.row(e, named=True)["surface_y"], -plane[1], atol=5e-5 + 0.02 * size)
        # the parts are taken as independent, so the rms is told to a quarter or so
        assert 0.6 < truth["structure_rms"][int(e)] / size < 1.6


def test_clouds_are_never_negative_anywhere_and_have_structure_finer_than_a_quadratic() -> None:
    simulation = Simulation(replace(PRESETS["cloudy"], flat=0.0, flat_night=0.0, edge=0.0), 2)
    c = simulation.conditions
    e = int(np.argmax(c.cloud))
    line = (np.arange(64) + 0.5) / 32 - 1
    u, v = (a.ravel() for a in np.meshgrid(line, line))
    extinction = c.cloud_base[e] * c.view.factor(np.full(len(u), e), u, v)
    assert extinction.min() > 0
    quadratic = np.stack([np.ones_like(u), u, v, u * u, u * v, v * v], axis=1)
    left = extinction - quadratic @ np.linalg.lstsq(quadratic, extinction, rcond=None)[0]
    assert 0.05 < left.std() / extinction.std() < 0.8


def test_screens_have_unit_rms_in_a_field_and_steep_spectrum() -> None:
    screens = Screens.draw(np.random.default_rng(0), smears=(0.0,))
    field = screens.values[0].astype(float)
    patches = field.reshape(8, 64, 8, 64)
    assert patches.var(axis=(1, 3)).mean() == pytest.approx(1, rel=1e-3)
    power = np.abs(np.fft.fft2(field)) ** 2
    k = np.hypot(*np.meshgrid(*[np.fft.fftfreq(512, 1 / 512)] * 2))
    low, high = power[(k > 8) & (k < 12)].mean(), power[(k > 24) & (k < 36)].mean()
    assert np.log(low / high) / np.log(3) == pytest.approx(11 / 3, abs=0.4)


def test_clouds_are_correlated_in_time_and_absent_on_clear_nights() -> None:
    simulation = Simulation(SurveySpec(n_exposures=2000, nights=20, cloudy_nights=0.5, visits=20), 3)
    c = simulation.conditions
    by_night = [c.cloud[c.night == night] for night in np.unique(c.night)]
    clear = [night for night in by_night if (night == 0).all()]
    assert 8 <= len(clear) <= 13
    ln = np.log1p(np.concatenate([n for n in by_night if (n > 0).mean() > 0.5]))
    assert np.corrcoef(ln[:-1], ln[1:])[0, 1] > 0.6


def test_zeropoint_falls_with_airmass_by_the_extinction_coefficient() -> None:
    quiet = SurveySpec(
        n_exposures=400, nights=4, cloudy_nights=0.0, zero_drift=0.0, zero_jitter=0.0, aperture_loss=0.0, edge=0.0
    )
    truth = Simulation(quiet, 1).truth_exposures()
    airmass = Simulation(quiet, 1).exposures()["airmass"]
    np.testing.assert_allclose(truth["zeropoint"], 25.0 - truth["extinction_coefficient"] * (airmass - 1), atol=1e-12)
    assert airmass.min() >= 1
    assert airmass.max() < 2.5


def test_gradient_of_airmass_is_its_derivative() -> None:
    from calib.simulate.conditions import _airmass
    from calib.simulate.layouts import Pointings

    step = 1e-5
    ra, dec = np.array([30.0, 30.0 + step / np.cos(np.radians(-40.0)), 30.0]), np.array([-40.0, -40.0, -40.0 + step])
    zero = np.zeros(3, np.int64)
    # hours since transit of the first field are small enough that the limit on hour angles leaves them be
    x, east, north = _airmass(Pointings(ra, dec, zero, zero), np.full(3, 0.4), np.zeros(3))
    assert (x[1] - x[0]) / np.radians(step) == pytest.approx(east[0], rel=0.03)
    assert (x[2] - x[0]) / np.radians(step) == pytest.approx(north[0], rel=1e-3)


def test_blends_only_brighten_and_grow_with_seeing() -> None:
    seeing = np.linspace(0.6, 3, 20)
    response = blend(np.full(20, 0.2), np.full(20, 2.5), seeing)
    assert (response > 0).all()
    assert (np.diff(response) > 0).all()
    assert np.ptp(np.diff(response)) > 1e-3  # not linear
    assert response[-1] < 2.5 * np.log10(1.2)


@pytest.mark.parametrize("kind", range(1, len(KINDS)))
def test_light_curves_have_zero_mean_and_the_rms_told(kind: int) -> None:
    n = 20_000
    code, amplitude = np.full(n, kind), np.full(n, 0.5)
    curve = departure(code, amplitude, np.full(n, 0.7), np.zeros(n), 60_000 + 0.7 * (np.arange(n) + 0.5) / n)
    assert abs(curve.mean()) < 1e-5
    assert np.ptp(curve) == pytest.approx(0.5, rel=1e-6)
    assert curve.std() == pytest.approx(rms(code, amplitude)[0], rel=1e-3)


def test_counts_rise_steeply_and_faint_stars_come_and_go() -> None:
    made = simulate(SurveySpec(n_exposures=120, nights=12, cloudy_nights=0.0, mag_faint=22.0), 1)
    mag = made.truth_stars["mag"].to_numpy()
    ratio = ((mag > 18) & (mag < 19)).sum() / ((mag > 17) & (mag < 18)).sum()
    assert 1.6 < ratio < 2.4
    # depth = background noise of the exposures; the shallow ones miss faint stars that the deep ones see
    rows = made.measurements.join(made.truth_stars.select("star_id", M="mag"), on="star_id")
    per = (
        rows.group_by("exposure_id")
        .agg((pl.col("M") > 21.3).mean().alias("faint"), pl.len())
        .filter(pl.col("len") > 20)
    )
    per = per.join(made.exposures, on="exposure_id").sort(pl.col("sky") - 2.5 * pl.col("seeing").log10())
    assert per["faint"][: len(per) // 4].mean() < 0.9 * per["faint"][-len(per) // 4 :].mean()


def test_cells_are_the_same_however_they_are_reached() -> None:
    first, second = Simulation(PRESETS["demo"], 9), Simulation(PRESETS["demo"], 9)
    ra, dec = float(first.pointings.ra[0]), float(first.pointings.dec[0])
    stars = first.sky.near(ra, dec, 0.5)
    second.sky.near(ra, dec + 0.4, 0.5)
    np.testing.assert_array_equal(stars, second.sky.near(ra, dec, 0.5))
    assert len(np.unique(stars[Star.ID])) == stars.shape[1]
    assert (stars[Star.ID] < 2**53).all()
