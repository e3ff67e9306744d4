"""The wild bootstrap by clusters: it agrees with errors that are right, and sees what measurements share."""

import numpy as np
import polars as pl
import pytest

from calib.config import Config
from calib.solve.clusters import DRAWS, _bits, _keys, bootstrap_variances, patches, places_by_stars, wild_bootstrap
from calib.solve.methods import solve_wls
from calib.solve.normal import NormalEquations
from calib.solve.select import design_of

PLAIN = Config(surface="off", seeing_response="off", extinction="off", score=False)


def ratio(problem):
    solved = solve_wls(problem, PLAIN)
    eq = solved.equations
    (drawn,) = wild_bootstrap(
        eq, solved.fit.estimate.residual, solved.spread, eq.w, problem.err, [lambda: "star"], [5]
    )  # fmt: skip
    return np.median(drawn / solved.spread.node[:, 0, 0])


def test_bootstrap_agrees_with_errors_that_are_right(survey, problem_of):
    ratios = [ratio(problem_of(survey(seed=s, n_stars=400)[0])) for s in range(4)]
    assert np.mean(ratios) == pytest.approx(1.0, abs=0.1)


def test_bootstrap_sees_errors_that_are_too_small(survey, problem_of):
    assert ratio(problem_of(survey(seed=3, n_stars=400, scale=2.0)[0])) == pytest.approx(4.0, rel=0.2)


def test_bootstrap_sees_what_a_stars_residuals_share(survey, problem_of):
    frame, _ = survey(seed=2, n_stars=400)
    rng = np.random.default_rng(1)
    # each star is faint by its own amount in the first exposures: its residuals agree with each other
    star, node = frame["star_id"].to_numpy(), frame["exposure_id"].to_numpy()
    own = rng.normal(0, 0.03, 400)
    correlated = frame.with_columns(mag=frame["mag"].to_numpy() + own[star] * np.where(node < 6, 0.5, -0.5))
    independent = frame.with_columns(mag=frame["mag"].to_numpy() + rng.normal(0, 0.015, star.size))
    with_correlation, without = ratio(problem_of(correlated)), ratio(problem_of(independent))
    assert without > 1.2
    solved = solve_wls(problem_of(correlated), PLAIN)
    assert (solved.inflation > 1.2).all()
    assert with_correlation > 1.3


def test_the_same_seed_draws_the_same(survey, problem_of):
    problem = problem_of(survey(seed=4)[0])
    a, b = solve_wls(problem, PLAIN), solve_wls(problem, PLAIN)
    np.testing.assert_array_equal(a.inflation, b.inflation)
    assert a.bootstrap_ratio == b.bootstrap_ratio


def test_draws_are_those_of_signed_residuals(survey, problem_of):
    problem = problem_of(survey(seed=5, n_stars=40)[0])
    solved = solve_wls(problem, PLAIN)
    eq, residual = solved.equations, solved.fit.estimate.residual
    cluster = patches(eq.design, places_by_stars(eq.design))
    left = np.sqrt(1.0 - eq.w * solved.spread.prediction)
    drawn = []
    for k in range(DRAWS):
        sign = np.array([1.0 if (int(_bits(np.uint64(c), np.uint64(9))) >> k) & 1 else -1.0 for c in cluster])
        signed = NormalEquations(eq.design, residual / left * sign, eq.w, eq.prior, eq.topology)
        z = eq.factor.solve(signed.rhs)[: eq.design.n_nodes, 0]
        drawn.append(z - z.mean())
    expected = np.mean(np.square(drawn), axis=0)
    (got,) = wild_bootstrap(eq, residual, solved.spread, eq.w, problem.err, [lambda: cluster], [9])
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_signs_hang_on_no_name_and_no_zeropoint(survey, problem_of):
    frame, _ = survey(seed=7, n_stars=60)
    rng = np.random.default_rng(4)
    star, node = frame["star_id"].to_numpy(), frame["exposure_id"].to_numpy()
    other = frame.with_columns(
        star_id=rng.permutation(60)[star], exposure_id=rng.permutation(node.max() + 1)[node], mag=frame["mag"] + node
    ).sample(fraction=1.0, shuffle=True, seed=1)  # fmt: skip
    a, b = solve_wls(problem_of(frame), PLAIN), solve_wls(problem_of(other), PLAIN)
    np.testing.assert_allclose(a.inflation, b.inflation, rtol=1e-6)
    assert a.bootstrap_ratio == pytest.approx(b.bootstrap_ratio, rel=1e-6)


