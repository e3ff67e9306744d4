"""``calib update``."""

from __future__ import annotations

import argparse
from pathlib import Path

from calib.commands.options import check_device, check_folder, given_of, keep_inputs, progress
from calib.commands.solve import finished, status, summary
from calib.solution import Solution
from calib.tables.errors import InputError
from calib.update import Update


def run(args: argparse.Namespace) -> int:
    """Solve old and new measurements together, write the folder, print the summary."""
    given = given_of(args)
    check_folder(args.out)
    if Path(args.out).resolve() == Path(args.dir).resolve():
        raise InputError(f"{args.out}: is the solution that is added to; give another folder with --out")
    keep_inputs(args.out, [*args.inputs, args.exposures])
    update = Update.of(
        Solution.read(args.dir), args.inputs, args.exposures, columns=given["columns"] or None,
        **{name: given.get(name) for name in ("preset", "match_radius", "device", "covariance")},
    )  # fmt: skip
    tables = update.tables
    keep_inputs(args.out, [*tables["inputs"], *(tables["exposures"] or ()), *(tables["reference"] or ())])
    check_device(update.config.device, "calib update")
    if args.resume and (done := finished(args.out, tables, update.config)) is not None:
        if not args.quiet:
            print(f"{args.out} holds this very solution already: same inputs, configuration and version")
        return status(args, done["warnings"])
    from calib.memory import return_at_once

    return_at_once()
    with progress(args.quiet) as shown:
        solution = update.solve(shown)
        solution.diagnostics["arguments"] = tables
        shown.say("writing")
        solution.write(args.out)
    if not args.quiet:
        print("\n".join(summary(solution, args.out)))
    return status(args, solution.diagnostics["warnings"])
