"""Adaptation: finds ties that are wrong from stars alone, keeps nothing else, and is blind to the scale of a group."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from calib.config import Config
from calib.learn import adapt
from calib.learn.adapt import SCATTER, adapted, best_shift, fine_tuned, judged, quarters, two_sides
from calib.learn.engine import Heard, heard, solve_learned
from calib.learn.ensemble import Ensemble, shipped
from calib.learn.exact import LearnedEquations
from calib.learn.fine_tune import averaged, taught
from calib.learn.groups import Group, Pair, huber, solved_apart
from calib.model.problem import Problem
from calib.pipeline import calibrate
from calib.simulate import SurveySpec, simulate
from calib.simulate.bounds import zeropoint_errors
from calib.solve.methods import stated
from calib.solve.select import deciding_part, robust_fit
from calib.tables import read_measurements

SPEC = SurveySpec(n_exposures=60, stars_per_exposure=60, nights=6, visits=6, cloudy_nights=0.6, fov_deg=0.8)


@pytest.fixture(scope="module")
def survey():
    """A cloudy survey, its robust fit and those of its quarters."""
    made = simulate(SPEC, 79)
    config = Config(method="robust", score=False, surface="plane", seeing_response="off", extinction="on")
    problem = Problem.of(read_measurements(made.measurements, exposures=made.exposures), config)
    fit, _ = robust_fit(problem, config)
    truth = problem.nodes.select("exposure_id").join(
        made.truth_exposures.select("exposure_id", "zeropoint"), on="exposure_id", how="left", maintain_order="left"
    )
    parts = list(solved_apart(problem, fit, 4, config))
    return problem, fit, parts, truth["zeropoint"].to_numpy(), config


def said(problem, fit, jitter):
    """Networks that would hold every zero-point to its night by e^jitter more than the robust fit does."""
    tie = np.zeros((2, fit.design.n_nodes, 3), np.float32)
    tie[:, :, 0] = jitter
    n, stars = problem.m.size, fit.design.n_stars
    nothing = np.zeros((2, n), np.float32)
    return Heard(nothing, tie, np.zeros((2, stars), np.float32), nothing[0], 1.0)


def groups_of(survey, jitter):
    return [Group.of(fit, said(part, fit, jitter)) for part, fit in survey[2]]


def test_quarters_hold_every_star_once(survey):
    problem, _, parts, _, _ = survey
    names = [set(part.stars["star_id"]) for part, _ in parts]
    assert sum(len(n) for n in names) == len(set.union(*names)) == problem.stars["star_id"].n_unique()
    assert sum(part.m.size for part, _ in parts) == problem.m.size


def test_ties_that_are_far_too_tight_are_loosened(survey):
    problem, fit, _, truth, _ = survey
    found = judged(groups_of(survey, 6.0))
    assert found.of_shift.kept
    assert found.of_shift.gain > 0
    assert found.shift[0] < -0.5
    whole = Group.of(fit, said(problem, fit, 6.0))
    component = fit.equations.topology.component

    def rms(shift):
        return zeropoint_errors(whole.zeropoints(np.array(shift)), truth, component).rms

    assert rms(found.shift) < 0.95 * rms((0.0, 0.0, 0.0))


def test_ties_as_the_data_have_them_are_left_alone(survey):
    found = judged(groups_of(survey, 0.0))
    assert found.of_shift.kept == (found.of_shift.significance > adapt.SURE)
    assert found.of_shift.kept or found.shift == (0.0, 0.0, 0.0)
    assert np.abs(found.shift).max() < 1.0


def test_a_group_on_another_scale_says_the_same(survey):
    a, b = groups_of(survey, 2.0)[:2]
    shift = np.array([0.3, -0.2, 0.1])
    before = Pair(a, b).shifted(shift)
    np.testing.assert_allclose(Pair(a, replace(b, free=b.free + 5.0)).shifted(shift), before, atol=1e-9)


def test_it_is_the_least(survey):
    pairs = [Pair(*groups_of(survey, 4.0)[:2])]

    def loss(q):
        return huber(pairs[0].shifted(q)).sum() + 0.5 * ((q / adapt.SCATTER) ** 2).sum()

    q = best_shift(pairs)
    assert loss(q) < loss(np.zeros(3))
    for k in range(3):
        for step in (-0.3, 0.3):
            assert loss(q) <= loss(q + step * np.eye(3)[k]) + 0.02


def test_shifts_are_the_solve_s_too(survey):
    """The engine with shifts is the group of all stars with them."""
    problem, fit, _, _, _ = survey
    shift = (-1.0, 0.5, 0.0)
    found = adapt.Adaptation(shift, adapt.NOTHING)
    learned = solve_learned(problem, stated(fit, [], problem.err, 1), 1, device="cpu", adapted=found.applied)
    n = fit.design.n_nodes
    group = Group.of(fit, heard(problem, fit, device="cpu"))
    centred = LearnedEquations(fit).centring
    np.testing.assert_allclose(
        centred(learned.fit.estimate.theta[:n, 0].copy()), centred(group.zeropoints(np.array(shift))), atol=2e-6
    )


def test_small_surveys_and_those_without_ties_are_not_tried(survey, bare, monkeypatch):
    problem, fit, _, _, config = survey
    assert problem.m.size < adapt.ADAPT_MEASUREMENTS
    assert adapted(problem, fit, config) is None
    monkeypatch.setattr(adapt, "ADAPT_MEASUREMENTS", 100)
    monkeypatch.setattr(adapt, "ADAPT_EXPOSURES", 10)
    assert adapted(*bare, config) is None
    found = adapted(problem, fit, config, device="cpu")
    assert found is not None
    assert found.json()["kept"] in (True, False)
    again = adapted(problem, fit, config, device="cpu")
    assert again == found


def test_a_run_says_what_was_found(monkeypatch):
    made = simulate(SPEC, 79)
    monkeypatch.setattr(adapt, "ADAPT_MEASUREMENTS", 100)
    config = Config(method="learned", score=False, surface="plane", seeing_response="off", device="cpu", max_passes=6)
    found = calibrate(made.measurements, made.exposures, config=config).diagnostics["adaptation"]
    assert set(found) == {"shift", "gain", "significance", "kept", "fine_tuning"}
    assert set(found["fine_tuning"]) == {"gain", "significance", "kept", "steps"}
    assert found["fine_tuning"]["steps"] == [0, 0]
    without = calibrate(made.measurements, made.exposures, config=replace(config, adapt=False, fine_tune=True))
    assert without.diagnostics["adaptation"] is None


def test_a_part_decides_for_a_large_survey(survey, monkeypatch):
    problem, fit, _, _, config = survey
    seen = []

    def small(whole, plain):
        return deciding_part(whole, plain, most=problem.m.size // 2)

    def watched(part, *others):
        seen.append(part.m.size)
        return heard(part, *others)

    monkeypatch.setattr(adapt, "deciding_part", small)
    monkeypatch.setattr(adapt, "heard", watched)
    monkeypatch.setattr(adapt, "ADAPT_MEASUREMENTS", 100)
    monkeypatch.setattr(adapt, "ADAPT_EXPOSURES", 10)
    assert adapted(problem, fit, config, device="cpu") is not None
    assert len(seen) == 4
    assert 0.25 * problem.m.size < sum(seen) < 0.75 * problem.m.size


@pytest.fixture(scope="module")
def tight():
    """Shipped members that would hold zero-points to their nights far too tightly."""
    members = [copy.deepcopy(m) for m in shipped().members]
    with torch.no_grad():
        for m in members:
            m.tie_head[-1].bias[0] += 8.0  # bounded: e^2.2 times the precision, of what is believed
    return Ensemble(members)


@pytest.fixture(scope="module")
def all_groups(survey, tight):
    problem, fit, _, _, config = survey
    return quarters(problem, fit, config, tight, "cpu")


def test_what_is_said_of_a_scene_is_what_the_networks_said(all_groups, tight):
    for group in all_groups:
        said = group.scene.ties(tight.members).mean(0)
        np.testing.assert_allclose(said.detach(), group.said, atol=2e-5)


def test_gradients(all_groups, rng):
    """Of the loss to the ties, against finite differences."""
    pair = Pair(*all_groups[:2])
    at, along = 0.3 * rng.normal(size=(2, *all_groups[0].said.shape))

    def loss(h):
        tie = torch.tensor(at + h * along, requires_grad=True)
        return (pair.pulls(pair.a.tied.zeropoints(torch.exp(tie))) ** 2).sum(), tie

    out, tie = loss(0.0)
    out.backward()
    numeric = float((loss(1e-5)[0] - loss(-1e-5)[0]).detach()) / 2e-5
    assert float((tie.grad * torch.from_numpy(along)).sum()) == pytest.approx(numeric, rel=1e-4)


def test_it_learns_what_groups_agree_on_and_leaves_the_members_as_they_were(all_groups, tight):
    one, two = two_sides(all_groups)
    before = [copy.deepcopy(m.state_dict()) for m in tight.members]
    found = taught(tight.members, one, two, np.zeros(3), SCATTER)
    assert found.step > 0
    assert found.gains.sum() > 0

    def loss(members):
        said = [pair.a.scene.ties(members).mean(0).detach().double() for pair in two]
        pulls = [pair.pulls(pair.a.tied.zeropoints(torch.exp(t))) for pair, t in zip(two, said, strict=True)]
        return np.concatenate([huber(x.numpy()) for x in pulls])

    gains = loss(tight.members) - loss(found.members)
    np.testing.assert_allclose(gains, found.gains, atol=0.02 * np.abs(gains).max())
    frozen = {"tie_head", "exposure", "links", "night", "from_night"}
    for old, new, now in zip(before, found.members, tight.members, strict=True):
        for name, value in new.state_dict().items():
            torch.testing.assert_close(now.state_dict()[name], old[name], rtol=0, atol=0)
            assert name.partition(".")[0] in frozen or torch.equal(value, old[name])


def test_it_is_kept_where_stars_not_seen_are_sure_and_then_nearer_to_the_truth(survey, all_groups, tight, monkeypatch):
    problem, fit, _, truth, _ = survey
    monkeypatch.setattr(adapt, "SURE", 3.0)  # quarters of a small survey
    nothing = adapt.Adaptation((0.0, 0.0, 0.0), adapt.NOTHING)
    found = fine_tuned(all_groups, tight.members, nothing)
    assert found.of_tuning.kept
    assert found.of_tuning.significance > adapt.SURE
    whole = heard(problem, fit, tight, "cpu")
    job, component = LearnedEquations(fit), fit.equations.topology.component

    def rms(said):
        theta = job.equations(*said.factors()).estimate().theta
        return zeropoint_errors(theta[: job.design.n_nodes, 0], truth, component).rms

    assert rms(found.applied(whole)) < 0.98 * rms(whole)
    assert rms(found.shifted(whole)) == rms(whole)


def test_it_is_not_kept_where_they_are_not(all_groups, tight, monkeypatch):
    monkeypatch.setattr(adapt, "SURE", 1e9)
    found = fine_tuned(all_groups, tight.members, adapt.Adaptation((0.0, 0.0, 0.0), adapt.NOTHING))
    assert not found.of_tuning.kept
    assert found.members == ()


def test_the_mean_of_a_network_and_itself_is_that(tight):
    for a, b in zip(averaged(tight.members, tight.members), tight.members, strict=True):
        for name, value in a.state_dict().items():
            torch.testing.assert_close(value, b.state_dict()[name])


def test_a_run_tunes_where_it_is_asked_to(survey, monkeypatch):
    problem, fit, _, _, config = survey
    monkeypatch.setattr(adapt, "ADAPT_MEASUREMENTS", 100)
    monkeypatch.setattr(adapt, "ADAPT_EXPOSURES", 10)
    asked = []
    monkeypatch.setattr(adapt, "fine_tuned", lambda groups, members, found: asked.append(len(members)) or found)
    assert adapted(problem, fit, config, device="cpu") is not None
    assert not asked
    adapted(problem, fit, replace(config, fine_tune=True), device="cpu")
    assert asked == [5]
