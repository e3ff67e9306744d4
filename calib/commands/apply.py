"""``calib apply``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from calib.apply import FORMATS, apply_stream
from calib.cli import DONE
from calib.commands.options import check_file, given_of, progress
from calib.solution import Solution
from calib.tables.errors import InputError


def run(args: argparse.Namespace) -> int:
    """Stream, and say how many rows were calibrated."""
    given = given_of(args)
    if Path(args.out).suffix.lower() not in FORMATS:
        raise InputError(f"{args.out}: cannot be written; give a name that ends in {', '.join(FORMATS)}")
    check_file(args.out)
    if any(Path(args.out).resolve() == Path(name).resolve() for name in args.inputs):
        raise InputError(f"{args.out}: is an input; give another file with --out")
    solution = Solution.read(args.dir)
    with progress(args.quiet) as shown:
        applied = apply_stream(
            solution, args.inputs, args.out, given["columns"] or None, args.exposures,
            preset=given.get("preset"), match_radius=given.get("match_radius"),
            progress=lambda rows: shown.say(f"{rows:,} rows"),
        )  # fmt: skip
    if args.quiet:
        return DONE
    print(f"{applied.calibrated:,} of {applied.rows:,} rows calibrated: {args.out}")
    for n, what in (
        (applied.unknown_exposure, "of exposures that are not in the solution: NaN"),
        (applied.unsolved_exposure, "of exposures without a zero-point: NaN"),
        (applied.unusable, "without a magnitude: NaN"),
        (applied.without_error, "calibrated, but without an error of their own: calibrated_mag_err is NaN"),
    ):
        if n:
            print(f"{n:,} rows {what}")
    for warning in applied.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    return DONE
