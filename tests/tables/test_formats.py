"""The same table in every format gives the same measurements."""

import gzip

import astropy.units as u
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from astropy.table import MaskedColumn, QTable, Table
from astropy.time import Time
from astropy.utils.masked import Masked

from calib.tables import InputError, iter_measurements, read_measurements

from .conftest import BIG, survey

NAMES = ["star_id", "exposure_id", "mag", "mag_err"]


def as_astropy(frame):
    text = {pl.String: str}
    return Table({c: np.array(frame[c].to_list(), dtype=text.get(frame[c].dtype)) for c in frame.columns})


def write(frame, path):
    kind = path.suffix
    if kind == ".parquet":
        frame.write_parquet(path)
    elif kind == ".csv":
        frame.write_csv(path)
    elif kind == ".gz":
        as_astropy(frame).write(path, format="fits")
    else:
        formats = {".fits": "fits", ".ecsv": "ascii.ecsv", ".vot": "votable"}
        as_astropy(frame).write(path, format=formats[kind])
    return path


@pytest.mark.parametrize("ending", ["t.parquet", "t.csv", "t.fits", "t.fits.gz", "t.ecsv", "t.vot"])
@pytest.mark.parametrize("text_ids", [False, True])
def test_every_format_gives_the_same(tmp_path, table, ending, text_ids):
    if text_ids:
        table = table.with_columns(pl.format("S{}", "star_id").alias("star_id"))
    path = write(table, tmp_path / ending)
    m = read_measurements(path)
    assert m.frame["star_id"].dtype == (pl.String if text_ids else pl.Int64)
    assert m.frame["exposure_id"].dtype == pl.Int64
    assert m.frame["star_id"].to_list() == table["star_id"].to_list()
    assert m.frame["exposure_id"].to_list() == table["exposure_id"].to_list()
    np.testing.assert_array_equal(m.frame["mag"], table["mag"])
    np.testing.assert_allclose(m.frame["mag_err"], table["mag_err"], rtol=1e-6)
    assert m.frame["mag"].dtype == pl.Float64
    assert m.frame["mag_err"].dtype == pl.Float32
    assert m.frame["band"].to_list() == [""] * table.height
    assert m.counts == {"usable": table.height}
    assert m.exposures["exposure_id"].to_list() == sorted(set(table["exposure_id"]))
    assert m.exposures["n_rows"].to_list() == [6] * 4
    assert m.inputs[0]["rows"] == table.height
    assert len(m.inputs[0]["sha256"]) == 64
    assert m.inputs[0]["columns"] == {c: c for c in NAMES}
    assert m.warnings == []
    batches = list(iter_measurements(path, batch_rows=7))
    assert [len(b) for b in batches] == [7, 7, 7, 3]
    assert pl.concat([b.frame.select(NAMES) for b in batches]).equals(m.frame.select(NAMES))


def test_tables_in_memory(table):
    expected = read_measurements(table).frame
    for other in (as_astropy(table), QTable(as_astropy(table)), table.to_arrow(), table.lazy()):
        m = read_measurements(other)
        assert m.frame.equals(expected)
        assert m.inputs[0]["sha256"] is None


def test_folder_glob_and_list_are_one_table(tmp_path):
    frames = [survey(seed=s).with_columns(pl.col("exposure_id") + 10 * s) for s in range(3)]
    (tmp_path / "deep").mkdir()
    paths = [tmp_path / "a.parquet", tmp_path / "b.parquet", tmp_path / "deep" / "c.parquet"]
    for frame, path in zip(frames, paths, strict=True):
        frame.write_parquet(path)
    (tmp_path / "_metadata.parquet").write_bytes(b"not a table")
    whole = pl.concat(frames)
    for inputs in (tmp_path, paths, str(tmp_path / "**/[abc].parquet")):
        m = read_measurements(inputs)
        assert sorted(m.frame["mag"].to_list()) == sorted(whole["mag"].to_list())
        assert len(m.inputs) == 3
    assert read_measurements(paths).frame["mag"].equals(whole["mag"])


