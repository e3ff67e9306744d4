"""Kernels on runs of stars side by side: what they are on all stars at once, and the same bits on any threads."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from calib import workers
from calib.solve import kernels

CASES = [
    {"K": 1}, {"K": 1, "P": 2, "islands": 3}, {"K": 2, "P": 1, "hubs": True}, {"K": 3, "P": 2}, {"K": 4, "P": 1},
    {"K": 6, "P": 1, "hubs": True, "isolated": 1}, {"K": 7, "P": 2},
]  # fmt: skip
RUN = 40


@pytest.fixture(params=CASES, ids=lambda c: ",".join(f"{k}={v}" for k, v in c.items()))
def problem(request, make):
    return make(seed=5, n_nodes=20, n_stars=300, **request.param)


@pytest.fixture(params=[False, True], ids=["pairs", "products"])
def some_dense(request, monkeypatch):
    """Whether every component's pairs are taken as matrix products."""
    if request.param:
        for name, value in (("FILL", 0.0), ("LEAST_NODES", 2), ("CHUNK", 200), ("PANEL", 8)):
            monkeypatch.setattr(f"calib.solve.dense.{name}", value)


def everything(problem):
    """All that a solve takes from its measurements, by name."""
    equations = problem.equations
    design, prior = problem.design, problem.prior
    theta = np.random.default_rng(1).normal(size=prior.rhs.shape)
    diagonal, off = equations.blocks
    spread = equations.spread()
    made = {
        "star_inverse": equations.star_inverse, "rhs": equations.rhs, "diagonal": diagonal, "off": off,
        "apply": equations.apply(theta), "prediction": spread.prediction, "star": spread.star, "node": spread.node,
        "response": equations.response_to(problem.m),
    }  # fmt: skip
    estimate = equations.estimate(theta)
    made |= {"stars": estimate.stars, "residual": estimate.residual, "theta": equations.estimate().theta}
    if design.response is not None:
        less = problem.m.copy()
        kernels.less_response(design.graph.star_ptr, design.graph.exposure, prior.star_mean, design.response, less)
        made["less"] = less
    return made


SUMS = {"rhs", "apply", "theta", "response"}
"""What is added up over stars, and rounds otherwise in runs."""


@pytest.mark.usefixtures("some_dense")
def test_solve(problem, monkeypatch):
    expected = everything(problem)
    monkeypatch.setattr(workers, "RUN", RUN)
    assert len(workers.cut(problem.design.graph.star_ptr)) > 10
    alone = everything(problem)
    with workers.working(2):
        assert len(workers.shared(problem.design.graph.star_ptr)) > 5
    for threads in (1, 2, 3):
        with workers.working(threads):
            found = everything(problem)
        for name, value in found.items():
            assert_array_equal(value, alone[name], err_msg=name)
    for name, value in expected.items():
        if name in SUMS:
            scale = np.abs(value).max()
            tolerance = 1e-9 if name in ("theta", "response") else 1e-12  # through the inverse of L
            assert_allclose(alone[name], value, rtol=0, atol=tolerance * scale, err_msg=name)
        else:
            assert_array_equal(alone[name], value, err_msg=name)
    if problem.design.block > 1:
        assert any((alone[name] != expected[name]).any() for name in SUMS)


def test_links(problem, monkeypatch):
    """On as many threads as the solve has, and the same."""
    asked = []
    real = type(problem.design.graph).exposure_graph

    def seen(graph, weights=None, *, threads=None):
        asked.append(threads)
        return real(graph, weights, threads=threads)

    monkeypatch.setattr(type(problem.design.graph), "exposure_graph", seen)
    monkeypatch.setattr("graphs.measurements.PER_THREAD", 50)
    found = []
    for threads in (1, 3):
        design = problem.design.with_terms(problem.design.degree, problem.design.response, problem.design.by_magnitude)
        design.__dict__.pop("links", None)
        with workers.working(threads):
            found.append(design.links)
    assert asked == [1, 3]
    assert_array_equal(found[0].pairs(), found[1].pairs())
    assert_array_equal(found[0].weight, found[1].weight)
