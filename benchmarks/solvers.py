"""Solve a sky mosaic by every engine and by scipy's lsmr, to the same error; or, with --errors, with exact errors.

    python benchmarks/solvers.py              10 million measurements, 20 thousand exposures, some 10 visits a star
    python benchmarks/solvers.py --quick      a fiftieth of that
    python benchmarks/solvers.py --errors     100 thousand exposures with the exact error of every one
    python benchmarks/solvers.py --stare      one field in 1000 exposures: pairs, products, and by its stars
    python benchmarks/solvers.py --gpu        the first by the factor and without a matrix, there on an NVIDIA GPU too

Counted for us: all that one weighted solve needs once the pattern is known: star sums, assembly, right side, factor
or multigrid, solution with its error bound, star magnitudes and residuals. The pattern (links, order of elimination) is
timed by itself: it does not depend on weights, and the ratio is given with and without it. Counted for lsmr: its own
iterations until the root mean square error of the zero-points is 1e-3 sigma, far above ours; not the building of its
matrix, nor the checks.
"""

# ruff: noqa: E402 - threads are pinned before numpy is imported
from __future__ import annotations

import os

for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[name] = "1"

import argparse
import contextlib
import platform
import resource
import statistics
import sys
import time

import numpy as np
from numba import njit
from scipy.sparse import csr_array
from scipy.sparse.linalg import LinearOperator, lsmr

from calib.solve import dense
from calib.solve.design import BLOCK_SIZES, Design
from calib.solve.engines import solve
from calib.solve.normal import NormalEquations, Prior, Topology
from calib.solve.predictions import prediction_variance
from graphs import MeasurementGraph

TARGET_SIGMA = 1e-3


@njit(cache=True)
def _visit(sx, sy, ex, ey, cell_ptr, cell_exposure, side, ptr, node, fill):
    # the exposures, fields of one unit square, that hold each star; counted first, then filled
    n = 0
    for s in range(sx.size):
        cx, cy = int(sx[s]), int(sy[s])
        for a in range(max(cx - 1, 0), min(cx + 2, side)):
            for b in range(max(cy - 1, 0), min(cy + 2, side)):
                for k in range(cell_ptr[a * side + b], cell_ptr[a * side + b + 1]):
                    e = cell_exposure[k]
                    if abs(sx[s] - ex[e]) < 0.5 and abs(sy[s] - ey[e]) < 0.5:
                        if fill:
                            node[n] = e
                        n += 1
        ptr[s + 1] = n


def mosaic(n_exposures: int, per_exposure: int, visits: int = 10, seed: int = 0) -> MeasurementGraph:
    """Dithered visits of a square sky in random order; stars in random order too."""
    rng = np.random.default_rng(seed)
    side = int(np.ceil(np.sqrt(n_exposures / visits)))
    field = rng.permutation(np.arange(n_exposures) % side**2)
    ex = np.clip(field // side + 0.5 + rng.normal(0, 0.15, n_exposures), 0, side - 1e-9)
    ey = np.clip(field % side + 0.5 + rng.normal(0, 0.15, n_exposures), 0, side - 1e-9)
    n_stars = n_exposures * per_exposure // visits
    sx, sy = rng.uniform(0, side, (2, n_stars))
    cell = ex.astype(int) * side + ey.astype(int)
    cell_exposure = np.argsort(cell, kind="stable").astype(np.int32)
    cell_ptr = np.concatenate([[0], np.cumsum(np.bincount(cell, minlength=side * side))])
    ptr = np.zeros(n_stars + 1, np.int64)
    _visit(sx, sy, ex, ey, cell_ptr, cell_exposure, side, ptr, np.zeros(1, np.int32), False)
    node = np.empty(ptr[-1], np.int32)
    _visit(sx, sy, ex, ey, cell_ptr, cell_exposure, side, ptr, node, True)
    return MeasurementGraph(ptr, node, np.arange(node.size, dtype=np.int32), n_exposures)


def survey(n_exposures: int, per_exposure: int) -> tuple[Design, np.ndarray, np.ndarray]:
    """(design, magnitudes, weights) of a mosaic with errors of 5 to 50 mmag."""
    rng = np.random.default_rng(1)
    design = Design(mosaic(n_exposures, per_exposure))
    n, star = design.n_measurements, design.graph.star()
    err = rng.uniform(0.005, 0.05, n).astype(np.float32)
    m = rng.uniform(15, 20, design.n_stars)[star]
    m -= rng.normal(0, 0.1, n_exposures)[design.graph.exposure]
    m += err * rng.standard_normal(n, np.float32)
    return design, m, 1.0 / err**2


def peak_gb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def timed(call):
    start = time.perf_counter()
    out = call()
    return out, time.perf_counter() - start


def machine() -> None:
    import numba
    import pyamg
    import scipy

    with open("/proc/cpuinfo") as lines:
        model = next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), "?")
    print(f"{platform.platform()}, {model}, {os.cpu_count()} cores, one thread used")
    versions = [f"{x.__name__} {x.__version__}" for x in (np, scipy, numba, pyamg)]
    print(f"python {platform.python_version()}, {', '.join(versions)}")


