"""Solutions out and in again, through every reader; files whole or not at all."""

import subprocess
import sys
import warnings
from pathlib import Path

import astropy.units as u
import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from astropy.table import QTable, Table
from hypothesis import given, settings
from hypothesis import strategies as st

from calib.tables import (
    COLUMNS,
    InputError,
    MeasurementWriter,
    iter_measurements,
    read_any,
    read_measurements,
    read_solution_tables,
    stage_folder,
    to_qtable,
    write_table,
)
from calib.tables.schema import columns_markdown
from calib.tables.write import atomic_path

from .conftest import BIG, survey

DOCS = Path(__file__).parents[2] / "docs" / "columns.md"


def zeropoints():
    return pl.DataFrame(
        {
            "exposure_id": [BIG, BIG + 1, BIG + 2],
            "band": pl.Series(["r", "r", ""], dtype=pl.Enum(["", "r"])),
            "component": pl.Series([0, 0, 1], dtype=pl.Int32),
            "anchored": [True, True, False],
            "n_stars": [10, 11, 0],
            "n_measurements": [10, 12, 0],
            "zeropoint": [25.0, 25.1, float("nan")],
            "zeropoint_err": [0.001, 0.002, float("nan")],
            "seeing": [1.0, None, 2.0],
            "excess_noise": [0.0, 0.01, float("nan")],
            "error_scale": [1.0, 1.1, float("nan")],
            "quality": [0.9, 0.8, 0.0],
            "flag": ["", "", "isolated"],
        }
    )


def stars():
    return pl.DataFrame(
        {"star_id": ["a", "b"], "band": "r", "component": 0, "mag": [20.0, 21.0], "mag_err": [0.01, 0.02],
         "n_measurements": [3, 4], "n_used": [3, 3], "chi2_dof": [1.0, None], "variability_probability": [0.0, 1.0]}
    )  # fmt: skip


def terms():
    return pl.DataFrame(
        {"name": ["extinction"] * 2, "band": ["r", ""], "detector": "", "night": [60000, None],
         "value": [0.1, 0.2], "err": [0.01, 0.02]}
    )  # fmt: skip


def test_ecsv_has_units_descriptions_and_empty_flags(tmp_path):
    path = tmp_path / "zeropoints.ecsv"
    write_table(zeropoints(), path, "zeropoints", {"version": "1"})
    q = QTable.read(path)
    assert q["zeropoint"].unit == u.mag
    assert q["zeropoint_err"].unit == u.mag
    assert q["seeing"].unit == u.arcsec
    assert q["zeropoint"].info.description == COLUMNS["zeropoints"]["zeropoint"].description
    assert q["zeropoint"].info.meta["ucd"] == "phot.mag;arith.zp"
    assert q["exposure_id"].dtype == np.int64
    assert q["exposure_id"][2] == BIG + 2
    assert q["flag"].tolist() == ["", "", "isolated"]
    assert q["band"].tolist() == ["r", "r", ""]
    assert q.meta["version"] == "1"
    assert np.isnan(q["zeropoint"][2])
    back = read_any(path)
    assert back["exposure_id"].to_list() == [BIG, BIG + 1, BIG + 2]
    assert back["flag"].to_list() == ["", "", "isolated"]
    assert [p.name for p in tmp_path.iterdir()] == ["zeropoints.ecsv"]


