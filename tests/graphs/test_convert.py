import warnings

import numpy as np
import polars as pl
import pytest

from graphs import ExposureGraph, MeasurementGraph


@pytest.fixture(autouse=True, scope="module")
def _import_torch_geometric():
    """Its import calls what torch has deprecated; that is theirs to mend."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import torch_geometric.data  # noqa: F401


def test_networkx_and_igraph(small):
    small = ExposureGraph(
        small.indptr,
        small.indices,
        small.n_shared,
        small.weight,
        pl.Series([f"visit{e}" for e in range(small.n_exposures)]),
    )
    rival = small.to_networkx()
    assert list(rival.nodes) == list(range(small.n_exposures))
    assert rival.nodes[1]["exposure_id"] == "visit1"
    again = np.array([(e, f, d["n_shared"], d["weight"]) for e, f, d in rival.edges(data=True)])
    np.testing.assert_array_equal(again[:, :2], small.pairs())
    np.testing.assert_array_equal(again[:, 2], small.n_shared)
    np.testing.assert_array_equal(again[:, 3], small.weight)
    other = small.to_igraph()
    assert other.vcount() == small.n_exposures
    assert other.vs["exposure_id"][1] == "visit1"
    assert other.get_edgelist() == [tuple(pair) for pair in small.pairs().tolist()]
    assert other.es["n_shared"] == small.n_shared.tolist()
    assert other.es["weight"] == small.weight.tolist()


def test_pyg_data_there_and_back(small):
    data = small.to_pyg()
    assert data.validate()
    assert data.num_nodes == small.n_exposures
    assert data.is_undirected()
    assert data.is_sorted()
    assert not data.has_self_loops()
    source, target = data.edge_index.numpy()
    upper = source < target
    pairs = np.column_stack([source, target])[upper]
    values = data.edge_attr.numpy()[upper]
    again = ExposureGraph.from_links(small.n_exposures, pairs, values[:, 0].astype(int), values[:, 1])
    np.testing.assert_array_equal(again.pairs(), small.pairs())
    np.testing.assert_array_equal(again.n_shared, small.n_shared)
    np.testing.assert_allclose(again.weight, small.weight, rtol=1e-6)


def test_hetero_data_there_and_back(survey):
    star, exposure, n_stars, n_exposures = survey
    graph = MeasurementGraph.from_codes(star, exposure, n_stars, n_exposures)
    data = graph.to_hetero_data(measurement_nodes=True)
    assert data.validate()
    assert (data["star"].num_nodes, data["exposure"].num_nodes) == (n_stars, n_exposures)
    row = data["star", "seen_in", "exposure"].row.numpy()
    np.testing.assert_array_equal(data["star", "seen_in", "exposure"].edge_index.numpy(), [star[row], exposure[row]])
    np.testing.assert_array_equal(data["exposure", "sees", "star"].edge_index.numpy(), [exposure[row], star[row]])
    node, its_star = data["measurement", "of", "star"].edge_index.numpy()
    np.testing.assert_array_equal(star[data["measurement"].row.numpy()[node]], its_star)
    its_exposure, node = data["exposure", "holds", "measurement"].edge_index.numpy()
    np.testing.assert_array_equal(exposure[data["measurement"].row.numpy()[node]], its_exposure)
    links = graph.exposure_graph().to_pyg()
    assert data["exposure", "shares_stars_with", "exposure"].edge_index.equal(links.edge_index)
    bare = graph.to_hetero_data(exposure_links=False)
    assert bare.node_types == ["star", "exposure"]
    assert len(bare.edge_types) == 2


def test_empty_conversions():
    graph = MeasurementGraph.from_codes(np.zeros(0, int), np.zeros(0, int), 0, 0)
    assert graph.to_hetero_data(measurement_nodes=True).num_nodes == 0
    links = graph.exposure_graph()
    assert links.to_pyg().edge_index.shape == (2, 0)
    assert (links.to_networkx().number_of_nodes(), links.to_igraph().vcount()) == (0, 0)
