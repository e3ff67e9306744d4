from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose

from calib import Config
from calib.model.problem import Problem
from calib.simulate import PRESETS, simulate
from calib.solve.methods import solve_robust
from calib.solve.normal import NormalEquations, Prior
from calib.solve.sampled import NotConverged, Perturbation, covariance, sampled_spread, zeropoint_covariance
from calib.solve.system import System
from calib.tables import read_measurements

CASES = {
    "scalar": {"K": 1},
    "islands": {"K": 1, "islands": 2},
    "response": {"K": 1, "P": 2},
    "background": {"K": 2},
    "plane": {"K": 3, "P": 2, "hubs": True, "tied": True},
}


def _dense(system):
    n = system.shape[0] * system.shape[1]
    unit = np.eye(n).reshape(n, *system.shape)
    L = np.stack([system.apply(e).ravel() for e in unit], 1)
    M = np.stack([system.centred(e).ravel() for e in unit], 1)
    return L, M @ np.linalg.pinv(L, rcond=1e-13, hermitian=True) @ M.T


@pytest.mark.parametrize("case", CASES)
def test_draws_have_the_covariance_of_the_matrix(make, case):
    equations = make(seed=7, n_nodes=5, n_stars=25, **CASES[case]).equations
    system = System(equations)
    L, _ = _dense(system)
    perturbation = Perturbation(equations, seed=1)
    draws = np.stack([perturbation.draw().ravel() for _ in range(4000)])
    scale = np.sqrt(np.outer(np.diag(L), np.diag(L)))
    known = scale > 0
    got = draws.T @ draws / len(draws)
    assert (np.abs(got - L)[known] / scale[known]).max() < 5 / np.sqrt(4000)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("engine", ["direct", "multigrid", "matrix_free"])
def test_covariance_is_exact(make, case, engine):
    equations = make(seed=7, **CASES[case]).equations
    system = System(equations)
    _, C = _dense(system)
    n, K = system.shape
    nodes = np.array([3, 0, 5])
    got = covariance(equations, nodes, engine=engine)
    wanted = C.reshape(n, K, n, K)[nodes][:, :, nodes]
    assert_allclose(got, wanted, atol=2e-6 * np.abs(wanted).max())


def test_covariance_of_no_such_node_is_refused(make):
    with pytest.raises(IndexError, match="nodes lie in 0 to 8"):
        covariance(make().equations, np.array([9]))


@pytest.mark.parametrize("case", CASES)
def test_sampled_spread_is_unbiased(make, case):
    """Every variance within five of its own errors, of sqrt(2 / draws)."""
    problem = make(seed=9, **CASES[case])
    equations = problem.equations
    spread = sampled_spread(equations, draws=400, seed=3)
    n, K = System(equations).shape
    _, C = _dense(System(equations))
    exact = np.einsum("ekek->ek", C.reshape(n, K, n, K))
    known = exact > 1e-15
    limit = 5 * np.sqrt(2 / 400)
    assert (np.abs(np.einsum("ekk->ek", spread.node) / np.where(known, exact, 1.0) - 1.0)[known]).max() < limit
    wanted = equations.spread().prediction
    used = np.isfinite(wanted) & np.isfinite(spread.prediction) & (wanted > 0)
    assert used.mean() > 0.8
    assert np.abs(spread.prediction[used] / wanted[used] - 1.0).max() < limit


