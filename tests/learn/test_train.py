"""Training on a handful of tiny surveys: the same after a kill, apart from what it is judged by, and it learns."""

import json
import math

import numpy as np
import pytest
import torch

from calib.cli import main
from calib.learn import samples, train
from calib.learn.ensemble import Ensemble
from calib.learn.network import Network
from calib.learn.train import HELD_OUT, OutOfTime, Plan
from calib.learn.world import FIRST_SEED, draw_spec
from calib.simulate import SurveySpec
from calib.simulate.presets import PRESETS

PLAN = Plan(surveys=HELD_OUT + 2, steps=6, batch=2, members=2, rate=1e-3, every=3, seed=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, monkeypatch_module):
    """A working folder whose surveys are solved."""
    folder = tmp_path_factory.mktemp("work")
    list(samples.cached(folder / "surveys", range(PLAN.surveys)))
    return folder


@pytest.fixture(scope="module")
def monkeypatch_module():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            samples, "draw_spec",
            lambda seed: SurveySpec(n_exposures=12 + seed % 3, stars_per_exposure=25, nights=3, visits=4, fov_deg=0.8),
        )  # fmt: skip
        yield patch


def linked(tmp_path, folder):
    (tmp_path / "surveys").symlink_to(folder / "surveys")
    return tmp_path


def same(a, b):
    for x, y in zip(a.members, b.members, strict=True):
        for p, q in zip(x.state_dict().values(), y.state_dict().values(), strict=True):
            torch.testing.assert_close(p, q, rtol=0, atol=0)


def test_killed_and_resumed_is_as_if_never_killed(folder, tmp_path, monkeypatch):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    straight = train.train(PLAN, linked(tmp_path / "one", folder))
    learn = train.Pupil.learn
    done = []

    def dies(self):
        if len(done) == 8:  # the second member's second step
            raise KeyboardInterrupt
        done.append(1)
        return learn(self)

    work = linked(tmp_path / "two", folder)
    monkeypatch.setattr(train.Pupil, "learn", dies)
    with pytest.raises(KeyboardInterrupt):
        train.train(PLAN, work)
    monkeypatch.setattr(train.Pupil, "learn", learn)
    same(train.train(PLAN, work), straight)
    # and time that runs out after every step
    (tmp_path / "three").mkdir()
    work = linked(tmp_path / "three", folder)
    clock = iter(np.arange(0, 1e6, 1e3))
    monkeypatch.setattr(train.time, "monotonic", lambda: float(next(clock)))
    stopped = 0
    for _ in range(40):
        try:
            again = train.train(PLAN, work, hours=3.1)
            break
        except OutOfTime:
            stopped += 1
    assert stopped > 1
    same(again, straight)
    assert again.card["trained_on"] + again.card["held_out"] == PLAN.surveys


def test_surveys_held_out_are_not_trained_on(folder, tmp_path, monkeypatch):
    seen, judged = set(), set()
    learn, examine = train.Pupil.learn, train.Pupil.examine

    def watch(self):
        seen.update(lesson.seed for lesson in self.lessons)
        return learn(self)

    def judge(self, held_out):
        judged.update(lesson.seed for lesson in held_out)
        return examine(self, held_out)

    monkeypatch.setattr(train.Pupil, "learn", watch)
    monkeypatch.setattr(train.Pupil, "examine", judge)
    train.train(Plan(surveys=PLAN.surveys, steps=1, batch=1, members=1, rate=1e-3, every=1), linked(tmp_path, folder))
    assert judged
    assert not seen & judged
    assert min(seen | judged) >= FIRST_SEED


def test_it_learns(folder):
    lessons = [train.Lesson.of(samples.load(path)) for path in sorted((folder / "surveys").glob("*.pickle"))[:2]]
    pupil = train.Pupil(Plan(surveys=8, steps=30, batch=2, rate=3e-3, average=0.5), 0, lessons)
    before = train.examined(pupil.average, lessons)
    for _ in range(30):
        pupil.learn()
    after = train.examined(pupil.average, lessons)
    assert before["ratio"] == pytest.approx(1.0, abs=1e-6)
    assert after["loss"] < before["loss"]
    assert after["ratio"] < 1.0


def test_samples_come_back_as_they_were(sample, tmp_path):
    samples.save(sample, tmp_path / "a.pickle")
    back = samples.load(tmp_path / "a.pickle")
    np.testing.assert_array_equal(back.fit.estimate.theta, sample.fit.estimate.theta)
    theta = back.fit.equations.estimate().theta
    np.testing.assert_allclose(theta, sample.fit.equations.estimate().theta, atol=1e-12)
    assert math.isfinite(back.robust_rms)
    assert back.robust_rms == sample.robust_rms


def test_world_is_wide_and_holds_none_of_the_presets():
    specs = [draw_spec(FIRST_SEED + k) for k in range(300)]
    assert {s.layout for s in specs} == {"mosaic", "deep", "strip", "islands", "sparse"}
    assert draw_spec(FIRST_SEED + 5) == specs[5]
    assert any("exposures" in s.drop for s in specs)
    assert not any(s in PRESETS.values() for s in specs)
    assert max(s.n_exposures * s.stars_per_exposure for s in specs) < 40_000


@pytest.mark.parametrize("seed", [2**53, 99999999999999999999])
def test_seeds_that_members_could_not_have_are_refused(tmp_path, capsys, seed):
    assert main(["train", "--out", str(tmp_path / "w.safetensors"), "--seed", str(seed)]) == 2
    assert f"seed is {seed}; it lies between" in capsys.readouterr().err
    train.Pupil(Plan(seed=2**53 - 1, steps=1), 99, [], start=Network())


def test_command(folder, tmp_path, capsys):
    work, out = linked(tmp_path, folder), tmp_path / "w.safetensors"
    given = ["train", "--out", str(out), "--surveys", "8", "--steps", "2", "--members", "1", "--work", str(work)]
    assert main(given) == 0
    assert "error over robust" in capsys.readouterr().out
    assert json.loads((work / "log.jsonl").read_text().splitlines()[-1])["step"] == 2
    ensemble = Ensemble.load(out)
    assert ensemble.card["plan"]["steps"] == 2
    assert main(given) == 2
    assert "--resume" in capsys.readouterr().err
    assert main([*given, "--resume", "--quiet"]) == 0
