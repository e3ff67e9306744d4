"""The command ``calib``: arguments in, exit status out. What commands do is in `calib.commands`, imported when run."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from calib.commands.environment import refuse, set_defaults, variable
from calib.version import __version__

DONE, FAILED, WRONG_INPUT, STRICT, INTERRUPTED = 0, 1, 2, 3, 130
"""Exit status: done; the program failed; input or arguments are wrong; solved, but --strict; interrupted."""

_EPILOG = """\
exit status: 0 done; 1 the program failed; 2 the input or the arguments are wrong; 3 solved, but with a warning that
--strict makes fatal. Every option can be set by an environment variable, CALIB_ and its name: CALIB_METHOD=wls,
CALIB_QUIET=1. The command line comes before the file given with --config, and that before the environment.
CALIB_DEBUG=1 shows the traceback of a failure."""


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that says what is wrong in one line."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_abbrev=False, **kwargs)

    def error(self, message: str) -> NoReturn:
        """Print the line and leave with status 2."""
        self.exit(WRONG_INPUT, f"{self.prog}: {' '.join(message.split())}; see {self.prog} --help\n")


def parser() -> Parser:
    """Return the parser of all commands."""
    top = Parser(
        prog="calib",
        description="Relative photometric calibration of astronomical surveys: repeated star measurements in, "
        "zero-points with errors out.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"calib {__version__}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)

    solve = _command(commands, "solve", "solve for the zero-point of every exposure")
    _inputs(solve)
    solve.add_argument("--out", metavar="DIR", required=True, help="output folder")
    _tables(solve)
    _config(solve)
    solve.add_argument("--reference", metavar="F", help="reference stars: star_id, or ra and dec; band, mag, mag_err")
    solve.add_argument(
        "--method", choices=("auto", "learned", "robust", "wls"), help="auto (default): what held-out stars prefer"
    )
    solve.add_argument("--no-adapt", action="store_true", help="use the learned method as trained, on any survey")
    _written(solve)

    check = _command(commands, "check", "validate and describe measurements; solves nothing")
    _inputs(check)
    _tables(check)
    _config(check)
    check.add_argument("--json", action="store_true", help="print JSON")

    apply = _command(commands, "apply", "put more measurements of solved exposures on the calibrated scale, streaming")
    apply.add_argument("dir", metavar="DIR", help="output folder of calib solve")
    _inputs(apply)
    apply.add_argument("--out", metavar="FILE", required=True, help="ends in .parquet, .csv, .fits or .ecsv")
    _tables(apply)
    _config(apply)
    _quiet(apply)

    update = _command(commands, "update", "add exposures, as of a new night, to a solution, starting from it")
    update.add_argument("dir", metavar="DIR", help="output folder of calib solve or calib update")
    _inputs(update)
    update.add_argument("--out", metavar="DIR2", required=True, help="output folder, another than DIR")
    _tables(update)
    _written(update)

    compare = _command(commands, "compare", "compare two solutions, or a solution and a truth table")
    compare.add_argument("a", metavar="DIR_OR_TABLE", help="solution folder, or table of exposure_id and zeropoint")
    compare.add_argument("b", metavar="DIR_OR_TABLE", help="the same")
    compare.add_argument("--out", metavar="FILE", help="write the comparison as JSON")

    simulate = _command(commands, "simulate", "simulate a survey: measurements, exposures and truth tables")
    simulate.add_argument("--out", metavar="DIR", required=True, help="output folder")
    simulate.add_argument("--preset", metavar="NAME", default="ordinary", help="kind of survey (default: ordinary)")
    simulate.add_argument("--seed", metavar="N", type=_whole, default=1, help="same seed, same survey (default: 1)")
    simulate.add_argument("--exposures", metavar="N", type=_whole, help="number of exposures")
    simulate.add_argument("--stars", metavar="N", type=_whole, help="number of stars")
    _quiet(simulate)

    train = _command(commands, "train", "train the networks of the learned method on simulated surveys")
    train.add_argument("--out", metavar="F.safetensors", required=True, help="weights")
    train.add_argument("--surveys", metavar="N", type=_whole, default=300, help="simulated surveys (default: 300)")
    train.add_argument("--steps", metavar="N", type=_whole, default=400, help="steps of each network (default: 400)")
    train.add_argument("--members", metavar="N", type=_whole, default=5, help="networks (default: 5)")
    train.add_argument("--rate", metavar="R", type=float, default=0.0, help="largest learning rate (default: found)")
    train.add_argument("--seed", metavar="N", type=_whole, default=1, help="of everything (default: 1)")
    train.add_argument("--hours", metavar="H", type=float, help="stop after this time, to go on with --resume")
    train.add_argument("--start", metavar="F.safetensors", help="weights to fine-tune (default: fresh ones)")
    train.add_argument("--device", choices=("auto", "cpu", "cuda"), default="cpu", help="of networks (default: cpu)")
    train.add_argument("--work", metavar="DIR", help="surveys and checkpoints (default: OUT.work)")
    train.add_argument("--resume", action="store_true", help="go on with the run in the working folder")
    _quiet(train)

    demo = _command(commands, "demo", "solve a small simulated survey and print the scores")
    demo.add_argument("--out", metavar="DIR", default="calib-demo", help="output folder (default: calib-demo)")
    _quiet(demo)

    report = _command(commands, "report", "write report.html anew from the files of a solution")
    report.add_argument("dir", metavar="DIR", help="output folder of calib solve")
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status."""
    try:
        top = parser()
        _environment(top)
        args = top.parse_args(argv)
    except SystemExit as leave:
        return leave.code if isinstance(leave.code, int) else WRONG_INPUT
    # more threads of BLAS fight each other and gain nothing here; whoever sets these keeps their choice
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    if "workers" in args:
        workers = variable("workers") or "" if args.workers is None else str(args.workers)
        if workers.isdecimal() and int(workers):
            os.environ.setdefault("POLARS_MAX_THREADS", workers)  # read when it is imported
    _stop_on_sigterm()
    try:
        refuse(args)
        status = int(importlib.import_module(f"calib.commands.{args.command}").run(args))
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        print(f"calib {args.command}: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except Exception as error:
        return _failed(args.command, error)


def _failed(command: str, error: Exception) -> int:
    """Say in one line what went wrong, and return the exit status."""
    if os.environ.get("CALIB_DEBUG", "") not in {"", "0"}:
        import traceback

        traceback.print_exc()
    from calib.config import ConfigError
    from calib.simulate.spec import SpecError
    from calib.solution import SolutionError
    from calib.tables.errors import InputError

    line = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, InputError | ConfigError | SolutionError | SpecError):
        print(f"calib {command}: {line}", file=sys.stderr)
        return WRONG_INPUT
    if isinstance(error, MemoryError):
        line = f"not enough memory ({line})"
    print(
        f"calib {command}: failed: {type(error).__name__}: {line}; set CALIB_DEBUG=1 for the traceback", file=sys.stderr
    )
    return FAILED


