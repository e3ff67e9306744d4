"""Stares solved through their stars against the factor of the nodes, which is held against dense matrices."""

import numpy as np
import pytest

from calib.solve import few_stars, normal
from calib.solve.factor import Factor, NotPositiveDefinite
from calib.solve.few_stars import StarFactor, worth_it
from calib.solve.normal import NormalEquations


def both(monkeypatch, problem):
    """The equations of a problem by the nodes' factor and by the stars'."""
    made = []
    for few in (False, True):
        monkeypatch.setattr(normal, "worth_it", lambda *_, few=few: few)
        equations = problem.equations
        assert isinstance(equations.factor, StarFactor if few else Factor)
        made.append(equations)
    return made


CASES = [
    {"K": 1}, {"K": 2}, {"K": 3, "hubs": True}, {"K": 4, "P": 2, "hubs": True}, {"K": 6, "P": 2},
    {"K": 1, "P": 2, "islands": 3}, {"K": 3, "islands": 2, "hubs": True, "tied": True, "isolated": 2},
    {"K": 7, "P": 2, "hubs": True, "tied": True, "anchors": True}, {"K": 6, "anchors": True, "islands": 2},
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("seed", range(2))
def test_all_answers_are_the_same(monkeypatch, make, case, seed):
    problem = make(seed=seed, n_nodes=30, n_stars=24, visits=20, **case)
    usual, stars = both(monkeypatch, problem)
    rng = np.random.default_rng(seed)
    rhs = rng.normal(size=(*usual.rhs.shape, 3))
    np.testing.assert_allclose(stars.factor.solve(rhs), usual.factor.solve(rhs), rtol=1e-6, atol=1e-9)
    one, other = usual.estimate(), stars.estimate()
    for name in ("theta", "stars", "residual"):
        np.testing.assert_allclose(getattr(other, name), getattr(one, name), rtol=1e-6, atol=1e-9, err_msg=name)
    one, other = usual.spread(), stars.spread()
    for name in ("node", "star", "prediction", "grounded", "coupling"):
        np.testing.assert_allclose(getattr(other, name), getattr(one, name), rtol=2e-6, atol=1e-10, err_msg=name)
    assert stars.log_det == pytest.approx(usual.log_det, rel=1e-7)
    one, other = usual.factor.selected_inverse(), stars.factor.selected_inverse()
    np.testing.assert_allclose(other.diagonal, one.diagonal, rtol=2e-6, atol=1e-10)
    np.testing.assert_allclose(other.blocks, one.blocks, rtol=2e-6, atol=1e-10)


def test_panels_and_parts_are_put_together(monkeypatch, make):
    problem = make(seed=4, n_nodes=40, n_stars=30, visits=25, K=3, hubs=True)
    usual, stars = both(monkeypatch, problem)
    monkeypatch.setattr(few_stars, "PANEL", 7)
    np.testing.assert_allclose(
        stars.factor.selected_inverse().blocks, usual.factor.selected_inverse().blocks, rtol=2e-6, atol=1e-10
    )


def test_it_is_taken_for_stares_alone():
    assert worth_it(1080, 22, 156, 6, 1)
    assert not worth_it(1080, 22, 5000, 6, 1)
    assert not worth_it(50, 0, 4, 6, 1)  # quickly solved
    assert not worth_it(200_000, 0, 9000, 6, 1)  # more than memory should hold


def test_weights_that_are_not_finite_are_told(monkeypatch, make):
    problem = make(seed=0, n_nodes=20, n_stars=10, visits=15)
    problem.w[3] = np.nan
    monkeypatch.setattr(normal, "worth_it", lambda *_: True)
    with pytest.raises(NotPositiveDefinite):
        NormalEquations(problem.design, problem.m, problem.w, problem.prior, problem.topology).factor  # noqa: B018
