"""How fast the learned method is when it is used, and how much it holds: measurements a second at growing sizes.

    python benchmarks/inference.py [--exposures 75,300,1200] [--stars 1000] [--threads 2] [--weights F.safetensors]
    python benchmarks/inference.py --device cuda [--copies 64] [--exposures 300]

Every survey is solved by a few passes of the robust method with all local terms, converged or not; what the learned
method adds is timed on that, the fastest of three runs: features, networks, and errors with their bootstrap, parts of
the whole. Memory is the growth of the peak over that of the robust solve.

On a GPU the networks alone are timed, on features that lie there and on so many copies of the survey side by side;
their answer is held against that of the CPU.
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
from calib.solve.methods import Solved, solve_robust, stated
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


CONFIG = Config(method="robust", score=False, surface="plane", seeing_response="on", max_passes=4)


def solved(exposures: int, stars: float) -> tuple[Problem, Solved]:
    """A survey of this size and its robust solve."""
    survey = simulate(replace(PRESETS["ordinary"], n_exposures=exposures, stars_per_exposure=stars), SEED)
    problem = Problem.of(read_measurements(survey.measurements, exposures=survey.exposures), CONFIG)
    return problem, solve_robust(problem, CONFIG)


def one(exposures: int, stars: float, ensemble: Ensemble) -> dict[str, float]:
    problem, robust = solved(exposures, stars)
    give_back()
    before = peak()
    wall, cpu = least(lambda: solve_learned(problem, robust, CONFIG.seed, ensemble, "cpu"))
    grown = max(peak() - before, 0.0)
    data = features_of(problem, robust.fit).to_hetero_data()
    n = float(problem.m.size)
    networks, networks_cpu = least(lambda: ensemble.listen(data))
    return {
        "n": n, "features": least(lambda: features_of(problem, robust.fit))[0],
        "networks": networks, "networks_cpu": networks_cpu,
        "errors": least(lambda: stated(robust.fit, [], problem.err, CONFIG.seed))[0],
        "whole": wall, "cpu": cpu, "held": grown / n,
    }  # fmt: skip


def repeated(data: Any, copies: int) -> Any:
    """So many copies of a survey's features side by side, as one survey."""
    out = data.clone()
    sizes = {kind: data[kind].x.shape[0] for kind in ("measurement", "star", "exposure", "night")}

    def shifted(index: torch.Tensor, *by: int) -> torch.Tensor:
        """An index (n,) or edges (2, n), every copy's further on by so much."""
        step = torch.tensor(by)[:, None] if index.dim() > 1 else by[0]
        return torch.cat([index + k * step for k in range(copies)], -1)

    for kind in sizes:
        out[kind].x = data[kind].x.repeat(copies, 1)
    out["measurement"].star = shifted(data["measurement"].star, sizes["star"])
    out["measurement"].exposure = shifted(data["measurement"].exposure, sizes["exposure"])
    links, nights = data["exposure", "links", "exposure"], data["exposure", "in", "night"]
    out["exposure", "links", "exposure"].edge_index = shifted(links.edge_index, sizes["exposure"], sizes["exposure"])
    out["exposure", "links", "exposure"].edge_attr = links.edge_attr.repeat(copies, 1)
    out["exposure", "in", "night"].edge_index = shifted(nights.edge_index, sizes["exposure"], sizes["night"])
    return out


def on_gpu(exposures: int, stars: float, ensemble: Ensemble, copies: int) -> None:
    """Time the networks on a GPU and print."""
    problem, robust = solved(exposures, stars)
    data = features_of(problem, robust.fit).to_hetero_data()
    expected = ensemble.listen(data)
    many, ensemble = repeated(data, copies).to("cuda"), ensemble.to("cuda")

    def job() -> None:
        ensemble.listen(many)
        torch.cuda.synchronize()

    job()
    said = ensemble.listen(many)
    n = data["measurement"].x.shape[0]
    apart = max(
        float((one.weight - two.weight[k * n : (k + 1) * n].cpu()).abs().max())
        for one, two in zip(expected, said, strict=True) for k in (0, copies - 1)
    )  # fmt: skip
    torch.cuda.reset_peak_memory_stats()
    seconds = least(job)[0]
    print(
        f"{torch.cuda.get_device_name()}: {n * copies:,} measurements, {len(ensemble.members)} networks in "
        f"{seconds:.3f} s, {1e-6 * n * copies / seconds:.1f} million a second, peak "
        f"{torch.cuda.max_memory_allocated() / 1e9:.1f} GB; logarithms of weights at most {apart:.1e} from the CPU's",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--exposures", default="75,300,1200", help="of each survey, joined by commas")
    parser.add_argument("--stars", type=float, default=1000.0, help="an exposure")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--copies", type=int, default=64, help="of the survey, on a GPU")
    parser.add_argument("--weights", help="other weights than the shipped ones")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    ensemble = Ensemble.load(args.weights) if args.weights else shipped()
    print(
        f"{platform.platform()}, Python {platform.python_version()}, torch {torch.__version__}, {args.threads} threads,"
        f" {len(ensemble.members)} networks; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    )
    if args.device == "cuda":
        for exposures in (int(e) for e in args.exposures.split(",")):
            on_gpu(exposures, args.stars, ensemble, args.copies)
        return
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