def test_astropy_parquet_masks_units_and_times(tmp_path):
    q = QTable(
        {
            "star_id": [BIG, BIG + 1, BIG + 2],
            "exposure_id": ["a", "a", "b"],
            "mag": Masked([20.0, 21.0, 99.0] * u.mag, mask=[False, False, True]),
            "mag_err": [10, 20, 30] * u.mmag,
            "mjd": Time([60000.25, 60000.25, 60001.5], format="mjd", scale="tai"),
            "ra": [1.0, 1.0, 1.0] * u.rad,
            "dec": [0.1, 0.1, 0.1] * u.rad,
        }
    )
    q.write(tmp_path / "q.parquet")
    q.write(tmp_path / "q.ecsv")
    q.write(tmp_path / "q.fits")
    for source in (
        tmp_path / "q.parquet",
        tmp_path / "q.ecsv",
        tmp_path / "q.fits",
        q,
        pq.read_table(tmp_path / "q.parquet"),
    ):
        m = read_measurements(source)
        assert m.frame["star_id"].to_list() == [BIG, BIG + 1, BIG + 2]
        assert m.frame["exposure_id"].to_list() == ["a", "a", "b"]
        assert m.reason[:2].tolist() == [0, 0]
        assert m.reason[2] != 0
        assert np.isnan(m.frame["mag"][2])
        np.testing.assert_allclose(m.frame["mag_err"], [0.01, 0.02, 0.03], rtol=1e-6)
        np.testing.assert_allclose(m.exposures["mjd"], [60000.25, 60001.5], atol=1e-9)
        assert m.time_scale == "tai"
        np.testing.assert_allclose(m.frame["ra"], np.rad2deg(1.0))
        np.testing.assert_allclose(m.exposures["dec"], np.rad2deg(0.1))


def test_masked_ids_stay_exact_or_are_refused(tmp_path, table):
    t = as_astropy(table)
    t["mag"] = MaskedColumn(t["mag"], mask=np.arange(len(t)) == 3)
    t["mag"].data.data[3] = 99.0
    for name, kind in (("t.fits", "fits"), ("t.ecsv", "ascii.ecsv"), ("t.vot", "votable"), ("t.parquet", "parquet")):
        t.write(tmp_path / name, format=kind)
        m = read_measurements(tmp_path / name)
        assert m.frame["star_id"].to_list() == table["star_id"].to_list()
        assert m.counts["usable"] == len(t) - 1
        assert np.isnan(m.frame["mag"][3])
    t["star_id"] = MaskedColumn(t["star_id"], mask=np.arange(len(t)) < 2)
    with pytest.raises(InputError, match=r"star_id is null or empty in 2 rows"):
        read_measurements(t)
    t.write(tmp_path / "ids.parquet")
    with pytest.raises(InputError, match=r"ids.parquet: column star_id is null or empty in 2 rows; remove"):
        read_measurements(tmp_path / "ids.parquet")


def test_fits_byte_order_scaling_nulls_and_bytes(tmp_path):
    n = 5
    columns = [
        fits.Column("star_id", "K", array=np.arange(n, dtype=np.uint64) + np.uint64(BIG), bzero=2**63),
        fits.Column("exposure_id", "8A", array=np.array(["e1", "e1", "e2", "e2", "e2"])),
        fits.Column("mag", "E", array=np.linspace(15, 16, n), unit="mag"),
        fits.Column("mag_err", "D", array=np.full(n, 0.01)),
        fits.Column("detector", "J", array=np.arange(n, dtype=np.uint32), bzero=2**31),
        fits.Column("flag", "L", array=np.array([True, False, False, False, False])),
        fits.Column("x", "I", array=np.array([1, 2, 3, -99, 5]), null=-99),
        fits.Column("y", "I", array=np.arange(5)),
        fits.Column("spectrum", "4E", array=np.zeros((n, 4))),
    ]
    fits.BinTableHDU.from_columns(columns).writeto(tmp_path / "t.fits")
    fits.setval(tmp_path / "t.fits", "TSCAL8", value=0.5, ext=1)
    m = read_measurements(tmp_path / "t.fits")
    assert m.frame["star_id"].to_list() == [BIG + i for i in range(n)]
    assert m.frame["exposure_id"].to_list() == ["e1", "e1", "e2", "e2", "e2"]
    np.testing.assert_array_equal(m.frame["mag"], np.linspace(15, 16, n).astype(np.float32))
    assert m.frame["detector"].to_list() == list(range(n))
    assert m.counts == {"usable": 4, "flagged": 1}
    assert m.frame["flag"].to_list() == [True, False, False, False, False]
    assert np.isnan(m.frame["x"][3])
    np.testing.assert_array_equal(m.frame["y"], np.arange(5) * 0.5)
    with pytest.raises(InputError, match="spectrum has .* values per row"):
        read_measurements(tmp_path / "t.fits", columns={"mag": "spectrum"})


