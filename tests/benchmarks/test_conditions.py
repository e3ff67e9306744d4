"""What benchmarks/conditions.py says of probabilities and clouds."""

from __future__ import annotations

from pathlib import Path

import conditions
import numpy as np
import pytest
from scipy.special import expit

from calib.learn import samples
from calib.simulate import SurveySpec


def test_the_line_that_calibrates_is_found() -> None:
    rng = np.random.default_rng(1)
    logit = rng.normal(0, 3, 40_000)
    true = (rng.random(logit.size) < expit(0.4 + 0.6 * logit)).astype(float)
    shift, slope = conditions.calibrating(expit(logit), true)
    assert shift == pytest.approx(0.4, abs=0.05)
    assert slope == pytest.approx(0.6, abs=0.03)


def test_area_under_the_curve_counts_pairs() -> None:
    value, true = np.array([0.1, 0.4, 0.4, 0.9]), np.array([False, True, False, True])
    assert conditions.area_under_curve(value, true) == pytest.approx((1.0 + 0.5 + 1.0 + 1.0) / 4)


def test_it_judges_what_training_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = SurveySpec(n_exposures=60, stars_per_exposure=40, nights=6, visits=5, fov_deg=0.8, cloudy_nights=0.5)
    monkeypatch.setattr(samples, "draw_spec", lambda seed: spec)
    list(samples.cached(tmp_path, range(2)))
    monkeypatch.setattr("sys.argv", ["conditions.py", "--surveys", str(tmp_path), "--part", "odd"])
    conditions.main()
    printed = capsys.readouterr().out
    assert printed.startswith("1 surveys with nights and airmass")
    assert "area under the curve" in printed
    monkeypatch.setattr("sys.argv", ["conditions.py", "--surveys", str(tmp_path / "none")])
    with pytest.raises(SystemExit):
        conditions.main()
