"""Rows that cannot be used are counted; tables that cannot be used are refused with one line."""

import subprocess
import sys

import astropy.units as u
import numpy as np
import polars as pl
import pytest
from astropy.table import QTable
from hypothesis import given, settings
from hypothesis import strategies as st

from calib.tables import UNUSED_REASONS, InputError, iter_measurements, read_measurements

from .conftest import survey


def test_reason_of_each_row():
    inf, nan = float("inf"), float("nan")
    rows = [
        (1, 20.0, 0.01, 0, "r", "usable"),
        (2, 20.0, 0.01, 1, "r", "flagged"),
        (3, 20.0, 0.01, None, "r", "null_flag"),
        (4, None, 0.01, 0, "r", "null_mag"),
        (5, nan, 0.01, 0, "r", "non_finite_mag"),
        (6, inf, 0.01, 0, "r", "non_finite_mag"),
        (7, 99.0, 0.01, 0, "r", "implausible_mag"),
        (8, -9999.0, 0.01, 0, "r", "implausible_mag"),
        (9, 20.0, None, 0, "r", "null_error"),
        (10, 20.0, nan, 0, "r", "non_finite_error"),
        (11, 20.0, inf, 0, "r", "non_finite_error"),
        (12, 20.0, 0.0, 0, "r", "nonpositive_error"),
        (13, 20.0, -0.1, 0, "r", "nonpositive_error"),
        (14, 20.0, 0.01, 0, None, "null_band"),
        (1, 20.0, 0.01, 0, "r", "duplicate"),
        (1, 20.0, 0.01, 0, "r", "duplicate"),
        (1, 20.1, 0.01, 0, "r", "usable"),
        (2, 20.0, 0.01, 0, "r", "usable"),
    ]
    frame = pl.DataFrame(rows, schema=["star_id", "mag", "mag_err", "flag", "band", "why"], orient="row")
    m = read_measurements(frame.with_columns(exposure_id=pl.lit(5)))
    names = [UNUSED_REASONS[r].name for r in m.reason]
    assert names == frame["why"].to_list()
    assert m.counts == {r.name: names.count(r.name) for r in UNUSED_REASONS if r.name in names}
    assert sum(m.counts.values()) == len(m) == len(rows)
    assert m.usable.tolist() == [n == "usable" for n in names]
    assert m.frame.null_count().row(0) == (0,) * m.frame.width
    assert m.frame["flag"].dtype == pl.Boolean
    missing = ("null_mag", "non_finite_mag", "implausible_mag")
    assert m.frame["mag"].is_nan().to_list() == [n in missing for n in names]
    assert m.frame["mag_err"].is_nan().to_list() == [n.endswith("_error") for n in names]


def test_what_stands_for_missing_is_missing_in_flagged_rows_too(table):
    bad = pl.when(pl.int_range(pl.len()) < 3)
    m = read_measurements(table.with_columns(mag=bad.then(99.0).otherwise("mag"), mag_err=bad.then(-1.0), flag=True))
    assert m.counts == {"usable": 0, "flagged": 24}
    assert m.frame["mag"].is_nan().sum() == 3
    assert m.frame["mag_err"].is_nan().all()


def test_flux_units_agree_with_magnitudes(table):
    nanojansky = 10 ** ((31.4 - table["mag"].to_numpy()) / 2.5)
    error = table["mag_err"].to_numpy() * nanojansky / (2.5 / np.log(10))
    plain = table.select("star_id", "exposure_id").with_columns(flux=nanojansky, flux_err=error)
    for factor, unit in ((1, u.nJy), (1e-3, u.uJy), (1e-9, u.Jy), (1, None)):
        q = QTable({c: plain[c].to_numpy() for c in ("star_id", "exposure_id")})
        q["flux"] = nanojansky * factor if unit is None else nanojansky * factor * unit
        q["flux_err"] = error if unit is None else error * u.nJy
        m = read_measurements(q)
        np.testing.assert_allclose(m.frame["mag"], table["mag"], atol=1e-9)
        np.testing.assert_allclose(m.frame["mag_err"], table["mag_err"], rtol=1e-5)
        assert m.system == "AB"
    q["flux"], q["flux_err"] = (a / 3630.780547701 * u.Unit("nmgy") for a in (nanojansky, error))
    np.testing.assert_allclose(read_measurements(q).frame["mag"], table["mag"], atol=1e-9)
    q.remove_columns(["flux", "flux_err"])
    q["mag"], q["mag_err"] = table["mag"].to_numpy() * u.ABmag, table["mag_err"].to_numpy() * 1000 * u.mmag
    m = read_measurements(q)
    np.testing.assert_allclose(m.frame["mag"], table["mag"])
    np.testing.assert_allclose(m.frame["mag_err"], table["mag_err"], rtol=1e-6)
    assert m.system == "AB"


