import numpy as np
import pytest
from numpy.testing import assert_allclose

from calib.solve.design import Design
from calib.solve.engines import Solver, choose, solve
from calib.solve.krylov import Reason, conjugate_gradients
from calib.solve.matrix_free import TorchOperator
from calib.solve.normal import NormalEquations, Prior
from calib.solve.system import System
from graphs import MeasurementGraph

ENGINES = ["direct", "cholespy", "multigrid", "matrix_free"]
CASES = {
    "scalar": {"K": 1},
    "islands": {"K": 1, "islands": 3, "isolated": 2},
    "response": {"K": 1, "P": 2},
    "held": {"K": 1, "anchors": True},
    "plane": {"K": 3, "hubs": True, "P": 2, "islands": 2},
    "tied": {"K": 3, "hubs": True, "tied": True, "islands": 2},
    "quadratic": {"K": 6, "P": 2, "anchors": True},
    "background": {"K": 2, "P": 2},
    "quadratic and background": {"K": 7, "hubs": True},
    "many visits": {"K": 1, "n_nodes": 40, "visits": 30, "n_stars": 80},
}


def _exact(system):
    """Dense ``P L^- P'`` and its diagonal, from products with unit vectors."""
    n = system.shape[0] * system.shape[1]
    L = np.stack([system.apply(e.reshape(system.shape)).ravel() for e in np.eye(n)], 1)
    M = np.stack([system.centred(e.reshape(system.shape)).ravel() for e in np.eye(n)], 1)
    return M @ np.linalg.pinv(L, rcond=1e-13, hermitian=True) @ M.T


def _small(star, node, m=None, w=None, n_nodes=None):
    star, node = np.array(star, np.int32), np.array(node, np.int32)
    n_stars = int(star.max(initial=-1)) + 1
    n_nodes = n_nodes or int(node.max(initial=-1)) + 1
    design = Design(MeasurementGraph.from_codes(star, node, n_stars, n_nodes))
    n = star.size
    m = np.arange(n) * 0.1 if m is None else np.array(m, float)
    return NormalEquations(design, m, np.ones(n) if w is None else np.array(w, float), Prior.none(design))


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.replace(" ", "_"))
@pytest.mark.parametrize("engine", ENGINES)
def test_engine_matches_dense_within_its_bound(make, case, engine):
    problem = make(seed=11, **CASES[case])
    equations = problem.equations
    system = System(equations)
    covariance = _exact(system)
    sigma = np.sqrt(np.maximum(np.diag(covariance), 1e-30))
    rng = np.random.default_rng(0)
    for rhs in (None, rng.normal(size=system.shape)):
        wanted = covariance @ (equations.rhs if rhs is None else rhs).ravel()
        solved = solve(equations, rhs, engine=engine, tolerance_sigma=1e-4)
        assert solved.converged, solved.why
        assert solved.engine == engine
        assert solved.error_sigma <= 1e-4
        worst = (np.abs(solved.theta.ravel() - wanted) / sigma)[sigma > 1e-12].max()
        assert worst <= solved.error_sigma + 1e-9 * np.abs(wanted).max() / sigma[sigma > 1e-12].min()


@pytest.mark.parametrize("assembled", [True, False])
def test_torch_operator_is_the_assembled_matrix(make, assembled):
    import torch

    for case in CASES.values():
        system = System(make(seed=5, **case).equations, assembled=assembled)
        x = np.random.default_rng(0).normal(size=system.shape)
        got = TorchOperator(system)(torch.from_numpy(x)).numpy()
        assert_allclose(got, np.where(system.empty, 0.0, system.apply(x)), atol=1e-9 * np.abs(got).max())


