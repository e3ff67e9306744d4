"""The compiled network says what the plain one says, of stars of any size, and the same on any number of threads."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from calib.learn.fast import FastNetwork
from calib.learn.features import EXPOSURE, MEASUREMENT, NIGHT, STAR
from calib.learn.fused import BLOCK, FusedNetwork
from calib.learn.links import LINK
from calib.learn.pyg import HeteroData

NODES = 9


@pytest.fixture(scope="module")
def network(as_if_trained):
    out = as_if_trained(2)
    for layer in out.normalise.values():
        layer.mean.normal_()
        layer.spread.uniform_(0.5, 2.0)
    return out


def survey(visits, rng, nodes=NODES, size=1.0):
    """Features of stars of so many visits: what a survey of that graph could show."""
    data, n = HeteroData(), int(np.sum(visits))

    def drawn(*shape):
        return torch.from_numpy((size * rng.normal(size=shape)).astype(np.float32))

    data["measurement"].x, data["star"].x = drawn(n, len(MEASUREMENT)), drawn(len(visits), len(STAR))
    data["exposure"].x, data["night"].x = drawn(nodes, len(EXPOSURE)), drawn(2, len(NIGHT))
    data["measurement"].star = torch.from_numpy(np.repeat(np.arange(len(visits)), visits))
    data["measurement"].exposure = torch.from_numpy(rng.integers(0, nodes, n))
    data["exposure", "in", "night"].edge_index = torch.stack([torch.arange(nodes), torch.arange(nodes) % 2])
    links = torch.combinations(torch.arange(nodes)).t()
    data["exposure", "links", "exposure"].edge_index = torch.cat([links, links.flip(0)], 1)
    data["exposure", "links", "exposure"].edge_attr = drawn(2 * links.shape[1], len(LINK)).clamp(-3, 3)
    return data


@contextmanager
def threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def asked(network, data, most=None):
    return FusedNetwork(network)(data, most)


def plain(network, data):
    with torch.no_grad():
        return network(data)


def agree(said, expected, **tolerances):
    for name in said._fields:
        torch.testing.assert_close(
            getattr(said, name), getattr(expected, name), **{"rtol": 1e-4, "atol": 2e-5, **tolerances}
        )


def same(said, expected):
    for name in said._fields:
        assert torch.equal(getattr(said, name), getattr(expected, name)), name


VISITS = {
    "one star seen once": [1],
    "each seen once": [1] * 37,
    "one in thousands": [5003, 1, 2],
    "about a block": [BLOCK - 1, BLOCK, 1, BLOCK + 1, 2],
    "stars without measurements": [0, 0, 3, 0, 7] + [0] * 300 + [1, 0],
    "no measurement": [0, 0],
    "no star": [],
    "of all sizes": [int(v) for v in np.random.default_rng(1).geometric(0.1, 500)],
}


@pytest.mark.parametrize("visits", VISITS.values(), ids=VISITS.keys())
def test_it_is_the_network(visits, network, rng):
    data = survey(visits, rng)
    expected = plain(network, data)
    agree(asked(network, data), expected)
    agree(FastNetwork(network)(data), expected)


@pytest.mark.parametrize("size", [0.0, 1e-30, 1e3, 1e30])
def test_features_of_any_size_are_within_bounds(size, network, rng):
    data = survey([1, 5, 30, 2], rng, size=size)
    said = asked(network, data)
    agree(said, plain(network, data))
    assert all(bool(x.isfinite().all()) for x in said)


def test_threads_change_nothing(network, rng):
    data = survey(VISITS["of all sizes"], rng)
    one = asked(network, data)
    for number in (2, 3, 7):
        with threads(number):
            same(asked(network, data), one)
            assert torch.get_num_threads() == number


def test_blocks_change_nothing(network, rng):
    data = survey(VISITS["of all sizes"], rng)
    whole = asked(network, data)
    for most in (1, 2, 50, 10_000):
        same(asked(network, data, most), whole)


def test_more_exposures_than_their_sums_may_take(network, rng):
    """A single run of stars, as sums over exposures of more would be larger than the measurements."""
    data = survey([2] * 40, rng, nodes=60)
    agree(asked(network, data), plain(network, data))


def test_order_changes_nothing(network, rng):
    visits = np.array(VISITS["of all sizes"][:60])
    data = survey(visits, rng)
    straight = asked(network, data)
    stars = rng.permutation(visits.size)
    row = np.arange(visits.sum())
    place = np.split(row, np.cumsum(visits)[:-1])
    rows = torch.from_numpy(np.concatenate([rng.permutation(place[s]) for s in stars]))
    mixed = data.clone()
    mixed["star"].x = data["star"].x[torch.from_numpy(stars)]
    mixed["measurement"].star = torch.from_numpy(np.repeat(np.arange(visits.size), visits[stars]))
    for name in ("x", "exposure"):
        mixed["measurement"][name] = data["measurement"][name][rows]
    said = asked(network, mixed)
    for name, order in (("weight", rows), ("outlier", rows), ("response", stars), ("variable", stars)):
        torch.testing.assert_close(getattr(said, name), getattr(straight, name)[order], rtol=1e-4, atol=1e-5)


def test_what_is_no_number_is_not_hidden(network, rng):
    """It reaches the star's other measurements and its exposure's, as in the plain network, and nothing else."""
    data = survey([3, 4, 1, 2], rng, nodes=10)
    data["measurement"].exposure = torch.arange(10)
    data["exposure", "links", "exposure"].edge_index = torch.zeros(2, 0, dtype=torch.int64)
    data["exposure", "links", "exposure"].edge_attr = torch.zeros(0, len(LINK))
    data["exposure", "in", "night"].edge_index = torch.zeros(2, 0, dtype=torch.int64)
    data["measurement"].x[4, 0] = np.nan
    said = asked(network, data)
    agree(said, plain(network, data), equal_nan=True)
    assert said.weight.isnan().tolist() == [False] * 3 + [True] * 4 + [False] * 3


def test_features_may_lie_by_columns(network, rng):
    data = survey([3, 4, 1, 2], rng)
    expected = asked(network, data)
    data["measurement"].x = data["measurement"].x.t().contiguous().t()
    data["star"].x = data["star"].x.t().contiguous().t()
    same(asked(network, data), expected)
