import numpy as np
import pytest
from numpy.testing import assert_allclose

CASES = [
    {"K": 1},
    {"K": 1, "islands": 3, "isolated": 1},
    {"K": 1, "P": 2},
    {"K": 1, "dtype": np.float64, "hubs": True, "tied": True, "islands": 2},
    {"K": 3, "hubs": True},
    {"K": 3, "P": 2, "hubs": True, "islands": 2},
    {"K": 3, "P": 1, "hubs": True, "tied": True, "islands": 3},
    {"K": 6, "P": 1},
    {"K": 6, "P": 2, "hubs": True, "isolated": 1},
    {"K": 2, "P": 1, "islands": 2},
    {"K": 2, "P": 2, "hubs": True, "tied": True},
    {"K": 4, "P": 1, "hubs": True, "isolated": 1},
    {"K": 4, "P": 2},
    {"K": 7, "P": 1, "hubs": True, "islands": 2},
    {"K": 7, "P": 2, "visits": 7},
    {"K": 1, "visits": 9, "n_stars": 200, "idle": 0.0},
]


@pytest.fixture(params=[False, True], ids=["pairs", "products"])
def all_dense(request, monkeypatch):
    """Whether every component's pairs are taken as matrix products, in many panels and chunks."""
    if request.param:
        for name, value in (("FILL", 0.0), ("LEAST_NODES", 2), ("CHUNK", 200), ("PANEL", 8)):
            monkeypatch.setattr(f"calib.solve.dense.{name}", value)
    return request.param


@pytest.fixture(params=CASES, ids=lambda c: ",".join(f"{k}={v}" for k, v in c.items() if k != "dtype"))
def pair(request, make, dense, all_dense):
    problem = make(seed=3, **request.param)
    assert (problem.design.dense is not None) == all_dense
    return problem, dense(problem)


def _informed(problem):
    """Stars with weight, and nodes that have it."""
    d = problem.design
    top = problem.topology
    linked = top.size[top.component] > 1
    node = (np.bincount(d.graph.exposure, problem.w, d.n_nodes) > 0) & linked
    star = np.bincount(d.graph.star(), problem.w * linked[d.graph.exposure], d.n_stars) > 0
    return star, node


def test_solution_matches_dense(pair):
    problem, oracle = pair
    equations = problem.equations
    estimate = equations.estimate(equations.centred(equations.estimate().theta))
    x, _ = oracle.gauged()
    stars, theta = oracle.split(x)
    has_weight, has_node = _informed(problem)
    n = problem.design.n_nodes
    assert_allclose(estimate.theta[:n][has_node], theta[:n][has_node], atol=2e-8)
    assert_allclose(estimate.theta[n:, 1:], theta[n:, 1:], atol=2e-8)
    assert_allclose(estimate.stars[has_weight], stars[has_weight], atol=2e-8)
    without = np.bincount(problem.design.graph.star(), problem.w, problem.design.n_stars) == 0
    assert np.isnan(estimate.stars[without]).all()
    inside = has_weight[problem.design.graph.star()] & has_node[problem.design.graph.exposure]
    assert_allclose(estimate.residual[inside], (problem.m - oracle.A @ x)[inside], atol=2e-8)


def test_matrix_matches_dense(pair):
    problem, oracle = pair
    equations = problem.equations
    diagonal, off = equations.blocks
    total, K = diagonal.shape[:2]
    L = np.zeros((total, K, total, K))
    top = problem.topology
    for e in range(total):
        L[e, :, e] = diagonal[e]
        for k in range(top.indptr[e], top.indptr[e + 1]):
            L[e, :, top.indices[k]] = off[k]
            L[top.indices[k], :, e] = off[k].T
    scale = np.abs(oracle.laplacian).max()
    assert_allclose(L.reshape(total * K, -1), oracle.laplacian, atol=1e-10 * scale)
    theta = np.random.default_rng(0).normal(size=(total, K))
    assert_allclose(equations.apply(theta).ravel(), oracle.laplacian @ theta.ravel(), atol=1e-9 * scale)


