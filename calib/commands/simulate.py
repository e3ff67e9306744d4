"""``calib simulate``."""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

from calib.cli import DONE
from calib.commands.options import check_folder, progress
from calib.simulate.survey import simulate_to_folder


def run(args: argparse.Namespace) -> int:
    """Simulate beside the folder, and move the files in when all are whole."""
    check_folder(args.out)
    rows = simulated(args.out, args.preset, args.seed, args.exposures, args.stars, args.quiet)
    if not args.quiet:
        print(f"{rows:,} measurements of preset {args.preset}, seed {args.seed}: {args.out}")
    return DONE


def simulated(out: str, preset: str, seed: int, n_exposures: int | None, n_stars: int | None, quiet: bool) -> int:
    """Simulate into a folder, all files or none; returns the number of measurements."""
    final = Path(out).absolute()
    made = [p for p in (final, *final.parents) if not p.exists()]
    final.mkdir(parents=True, exist_ok=True)
    try:
        with (
            tempfile.TemporaryDirectory(prefix=".simulate.", suffix=".part", dir=final) as stage,
            progress(quiet) as shown,
        ):
            rows = simulate_to_folder(
                preset, seed, n_exposures, n_stars, out=stage,
                progress=lambda n: shown.say(f"{n:,} measurements"),
            )  # fmt: skip
            for path in sorted(Path(stage).iterdir()):
                os.replace(path, final / path.name)
    except BaseException:
        for folder in made:
            if not any(folder.iterdir()):
                folder.rmdir()
        raise
    return rows