@pytest.mark.parametrize("ending", ["t.fits", "t.fits.gz", "t.vot", "t.parquet", "t.csv", "t.ecsv"])
def test_missing_bands(tmp_path, table, ending):
    null = table.with_columns(band=pl.Series([None, "r"] * 12))
    if ending in ("t.parquet", "t.csv"):
        path = write(null, tmp_path / ending)
    else:
        t = as_astropy(table)
        t["band"] = MaskedColumn(["", "r"] * 12, mask=[True, False] * 12)
        kind = {"t.ecsv": "ascii.ecsv", "t.vot": "votable"}.get(ending, "fits")
        t.write(tmp_path / ending, format=kind)
        path = tmp_path / ending
    assert read_measurements(path).counts == {"usable": 12, "null_band": 12}
    assert sum(b.counts["null_band"] for b in iter_measurements(path, batch_rows=1) if "null_band" in b.counts) == 12


@pytest.mark.parametrize("ending", ["t.fits", "t.vot", "t.parquet"])
def test_bands_that_are_all_blank_are_none(tmp_path, table, ending):
    path = write(table.with_columns(band=pl.lit("")), tmp_path / ending)
    assert read_measurements(path).counts == {"usable": 24}


def test_big_endian_arrays_and_bytes_in_memory(table):
    t = Table(
        {
            "star_id": table["star_id"].to_numpy().astype(">i8"),
            "exposure_id": np.array([f"{e} ".encode() for e in table["exposure_id"]], dtype="S16"),
            "mag": table["mag"].to_numpy().astype(">f8"),
            "mag_err": table["mag_err"].to_numpy().astype(">f4"),
        }
    )
    m = read_measurements(t)
    assert m.frame["star_id"].to_list() == table["star_id"].to_list()
    assert m.frame["exposure_id"].to_list() == [str(e) for e in table["exposure_id"]]
    np.testing.assert_array_equal(m.frame["mag"], table["mag"])


def test_dictionary_categorical_and_binary_columns(tmp_path, table):
    text = table.with_columns(pl.col("exposure_id").cast(pl.String), band=pl.lit("r"))
    expected = read_measurements(text).frame
    arrow = text.to_arrow()
    for name in ("exposure_id", "band"):
        arrow = arrow.set_column(arrow.column_names.index(name), name, arrow[name].dictionary_encode())
    pq.write_table(arrow, tmp_path / "d.parquet")
    binary = text.with_columns(pl.col("exposure_id").cast(pl.Binary))
    categorical = text.with_columns(pl.col("exposure_id", "band").cast(pl.Categorical))
    binary.write_parquet(tmp_path / "b.parquet")
    categorical.write_parquet(tmp_path / "c.parquet")
    for source in (arrow, binary, categorical, *(tmp_path / f"{c}.parquet" for c in "dbc")):
        assert read_measurements(source).frame.equals(expected)


def test_bytes_that_are_no_text(tmp_path, table):
    raw = [bytes([0xFF, 0xFE, 65 + i % 6]) for i in range(24)]
    table.with_columns(star_id=pl.Series([b"plain", *raw[1:]])).write_parquet(tmp_path / "b.parquet")
    with pytest.raises(InputError, match=r"b.parquet: column star_id holds bytes that are not UTF-8 text in 23 rows"):
        read_measurements(tmp_path / "b.parquet")
    t = as_astropy(table)
    t["star_id"] = np.array(raw)
    assert read_measurements(t).frame["star_id"].n_unique() == 6
    t["star_id"] = np.array(raw, object)
    assert read_measurements(t).frame["star_id"].n_unique() == 6


