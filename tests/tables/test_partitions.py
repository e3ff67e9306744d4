"""Folders called key=value hold columns."""

import polars as pl
import pytest

from calib.tables import InputError, iter_measurements, read_measurements, read_reference
from calib.tables.solution_tables import read_any

from .conftest import survey


def write(folder, frame, by):
    for values, part in frame.group_by(by, maintain_order=True):
        home = folder.joinpath(*(f"{k}={v}" for k, v in zip(by, values, strict=True)))
        home.mkdir(parents=True)
        part.drop(by).write_parquet(home / "0.parquet")


@pytest.fixture
def frame():
    return survey().with_columns(
        band=pl.Series(["g", "r"] * 12), detector=pl.lit(3, pl.Int64), night=60000 + pl.col("exposure_id") % 2
    )


def test_columns_that_the_files_lack(tmp_path, frame):
    by = ["band", "night", "detector", "exposure_id"]
    write(tmp_path / "t", frame, by)
    whole = read_measurements(frame)
    for inputs in (tmp_path / "t", sorted((tmp_path / "t").rglob("*.parquet")), str(tmp_path / "t/*/*/*/*/*.parquet")):
        m = read_measurements(inputs)
        assert m.frame.sort(m.frame.columns).equals(whole.frame.sort(whole.frame.columns))
        assert m.exposures.equals(whole.exposures)
        assert sum(len(b) for b in iter_measurements(inputs, batch_rows=1)) == 24
    mapped = read_measurements(tmp_path / "t", columns={"exposure_id": "night"})
    assert mapped.exposures["exposure_id"].unique().to_list() == [60000, 60001]
    assert not read_measurements(tmp_path / "t", columns={"band": ""}).has("band")


def test_names_of_folders_that_are_no_columns(tmp_path, frame):
    write(tmp_path, frame.with_columns(year=pl.lit(2023)), ["year"])
    assert read_measurements(tmp_path).frame.equals(read_measurements(frame).frame)


def test_a_file_that_has_the_column_too(tmp_path, frame):
    home = tmp_path / "band=g" / "night=60000" / "detector=3"
    home.mkdir(parents=True)
    some = frame.with_columns(band=pl.lit("g"), night=pl.lit(60000.0))
    some.write_parquet(home / "0.parquet")
    assert read_measurements(tmp_path).frame.equals(read_measurements(some).frame)
    for column, said in (
        (frame["band"], "column band is not g in 12 rows, as the folder band=g says; correct one"),
        (frame["night"], "column night is not 60000 in 12 rows, as the folder night=60000 says"),
        (frame["night"].cast(pl.Float64), "column night is not 60000 in 12 rows"),
        (frame["detector"] + pl.Series([1] + [0] * 23), "column detector is not 3 in 1 row,"),
    ):
        some.with_columns(column).write_parquet(home / "0.parquet")
        with pytest.raises(InputError, match=said):
            read_measurements(tmp_path)
        assert len(read_measurements(tmp_path, columns={column.name: ""})) == 24
        assert read_any(home / "0.parquet").equals(some.with_columns(column))


def test_values_as_they_are_written_in_names(tmp_path, frame):
    for name, part in (("a%2Fb", frame[:8]), ("12", frame[8:16]), ("__HIVE_DEFAULT_PARTITION__", frame[16:])):
        for column in ("band", "detector"):
            home = tmp_path / column / f"{column}={name}"
            home.mkdir(parents=True)
            part.drop(column).write_parquet(home / "0.parquet")
    m = read_measurements(tmp_path / "band")
    assert sorted(m.frame["band"].cast(pl.String).unique()) == ["", "12", "a/b"]
    assert m.counts == {"usable": 16, "null_band": 8}
    with pytest.raises(InputError, match="detector is null or empty in 8 rows"):
        read_measurements(tmp_path / "detector")
    some = [tmp_path / "detector" / f"detector={name}" for name in ("12", "a%2Fb")]
    assert read_measurements(some[0]).frame["detector"].to_list() == [12] * 8
    assert read_measurements(some).frame["detector"].to_list() == ["12"] * 8 + ["a/b"] * 8


def test_reference_and_exposures(tmp_path, frame):
    exposures = frame.select("exposure_id", "night").unique().with_columns(airmass=pl.lit(1.2))
    write(tmp_path / "e", exposures, ["night"])
    m = read_measurements(frame.drop("night"), exposures=tmp_path / "e")
    assert m.exposures.equals(read_measurements(frame.drop("night"), exposures=exposures).exposures)
    stars = frame.select("star_id", "band", "mag", "mag_err").unique(["star_id", "band"])
    write(tmp_path / "r", stars, ["band"])
    assert read_reference(tmp_path / "r").frame.equals(read_reference(stars).frame)
