"""Whole numbers in CSV files are text where ids are text elsewhere; those of other formats are not."""

import polars as pl
import pytest

from calib import Config, calibrate
from calib.apply import apply_frames
from calib.tables import InputError, iter_measurements, read_measurements, read_reference

from .conftest import survey


@pytest.fixture
def mixed():
    """Stars 100 to 105, every other one with a letter."""
    star = pl.col("star_id") - pl.col("star_id").min() + 100
    return survey().with_columns(
        star_id=pl.when(star % 2 == 0).then(star.cast(pl.String)).otherwise(pl.format("{}A", star)),
        exposure_id=pl.col("exposure_id") - 7_000_000_000,
    )


@pytest.fixture
def plain(mixed):
    """Those without."""
    return mixed.filter(~pl.col("star_id").str.contains("A"))


@pytest.mark.parametrize("first", [0, 1])
def test_of_several_csv_files(tmp_path, mixed, plain, first):
    lettered = mixed.filter(pl.col("star_id").str.contains("A"))
    parts = [plain, lettered][:: 1 - 2 * first]
    paths = [tmp_path / "a.csv", tmp_path / "b.csv"]
    for part, path in zip(parts, paths, strict=True):
        part.write_csv(path)
    m = read_measurements(paths)
    assert m.frame["star_id"].to_list() == pl.concat(parts)["star_id"].to_list()
    assert m.frame["exposure_id"].dtype == pl.Int64
    assert pl.concat([b.frame["star_id"] for b in iter_measurements(paths, batch_rows=5)]).equals(m.frame["star_id"])
    assert read_measurements(tmp_path / f"{'ab'[first]}.csv").frame["star_id"].dtype == pl.Int64
    (tmp_path / "none.csv").write_text("star_id,exposure_id,mag,mag_err\n")
    whole = read_measurements([tmp_path / f"{'ab'[first]}.csv", tmp_path / "none.csv"])
    assert whole.frame["star_id"].dtype == pl.Int64


def test_beside_other_formats(tmp_path, mixed, plain):
    plain.write_csv(tmp_path / "a.csv")
    mixed.write_parquet(tmp_path / "b.parquet")
    assert read_measurements([tmp_path / "a.csv", tmp_path / "b.parquet"]).frame["star_id"].dtype == pl.String
    plain.with_columns(pl.col("star_id").cast(pl.Int64)).write_parquet(tmp_path / "c.parquet")
    mixed.write_csv(tmp_path / "d.csv")
    with pytest.raises(InputError, match="star_id is String and in .*c.parquet Int64; give one type"):
        read_measurements([tmp_path / "c.parquet", tmp_path / "d.csv"])


def test_of_exposures(tmp_path, plain):
    other = pl.DataFrame({"exposure_id": [0, 1, 2, 3], "airmass": [1.0, 1.1, 1.2, 1.3]})
    text = other.with_columns(pl.col("exposure_id").cast(pl.String))
    other.write_csv(tmp_path / "e.csv")
    named = plain.with_columns(pl.col("exposure_id").cast(pl.String))
    m = read_measurements(named, exposures=tmp_path / "e.csv")
    assert m.exposures["airmass"].to_list() == [1.0, 1.1, 1.2, 1.3]
    plain.write_csv(tmp_path / "m.csv")
    m = read_measurements(tmp_path / "m.csv", exposures=text)
    assert m.exposures["exposure_id"].to_list() == ["0", "1", "2", "3"]
    assert m.exposures["airmass"].null_count() == 0
    with pytest.raises(InputError, match="exposure_id is Int64 and in the measurements String"):
        read_measurements(named, exposures=other)
    text.with_columns(pl.format("{}b", "exposure_id").alias("exposure_id")).write_csv(tmp_path / "f.csv")
    m = read_measurements(tmp_path / "m.csv", exposures=[tmp_path / "e.csv", tmp_path / "f.csv"])
    assert m.exposures["exposure_id"].dtype == pl.String


def test_of_reference_stars_and_more_measurements(tmp_path, mixed, plain):
    config = Config(method="wls", score=False, extinction="off")
    mixed.write_csv(tmp_path / "m.csv")
    stars = plain.select("star_id", mag=pl.lit(20.0), mag_err=pl.lit(0.01)).unique("star_id")
    stars.write_csv(tmp_path / "r.csv")
    solution = calibrate(tmp_path / "m.csv", None, tmp_path / "r.csv", config)
    assert solution.frames["zeropoints"]["anchored"].all()
    with pytest.raises(InputError, match="star_id is Int64 and in the measurements String"):
        calibrate(tmp_path / "m.csv", None, stars.with_columns(pl.col("star_id").cast(pl.Int64)), config)
    plain.write_csv(tmp_path / "more.csv")
    more = pl.concat(list(apply_frames(solution, tmp_path / "more.csv")))
    assert more["star_id"].equals(plain["star_id"])
    assert more["residual"].is_finite().all()
    stars.with_columns(pl.col("star_id").replace("100", "x")).write_csv(tmp_path / "r.csv")
    anchored = calibrate(tmp_path / "more.csv", None, tmp_path / "r.csv", config)
    assert anchored.frames["stars"]["star_id"].dtype == pl.String
    assert anchored.frames["zeropoints"]["anchored"].all()


def test_reference_files_of_two_types(tmp_path, plain):
    stars = plain.select("star_id", "mag", "mag_err").unique("star_id")
    stars.write_parquet(tmp_path / "a.parquet")
    stars.with_columns(pl.col("star_id").cast(pl.Int64)).write_parquet(tmp_path / "b.parquet")
    with pytest.raises(InputError, match="b.parquet: star_id is Int64 and in .*a.parquet String; give one type"):
        read_reference(tmp_path)


def test_leading_zeros_stay(tmp_path, plain):
    plain.with_columns(pl.format("00{}", "star_id").alias("star_id")).write_csv(tmp_path / "a.csv")
    plain.write_csv(tmp_path / "b.csv")
    m = read_measurements([tmp_path / "a.csv", tmp_path / "b.csv"])
    assert m.frame["star_id"].unique().sort().to_list() == ["00100", "00102", "00104", "100", "102", "104"]
