"""Fine-tuning: ties that are wrong are learned from stars alone, and kept where stars not seen are sure of it."""

import copy

import numpy as np
import pytest
import torch

from calib.learn import adapt
from calib.learn.adapt import SCATTER, fine_tuned, quarters, two_sides
from calib.learn.engine import heard
from calib.learn.ensemble import Ensemble, shipped
from calib.learn.exact import LearnedEquations
from calib.learn.fine_tune import averaged, taught
from calib.learn.groups import Pair, huber
from calib.simulate.bounds import zeropoint_errors


@pytest.fixture(scope="module")
def tight():
    """Shipped members that would hold zero-points to their nights far too tightly."""
    members = [copy.deepcopy(m) for m in shipped().members]
    with torch.no_grad():
        for m in members:
            m.tie_head[-1].bias[0] += 8.0  # bounded: e^2.2 times the precision, of what is believed
    return Ensemble(members)


@pytest.fixture(scope="module")
def groups(cloudy, tight):
    problem, fit, _, _, config = cloudy
    return quarters(problem, fit, config, tight, "cpu")


def test_what_is_said_of_a_scene_is_what_the_networks_said(groups, tight):
    for group in groups:
        said = group.scene.ties(tight.members).mean(0)
        np.testing.assert_allclose(said.detach(), group.said, atol=2e-5)


def test_gradients(groups, rng):
    """Of the loss to the ties, against finite differences."""
    pair = Pair(*groups[:2])
    at, along = 0.3 * rng.normal(size=(2, *groups[0].said.shape))

    def loss(h):
        tie = torch.tensor(at + h * along, requires_grad=True)
        return (pair.pulls(pair.a.tied.zeropoints(torch.exp(tie))) ** 2).sum(), tie

    out, tie = loss(0.0)
    out.backward()
    numeric = float((loss(1e-5)[0] - loss(-1e-5)[0]).detach()) / 2e-5
    assert float((tie.grad * torch.from_numpy(along)).sum()) == pytest.approx(numeric, rel=1e-4)


def test_it_learns_what_groups_agree_on_and_leaves_the_members_as_they_were(groups, tight):
    one, two = two_sides(groups)
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


def test_it_is_kept_where_stars_not_seen_are_sure_and_then_nearer_to_the_truth(cloudy, groups, tight, monkeypatch):
    problem, fit, _, truth, _ = cloudy
    monkeypatch.setattr(adapt, "SURE", 3.0)  # quarters of a small survey
    nothing = adapt.Adaptation((0.0, 0.0, 0.0), adapt.NOTHING)
    found = fine_tuned(groups, tight.members, nothing)
    assert found.of_tuning.kept
    assert found.of_tuning.significance > adapt.SURE
    whole = heard(problem, fit, tight, "cpu")
    job, component = LearnedEquations(fit), fit.equations.topology.component

    def rms(said):
        theta = job.equations(*said.factors()).estimate().theta
        return zeropoint_errors(theta[: job.design.n_nodes, 0], truth, component).rms

    assert rms(found.applied(whole)) < 0.98 * rms(whole)
    assert rms(found.shifted(whole)) == rms(whole)


def test_it_is_not_kept_where_they_are_not(groups, tight, monkeypatch):
    monkeypatch.setattr(adapt, "SURE", 1e9)
    found = fine_tuned(groups, tight.members, adapt.Adaptation((0.0, 0.0, 0.0), adapt.NOTHING))
    assert not found.of_tuning.kept
    assert found.members == ()


def test_the_mean_of_a_network_and_itself_is_that(tight):
    for a, b in zip(averaged(tight.members, tight.members), tight.members, strict=True):
        for name, value in a.state_dict().items():
            torch.testing.assert_close(value, b.state_dict()[name])
