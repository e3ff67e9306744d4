import itertools
import subprocess
import sys
import tracemalloc

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from astropy.table import MaskedColumn, QTable, Table
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from graphs import GraphError, MeasurementGraph
from graphs.coding import deal
from graphs.ids import encode_ids


def dense_graph(star, exposure, n_stars, n_exposures, weight=None):
    """n_shared and weight of every pair of exposures, from the dense incidence matrix."""
    weight = np.ones(star.size) if weight is None else np.asarray(weight, np.float64)
    incidence = np.zeros((n_stars, n_exposures))
    np.add.at(incidence, (star, exposure), weight)
    seen = (incidence > 0).astype(int)
    total = np.where(incidence.sum(axis=1) > 0, incidence.sum(axis=1), 1)
    return np.triu(seen.T @ seen, 1), np.triu(incidence.T @ (incidence / total[:, None]), 1)


def as_dense(links):
    n_shared = np.zeros((links.n_exposures, links.n_exposures))
    weight = np.zeros_like(n_shared)
    pairs = links.pairs()
    n_shared[pairs[:, 0], pairs[:, 1]] = links.n_shared
    weight[pairs[:, 0], pairs[:, 1]] = links.weight
    return n_shared, weight


def check_sorted(graph, star, exposure):
    order = np.argsort(star, kind="stable")
    np.testing.assert_array_equal(graph.order, order)
    np.testing.assert_array_equal(graph.exposure, exposure[order])
    np.testing.assert_array_equal(graph.star(), star[order])
    assert (graph.star_ptr.dtype, graph.exposure.dtype, graph.order.dtype) == (np.int64, np.int32, np.int32)


def test_counting_sort_is_a_stable_sort(survey):
    star, exposure, n_stars, n_exposures = survey
    graph = MeasurementGraph.from_codes(star, exposure, n_stars, n_exposures)
    check_sorted(graph, star, exposure)
    assert (graph.n_stars, graph.n_exposures, graph.n_measurements) == (41, 16, 300)
    ptr, position = graph.by_exposure()
    assert position.dtype == np.int32
    np.testing.assert_array_equal(position, np.argsort(graph.exposure, kind="stable"))
    np.testing.assert_array_equal(np.diff(ptr), np.bincount(exposure, minlength=16))


@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 5), st.floats(0, 3)), max_size=60),
    st.sampled_from([None, np.float32, np.float64]),
)
def test_links_match_the_dense_product(rows, dtype):
    star, exposure, weight = (np.array(column) for column in zip(*rows, strict=True)) if rows else (np.zeros(0),) * 3
    star, exposure = star.astype(np.int32), exposure.astype(np.int32)
    weight = np.where(weight < 0.2, 0, weight).astype(dtype or np.float64)
    graph = MeasurementGraph.from_codes(star, exposure, 7, 6)
    links = graph.exposure_graph(None if dtype is None else weight[graph.order])
    n_shared, expected = dense_graph(star, exposure, 7, 6, None if dtype is None else weight)
    got_shared, got = as_dense(links)
    np.testing.assert_array_equal(got_shared, n_shared)
    np.testing.assert_allclose(got, expected, rtol=1e-5 if dtype == np.float32 else 1e-12)
    assert np.all(links.pairs()[:, 0] < links.pairs()[:, 1])
    if dtype is None:
        np.testing.assert_array_equal(links.components(), graph.components())


def test_long_rows_take_the_sorting_paths(survey):
    """Stars of more than 48 visits, and rows whose links lie far apart."""
    rng = np.random.default_rng(2)
    star = np.repeat([0, 1], 100).astype(np.int32)
    exposure = np.concatenate([rng.integers(0, 80, 100), rng.integers(0, 5000, 100)]).astype(np.int32)
    weight = rng.uniform(0.1, 1, 200)
    weight[::7] = 0
    graph = MeasurementGraph.from_codes(star, exposure, 2, 5000)
    n_shared, expected = dense_graph(star, exposure, 2, 5000, weight)
    links = graph.exposure_graph(weight[graph.order])
    pairs = np.argwhere(n_shared)
    np.testing.assert_array_equal(links.pairs(), pairs)
    np.testing.assert_allclose(links.weight, expected[pairs[:, 0], pairs[:, 1]], rtol=1e-12)
    far = MeasurementGraph.from_codes(np.array([0, 0, 1, 1]), np.array([0, 4999, 0, 2500]), 2, 5000).exposure_graph()
    np.testing.assert_array_equal(far.pairs(), [[0, 2500], [0, 4999]])