def _mesh(seed=0, side=14, per_exposure=60):
    """Exposures of a dithered mosaic, each star in those that hold it."""
    from calib.solve.design import Design
    from graphs import MeasurementGraph

    rng = np.random.default_rng(seed)
    n_nodes = side * side * 4
    place = rng.uniform(0, side, (n_nodes, 2))
    sky = rng.uniform(0, side, (n_nodes * per_exposure // 4, 2))
    star, node = np.nonzero((np.abs(sky[:, None] - place[None]) < 0.6).all(2))
    graph = MeasurementGraph.from_codes(star.astype(np.int32), node.astype(np.int32), len(sky), n_nodes)
    design = Design(graph)
    w = 1 / rng.uniform(0.005, 0.05, graph.n_measurements) ** 2
    return NormalEquations(design, rng.normal(size=w.size), w, Prior.none(design))


def test_rao_blackwell_halves_the_error():
    """128 draws: 0.12 of the variance plain, 0.06 given the neighbours (METHODS)."""
    equations = _mesh()
    exact = equations.spread().node[:, 0, 0]
    linked = equations.topology.component == np.bincount(equations.topology.component).argmax()
    spread = sampled_spread(equations, draws=128, seed=1)
    better = (spread.node[:, 0, 0] / exact - 1.0)[linked]
    system = System(equations)
    perturbation = Perturbation(equations, seed=1)
    plain = np.zeros(linked.size)
    for _ in range(128):
        plain += system.centred(system.factor.solve(system.consistent(perturbation.draw())))[:, 0] ** 2 / 128
    worse = (plain / exact - 1.0)[linked]
    assert 0.08 < np.sqrt(np.mean(worse**2)) < 0.16
    assert np.sqrt(np.mean(better**2)) < 0.075
    assert abs(better.mean()) < 0.05


def test_a_solve_that_fails_is_said(make):
    problem = make()
    problem.w = problem.w.copy()
    problem.w[5] = np.nan
    with pytest.raises(NotConverged, match="not finite"):
        covariance(problem.equations, np.array([0]))


SURVEYS = {
    "demo": {"bands": ("g",), "n_exposures": 30},
    "islands": {"n_exposures": 40},
    "cloudy": {"n_exposures": 40},
}
"""Surfaces, responses to seeing and nights; islands have only nights, and these tie four components."""


@pytest.fixture(scope="module", params=SURVEYS)
def robust(request):
    """The equations of a robust solve of a simulated survey, that state its errors."""
    survey = simulate(replace(PRESETS[request.param], stars_per_exposure=80.0, **SURVEYS[request.param]), 1)
    surface = "off" if request.param == "islands" else "quadratic"
    config = Config(method="robust", surface=surface, seeing_response="on", max_passes=12, tolerance=0.5)
    problem = Problem.of(read_measurements(survey.measurements, exposures=survey.exposures), config)
    equations = solve_robust(problem, config).equations
    assert equations.topology.hubs.ties.any()
    assert not equations.topology.hubs.ties.all()
    assert equations.design.star_block == 2
    return equations


def _dense_in_components(equations):
    """``P L^- P'`` of the nodes, with P the mean of each component taken off."""
    system, component = System(equations), equations.topology.component
    n, K = system.shape
    L = np.stack([system.apply(e.reshape(n, K)).ravel() for e in np.eye(n * K)], 1)
    P = np.eye(n * K)
    for e in range(component.size):
        inside = np.flatnonzero(component == component[e])
        P[e * K, inside * K] -= 1.0 / inside.size
    return (P @ np.linalg.pinv(L, rcond=1e-12, hermitian=True) @ P.T).reshape(n, K, n, K)


@pytest.mark.parametrize("engine", ["direct", "cholespy", "multigrid", "matrix_free"])
def test_covariance_with_hubs_is_the_selected_inverse_and_the_dense_one(robust, engine):
    """A night's extinction and the slope with seeing do not move with the zero-points; its level does."""
    nodes = np.arange(0, robust.design.n_nodes, 13)
    got = covariance(robust, nodes, engine=engine)
    scale = np.sqrt(np.einsum("iaia->ia", got))
    wanted = _dense_in_components(robust)[nodes][:, :, nodes]
    assert np.abs((got - wanted) / np.multiply.outer(scale, scale)).max() < 1e-6
    exact = np.einsum("ekk->ek", robust.spread().node)[nodes]
    assert_allclose(scale**2, exact, rtol=1e-6)


def test_zeropoint_covariance_is_that_of_all_unknowns(robust):
    nodes = np.arange(robust.design.n_nodes)[::-1]
    got = zeropoint_covariance(robust, nodes)
    wanted = _dense_in_components(robust)[nodes, 0][:, nodes, 0]
    assert_allclose(got, wanted, atol=1e-8 * np.abs(wanted).max())
    assert_allclose(np.diag(got), robust.spread().node[nodes, 0, 0], rtol=1e-8)


def test_zeropoint_covariance_in_the_gauge_of_a_functional(robust):
    """One exposure of each component held: its variance is 0, the others' those of differences."""
    component = robust.topology.component
    functional = np.zeros_like(robust.mean_functional)
    held = np.unique(component, return_index=True)[1]
    functional[held, 0] = 1.0
    functional[held, 1:] = 0.3  # as at another place of the field
    nodes = np.arange(component.size)
    got = zeropoint_covariance(robust, nodes, functional=functional)
    exact = robust.spread(functional).node[nodes, 0, 0]
    assert_allclose(np.diag(got), exact, rtol=1e-7, atol=1e-7 * exact.max())


def test_sampled_spread_with_hubs(robust):
    exact, spread = robust.spread(), sampled_spread(robust, draws=200, seed=2)
    n, limit = robust.design.n_nodes, 5 * np.sqrt(2 / 200)
    for got, wanted in (
        (np.einsum("ekk->ek", spread.node)[:n], np.einsum("ekk->ek", exact.node)[:n]),
        (spread.star[:, 0], exact.star[:, 0]),
        (spread.prediction, exact.prediction),
    ):
        known = np.isfinite(wanted) & (wanted > 0)
        assert known.mean() > 0.9
        assert np.abs(got[known] / wanted[known] - 1.0).max() < limit
