import itertools

import numpy as np
import pytest

from graphs import ExposureGraph, GraphError, planning


def pseudo_inverse(graph):
    return np.linalg.pinv(graph.laplacian().toarray(), hermitian=True, rcond=1e-12)


def strip(n, seed=0):
    rng = np.random.default_rng(seed)
    pairs = np.concatenate([np.column_stack([np.arange(n - step), np.arange(step, n)]) for step in (1, 2)])
    return ExposureGraph.from_links(n, pairs, weight=rng.uniform(1, 10, len(pairs)))


def test_resistance_of_all_pairs_and_of_few(small):
    inverse, labels = pseudo_inverse(small), small.components()
    everything = np.array(list(itertools.product(range(small.n_exposures), repeat=2)))
    b = np.eye(small.n_exposures)
    expected = np.array(
        [(b[e] - b[f]) @ inverse @ (b[e] - b[f]) if labels[e] == labels[f] else np.inf for e, f in everything]
    )
    np.testing.assert_allclose(small.effective_resistance(everything), expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(small.effective_resistance(everything[3:5]), expected[3:5], rtol=1e-9, atol=1e-12)


def test_resistance_in_batches(monkeypatch):
    graph = strip(40)
    pairs = np.array(list(itertools.combinations(range(40), 2)))
    expected = graph.effective_resistance(pairs)
    monkeypatch.setattr(planning, "BATCH", 7)
    np.testing.assert_allclose(graph.effective_resistance(pairs), expected, rtol=1e-10)
    np.testing.assert_allclose(graph.effective_resistance(pairs[::60]), expected[::60], rtol=1e-10)


def test_series_and_parallel():
    graph = ExposureGraph.from_links(4, np.array([[0, 1], [1, 2], [0, 2]]), weight=np.array([2.0, 2.0, 1.0]))
    np.testing.assert_allclose(graph.effective_resistance([[0, 2], [2, 0], [0, 3]]), [0.5, 0.5, np.inf])


def test_resistance_refuses_strangers(small):
    with pytest.raises(GraphError, match="they lie in"):
        small.effective_resistance([[0, 99]])


def brute_force(graph, k, b_of, candidates, weight):
    """Choose links one after the other by the trace of the pseudo-inverse with each added."""
    laplacian = graph.laplacian().toarray()
    chosen = []
    for _ in range(k):
        trace = np.trace(np.linalg.pinv(laplacian, hermitian=True, rcond=1e-12))
        gains = {}
        for pair in candidates:
            if pair not in [p for p, _ in chosen]:
                b = b_of(pair[0]) - b_of(pair[1])
                added = laplacian + weight * np.outer(b, b)
                gains[pair] = trace - np.trace(np.linalg.pinv(added, hermitian=True, rcond=1e-12))
        best = max(gains, key=gains.get)
        chosen.append((best, gains[best]))
        b = b_of(best[0]) - b_of(best[1])
        laplacian = laplacian + weight * np.outer(b, b)
    return chosen


@pytest.mark.parametrize("weight", [None, 3.0])
def test_best_links_match_brute_force(small, weight):
    labels = small.components()
    pairs = [p for p in itertools.combinations(range(small.n_exposures), 2) if labels[p[0]] == labels[p[1]]]
    k = min(3, len(pairs))
    added = weight or float(np.median(small.weight))
    expected = brute_force(small, k, lambda e: np.eye(small.n_exposures)[e], pairs, added)
    found = small.best_new_links(k, weight=weight)
    assert [(gain.first, gain.second) for gain in found] == [pair for pair, _ in expected]
    np.testing.assert_allclose([gain.variance_removed for gain in found], [gain for _, gain in expected], rtol=1e-8)
    n = np.bincount(labels)[[gain.component for gain in found]]
    rms = np.sqrt([gain.variance_removed for gain in found] / n)
    np.testing.assert_allclose([gain.rms_removed for gain in found], rms)
    first = found[0]
    np.testing.assert_allclose(first.resistance, small.effective_resistance([[first.first, first.second]])[0])


def test_best_groups_match_brute_force():
    graph = strip(24)
    groups = np.repeat([5, 7, 8, 20, -1, 31], 4)

    def mean(group):
        return (groups == group) / 4

    expected = brute_force(graph, 3, mean, list(itertools.combinations([5, 7, 8, 20, 31], 2)), 2.0)
    found = graph.best_new_links(3, groups=groups, weight=2.0)
    assert [(gain.first, gain.second) for gain in found] == [pair for pair, _ in expected]
    np.testing.assert_allclose([gain.variance_removed for gain in found], [gain for _, gain in expected], rtol=1e-8)


def test_candidates_of_a_large_graph_hold_the_best(monkeypatch):
    graph = strip(60, seed=3)
    everything = graph.best_new_links(1)[0]
    monkeypatch.setattr(planning, "POOL", 16)
    few = graph.best_new_links(1)[0]
    assert few.variance_removed >= 0.98 * everything.variance_removed
    assert few.first < 10
    assert few.second >= 50


@pytest.mark.parametrize("reach", [0.0, 2.5, 100.0])
def test_best_links_within_reach_match_brute_force(reach):
    graph = strip(24)
    groups, place = np.repeat(np.arange(12), 2), np.column_stack([np.arange(24.0), np.zeros(24)])
    pairs = [pair for pair in itertools.combinations(range(12), 2) if 2 * (pair[1] - pair[0]) <= reach]
    found = graph.best_new_links(3, groups=groups, weight=2.0, place=place, reach=reach)
    expected = brute_force(graph, 3, lambda g: (groups == g) / 2, pairs, 2.0) if pairs else []
    assert [(gain.first, gain.second) for gain in found] == [pair for pair, _ in expected]
    np.testing.assert_allclose([gain.variance_removed for gain in found], [gain for _, gain in expected], rtol=1e-8)


def test_candidates_within_reach_hold_the_best(monkeypatch):
    graph, place = strip(60, seed=3), np.arange(60.0)[:, None]
    everything = graph.best_new_links(1, place=place, reach=5.0)[0]
    monkeypatch.setattr(planning, "POOL", 16)
    few = graph.best_new_links(1, place=place, reach=5.0)[0]
    assert few.variance_removed >= 0.98 * everything.variance_removed
    assert few.second - few.first <= 5
    monkeypatch.setattr(planning, "TRIED", 50)
    fewer = graph.best_new_links(2, place=place, reach=5.0)
    assert all(gain.second - gain.first <= 5 for gain in fewer)
    assert fewer[0].variance_removed >= 0.8 * everything.variance_removed


def test_planning_refuses(small):
    with pytest.raises(GraphError, match="places of shape"):
        small.best_new_links(1, place=np.zeros((2, 3)), reach=1.0)
    with pytest.raises(GraphError, match="groups of shape"):
        small.best_new_links(1, groups=np.zeros(2, int))
    with pytest.raises(GraphError, match="it must be positive"):
        small.best_new_links(1, weight=-1.0)
    assert small.best_new_links(0) == []
    assert small.best_new_links(2, groups=np.full(small.n_exposures, -1)) == []