def _command(commands: Any, name: str, what: str) -> Parser:
    made: Parser = commands.add_parser(name, help=what, description=what[0].upper() + what[1:] + ".", epilog=_EPILOG)
    return made


def _inputs(command: Parser) -> None:
    command.add_argument(
        "inputs",
        metavar="INPUT",
        nargs="+",
        help="measurements: Parquet (file, folder, glob), FITS, ECSV, VOTable, CSV",
    )


def _tables(command: Parser) -> None:
    command.add_argument("--exposures", metavar="F", help="table of exposures: mjd, airmass, seeing, ...")
    command.add_argument(
        "--columns",
        metavar="A=B,...",
        action="append",
        help="the column called A here is B in the table; A= leaves it out",
    )
    command.add_argument(
        "--preset",
        choices=("ztf", "lsst", "des", "ps1", "gaia"),
        help="columns have the names of this survey's table, but for those in --columns",
    )
    command.add_argument(
        "--match-radius",
        metavar="R",
        type=float,
        help="stars without star_id are told by position within R arcsec (default: 1)",
    )

def _config(command: Parser) -> None:
    command.add_argument("--config", metavar="F.toml", help="configuration file")


def _written(command: Parser) -> None:
    command.add_argument("--device", choices=("auto", "cpu", "cuda"), help="where networks run (default: auto)")
    command.add_argument(
        "--workers", metavar="N", type=_whole, help="threads; the answer is the same on any number (default: all CPUs)"
    )
    command.add_argument("--covariance", action="store_true", help="write the covariance between all zero-points too")
    command.add_argument("--resume", action="store_true", help="do nothing if DIR holds this very solution already")
    command.add_argument("--strict", action="store_true", help="exit status 3 if the solution has any warning")
    _quiet(command)


def _quiet(command: Parser) -> None:
    command.add_argument("--quiet", action="store_true", help="print nothing but errors")


def _whole(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from None
    if number < 0:
        raise argparse.ArgumentTypeError(f"{number} is negative; give a whole number")
    return number


def _environment(top: Parser) -> None:
    """Make CALIB_* variables the defaults of options, but for those that a configuration file may set."""
    for action in top._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                set_defaults(command)


def _stop_on_sigterm() -> None:
    """Let a batch system's SIGTERM unwind the stack, so that no temporary file is left behind."""
    import signal
    import threading

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
