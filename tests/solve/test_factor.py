import threading

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from calib import workers
from calib.solve.factor import Factor, NotPositiveDefinite, Symbolic


def _grid(side):
    at = np.arange(side * side).reshape(side, side)
    pairs = [
        *zip(at[:, :-1].ravel(), at[:, 1:].ravel(), strict=True),
        *zip(at[:-1].ravel(), at[1:].ravel(), strict=True),
    ]
    return side * side, pairs


def _random(n, links, seed):
    rng = np.random.default_rng(seed)
    return n, {tuple(sorted(rng.choice(n, 2, replace=False))) for _ in range(links)}


GRAPHS = {
    "one node": (1, []),
    "no links": (5, []),
    "two nodes": (2, [(0, 1)]),
    "star": (30, [(0, k) for k in range(1, 30)]),
    "last node is the hub": (40, [(k, 39) for k in range(39)] + [(k, k + 1) for k in range(0, 38, 2)]),
    "path": (50, [(k, k + 1) for k in range(49)]),
    "complete": (12, [(a, b) for a in range(12) for b in range(a + 1, 12)]),
    "mesh": _grid(9),
    "disconnected": (40, [(k, k + 1) for k in range(15)] + [(k, k + 2) for k in range(20, 36)]),
    "random": _random(60, 150, 1),
    "sparse random": _random(80, 60, 2),
}


def _pattern(n, pairs):
    pairs = sorted((int(min(p)), int(max(p))) for p in pairs)
    row = np.array([p[0] for p in pairs], np.int64)
    indptr = np.searchsorted(row, np.arange(n + 1)).astype(np.int64)
    return indptr, np.array([p[1] for p in pairs], np.int32), pairs


def _matrix(n, pairs, K, seed=0):
    rng = np.random.default_rng(seed)
    blocks = rng.normal(size=(len(pairs), K, K))
    diagonal = np.zeros((n, K, K))
    for (e, f), b in zip(pairs, blocks, strict=True):
        bound = np.linalg.norm(b, 2) * np.eye(K)
        diagonal[e] += bound
        diagonal[f] += bound
    diagonal += 0.05 * np.eye(K)
    dense = np.zeros((n, K, n, K))
    for e in range(n):
        dense[e, :, e] = diagonal[e]
    for (e, f), b in zip(pairs, blocks, strict=True):
        dense[e, :, f] = b
        dense[f, :, e] = b.T
    return diagonal, blocks, dense.reshape(n * K, n * K)


@pytest.fixture(params=GRAPHS, ids=lambda name: name.replace(" ", "_"))
def graph(request):
    n, pairs = GRAPHS[request.param]
    return n, *_pattern(n, pairs)


@pytest.mark.parametrize("K", [1, 3, 6])
def test_factor_matches_dense(graph, K):
    n, indptr, indices, pairs = graph
    diagonal, blocks, dense = _matrix(n, pairs, K)
    factor = Factor(Symbolic(indptr, indices), diagonal, blocks)
    inverse = np.linalg.inv(dense)
    rng = np.random.default_rng(1)
    one, many = rng.normal(size=(n, K)), rng.normal(size=(n, K, 3))
    assert_allclose(factor.solve(one).ravel(), inverse @ one.ravel(), atol=1e-9 * np.abs(inverse).max() * n)
    assert_allclose(
        factor.solve(many).reshape(n * K, 3), inverse @ many.reshape(n * K, 3), atol=1e-9 * np.abs(inverse).max() * n
    )
    assert_allclose(factor.log_det, np.linalg.slogdet(dense)[1], rtol=1e-10, atol=1e-9)
    selected = factor.selected_inverse()
    by_block = inverse.reshape(n, K, n, K)
    tolerance = 1e-10 * np.abs(inverse).max()
    for e in range(n):
        assert_allclose(selected.diagonal[e], by_block[e, :, e], atol=tolerance)
    for (e, f), block in zip(pairs, selected.blocks, strict=True):
        assert_allclose(block, by_block[e, :, f], atol=tolerance)


def test_symbolic_is_a_tree_of_supernodes(graph):
    n, indptr, indices, pairs = graph
    symbolic = Symbolic(indptr, indices)
    tree = symbolic.supernodes
    assert sorted(tree.order) == list(range(n))
    assert tree.start[0] == 0
    assert tree.start[-1] == n
    assert (np.diff(tree.start) > 0).all()
    held = set()
    for q in range(tree.n):
        rows = tree.rows[tree.row_ptr[q] : tree.row_ptr[q + 1]]
        assert (np.diff(rows) > 0).all()
        assert (rows >= tree.start[q + 1]).all()
        assert (tree.parent[q] == -1) == (rows.size == 0)
        columns = range(tree.start[q], tree.start[q + 1])
        held |= {(c, int(r)) for c in columns for r in [*columns, *rows]}
        if rows.size:
            p = tree.parent[q]
            assert p > q
            front = np.concatenate(
                [np.arange(tree.start[p], tree.start[p + 1]), tree.rows[tree.row_ptr[p] : tree.row_ptr[p + 1]]]
            )
            assert (front[symbolic.where[q]] == rows).all()
    for e, f in pairs:
        assert tuple(sorted((int(symbolic.rank[e]), int(symbolic.rank[f])))) in held


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan])
def test_not_positive_definite_is_said(bad):
    n, pairs = GRAPHS["path"]
    indptr, indices, pairs = _pattern(n, pairs)
    diagonal, blocks, _ = _matrix(n, pairs, 1)
    diagonal[20] = bad
    with pytest.raises(NotPositiveDefinite):
        Factor(Symbolic(indptr, indices), diagonal, blocks)


@pytest.mark.parametrize("K", [1, 3])
def test_branches_side_by_side_give_the_same_bits(K, monkeypatch):
    n, pairs = _grid(25)
    indptr, indices, pairs = _pattern(n, pairs)
    diagonal, blocks, _ = _matrix(n, pairs, K)
    symbolic = Symbolic(indptr, indices)
    assert np.bincount(symbolic.supernodes.parent[symbolic.supernodes.parent >= 0]).max() > 1
    alone = Factor(symbolic, diagonal, blocks).selected_inverse()
    threads, real = set(), Factor._where

    def where(factor, q):
        threads.add(threading.get_ident())
        return real(factor, q)

    monkeypatch.setattr("calib.solve.factor.MANY_ENTRIES", 0)
    with workers.working(3):
        factor = Factor(symbolic, diagonal, blocks)
        monkeypatch.setattr(Factor, "_where", where)
        together = factor.selected_inverse()
        assert threading.get_ident() not in threads  # and more than one of others, which time alone decides
        assert_array_equal(together.diagonal, alone.diagonal)
        assert_array_equal(together.blocks, alone.blocks)
        again, last = factor.selected_inverse(), factor.last_selected_inverse()
    assert_array_equal(again.diagonal, alone.diagonal)
    assert_array_equal(last.blocks, alone.blocks)
    assert threading.get_ident() in threads  # the last of a large survey keeps to one