def warm_up(gpu: bool) -> None:
    design, m, w = survey(300, 60)
    equations = NormalEquations(design, m, w, Prior.none(design))
    for engine in ("direct", "matrix_free") if gpu else ("direct", "cholespy", "multigrid", "matrix_free"):
        equations.estimate(solve(equations, engine=engine).theta)
    if gpu:
        solve(equations, engine="matrix_free", device="cuda")
    equations.spread()


def pattern(design: Design) -> Topology:
    _, walk = timed(lambda: design.walk)
    _, links = timed(lambda: design.links)
    topology, components = timed(lambda: Topology(design))
    symbolic, order = timed(lambda: topology.symbolic)
    print(f"pattern: stars sorted for assembly {walk:.2f} s, links {links:.2f} s, components {components:.2f} s,")
    print(f"         order of elimination {order:.2f} s")
    print(f"         {design.links.n_links} links, {symbolic.supernodes.n_entries:.2e} entries in the factor")
    return topology


class _Reached(Exception):
    """The iteration is as near as it need be."""


def lsmr_seconds(design: Design, m, w, exact, sigma, most: int) -> tuple[float, int, float]:
    """(seconds, iterations, rms error) of lsmr until its zero-points are as near as wanted."""
    n, S, E = design.n_measurements, design.n_stars, design.n_nodes
    root = np.sqrt(w.astype(float))
    columns = np.empty((n, 2), np.int32)
    columns[:, 0], columns[:, 1] = design.graph.star(), S + design.graph.exposure
    values = np.stack([root, -root], 1).ravel()
    A = csr_array((values, columns.ravel(), np.arange(0, 2 * n + 1, 2, dtype=np.int32)), shape=(n, S + E))
    T = A.T
    state = {"checks": 0.0, "calls": 0, "error": np.inf}

    def rmatvec(y):
        out = T @ y
        state["calls"] += 1
        if state["calls"] % 10 == 0:
            frame = sys._getframe(1)
            while frame.f_code.co_name != "lsmr":
                frame = frame.f_back
            _, spent = timed(lambda: check(frame.f_locals.get("x")))
            state["checks"] += spent
        return out

    def check(x) -> None:
        if x is None:
            raise RuntimeError("lsmr's x is not where it was")
        z = x[S:] - x[S:].mean()
        state["error"] = float(np.sqrt(np.mean(((z - exact) / sigma) ** 2)))
        if state["error"] <= TARGET_SIGMA:
            raise _Reached

    operator = LinearOperator(A.shape, matvec=lambda x: A @ x, rmatvec=rmatvec, dtype=float)
    start = time.perf_counter()
    with contextlib.suppress(_Reached):
        lsmr(operator, root * m, atol=0, btol=0, conlim=0, maxiter=most)
    return time.perf_counter() - start - state["checks"], state["calls"], state["error"]


def engines(n_exposures: int, per_exposure: int, repeats: int, most: int, gpu: bool = False) -> None:
    design, m, w = survey(n_exposures, per_exposure)
    print(f"{design.n_measurements} measurements, {design.n_stars} stars, {n_exposures} exposures")
    topology, pattern_seconds = timed(lambda: pattern(design))
    none = Prior.none(design)
    reference = NormalEquations(design, m, w, none, topology)
    exact = solve(reference, engine="direct", tolerance_sigma=1e-6).theta[:, 0]
    sigma = np.sqrt(reference.spread().node[:, 0, 0])
    del reference
    ours: dict[str, float] = {}
    places = [(engine, "cpu") for engine in ("direct", "cholespy", "multigrid", "matrix_free")]
    if gpu:
        places = [("direct", "cpu"), ("matrix_free", "cpu"), ("matrix_free", "cuda")]
    for engine, device in places:
        seconds = []
        for _ in range(repeats):
            start = time.perf_counter()
            equations = NormalEquations(design, m, w, none, topology)
            solved = solve(equations, engine=engine, tolerance_sigma=TARGET_SIGMA, device=device)
            equations.estimate(solved.theta)
            seconds.append(time.perf_counter() - start)
            del equations
        name = engine if device == "cpu" else "on the GPU"
        ours[name] = statistics.median(seconds)
        rms = float(np.sqrt(np.mean(((solved.theta[:, 0] - exact) / sigma) ** 2)))
        print(
            f"{name:12s} {ours[name]:7.2f} s  {solved.iterations:3d} iterations  rms error {rms:.1e} sigma"
            f"  bound on each {solved.error_sigma:.1e}  {solved.why.name.lower()}"
        )
    print(f"peak memory {peak_gb():.2f} GB")
    if gpu:
        return
    seconds, iterations, rms = lsmr_seconds(design, m, w, exact, sigma, most)
    print(f"{'scipy lsmr':12s} {seconds:7.2f} s  {iterations:3d} iterations  rms error {rms:.1e} sigma")
    for engine, mine in ours.items():
        print(f"lsmr / {engine:12s} {seconds / mine:6.1f}   with the pattern {seconds / (mine + pattern_seconds):6.1f}")


