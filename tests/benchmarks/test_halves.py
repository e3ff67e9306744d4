"""Some stars held against others: lessons without truth, and networks fine-tuned by them."""

import json

import finetune
import numpy as np
import pytest
from halves import lessons_of_halves, parts_of

from calib.learn import samples
from calib.learn.losses import Lesson, losses_of
from calib.learn.network import Network
from calib.learn.samples import solved_sample
from calib.simulate import SurveySpec, simulate

SPEC = SurveySpec(n_exposures=40, stars_per_exposure=60, nights=4, visits=5, fov_deg=0.8)


@pytest.fixture(scope="module")
def sample():
    return solved_sample(simulate(SPEC, 7), 7)


def test_every_star_is_in_one_part(sample):
    parts = parts_of(sample, 2)
    names = [set(p.problem.stars["star_id"]) for p in parts]
    assert names[0].isdisjoint(names[1])
    assert sum(p.problem.m.size for p in parts) == sample.problem.m.size
    for p in parts:
        assert p.truth.outlier.size == p.truth.outlier_sigma.size == p.problem.m.size
        assert p.truth.variable.size == p.problem.stars.height
        own = np.isin(sample.problem.input_row, p.problem.input_row)
        np.testing.assert_array_equal(p.truth.outlier, sample.truth.outlier[own])


def test_other_stars_stand_for_the_truth_within_their_errors(sample):
    halves = lessons_of_halves(*parts_of(sample, 2))
    assert len(halves) == 2
    for half in halves:
        inside = half.linked.numpy()
        assert inside.sum() > 30
        pull2 = half.robust_error.numpy()[inside] ** 2 / (half.robust_variance + half.truth_variance).numpy()[inside]
        assert 0.5 < np.sqrt(pull2.mean()) < 1.4
        assert (half.truth_variance.numpy()[inside] > 0).all()


def test_the_loss_holds_the_error_of_both(sample):
    half = lessons_of_halves(*parts_of(sample, 2))[0]
    _, watched = losses_of(half, Network().eval()(half.data))
    assert watched["ratio"] == pytest.approx(1.0, abs=1e-6)
    assert watched["pull2"] == pytest.approx(watched["robust_pull2"], rel=1e-6)
    assert (Lesson.of(sample).truth_variance == 0).all()


def test_fine_tuning_prints_a_row_for_every_survey_and_rate(tmp_path, capsys):
    folder = tmp_path / "surveys"
    few = ["--most", "1", "--least", "100", "--exposures", "10", "--steps", "2", "--every", "1"]
    out = tmp_path / "rows.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(samples, "draw_spec", lambda seed: SPEC)
        finetune.main(["--surveys", str(folder), *few, "--members", "1", "--rates", "1e-3,1e-5", "--json", str(out)])
    said = capsys.readouterr().out
    rows = json.loads(out.read_text())["rows"]
    assert [row["rate"] for row in rows] == [1e-3, 1e-5]
    assert "rate 1e-05: over the networks as they are" in said
    for row in rows:
        assert 0.5 < row["over"] < 2.0
        assert (row["over"] == 1.0) == (row["changed"] == 0)
