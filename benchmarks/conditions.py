"""Clouds as they are inferred, against their truth, on solved surveys of the training world.

    python benchmarks/conditions.py --surveys FOLDER [--part even|odd|all]

FOLDER holds solved surveys as `calib train` leaves them in WORK/surveys. Printed: how often an exposure is photometric
that is said to be so with this and that probability, and the area under the curve; errors and pulls of the cloud, over
all exposures and over those that have one; and the straight line through the logits that would calibrate the
probability (`calib.model.conditions.LOGIT` was fitted to the even numbers, and is to be judged by the odd).
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from learned import area_under_curve
from scipy.optimize import minimize
from scipy.special import expit, logit

from calib.learn.samples import load
from calib.solve.conditions import conditions_of

BINS = (0.0, 0.05, 0.2, 0.5, 0.8, 0.95, 1.0)
FEW = 5


def gathered(paths: list[Path]) -> tuple[np.ndarray, np.ndarray]:
    """Per exposure: probability, photometric in truth, error of the cloud, its stated error, cloud; and survey (E,)."""
    rows: list[np.ndarray] = []
    for k, path in enumerate(paths):
        sample = load(path)
        found = conditions_of(sample.problem, sample.fit)
        if found is None:
            continue
        truth = sample.truth
        known = np.isfinite(found.cloud) & np.isfinite(truth.cloud)
        columns = (
            found.photometric, np.asarray(truth.photometric, float), found.cloud - truth.cloud, found.cloud_err,
            truth.cloud, np.full(known.size, float(k)),
        )  # fmt: skip
        rows.append(np.column_stack([c[known] for c in columns]))
    out = np.concatenate(rows)
    return out[:, :5], out[:, 5].astype(int)


def calibrating(said: np.ndarray, true: np.ndarray) -> tuple[float, float]:
    """Shift and slope of the logit with the largest likelihood."""
    x = logit(np.clip(said, 1e-7, 1.0 - 1e-7))

    def loss(line: np.ndarray) -> float:
        p = np.clip(expit(line[0] + line[1] * x), 1e-12, 1.0 - 1e-12)
        return -float(np.mean(true * np.log(p) + (1.0 - true) * np.log1p(-p)))

    shift, slope = minimize(loss, [0.0, 1.0], method="Nelder-Mead").x
    return float(shift), float(slope)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--surveys", type=Path, required=True)
    parser.add_argument("--part", choices=("even", "odd", "all"), default="odd")
    args = parser.parse_args()
    kept = {"even": (0,), "odd": (1,), "all": (0, 1)}[args.part]
    paths = [p for p in sorted(args.surveys.glob("*.pickle")) if int(p.stem) % 2 in kept]
    if not paths:
        parser.error(f"{args.surveys}: there is no solved survey with such a number")
    rows, survey = gathered(paths)
    said, true, error, stated, cloud = rows.T
    pull, cloudy = error / stated, cloud > 0
    surveys = np.unique(survey)
    print(f"{surveys.size} surveys with nights and airmass, {said.size} exposures, {np.mean(cloudy):.0%} cloudy")
    gap = 0.0
    for low, high in zip(BINS[:-1], BINS[1:], strict=True):
        inside = (said >= low) & ((said < high) | (high == 1.0))
        if inside.any():
            mean, share = said[inside].mean(), true[inside].mean()
            gap += abs(mean - share) * inside.mean()
            print(f"  said {low:.2f} to {high:.2f}: {inside.sum():6d}, mean {mean:.3f}, true {share:.3f}")
    shift, slope = calibrating(said, true)
    print(f"mean gap {gap:.3f}, area under the curve {area_under_curve(said, true > 0):.3f}")
    print(f"a shift of {shift:.2f} and a slope of {slope:.2f} of the logit would calibrate it")
    print(f"cloud, all exposures: error {1e3 * rms(error):.1f} mmag rms, pull {rms(pull):.2f}")
    within = " ".join(f"{np.mean(np.abs(pull[cloudy]) < x):.3f}" for x in (0.6745, 1.0, 1.96))
    middle = 1e3 * np.median(np.abs(error[cloudy]))
    print(f"cloud where there is one: median error {middle:.1f} mmag, pull {rms(pull[cloudy]):.2f}")
    print(f"  within 0.6745, 1 and 1.96 errors: {within}")
    each = np.array([rms(pull[i]) for k in surveys if (i := cloudy & (survey == k)).sum() >= FEW])
    usual = np.sum((each > 0.8) & (each < 1.25))
    print(f"  survey by survey: {np.median(each):.2f} (median), {each.max():.1f} (worst), "
          f"0.8 to 1.25 in {usual} of {each.size}")  # fmt: skip


def rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2)))


if __name__ == "__main__":
    main()
