"""Exposure graph and components from one table of measurements: this package against networkx and igraph.

    python benchmarks/graphs_bench.py [--measurements 2000000] [--visits 10] [--order time|shuffled] [--runs 7]

Every contender starts from the same polars table of star_id and exposure_id and ends with the exposures' components
and the number of stars shared on every link; the answers are compared.
"""

from __future__ import annotations

import argparse
import gc
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

PER_EXPOSURE = 500  # stars on an exposure, on average


def survey(n_measurements: int, visits: int, order: str, seed: int = 0) -> pl.DataFrame:
    """A square mosaic of randomly placed square exposures; each star is measured about ``visits`` times."""
    rng = np.random.default_rng(seed)
    n_exposures = max(2, n_measurements // PER_EXPOSURE)
    n_stars = max(2, n_measurements // visits)
    half = np.sqrt(visits / n_exposures) / 2
    star = rng.random((n_stars, 2))
    star = star[np.argsort(star[:, 0])]
    number = rng.permutation(n_stars)  # a star's number says nothing of its place
    stars, exposures = [], []
    for e, centre in enumerate(half + (1 - 2 * half) * rng.random((n_exposures, 2))):
        low, high = np.searchsorted(star[:, 0], [centre[0] - half, centre[0] + half])
        seen = low + np.flatnonzero(np.abs(star[low:high, 1] - centre[1]) < half)
        stars.append(number[seen])
        exposures.append(np.full(seen.size, e))
    table = pl.DataFrame(
        {
            "star_id": 1_000_000_007 * (1 + np.concatenate(stars)),  # as sparse as catalogue numbers are
            "exposure_id": 20_240_000_000 + 17 * np.concatenate(exposures),
        }
    )
    return table.sample(fraction=1.0, shuffle=True, seed=seed) if order == "shuffled" else table


Answer = tuple[list[int], int, int]  # sizes of components, links, sum of shared stars


def ours(table: pl.DataFrame) -> Answer:
    from graphs import MeasurementGraph

    graph = MeasurementGraph.from_table(table).exposure_graph()
    labels = graph.components()
    return sorted(np.bincount(labels).tolist()), graph.n_links, int(graph.n_shared.sum())


def by_networkx(table: pl.DataFrame) -> Answer:
    import networkx as nx

    # exposures are negative, which tells them from stars at no cost; tuples or strings as nodes are slower
    exposures = (-table["exposure_id"].unique()).to_list()
    graph = nx.Graph()
    graph.add_nodes_from(exposures)
    graph.add_edges_from(zip((-table["exposure_id"]).to_list(), table["star_id"].to_list(), strict=True))
    links = nx.bipartite.weighted_projected_graph(graph, exposures)
    components = sorted(len(component) for component in nx.connected_components(links))
    return components, links.number_of_edges(), sum(n for _, _, n in links.edges(data="weight"))


def by_igraph(table: pl.DataFrame) -> Answer:
    import igraph

    star_ids, star = np.unique(table["star_id"].to_numpy(), return_inverse=True)
    exposure_ids, exposure = np.unique(table["exposure_id"].to_numpy(), return_inverse=True)
    is_star = np.repeat([False, True], [exposure_ids.size, star_ids.size])
    edges = np.column_stack([exposure, exposure_ids.size + star])
    graph = igraph.Graph.Bipartite(is_star.tolist(), edges.tolist())
    links = graph.bipartite_projection(multiplicity=True, which=0)
    return sorted(links.connected_components().sizes()), links.ecount(), sum(links.es["weight"])


@dataclass
class Timing:
    """Seconds by the clock and of the processor, of every run; the second says more where the machine is busy."""

    wall: list[float]
    cpu: list[float]

    def __str__(self) -> str:
        low, high = min(self.wall), max(self.wall)
        spread = f" ({low:.3f} to {high:.3f} in {len(self.wall)})" if len(self.wall) > 1 else ""
        return f"{statistics.median(self.wall):8.3f} s, {statistics.median(self.cpu):8.3f} s of processor time{spread}"

    def over(self, other: Timing) -> str:
        wall = statistics.median(self.wall) / statistics.median(other.wall)
        cpu = statistics.median(self.cpu) / statistics.median(other.cpu)
        return f"{wall:.0f} times as long, {cpu:.0f} times the processor time"


def timed(contender: Callable[[pl.DataFrame], Answer], table: pl.DataFrame, runs: int) -> tuple[Timing, Answer]:
    timing = Timing([], [])
    answer: Any = None
    for _ in range(runs):
        gc.collect()
        wall, cpu = time.perf_counter(), time.process_time()
        answer = contender(table)
        timing.wall.append(time.perf_counter() - wall)
        timing.cpu.append(time.process_time() - cpu)
    return timing, answer


def machine() -> str:
    cpu = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        cpu = next((line.partition(":")[2].strip() for line in info.open() if line.startswith("model name")), cpu)
    packages = ", ".join(f"{name} {version(name)}" for name in ("numpy", "numba", "polars", "networkx", "igraph"))
    return f"{cpu}, {os.cpu_count()} cores; Python {platform.python_version()}, {packages}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measurements", type=int, default=2_000_000)
    parser.add_argument("--visits", type=int, default=10, help="measurements of a star, on average")
    parser.add_argument("--order", choices=["time", "shuffled"], default="time", help="order of the table's rows")
    parser.add_argument("--runs", type=int, default=7, help="runs of this package, of which the median is taken")
    parser.add_argument("--rival-runs", type=int, default=1)
    args = parser.parse_args()

    table = survey(args.measurements, args.visits, args.order)
    print(machine())
    print(
        f"{len(table):,} measurements, {table['star_id'].n_unique():,} stars, "
        f"{table['exposure_id'].n_unique():,} exposures, rows in {args.order} order, seed 0"
    )
    ours(survey(10_000, args.visits, args.order))  # compile
    ours(survey(10_000, args.visits, "shuffled"))
    reference, answer = timed(ours, table, args.runs)
    print(f"{'graphs':10} {reference}")
    print(f"{'':10} {answer[1]:,} links, {answer[2]:,} shared stars, {len(answer[0])} components", flush=True)
    agree = True
    for name, contender in (("igraph", by_igraph), ("networkx", by_networkx)):
        timing, other = timed(contender, table, args.rival_runs)
        agree &= other == answer
        verdict = "same links, stars and components" if other == answer else f"DIFFERENT: {other[1:]}"
        print(f"{name:10} {timing}; {timing.over(reference)}; {verdict}", flush=True)
    return 0 if agree else 1


if __name__ == "__main__":
    sys.exit(main())
