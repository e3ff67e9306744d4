"""What exposures do to stars by their magnitude: found where it is, not found where it is not, taken off every row."""

import numpy as np
import polars as pl
import pytest

from calib import Config, calibrate
from calib.apply import Applier
from calib.model.by_magnitude import MAGNITUDE_COLUMNS, MOST_FLUX, SHAPES
from calib.model.catalogue import with_catalogue
from calib.model.problem import Problem
from calib.solve.anchoring import anchored_by_catalogue
from calib.solve.by_magnitude import by_magnitude, seen_in
from calib.solve.kernels import basis
from calib.solve.methods import refit, solve_robust
from calib.solve.normal import Topology
from calib.solve.robust import absolute_start
from calib.solve.select import design_of, robust_fit
from calib.solve.split import halves
from calib.tables import read_measurements

ROBUST = Config(method="robust", score=False)
WITHOUT = Config(method="robust", score=False, magnitude_term="off")
ZERO_FLUX = 3.631e12

SIZES = {"background": 300.0, "slope": 0.01, "nonlinearity": 0.02}
"""Standard deviations: nJy, mag a magnitude, mag a mJy."""
COLUMN = {"background": "background", "slope": "magnitude_slope", "nonlinearity": "nonlinearity"}
PIVOT = 19.5


