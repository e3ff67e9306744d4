"""``calib demo``."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from calib.cli import DONE
from calib.commands.options import check_folder, progress
from calib.commands.simulate import simulated
from calib.commands.solve import summary
from calib.config import Config
from calib.model.problem import Problem
from calib.pipeline import calibrate
from calib.simulate.bounds import bounds, clip_solve, zeropoint_errors
from calib.solution import Solution
from calib.solve.methods import solve_wls
from calib.tables.measurements import Measurements, read_measurements

Array = NDArray[np.float64]

PRESET, SEED = "demo", 1
KEPT = Path(__file__).resolve().parents[2] / "data" / "demo"
"""The survey as a checkout has it; an installed package simulates it."""
_FILES = ("measurements", "exposures", "truth_exposures", "truth_measurements")


def run(args: argparse.Namespace) -> int:
    """Solve the demo survey, and hold the answer against the truth."""
    check_folder(args.out)
    if all((KEPT / f"{name}.parquet").is_file() for name in _FILES):
        _demo(KEPT, args)
    else:
        with tempfile.TemporaryDirectory(prefix="calib-demo-") as made:
            simulated(made, PRESET, SEED, None, None, args.quiet)
            _demo(Path(made), args)
    return DONE


def _demo(survey: Path, args: argparse.Namespace) -> None:
    measurements = read_measurements(survey / "measurements.parquet", exposures=survey / "exposures.parquet")
    with progress(args.quiet) as shown:
        solution = calibrate(measurements, progress=shown)
        shown.say("writing")
        solution.write(args.out)
        shown.say("bounds")
        table, pulls = scores(survey, measurements, solution)
    if args.quiet:
        return
    print("A small simulated survey with a known truth: two bands, ten nights, four of them cloudy\n")
    print("\n".join(summary(solution, args.out)[:-1]))
    print("\nerror of the zero-points against the truth, rms over exposures, mmag")
    print("\n".join(f"  {name:<58}{1000 * rms:6.2f}" for name, rms in table))
    print(f"\nerrors of {solution.diagnostics['method']} in units of the errors it states: {pulls}")
    print(f"\nreport: {Path(args.out).absolute() / 'report.html'}")


def scores(survey: Path, measurements: Measurements, solution: Solution) -> tuple[list[tuple[str, float]], str]:
    """Return rms errors by name, mag, and a line on the solution's pulls and coverage."""
    problem = Problem.of(measurements, Config())
    keys = problem.nodes.select("exposure_id", pl.col("band").cast(pl.String))

    def column(frame: pl.DataFrame, name: str) -> Array:
        found = keys.join(frame, on=["exposure_id", "band"], how="left", maintain_order="left")
        return found[name].cast(pl.Float64).fill_null(np.nan).to_numpy()

    truth = column(pl.read_parquet(survey / "truth_exposures.parquet"), "zeropoint")
    zeropoints = solution.frames["zeropoints"]
    component = column(zeropoints, "component").astype(np.int64)
    wls = solve_wls(problem, Config()).half()
    known = bounds(problem, pl.read_parquet(survey / "truth_measurements.parquet"))
    own = zeropoint_errors(column(zeropoints, "zeropoint"), truth, component, column(zeropoints, "zeropoint_err"))

    def rms(zeropoint: Array) -> float:
        return zeropoint_errors(zeropoint, truth, component).rms

    method = str(solution.diagnostics["method"])
    chosen = [(f"calib ({method})", own.rms)]
    if method != "robust":
        robust = calibrate(measurements, config=Config(method="robust", score=False)).frames["zeropoints"]
        chosen.insert(0, ("calib without networks (robust)", rms(column(robust, "zeropoint"))))
    table = [
        ("weighted least squares with the reported errors (wls)", rms(wls.zeropoint)),
        ("the same with 3-sigma clipping, the practice of the field", rms(clip_solve(problem))),
        *chosen,
        ("bound: a solve that knows every variance and outlier", rms(known.weights)),
        ("floor: a solve that knows every systematic error as well", rms(known.noise)),
    ]
    inside = f"{100 * own.coverage_68:.0f} % within 1 (68), {100 * own.coverage_95:.0f} % within 1.96 (95)"
    return table, f"standard deviation {own.pull_std:.2f}, {inside}"
