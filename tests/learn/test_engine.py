"""The learned method as a whole."""

import numpy as np
import pytest
import torch

from calib.learn import engine
from calib.learn.engine import ensemble_variance, solve_learned
from calib.learn.ensemble import SHIPPED, Ensemble, WeightsError, shipped
from calib.learn.exact import LearnedEquations
from calib.learn.features import features_of
from calib.learn.network import Network
from calib.simulate.bounds import zeropoint_errors
from calib.solve.methods import stated


def network(seed, scale):
    torch.manual_seed(seed)
    out = Network().eval()
    for head in out.heads:
        torch.nn.init.normal_(head[-1].weight, std=scale)
    return out


def test_untrained_it_is_the_robust_method(sample, robust):
    found = solve_learned(sample.problem, robust, 1, Ensemble([network(1, 0.0), network(2, 0.0)]), "cpu")
    a, b = found.half(), robust.half()
    assert np.abs((a.zeropoint - b.zeropoint) / b.error).max() < 0.03  # to which the robust fit converged
    np.testing.assert_allclose(a.error, b.error, rtol=0.02)


def moved(found, robust):
    a, b = found.half(), robust.half()
    return np.nanmax(np.abs(a.zeropoint - b.zeropoint) / np.sqrt(robust.fit.spread.node[: a.zeropoint.size, 0, 0]))


def test_networks_move_no_zeropoint_far(sample, robust, monkeypatch):
    wild = Ensemble([network(1, 3.0), network(2, 3.0)])
    monkeypatch.setattr(engine, "FAR", np.inf)
    free = moved(solve_learned(sample.problem, robust, 1, wild, "cpu"), robust)
    monkeypatch.setattr(engine, "FAR", 0.5 * free)
    assert 0.03 < moved(solve_learned(sample.problem, robust, 1, wild, "cpu"), robust) < 0.5 * free + 0.03
    monkeypatch.setattr(engine, "FAR", 1e-9)
    assert moved(solve_learned(sample.problem, robust, 1, wild, "cpu"), robust) < 0.03  # as untrained


def test_disagreement_is_that_of_the_members_solved_one_by_one(sample):
    members = [network(k, 0.03) for k in (1, 2, 3)]
    job = LearnedEquations(sample.fit)
    said = Ensemble(members).listen(features_of(sample.problem, sample.fit).to_hetero_data())
    weight, tie, response = (
        np.stack([getattr(s, name).double().numpy() for s in said]) for name in ("weight", "tie", "response")
    )
    mean = job.equations(*(np.exp(x.mean(0)) for x in (weight, tie, response)))
    estimate = mean.estimate()
    found = ensemble_variance(job, mean, estimate, weight, tie, response)
    z = [
        job.centring(job.equations(*map(np.exp, one)).estimate().theta[: job.design.n_nodes, 0].copy())
        for one in zip(weight, tie, response, strict=True)
    ]
    expected = np.var(z, axis=0, ddof=1)
    assert np.sqrt(found.mean()) == pytest.approx(np.sqrt(expected.mean()), rel=0.15)
    assert np.corrcoef(found, expected)[0, 1] > 0.95


def test_four_columns_are_enough(bare):
    problem, fit = bare
    found = solve_learned(problem, stated(fit, [], problem.err, 1), 1, device="cpu").half()
    assert np.isfinite(found.zeropoint).all()
    assert (found.error > 0).all()


def test_shipped_weights_are_small_and_do_no_harm(sample, robust):
    assert SHIPPED.stat().st_size < 5e6
    found = solve_learned(sample.problem, robust, 1, shipped(), "cpu")
    top = found.equations.topology

    def rms(half):
        return zeropoint_errors(half.zeropoint, sample.truth.zeropoint, top.component).rms

    assert rms(found.half()) < 1.1 * rms(robust.half())
    assert 0.0 <= found.outlier.min() <= found.outlier.max() <= 1.0


def test_weights_go_to_disk_and_back(tmp_path):
    ensemble = Ensemble([network(1, 0.1), network(2, 0.1)], 1.07, {"seed": 3})
    ensemble.save(tmp_path / "w.safetensors")
    back = Ensemble.load(tmp_path / "w.safetensors")
    assert (back.temperature, back.card) == (1.07, {"seed": 3})
    for a, b in zip(ensemble.members, back.members, strict=True):
        for (name, x), y in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
            torch.testing.assert_close(x, y, msg=name)


def test_weights_that_cannot_be_used_are_refused(tmp_path):
    with pytest.raises(WeightsError, match="no weights there"):
        Ensemble.load(tmp_path / "none.safetensors")
    (tmp_path / "text.safetensors").write_text("not weights")
    with pytest.raises(WeightsError, match="not a safetensors file"):
        Ensemble.load(tmp_path / "text.safetensors")