def test_parquet_is_read_right_by_polars_arrow_and_astropy(tmp_path, monkeypatch):
    path = tmp_path / "zeropoints.parquet"
    write_table(zeropoints(), path, "zeropoints", {"version": "1"})
    frame = pl.read_parquet(path)
    assert frame["exposure_id"].dtype == pl.Int64
    assert frame["flag"].dtype == pl.String
    assert frame["seeing"].to_list() == [1.0, None, 2.0]
    assert frame["zeropoint"].is_nan().to_list() == [False, False, True]
    schema = pq.read_schema(path)
    assert schema.field("zeropoint").metadata[b"unit"] == b"mag"
    assert schema.field("zeropoint").metadata[b"ucd"] == b"phot.mag;arith.zp"
    assert [f.name for f in schema if f.nullable] == [c for c in frame.columns if frame[c].dtype.is_float()]
    monkeypatch.setattr("astropy.io.misc.parquet.HAS_PANDAS", True)  # it asks for pandas and does not use it
    q = QTable.read(path)
    assert q["zeropoint"].unit == u.mag
    assert q["exposure_id"].tolist() == [BIG, BIG + 1, BIG + 2]
    assert q["flag"].tolist() == ["", "", "isolated"]
    assert np.isnan(q["seeing"][1])
    assert q["zeropoint"].info.description
    assert q.meta["version"] == "1"
    assert read_any(path).equals(frame)


def test_scales_are_told_of_times_and_magnitudes(tmp_path, monkeypatch):
    frame = zeropoints().with_columns(mjd=pl.lit(60000.0), sky=pl.lit(21.0), limiting_mag=pl.lit(22.0))
    meta = {"version": "1", "time_scale": "tai", "magnitude_system": "AB"}
    on = {"mjd": {"time_scale": "tai"}} | dict.fromkeys(("zeropoint", "limiting_mag"), {"magnitude_system": "AB"})
    monkeypatch.setattr("astropy.io.misc.parquet.HAS_PANDAS", True)  # it asks for pandas and does not use it
    for name in ("z.ecsv", "z.parquet"):
        write_table(frame, tmp_path / name, "zeropoints", meta)
        q = QTable.read(tmp_path / name)
        assert q.meta == meta
        told = {c: {k: v for k, v in (q[c].info.meta or {}).items() if k != "ucd"} for c in q.colnames}
        assert {c: t for c, t in told.items() if t} == on
    schema = pq.read_schema(tmp_path / "z.parquet")
    told = {f.name: {k: v for k, v in f.metadata.items() if k in (b"time_scale", b"magnitude_system")} for f in schema}
    wanted = {c: {k.encode(): v.encode() for k, v in t.items()} for c, t in on.items()}
    assert {c: t for c, t in told.items() if t} == wanted
    write_table(frame, tmp_path / "z.ecsv", "zeropoints", {"magnitude_system": "AB"})
    assert "time_scale" not in QTable.read(tmp_path / "z.ecsv")["mjd"].info.meta


def test_the_registry_is_held_to():
    good = zeropoints()
    for bad, text in (
        (good.drop("flag"), r"missing columns \['flag'\]"),
        (good.with_columns(extra=1), r"unknown columns \['extra'\]"),
        (good.with_columns(flag=pl.lit(None, pl.String)), "flag has 3 nulls"),
        (good.with_columns(exposure_id=pl.Series([1, None, 2])), "exposure_id has 1 nulls"),
    ):
        with pytest.raises(ValueError, match=text):
            to_qtable(bad, "zeropoints")
    with pytest.raises(ValueError, match=r"as .ecsv or .parquet"):
        write_table(good, "x.csv", "zeropoints")


def test_every_unit_is_one_that_astropy_knows():
    for columns in COLUMNS.values():
        for column in columns.values():
            u.Unit(column.unit, parse_strict="raise")
            assert column.description.endswith(".")


def test_documentation_is_current():
    assert DOCS.read_text() == columns_markdown(), "run python -m calib.tables.schema > docs/columns.md"


