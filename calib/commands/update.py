"""``calib update``."""

from __future__ import annotations

import argparse
from pathlib import Path

from calib.commands.options import check_device, check_folder, given_of, keep_inputs
from calib.commands.solve import written
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
        **{name: given.get(name) for name in ("preset", "match_radius", "device", "covariance", "workers")},
    )  # fmt: skip
    tables = update.tables
    keep_inputs(args.out, [*tables["inputs"], *(tables["exposures"] or ()), *(tables["reference"] or ())])
    check_device(update.config.device, "calib update")
    return written(args, tables, update.config, update.solve)