def test_csv_text(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(
        "# made by hand\nstar_id, exposure_id ,mag,mag_err,flag,band\n"
        "007,1, 20.1,0.01,false,r\n008,1,NA,0.01,true,r\n009,2,20.3,,0,r\n010,2,nan,0.01,1,r\n"
    )
    m = read_measurements(path)
    assert m.frame["star_id"].to_list() == ["007", "008", "009", "010"]
    assert m.frame["exposure_id"].to_list() == [1, 1, 2, 2]
    assert m.counts == {"usable": 1, "flagged": 2, "null_error": 1}
    path.write_text("star_id,exposure_id,mag,mag_err\n1,1,20.1,0.1\n2,1,bright,0.1\n3,1,faint,0.1\n")
    with pytest.raises(InputError, match=r"t.csv: column mag is not a number in 2 rows \(first 'bright'\)"):
        read_measurements(path)


@pytest.mark.parametrize("packed", [False, True])
def test_csv_comments_stand_before_the_header_only(tmp_path, packed):
    path = tmp_path / ("t.csv.gz" if packed else "t.csv")
    text = '\ufeff# "made\n\n#by hand\nstar_id,exposure_id,mag,mag_err\n'
    text += "#1,1,20.1,0.01\ns2,1,20.2,0.01\n#1,2,20.3,0.01\n"
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    m = read_measurements(path)
    assert m.frame["star_id"].to_list() == ["#1", "s2", "#1"]
    assert m.counts == {"usable": 3}
    assert [len(b) for b in iter_measurements(path, batch_rows=2)] == [2, 1]
    path = tmp_path / "end.csv"
    path.write_text("star_id,exposure_id,mag,mag_err\n1,1,20.1,0.01\n# the end\n")
    with pytest.raises(InputError, match=r"exposure_id is null or empty .* in 1 row"):
        read_measurements(path)
    path.write_text("# nothing\n# else\n")
    with pytest.raises(InputError, match="cannot be read as CSV"):
        read_measurements(path)


def test_csv_column_that_is_there_twice(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("star_id,exposure_id,mag, mag,mag_err,note,note,,\n1,1,20.1,21.0,0.01,a,b,,\n")
    with pytest.raises(InputError, match=r"t.csv: column mag is there 2 times; rename or remove all but one"):
        read_measurements(path)
    path.write_text("star_id,exposure_id,mag,mag_err,note,note,,\n1,1,20.1,0.01,a,b,,\n")
    assert read_measurements(path).frame["mag"].to_list() == [20.1]


def test_csv_words_for_missing_are_no_ids(tmp_path):
    (tmp_path / "t.csv").write_text("star_id,exposure_id,mag,mag_err\nNA,1,20.1,0.01\ns2,1,20.2,0.01\n,1,20.2,0.01\n")
    with pytest.raises(InputError, match=r"star_id is null or empty \(or NA, N/A, .*\) in 2 rows; remove"):
        read_measurements(tmp_path / "t.csv")


def test_unsigned_float_and_impossible_ids(table):
    unsigned = table.with_columns(pl.col("star_id").cast(pl.UInt64))
    assert read_measurements(unsigned).frame.equals(read_measurements(table).frame)
    whole = table.with_columns((pl.col("star_id") - BIG).cast(pl.Float64))
    assert read_measurements(whole).frame["star_id"].to_list() == (table["star_id"] - BIG).to_list()
    for series, text in (
        (pl.Series("star_id", [2**63] * 2 + [1] * 22, dtype=pl.UInt64), "exceeds int64 in 2 rows"),
        (table["star_id"].cast(pl.Float64), "not an exact whole number in 24 rows"),
        (pl.Series("star_id", [0.5] + [1.0] * 23), "not an exact whole number in 1 row;"),
        (pl.Series("star_id", [None] + [1.0] * 23), "null or empty in 1 row;"),
        (pl.Series("star_id", [float("nan")] + [1.0] * 23), "null or empty in 1 row;"),
        (pl.Series("star_id", [""] + ["a"] * 23), "null or empty in 1 row;"),
        (pl.Series("star_id", [True] * 24), "Boolean; ids are int64 or text"),
    ):
        with pytest.raises(InputError, match=text):
            read_measurements(table.with_columns(series))


def test_ids_of_different_types_in_two_files(tmp_path, table):
    table.write_parquet(tmp_path / "a.parquet")
    table.with_columns(pl.col("star_id").cast(pl.String)).write_parquet(tmp_path / "b.parquet")
    with pytest.raises(InputError, match=r"b.parquet: star_id is String and in .*a.parquet Int64"):
        read_measurements(tmp_path)


def test_arrow_field_units(table):
    schema = pa.schema(
        [
            pa.field("star_id", pa.int64()),
            pa.field("exposure_id", pa.int64()),
            pa.field("mag", pa.float64(), metadata={"unit": "mmag"}),
            pa.field("mag_err", pa.float64(), metadata={"unit": "mmag"}),
        ]
    )
    arrow = pa.Table.from_arrays([pa.array(table[c].to_numpy()) for c in schema.names], schema=schema)
    np.testing.assert_allclose(read_measurements(arrow).frame["mag"], table["mag"] / 1000)
