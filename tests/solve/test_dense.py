"""Matrix products of dense components against the pairs that they stand for."""

import numpy as np
import pytest

from calib.model.by_magnitude import ByMagnitude
from calib.solve.dense import LEAST_NODES
from calib.solve.design import Design
from calib.solve.normal import NormalEquations, Prior, Topology
from graphs import MeasurementGraph


def two_fields(seed, degree, response, background):
    """A stare at 70 stars in 90 exposures, a strip of 60 exposures that see a few stars each, and a lone exposure."""
    rng = np.random.default_rng(seed)
    star, node = (x.ravel() for x in np.meshgrid(np.arange(70), np.arange(90), indexing="ij"))
    seen = rng.random(star.size) < 0.8
    strip_star = rng.integers(0, 120, 500)
    strip_node = 90 + np.clip(strip_star // 2 + rng.integers(-2, 3, 500), 0, 59)
    star = np.concatenate([star[seen], 70 + strip_star, [190]])
    node = np.concatenate([node[seen], strip_node, [150]])
    shuffled = rng.permutation(151)  # nodes of both fields mixed
    graph = MeasurementGraph.from_codes(star, shuffled[node].astype(np.int32), 191, 151)
    n, K = graph.n_measurements, {0: 1, 1: 3, 2: 6}[degree] + background
    centre = np.r_[0.0, 0.1, -0.05, 0.3, 0.0, 0.3][: {0: 1, 1: 3, 2: 6}[degree]]
    xy = rng.uniform(-1, 1, (n, 2)).astype(np.float32) if degree else None
    seeing = rng.normal(size=151) if response else None
    term = ByMagnitude("background", rng.exponential(size=n).astype(np.float32)) if background else None
    design = Design(graph, xy, degree, centre, seeing, term)
    w = rng.uniform(100, 1e4, n) * (rng.random(n) < 0.97)
    stiff = np.zeros((151, K, K))
    stiff[:, np.arange(1, K), np.arange(1, K)] = 300.0
    prior = Prior(stiff, np.zeros((0, K, K)), np.zeros((151, K)), np.full(191, 500.0))
    return design, NormalEquations(design, rng.normal(size=n), w, prior, Topology(design)), np.sort(shuffled[:90])


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("response", [False, True])
@pytest.mark.parametrize("degree", [0, 1, 2])
def test_products_are_the_pairs(monkeypatch, degree, response, background):
    design, products, nodes = two_fields(degree, degree, response, background)
    (field,) = design.dense.fields
    np.testing.assert_array_equal(field.nodes, nodes)
    assert field.stars.size == 70
    monkeypatch.setattr("calib.solve.dense.LEAST_NODES", 10**9)
    _, pairs, _ = two_fields(degree, degree, response, background)
    assert pairs.design.dense is None
    for one, other in zip(products.blocks, pairs.blocks, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-12 * np.abs(other).max())
    one, other = products.spread(), pairs.spread()
    for name in ("node", "star", "prediction"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-7, atol=1e-14)
    np.testing.assert_allclose(products.estimate().residual, pairs.estimate().residual, rtol=1e-7, atol=1e-9)


def test_chunks_and_panels_cover_a_field():
    field = two_fields(1, 1, False, False)[0].dense.fields[0]
    assert field.nodes.size >= LEAST_NODES
    assert np.concatenate(list(field.chunks(3, 1))).tolist() == field.stars.tolist()
    panels = list(field.panels(40))
    assert panels[0][0] == 0
    assert panels[-1][1] == field.nodes.size
    assert [a for a, _ in panels[1:]] == [b for _, b in panels[:-1]]
