"""Exposure tables: joined, counted where they lack something, refused where they are ambiguous."""

import astropy.units as u
import numpy as np
import polars as pl
import pytest
from astropy.table import QTable

from calib.tables import InputError, iter_measurements, read_exposures, read_measurements
from calib.tables.nights import day_phase, derive_nights


def conditions(table, **more):
    ids = sorted(set(table["exposure_id"]))
    return pl.DataFrame(
        {"exposure_id": ids, "mjd": 60000.0 + np.arange(4) / 100, "airmass": [1.0, 1.2, 1.4, 1.6], **more}
    )


def test_from_the_measurement_table(table):
    m = read_measurements(table.join(conditions(table), on="exposure_id"))
    assert m.exposures["airmass"].to_list() == [1.0, 1.2, 1.4, 1.6]
    assert m.exposures["seeing"].null_count() == 4
    assert m.exposures["night"].dtype == pl.Int64
    assert m.exposures["night"].n_unique() == 1
    assert m.has("airmass")
    assert "airmass" not in m.frame.columns
    assert m.warnings == []


def test_varying_within_an_exposure(table):
    m = read_measurements(table.with_columns(airmass=1.0 + pl.col("mag") / 100))
    assert m.warnings == ["airmass varies within 4 exposures; the mean was taken"]
    expected = table.group_by("exposure_id").agg(pl.col("mag").mean() / 100 + 1.0).sort("exposure_id")
    np.testing.assert_allclose(m.exposures["airmass"], expected["mag"])


def test_from_its_own_table(tmp_path, table):
    own = conditions(table, seeing=[2.0, 3.0, 4.0, 5.0]).sample(fraction=1, shuffle=True, seed=3)
    q = QTable({c: own[c].to_numpy() for c in own.columns})
    q["seeing"] = q["seeing"] * u.arcsec
    q["seeing"] = q["seeing"].to(u.deg)
    q.write(tmp_path / "e.ecsv")
    own.write_csv(tmp_path / "e.csv")
    for exposures in (tmp_path / "e.ecsv", own, tmp_path / "e.csv"):
        m = read_measurements(table, exposures=exposures)
        assert m.exposures["airmass"].to_list() == [1.0, 1.2, 1.4, 1.6]
        np.testing.assert_allclose(m.exposures["seeing"], [2, 3, 4, 5])
        assert m.warnings == []
        assert len(m.inputs) == 2
    assert read_exposures(own, {"sky": "seeing"}).columns == ["exposure_id", "mjd", "airmass", "seeing", "sky"]


def test_lacking_spare_repeated_and_of_another_type(table):
    own = conditions(table)
    m = read_measurements(
        table, exposures=own.tail(3).vstack(own.tail(1).with_columns(exposure_id=pl.lit(1, pl.Int64)))
    )
    assert m.exposures.height == 4
    assert m.exposures["airmass"].to_list() == [None, 1.2, 1.4, 1.6]
    assert "1 exposure of 4 measured are not in it (first: 7000000000)" in m.warnings[0]
    assert "1 exposure without measurements" in m.warnings[1]
    with pytest.raises(InputError, match=r"2 rows share exposure_id with another \(first: 7000000003\)"):
        read_measurements(table, exposures=own.vstack(own.tail(1)))
    with pytest.raises(InputError, match="exposure_id is String and in the measurements Int64"):
        read_measurements(table, exposures=own.with_columns(pl.col("exposure_id").cast(pl.String)))
    with pytest.raises(InputError, match="no column exposure_id"):
        read_measurements(table, exposures=own.drop("exposure_id"))
    with pytest.raises(InputError, match="has no rows"):
        read_measurements(table, exposures=own.head(0))


def test_by_band(table):
    two = pl.concat(
        [conditions(table, band=["g"] * 4), conditions(table, band=["r"] * 4).with_columns(pl.col("airmass") + 1)]
    )
    m = read_measurements(table.with_columns(band=pl.Series(["g", "r"] * 12)), exposures=two)
    assert m.exposures["band"].to_list() == ["g", "r"] * 4
    np.testing.assert_allclose(m.exposures["airmass"], [1, 2, 1.2, 2.2, 1.4, 2.4, 1.6, 2.6])
    with pytest.raises(InputError, match="has several bands in 4 rows and the measurements have no column band"):
        read_measurements(table, exposures=two)
    with pytest.raises(InputError, match="2 rows share exposure_id and band"):
        read_measurements(table, exposures=two.vstack(two.tail(1)))


