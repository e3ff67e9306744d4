from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from scipy import sparse
from scipy.sparse.linalg import lsmr

from calib.config import Config
from calib.model.problem import Problem
from calib.simulate import PRESETS, Survey, simulate
from calib.simulate.bounds import bounds, clip_solve, exact_solve, zeropoint_errors
from calib.tables import read_measurements


@pytest.fixture(scope="module")
def survey() -> Survey:
    return simulate(replace(PRESETS["dirty"], n_exposures=60, nights=6), 2)


@pytest.fixture(scope="module")
def problem(survey: Survey) -> Problem:
    return Problem.of(read_measurements(survey.measurements, exposures=survey.exposures), Config())


@pytest.fixture(scope="module")
def truth(survey: Survey, problem: Problem) -> np.ndarray:
    nodes = problem.nodes.select("exposure_id", pl.col("band").cast(pl.String))
    joined = nodes.join(survey.truth_exposures, on=["exposure_id", "band"], how="left", maintain_order="left")
    return joined["zeropoint"].to_numpy()


def test_exact_solve_is_least_squares(problem: Problem) -> None:
    w = 1.0 / problem.err.astype(float) ** 2
    z, _ = exact_solve(problem, problem.m, w)
    star, stars = problem.graph.star(), problem.graph.n_stars
    rows, ones = np.arange(problem.m.size), np.ones(problem.m.size)
    design = sparse.csr_array(
        (np.concatenate([ones, -ones]), (np.tile(rows, 2), np.concatenate([star, stars + problem.graph.exposure])))
    )
    root = np.sqrt(w)
    found = lsmr(sparse.diags_array(root) @ design, root * problem.m, atol=1e-15, btol=1e-15, conlim=0, maxiter=5000)
    theirs = found[0][stars:]
    component = problem.graph.exposure_graph().components()
    mean = np.bincount(component, weights=theirs) / np.bincount(component)
    np.testing.assert_allclose(z, theirs - mean[component], atol=1e-8)


def test_more_knowledge_is_better(problem: Problem, survey: Survey, truth: np.ndarray) -> None:
    component = problem.graph.exposure_graph().components()
    known = bounds(problem, survey.truth_measurements)
    reported, _ = exact_solve(problem, problem.m, 1.0 / problem.err.astype(float) ** 2)
    wls, clipped, weights, noise = (
        zeropoint_errors(z, truth, component).rms for z in (reported, clip_solve(problem), known.weights, known.noise)
    )
    assert noise < weights < clipped < wls


def test_noise_floor_has_true_errors(problem: Problem, survey: Survey, truth: np.ndarray) -> None:
    """Without noise nothing is left but the zero-points themselves."""
    silent = survey.truth_measurements
    row = problem.input_row
    m = problem.m - sum(silent[c].to_numpy()[row] for c in ("systematic", "outlier_offset", "noise"))
    z, _ = exact_solve(problem, m, 1.0 / silent["sigma"].to_numpy()[row] ** 2)
    component = problem.graph.exposure_graph().components()
    assert zeropoint_errors(z, truth, component).rms < 1e-9


def test_zeropoint_errors_by_component() -> None:
    rng = np.random.default_rng(1)
    n = 20_000
    component = np.arange(n) % 2
    err = rng.uniform(0.001, 0.01, n)
    z = err * rng.standard_normal(n) + component * 3.0
    got = zeropoint_errors(z, np.zeros(n), component, err)
    assert got.n == n
    assert got.pull_std == pytest.approx(1.0, abs=0.02)
    assert got.coverage_68 == pytest.approx(0.683, abs=0.01)
    assert got.coverage_95 == pytest.approx(0.95, abs=0.005)
    z[:10] = np.nan
    assert zeropoint_errors(z, np.zeros(n), component).n == n - 10
    assert np.isnan(zeropoint_errors(z[:4], np.zeros(4), component[:4]).rms)