def test_solution_folder(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        read_solution_tables(tmp_path / "out")
    with stage_folder(tmp_path / "out") as stage:
        write_table(zeropoints(), stage / "zeropoints.parquet", "zeropoints")
        write_table(stars(), stage / "stars.parquet", "stars")
        write_table(terms(), stage / "terms.ecsv", "terms")
    tables = read_solution_tables(tmp_path / "out")
    assert tables.zeropoints.height == 3
    assert tables.stars["star_id"].to_list() == ["a", "b"]
    assert tables.terms.equals(terms())
    assert tables.measurements is None
    (tmp_path / "out" / "stars.parquet").unlink()
    with pytest.raises(InputError, match=r"has no stars.parquet"):
        read_solution_tables(tmp_path / "out")


def fill(out, text, names=("run.json",), *, fail=False):
    with stage_folder(out) as stage:
        for name in names:
            (stage / name).write_text(text)
        if fail:
            raise RuntimeError("stopped")


def content(folder):
    return {p.name: p.read_text() for p in folder.iterdir()}


def test_stage_folder_is_all_or_nothing(tmp_path):
    out = tmp_path / "deep" / "out"
    with pytest.raises(RuntimeError, match="stopped"):
        fill(out, "new", fail=True)
    assert list(tmp_path.iterdir()) == []
    fill(out, "first", ("run.json", "terms.ecsv"))
    (out / "notes.txt").write_text("mine")
    with pytest.raises(RuntimeError, match="stopped"):
        fill(out, "second", fail=True)
    assert content(out) == {"run.json": "first", "terms.ecsv": "first", "notes.txt": "mine"}
    fill(out, "third")
    assert content(out) == {"run.json": "third", "notes.txt": "mine"}
    assert [p.name for p in out.parent.iterdir()] == ["out"]
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        fill(tmp_path / "file", "new")
    (tmp_path / "link").symlink_to("nothing")
    with pytest.raises(InputError, match="a link to nothing"):
        fill(tmp_path / "link", "new")


def test_a_folder_that_is_there_needs_no_room_beside_it(tmp_path, monkeypatch):
    out = tmp_path / "out"
    fill(out, "old")
    import calib.tables.stage as module

    mkdtemp = module.tempfile.mkdtemp

    def only_inside(*, dir, **names):
        if Path(dir) != out:
            raise PermissionError(13, "Permission denied")
        return mkdtemp(dir=dir, **names)

    monkeypatch.setattr(module.tempfile, "mkdtemp", only_inside)
    fill(out, "new")
    assert content(out) == {"run.json": "new"}


def test_moving_in_is_undone_when_it_fails(tmp_path, monkeypatch):
    out, names = tmp_path / "out", ("run.json", "stars.parquet")
    fill(out, "old", names)
    import calib.tables.stage as module

    rename = module.os.rename

    def full(source, target):
        if Path(target) == out / "run.json" and ".part" in str(source):
            raise OSError("disk full")
        rename(source, target)

    monkeypatch.setattr(module.os, "rename", full)
    with pytest.raises(OSError, match="disk full"):
        fill(out, "new", names)
    assert content(out) == {"run.json": "old", "stars.parquet": "old"}
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def replace(path, text, *, fail=False):
    with atomic_path(path) as temporary:
        temporary.write_text(text)
        if fail:
            raise RuntimeError("stopped")


def test_atomic_path(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="stopped"):
        replace(path, "new", fail=True)
    assert content(tmp_path) == {"a.txt": "old"}
    replace(path, "new")
    assert content(tmp_path) == {"a.txt": "new"}


def said(m):
    n = len(m)
    return {
        "calibrated_mag": m.frame["mag"].to_numpy() + 1,
        "calibrated_mag_err": np.full(n, 0.01),
        "residual": np.zeros(n),
        "weight": np.ones(n, np.float32),
        "outlier_probability": np.zeros(n),
        "used": m.usable,
    }


@pytest.mark.parametrize("text_ids", [False, True])
def test_measurements_come_out_in_input_order(tmp_path, monkeypatch, text_ids):
    monkeypatch.setattr("calib.tables.write.ROW_GROUP", 10)
    table = (
        survey()
        .with_columns(band=pl.lit("r"), detector=pl.Series([1, 2] * 12))
        .sample(fraction=1, shuffle=True, seed=1)
    )
    if text_ids:
        table = table.with_columns(pl.col("star_id", "exposure_id").cast(pl.String))
    m = read_measurements(table.with_columns(flag=pl.col("detector") == 2))
    path = tmp_path / "measurements.parquet"
    with MeasurementWriter(path) as writer:
        writer.write(m, **said(m))
        assert not path.exists()
    assert writer.rows == 24
    back = pl.read_parquet(path)
    keys = ["star_id", "exposure_id", "band", "detector"]
    assert back.select(keys).equals(table.select(keys))
    assert back.columns == [*keys, *said(m)]
    assert back["used"].to_list() == (table["detector"] == 1).to_list()
    assert back["calibrated_mag"].dtype == pl.Float64
    assert back["residual"].dtype == pl.Float32
    assert pq.ParquetFile(path).num_row_groups == 3
    assert pq.read_schema(path).field("weight").metadata[b"unit"] == b"1 / mag2"


def test_streaming_in_and_out(tmp_path):
    table = survey(50, 20)
    with MeasurementWriter(tmp_path / "m.parquet") as writer:
        for batch in iter_measurements(table, batch_rows=300):
            arrays = said(batch)
            writer.write(batch, **{k: arrays[k] for k in ("calibrated_mag", "calibrated_mag_err", "used")})
    back = pl.read_parquet(tmp_path / "m.parquet")
    assert back.columns == ["star_id", "exposure_id", "calibrated_mag", "calibrated_mag_err", "used"]
    assert back["star_id"].equals(table["star_id"])


def write_measurements(path, m, *, fail=False, **arrays):
    with MeasurementWriter(path) as writer:
        if arrays:
            writer.write(m, **arrays)
        if fail:
            raise RuntimeError("stopped")


def test_a_failed_writer_leaves_nothing(tmp_path, table):
    m = read_measurements(table)
    path = tmp_path / "m.parquet"
    with pytest.raises(RuntimeError, match="stopped"):
        write_measurements(path, m, fail=True, **said(m))
    with pytest.raises(ValueError, match="nothing was written"):
        write_measurements(path, m)
    with pytest.raises(ValueError, match="residual has 3 rows"):
        write_measurements(path, m, **{**said(m), "residual": np.zeros(3)})
    assert list(tmp_path.iterdir()) == []


def test_read_any(tmp_path):
    (tmp_path / "t.csv").write_text("name,zp,id,ok,code\na,1.5,12,true,007\nb,,13,false,010\n")
    frame = read_any(tmp_path / "t.csv")
    assert [str(t) for t in frame.dtypes] == ["String", "Float64", "Int64", "Boolean", "String"]
    assert frame["zp"].to_list() == [1.5, None]
    assert read_any(to_qtable(zeropoints(), "zeropoints"))["zeropoint"].to_list()[:2] == [25.0, 25.1]


def test_writing_warns_of_nothing_and_a_second_process_reads_it(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_table(stars(), tmp_path / "stars.parquet", "stars")
    code = f"import polars; print(polars.read_parquet({str(tmp_path / 'stars.parquet')!r})['star_id'].to_list())"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "['a', 'b']"
    assert isinstance(to_qtable(stars(), "stars"), Table)


ROWS = st.lists(
    st.tuples(
        st.integers(-(2**63), 2**63 - 1),
        st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), max_size=6),
        st.one_of(st.none(), st.floats()),
        st.booleans(),
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=30, deadline=None)
@given(ROWS)
def test_any_zeropoints_go_round(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("round")
    schema = {"exposure_id": pl.Int64, "flag": pl.String, "zeropoint": pl.Float64, "anchored": pl.Boolean}
    new = pl.DataFrame(rows, schema=schema, orient="row")
    frame = zeropoints().head(1).drop(schema).join(new, how="cross")
    write_table(frame, folder / "z.parquet", "zeropoints")
    write_table(frame, folder / "z.ecsv", "zeropoints")
    back = pl.read_parquet(folder / "z.parquet").select(list(schema))
    assert back.equals(new)
    text = read_any(folder / "z.ecsv").select(list(schema))
    assert text.equals(new.with_columns(pl.col("zeropoint").fill_null(float("nan"))))