def test_fluxes_that_are_not_positive(table):
    frame = table.select("star_id", "exposure_id").with_columns(
        flux=pl.Series([0.0, -5.0] + [10.0] * 22), flux_err=pl.lit(1.0)
    )
    m = read_measurements(frame)
    assert m.counts == {"usable": 22, "nonpositive_flux": 2}
    assert m.frame["mag"][:2].is_nan().all()


def test_counts_are_divided_by_the_exposure_time(table):
    q = QTable({c: table[c].to_numpy() for c in ("star_id", "exposure_id")})
    q["flux"], q["flux_err"] = np.full(24, 1000.0) * u.adu, np.full(24, 10.0) * u.adu
    without = read_measurements(q)
    assert without.system == "instrumental"
    np.testing.assert_allclose(without.frame["mag"], -7.5)
    assert without.undivided
    assert "no exposure time is known" in without.warnings[0]
    ids = sorted(set(table["exposure_id"]))
    times = pl.DataFrame({"exposure_id": ids[:3], "exptime": [10.0, 100.0, -1.0]})
    m = read_measurements(q, exposures=times)
    expected = {ids[0]: -5.0, ids[1]: -2.5, ids[2]: np.nan, ids[3]: np.nan}
    np.testing.assert_allclose(m.frame["mag"], [expected[e] for e in table["exposure_id"]])
    assert m.counts == {"usable": 12, "no_exptime": 12}
    assert not m.undivided
    q["exptime"] = np.full(24, 1.0) * u.min
    np.testing.assert_allclose(read_measurements(q).frame["mag"], -7.5 + 2.5 * np.log10(60))
    q["flux"], q["flux_err"] = np.full(24, 1000.0) * u.electron / u.s, np.full(24, 10.0) * u.electron / u.s
    np.testing.assert_allclose(read_measurements(q).frame["mag"], -7.5)


def test_counts_of_whole_exposures_are_no_rates(table):
    q = QTable({c: table[c].to_numpy() for c in ("star_id", "exposure_id")})
    q["flux"], q["flux_err"] = np.full(24, 1000.0) * u.adu, np.full(24, 10.0) * u.adu
    rate = q.copy()
    rate["flux"], rate["flux_err"] = q["flux"] / u.s, q["flux_err"] / u.s
    with pytest.raises(InputError, match="magnitudes are instrumental and in .* of counts of whole exposures"):
        read_measurements([q, rate])
    times = table.select(pl.col("exposure_id").unique()).with_columns(exptime=pl.lit(10.0))
    assert read_measurements([q, rate], exposures=times).counts == {"usable": 48}


@pytest.mark.parametrize(
    ("column", "unit", "text"),
    [
        ("mag", "nJy", "map it with --columns flux="),
        ("mag", "m", "not magnitudes"),
        ("mag", "mag(ST)", "give AB or plain mag"),
        ("ra", "pix", "cannot become deg.*--columns ra="),
    ],
)
def test_units_that_are_refused(table, column, unit, text):
    q = QTable({c: table[c].to_numpy() for c in table.columns})
    q["ra"], q["dec"] = np.ones(24), np.ones(24)
    q[column] = u.Quantity(np.ones(24), unit) if "(" not in unit else np.ones(24) * u.Unit(unit)
    with pytest.raises(InputError, match=text):
        read_measurements(q)


