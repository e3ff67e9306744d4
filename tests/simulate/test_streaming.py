"""Streaming to Parquet: the same survey as in memory, whole files, bounded memory."""

import resource
from dataclasses import replace
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest
from polars.testing import assert_frame_equal

from calib.simulate import PRESETS, SpecError, SurveySpec, simulate, simulate_to_folder, write_survey

FILES = ["exposures", "measurements", "truth_exposures", "truth_measurements", "truth_stars"]


def test_streamed_is_the_same_as_in_memory(tmp_path: Path) -> None:
    spec = replace(PRESETS["ccds"], n_exposures=64, nights=6, stars_per_exposure=2500.0)
    survey = simulate(spec, 5)
    assert write_survey(spec, 5, tmp_path / "streamed", chunk=20_000) == survey.measurements.height
    survey.write(tmp_path / "memory")
    assert sorted(p.stem for p in (tmp_path / "streamed").iterdir()) == FILES
    assert pq.ParquetFile(tmp_path / "streamed/measurements.parquet").num_row_groups > 1
    both = {}
    for way in ("streamed", "memory"):
        folder = tmp_path / way
        rows = [pl.read_parquet(folder / f"{name}.parquet") for name in ("measurements", "truth_measurements")]
        both[way] = pl.concat(rows, how="horizontal").sort("exposure_id", "star_id", "mag")
        for name in ("exposures", "truth_exposures", "truth_stars"):
            assert_frame_equal(pl.read_parquet(folder / f"{name}.parquet"), getattr(survey, name), check_exact=True)
    assert_frame_equal(both["streamed"], both["memory"], check_exact=True)


def test_presets_go_to_a_folder_with_other_numbers(tmp_path: Path) -> None:
    rows = simulate_to_folder("demo", 1, n_exposures=20, n_stars=2000, out=tmp_path)
    assert pl.read_parquet(tmp_path / "measurements.parquet").height == rows
    assert pl.read_parquet(tmp_path / "exposures.parquet").height == 20
    with pytest.raises(SpecError, match="ordinary"):
        simulate_to_folder("unheard", 1, out=tmp_path)
    with pytest.raises(SpecError, match="chunk"):
        write_survey(PRESETS["demo"], 1, tmp_path, chunk=0)


def test_a_million_measurements_take_little_memory(tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    spec = SurveySpec(n_exposures=900, nights=20, stars_per_exposure=1300.0, visits=20)
    rows = write_survey(spec, 1, tmp_path, chunk=100_000)
    assert rows > 1_000_000
    grown_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown_mb < 300
