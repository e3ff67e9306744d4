"""``calib train``."""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

from calib.cli import DONE, FAILED
from calib.commands.options import check_device, check_file, progress
from calib.config import ConfigError


def run(args: argparse.Namespace) -> int:
    """Train, or go on with it, and write the weights."""
    check_file(args.out)
    check_device(args.device, "calib train")
    folder = Path(args.work or f"{args.out}.work")
    if folder.exists() and not args.resume and any(folder.glob("*.checkpoint")):
        raise ConfigError(f"{folder}: holds a training run; go on with it by --resume, or give another --work")
    from calib.learn.ensemble import Ensemble, WeightsError, chosen
    from calib.learn.train import OutOfTime, Plan, train

    try:
        plan = Plan(args.surveys, args.steps, members=args.members, rate=args.rate, seed=args.seed)
        start = None if args.start is None else Ensemble.load(args.start)
    except (ValueError, WeightsError) as error:
        raise ConfigError(str(error)) from None
    with progress(args.quiet) as shown:
        try:
            ensemble = train(
                plan, folder, hours=args.hours or math.inf, start=start, device=chosen(args.device), say=shown.say
            )
        except OutOfTime as error:
            shown.close()
            print(f"calib train: time is over: {error}; the same command with --resume goes on", file=sys.stderr)
            return FAILED
    ensemble.save(args.out)
    if not args.quiet:
        card, scores = ensemble.card, ensemble.card["scores"]
        print(
            f"{args.out}: {plan.members} networks, {card['hours']} hours; on {card['held_out']} surveys held out, "
            f"error over robust {scores['ratio']:.3f} (median {scores['median_ratio']:.3f}, worst "
            f"{scores['worst_ratio']:.3f}), temperature {ensemble.temperature:.2f}"
        )
    return DONE
