"""Influence against a solve without the measurement, term by term."""

from dataclasses import replace

import numpy as np
import pytest

from calib.config import Config
from calib.model.problem import Problem
from calib.simulate import SurveySpec, simulate
from calib.solve import influence as module
from calib.solve.influence import influence, stability
from calib.solve.normal import NormalEquations
from calib.solve.select import robust_fit
from calib.tables import read_measurements

SPEC = SurveySpec(n_exposures=30, stars_per_exposure=30, nights=4, visits=5, blend_fraction=0.4, fov_deg=0.8)


@pytest.fixture(scope="module", params=[("off", "off", "off"), ("plane", "on", "on"), ("quadratic", "off", "on")])
def fit(request):
    surface, response, extinction = request.param
    survey = simulate(SPEC, 5)
    config = Config(
        method="robust", score=False, surface=surface, seeing_response=response, extinction=extinction, max_passes=8
    )
    problem = Problem.of(read_measurements(survey.measurements, exposures=survey.exposures), config)
    found, _ = robust_fit(problem, config)
    # at the minimum of its own equations, where the robust fit is but for its last step
    return replace(found, estimate=found.equations.estimate())


def zeropoints(fit, w):
    equations = NormalEquations(fit.design, fit.equations.m, w, fit.equations.prior, fit.equations.topology)
    return equations.centred(equations.estimate().theta)[: fit.design.n_nodes, 0]


def test_it_is_a_solve_without_the_measurement(fit):
    node, change = fit.design.graph.exposure, influence(fit)
    before = zeropoints(fit, fit.equations.w)
    rng = np.random.default_rng(1)
    chosen = np.r_[np.argsort(-np.abs(change))[:20], rng.choice(change.size, 20, replace=False)]
    for i in chosen:
        w = np.array(fit.equations.w)
        w[i] *= 1e-9
        after = zeropoints(fit, w)
        assert change[i] == pytest.approx((after - before)[node[i]], rel=2e-3, abs=2e-7)


def test_stability_is_the_largest(fit):
    node, change = fit.design.graph.exposure, np.abs(influence(fit))
    found = stability(node, influence(fit), fit.design.n_nodes)
    for e in range(fit.design.n_nodes):
        assert found[e] == change[node == e].max()


def test_an_outlier_that_is_believed_shows(fit):
    """A glitch of one magnitude with the weight of a good measurement."""
    node = fit.design.graph.exposure
    i = int(np.argmax(fit.equations.w))
    m = fit.equations.m.copy()
    m[i] += 1.0
    equations = NormalEquations(fit.design, m, fit.equations.w, fit.equations.prior, fit.equations.topology)
    troubled = replace(fit, equations=equations, estimate=equations.estimate())
    largest = [stability(node, influence(x), fit.design.n_nodes)[node[i]] for x in (troubled, fit)]
    assert largest[0] > 5.0 * largest[1]
    own = np.flatnonzero(node == node[i])
    assert own[np.argmax(np.abs(influence(troubled))[own])] == i


def test_the_largest_surveys_are_spared(fit, monkeypatch):
    monkeypatch.setattr(module, "LARGE", 10)
    assert influence(fit) is None
