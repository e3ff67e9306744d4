"""Adaptation on surveys held out: a row for each that is large enough, and what is kept of it."""

import json

import adaptation
import pytest

from calib.learn import adapt, samples
from calib.simulate import SurveySpec

SPEC = SurveySpec(n_exposures=44, stars_per_exposure=50, nights=4, visits=5, cloudy_nights=0.5, fov_deg=0.8)


def test_rows_of_surveys_held_out_that_are_large_enough(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(samples, "draw_spec", lambda seed: SPEC)
    monkeypatch.setattr(adapt, "ADAPT_MEASUREMENTS", 500)
    monkeypatch.setattr(adapt, "SURE", adapt.SURE)  # put back: the benchmark sets it
    out = tmp_path / "rows.json"
    argv = ["--surveys", str(tmp_path / "surveys"), "--most", "1", "--json", str(out)]
    adaptation.main([*argv, "--sure", "1e9"])
    (row,) = json.loads(out.read_text())
    assert row["exposures"] == 44
    assert row["measurements"] > 500
    assert 0.5 < row["learned"] < 1.5
    assert row["shifted"] == pytest.approx(1.0, abs=1e-6)  # nobody is so sure
    assert row["adapted"] == pytest.approx(1.0, abs=1e-6)
    assert not row["found"]["kept"]
    assert "shifted: 0 of 1 surveys" in capsys.readouterr().out
    adaptation.main([*argv, "--sure=-1e9"])
    (row,) = json.loads(out.read_text())
    assert row["found"]["kept"]
    assert row["shifted"] != pytest.approx(1.0, abs=1e-9)
    monkeypatch.setattr(adapt, "ADAPT_MEASUREMENTS", 10**6)
    adaptation.main(argv)
    assert json.loads(out.read_text()) == []