def exact_errors(n_exposures: int, per_exposure: int) -> None:
    design, m, w = survey(n_exposures, per_exposure)
    print(f"{design.n_measurements} measurements, {design.n_stars} stars, {n_exposures} exposures")
    start = time.perf_counter()
    topology = pattern(design)
    equations = NormalEquations(design, m, w, Prior.none(design), topology)
    _, assembly = timed(lambda: equations.blocks)
    factor, factoring = timed(lambda: equations.factor)
    estimate, solving = timed(equations.estimate)
    spread, errors = timed(equations.spread)
    total = time.perf_counter() - start
    print(f"assembly {assembly:.2f} s, factor {factoring:.2f} s, solution {solving:.2f} s, exact errors {errors:.2f} s")
    median = 1e3 * float(np.median(np.sqrt(spread.node[:, 0, 0])))
    print(f"in all {total:.1f} s, peak memory {peak_gb():.2f} GB; median zero-point error {median:.2f} mmag")


def stare(n_exposures: int, n_stars: int, repeats: int) -> None:
    """Assembly of L and variances of predictions of stars that nearly all exposures saw."""
    rng = np.random.default_rng(3)
    star, node = (x.ravel() for x in np.meshgrid(np.arange(n_stars), np.arange(n_exposures), indexing="ij"))
    seen = rng.random(star.size) < 0.9
    graph = MeasurementGraph.from_codes(star[seen], node[seen].astype(np.int32), n_stars, n_exposures)
    n = graph.n_measurements
    places, w = rng.uniform(-1, 1, (n, 2)).astype(np.float32), rng.uniform(1e3, 1e5, n)
    print(f"a stare: {n:,} measurements, {n_exposures:,} exposures, {n_stars:,} stars; seconds, median of {repeats}")
    least = dense.LEAST_NODES
    for degree, K in BLOCK_SIZES.items():
        answers = []
        for name, nodes in (("one by one", 10**9), ("products", least)):
            dense.LEAST_NODES = nodes
            design = Design(graph, places, degree, np.zeros(K))
            stiff = np.tile(np.diag([0.0] + [1e4] * (K - 1)), (n_exposures, 1, 1))
            prior = Prior(stiff, np.zeros((0, K, K)), np.zeros((n_exposures, K)), np.zeros(n_stars))
            topology, place = Topology(design), (*design.arrays[:1], K, design.arrays[1], 1, design.arrays[2])
            taken = []
            for _ in range(repeats + 1):  # the first compiles
                equations = NormalEquations(design, np.zeros(n), w, prior, topology)
                started = time.perf_counter()
                diagonal, off = equations.blocks
                assembled = time.perf_counter() - started
                cov = (topology.indptr, topology.indices, place, diagonal, off, np.zeros((n_exposures, K)))
                started = time.perf_counter()
                variance = prediction_variance(
                    design.walk, graph.exposure, w, equations.star_inverse, *cov, design.dense
                )[0]  # fmt: skip
                taken.append((assembled, time.perf_counter() - started))
            answers.append(variance)
            a, b = np.median(taken[1:], axis=0)
            print(f"  K = {K}, pairs {name:11s} assembly {a:7.3f}   predictions {b:7.3f}")
        print(f"    largest relative difference of a prediction's form {np.abs(answers[1] / answers[0] - 1).max():.1e}")
        whole(design, w, prior, topology, repeats)
    dense.LEAST_NODES = least


def whole(design: Design, w: np.ndarray, prior: Prior, topology: Topology, repeats: int) -> None:
    """Factor and all variances of the last design, eliminating stars and eliminating nodes."""
    answers = []
    for name, few_stars in (("the nodes' matrix", False), ("the stars' matrix", True)):
        taken = []
        for _ in range(repeats):
            equations = NormalEquations(design, np.zeros(w.size), w, prior, topology)
            equations.__dict__["few_stars"] = few_stars
            started = time.perf_counter()
            spread = equations.spread()
            taken.append(time.perf_counter() - started)
        answers.append(spread.prediction)
        print(f"  K = {design.block}, solution and all variances by {name} {np.median(taken):7.3f}")
    print(f"    largest relative difference of a prediction's variance {np.abs(answers[1] / answers[0] - 1).max():.1e}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a fiftieth of the measurements")
    parser.add_argument("--errors", action="store_true", help="exact errors of 100 thousand exposures instead")
    parser.add_argument("--stare", action="store_true", help="one field over and over instead")
    parser.add_argument("--gpu", action="store_true", help="compare CPU and GPU instead")
    parser.add_argument("--repeats", type=int, default=3, help="of every engine; the median is printed")
    arguments = parser.parse_args()
    machine()
    warm_up(arguments.gpu)
    if arguments.errors:
        exact_errors(10_000 if arguments.quick else 100_000, 100)
    elif arguments.stare:
        stare(*((200, 100) if arguments.quick else (1_000, 500)), arguments.repeats)
    elif arguments.quick:
        engines(1_000, 200, arguments.repeats, 3_000, arguments.gpu)
    else:
        engines(20_000, 510, arguments.repeats, 5_000, arguments.gpu)


if __name__ == "__main__":
    main()
