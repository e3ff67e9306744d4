"""The ablation on a few tiny surveys: every variant is trained, judged by surveys of its own, and printed."""

import json

import ablation
import numpy as np
import pytest
import torch

from calib.learn import samples
from calib.learn.features import features_of
from calib.learn.network import ALL, Network
from calib.learn.train import HELD_OUT, Plan
from calib.simulate import SurveySpec


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("surveys")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            samples, "draw_spec",
            lambda seed: SurveySpec(n_exposures=12 + seed % 3, stars_per_exposure=25, nights=3, visits=4, fov_deg=0.8),
        )  # fmt: skip
        list(samples.cached(folder, range(HELD_OUT + 4)))
    return folder


def test_surveys_train_or_choose_or_judge(folder):
    parts = [{lesson.seed for lesson in part} for part in ablation.lessons_of(folder, HELD_OUT + 4)]
    assert all(parts)
    assert sum(map(len, parts)) == len(set.union(*parts))
    with pytest.raises(SystemExit, match="too few"):
        ablation.lessons_of(folder, 2)


def test_it_prints_what_was_run_and_a_row_for_each(folder, tmp_path, capsys):
    out = tmp_path / "rows.json"
    few = ["--most", str(HELD_OUT + 4), "--steps", "3", "--members", "2", "--batch", "2", "--every", "2", "--quiet"]
    ablation.main(["--surveys", str(folder), *few, "--only", "ties,auxiliary,split", "--json", str(out)])
    said = capsys.readouterr().out
    assert "2 networks of 3 steps of 2 surveys" in said
    rows = json.loads(out.read_text())["rows"]
    assert [row["name"] for row in rows] == ["all", "ties", "auxiliary", "split"]
    for row in rows:
        assert row["what"] in said
        assert 0.5 < row["median"] <= row["worst"] < 2.0
    assert rows[0]["over_whole"] == 1.0
    assert rows[1]["over_whole"] != 1.0
    with pytest.raises(SystemExit):
        ablation.main(["--surveys", str(folder), "--only", "magic"])


def test_same_again(folder):
    lessons = ablation.lessons_of(folder, HELD_OUT + 4)
    plan = Plan(surveys=HELD_OUT + 4, steps=2, batch=2, members=1, rate=2e-3, every=1, seed=5)
    first, second = (ablation.ratios(ablation.trained(plan, *lessons[:2], print), lessons[2]) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_a_second_pass_looks_at_the_answer_to_the_first(folder):
    lesson = ablation.lessons_of(folder, HELD_OUT + 4)[0][0]
    sample = lesson.data.sample
    one = Network().eval()
    said = one(lesson.data)
    again = ablation.looked_at_again(sample, said)
    for kind in ("measurement", "star", "exposure"):  # a network that says nothing moves nothing
        np.testing.assert_allclose(again[kind].x, lesson.data[kind].x, atol=0.02)
    weight = torch.linspace(-1, 1, said.weight.shape[0])
    moved = ablation.looked_at_again(sample, said._replace(weight=weight))
    assert (moved["measurement"].x - again["measurement"].x).abs().max() > 0.01
    twice = ablation.Unrolled().eval()
    torch.nn.init.normal_(one.weight_head[-1].weight, std=0.3)
    twice.load_state_dict(one.state_dict())
    first = one(lesson.data)
    expected = first.weight + one(ablation.looked_at_again(sample, first)).weight
    torch.testing.assert_close(twice(lesson.data).weight, expected)


@pytest.fixture(scope="module")
def heard(folder):
    """What a network with heads as if trained says of a survey, by the name of the variant."""
    sample = samples.load(sorted(folder.glob("*.pickle"))[0])
    data = features_of(sample.problem, sample.fit).to_hetero_data()

    def of(name, parts=ALL):
        torch.manual_seed(4)
        network = Network(ablation.VARIANTS[name][1].get("parts", parts)).eval()
        for head in network.heads:
            torch.nn.init.normal_(head[-1].weight, std=0.3)
        with torch.no_grad():
            return network(data)

    return of


@pytest.mark.parametrize("name", [n for n, (_, other) in ablation.VARIANTS.items() if "parts" in other])
def test_a_part_that_is_off_is_heard_to_be_off(name, heard):
    whole, without = heard("all"), heard(name)
    silent = {"weights": "weight", "ties": "tie", "responses": "response"}.get(name)
    if silent is None:
        assert float((whole.weight - without.weight).abs().max()) > 1e-4
        return
    assert float(getattr(without, silent).abs().max()) == 0.0
    for other in {"weight", "tie", "response"} - {silent}:
        torch.testing.assert_close(getattr(without, other), getattr(whole, other))
