"""On a GPU the networks say and learn what they do on the CPU."""

import numpy as np
import pytest
import torch

from calib.learn import samples
from calib.learn.engine import solve_learned
from calib.learn.ensemble import SHIPPED, Ensemble, shipped
from calib.learn.features import features_of
from calib.learn.losses import Lesson
from calib.learn.train import Plan, Pupil, train
from calib.simulate import SurveySpec

pytestmark = pytest.mark.needs_cuda


def own():
    """The shipped members, not those that other tests share."""
    return Ensemble.load(SHIPPED)


def test_networks_say_the_same(sample):
    data = features_of(sample.problem, sample.fit).to_hetero_data()
    for here, there in zip(shipped().listen(data), own().to("cuda").listen(data.to("cuda")), strict=True):
        for name in ("weight", "tie", "response", "outlier", "variable"):
            torch.testing.assert_close(getattr(here, name), getattr(there, name).cpu(), rtol=1e-3, atol=1e-3)


def test_zeropoints_and_errors_are_the_same(sample, robust):
    here = solve_learned(sample.problem, robust, 1, own(), "cpu").half()
    there = solve_learned(sample.problem, robust, 1, own(), "cuda").half()
    np.testing.assert_allclose(there.zeropoint, here.zeropoint, atol=1e-5)
    np.testing.assert_allclose(there.error, here.error, rtol=1e-3)


def test_a_step_of_training_is_the_same(sample):
    plan = Plan(surveys=8, steps=4, batch=1, rate=1e-3)
    lesson = Lesson.of(sample)
    pupils = [Pupil(plan, 0, [lesson.to(device)], device=device) for device in ("cpu", "cuda")]
    for pupil in pupils:
        pupil.network.eval()  # dropout draws other numbers there
    ratios = [[pupil.learn() for _ in range(4)] for pupil in pupils]
    np.testing.assert_allclose(ratios[1], ratios[0], atol=1e-3)
    assert ratios[0][-1] < ratios[0][0]


def test_training_there_is_saved_and_resumed(tmp_path, monkeypatch):
    spec = SurveySpec(n_exposures=12, stars_per_exposure=25, nights=3, visits=4, fov_deg=0.8)
    monkeypatch.setattr(samples, "draw_spec", lambda seed: spec)
    plan = Plan(surveys=8, steps=4, batch=2, members=1, rate=1e-3, every=2)
    made = train(plan, tmp_path, device="cuda")
    assert made.card["device"] == "cuda"
    assert np.isfinite(made.card["scores"]["ratio"])
    again = train(plan, tmp_path, device="cuda")
    for a, b in zip(made.members[0].parameters(), again.members[0].parameters(), strict=True):
        assert a.device.type == "cpu"
        torch.testing.assert_close(a, b)
