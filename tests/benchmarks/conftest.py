"""Benchmarks are scripts beside the packages; their folder is put on the path as `python benchmarks/...` would."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
