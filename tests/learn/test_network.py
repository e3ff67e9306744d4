"""The network: nothing to say before training, the same in any order and in parts, blind to a measurement itself."""

from copy import deepcopy

import numpy as np
import pytest
import torch

from calib.learn.autoencoder import StarAutoencoder
from calib.learn.ensemble import shipped
from calib.learn.fast import FastNetwork
from calib.learn.features import EXPOSURE, MEASUREMENT, NIGHT, STAR, features_of
from calib.learn.fused import FusedNetwork
from calib.learn.network import Network, star_parts


@pytest.fixture(scope="module")
def network(as_if_trained):
    return as_if_trained(1)


def test_untrained_it_says_nothing(sample):
    torch.manual_seed(1)
    said = Network()(features_of(sample.problem, sample.fit).to_hetero_data())
    for name in ("weight", "tie", "response", "outlier", "variable"):
        assert float(getattr(said, name).detach().abs().max()) == 0.0


@pytest.mark.parametrize("which", ["sample", "bare"])
def test_features_are_finite_and_bounded(which, request):
    found = request.getfixturevalue(which)
    problem, fit = (found.problem, found.fit) if which == "sample" else found
    f = features_of(problem, fit)
    for x, names in (
        (f.measurement, MEASUREMENT), (f.star, STAR), (f.exposure, EXPOSURE), (f.night, NIGHT)
    ):  # fmt: skip
        assert x.shape[1] == len(names)
        assert np.abs(x).max(initial=0.0) <= 10.0
    column = f.measurement[:, MEASUREMENT.index("has_place")]
    assert (column == (1.0 if which == "sample" else 0.0)).all()
    assert f.links.edge_index.shape[1] > 0


def test_stars_in_parts_are_stars_at_once(sample, network):
    data = features_of(sample.problem, sample.fit).to_hetero_data()
    with torch.no_grad():
        whole, parts = network(data), network(data, most=200)
    assert len(star_parts(data["measurement"].star, data["star"].x.shape[0], 200)) > 3
    for name in ("weight", "tie", "response", "outlier", "variable"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("which", ["sample", "bare"])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("kind", [FastNetwork, FusedNetwork])
def test_fast_is_the_network(which, threads, kind, network, request):
    found = request.getfixturevalue(which)
    problem, fit = (found.problem, found.fit) if which == "sample" else found
    data = features_of(problem, fit).to_hetero_data()
    for name, layer in network.normalise.items():  # as if trained
        layer.mean.fill_(0.1)
        layer.spread.fill_(0.7 if name == "measurement" else 1.3)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.no_grad():
            slow = network(data)
        for most in (None, 300):
            fast = kind(network)(data, most)
            for name in fast._fields:
                torch.testing.assert_close(getattr(fast, name), getattr(slow, name), rtol=1e-4, atol=2e-5)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
        for layer in network.normalise.values():
            layer.mean.zero_()
            layer.spread.fill_(1.0)


def test_half_precision_says_the_same(sample):
    """As measurements are kept on a GPU, here on the shipped members: less than they disagree by, a hundred times."""
    data = features_of(sample.problem, sample.fit).to_hetero_data()
    single = [FastNetwork(member, torch.float32)(data) for member in shipped().members]
    apart = torch.stack([said.weight for said in single]).std(0).mean()
    for member, one in zip(shipped().members, single, strict=True):
        half = FastNetwork(member, torch.float16)(data)
        for name in half._fields:
            torch.testing.assert_close(getattr(half, name), getattr(one, name), rtol=3e-3, atol=3e-3)
        off = half.weight - one.weight
        assert 0 < float(off.pow(2).mean().sqrt()) < 0.01 * float(apart)


def test_numbers_beyond_half_precision_are_asked_in_single(sample):
    data = features_of(sample.problem, sample.fit).to_hetero_data()
    member = deepcopy(shipped().members[0])
    with torch.no_grad():
        member.measurement[0].weight.mul_(1e5)
        member.measurement[2].weight.mul_(1e-5)
    single, half = (FastNetwork(member, number)(data) for number in (torch.float32, torch.float16))
    for name in half._fields:
        assert torch.isfinite(getattr(half, name)).all()
        torch.testing.assert_close(getattr(half, name), getattr(single, name))


def test_stars_without_company_are_heard_too(network, sample):
    """Every star once: a code of no others, whatever the part."""
    data = features_of(sample.problem, sample.fit).to_hetero_data()
    n = data["measurement"].x.shape[0]
    data["star"].x = data["star"].x[data["measurement"].star]
    data["measurement"].star = torch.arange(n)
    with torch.no_grad():
        slow = network(data)
    for kind in (FastNetwork, FusedNetwork):
        torch.testing.assert_close(kind(network)(data, 100).weight, slow.weight, rtol=1e-4, atol=2e-5)


def test_answers_are_bounded(sample, network):
    said = network(features_of(sample.problem, sample.fit).to_hetero_data())
    assert float(said.weight.detach().abs().max()) <= 2.0
    assert float(said.tie.detach().abs().max()) <= 3.0


def encoder_inputs(rng, n=40, stars=6):
    star = torch.from_numpy(np.sort(rng.integers(0, stars, n)))
    seen, known, around = (torch.from_numpy(rng.normal(size=(n, k)).astype(np.float32)) for k in (5, 3, 4))
    torch.manual_seed(3)
    return StarAutoencoder(5, 3, 4), seen, known, around, star, stars


def test_order_of_measurements_changes_nothing(rng):
    encoder, *inputs, star, n = encoder_inputs(rng)
    order = torch.from_numpy(rng.permutation(star.shape[0]))
    straight = encoder(*inputs, star, n)
    mixed = encoder(*(x[order] for x in inputs), star[order], n)
    for a, b in zip(straight, mixed, strict=True):
        torch.testing.assert_close(a[order], b, rtol=1e-4, atol=1e-5)


def test_a_measurement_does_not_predict_itself(rng):
    encoder, seen, known, around, star, n = encoder_inputs(rng)
    before = encoder(seen, known, around, star, n)
    seen = seen.clone()
    seen[7] += 30.0
    after = encoder(seen, known, around, star, n)
    assert float((after.mean - before.mean)[7].detach().abs()) < 1e-6
    others = (star == star[7]).nonzero().ravel()
    others = others[others != 7]
    assert float((after.mean - before.mean)[others].detach().abs().max()) > 1e-5
    alone = torch.ones_like(star, dtype=torch.bool)
    alone[others] = alone[7] = False
    torch.testing.assert_close(after.mean[alone], before.mean[alone])