def test_stars_of_equal_errors_change_sign_on_their_own(survey, problem_of):
    frame, _ = survey(seed=8, n_stars=400)
    problem = problem_of(frame.with_columns(mag_err=0.01))
    solved = solve_wls(problem, PLAIN)
    stars, nodes = _keys(solved.fit.design, problem.err)
    assert np.unique(stars).size == stars.size
    assert np.unique(nodes).size == nodes.size


def test_a_large_survey_draws_the_same(survey, problem_of, monkeypatch):
    """Whether one factor serves all sides, or is made anew for each."""
    problem = problem_of(survey(seed=5, n_stars=200)[0])
    solved = solve_wls(problem, PLAIN)
    eq = solved.equations
    residual, band = solved.fit.estimate.residual, np.zeros(eq.design.n_nodes, np.int32)
    given = (eq, residual, solved.spread, eq.w, problem.err, band, 1)
    wanted = bootstrap_variances(*given)
    monkeypatch.setattr("calib.solve.clusters.LARGE", 1)
    for room in (1e9, 1.0):
        monkeypatch.setattr("calib.solve.clusters.SIDES_BYTES", room)
        np.testing.assert_array_equal(bootstrap_variances(*given), wanted)
        assert "factor" not in vars(eq)


def coherent_share(problem):
    solved = solve_wls(problem, PLAIN)
    _, variance = bootstrap_variances(
        solved.equations, solved.fit.estimate.residual, solved.spread, solved.equations.w, problem.err, problem.band, 3,
    )
    return float(np.mean(variance / solved.spread.node[:, 0, 0]))


def test_independent_noise_is_not_called_coherent(survey, problem_of):
    shares = [coherent_share(problem_of(survey(seed=s, n_stars=600)[0])) for s in range(6)]
    assert np.mean(shares) < 0.12


def mapped(seed, n_exposures=80, n_stars=900):
    """Table of fields of one degree beside and over each other, and where each row lies in its field, half fields."""
    rng = np.random.default_rng(seed)
    sky = rng.uniform(-1.5, 1.5, (n_stars, 2))
    middle = rng.uniform(-1.0, 1.0, (n_exposures, 2))
    exposure, star = np.nonzero((np.abs(sky[None] - middle[:, None]) < 0.5).all(2))
    magnitude, z = rng.uniform(15, 18, n_stars), rng.normal(0, 0.2, n_exposures)
    mag = magnitude[star] - z[exposure] + 0.01 * rng.normal(size=star.size)
    frame = pl.DataFrame({"star_id": star, "exposure_id": exposure, "mag": mag, "mag_err": 0.01})
    return frame, 2.0 * (sky[star] - middle[exposure])


def test_stars_that_exposures_share_tell_where_in_the_field_they_are(problem_of):
    """Up to a turn and a flip that all exposures have in common; to the edge where there is no neighbour, badly."""
    for seed in range(3):
        frame, truth = mapped(seed)
        problem = problem_of(frame)
        xy = places_by_stars(design_of(problem, 0))
        truth = truth[problem.graph.order]
        basis = np.column_stack([xy, np.ones(len(xy))])
        left = truth - basis @ np.linalg.lstsq(basis, truth, rcond=None)[0]
        assert (left.var(0) < 0.35 * truth.var(0)).all()


def test_places_by_stars_do_not_hang_on_names(problem_of):
    frame, _ = mapped(1, n_exposures=30)
    rng = np.random.default_rng(0)
    names = rng.permutation(5000)
    other = frame.with_columns(star_id=pl.Series(names[frame["star_id"].to_numpy()]))[rng.permutation(frame.height)]
    kept = []
    for table in (frame, other):
        problem = problem_of(table)
        xy = places_by_stars(design_of(problem, 0))
        row = np.lexsort((table["mag"].to_numpy()[problem.graph.order],))
        kept.append(np.abs(xy[row]))
    np.testing.assert_allclose(kept[0], kept[1], atol=1e-4)


def test_structure_that_part_of_a_field_shares_is_seen_without_places(problem_of):
    frame, place = mapped(6)
    rng = np.random.default_rng(2)
    fall = rng.normal(0, 0.02, (80, 2))  # across the field of each exposure
    shared = (fall[frame["exposure_id"].to_numpy()] * place).sum(1)
    alone = rng.permutation(shared)
    seen, unseen, none = (
        coherent_share(problem_of(frame.with_columns(mag=frame["mag"].to_numpy() + x)))
        for x in (shared, alone, np.zeros(frame.height))
    )
    assert seen > 2.0
    assert unseen < 0.3 * seen
    assert none < 0.15
