"""``calib report``."""

from __future__ import annotations

import argparse

import calib.report
from calib.cli import DONE


def run(args: argparse.Namespace) -> int:
    """Write report.html anew and say where it lies."""
    print(calib.report.write_report(args.dir))
    return DONE
