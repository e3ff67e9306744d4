"""Places told by shared stars, against the places that made them shared."""

import numpy as np
import pytest

from graphs import ExposureGraph, GraphError, MeasurementGraph
from graphs.places import places


def graph_of(star, exposure, n_exposures):
    star, exposure = np.asarray(star, np.int32), np.asarray(exposure, np.int32)
    return MeasurementGraph.from_codes(star, exposure, int(star.max()) + 1, n_exposures)


def sky(centres, seed, density=60.0, lost=0.2):
    """Measurement graph of stars in square fields of width 1 about the centres (E, 2), some of them not detected."""
    rng = np.random.default_rng(seed)
    low, high = centres.min(0) - 0.5, centres.max(0) + 0.5
    at = rng.uniform(low, high, (int(density * np.prod(high - low)), 2))
    star, exposure = np.nonzero((np.abs(at[:, None] - centres) < 0.5).all(2))
    found = rng.random(star.size) > lost
    return graph_of(star[found], exposure[found], len(centres))


def fit(found, true):
    """Best rotation of what was found onto the truth: what is left over the truth's rms, and the stretch."""
    true = true - true.mean(0)
    u, s, v = np.linalg.svd(found.T @ true)
    left = found @ u @ v - true
    return np.sqrt((left**2).sum() / (true**2).sum()), s.sum() / (true**2).sum()


@pytest.fixture
def mosaic():
    rng = np.random.default_rng(1)
    grid = np.stack(np.meshgrid(np.arange(7), np.arange(5)), -1).reshape(-1, 2) * 0.8
    return np.repeat(grid, 3, 0) + rng.uniform(-0.2, 0.2, (105, 2))


@pytest.mark.parametrize("landmarks", [30, 1000])
def test_a_mosaic_is_laid_out_as_it_lies(mosaic, landmarks):
    graph = sky(mosaic, 2)
    found = places(graph.exposure_graph(), landmarks)
    left, stretch = fit(found, mosaic)
    assert left < 0.12
    assert stretch == pytest.approx(1.0, abs=0.12)


def test_a_strip_has_one_direction():
    centres = np.column_stack([np.arange(60) * 0.5, np.zeros(60)])
    found = sky(centres, 3).exposure_graph().places()
    assert abs(np.corrcoef(found[:, 0], centres[:, 0])[0, 1]) > 0.999
    assert found[:, 0].std() == pytest.approx(centres[:, 0].std(), rel=0.15)
    assert found[:, 1].std() < 0.02 * found[:, 0].std()


def test_every_component_is_about_its_own_mean(mosaic):
    both = np.concatenate([mosaic, mosaic[:20] + [40.0, 0.0]])
    graph = sky(both, 4).exposure_graph()
    found, component = graph.places(), graph.components()
    assert component.max() == 1
    for c in (0, 1):
        np.testing.assert_allclose(found[component == c].mean(0), 0.0, atol=1e-9)
    assert fit(found[component == 0], mosaic)[0] < 0.12


def test_stars_shared_at_random_are_no_map():
    rng = np.random.default_rng(5)
    star, exposure = np.nonzero(rng.random((3000, 30)) < 0.6)
    found = graph_of(star, exposure, 30).exposure_graph().places()
    assert np.sqrt((found**2).sum(1).mean()) < 0.02


def test_places_do_not_hang_on_the_order_of_exposures(mosaic):
    order = np.random.default_rng(6).permutation(len(mosaic))
    graph = sky(mosaic, 2)
    again = graph_of(graph.star(), np.argsort(order)[graph.exposure], len(mosaic))
    a, b = (places(g.exposure_graph(), 1000) for g in (graph, again))
    np.testing.assert_allclose(np.abs(b), np.abs(a[order]), atol=1e-6)


def test_one_and_two_exposures():
    alone = graph_of(np.arange(4), np.zeros(4, int), 2).exposure_graph()
    np.testing.assert_array_equal(alone.places(), np.zeros((2, 2)))
    star, exposure = np.array([0, 1, 2, 3, 2, 3, 4, 5]), np.repeat([0, 1], 4)
    found = graph_of(star, exposure, 2).exposure_graph().places()
    assert np.abs(found[1, 0] - found[0, 0]) == pytest.approx(0.5 * (0.5 + np.sqrt(2) * (1 - np.sqrt(0.5))))
    assert not found[:, 1].any()


def test_links_alone_have_no_places():
    with pytest.raises(GraphError, match="places need the stars"):
        ExposureGraph.from_links(3, np.array([[0, 1]])).places()
