"""The benchmark of the learned method's speed on a survey of a second."""

import inference
import pytest
import torch

from calib.learn.ensemble import shipped
from calib.learn.features import features_of


def test_it_times_what_there_is():
    found = inference.one(20, 40.0, shipped())
    assert found["n"] > 200
    parts = found["features"] + found["networks"] + found["errors"]
    assert parts > 0
    assert found["whole"] > found["networks"]
    assert found["held"] >= 0


def test_copies_of_a_survey_are_told_what_it_is():
    problem, robust = inference.solved(20, 40.0)
    data = features_of(problem, robust.fit).to_hetero_data()
    three = inference.repeated(data, 3)
    n, stars = data["measurement"].x.shape[0], data["star"].x.shape[0]
    assert three["measurement"].star.max() == 3 * stars - 1
    for one, many in zip(shipped().listen(data), shipped().listen(three), strict=True):
        torch.testing.assert_close(many.weight, one.weight.repeat(3), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(many.tie, one.tie.repeat(3, 1), rtol=1e-4, atol=1e-5)
    assert many.weight.shape == (3 * n,)


def test_the_fastest_run_counts(monkeypatch):
    clock = iter([0.0, 3.0, 10.0, 11.0, 20.0, 22.0])
    monkeypatch.setattr(inference.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(inference.time, "process_time", lambda: 0.0)
    assert inference.least(lambda: None) == pytest.approx((1.0, 0.0))