def test_mapping(table):
    theirs = table.rename({"mag": "mag_inst", "star_id": "object"})
    with pytest.raises(InputError, match=r"no column star_id, nor .* it has object, .*--columns star_id=THEIR_NAME"):
        read_measurements(theirs)
    m = read_measurements(theirs, columns={"mag": "mag_inst", "star_id": "object"})
    assert m.frame.equals(read_measurements(table).frame)
    assert m.inputs[0]["columns"]["mag"] == "mag_inst"
    with pytest.raises(InputError, match="no column nothing, which mag was mapped to"):
        read_measurements(table, columns={"mag": "nothing"})
    with pytest.raises(InputError, match="columns: magnitude cannot be mapped; the names to map to are star_id"):
        read_measurements(table, columns={"magnitude": "mag"})
    with pytest.raises(InputError, match="no column nothing, which airmass was mapped to"):
        read_measurements(table, columns={"airmass": "nothing"})
    with pytest.raises(InputError, match="no column mag_err"):
        read_measurements(table.drop("mag_err"))
    with pytest.raises(InputError, match="no column y|x is there without y"):
        read_measurements(table.with_columns(x=pl.lit(1.0)))
    assert not read_measurements(table.with_columns(x=pl.lit(1.0)), columns={"x": ""}).has("x")


def test_mag_and_flux_both(table):
    both = table.with_columns(flux=pl.lit(1.0), flux_err=pl.lit(0.1))
    m = read_measurements(both)
    assert m.frame.equals(read_measurements(table).frame)
    assert "has mag and flux; mag is used" in m.warnings[0]
    np.testing.assert_allclose(read_measurements(both, columns={"flux": "flux"}).frame["mag"], 31.4)
    with pytest.raises(InputError, match="both mag and flux are mapped"):
        read_measurements(both, columns={"flux": "flux", "mag": "mag"})


def test_what_cannot_be_opened(tmp_path, table):
    empty, cut, odd = tmp_path / "empty.parquet", tmp_path / "cut.parquet", tmp_path / "t.xyz"
    empty.write_bytes(b"")
    table.write_parquet(tmp_path / "t.parquet")
    cut.write_bytes((tmp_path / "t.parquet").read_bytes()[:200])
    odd.write_text("a b\n1 2\n")
    table.head(0).write_parquet(tmp_path / "none.parquet")
    (tmp_path / "folder").mkdir()
    (tmp_path / "t.fits").write_bytes(b"SIMPLE  =                    T" + b" " * 100)
    for given_, text in (
        (tmp_path / "absent.parquet", "no such file"),
        (tmp_path / "*.fit", "no file matches"),
        (tmp_path / "folder", "holds no Parquet file"),
        (empty, "the file is empty"),
        (cut, "cannot be read as Parquet"),
        (tmp_path / "t.fits", "cannot be read as FITS"),
        (odd, "the format is not known"),
        (tmp_path / "none.parquet", "the table has no rows"),
        ({"a": 1}, "not a table that can be read"),
        ([], "no input was given"),
    ):
        with pytest.raises(InputError, match=text) as error:
            read_measurements(given_)
        assert "\n" not in str(error.value)
        with pytest.raises(InputError, match=text):
            list(iter_measurements(given_))


def test_files_must_have_the_same_columns(tmp_path, table):
    table.write_parquet(tmp_path / "a.parquet")
    table.with_columns(color=pl.lit(0.5)).write_parquet(tmp_path / "b.parquet")
    with pytest.raises(InputError, match=r"a.parquet: no column color, which .*b.parquet has"):
        read_measurements(tmp_path)
    assert len(read_measurements(tmp_path, columns={"color": ""})) == 48


def test_bands_and_detectors(table):
    frame = table.with_columns(
        band=pl.Series(["r", "g"] * 12), detector=pl.Series(["N2", "N1", "S1"] * 8), x=pl.lit(1), y=pl.lit(2)
    )
    m = read_measurements(frame)
    assert m.frame["band"].to_list() == frame["band"].to_list()
    assert m.frame["band"].dtype == m.exposures["band"].dtype == pl.Enum(["g", "r"])
    assert m.frame["detector"].to_list() == frame["detector"].to_list()
    assert m.exposures.height == 8
    assert m.exposures.select("exposure_id", "band").rows() == sorted(set(frame.select("exposure_id", "band").rows()))
    assert m.has("band")
    assert m.has("detector")
    assert not m.has("airmass")
    with pytest.raises(InputError, match="detector is null"):
        read_measurements(frame.with_columns(detector=pl.lit(None, pl.Int64)))


def test_implausible_places_become_nan(table):
    m = read_measurements(table.with_columns(ra=pl.lit(10.0), dec=pl.Series([95.0] + [5.0] * 23)))
    assert np.isnan(m.frame["dec"][0])
    assert any("dec is outside the sky; read as unknown (1 row)" in w for w in m.warnings)


