"""Rows under a wrong star's name are told by their place on the sky, counted and kept out."""

import numpy as np
import polars as pl
import pytest

from calib import Config, calibrate
from calib.tables import read_measurements
from calib.tables.misplaced import FEW_ROWS, LEAST_DEG, TIMES_USUAL, many_misplaced, mark_misplaced
from calib.tables.reasons import CODES, count_reasons


def table(seed=0, n_stars=60, visits=6, jitter=0.05 / 3600, ra=10.0):
    rng = np.random.default_rng(seed)
    star = np.repeat(np.arange(n_stars), visits)
    at = np.stack([ra + rng.uniform(-0.2, 0.2, n_stars), 40.0 + rng.uniform(-0.2, 0.2, n_stars)])
    place = at[:, star] + jitter * rng.normal(size=(2, star.size))
    return pl.DataFrame(
        {
            "star_id": star, "exposure_id": np.tile(np.arange(visits), n_stars), "mag": 16.0 + 0.01 * star,
            "mag_err": 0.01, "ra": place[0] % 360.0, "dec": place[1],
        }
    )  # fmt: skip


def slow(frame):
    """Which rows lie too far from their star's median row, one star at a time, on the sphere."""
    from astropy.coordinates import SkyCoord

    sky = SkyCoord(frame["ra"].to_numpy(), frame["dec"].to_numpy(), unit="deg")
    distance = np.zeros(frame.height)
    for star in frame["star_id"].unique():
        rows = np.flatnonzero((frame["star_id"] == star).to_numpy())
        east = (frame["ra"].to_numpy()[rows] - frame["ra"][int(rows[0])] + 180) % 360 - 180
        middle = rows[np.argsort(east, kind="stable")[(rows.size - 1) // 2]]
        distance[rows] = sky[rows].separation(sky[middle]).deg
    return distance > max(LEAST_DEG, TIMES_USUAL * np.median(distance))


@pytest.mark.parametrize("ra", [10.0, 0.0])
def test_rows_of_another_star_are_found(ra):
    frame = table(ra=ra).sample(fraction=1.0, shuffle=True, seed=1)
    star = frame["star_id"].to_numpy().copy()
    wrong = np.random.default_rng(2).choice(star.size, 25, replace=False)
    star[wrong] = (star[wrong] + 17) % 60
    frame = frame.with_columns(star_id=star)
    reason = np.zeros(frame.height, np.uint8)
    mark_misplaced(frame, reason)
    found = reason == CODES["misplaced"]
    np.testing.assert_array_equal(found, slow(frame))
    np.testing.assert_array_equal(np.flatnonzero(found), np.sort(wrong))


def test_motion_and_a_rough_astrometry_are_no_fault():
    moved = table().with_columns(ra=pl.col("ra") + pl.col("exposure_id") * 0.5 / 3600)
    rough = table(jitter=8.0 / 3600)
    for frame in (moved, rough, table(visits=2), table(visits=1)):
        reason = np.zeros(frame.height, np.uint8)
        mark_misplaced(frame, reason)
        assert not reason.any()


def test_unknown_places_and_rows_already_out_say_nothing():
    frame = table().with_columns(
        ra=pl.when(pl.int_range(pl.len()) % 7 == 0).then(float("nan")).otherwise(pl.col("ra")),
        dec=pl.when(pl.int_range(pl.len()) == 8).then(pl.col("dec") + 1.0).otherwise(pl.col("dec")),
    )
    reason = np.zeros(frame.height, np.uint8)
    reason[8] = CODES["flagged"]
    mark_misplaced(frame, reason)
    assert np.flatnonzero(reason).tolist() == [8]
    assert reason[8] == CODES["flagged"]


def test_two_fields_joined_by_a_name_alone_stay_two():
    """A star of one field under the name of one in another would tie their scales by its magnitude."""
    one, other = table(1), table(2, ra=50.0)
    other = other.with_columns(pl.col("star_id") + 1000, pl.col("exposure_id") + 100, mag=pl.col("mag") + 2.0)
    frame = pl.concat([one, other]).with_columns(
        star_id=pl.when((pl.col("star_id") == 1003) & (pl.col("exposure_id") > 102)).then(5).otherwise("star_id")
    )
    measured = read_measurements(frame)
    assert count_reasons(measured.reason)["misplaced"] == 3
    solution = calibrate(frame, config=Config(method="robust", score=False))
    assert solution.diagnostics["counts"]["misplaced"] == 3
    assert len(solution.diagnostics["components"]) == 2
    rows = solution.measurements
    out = ~np.asarray(rows["used"])
    assert out.sum() == 3
    assert np.isfinite(rows["calibrated_mag"].value[out]).all()


def test_many_are_worth_a_warning():
    frame = pl.DataFrame({"detector": np.repeat([3, 4, 5], [2000, 2000, FEW_ROWS - 1])})
    reason = np.zeros(frame.height, np.uint8)
    reason[2000:2100] = CODES["flagged"]  # of no account
    assert many_misplaced(frame, reason) == []
    reason[:19] = reason[-20:] = CODES["misplaced"]
    assert many_misplaced(frame, reason) == []  # of 3,999; the last detector has too few rows to tell
    reason[19] = CODES["misplaced"]
    (said,) = many_misplaced(frame, reason)
    assert said.startswith("40 rows (1.0 %) misplaced")
    reason[-20:] = 0
    reason[:90] = CODES["misplaced"]
    assert many_misplaced(frame, reason)[0].startswith("90 rows (2.3 %) misplaced")
    reason[:140] = CODES["misplaced"]  # of the first of two detectors, which has half of the rows
    assert many_misplaced(frame, reason)[0].startswith("140 rows (3.5 %, 7 % of those of detector 3) misplaced")


def test_many_of_one_detector_are_worth_a_warning():
    frame = pl.DataFrame({"detector": np.repeat(np.arange(30), 400)})
    reason = np.zeros(frame.height, np.uint8)
    reason[400:420] = CODES["misplaced"]
    assert many_misplaced(frame, reason) == []
    reason[400:424] = CODES["misplaced"]
    (said,) = many_misplaced(frame, reason)
    assert said.startswith("24 rows (0.2 %, 6 % of those of detector 1) misplaced")


def test_the_warning_reaches_the_run_and_check():
    from calib.describe import describe

    frame = table()
    few, many = (frame.with_columns(dec=pl.when(pl.int_range(pl.len()) % n == 8).then(41.0).otherwise("dec"))
                 for n in (200, 50))  # fmt: skip
    config = Config(method="robust", score=False)
    for given, said in ((few, False), (many, True)):
        for warnings in (
            calibrate(given, config=config).diagnostics["warnings"], describe(read_measurements(given))["warnings"],
        ):  # fmt: skip
            assert any("misplaced" in w for w in warnings) is said
