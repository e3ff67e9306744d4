import networkx as nx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphs import ExposureGraph, GraphError


def dense_laplacian(graph):
    weight = np.zeros((graph.n_exposures, graph.n_exposures))
    for (e, f), w in zip(graph.pairs(), graph.weight, strict=True):
        weight[e, f] = weight[f, e] = w
    return np.diag(weight.sum(axis=1)) - weight


def as_sets(pairs):
    return {tuple(sorted(pair)) for pair in np.asarray(pairs).tolist()}


def test_laplacian(small):
    np.testing.assert_allclose(small.laplacian().toarray(), dense_laplacian(small), atol=1e-12)


@given(st.integers(1, 10), st.sets(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=14))
def test_structure_matches_networkx(n, pairs):
    pairs = sorted({(min(p), max(p)) for p in pairs if p[0] != p[1] and max(p) < n})
    graph = ExposureGraph.from_links(n, np.array(pairs, int).reshape(-1, 2), np.arange(1, len(pairs) + 1))
    rival = graph.to_networkx()
    components = sorted(map(sorted, nx.connected_components(rival)))
    labels = graph.components()
    assert labels.dtype == np.int32
    assert [np.flatnonzero(labels == c).tolist() for c in range(labels.max() + 1)] == components
    assert as_sets(graph.bridges()) == as_sets(list(nx.bridges(rival)))
    assert graph.articulation_exposures().tolist() == sorted(nx.articulation_points(rival))
    tree = graph.spanning_tree()
    best = nx.maximum_spanning_tree(rival, weight="n_shared")  # n_shared all differ, so that the tree is unique
    assert as_sets(tree) == as_sets(list(best.edges))
    assert len(tree) == n - len(components)


def test_from_links_sorts_whatever_order(small):
    rng = np.random.default_rng(0)
    shuffled = rng.permutation(small.n_links)
    pairs = small.pairs()[shuffled]
    pairs[::2] = pairs[::2, ::-1]
    again = ExposureGraph.from_links(small.n_exposures, pairs, small.n_shared[shuffled], small.weight[shuffled])
    for name in ("indptr", "indices", "n_shared", "weight"):
        np.testing.assert_array_equal(getattr(again, name), getattr(small, name))


@pytest.mark.parametrize("n", [0, 1, 3])
def test_graphs_without_links_answer(n):
    graph = ExposureGraph.from_links(n, np.zeros((0, 2), int))
    assert graph.components().tolist() == list(range(n))
    assert graph.bridges().shape == (0, 2)
    assert graph.spanning_tree().shape == (0, 2)
    assert graph.articulation_exposures().size == 0
    assert graph.weak_modes(3).vector.shape == (n, 0)
    assert graph.best_new_links(3) == []
    assert graph.weak_links().cuts == ()
    assert graph.weak_links().n_tying_stars.tolist() == [0] * n
    assert graph.effective_resistance(np.zeros((0, 2), int)).shape == (0,)
    assert graph.laplacian().shape == (n, n)
    if n == 3:
        assert graph.effective_resistance([[0, 0], [0, 1]]).tolist() == [0, np.inf]


def test_links_refused():
    with pytest.raises(GraphError, match="linked with itself"):
        ExposureGraph.from_links(3, np.array([[1, 1]]))
    with pytest.raises(GraphError, match="exposures 0 to 3; they lie in 0 to 2"):
        ExposureGraph.from_links(3, np.array([[0, 3]]))
    with pytest.raises(GraphError, match="ascending"):
        ExposureGraph.from_links(3, np.array([[0, 1], [1, 0]]))
    with pytest.raises(GraphError, match="positive finite weight"):
        ExposureGraph.from_links(3, np.array([[0, 1]]), weight=np.array([0.0]))
    with pytest.raises(GraphError, match="shape"):
        ExposureGraph.from_links(3, np.array([0, 1, 2]))
    one = np.ones(1, np.int32)
    with pytest.raises(GraphError, match="indptr must rise"):
        ExposureGraph(np.array([0, 2]), one, one, np.ones(1))
    with pytest.raises(GraphError, match="1 links, with 2 numbers"):
        ExposureGraph(np.array([0, 1, 1]), one, np.ones(2, np.int32), np.ones(1))
