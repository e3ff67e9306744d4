"""What adaptation to the survey at hand gains (calib/learn/adapt.py), on surveys whose truth is known.

    python benchmarks/adaptation.py --surveys FOLDER [--most 616] [--every 1] [--sure 4] [--json out.json]

FOLDER holds solved surveys as `calib train` leaves them in WORK/surveys; only those that it held out of training are
taken, and of those the ones large enough to adapt to. For each: zero-point rms of the learned method as trained over
that of the robust one; with the shift and with fine-tuning over as trained, where stars not seen are surer than --sure
standard errors that they are better; what those say of fine-tuning, and the steps taken; processor seconds of the
groups' solves, and of all that follows.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from calib.config import Config
from calib.learn import adapt
from calib.learn.engine import Heard, heard
from calib.learn.ensemble import shipped
from calib.learn.exact import LearnedEquations
from calib.learn.samples import Sample, cached, load
from calib.learn.train import HELD_OUT


class Whole:
    """A survey with all its stars, and how far zero-points are from the truth under what networks say."""

    def __init__(self, sample: Sample) -> None:
        self.job, self.said = LearnedEquations(sample.fit), heard(sample.problem, sample.fit, device="cpu")
        top = self.job.topology
        self.linked = top.size[top.component] > 2
        self.truth = self.job.centring(sample.truth.zeropoint - sample.fit.faint_blends)
        self.robust = self.rms(sample.fit.estimate.theta)

    def rms(self, theta: np.ndarray) -> float:
        """Of nodes' and hubs' unknowns."""
        z = self.job.centring(theta[: self.job.design.n_nodes, 0].copy())
        return float(np.sqrt(np.mean((z - self.truth)[self.linked] ** 2)))

    def learned(self, said: Heard) -> float:
        """Of the solve with what is said."""
        return self.rms(self.job.equations(*said.factors()).estimate().theta)


def examine(sample: Sample) -> dict[str, Any] | None:
    """A row, or nothing where there is nothing to adapt."""
    whole = Whole(sample)
    if not whole.job.ties.precision.size or not whole.linked.any():
        return None
    begin = time.process_time()
    config = Config(method="robust", score=False, seed=sample.seed)
    groups = adapt.quarters(sample.problem, sample.fit, config, device="cpu")
    solved = time.process_time()
    found = adapt.judged(groups)
    tuned = adapt.fine_tuned(groups, shipped().members, found)
    end = time.process_time()
    as_trained = whole.learned(whole.said)
    return {
        "seed": sample.seed, "measurements": sample.problem.m.size, "exposures": sample.problem.n_exposures,
        "learned": as_trained / whole.robust, "shifted": whole.learned(found.applied(whole.said)) / as_trained,
        "adapted": whole.learned(tuned.applied(whole.said)) / as_trained, "found": tuned.json(),
        "group_seconds": solved - begin, "seconds": end - solved,
    }  # fmt: skip


def rows(folder: Path, most: int, every: int) -> Iterator[dict[str, Any]]:
    """Of every survey held out that is large enough."""
    for path in cached(folder, range(0, most, HELD_OUT * every)):
        sample = load(path)
        if sample.problem.m.size >= adapt.ADAPT_MEASUREMENTS and sample.problem.n_exposures >= adapt.ADAPT_EXPOSURES:
            row = examine(sample)
            if row is not None:
                yield row


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--surveys", type=Path, required=True, help="folder of solved surveys")
    parser.add_argument("--most", type=int, default=616, help="surveys, those trained on among them")
    parser.add_argument("--every", type=int, default=1, help="of those held out, one in so many")
    parser.add_argument("--sure", type=float, default=adapt.SURE, help="standard errors")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    adapt.SURE = args.sure
    print(
        f"{platform.platform()}, Python {platform.python_version()}, torch {torch.__version__}\n\n"
        "   seed measurements exposures | learned shifted adapted |  gain   sig kept  steps   | cpu s"
    )
    every = []
    for row in rows(args.surveys, args.most, args.every):
        every.append(row)
        tuning = row["found"]["fine_tuning"]
        print(
            f"{row['seed']:7d} {row['measurements']:12d} {row['exposures']:9d} | {row['learned']:7.3f} "
            f"{row['shifted']:7.3f} {row['adapted']:7.3f} | {tuning['gain']:5.1f} {tuning['significance']:5.1f} "
            f"{tuning['kept']:4d} {tuning['steps'][0]:4d} {tuning['steps'][1]:4d} | {row['group_seconds']:4.1f} "
            f"{row['seconds']:5.1f}",
            flush=True,
        )
    for name, kind in (("shifted", "shifted"), ("fine-tuned", "adapted")):
        some = [row for row in every if (row["found"]["fine_tuning"] if kind == "adapted" else row["found"])["kept"]]
        over = np.log([row[kind] for row in every]) if every else np.zeros(1)
        print(
            f"{name}: {len(some)} of {len(every)} surveys, over as trained {np.exp(over.mean()):.4f} +- "
            f"{over.std() / np.sqrt(over.size):.4f} (geometric mean), best {np.exp(over.min()):.3f}, worst "
            f"{np.exp(over.max()):.3f}"
        )
    if args.json:
        args.json.write_text(json.dumps(every, indent=1))


if __name__ == "__main__":
    main()
