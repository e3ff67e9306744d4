"""How fast the learned method is when it is used, and how much it holds: measurements a second at growing sizes.

    python benchmarks/inference.py [--exposures 75,300,1200] [--stars 1000] [--threads 2] [--weights F.safetensors]

Every survey is solved by a few passes of the robust method with all local terms, converged or not; what the learned
method adds is timed on that, the fastest of three runs: features, networks, and errors with their bootstrap, parts of
the whole. Memory is the growth of the peak over that of the robust solve.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import torch

from calib import Config
from calib.learn.engine import solve_learned
from calib.learn.ensemble import Ensemble, shipped
from calib.learn.features import features_of
from calib.memory import give_back
from calib.model.problem import Problem
from calib.simulate import PRESETS, simulate
from calib.solve.methods import solve_robust, stated
from calib.tables import read_measurements

SEED = 101


def least(job: Callable[[], Any], runs: int = 3) -> tuple[float, float]:
    """Wall and processor seconds of the fastest run."""
    found = []
    for _ in range(runs):
        wall, cpu = time.perf_counter(), time.process_time()
        job()
        found.append((time.perf_counter() - wall, time.process_time() - cpu))
    return min(found)


def peak() -> float:
    """Bytes."""
    return 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def one(exposures: int, stars: float, ensemble: Ensemble) -> dict[str, float]:
    survey = simulate(replace(PRESETS["ordinary"], n_exposures=exposures, stars_per_exposure=stars), SEED)
    config = Config(method="robust", score=False, surface="plane", seeing_response="on", max_passes=4)
    problem = Problem.of(read_measurements(survey.measurements, exposures=survey.exposures), config)
    robust = solve_robust(problem, config)
    del survey
    give_back()
    before = peak()
    wall, cpu = least(lambda: solve_learned(problem, robust, config.seed, ensemble, "cpu"))
    grown = max(peak() - before, 0.0)
    data = features_of(problem, robust.fit).to_hetero_data()
    n = float(problem.m.size)
    networks, networks_cpu = least(lambda: ensemble.listen(data))
    return {
        "n": n, "features": least(lambda: features_of(problem, robust.fit))[0],
        "networks": networks, "networks_cpu": networks_cpu,
        "errors": least(lambda: stated(robust.fit, [], problem.err, config.seed))[0],
        "whole": wall, "cpu": cpu, "held": grown / n,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--exposures", default="75,300,1200", help="of each survey, joined by commas")
    parser.add_argument("--stars", type=float, default=1000.0, help="an exposure")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--weights", help="other weights than the shipped ones")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    ensemble = Ensemble.load(args.weights) if args.weights else shipped()
    print(
        f"{platform.platform()}, Python {platform.python_version()}, torch {torch.__version__}, {args.threads} threads,"
        f" {len(ensemble.members)} networks; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    )
    print("measurements | seconds: features networks (cpu) errors   whole (cpu) | thousands/s: networks whole | kB")
    one(20, 100.0, ensemble)  # compiles
    for exposures in (int(e) for e in args.exposures.split(",")):
        r = one(exposures, args.stars, ensemble)
        rates = 1e-3 * r["n"] / r["networks"], 1e-3 * r["n"] / r["whole"]
        print(
            f"{int(r['n']):12d} | {r['features']:17.3f} {r['networks']:8.3f} {r['networks_cpu']:5.2f} "
            f"{r['errors']:6.3f} {r['whole']:7.3f} {r['cpu']:5.2f} | {rates[0]:21.0f} {rates[1]:5.0f} | "
            f"{1e-3 * r['held']:4.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
