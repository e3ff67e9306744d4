import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from calib.solve.gradient import DifferentiableSolve, NotConverged

CASES = {
    "scalar": {"K": 1, "n_nodes": 5, "n_stars": 12, "visits": 3},
    "islands": {"K": 1, "n_nodes": 6, "n_stars": 14, "visits": 3, "islands": 2, "isolated": 1},
    "response": {"K": 1, "P": 2, "n_nodes": 4, "n_stars": 8, "visits": 3},
    "plane": {"K": 3, "hubs": True, "n_nodes": 4, "n_stars": 10, "visits": 3},
    "background": {"K": 4, "hubs": True, "n_nodes": 4, "n_stars": 10, "visits": 3},
    "plane and response": {"K": 3, "P": 2, "hubs": True, "tied": True, "n_nodes": 4, "n_stars": 8, "visits": 3},
}


@pytest.fixture(params=CASES, ids=lambda c: c.replace(" ", "_"))
def job(request, make):
    problem = make(seed=2, idle=0.0, dtype=np.float64, **CASES[request.param])
    problem.w = problem.w / 1000.0  # numbers near one, as finite differences like them
    scale = problem.prior
    for values in (scale.diagonal, scale.coupling, scale.rhs, scale.star):
        values /= 1000.0
    return problem, DifferentiableSolve(problem.design, problem.prior, problem.topology, tolerance_sigma=1e-10)


def _tensors(problem, seed=0):
    rng = np.random.default_rng(seed)
    shape = problem.prior.rhs.shape
    tensor = lambda a: torch.tensor(a, dtype=torch.float64, requires_grad=True)  # noqa: E731
    return (
        tensor(problem.w),
        tensor(problem.m - 18.0),
        tensor(rng.uniform(0.5, 2.0, shape)),
        tensor(rng.normal(0, 0.3, shape)),
        tensor(rng.uniform(0.1, 1.0, problem.design.n_stars)),
    )


def test_values_are_those_of_the_solve(job):
    problem, solve = job
    w, m, *_ = _tensors(problem)
    theta, stars = solve(w, m)
    equations = solve.equations(*(t.detach().numpy() for t in (w, m)), 0.0, 0.0, 0.0)
    estimate = equations.estimate(equations.centred(equations.estimate().theta))
    n = problem.design.n_nodes
    top = problem.topology
    difference = (theta.detach().numpy() - estimate.theta)[:n]
    for c in range(top.n_components):  # hubs may tie components, whose means are then not zero each
        inside = top.component == c
        difference[inside, 0] -= difference[inside, 0].mean()
    assert_allclose(difference, 0.0, atol=1e-8)
    residual = m.detach().numpy() - solve.seen(stars.detach().numpy())
    assert np.abs(residual).max() < 3.0


def test_gradcheck_with_a_prior(job):
    problem, solve = job
    torch.autograd.gradcheck(lambda *x: solve(*x), _tensors(problem), eps=1e-6, atol=2e-6, rtol=1e-5)


def test_gradcheck_in_the_gauge(job):
    problem, solve = job
    w, m, *_ = _tensors(problem)
    torch.autograd.gradcheck(lambda *x: solve(*x), (w, m), eps=1e-6, atol=2e-6, rtol=1e-5)


def test_gradcheck_of_the_log_determinant(job):
    problem, solve = job
    w, _, precision, _, star_precision = _tensors(problem)
    check = {"eps": 1e-6, "atol": 2e-6, "rtol": 1e-5}
    torch.autograd.gradcheck(lambda *x: solve.log_det(*x), (w, precision, star_precision), **check)
    torch.autograd.gradcheck(lambda x: solve.log_det(x), (w,), **check)


def test_log_determinant_matches_dense(make, dense):
    problem = make(seed=1, K=3, P=2, hubs=True, tied=True, anchors=True, idle=0.0, dtype=np.float64)
    solve = DifferentiableSolve(problem.design, problem.prior, problem.topology)
    value = solve.log_det(torch.tensor(problem.w))
    assert_allclose(value.item(), np.linalg.slogdet(dense(problem).H)[1], rtol=1e-9)


def test_reml_gradient_vanishes_where_variance_is_right(make):
    """1/2 (1/w - v - r^2) is zero in the mean over weights of the truth: METHODS' REML identity."""
    problem = make(seed=3, n_nodes=8, n_stars=1500, idle=0.0, singles=False, dtype=np.float64)
    rng = np.random.default_rng(0)
    problem.m = rng.normal(size=problem.w.size) / np.sqrt(problem.w)
    solve = DifferentiableSolve(problem.design)
    w = torch.tensor(problem.w, requires_grad=True)
    solve.log_det(w).backward()
    residual = problem.equations.estimate().residual
    mean = np.mean(problem.w * (1 / problem.w - w.grad.numpy() - residual**2))
    assert abs(mean) < 4 * np.sqrt(2 / problem.w.size)


def test_weights_in_float32_get_gradients_in_float32(make):
    problem = make(seed=4, n_nodes=5, n_stars=30)
    solve = DifferentiableSolve(problem.design)
    w = torch.tensor(problem.w, requires_grad=True)
    theta, stars = solve(w, torch.tensor(problem.m))
    (theta.square().sum() + stars.sum()).backward()
    assert w.grad.dtype == torch.float32
    assert torch.isfinite(w.grad).all()


def test_a_failed_solve_raises(make):
    problem = make(seed=4, n_nodes=5, n_stars=30)
    w = torch.tensor(problem.w)
    w[3] = float("nan")
    with pytest.raises(NotConverged, match="not finite"):
        DifferentiableSolve(problem.design)(w, torch.tensor(problem.m))
