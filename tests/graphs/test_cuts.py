import itertools

import networkx as nx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphs import ExposureGraph, MeasurementGraph, cuts, trees


def make(stars, n):
    star = np.repeat(np.arange(len(stars)), [len(s) for s in stars]).astype(np.int32)
    exposure = np.array([e for s in stars for e in s], np.int32)
    return MeasurementGraph.from_codes(star, exposure, len(stars), n).exposure_graph()


def across(stars, side):
    return sum(0 < len(side & set(s)) < len(set(s)) for s in stars)


def all_cuts(stars, n, max_shared):
    """Every division of a component that at most max_shared stars cross: {side: stars}."""
    labels = make(stars, n).components()
    found = {}
    for c in range(labels.max() + 1):
        members = np.flatnonzero(labels == c).tolist()
        for size in range(1, len(members)):
            for side in itertools.combinations(members, size):
                if 0 < (count := across(stars, set(side))) <= max_shared:
                    found[frozenset(side)] = count
    return found


def separating(found, e, f):
    return min((count for side, count in found.items() if (e in side) != (f in side)), default=None)


STARS = st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=3), min_size=1, max_size=25)


@given(STARS, st.integers(1, 4))
def test_cuts_are_real_and_none_is_missed(stars, max_shared):
    """Against every subset: counts are exact, and for every pair the fewest stars that part it are found."""
    truth = all_cuts(stars, 7, max_shared)
    weak = make(stars, 7).weak_links(max_shared)
    labels = make(stars, 7).components()
    found = {frozenset(cut.exposures.tolist()): cut.n_stars for cut in weak.cuts}
    assert found.items() <= truth.items()
    assert len(found) == len(weak.cuts)
    assert [cut.n_stars for cut in weak.cuts] == sorted(cut.n_stars for cut in weak.cuts)
    for cut in weak.cuts:
        assert 2 * cut.exposures.size <= np.sum(labels == labels[cut.exposures[0]])
    # an exposure that hangs alone is always there, and so is the weakest cut between any two
    for e in range(7):
        tying = across(stars, {e})
        assert weak.n_tying_stars[e] == tying
        assert (e in weak.exposures) == (0 < tying <= max_shared)
    for e, f in itertools.combinations(range(7), 2):
        if labels[e] == labels[f]:
            assert (separating(truth, e, f) is None) == (separating(found, e, f) is None)
    best = min(truth.values(), default=None)
    assert best == min(found.values(), default=None)


@given(STARS)
def test_flows_give_every_minimal_cut_value(stars):
    graph = make(stars, 7)
    labels = graph.components()
    for c in np.flatnonzero(np.bincount(labels) > 1):
        members = np.flatnonzero(labels == c)
        place = {int(e): i for i, e in enumerate(members)}
        hyperedges = {}
        for s in stars:
            key = tuple(sorted({place[e] for e in s if e in place}))
            if len(key) > 1:
                hyperedges[key] = hyperedges.get(key, 0) + 1
        found = cuts._gusfield(len(members), hyperedges)
        tree = nx.Graph()
        for i, (count, side) in enumerate(found, start=1):
            assert i in side
            assert across(stars, {int(members[j]) for j in side}) == count
            tree.add_node(i)
        truth = all_cuts(stars, 7, 10**6)
        values = sorted({separating(truth, int(e), int(f)) for e, f in itertools.combinations(members, 2)})
        assert sorted({count for count, _ in found}) == values


@given(st.lists(st.integers(0, 30), min_size=1, max_size=14), STARS)
def test_stars_across_tree_edges(parents, stars):
    """Steiner counts against removing each edge of the tree."""
    n = len(parents) + 1
    parent = np.zeros(n, np.int32)
    on_path = [0]  # a preorder: each node's parent is on the path to the node before it
    for v in range(1, n):
        on_path = on_path[: parents[v - 1] % len(on_path) + 1]
        parent[v] = on_path[-1]
        on_path.append(v)
    stars = [sorted({e % n for e in s}) for s in stars]
    ptr = np.concatenate([[0], np.cumsum([len(s) for s in stars])]).astype(np.int64)
    node = np.array([e for s in stars for e in s], np.int32)
    counts = trees.stars_across(parent, ptr, node)
    tree = nx.Graph([(int(parent[v]), v) for v in range(1, n)])
    for v in range(1, n):
        cut = tree.copy()
        cut.remove_edge(int(parent[v]), v)
        assert counts[v] == across(stars, nx.node_connected_component(cut, v))
    assert counts[0] == 0


def test_one_star_in_three_exposures_is_no_bridge_but_a_thread():
    camps = [[0, 1]] * 20 + [[2, 3]] * 20 + [[4, 5]] * 20
    graph = make([*camps, [0, 2, 4]], 6)
    assert graph.bridges().size == 6  # the pairs 0-1, 2-3 and 4-5, well tied by 20 stars each
    weak = graph.weak_links(10)
    assert {tuple(cut.exposures) for cut in weak.cuts} == {(0, 1), (2, 3), (4, 5)}
    assert {cut.n_stars for cut in weak.cuts} == {1}
    assert weak.exposures.size == 0


def test_a_long_chain_without_flows(monkeypatch):
    monkeypatch.setattr(cuts, "EXACT_GROUPS", 0)
    n = 300
    weak = make([[e, e + 1] for e in range(n - 1) for _ in range(2)], n).weak_links(3)
    assert {cut.exposures.size for cut in weak.cuts} == set(range(1, n // 2 + 1))
    assert all(cut.n_stars == 2 for cut in weak.cuts)
    assert len(weak.cuts) == n - 1
    assert len(make([[e, e + 1] for e in range(n - 1)], n).weak_links(3, max_cuts=5).cuts) == 5


@pytest.mark.parametrize("max_shared", [3, 30])
def test_without_stars_links_stand_for_their_own(max_shared):
    graph = ExposureGraph.from_links(4, np.array([[0, 1], [1, 2], [0, 2], [2, 3]]), np.array([9, 2, 1, 5]))
    weak = graph.weak_links(max_shared)
    assert weak.n_tying_stars.tolist() == [10, 11, 8, 5]
    assert {(tuple(cut.exposures), cut.n_stars) for cut in weak.cuts} >= {((0, 1), 3)}
    if max_shared == 30:
        assert ((3,), 5) in {(tuple(cut.exposures), cut.n_stars) for cut in weak.cuts}
