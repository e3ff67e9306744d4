"""Differential extinction is taken off before the solve, and put back into what is written."""

import numpy as np
import polars as pl
import pytest

from calib import Config, calibrate
from calib.apply import Applier
from calib.model.problem import Problem
from calib.solve.differential import SPREAD, USUAL, extinction
from calib.tables import read_measurements
from calib.tables.airmass import airmass

SITE = (-116.86, 33.36)
ROBUST = Config(method="robust", score=False)
HALF = 3.5


def wide(seed, k=0.18, nights=3, n_stars=5000, measured=True, rounds=1):
    """Tables of a grid of seven-degree fields that overlap at their edges, seen in the west; and zero-points."""
    rng = np.random.default_rng(seed)
    centres = np.array([(160.0 + 6.2 * i, 12.0 + 6.2 * j) for j in range(3) for i in range(4)])
    ra = rng.uniform(154.0, 185.0, n_stars)
    dec = rng.uniform(8.0, 29.0, n_stars)
    magnitude = rng.uniform(14, 17, n_stars)
    field = np.tile(np.arange(len(centres)), nights * rounds)
    turn = np.arange(field.size) // len(centres)
    # each night begins when most of the grid has passed the meridian
    mjd = 60390.32 + turn // rounds + 0.1 * (turn % rounds) + 0.006 * field + 0.03 * rng.random(field.size)
    x = airmass(centres[field, 0], centres[field, 1], mjd, SITE)
    z = 0.5 - k * (x - 1.2) + rng.normal(0, 0.003, field.size)
    tables = []
    for e, f in enumerate(field):
        east = (ra - centres[f, 0]) * np.cos(np.radians(centres[f, 1]))
        on = np.flatnonzero((np.abs(east) < HALF) & (np.abs(dec - centres[f, 1]) < HALF))
        through = airmass(ra[on], dec[on], np.full(on.size, mjd[e]), SITE)
        mag = magnitude[on] - z[e] + k * (through - x[e]) + 0.006 * rng.normal(size=on.size)
        tables.append(
            pl.DataFrame({"star_id": on, "exposure_id": e, "ra": ra[on], "dec": dec[on], "mag": mag, "mag_err": 0.006})
        )
    exposures = pl.DataFrame({"exposure_id": np.arange(field.size), "mjd": mjd, **({"airmass": x} if measured else {})})
    exposures = exposures.with_columns(ra=pl.Series(centres[field, 0]), dec=pl.Series(centres[field, 1]))
    return pl.concat(tables), exposures, z


def rms(solution, z):
    table = solution.frames["zeropoints"]
    gap = table["zeropoint"].to_numpy() - z[table["exposure_id"]]
    return (gap - gap.mean()).std(), (gap - gap.mean()) / table["zeropoint_err"].to_numpy()


@pytest.mark.filterwarnings("ignore")
def test_zeropoints_of_wide_fields_are_freed_of_it():
    """Without it they follow a slope over the sky, which no overlap tells."""
    ratio, pulls = [], []
    for seed in range(3):
        frame, exposures, z = wide(seed)
        solution = calibrate(frame, exposures=exposures, config=ROBUST)
        found = solution.diagnostics["model"]["differential_extinction"]
        np.testing.assert_allclose(found["site"], SITE, atol=1.0)
        known, pull = rms(solution, z)
        unknown, _ = rms(calibrate(frame, exposures=exposures.drop("airmass"), config=ROBUST), z)
        ratio.append(known / unknown)
        pulls.append(np.std(pull))
    assert np.median(ratio) < 0.5
    assert max(pulls) < 1.3


@pytest.mark.filterwarnings("ignore")
def test_what_is_written_is_the_whole_plane():
    frame, exposures, _ = wide(1)
    solution = calibrate(frame, exposures=exposures, config=ROBUST)
    table = solution.measurements
    again, _ = Applier(solution)(read_measurements(frame, exposures=exposures))
    np.testing.assert_allclose(again["calibrated_mag"].to_numpy(), table["calibrated_mag"].value, atol=1e-6)
    # stars of an exposure are no fainter to the west, where they are seen through more air
    residual = np.asarray(table["residual"].value)
    low = frame["ra"].to_numpy() - exposures["ra"].to_numpy()[frame["exposure_id"].to_numpy()]
    assert abs(np.corrcoef(residual, low)[0, 1]) < 0.02
    surface = solution.frames["zeropoints"]["surface_x"].to_numpy()
    assert np.abs(surface).mean() > 2e-3


