"""Adaptation: finds ties that are wrong from stars alone, keeps nothing else, and is blind to the scale of a group."""

from dataclasses import replace

import numpy as np

from calib.config import Config
from calib.learn import adapt
from calib.learn.adapt import adapted, best_shift, judged
from calib.learn.engine import Heard, heard, solve_learned
from calib.learn.exact import LearnedEquations
from calib.learn.groups import Group, Pair, huber
from calib.pipeline import calibrate
from calib.simulate.bounds import zeropoint_errors
from calib.solve.methods import stated
from calib.solve.select import deciding_part


def said(problem, fit, jitter):
    """Networks that would hold every zero-point to its night by e^jitter more than the robust fit does."""
    tie = np.zeros((2, fit.design.n_nodes, 3), np.float32)
    tie[:, :, 0] = jitter
    n, stars = problem.m.size, fit.design.n_stars
    nothing = np.zeros((2, n), np.float32)
    return Heard(nothing, tie, np.zeros((2, stars), np.float32), nothing[0], 1.0)


def groups_of(cloudy, jitter):
    return [Group.of(fit, said(part, fit, jitter)) for part, fit in cloudy[2]]


def test_quarters_hold_every_star_once(cloudy):
    problem, _, parts, _, _ = cloudy
    names = [set(part.stars["star_id"]) for part, _ in parts]
    assert sum(len(n) for n in names) == len(set.union(*names)) == problem.stars["star_id"].n_unique()
    assert sum(part.m.size for part, _ in parts) == problem.m.size


def test_ties_that_are_far_too_tight_are_loosened(cloudy):
    problem, fit, _, truth, _ = cloudy
    found = judged(groups_of(cloudy, 6.0))
    assert found.of_shift.kept
    assert found.of_shift.gain > 0
    assert found.shift[0] < -0.5
    whole = Group.of(fit, said(problem, fit, 6.0))
    component = fit.equations.topology.component

    def rms(shift):
        return zeropoint_errors(whole.zeropoints(np.array(shift)), truth, component).rms

    assert rms(found.shift) < 0.95 * rms((0.0, 0.0, 0.0))


def test_ties_as_the_data_have_them_are_left_alone(cloudy):
    found = judged(groups_of(cloudy, 0.0))
    assert found.of_shift.kept == (found.of_shift.significance > adapt.SURE)
    assert found.of_shift.kept or found.shift == (0.0, 0.0, 0.0)
    assert np.abs(found.shift).max() < 1.0


def test_a_group_on_another_scale_says_the_same(cloudy):
    a, b = groups_of(cloudy, 2.0)[:2]
    shift = np.array([0.3, -0.2, 0.1])
    before = Pair(a, b).shifted(shift)
    np.testing.assert_allclose(Pair(a, replace(b, free=b.free + 5.0)).shifted(shift), before, atol=1e-9)


def test_it_is_the_least(cloudy):
    pairs = [Pair(*groups_of(cloudy, 4.0)[:2])]

    def loss(q):
        return huber(pairs[0].shifted(q)).sum() + 0.5 * ((q / adapt.SCATTER) ** 2).sum()

    q = best_shift(pairs)
    assert loss(q) < loss(np.zeros(3))
    for k in range(3):
        for step in (-0.3, 0.3):
            assert loss(q) <= loss(q + step * np.eye(3)[k]) + 0.02


def test_shifts_are_the_solve_s_too(cloudy):
    """The engine with shifts is the group of all stars with them."""
    problem, fit, _, _, _ = cloudy
    shift = (-1.0, 0.5, 0.0)
    found = adapt.Adaptation(shift, adapt.NOTHING)
    learned = solve_learned(problem, stated(fit, [], problem.err, 1), 1, device="cpu", adapted=found.applied)
    n = fit.design.n_nodes
    group = Group.of(fit, heard(problem, fit, device="cpu"))
    centred = LearnedEquations(fit).centring
    np.testing.assert_allclose(
        centred(learned.fit.estimate.theta[:n, 0].copy()), centred(group.zeropoints(np.array(shift))), atol=2e-6
    )


def test_small_surveys_and_those_without_ties_are_not_tried(cloudy, bare, monkeypatch):
    problem, fit, _, _, config = cloudy
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


def test_a_run_says_what_was_found(cloudy_survey, monkeypatch):
    made = cloudy_survey
    monkeypatch.setattr(adapt, "ADAPT_MEASUREMENTS", 100)
    config = Config(method="learned", score=False, surface="plane", seeing_response="off", device="cpu", max_passes=6)
    found = calibrate(made.measurements, made.exposures, config=config).diagnostics["adaptation"]
    assert set(found) == {"shift", "gain", "significance", "kept", "fine_tuning"}
    assert set(found["fine_tuning"]) == {"gain", "significance", "kept", "steps"}
    assert found["fine_tuning"]["steps"] == [0, 0]
    without = calibrate(made.measurements, made.exposures, config=replace(config, adapt=False, fine_tune=True))
    assert without.diagnostics["adaptation"] is None


def test_a_part_decides_for_a_large_survey(cloudy, monkeypatch):
    problem, fit, _, _, config = cloudy
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


def test_a_run_tunes_where_it_is_asked_to(cloudy, monkeypatch):
    problem, fit, _, _, config = cloudy
    monkeypatch.setattr(adapt, "ADAPT_MEASUREMENTS", 100)
    monkeypatch.setattr(adapt, "ADAPT_EXPOSURES", 10)
    asked = []
    monkeypatch.setattr(adapt, "fine_tuned", lambda groups, members, found: asked.append(len(members)) or found)
    assert adapted(problem, fit, config, device="cpu") is not None
    assert not asked
    adapted(problem, fit, replace(config, fine_tune=True), device="cpu")
    assert asked == [5]
