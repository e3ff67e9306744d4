import numpy as np
import pytest

from graphs import ExposureGraph, GraphError, laplacian, modes


def strip(n, seed=0, reach=3):
    """A long strip: each exposure overlaps the next few."""
    rng = np.random.default_rng(seed)
    pairs = np.concatenate([np.column_stack([np.arange(n - step), np.arange(step, n)]) for step in range(1, reach + 1)])
    return ExposureGraph.from_links(n, pairs, weight=rng.uniform(1e3, 1e4, len(pairs)))


def dense_modes(graph, members):
    values, vectors = np.linalg.eigh(graph.laplacian().toarray()[np.ix_(members, members)])
    return values[1:], vectors[:, 1:]


def test_modes_of_every_component_are_the_eigenvectors(small):
    labels = small.components()
    for c in range(labels.max() + 1):
        members = np.flatnonzero(labels == c)
        values, vectors = dense_modes(small, members)
        found = small.weak_modes(4, component=c)
        k = min(4, len(members) - 1)
        np.testing.assert_allclose(found.eigenvalue, values[:k], rtol=1e-9)
        np.testing.assert_allclose(found.rms, 1 / np.sqrt(values[:k] * len(members)), rtol=1e-9)
        np.testing.assert_allclose(np.abs(np.sum(found.vector[members] * vectors[:, :k], axis=0)), 1, rtol=1e-8)
        assert not np.any(found.vector[labels != c])
        assert found.component.tolist() == [c] * k


def test_softest_of_all_components(small):
    everything = [small.weak_modes(99, component=c).eigenvalue for c in range(small.components().max() + 1)]
    np.testing.assert_allclose(small.weak_modes(5).eigenvalue, np.sort(np.concatenate(everything))[:5])


@pytest.mark.parametrize("direct_limit", [10**6, 100], ids=["direct", "multigrid"])
def test_sparse_matches_dense(monkeypatch, direct_limit):
    graph = strip(500)
    values, vectors = dense_modes(graph, np.arange(500))
    monkeypatch.setattr(laplacian, "DIRECT_LIMIT", direct_limit)
    found = graph.weak_modes(5)
    np.testing.assert_allclose(found.eigenvalue, values[:5], rtol=1e-7)
    np.testing.assert_allclose(np.abs(np.sum(found.vector * vectors[:, :5], axis=0)), 1, rtol=1e-7)
    largest = found.vector[np.argmax(np.abs(found.vector), axis=0), np.arange(5)]
    assert np.all(largest > 0)


@pytest.mark.parametrize("direct_limit", [10**6, 100], ids=["direct", "multigrid"])
def test_pseudo_inverse(monkeypatch, direct_limit):
    matrix = strip(300).laplacian()
    monkeypatch.setattr(laplacian, "DIRECT_LIMIT", direct_limit)
    inverse = laplacian.PseudoInverse(matrix)
    assert inverse.method == ("direct" if direct_limit > 300 else "multigrid")
    b = np.random.default_rng(0).standard_normal((300, 4))
    expected = np.linalg.pinv(matrix.toarray(), hermitian=True, rcond=1e-13) @ b
    scale = np.abs(expected).max()
    np.testing.assert_allclose(inverse.apply(b), expected, atol=1e-8 * scale)
    np.testing.assert_allclose(inverse.apply(b[:, 0]), expected[:, 0], atol=1e-8 * scale)


def test_two_halves_on_a_thread_are_the_softest_mode():
    pairs = [[i, j] for half in (range(6), range(6, 12)) for i in half for j in half if i < j] + [[0, 6]]
    weight = np.full(len(pairs), 100.0)
    weight[-1] = 0.01
    mode = ExposureGraph.from_links(12, np.array(pairs), weight=weight).weak_modes(1)
    assert np.ptp(mode.vector[:6, 0]) < 1e-4
    assert mode.vector[0, 0] * mode.vector[6, 0] < 0
    assert mode.rms[0] == pytest.approx(0.5 / np.sqrt(0.01), rel=1e-3)  # each half off by half the thread's error


def test_no_such_component(small):
    with pytest.raises(GraphError, match="no component 99"):
        small.weak_modes(1, component=99)
    assert small.weak_modes(0).eigenvalue.size == 0
    assert modes.weak_modes(small, 10**6).eigenvalue.size == small.n_exposures - small.components().max() - 1
