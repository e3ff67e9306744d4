"""The benchmark of large surveys, on small ones."""

from __future__ import annotations

from pathlib import Path

import large
import polars as pl
import pytest


def test_survey_has_the_size_that_was_asked_for(tmp_path: Path) -> None:
    large.simulate(tmp_path, 60, 100.0)
    rows = pl.scan_parquet(tmp_path / "measurements.parquet").select(pl.len()).collect().item()
    assert rows == pytest.approx(60 * 100, rel=0.2)
    exposures = pl.read_parquet(tmp_path / "truth_exposures.parquet")
    assert exposures.height == 60
    assert exposures["group"].n_unique() == 1


def test_a_process_is_measured_by_itself() -> None:
    wall, cpu, peak = large.run("-c", "import time; x = b'1' * (300 << 20); time.sleep(0.2)")
    assert 300 < peak < 500
    assert wall > 0.2
    assert cpu < wall + 0.1


def test_a_process_that_fails_is_said() -> None:
    with pytest.raises(SystemExit, match="exit status 3"):
        large.run("-c", "raise SystemExit(3)")
