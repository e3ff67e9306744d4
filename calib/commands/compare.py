"""``calib compare``."""

from __future__ import annotations

import argparse

from calib.cli import DONE
from calib.commands.options import check_file
from calib.compare import compare, read_side, text, write_json


def run(args: argparse.Namespace) -> int:
    """Print the comparison, and write it where asked."""
    if args.out is not None:
        check_file(args.out)
    comparison = compare(read_side(args.a), read_side(args.b))
    print(text(comparison))
    if args.out is not None:
        write_json(comparison, args.out)
    return DONE
