import numpy as np
import pytest
from numpy.testing import assert_allclose

from calib.solve.normal import NormalEquations, Prior
from calib.solve.sampled import NotConverged, Perturbation, covariance, sampled_spread
from calib.solve.system import System

CASES = {
    "scalar": {"K": 1},
    "islands": {"K": 1, "islands": 2},
    "response": {"K": 1, "P": 2},
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