def test_a_repeat_in_an_exposure_counts_once():
    graph = MeasurementGraph.from_codes(np.array([0, 0, 0]), np.array([1, 1, 0]), 1, 2)
    links = graph.exposure_graph()
    assert links.n_shared.tolist() == [1]
    assert links.weight.tolist() == pytest.approx([2 / 3])


def large(n, n_stars, seed):
    """Codes of many measurements, with repeats, enough for the paths that deal rows into packs."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, n_stars, n, dtype=np.int32), rng.integers(0, 300, n, dtype=np.int32)


@pytest.mark.parametrize("n_stars", [1000, 40_000])
def test_sort_of_many_rows(n_stars):
    star, exposure = large(120_000, n_stars, 3)
    check_sorted(MeasurementGraph.from_codes(star, exposure, n_stars, 300), star, exposure)
    by_star = np.argsort(star, kind="stable")
    graph = MeasurementGraph.from_codes(star[by_star], exposure[by_star], n_stars, 300)
    check_sorted(graph, star[by_star], exposure[by_star])
    assert not np.shares_memory(graph.exposure, exposure)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("order", ["as drawn", "by exposure", "by star"])
@pytest.mark.parametrize("distinct", [False, True])
def test_links_of_many_rows(weighted, order, distinct):
    star, exposure = large(60_000, 20_000, 4)
    if distinct:
        star, exposure = np.random.default_rng(0).permutation(np.unique(np.column_stack([star, exposure]), axis=0)).T
    key = {"as drawn": np.arange(star.size), "by exposure": exposure, "by star": star}[order]
    star, exposure = star[np.argsort(key, kind="stable")], exposure[np.argsort(key, kind="stable")]
    weight = np.random.default_rng(1).uniform(0.5, 2, star.size) if weighted else None
    graph = MeasurementGraph.from_codes(star, exposure, 20_000, 300)
    links = graph.exposure_graph(None if weight is None else weight[graph.order])
    w = np.ones(star.size) if weight is None else weight
    incidence = sparse.csr_array((w, (star, exposure)), shape=(20_000, 300))
    total = incidence.sum(axis=1)
    scaled = sparse.diags_array(1 / np.where(total > 0, total, 1)) @ incidence
    n_shared, got = as_dense(links)
    np.testing.assert_array_equal(n_shared, np.triu(((incidence > 0).T.astype(int) @ (incidence > 0)).toarray(), 1))
    np.testing.assert_allclose(got, np.triu((incidence.T @ scaled).toarray(), 1), rtol=1e-12)


@pytest.mark.parametrize("n_exposures", [1, 2, 7, 300])
def test_threads_change_nothing(n_exposures, monkeypatch):
    star, exposure = large(60_000, 20_000, 5)
    exposure = np.minimum(exposure, n_exposures - 1)
    graph = MeasurementGraph.from_codes(star, exposure, 20_000, n_exposures + 3)
    one = graph.exposure_graph()
    monkeypatch.setattr("graphs.measurements.PER_THREAD", 1000)
    for threads in (1, 2, 5):
        monkeypatch.setattr("numba.core.config.NUMBA_NUM_THREADS", threads)
        many = graph.exposure_graph()
        for name in ("indptr", "indices", "n_shared", "weight"):
            np.testing.assert_array_equal(getattr(many, name), getattr(one, name))


def test_permuting_rows_changes_nothing(survey):
    star, exposure, n_stars, n_exposures = survey
    shuffled = np.random.default_rng(0).permutation(star.size)
    one = MeasurementGraph.from_codes(star, exposure, n_stars, n_exposures).exposure_graph()
    two = MeasurementGraph.from_codes(star[shuffled], exposure[shuffled], n_stars, n_exposures).exposure_graph()
    np.testing.assert_array_equal(one.pairs(), two.pairs())
    np.testing.assert_array_equal(one.n_shared, two.n_shared)
    np.testing.assert_allclose(one.weight, two.weight, rtol=1e-14)


STAR = np.array([2**62 + 1, 5, 2**62 + 1, -3, 5])
EXPOSURE = np.array(["b", "a", "a", "c", "b"])
TABLES = {
    "polars": lambda: pl.DataFrame({"star_id": STAR, "exposure_id": EXPOSURE}),
    "lazy": lambda: pl.LazyFrame({"star_id": STAR, "exposure_id": EXPOSURE}),
    "categorical": lambda: pl.DataFrame({"star_id": STAR, "exposure_id": pl.Series(EXPOSURE, dtype=pl.Categorical)}),
    "binary": lambda: pl.DataFrame({"star_id": STAR, "exposure_id": [text.encode() for text in EXPOSURE.tolist()]}),
    "pyarrow": lambda: pa.table({"star_id": STAR, "exposure_id": pa.array(EXPOSURE.tolist()).dictionary_encode()}),
    "astropy": lambda: Table({"star_id": STAR, "exposure_id": EXPOSURE}),
    "qtable": lambda: QTable({"star_id": STAR, "exposure_id": EXPOSURE}),
    "fits": lambda: Table({"star_id": STAR.astype(">i8"), "exposure_id": EXPOSURE.astype("S1")}),
    "unmasked": lambda: Table({"star_id": MaskedColumn(STAR, mask=False), "exposure_id": EXPOSURE}),
    "arrays": lambda: {"star_id": STAR, "exposure_id": EXPOSURE},
    "objects": lambda: {"star_id": STAR.astype(object), "exposure_id": EXPOSURE.astype(object)},
}


@pytest.mark.parametrize("kind", TABLES)
def test_every_kind_of_table_gives_the_same_graph(kind):
    graph = MeasurementGraph.from_table(TABLES[kind]())
    check_sorted(graph, np.array([2, 1, 2, 0, 1]), np.array([1, 0, 0, 2, 1]))
    assert graph.star_ids.to_list() == [-3, 5, 2**62 + 1]
    assert graph.exposure_ids.to_list() == ["a", "b", "c"]
    assert graph.exposure_graph().exposure_ids is graph.exposure_ids


@pytest.mark.parametrize("spread", [1, 10**9, 2**40], ids=["dense", "sparse", "huge"])
@pytest.mark.parametrize("dtype", [pl.Int64, pl.UInt64, pl.String], ids=str)
def test_ids_of_any_spread(spread, dtype):
    rng = np.random.default_rng(1)
    values = pl.Series(rng.integers(0, 70_000, 200_000) * spread).cast(dtype)  # enough to make the hash table grow
    graph = MeasurementGraph.from_table({"star_id": values, "exposure_id": values}, "star_id", "exposure_id")
    distinct, codes = np.unique(values.to_numpy(), return_inverse=True)
    assert graph.star_ids.dtype == dtype
    assert graph.star_ids.to_list() == distinct.tolist()
    np.testing.assert_array_equal(graph.exposure, np.sort(codes))


CLUMPED = {
    "even": lambda rng: rng.integers(-(2**62), 2**62, 5000),
    "widest": lambda rng: np.concatenate([[-(2**63), 2**63 - 1], rng.integers(-(2**63), 2**63 - 1, 5000)]),
    "clumped": lambda rng: np.concatenate([rng.integers(0, 1000, 400), 10**15 + 7 * rng.integers(0, 10**6, 5000)]),
    "multiples": lambda rng: 2**40 * np.arange(5000),
    "one": lambda rng: np.array([5, 2**50]),
}


@pytest.mark.parametrize("spread", CLUMPED)
@pytest.mark.parametrize("ascending", [False, True])
def test_ids_wherever_they_lie(spread, ascending):
    rng = np.random.default_rng(6)
    values = rng.permutation(rng.choice(CLUMPED[spread](rng), 100_000))
    values = np.sort(values) if ascending else values
    exposure = rng.integers(0, 50, values.size)
    distinct, codes = np.unique(values, return_inverse=True)
    got, ids = encode_ids(pl.Series(values))
    np.testing.assert_array_equal(got, codes)
    assert got.dtype == np.int32
    assert ids.to_list() == distinct.tolist()
    graph = MeasurementGraph.from_table({"star_id": values, "exposure_id": exposure})
    check_sorted(graph, codes, exposure)
    assert graph.star_ids.to_list() == distinct.tolist()


def test_packs_part_by_value():
    values = np.random.default_rng(7).integers(0, 10**12, 50_000)
    packs = deal(values, 0, 10**12)
    np.testing.assert_array_equal(packs.keys, values[packs.rows])
    np.testing.assert_array_equal(np.sort(packs.rows), np.arange(values.size))
    parts = [slice(*ends) for ends in itertools.pairwise(packs.ptr.tolist())]
    assert len(parts) == 6
    assert all(packs.keys[a].max() < packs.keys[b].min() for a, b in itertools.pairwise(parts))
    assert all(np.all(np.diff(packs.rows[part]) > 0) for part in parts)
    assert max(np.diff(packs.ptr)) < 1.05 * values.size / 6


def test_no_heavy_import():
    code = (
        "import sys, graphs.measurements, graphs.cuts, graphs.modes, graphs.planning, graphs.structure;"
        "print([m for m in ('torch', 'torch_geometric', 'networkx', 'igraph', 'astropy', 'calib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_lazy_names():
    import graphs

    assert all(getattr(graphs, name).__name__ == name for name in graphs.__all__)
    assert set(graphs.__all__) <= set(dir(graphs))
    with pytest.raises(AttributeError, match="no attribute 'Nope'; it has ExposureGraph"):
        _ = graphs.Nope


def test_from_codes_is_lean():
    n = 1_000_000
    rng = np.random.default_rng(0)
    star, exposure = rng.integers(0, n // 10, n, dtype=np.int32), rng.integers(0, 2000, n, dtype=np.int32)
    MeasurementGraph.from_codes(star[:10], exposure[:10], n // 10, 2000)
    tracemalloc.start()
    graph = MeasurementGraph.from_codes(star, exposure, n // 10, 2000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    outputs = graph.star_ptr.nbytes + graph.exposure.nbytes + graph.order.nbytes
    assert peak < outputs + 12 * n  # 150 MB for 12 million rows


@pytest.mark.parametrize("dtype", [np.int64, str])
def test_empty(dtype):
    graph = MeasurementGraph.from_table({"star_id": np.zeros(0, dtype), "exposure_id": np.zeros(0, dtype)})
    assert (graph.n_stars, graph.n_exposures, graph.n_measurements) == (0, 0, 0)
    assert graph.exposure_graph().n_links == 0
    assert graph.components().size == 0


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"star_id": STAR}, "no column 'exposure_id' among star_id"),
        (pl.DataFrame({"star": STAR}), "no column 'star_id' among star;"),
        (pa.table({"star": STAR}), "no column 'star_id' among star;"),
        (Table({"star": STAR}), "no column 'star_id' among star;"),
        (pl.DataFrame({"star_id": [1, None]}), "'star_id' has 1 nulls"),
        ({"star_id": MaskedColumn(STAR, mask=STAR == 5)}, "'star_id' has 2 masked"),
        ({"star_id": np.array([1.5])}, "'star_id' holds float64"),
        (pl.DataFrame({"star_id": [1.5]}), "'star_id' holds Float64"),
        ({"star_id": np.array([1, "a"], object)}, "'star_id' holds object"),
        ({"star_id": np.ones((2, 2), int)}, r"'star_id' has shape \(2, 2\)"),
        ({"star_id": STAR, "exposure_id": EXPOSURE[:3]}, "one of each per row"),
    ],
)
def test_tables_refused(table, message):
    with pytest.raises(GraphError, match=message):
        MeasurementGraph.from_table(table)


def test_codes_refused():
    good = np.array([0, 1])
    with pytest.raises(GraphError, match="row 1 has star code 1; codes lie in 0 to 0"):
        MeasurementGraph.from_codes(good, good, 1, 2)
    with pytest.raises(GraphError, match="row 0 has star code -1"):
        MeasurementGraph.from_codes(-1 - good, good, 2, 2)
    with pytest.raises(GraphError, match="exposures must lie in 0 to 0"):
        MeasurementGraph.from_codes(good, good, 2, 1)
    with pytest.raises(GraphError, match="one of each per row"):
        MeasurementGraph.from_codes(good, good[:1], 2, 2)
    with pytest.raises(GraphError, match="star_ptr must rise"):
        MeasurementGraph(np.array([0, 1]), good.astype(np.int32), good, 2)


@pytest.mark.parametrize("bad", [[-1.0, 1], [np.nan, 1], [np.inf, 1]])
def test_weights_refused(bad):
    graph = MeasurementGraph.from_codes(np.array([0, 0]), np.array([0, 1]), 1, 2)
    with pytest.raises(GraphError, match="1 weights are negative or not finite"):
        graph.exposure_graph(np.array(bad))
    with pytest.raises(GraphError, match="weights of shape"):
        graph.exposure_graph(np.ones(3))
