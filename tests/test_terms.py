"""Parts of a solution's tables that need no whole solve to judge."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from calib import Config, calibrate
from calib.model.problem import Problem
from calib.solve.methods import solve_robust
from calib.tables import read_measurements
from calib.terms import term_rows


@pytest.fixture(scope="module")
def nights():
    """Two nights of two fields that share no star: three exposures of each field in the first, the first alone then."""
    rng = np.random.default_rng(3)
    rows, exposures = [], []
    for e, (field, night) in enumerate([(0, 1)] * 3 + [(1, 1)] * 3 + [(0, 2)] * 4):
        exposures.append({"exposure_id": e, "night": night, "airmass": 1.0 + 0.1 * e, "seeing": 1.0 + 0.05 * (e % 4)})
        star = np.arange(30) + 100 * field
        mag = 15.0 + star / 100 + rng.normal(size=30) * 0.01
        rows.append(pl.DataFrame({"star_id": star, "exposure_id": [e] * 30, "mag": mag, "mag_err": [0.01] * 30}))
    problem = Problem.of(read_measurements(pl.concat(rows), exposures=pl.DataFrame(exposures)), Config())
    return problem, solve_robust(problem, Config(method="robust", score=False, extinction="on"))


def test_errors_of_terms_grow_with_those_of_the_zeropoints(nights):
    problem, solved = nights
    bare = term_rows(problem, replace(solved, inflation=np.ones(2)))
    grown = term_rows(problem, replace(solved, inflation=np.array([3.0, 1.0])))
    assert bare["name"].to_list() == ["extinction", "extinction", "seeing"]
    ratio = (grown["err"] / bare["err"]).to_numpy()
    # three of the first night's six exposures are of the first component, all of the second's, seven of all ten
    np.testing.assert_allclose(ratio**2, [(9 + 1) / 2, 9, (7 * 9 + 3) / 10], rtol=1e-12)
    assert grown["value"].equals(bare["value"])


def test_nights_whose_exposures_have_times_have_a_drift(nights):
    problem, _ = nights
    timed = replace(problem, mjd=60_000.0 + problem.night + 0.02 * np.arange(10))
    rows = term_rows(timed, solve_robust(timed, Config(method="robust", score=False, extinction="on")))
    assert rows["name"].to_list() == ["extinction", "extinction_drift"] * 2 + ["seeing"]
    drift = rows.filter(pl.col("name") == "extinction_drift")
    assert drift["night"].to_list() == [1, 2]
    assert (drift["value"].abs() < 2.5 * drift["err"]).all()


def test_a_cloud_that_comes_up_while_the_airmass_changes_is_a_cloud():
    """Half a night under a thickening cloud is neither extinction nor a drift of it."""
    rng = np.random.default_rng(11)
    n_nights, each, n_stars = 4, 24, 60
    rows, exposures, cloud = [], [], []
    for e in range(n_nights * each):
        night, step = divmod(e, each)
        hour = 8.0 * step / (each - 1)
        airmass = 1.0 + 0.02 * (hour - 4.0) ** 2
        cloud.append(0.02 * max(hour - 3.0, 0.0) if night == 2 else 0.0)
        exposures.append({"exposure_id": e, "mjd": 60_000.2 + night + hour / 24, "night": night, "airmass": airmass})
        lost = cloud[-1] + 0.15 * (airmass - 1.0) + 0.001 * rng.normal()
        star = np.arange(n_stars)
        mag = 15.0 + star / 20 + lost + 0.005 * rng.normal(size=n_stars)
        one = {"star_id": star, "exposure_id": [e] * n_stars, "mag": mag, "mag_err": [0.005] * n_stars}
        rows.append(pl.DataFrame(one))
    solution = calibrate(pl.concat(rows), pl.DataFrame(exposures), config=Config(method="robust", score=False))
    found = solution.frames["zeropoints"]
    error = found["cloud_extinction"].to_numpy() - np.array(cloud)
    assert np.abs(error).max() < 0.006
    assert (np.abs(error) < 2.5 * found["cloud_extinction_err"].to_numpy()).all()
    terms = solution.frames["terms"]
    drift = terms.filter(pl.col("name") == "extinction_drift")
    assert (np.abs(drift["value"].to_numpy()) < 2.5 * drift["err"].to_numpy()).all()
    assert drift["err"].max() < 0.003
    k = terms.filter(pl.col("name") == "extinction")
    assert (np.abs(k["value"].to_numpy() - 0.15) < 2.5 * k["err"].to_numpy()).all()