@pytest.mark.parametrize("other_gauge", [False, True])
def test_spread_matches_dense(pair, other_gauge):
    problem, oracle = pair
    d, top = problem.design, problem.topology
    gauge = None
    if other_gauge:
        rng = np.random.default_rng(5)
        weight = rng.uniform(0.2, 1.0, d.n_nodes)
        gauge = np.zeros_like(problem.equations.mean_functional)
        gauge[: d.n_nodes, 0] = weight / np.bincount(top.component, weight)[top.component]
        gauge[: d.n_nodes, 1:] = rng.normal(size=(d.n_nodes, d.block - 1))
    spread = problem.equations.spread(gauge)
    _, C = oracle.gauged(gauge)
    S, P, total, K = oracle.shape
    has_weight, has_node = _informed(problem)
    scale = np.abs(C).max()
    z = S * P + np.arange(total)[:, None] * K + np.arange(K)
    for e in np.flatnonzero(has_node):
        assert_allclose(spread.node[e], C[np.ix_(z[e], z[e])], atol=1e-8 * scale)
    for s in np.flatnonzero(has_weight):
        c = C[np.ix_(s * P + np.arange(P), s * P + np.arange(P))]
        assert_allclose(spread.star[s, 0], c[0, 0], atol=1e-8 * scale)
        if P == 2:
            assert_allclose(spread.star[s, 1:], [c[0, 1], c[1, 1]], atol=1e-8 * scale)
    without = np.bincount(d.graph.star(), problem.w, d.n_stars) == 0
    assert np.isnan(spread.star[without, 0]).all()
    prediction = np.einsum("ia,ab,ib->i", oracle.A, C, oracle.A)
    inside = has_weight[d.graph.star()] & has_node[d.graph.exposure]
    assert_allclose(spread.prediction[inside], prediction[inside], atol=1e-8 * scale)
    for c, (e, f) in enumerate(zip(top.hubs.row, top.hubs.column, strict=True)):
        if has_node[e] and K > 1:
            assert_allclose(spread.coupling[c][1:, 1:], C[np.ix_(z[e], z[f])][1:, 1:], atol=1e-8 * scale)


def test_log_det_matches_dense(make, dense):
    # the ground doubles one diagonal entry of the Laplacian, and so adds as much to the whole
    problem = make(seed=2, K=3, P=2, hubs=True, idle=0.0)
    oracle = dense(problem)
    S, P, _, K = oracle.shape
    g = S * P + problem.topology.grounded * K
    H = oracle.H.copy()
    H[g, g] += oracle.laplacian[g - S * P, g - S * P]
    known = np.diag(H) > 0  # a hub of surfaces has no zero-point
    assert_allclose(problem.equations.log_det, np.linalg.slogdet(H[np.ix_(known, known)])[1], rtol=1e-9)


def test_shift_of_an_exposure_is_a_shift_of_its_zeropoint(make):
    problem = make(seed=1, n_nodes=8, idle=0.0)
    before = problem.equations.estimate()
    problem.m = problem.m + 0.25 * (problem.design.graph.exposure == 3)
    after = problem.equations.estimate()
    change = after.theta[:, 0] - before.theta[:, 0]
    assert_allclose(change - change[0], -0.25 * (np.arange(8) == 3), atol=1e-10)
    assert_allclose(after.residual, before.residual, atol=1e-10)


def test_order_of_measurements_changes_nothing(make):
    from calib.solve.design import Design
    from calib.solve.normal import NormalEquations, Prior
    from graphs import MeasurementGraph

    problem = make(seed=4)
    g = problem.design.graph
    shuffle = np.random.default_rng(0).permutation(g.n_measurements)
    star, node = g.star()[shuffle], g.exposure[shuffle]
    other = MeasurementGraph.from_codes(star, node, g.n_stars, g.n_exposures)
    design = Design(other)
    m, w = problem.m[shuffle][other.order], problem.w[shuffle][other.order]
    theta = NormalEquations(design, m, w, Prior.none(design)).estimate().theta
    assert_allclose(theta, problem.equations.estimate().theta, atol=1e-10)
