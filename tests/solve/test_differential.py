"""Differential extinction is taken off before the solve, and put back into what is written."""

import numpy as np
import polars as pl
import pytest

from calib import Config, calibrate
from calib.apply import Applier
from calib.model.problem import Problem
from calib.solve.differential import SPREAD, USUAL, across_fields, extinction, surface_of
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


def test_a_plane_is_written_where_no_surface_is_solved_for():
    frame, exposures, _ = wide(1)
    config = Config(method="robust", score=False, surface="off")
    solution = calibrate(frame, exposures=exposures, config=config)
    assert np.abs(solution.frames["zeropoints"]["surface_x"].to_numpy()).mean() > 2e-3
    again, _ = Applier(solution)(read_measurements(frame, exposures=exposures))
    np.testing.assert_allclose(
        again["calibrated_mag"].to_numpy(), solution.measurements["calibrated_mag"].value, atol=1e-6
    )


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


def test_least_squares_alone_leaves_it():
    frame, exposures, _ = wide(1)
    solution = calibrate(frame, exposures=exposures, config=Config(method="wls", score=False))
    assert solution.diagnostics["model"]["differential_extinction"] is None


def turned(half, per, seed=3):
    """Problem and frame of four exposures of a field that was turned, and where, when and at what airmass they were."""
    rng = np.random.default_rng(seed)
    ra0, dec0, mjd = np.array([150.0, 160.0, 170.0, 180.0]), np.array([10.0, 40.0, 25.0, 55.0]), 60390.35 + np.arange(4)
    node = np.repeat(np.arange(4), per)
    xy, turn = rng.uniform(-1, 1, (node.size, 2)), rng.uniform(-np.pi, np.pi, 4)[node]
    dec = dec0[node] + half * (np.sin(turn) * xy[:, 0] + np.cos(turn) * xy[:, 1])
    ra = ra0[node] + half * (np.cos(turn) * xy[:, 0] - np.sin(turn) * xy[:, 1]) / np.cos(np.radians(dec))
    frame = pl.DataFrame(
        {"star_id": np.arange(node.size), "exposure_id": node, "x": 1000 * xy[:, 0], "y": 1000 * xy[:, 1],
         "ra": ra, "dec": dec, "mag": 15.0, "mag_err": 0.01}
    )  # fmt: skip
    measurements = read_measurements(frame)
    return Problem.of(measurements, ROBUST), measurements.frame, ra0, dec0, mjd


@pytest.mark.parametrize("half", [0.5, 3.5, 10.0])
def test_airmass_over_a_field_is_astropys_however_it_was_turned(half):
    problem, frame, ra0, dec0, mjd = turned(half, [400] * 4)
    over, found_half = across_fields(problem, frame, ra0, dec0, mjd, SITE)
    assert found_half == pytest.approx(half, rel=0.1)
    node, row = problem.graph.exposure, problem.graph.order
    expected = airmass(frame["ra"].to_numpy()[row], frame["dec"].to_numpy()[row], mjd[node], SITE)
    left = expected - surface_of(problem, over, slice(None))
    left -= (np.bincount(node, left) / 400)[node]
    about = expected - (np.bincount(node, expected) / 400)[node]
    assert left.std() < 0.08 * about.std()


def test_few_stars_tell_a_plane_and_fewer_nothing():
    problem, frame, ra0, dec0, mjd = turned(1.0, [40, 12, 3, 1])
    frame = frame.with_columns(ra=pl.when(pl.int_range(frame.height) == 5).then(None).otherwise("ra").fill_null(np.nan))
    over, _ = across_fields(problem, frame, ra0, dec0, mjd, SITE)
    assert (over[0] != 0).all()
    assert (over[1, :2] != 0).all()
    assert not over[1, 2:].any()
    assert not over[2:].any()
