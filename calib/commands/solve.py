"""``calib solve``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calib.cli import DONE, STRICT
from calib.commands.options import check_device, check_folder, config_of, keep_inputs, progress
from calib.config import Config

if TYPE_CHECKING:
    from calib.pipeline import Progress
    from calib.solution import Solution


def run(args: argparse.Namespace) -> int:
    """Solve, write the folder, print the summary."""
    config = config_of(args)
    check_folder(args.out)
    keep_inputs(args.out, [*args.inputs, args.exposures, args.reference])
    check_device(config.device, "calib solve")
    given = {"inputs": args.inputs, "exposures": args.exposures, "reference": args.reference}

    def solve(shown: Progress) -> Solution:
        from calib.pipeline import calibrate

        return calibrate(args.inputs, args.exposures, args.reference, config, progress=shown)

    return written(args, given, config, solve)


def written(
    args: argparse.Namespace, given: dict[str, Any], config: Config, solve: Callable[[Progress], Solution]
) -> int:
    """Solve and write the folder, unless that is asked to be left as it is, and say what came of it.

    Parameters
    ----------
    given
        Tables that the solution is made of: inputs, exposures and reference.
    solve
        Makes it, and shows its progress.
    """
    if args.resume and (run := finished(args.out, given, config)) is not None:
        if not args.quiet:
            print(f"{args.out} holds this very solution already: same inputs, configuration and version")
        return status(args, run["warnings"])
    from calib.memory import return_at_once

    return_at_once()
    with progress(args.quiet) as shown:
        solution = solve(shown)
        solution.diagnostics["arguments"] = given
        shown.say("writing")
        solution.write(args.out)
    if not args.quiet:
        print("\n".join(summary(solution, args.out)))
    return status(args, solution.diagnostics["warnings"])


def status(args: argparse.Namespace, warnings: list[str]) -> int:
    """Return the exit status of a solve with these warnings, and say why if --strict makes one fatal."""
    if not warnings:
        return DONE
    if not args.strict:
        if args.quiet:
            from calib.outcome import NOTHING_SOLVED

            if NOTHING_SOLVED in warnings:  # as good as an error
                print(f"calib {args.command}: {NOTHING_SOLVED}", file=sys.stderr)
        return DONE
    more = f" (and {len(warnings) - 1} more in run.json)" if len(warnings) > 1 else ""
    print(f"calib {args.command}: --strict: {warnings[0]}{more}", file=sys.stderr)
    return STRICT


def finished(out: str, given: dict[str, Any], config: Config) -> dict[str, Any] | None:
    """Return the run.json of a finished solution of these inputs, by their checksums, or None."""
    from calib.tables.sources import open_sources
    from calib.tables.stage import ASKED_FOR, SOLUTION_FILES
    from calib.version import __version__

    folder = Path(out)
    if not all((folder / name).is_file() for name in (*SOLUTION_FILES, *(ASKED_FOR if config.covariance else ()))):
        return None
    try:
        run: dict[str, Any] = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        then = run["arguments"]
        same = run["version"] == __version__ and config.answers_as(run["config"])
        same &= all((then[key] is None) == (given[key] is None) for key in given)
        checksums = [source["sha256"] for source in run["inputs"]]
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    if not same:
        return None
    tables = [given["inputs"], given["exposures"], given["reference"]]
    now = [source.sha256() for table in tables if table is not None for source in open_sources(table)]
    return run if now == checksums else None


def summary(solution: Any, out: str) -> list[str]:
    """Return what the user reads at the end of a solve."""
    import numpy as np

    run, zeropoints = solution.diagnostics, solution.frames["zeropoints"]
    solved = zeropoints.filter(zeropoints["zeropoint"].is_finite())
    unsolved = zeropoints.height - solved.height
    rows, used = run["counts"]["rows"], run["counts"]["usable"]
    linked = [c for c in run["components"] if c["n_exposures"] > 1]
    anchored = sum(c["anchored"] for c in linked)
    flagged = solved.filter(solved["flag"] != "").height
    lines = [
        f"{'exposures':<12}{solved.height:,} solved"
        + (f", {unsolved:,} not" if unsolved else "")
        + (f", {flagged:,} flagged" if flagged else ""),
        f"{'rows':<12}{used:,} of {rows:,} used"
        + "".join(f", {n:,} {name}" for name, n in _unused(run["counts"]).items()),
        f"{'components':<12}{len(linked):,}"
        + (
            f", {anchored:,} on the scale of reference stars" if anchored else ", with the mean zero-point of each at 0"
        ),
        f"{'method':<12}{run['method']}: {run['method_reason']}",
    ]
    if solved.height:
        errors = 1000.0 * solved["zeropoint_err"].to_numpy()
        median, high = float(np.median(errors)), float(np.quantile(errors, 0.95))
        lines.append(f"{'errors':<12}{median:.2f} mmag in the median, 95 % below {high:.2f}")
    lines += [f"{'warning':<12}{text}" for text in run["warnings"]]
    report = Path(out) / "report.html"
    return [*lines, f"{'report':<12}{report if report.is_file() else Path(out)}"]


def _unused(counts: dict[str, int]) -> dict[str, int]:
    from calib.tables.reasons import UNUSED_REASONS

    return {r.name: counts[r.name] for r in UNUSED_REASONS if r.code and r.name in counts}