def test_assembled_and_matrix_free_systems_agree(make):
    for case in CASES.values():
        equations = make(seed=6, duplicates=False, **case).equations
        one, two = System(equations), System(equations, assembled=False)
        assert_allclose(one.diagonal, two.diagonal, atol=1e-9 * np.abs(one.diagonal).max())
        x = np.random.default_rng(0).normal(size=one.shape)
        assert_allclose(one.consistent(x), two.consistent(x), atol=1e-12)
        assert_allclose(one.centred(x), two.centred(x), atol=1e-12)


@pytest.mark.needs_cuda
def test_matrix_free_on_a_gpu_gives_the_same_bits_twice(make):
    equations = make(seed=1, n_nodes=50, n_stars=500).equations
    one, two = (solve(equations, engine="matrix_free", device="cuda", tolerance_sigma=1e-5) for _ in range(2))
    assert (one.theta == two.theta).all()
    assert_allclose(one.theta, solve(equations, engine="direct").theta, atol=1e-6)


@pytest.mark.parametrize("engine", ENGINES)
class TestDegenerateProblemsAnswer:
    def test_one_node(self, engine):
        solved = solve(_small([0, 1], [0, 0]), engine=engine)
        assert solved.converged
        assert_allclose(solved.theta, 0.0)

    def test_one_star(self, engine):
        solved = solve(_small([0, 0, 0], [0, 1, 2], m=[10.0, 10.3, 10.6]), engine=engine)
        assert solved.converged
        # m = M - z: the exposure in which the star is faintest has the lowest zero-point
        assert_allclose(solved.theta[:, 0], [0.3, 0.0, -0.3], atol=1e-6)

    def test_no_measurements(self, engine):
        solved = solve(_small([], [], n_nodes=3), engine=engine)
        assert solved.converged
        assert_allclose(solved.theta, 0.0)

    def test_no_links(self, engine):
        solved = solve(_small([0, 1, 2], [0, 1, 2]), engine=engine)
        assert solved.converged
        assert_allclose(solved.theta, 0.0, atol=1e-12)

    def test_components_that_weights_alone_cut(self, engine):
        # star 1 is the only link between {0, 1} and {2, 3}, and has no weight in node 2
        equations = _small([0, 0, 1, 1, 2, 2], [0, 1, 1, 2, 2, 3], m=[1, 2, 5, 5, 1, 3], w=[1, 1, 1, 0, 1, 1])
        solved = solve(equations, engine=engine)
        assert solved.converged
        assert_allclose(solved.theta[:, 0], [0.5, -0.5, 1.0, -1.0], atol=1e-6)

    def test_nan_is_reported(self, engine):
        for bad in ({"w": [1, np.nan, 1]}, {"m": [1, np.nan, 1]}):
            solved = solve(_small([0, 0, 0], [0, 1, 2], **bad), engine=engine)
            assert not solved.converged
            assert solved.why is Reason.NOT_FINITE
            assert np.isnan(solved.theta).all()

    def test_negative_precision_is_reported(self, engine):
        equations = _small([0, 0, 0, 1, 1], [0, 1, 2, 0, 2])
        equations.prior.diagonal[1] = -5.0
        solved = solve(equations, engine=engine)
        assert not solved.converged
        assert solved.why in (Reason.NOT_POSITIVE_DEFINITE, Reason.STAGNATED)


def _strip(n_nodes=400, seed=0, faint=5):
    """Two chains of exposures joined by a few faint stars: the hardest graph for an iteration."""
    rng = np.random.default_rng(seed)
    half = n_nodes // 2
    star, node, w = [], [], []
    for s in range(n_nodes * 5):
        e = int(rng.integers(0, n_nodes - 1))
        if e == half - 1:
            continue
        star += [s, s]
        node += [e, e + 1]
        w += [1e4, 1e4]
    for s in range(n_nodes * 5, n_nodes * 5 + faint):
        star += [s, s]
        node += [half - 1, half]
        w += [10.0, 10.0]
    graph = MeasurementGraph.from_codes(np.array(star, np.int32), np.array(node, np.int32), max(star) + 1, n_nodes)
    w = np.array(w)[graph.order]
    design = Design(graph)
    m = rng.normal(0, 0.1, n_nodes)[graph.exposure] + rng.normal(size=w.size) / np.sqrt(w)
    return NormalEquations(design, m, w, Prior.none(design))


