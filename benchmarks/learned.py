"""The learned method against the robust one on simulated surveys that no network was trained on.

    python benchmarks/learned.py [--world calib|other] [--presets ordinary] [--seeds 31,32,33] [--weights F.safetensors]
                                 [--four] [--split] [--json out.json]

One robust solve of each survey serves both: zero-point rms of each, their ratio, pulls and coverage of the learned;
areas under the curve of outliers (glitches above 5 sigma), robust and learned, of variable stars (rms above 3 times
their noise), which are the robust fit's in both, and of the photometric probability; and the pulls of the cloud where
there is any. ``--four`` withholds all but the four needed columns; ``--split`` scores both methods on held-out stars
too, as ``--method auto`` does, and says which it would take.

Beside them stands what one would reach who knew the truth (benchmarks/known.py): ``known``, the zero-point rms over the
robust one's of the robust fit's terms under the true variance of every measurement and without outliers, which is as
far as weights go; and under ``could be`` the area of a chi-square for variable stars that knows all but them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import polars as pl
from known import known_variability, known_weights
from other_world import PRESETS as OTHER_PRESETS
from other_world import other_world

from calib import Config
from calib.learn.engine import solve_learned
from calib.learn.ensemble import Ensemble, shipped
from calib.learn.logits import outlier_logit
from calib.learn.samples import Truth
from calib.model.problem import Problem
from calib.pipeline import MARGIN
from calib.simulate import PRESETS, simulate
from calib.simulate.bounds import zeropoint_errors
from calib.solve.conditions import conditions_of
from calib.solve.methods import resolve_robust, solve_robust
from calib.solve.split import score
from calib.tables import read_measurements

WORLDS = {"calib": [p for p in PRESETS if p != "demo"], "other": list(OTHER_PRESETS)}
FOUR = ["star_id", "exposure_id", "mag", "mag_err"]


def area_under_curve(value: np.ndarray, truth: np.ndarray) -> float:
    """Probability that one of the true has the larger value, ties counted half."""
    if truth.all() or not truth.any():
        return float("nan")
    _, which, counts = np.unique(value, return_inverse=True, return_counts=True)
    rank = (np.cumsum(counts) - 0.5 * (counts - 1))[which]
    n1 = int(truth.sum())
    return float((rank[truth].sum() - n1 * (n1 + 1) / 2) / (n1 * (truth.size - n1)))


def one(world: str, preset: str, seed: int, ensemble: Ensemble, four: bool, split: bool) -> dict[str, Any]:
    survey: Any = other_world(preset, seed) if world == "other" else simulate(PRESETS[preset], seed)
    config = Config(method="robust", score=False)
    table = survey.measurements
    if four:
        band = ["band"] if "band" in table.columns and table["band"].n_unique() > 1 else []
        measurements = read_measurements(table.select(*FOUR, *band))
    else:
        measurements = read_measurements(table, exposures=survey.exposures)
    problem = Problem.of(measurements, config)
    keys = ["exposure_id", *(["band"] if "band" in table.columns and not (four and not band) else [])]
    truth_frame = survey.truth_exposures.with_columns(pl.col("^band$").cast(pl.String))
    nodes = problem.nodes.with_columns(pl.col("band").cast(pl.String))
    truth = nodes.join(truth_frame.select(*keys, "zeropoint"), on=keys, how="left", maintain_order="left")
    z = truth["zeropoint"].to_numpy()
    robust = solve_robust(problem, config)
    start = time.process_time()
    learned = solve_learned(problem, robust, config.seed, ensemble, "cpu")
    seconds = time.process_time() - start
    component = robust.fit.equations.topology.component
    found = {
        name: zeropoint_errors(s.half().zeropoint, z, component, s.half().error)
        for name, s in (("robust", robust), ("learned", learned))
    }
    row: dict[str, Any] = {
        "preset": preset, "seed": seed, "measurements": problem.m.size, "exposures": found["learned"].n,
        "robust_mmag": 1e3 * found["robust"].rms, "learned_mmag": 1e3 * found["learned"].rms,
        "ratio": found["learned"].rms / found["robust"].rms, "robust_pull": found["robust"].pull_std,
        "pull": found["learned"].pull_std, "coverage_68": found["learned"].coverage_68,
        "coverage_95": found["learned"].coverage_95, "seconds": seconds,
    }  # fmt: skip
    if world == "calib" and not four:
        truth_of = Truth.of(problem, survey)
        row |= beside(problem, robust.fit, learned, truth_of)
        row["known"] = known_weights(problem, robust.fit, survey, truth_of) / found["robust"].rms
        among, varies = caught(problem, robust.fit, truth_of)
        row["variable_known"] = area_under_curve(known_variability(problem, survey, truth_of, among), varies)
    if split:
        halves: list[Any] = []

        def robust_half(stars: Problem) -> Any:
            halves.append(resolve_robust(stars, robust.fit, config))
            return halves[-1].half()

        def learned_half(stars: Problem) -> Any:
            return solve_learned(stars, halves.pop(0), config.seed, ensemble, "cpu").half()

        row["robust_score"] = score(problem, robust_half, config.seed).score
        row["learned_score"] = score(problem, learned_half, config.seed).score
        row["taken"] = row["learned_score"] + MARGIN["learned"] < row["robust_score"]
    return row


def beside(problem: Problem, fit: Any, learned: Any, truth: Truth) -> dict[str, float]:
    """Outliers, variable stars and clouds."""
    clear = ~truth.outlier | (truth.outlier_sigma > 5.0)
    among, varies = caught(problem, fit, truth)
    out = {
        "outlier_robust": area_under_curve(outlier_logit(fit)[clear], truth.outlier[clear]),
        "outlier_learned": area_under_curve(learned.outlier[clear], truth.outlier[clear]),
        "variable": area_under_curve(fit.weighted.perceptible[among], varies),
    }
    clouds = conditions_of(problem, learned.fit)
    if clouds is not None:
        has = np.isfinite(clouds.cloud)
        pull = (clouds.cloud - truth.cloud)[has] / clouds.cloud_err[has]
        cloudy = truth.cloud[has] > 0
        out |= {
            "photometric": area_under_curve(clouds.photometric[has], truth.photometric[has]),
            "photometric_said": float(clouds.photometric[has].mean()),
            "photometric_true": float(truth.photometric[has].mean()),
            "cloud_pull": float(np.sqrt(np.mean(pull[cloudy] ** 2))) if cloudy.any() else float("nan"),
        }
    return out


def caught(problem: Problem, fit: Any, truth: Truth) -> tuple[np.ndarray, np.ndarray]:
    """Stars (S,) whose area under the curve is asked for, constant or with 3 times their noise; which of them vary."""
    star, visits = problem.graph.star(), np.diff(problem.graph.star_ptr)
    base = fit.noise.base(problem.graph.exposure, fit.err)
    noise = np.sqrt(np.bincount(star, base, visits.size) / np.maximum(visits, 1))
    among = (visits > 1) & ((truth.variable == 0) | (truth.variable > 3.0 * noise))
    return among, truth.variable[among] > 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--world", choices=list(WORLDS), default="calib")
    parser.add_argument("--presets", help="names joined by commas; all of that world's where not given")
    parser.add_argument("--seeds", default="31,32,33")
    parser.add_argument("--weights", help="other weights than the shipped ones")
    parser.add_argument("--four", action="store_true", help="only the four needed columns")
    parser.add_argument("--split", action="store_true", help="score both on held-out stars")
    parser.add_argument("--json")
    args = parser.parse_args()
    ensemble = Ensemble.load(args.weights) if args.weights else shipped()
    print(f"{platform.platform()}, Python {platform.python_version()}, {len(ensemble.members)} networks")
    print(
        "preset       seed      n  robust learned ratio known |  pull  c68  c95 | outlier auc  variable could be | "
        "clear auc cloud |   s"
    )
    rows = []
    for preset in args.presets.split(",") if args.presets else WORLDS[args.world]:
        for seed in (int(s) for s in args.seeds.split(",")):
            r = one(args.world, preset, seed, ensemble, args.four, args.split)
            rows.append(r)
            nan = float("nan")
            print(
                f"{preset:12s} {seed:4d} {r['measurements']:6d} {r['robust_mmag']:7.2f} {r['learned_mmag']:7.2f} "
                f"{r['ratio']:5.3f} {r.get('known', nan):5.3f} | {r['pull']:5.2f} {r['coverage_68']:4.2f} "
                f"{r['coverage_95']:4.2f} | "
                f"{r.get('outlier_robust', nan):5.3f} {r.get('outlier_learned', nan):5.3f}  "
                f"{r.get('variable', nan):8.3f} {r.get('variable_known', nan):8.3f} | "
                f"{r.get('photometric', nan):9.3f} {r.get('cloud_pull', nan):5.2f} | {r['seconds']:4.1f}"
                + (f" | {'learned' if r['taken'] else 'robust'}" if "taken" in r else ""),
                flush=True,
            )
    ratio = np.array([r["ratio"] for r in rows])
    exposures = np.array([r["exposures"] for r in rows])
    print(
        f"\nlearned over robust: median {np.median(ratio):.3f}, best {ratio.min():.3f}, worst {ratio.max():.3f}, "
        f"more than 2 % above in {(ratio > 1.02).sum()} of {ratio.size}\n"
        f"pulls {min(r['pull'] for r in rows):.2f} to {max(r['pull'] for r in rows):.2f}; coverage over all exposures "
        + ", ".join(
            f"{np.average([r[c] for r in rows], weights=exposures):.3f}" for c in ("coverage_68", "coverage_95")
        )
    )  # fmt: skip
    if any("known" in r for r in rows):
        for name, what in (("known", "weights that know every variance and outlier, over robust"),
                           ("variable", "variable stars, area under the curve"),
                           ("variable_known", "of one who knows all else")):  # fmt: skip
            value = np.array([r[name] for r in rows])
            print(f"{what}: median {np.median(value):.3f}, {value.min():.3f} to {value.max():.3f}")
    if args.split:
        taken = np.where([r["taken"] for r in rows], ratio, 1.0)
        print(f"as auto takes it: median {np.median(taken):.3f}, worst {taken.max():.3f}")
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump(rows, file, indent=1)


if __name__ == "__main__":
    main()
