"""What whole networks gain by being fine-tuned on the survey at hand, by its own stars and no truth.

    python benchmarks/finetune.py --surveys FOLDER [--most 330] [--least 5000] [--exposures 40] [--steps 100]
                                  [--rates 1e-3,1e-4] [--members 5] [--json out.json]

FOLDER holds solved surveys as `calib train` leaves them in WORK/surveys; only those that it held out of training are
taken. The stars of each are dealt to four groups. The shipped networks are fine-tuned on two against each other
(halves.py), the body ten times slower than the heads, and stop where the other two are best; then the other way round,
and the two outcomes are averaged. For every survey: zero-point rms over that of the networks as they are, with all
stars; how many of the members had changed; processor seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from halves import lessons_of_halves, parts_of

from calib.learn.ensemble import Ensemble, shipped
from calib.learn.losses import Lesson
from calib.learn.network import Network
from calib.learn.samples import cached, load
from calib.learn.train import HELD_OUT, Plan, Pupil, together


def tuned(plan: Plan, member: int, start: Network, lessons: list[Lesson], unseen: list[Lesson]) -> Network:
    """One member after its steps, as it was where the groups not taught were best; that may be where it began."""
    pupil = Pupil(plan, member, lessons, start)
    pupil.examine(unseen)
    while pupil.step < plan.steps:
        pupil.learn()
        if pupil.step % plan.every == 0 or pupil.step == plan.steps:
            pupil.examine(unseen)
    return pupil.taught()


def averaged(one: Network, other: Network) -> Network:
    """With the mean of both networks' parameters."""
    out = Network().eval()
    first, second = one.state_dict(), other.state_dict()
    out.load_state_dict({name: 0.5 * (first[name] + second[name]) for name in first})
    return out


def fine_tuned(plan: Plan, ensemble: Ensemble, groups: list[list[Lesson]]) -> tuple[Ensemble, int]:
    """The ensemble fitted to two pairs of groups of stars, and how many of its members that changed."""
    members, changed = [], 0
    for k, start in enumerate(ensemble.members[: plan.members]):
        network = averaged(tuned(plan, k, start, *groups), tuned(plan, k, start, *groups[::-1]))
        same = all(torch.equal(a, b) for a, b in zip(network.parameters(), start.parameters(), strict=True))
        members, changed = [*members, network], changed + (not same)
    return Ensemble(members, ensemble.temperature), changed


def examine(folder: Path, most: int, least: int, exposures: int, plans: list[Plan]) -> Iterator[dict[str, Any]]:
    """A row for every survey and plan."""
    ensemble = shipped()
    for path in cached(folder, range(most)):
        if int(path.stem) % HELD_OUT:
            continue
        sample = load(path)
        if sample.problem.m.size < least or sample.problem.n_exposures < exposures:
            continue
        parts = parts_of(sample, 4)
        groups = [lessons_of_halves(*parts[:2]), lessons_of_halves(*parts[2:])]
        if not all(groups):
            continue
        whole = [Lesson.of(sample)]
        before = together(Ensemble(ensemble.members[: plans[0].members]), whole)["ratio"]
        for plan in plans:
            begin = time.process_time()
            found, changed = fine_tuned(plan, ensemble, groups)
            yield {
                "seed": sample.seed, "measurements": sample.problem.m.size, "exposures": sample.problem.n_exposures,
                "rate": plan.rate, "before": before, "over": together(found, whole)["ratio"] / before,
                "changed": changed, "seconds": time.process_time() - begin,
            }  # fmt: skip


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--surveys", type=Path, required=True, help="folder of solved surveys")
    parser.add_argument("--most", type=int, default=330, help="surveys, those trained on among them")
    parser.add_argument("--least", type=int, default=5000, help="measurements of a survey")
    parser.add_argument("--exposures", type=int, default=40, help="exposures of a survey, at least")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rates", default="1e-3,1e-4", help="largest learning rates of the heads")
    parser.add_argument("--members", type=int, default=5)
    parser.add_argument("--every", type=int, default=10, help="steps between looks at the groups not taught")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    plans = [
        Plan(args.most, args.steps, 2, args.members, float(rate), every=args.every, auxiliary=False)
        for rate in args.rates.split(",")
    ]
    print(
        f"{platform.platform()}, Python {platform.python_version()}, torch {torch.__version__}\n"
        f"{plans[0].members} networks, {args.steps} steps on two groups of stars and as many on two others\n\n"
        "  seed measurements exposures    rate | before   over changed   cpu s"
    )
    rows = []
    for row in examine(args.surveys, args.most, args.least, args.exposures, plans):
        rows.append(row)
        print(
            f"{row['seed']:6d} {row['measurements']:12d} {row['exposures']:9d} {row['rate']:7g} | {row['before']:6.3f} "
            f"{row['over']:6.3f} {row['changed']:7d} {row['seconds']:7.0f}",
            flush=True,
        )
    for plan in plans:
        over = np.log([row["over"] for row in rows if row["rate"] == plan.rate])
        if over.size:
            error = over.std(ddof=1) / np.sqrt(over.size) if over.size > 1 else float("nan")
            print(
                f"rate {plan.rate:g}: over the networks as they are {np.exp(over.mean()):.4f} +- {error:.4f} "
                f"(geometric mean of {over.size} surveys), "
                f"best {np.exp(over.min()):.3f}, worst {np.exp(over.max()):.3f}"
            )
    if args.json:
        args.json.write_text(json.dumps({"plans": [asdict(plan) for plan in plans], "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