@pytest.mark.parametrize("engine", ENGINES)
def test_bridge_is_solved_to_its_sigma(engine):
    equations = _strip(4000)
    exact = System(equations)
    theta = exact.centred(exact.factor.solve(exact.consistent(equations.rhs)))
    sigma = np.sqrt(equations.spread().node[:, 0, 0])
    solved = solve(equations, engine=engine, tolerance_sigma=1e-3)
    assert solved.converged, solved.why
    assert (np.abs(solved.theta - theta)[:, 0] / sigma).max() <= solved.error_sigma + 1e-6


def test_bound_holds_wherever_the_iteration_stops():
    """With plain block Jacobi, stopped everywhere on the way: the reported error is never below the true one."""
    equations = _strip(80)
    system = System(equations)
    rhs = system.consistent(equations.rhs)
    L = np.stack([system.apply(e[:, None])[:, 0] for e in np.eye(80)], 1)
    exact = np.linalg.pinv(L, hermitian=True) @ rhs[:, 0]
    inverse = 1.0 / system.grounded[:, :, 0]
    for tolerance in 10.0 ** np.arange(3, -7, -1.0):
        found = conjugate_gradients(system.apply, lambda r: inverse * r, rhs, tolerance=tolerance)
        assert found.reason is Reason.CONVERGED
        e = found.x[:, 0] - exact
        assert e @ L @ e <= tolerance**2


def test_running_out_of_iterations_is_said():
    equations = _strip(200)
    system = System(equations)
    inverse = 1.0 / system.grounded[:, :, 0]
    rhs = system.consistent(equations.rhs)
    found = conjugate_gradients(system.apply, lambda r: inverse * r, rhs, tolerance=1e-6, max_iterations=5)
    assert found.reason is Reason.ITERATIONS
    assert found.error > 1e-6


def test_stagnation_is_said():
    equations = _strip(200)
    system = System(equations)
    rhs = system.consistent(equations.rhs)
    inverse = (1.0 / system.grounded[:, :, 0]).astype(np.float32)
    rough = lambda r: (inverse * r.astype(np.float32)).astype(float)  # noqa: E731
    lossy = lambda x: system.apply(x.astype(np.float32).astype(float))  # noqa: E731
    found = conjugate_gradients(lossy, rough, rhs, tolerance=1e-9, max_iterations=20000)
    assert found.reason in (Reason.STAGNATED, Reason.ITERATIONS)
    assert found.error > 1e-9


def test_old_preconditioner_serves_new_weights(make):
    problem = make(seed=8, n_nodes=60, n_stars=800, K=1)
    solver = Solver(problem.equations, "direct")
    assert solver.solve().iterations <= 2
    problem.w = problem.w * np.random.default_rng(1).uniform(0.5, 1.5, problem.w.size)
    again = solver.reweighted(problem.equations).solve(tolerance_sigma=1e-6)
    assert again.converged
    assert 2 < again.iterations < 40
    assert_allclose(again.theta, solve(problem.equations, engine="direct").theta, atol=1e-7)


def test_structure_chooses(make, monkeypatch):
    assert choose(make().equations)[0] == "direct"
    monkeypatch.setattr("calib.solve.engines.LARGEST_DIRECT", 5)
    engine, why = choose(make().equations)
    assert engine == "multigrid"
    assert "9 exposures" in why
    monkeypatch.setattr("calib.solve.engines.MANY_VISITS", 2)
    assert choose(make().equations)[0] == "matrix_free"
    with pytest.raises(ValueError, match="expected one of auto, direct"):
        solve(make().equations, engine="magic")
    with pytest.raises(ValueError, match=r"expected \(9, 1\)"):
        solve(make().equations, np.zeros(9))