@pytest.mark.filterwarnings("ignore")
def test_a_plane_is_written_where_no_surface_is_solved_for():
    frame, exposures, _ = wide(1)
    config = Config(method="robust", score=False, surface="off")
    solution = calibrate(frame, exposures=exposures, config=config)
    assert np.abs(solution.frames["zeropoints"]["surface_x"].to_numpy()).mean() > 2e-3
    again, _ = Applier(solution)(read_measurements(frame, exposures=exposures))
    np.testing.assert_allclose(
        again["calibrated_mag"].to_numpy(), solution.measurements["calibrated_mag"].value, atol=1e-6
    )


@pytest.mark.filterwarnings("ignore")
def test_a_site_that_is_given_needs_no_airmass_and_off_is_off():
    frame, exposures, _ = wide(2, measured=False)
    config = Config(method="robust", score=False, site=list(SITE))
    found = calibrate(frame, exposures=exposures, config=config).diagnostics["model"]["differential_extinction"]
    np.testing.assert_allclose(found["site"], SITE)
    off = Config(method="robust", score=False, site=list(SITE), extinction="off")
    assert calibrate(frame, exposures=exposures, config=off).diagnostics["model"]["differential_extinction"] is None
    bare = calibrate(frame, exposures=exposures, config=ROBUST)
    assert bare.diagnostics["model"]["differential_extinction"] is None


def test_extinction_is_what_nights_agree_on_drawn_to_the_usual():
    for k in (0.0, 0.3):
        frame, exposures, _ = wide(3, k=k, nights=8, rounds=2)
        problem = Problem.of(read_measurements(frame, exposures=exposures), ROBUST)
        (found,), (error,) = extinction(problem, 1.0)
        assert abs(found - k) < 2.0 * error
        assert error < 0.6 * SPREAD
    frame, exposures, _ = wide(3)  # fields seen once a night, beside each other, say nothing
    for table in (exposures, exposures.drop("airmass")):
        problem = Problem.of(read_measurements(frame, exposures=table), ROBUST)
        assert extinction(problem, 1.0) == (pytest.approx([USUAL]), pytest.approx([SPREAD]))


@pytest.mark.filterwarnings("ignore")
def test_catalogues_have_no_field_to_see_air_through():
    frame, exposures, z = wide(1)
    rng = np.random.default_rng(0)
    magnitude = frame.with_columns(m=pl.col("mag") + pl.Series(z[frame["exposure_id"].to_numpy()]))
    reference = magnitude.group_by("star_id", maintain_order=True).agg(mag=pl.col("m").mean())
    reference = reference.with_columns(mag_err=0.01, mag=pl.col("mag") + 0.01 * rng.normal(size=reference.height))
    for extinction_is in ("auto", "on"):
        config = Config(method="robust", score=False, extinction=extinction_is)
        solution = calibrate(frame, exposures=exposures, reference=reference, config=config)
        table = solution.frames["zeropoints"]
        assert table["anchored"].all()
        assert np.abs(table["zeropoint"].to_numpy() - z[table["exposure_id"]]).max() < 0.02
        again, _ = Applier(solution)(read_measurements(frame, exposures=exposures))
        np.testing.assert_allclose(
            again["calibrated_mag"].to_numpy(), solution.measurements["calibrated_mag"].value, atol=1e-6
        )


@pytest.mark.filterwarnings("ignore")
def test_least_squares_alone_leaves_it():
    frame, exposures, _ = wide(1)
    solution = calibrate(frame, exposures=exposures, config=Config(method="wls", score=False))
    assert solution.diagnostics["model"]["differential_extinction"] is None
