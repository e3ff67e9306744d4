"""Simulate a large survey and solve it by the command line, each in a process of its own: seconds and peak memory.

    python benchmarks/large.py                  12 million measurements, 20 thousand exposures, --method robust
    python benchmarks/large.py --million        1 million measurements, 3 thousand exposures, all defaults
    python benchmarks/large.py --quick          a hundredth of the first

One thread, or as many as --workers says; matrix products have one each. CPU seconds are those of the process, wall
seconds of a shared machine are longer; stages are from run.json, their memory is the high-water mark at their end. The
folder is temporary unless --folder names one, in which a survey that is there already is solved again.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

THREADS = (
    "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "POLARS_MAX_THREADS",
    "RAYON_NUM_THREADS",
)  # fmt: skip
FOV_DEG = 0.5

BETWEEN = """
import resource, subprocess, sys
code = subprocess.call([sys.executable, *sys.argv[1:]])
usage = resource.getrusage(resource.RUSAGE_CHILDREN)
print(usage.ru_utime + usage.ru_stime, usage.ru_maxrss)
raise SystemExit(code)
"""


def simulate(folder: Path, n_exposures: int, per_exposure: float) -> None:
    """Stream the ordinary survey of this size to Parquet; fields are small, so that the mosaic fits on the sky."""
    from calib.simulate import PRESETS, write_survey

    usual = PRESETS["ordinary"]
    nights = max(1, round(usual.nights * n_exposures / usual.n_exposures))
    spec = replace(
        usual, n_exposures=n_exposures, nights=nights, stars_per_exposure=per_exposure, visits=10, fov_deg=FOV_DEG
    )
    write_survey(spec, 1, folder)


def run(*command: str) -> tuple[float, float, float]:
    """Run Python on this, matrix products on one thread; (wall seconds, CPU seconds, peak MB), or leave if it fails."""
    environment = os.environ | dict.fromkeys(THREADS, "1")
    began = time.perf_counter()
    # a process begins with the peak of the one that starts it: a small one in between measures its child alone
    between = subprocess.run(
        [sys.executable, "-c", BETWEEN, *command], env=environment, stdout=subprocess.PIPE, text=True, check=False
    )
    if between.returncode:
        raise SystemExit(f"{' '.join(command)}: exit status {between.returncode}")
    cpu, peak = (float(x) for x in between.stdout.splitlines()[-1].split())
    return time.perf_counter() - began, cpu, peak / 1024


def main() -> None:
    """Run and print."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    size = arguments.add_mutually_exclusive_group()
    size.add_argument("--million", action="store_true")
    size.add_argument("--quick", action="store_true")
    arguments.add_argument("--method", help="of calib solve")
    arguments.add_argument("--workers", type=int, default=1, help="of calib solve (default: 1)")
    arguments.add_argument("--folder", help="where survey and solution stay")
    arguments.add_argument("--simulate", nargs=3, metavar=("DIR", "EXPOSURES", "PER"), help="nothing but this")
    args = arguments.parse_args()
    if args.simulate:
        simulate(Path(args.simulate[0]), int(args.simulate[1]), float(args.simulate[2]))
        return
    n_exposures, per_exposure = (3_000, 330.0) if args.million else (200 if args.quick else 20_000, 600.0)
    method = args.method or ("auto" if args.million else "robust")
    load = " ".join(f"{x:.1f}" for x in os.getloadavg())
    print(f"{platform.machine()}, {os.cpu_count()} cores, load {load}, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(args.folder or temporary)
        survey, out = folder / "survey", folder / "solution"
        if not (survey / "truth_stars.parquet").is_file():
            report("simulate", *run(__file__, "--simulate", str(survey), str(n_exposures), str(per_exposure)))
        given = [str(survey / "measurements.parquet"), "--exposures", str(survey / "exposures.parquet")]
        asked = ("--method", method, "--workers", str(args.workers))
        wall, cpu, peak = run("-m", "calib", "solve", *given, *asked, "--quiet", "--out", str(out))
        told = json.loads((out / "run.json").read_text(encoding="utf-8"))
        exposures = sum(c["n_exposures"] for c in told["components"])
        of = f"{told['counts']['rows']:,} measurements, {exposures:,} exposures"
        print(f"{of}, --method {method}, {args.workers} workers: {told['method']}")
        for stage, seconds in told["timings"].items():
            report("  " + stage, seconds, None, told["memory_mb"][stage])
        report("  start, writing", wall - sum(told["timings"].values()), None, peak)
        report("calib solve", wall, cpu, peak)
        print(f"passes {told['convergence']['passes']}, terms {[t['terms'] for t in told['terms_tried']]}")
        compare(out, survey)


def compare(out: Path, survey: Path) -> None:
    """Zero-points against their truth, so that speed is not bought with errors."""
    import numpy as np
    import polars as pl

    names = ("exposure_id", "component", "zeropoint", "zeropoint_err")
    solved = pl.read_parquet(out / "zeropoints.parquet", columns=names)
    truth = pl.read_parquet(survey / "truth_exposures.parquet").select("exposure_id", true="zeropoint")
    both = solved.join(truth, on="exposure_id").filter(pl.col("zeropoint").is_finite())
    both = both.with_columns(error=pl.col("zeropoint") - pl.col("true"))
    both = both.with_columns(error=pl.col("error") - pl.col("error").mean().over("component"))
    error, stated = both["error"].to_numpy(), both["zeropoint_err"].to_numpy()
    print(f"zero-points: rms {1e3 * np.std(error):.2f} mmag, pull standard deviation {np.std(error / stated):.2f}")


def report(what: str, wall: float, cpu: float | None, peak: float) -> None:
    """One line."""
    seconds = f"{cpu:8.1f} s CPU" if cpu is not None else " " * 14
    print(f"{what:<22}{wall:8.1f} s {seconds}{peak:8.0f} MB", flush=True)


if __name__ == "__main__":
    main()
