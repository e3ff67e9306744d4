"""The solve under factors: the robust one where they are one, and gradients against finite differences."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from calib.config import Config
from calib.learn.exact import LearnedEquations, TiedEquations
from calib.learn.losses import Lesson
from calib.learn.ties import Ties
from calib.model.problem import Problem
from calib.simulate import SurveySpec, simulate
from calib.solve.select import robust_fit
from calib.tables import read_measurements


@pytest.fixture(scope="module")
def job(sample):
    return LearnedEquations(sample.fit)


def ones(job):
    return [np.ones(job.design.n_measurements), np.ones((job.design.n_nodes, 3)), np.ones(job.design.n_stars)]


def test_survey_has_every_term(job):
    assert job.design.block == 3
    assert job.design.star_block == 2
    assert set(job.ties.kind) == {0, 1}


def test_factors_of_one_are_the_robust_solve(sample, job):
    """To the tolerance to which that converged: the robust fit ends with a step, this with the point it steps to."""
    n = job.design.n_nodes
    spread = job.equations(*ones(job), scale=sample.fit.noise.information[sample.fit.design.graph.exposure]).spread()
    sigma = np.sqrt(spread.node[:n, 0, 0])
    found = job.equations(*ones(job)).estimate().theta[:n, 0].copy()
    moved = job.centring(found) - job.centring(sample.fit.estimate.theta[:n, 0].copy())
    assert np.abs(moved / sigma).max() < 0.03
    tensors = [torch.from_numpy(x) for x in ones(job)]
    np.testing.assert_allclose(job.variances(*tensors).numpy(), spread.node[:n, 0, 0], rtol=1e-9)


@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.parametrize("name", ["zeropoints", "variances"])
def test_gradients(job, rng, which, name):
    at = [np.exp(0.3 * rng.normal(size=x.shape)) for x in ones(job)]
    step = rng.normal(size=at[which].shape) * at[which]
    c = torch.from_numpy(rng.normal(size=job.design.n_nodes))

    def value(h):
        moved = [torch.tensor(x + h * step if k == which else x, requires_grad=True) for k, x in enumerate(at)]
        return (c * getattr(job, name)(*moved)).sum(), moved

    out, tensors = value(0.0)
    out.backward()
    h = 1e-5
    numeric = float((value(h)[0] - value(-h)[0]).detach()) / (2 * h)
    assert float((tensors[which].grad * torch.from_numpy(step)).sum()) == pytest.approx(numeric, rel=1e-4)


def test_ties_are_those_of_the_prior(sample, job):
    """More jitter precision by a factor is what the night model itself makes of it."""
    levels, prior = sample.fit.terms.levels, job.prior
    factor = np.random.default_rng(3).uniform(0.5, 2.0, levels.levels.node.size)
    # the prior of the last solve is what counts, not what has been learned from it since
    own = job.ties.kind == 0
    assert own.sum() == levels.levels.node.size
    mean = job.ties.mean[own]
    before, after = replace(levels), replace(levels)
    before.jitter = replace(levels.jitter, precision=job.ties.precision[own], mean=mean)
    after.jitter = replace(levels.jitter, precision=job.ties.precision[own] * factor, mean=mean)
    total = prior.rhs.shape[0]
    extra = np.zeros(job.ties.precision.size)
    extra[own] = job.ties.precision[own] * (factor - 1.0)
    found = job.ties.added(prior, extra)
    expected = after.quadratic(total).diagonal - before.quadratic(total).diagonal
    np.testing.assert_allclose(found.diagonal - prior.diagonal, expected, rtol=1e-7, atol=1e-3)
    at, of = sample.fit.terms.border.levels_at, levels.levels.pairs
    pairs = np.zeros_like(prior.coupling)
    np.add.at(pairs, (at, of.of_row, of.of_column), after.quadratic(total).pair - before.quadratic(total).pair)
    np.testing.assert_allclose(found.coupling - prior.coupling, pairs, rtol=1e-7, atol=1e-3)
    pulled = after.quadratic(total).rhs - before.quadratic(total).rhs
    np.testing.assert_allclose(found.rhs - prior.rhs, pulled, rtol=1e-7, atol=1e-6)


def test_gap_is_the_jitter(sample, job):
    levels, theta = sample.fit.terms.levels, sample.fit.estimate.theta
    own = job.ties.kind == 0
    np.testing.assert_allclose(job.ties.gap(theta)[own] ** 2, levels.last["jitter"][0], rtol=1e-9)


def test_without_terms_there_are_no_ties(bare):
    _, fit = bare
    assert Ties.of(fit.terms.border, fit.equations.prior, fit.design).precision.size == 0


def test_a_term_by_magnitude_is_no_tie():
    """It has a prior of its own, which networks leave as it is; with factors of one the solve is the robust one."""
    survey = simulate(SurveySpec(n_exposures=24, stars_per_exposure=40, nights=4, visits=5), 3)
    config = Config(method="robust", score=False, surface="plane", magnitude_term="background", seeing_response="off")
    problem = Problem.of(read_measurements(survey.measurements, exposures=survey.exposures), config)
    fit, _ = robust_fit(problem, config)
    assert fit.design.block == 4
    job = LearnedEquations(fit)
    assert set(job.ties.component[:, 0]) == {0, 1, 2}
    assert set(job.ties.kind) == {0, 1}
    assert (job.ties.precision > 0).all()
    found = job.equations(*ones(job))
    np.testing.assert_allclose(found.prior.diagonal, fit.prior.diagonal, rtol=1e-9)


def test_lessons_are_judged_as_the_answer_is(sample, robust):
    """What is held against the truth are zero-points freed of faint blends, by either method alike."""
    freed = sample.fit.equations.topology.about_mean(sample.fit.faint_blends)
    error = Lesson.of(sample).robust_error.numpy()
    expected = sample.fit.equations.topology.about_mean(robust.half().zeropoint - sample.truth.zeropoint)
    assert np.abs(freed).max() > 1e-4
    np.testing.assert_allclose(error, expected, atol=0.01 * np.abs(freed).max())  # to which the fit converged


def test_ties_alone_are_the_whole_solve_under_the_same_factors(job, rng):
    weight, tie, star = (np.exp(0.3 * rng.normal(size=x.shape)) for x in ones(job))
    tied = TiedEquations(job, weight, star)
    for factors in (tie, 1.0 / tie):  # twice: what stars say is kept
        equations, theta = tied.solve(factors)
        whole = job.equations(weight, factors, star)
        np.testing.assert_allclose(theta, whole.estimate().theta, atol=1e-9)
        np.testing.assert_allclose(equations.rhs, whole.rhs, rtol=1e-9, atol=1e-6)


def test_gradients_to_ties_alone_are_those_of_the_whole(job, rng):
    weight, tie, star = (np.exp(0.3 * rng.normal(size=x.shape)) for x in ones(job))
    c = torch.from_numpy(rng.normal(size=job.design.n_nodes))
    both = [torch.tensor(tie, requires_grad=True) for _ in range(2)]
    (c * TiedEquations(job, weight, star).zeropoints(both[0])).sum().backward()
    (c * job.zeropoints(torch.from_numpy(weight), both[1], torch.from_numpy(star))).sum().backward()
    assert float(both[1].grad.abs().max()) > 0
    np.testing.assert_allclose(both[0].grad, both[1].grad, rtol=1e-6, atol=1e-12)
