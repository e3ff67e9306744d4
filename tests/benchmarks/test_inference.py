"""The benchmark of the learned method's speed on a survey of a second."""

import inference
import pytest

from calib.learn.ensemble import shipped


def test_it_times_what_there_is():
    found = inference.one(20, 40.0, shipped())
    assert found["n"] > 200
    parts = found["features"] + found["networks"] + found["errors"]
    assert parts > 0
    assert found["whole"] > found["networks"]
    assert found["held"] >= 0


def test_the_fastest_run_counts(monkeypatch):
    clock = iter([0.0, 3.0, 10.0, 11.0, 20.0, 22.0])
    monkeypatch.setattr(inference.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(inference.time, "process_time", lambda: 0.0)
    assert inference.least(lambda: None) == pytest.approx((1.0, 0.0))