def test_counts_without_band_and_exposures_of_several(table):
    two = pl.concat([conditions(table, band=[b] * 4, exptime=[30.0] * 4) for b in "gr"])
    counts = QTable({c: table[c].to_numpy() for c in ("star_id", "exposure_id")})
    counts["flux"], counts["flux_err"] = np.full(24, 1000.0) * u.adu, np.full(24, 10.0) * u.adu
    with pytest.raises(InputError, match="has several bands in 4 rows and the measurements have no column band"):
        read_measurements(counts, exposures=two)


def test_band_of_the_exposure_is_that_of_its_measurements(table):
    own = conditions(table, band=["g", "g", "r", "r"])
    m = read_measurements(table, exposures=own)
    assert m.frame["band"].to_list() == ["g"] * 12 + ["r"] * 12
    assert m.has("band")
    (batch,) = iter_measurements(table, exposures=own)
    assert batch.frame.equals(m.frame)


def test_impossible_values_and_julian_dates(table):
    own = conditions(table, exptime=[30.0, -1.0, 30.0, 30.0]).with_columns(
        pl.col("mjd") + 2400000.5, airmass=pl.Series([-9999.0, 1.2, 1.4, 1.6])
    )
    m = read_measurements(table, exposures=own)
    np.testing.assert_allclose(m.exposures["mjd"], 60000.0 + np.arange(4) / 100, atol=1e-6)
    assert m.exposures["airmass"].null_count() == 1
    assert m.exposures["exptime"].null_count() == 1
    assert len(m.warnings) == 3
    assert "Julian Dates" in m.warnings[0]


def test_mapping_belongs_to_whichever_table_has_it(table):
    own = conditions(table).rename({"airmass": "X"})
    m = read_measurements(table.rename({"mag": "m"}), columns={"mag": "m", "airmass": "X"}, exposures=own)
    assert m.exposures["airmass"].to_list() == [1.0, 1.2, 1.4, 1.6]


def test_centres_wrap_around(table):
    ra = np.where(np.arange(24) % 2 == 0, 359.0, 1.0)
    m = read_measurements(table.with_columns(ra=pl.Series(ra), dec=pl.lit(0.0)))
    np.testing.assert_allclose(np.minimum(m.exposures["ra"], 360 - m.exposures["ra"]), 0, atol=1e-9)
    assert not m.has("sky")


def test_nights_given(table):
    dates = table.with_columns(night=pl.lit("2023-02-25"))
    assert set(read_measurements(dates).exposures["night"]) == {60000}
    assert set(read_measurements(table.with_columns(night=pl.lit(17))).exposures["night"]) == {17}
    with pytest.raises(InputError, match="night is not a whole number in 24 rows"):
        read_measurements(table.with_columns(night=pl.lit(1.5)))


@pytest.mark.parametrize("longitude", [-155.0, -70.0, -18.0, 20.0, 149.0, 174.0])
def test_nights_need_no_longitude(longitude):
    rng = np.random.default_rng(4)
    night = rng.integers(0, 30, 400)
    local_midnight = 60000 + night - longitude / 360
    mjd = local_midnight + rng.uniform(-0.2, 0.2, 400)
    found = derive_nights(mjd)
    assert np.unique(found - night).size == 1
    few = mjd[night < 3]
    np.testing.assert_array_equal(derive_nights(few), found[night < 3])


def test_nights_without_days():
    assert day_phase(np.linspace(0, 3, 500)) == 0.5
    assert day_phase(np.array([np.nan])) == 0.5
    assert np.isnan(derive_nights(np.array([np.nan, 60000.3]))[0])


def test_a_condition_that_is_never_known(table):
    m = read_measurements(table.with_columns(sky=pl.lit(None, pl.Float64), seeing=pl.lit(-1.0), airmass=pl.lit(1.5)))
    assert m.exposures["sky"].null_count() == m.exposures["seeing"].null_count() == 4
    assert not m.has("sky")
    assert m.has("airmass")
    assert len(m.warnings) == 1