def survey(seed, shape="background", size=None, n_exposures=30, n_stars=400, offset=0.0):
    """Table of a survey whose exposures have so much of a shape; zero-points, and how much."""
    rng = np.random.default_rng(seed)
    exposure = np.repeat(np.arange(n_exposures), n_stars // 2)
    star = np.concatenate([rng.choice(n_stars, n_stars // 2, replace=False) for _ in range(n_exposures)])
    magnitude = rng.uniform(17, 22, n_stars)
    size = SIZES[shape] if size is None else size
    z, b = rng.normal(0, 0.3, n_exposures), size * rng.normal(size=n_exposures)
    truth = ZERO_FLUX * 10 ** (-0.4 * (magnitude[star] + offset))
    sigma = np.hypot(0.004 * truth, 500.0)
    flux = truth + sigma * rng.normal(size=star.size)
    if shape == "background":
        flux += b[exposure]
    mag = -2.5 * np.log10(np.maximum(flux, 1.0) / ZERO_FLUX) - z[exposure]
    if shape == "slope":
        mag -= b[exposure] * (magnitude[star] - PIVOT)
    if shape == "nonlinearity":
        mag -= b[exposure] * truth / 1e6
    frame = pl.DataFrame(
        {"star_id": star, "exposure_id": exposure, "mag": mag, "mag_err": 2.5 / np.log(10) * sigma / truth}
    )
    return frame, z, b


def errors(solution, z):
    table = solution.frames["zeropoints"]
    gap = table["zeropoint"].to_numpy() - z[table["exposure_id"]]
    return gap - gap.mean(), table["zeropoint_err"].to_numpy()


def carried(solution):
    return {c for c in MAGNITUDE_COLUMNS if c in solution.frames["zeropoints"].columns}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_term_is_found_for_what_it_is_and_zeropoints_freed_of_it(shape):
    ratio, pulls, correlation, found_it = [], [], [], 0
    for seed in range(8):
        frame, z, truth = survey(seed, shape)
        solution = calibrate(frame, config=ROBUST)
        found_it += COLUMN[shape] in carried(solution)
        if shape == "slope":  # whose zero-points are those of stars at the pivot
            z = z + truth * (solution.frames["zeropoints"]["slope_pivot"].to_numpy() - PIVOT)
        gap, stated = errors(solution, z)
        ratio.append(gap.std() / errors(calibrate(frame, config=WITHOUT), z)[0].std())
        pulls.append(gap / stated)
        if COLUMN[shape] in carried(solution):
            found = solution.frames["zeropoints"][COLUMN[shape]].to_numpy()
            correlation.append(np.corrcoef(found, truth)[0, 1])
            slope = np.polyfit(truth - truth.mean(), found - found.mean(), 1)[0]
            assert slope == pytest.approx(1.0, abs=0.25)  # in its unit: the magnitudes are on the scale of the truth
    assert found_it == 8
    assert np.median(ratio) < 0.75
    assert np.std(pulls) == pytest.approx(1.0, abs=0.15)
    assert min(correlation) > 0.9


@pytest.mark.parametrize("seed", range(4))
def test_where_there_is_none_none_is_carried(seed):
    solution = calibrate(survey(seed, size=0.0)[0], config=ROBUST)
    assert not carried(solution)
    names = [shape.name for shape in SHAPES.values()]
    assert not any(t["carried"] and any(n in t["terms"] for n in names) for t in solution.diagnostics["terms_tried"])


def test_the_wrong_shape_moves_zeropoints_and_the_right_one_has_the_evidence():
    """The magnitude equation of plates, taken for a background, moves zero-points to those of the brightest stars."""
    worse, evidence = [], []
    for seed in range(4):
        frame, z, _ = survey(seed, "slope")
        right = calibrate(frame, config=ROBUST)
        wrong = calibrate(frame, config=Config(method="robust", score=False, magnitude_term="background"))
        worse.append(errors(wrong, z)[0].std() / errors(right, z)[0].std())
        tried = [{t["terms"]: t["log_evidence"] for t in s.diagnostics["terms_tried"]} for s in (right, wrong)]
        evidence.append(tried[0]["no surface + slope with magnitude"] - tried[1]["no surface + background"])
    assert min(evidence) > 0
    assert np.median(worse) > 1.5


@pytest.mark.parametrize("shape", SHAPES)
def test_it_can_be_asked_for_and_refused(shape):
    assert not carried(calibrate(survey(1, shape)[0], config=WITHOUT))
    quiet, _, _ = survey(1, size=0.0)
    asked = calibrate(quiet, config=Config(method="robust", score=False, magnitude_term=shape))
    assert np.isfinite(asked.frames["zeropoints"][COLUMN[shape]].to_numpy()).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_measurements_and_apply_take_it_off(shape):
    frame, _, _ = survey(2, shape)
    solution = calibrate(frame, config=ROBUST)
    table = solution.measurements
    plain = calibrate(frame, config=WITHOUT).measurements
    rank = frame["mag_err"].rank().to_numpy() / frame.height  # faint stars have large errors
    end = rank > 0.8 if shape == "background" else rank < 0.2
    middle = (rank > 0.2) & (rank < 0.6)
    exposure = frame["exposure_id"].to_numpy()

    def spread(values):
        residual = np.asarray(values["residual"].value)
        of = [np.bincount(exposure[k], residual[k]) / np.bincount(exposure[k]) for k in (end, middle)]
        return np.std(of[0] - of[1])

    assert spread(table) < 0.5 * spread(plain)
    again, _ = Applier(solution)(read_measurements(frame))
    np.testing.assert_allclose(again["calibrated_mag"].to_numpy(), table["calibrated_mag"].value, atol=1e-6)


def test_a_written_slope_is_the_one_that_was_fitted():
    """What the table adds to a star, about the pivot, is what the fit's coefficient times g adds."""
    frame, z, truth = survey(3, "slope")
    table = calibrate(frame, config=ROBUST).frames["zeropoints"]
    pivot = table["slope_pivot"].to_numpy()
    assert np.ptp(pivot) == 0.0  # one component
    at_pivot = table["zeropoint"].to_numpy() - z + truth * (PIVOT - pivot)
    at_truth = table["zeropoint"].to_numpy() - z
    # zero-points are those of stars at the pivot; elsewhere the slope tells the rest
    assert np.std(at_pivot) < 0.004
    assert np.std(at_truth + table["magnitude_slope"].to_numpy() * (PIVOT - pivot)) < 0.004


@pytest.mark.parametrize("shape", SHAPES)
def test_g_does_not_know_a_components_scale(shape):
    """Fields that share no star have scales of their own; the faint end is each one's own."""
    one, _, _ = survey(3)
    other, _, _ = survey(4, offset=3.0)
    both = pl.concat([one, other.with_columns(pl.col("star_id") + 10_000, pl.col("exposure_id") + 1000)])
    problem = Problem.of(read_measurements(both), ROBUST)
    plain = design_of(problem, 0)
    g = by_magnitude(shape, problem, absolute_start(plain, problem.m, problem.err, Topology(plain))).g
    first, quantile = problem.graph.exposure < 30, SHAPES[shape].quantile
    at_pivot = quantile if shape != "nonlinearity" else 1 - quantile  # its g falls with the magnitude
    expected = 0.0 if shape == "slope" else 1.0
    assert np.quantile(g[first], at_pivot) == pytest.approx(expected, abs=0.03)
    assert np.quantile(g[~first], at_pivot) == pytest.approx(expected, abs=0.03)
    assert np.abs(g).max() <= MOST_FLUX


@pytest.mark.parametrize("shape", SHAPES)
def test_a_half_of_the_stars_is_solved_with_it(shape):
    frame, _, truth = survey(5, shape)
    problem = Problem.of(read_measurements(frame), ROBUST)
    fit, _ = robust_fit(problem, ROBUST)
    assert fit.design.by_magnitude is not None
    for half in halves(problem, 0):
        again = refit(half, fit, ROBUST)
        assert again.design.by_magnitude is not None
        assert again.design.by_magnitude.shape == shape
        assert np.corrcoef(again.estimate.theta[:30, -1], truth)[0, 1] > 0.8


def test_residuals_show_it_before_it_is_tried():
    """Always where it is, and for what it is; where it is not, less often than not."""
    shown = dict.fromkeys([*SHAPES, "none"], 0)
    for shape in shown:
        for seed in range(10):
            frame = survey(seed, size=0.0)[0] if shape == "none" else survey(seed, shape, n_stars=200)[0]
            problem = Problem.of(read_measurements(frame), ROBUST)
            fit, _ = robust_fit(problem, WITHOUT)
            plain = design_of(problem, 0)
            start = absolute_start(plain, problem.m, problem.err, Topology(plain))
            seen = [term.shape for term in seen_in(fit, problem, start)]
            shown[shape] += bool(seen) if shape == "none" else seen[:1] == [shape]
    assert [shown[shape] for shape in SHAPES] == [10, 10, 10]
    assert shown["none"] <= 3


@pytest.mark.parametrize("shape", SHAPES)
def test_errors_against_a_catalogue_are_of_the_zeropoint_alone(shape):
    """No exposure does anything to a catalogue's stars: g of its rows, and of its gauge, is zero."""
    frame, z, _ = survey(4, shape)
    stars = frame.with_columns(m=pl.col("mag") + pl.Series(z[frame["exposure_id"].to_numpy()]))
    reference = stars.group_by("star_id").agg(mag=pl.col("m").median()).sort("star_id").with_columns(mag_err=0.02)
    nights = frame.with_columns(night=pl.col("exposure_id") // 10, airmass=1.0 + pl.col("exposure_id") % 10 * 0.1)
    config = Config(method="robust", score=False, magnitude_term=shape, extinction="on")
    problem = with_catalogue(Problem.of(read_measurements(nights), config), reference)
    _, functional = anchored_by_catalogue(problem, solve_robust(problem, config))
    np.testing.assert_array_equal(functional[30], [1.0, 0.0])
    table = calibrate(nights, reference=reference, config=config).frames["zeropoints"]
    assert table["anchored"].all()
    assert (table["zeropoint_err"] < 0.02).all()


def test_a_basis_without_g_is_refused_and_not_read_past_its_end():
    with pytest.raises(ValueError, match="g beside the places"):
        basis(np.zeros((1, 2), np.float32), 2, np.zeros(2))
    np.testing.assert_array_equal(basis(np.full((1, 3), 0.5, np.float32), 2, np.zeros(2)), [[1.0, 0.5]])
