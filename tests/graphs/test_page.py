"""The example of the documentation runs, and the benchmark's contenders agree."""

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_the_example_runs():
    code = re.search(r"```python\n(.*?)```", (ROOT / "docs" / "graphs.md").read_text(), re.DOTALL).group(1)
    names = {}
    exec(code, names)
    assert names["exposures"].n_exposures == 60


@pytest.mark.parametrize("order", ["time", "shuffled"])
def test_benchmark_contenders_agree(monkeypatch, order):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import graphs_bench

    table = graphs_bench.survey(5000, 4, order)
    answer = graphs_bench.ours(table)
    assert answer[1] > 0
    assert graphs_bench.by_igraph(table) == answer
    assert graphs_bench.by_networkx(table) == answer
    monkeypatch.delitem(sys.modules, "graphs_bench")
