"""What of a step of training is the networks', and what of that mixed precision would save.

    python benchmarks/training_step.py [--device cpu|cuda] [--batch 2] [--exposures 300]

Steps of the first shipped network on surveys that are alike, each solved by the robust method first: seconds of a whole
step, of the network alone (all that mixed precision touches: the exact solve and its gradient are in double precision),
and of the network under `torch.autocast`; and how far the logarithms of weights are from those in single precision.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import torch

from calib.learn.ensemble import shipped
from calib.learn.losses import Lesson
from calib.learn.samples import solved_sample
from calib.learn.train import Plan, Pupil
from calib.simulate import PRESETS, simulate

STEPS = 6


def seconds(job: Callable[[], Any], device: str) -> float:
    """Of the fastest of some runs."""
    best = float("inf")
    for _ in range(STEPS):
        start = time.perf_counter()
        job()
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--exposures", type=int, default=300)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    spec = replace(PRESETS["ordinary"], n_exposures=args.exposures)
    samples = [solved_sample(simulate(spec, seed), seed) for seed in range(201, 201 + args.batch)]
    lessons = [Lesson.of(sample).to(args.device) for sample in samples if sample is not None]
    plan = Plan(surveys=8, steps=1000, batch=args.batch)
    pupil = Pupil(plan, 0, lessons, start=shipped().members[0], device=args.device)

    def network(mixed: bool) -> list[torch.Tensor]:
        """Forward and backward of the networks of a step; their weights."""
        out = []
        for lesson in lessons:
            with torch.autocast(args.device, torch.bfloat16, enabled=mixed):
                said = pupil.network(lesson.data)
            (said.weight.float() ** 2).mean().backward()
            out.append(said.weight.detach().float())
        return out

    whole = seconds(pupil.learn, args.device)
    times = {mixed: seconds(lambda mixed=mixed: network(mixed), args.device) for mixed in (False, True)}
    pupil.network.eval()
    single, mixed = network(False), network(True)
    apart = max(float((a - b).abs().max()) for a, b in zip(single, mixed, strict=True))
    name = torch.cuda.get_device_name() if args.device == "cuda" else platform.processor() or platform.machine()
    n = sum(lesson.data["measurement"].x.shape[0] for lesson in lessons)
    print(
        f"{name}, torch {torch.__version__}, {args.threads} threads; {len(lessons)} surveys of {n:,} measurements\n"
        f"a step {whole:.3f} s, of which the network {times[False]:.3f} s; in mixed precision {times[True]:.3f} s, "
        f"its logarithms of weights at most {apart:.1e} away"
    )


if __name__ == "__main__":
    main()
