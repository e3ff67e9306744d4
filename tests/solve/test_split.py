"""Held-out stars: halves of an ideal survey differ by their errors, and are compared on a common scale."""

import numpy as np
import pytest

from calib.config import Config
from calib.solve.methods import solve_wls
from calib.solve.split import LARGEST_PULL, Half, compare_halves, halves, score

PLAIN = Config(surface="off", seeing_response="off", extinction="off", score=False)


def test_halves_of_an_ideal_survey_agree_within_their_errors(survey, problem_of):
    pulls = []
    for seed in range(3):
        found = score(problem_of(survey(seed=seed, n_exposures=20)[0]), lambda p: solve_wls(p, PLAIN).half(), seed)
        pulls.append(found.pull)
    pulls = np.concatenate(pulls)
    assert np.sqrt(np.mean(pulls**2)) == pytest.approx(1.0, abs=0.12)


def test_errors_too_small_score_worse(survey, problem_of):
    problem = problem_of(survey(seed=1, scale=3.0)[0])

    def half(stars, factor):
        h = solve_wls(stars, PLAIN).half()
        return Half(h.zeropoint, h.error * factor, h.component)

    honest, bold, shy = (score(problem, lambda p, f=f: half(p, f), 1).score for f in (1.0, 0.3, 4.0))
    assert honest < min(bold, shy)


def test_halves_hold_every_measurement_once(survey, problem_of):
    problem = problem_of(survey(seed=2, bands=("g", "r"))[0])
    a, b = halves(problem, 3)
    assert a.m.size + b.m.size == problem.m.size
    rows = np.concatenate([a.graph.order, b.graph.order])
    np.testing.assert_array_equal(np.sort(rows), np.arange(problem.m.size))
    assert 0.3 < a.m.size / problem.m.size < 0.7
    # all bands of a star on one side
    assert not set(a.stars["star_id"]) & set(b.stars["star_id"])
    assert a.stars["star_id"].value_counts()["count"].unique().to_list() == [2]
    again, _ = halves(problem, 3)
    np.testing.assert_array_equal(again.m, a.m)
    other, _ = halves(problem, 4)
    assert other.m.size != a.m.size or not np.array_equal(other.m, a.m)


def test_components_are_brought_to_a_common_scale():
    component_a, component_b = np.repeat([0, 1], 5).astype(np.int32), np.repeat([0, 1, 2], [5, 3, 2]).astype(np.int32)
    rng = np.random.default_rng(0)
    z = rng.normal(size=10)
    a = Half(z + np.where(component_a == 0, 5.0, -7.0), np.full(10, 0.01), component_a)
    b = Half(z + np.array([1.0, 2.0, 30.0])[component_b], np.full(10, 0.01), component_b)
    found = compare_halves(a, b)
    np.testing.assert_array_equal(found.node, np.arange(8))  # a pair of components of two nodes says nothing
    np.testing.assert_allclose(found.pull, 0, atol=1e-9)
    assert found.score == pytest.approx(0.5 * np.log(2e-4))


def test_missing_nodes_and_wild_ones():
    component = np.zeros(8, np.int32)
    z, error = np.zeros(8), np.full(8, 0.01)
    b = z.copy()
    b[0], b[1] = np.nan, 1000.0
    found = compare_halves(Half(z, error, component), Half(b, error, component))
    assert 0 not in found.node
    assert found.score <= 0.5 * (np.log(2e-4) + LARGEST_PULL**2)
    nothing = compare_halves(Half(z, error, component), Half(np.full(8, np.nan), error, component))
    assert np.isnan(nothing.score)
    assert nothing.pull.size == 0
    assert nothing.summary()["n_exposures"] == 0


def test_summary():
    component = np.zeros(400, np.int32)
    rng = np.random.default_rng(1)
    a, b = (Half(rng.normal(0, 0.01, 400), np.full(400, 0.01), component) for _ in range(2))
    said = compare_halves(a, b).summary()
    assert said["pull_std"] == pytest.approx(1.0, abs=0.1)
    assert said["coverage_68"] == pytest.approx(0.683, abs=0.06)
    assert said["coverage_95"] == pytest.approx(0.95, abs=0.03)
    assert said["rms_difference_mag"] == pytest.approx(0.01, rel=0.1)
