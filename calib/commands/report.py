"""``calib report``."""

from __future__ import annotations

import argparse

from calib.cli import DONE
from calib.report import write_report


def run(args: argparse.Namespace) -> int:
    """Write report.html anew and say where it lies."""
    print(write_report(args.dir))
    return DONE