SMALL = st.lists(
    st.tuples(
        st.integers(-(2**63), 2**63 - 1),
        st.integers(0, 3),
        st.one_of(st.none(), st.floats(width=32)),
        st.one_of(st.none(), st.floats(width=32)),
    ),
    min_size=1,
    max_size=30,
)


@settings(max_examples=40, deadline=None)
@given(SMALL, st.randoms(use_true_random=False), st.integers(1, 9))
def test_any_small_table(rows, random, batch):
    schema = {"star_id": pl.Int64, "exposure_id": pl.Int64, "mag": pl.Float64, "mag_err": pl.Float64}
    frame = pl.DataFrame(rows, schema=schema, orient="row")
    m = read_measurements(frame)
    assert m.frame["star_id"].equals(frame["star_id"])
    assert sum(m.counts.values()) == frame.height
    used = m.frame.filter(pl.Series(m.usable))
    assert used["mag"].is_finite().all()
    assert (used["mag_err"] > 0).all()
    assert used.select("star_id", "exposure_id", "mag", "mag_err").is_unique().all()
    order = list(range(frame.height))
    random.shuffle(order)
    permuted = read_measurements(frame[order])
    assert permuted.counts == m.counts
    assert permuted.exposures.equals(m.exposures)
    assert sum(len(b) for b in iter_measurements(frame, batch_rows=batch)) == frame.height


def test_repeats_among_many_rows():
    frame = survey(400, 300)
    again = pl.concat([frame, frame[::1000]])
    m = read_measurements(again)
    assert m.counts == {"usable": frame.height, "duplicate": 120}
    assert m.usable[: frame.height].all()


def test_importing_is_light():
    code = "import sys, calib.tables; print([m for m in ('astropy','pyarrow','polars','torch') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_equal_magnitudes_at_two_places_are_two_measurements(table):
    twice = pl.concat(
        [table.with_columns(x=pl.lit(1.0), y=pl.lit(2.0)), table.with_columns(x=pl.lit(1.5), y=pl.lit(2.0))]
    )
    assert read_measurements(twice).counts == {"usable": 48}
    assert read_measurements(twice, columns={"x": "", "y": ""}).counts == {"usable": 24, "duplicate": 24}
    assert read_measurements(pl.concat([twice, twice.head(5)])).counts == {"usable": 48, "duplicate": 5}


def test_text_in_memory_and_decimals(table):
    text = table.with_columns(pl.col("mag", "mag_err").cast(pl.String), flag=pl.Series(["no", "YES", "0"] * 8))
    m = read_measurements(text)
    np.testing.assert_array_equal(m.frame["mag"], table["mag"])
    assert m.counts == {"usable": 16, "flagged": 8}
    decimal = table.with_columns(pl.col("mag").cast(pl.Decimal(20, 6)))
    np.testing.assert_allclose(read_measurements(decimal).frame["mag"], table["mag"])
    with pytest.raises(InputError, match="mag is Boolean, not numbers"):
        read_measurements(table.with_columns(mag=pl.lit(True)))
    with pytest.raises(InputError, match=r"mag is List\(Float64\), not numbers"):
        read_measurements(table.with_columns(mag=pl.concat_list("mag", "mag")))


def test_the_answer_does_not_depend_on_the_chunks(table, monkeypatch):
    frame = pl.concat([survey(40, 30), survey(40, 30).head(7)]).with_columns(
        airmass=pl.col("mag") / 10,
        ra=pl.col("mag"),
        dec=pl.col("mag_err"),
        band=pl.Series(["r", "g", "i"] * 403)[:1207],
    )
    whole = read_measurements(frame)
    monkeypatch.setattr("calib.tables.sources.memory.PolarsSource.chunks.__defaults__", (13,))
    monkeypatch.setattr("calib.tables.duplicates._BLOCK", 17)
    pieces = read_measurements(frame)
    assert pieces.frame.equals(whole.frame)
    np.testing.assert_array_equal(pieces.reason, whole.reason)
    assert pieces.counts["duplicate"] == 7
    for name in whole.exposures.columns:
        if whole.exposures[name].dtype == pl.Float64:
            np.testing.assert_allclose(pieces.exposures[name], whole.exposures[name], rtol=1e-12)
