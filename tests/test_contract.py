"""The output folder of the command line, held against what is promised of it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from astropy import units as u
from astropy.table import QTable
from astropy.time import Time

from calib import Config, calibrate
from calib.model.flags import FLAGS
from calib.solution import Solution
from calib.tables import COLUMNS
from calib.tables.stage import SOLUTION_FILES

from .conftest import Run

NEEDED = {
    "zeropoints": (
        "exposure_id", "band", "component", "anchored", "n_stars", "n_measurements", "zeropoint", "zeropoint_err",
        "excess_noise", "error_scale", "quality", "flag", "limiting_mag",
    ),
    "stars": (
        "star_id", "band", "component", "mag", "mag_err", "n_measurements", "n_used", "chi2_dof",
        "variability_probability", "ra", "dec",
    ),
    "measurements": (
        "star_id", "exposure_id", "band", "calibrated_mag", "calibrated_mag_err", "residual", "weight",
        "outlier_probability", "used",
    ),
}  # fmt: skip
RUN_KEYS = (
    "version", "config", "inputs", "method", "method_reason", "scores", "components", "counts", "convergence",
    "timings", "peak_memory_mb", "warnings",
)  # fmt: skip


@pytest.fixture(scope="module")
def troubled(survey: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Hard inputs: text exposure ids, star ids beyond 2^53, useless rows, a lonely exposure, one without good rows."""
    table = pl.read_parquet(survey / "measurements.parquet").with_columns(
        pl.col("star_id") + 2**60, ("e" + pl.col("exposure_id").cast(pl.String)).alias("exposure_id")
    )
    place = {"ra": pl.col("ra").first(), "dec": pl.col("dec").first()}
    lonely = table.head(4).with_columns(exposure_id=pl.lit("lonely"), star_id=pl.lit(2**61, pl.Int64), **place)
    spoilt = table.head(4).with_columns(exposure_id=pl.lit("spoilt"), mag=pl.lit(None, pl.Float64))
    table = pl.concat([table, lonely.with_columns(mag=pl.col("mag") + pl.int_range(4) * 0.01), spoilt])
    n = table.height
    mag, err = table["mag"].to_list(), table["mag_err"].to_list()
    mag[3], mag[4], err[5], err[6] = None, float("nan"), -0.1, float("inf")
    flag = np.zeros(n, int)
    flag[7:9] = 1
    table = table.with_columns(pl.Series("mag", mag), pl.Series("mag_err", err), pl.Series("flag", flag))
    path = tmp_path_factory.mktemp("troubled") / "t.parquet"
    table.sample(fraction=1.0, shuffle=True, seed=3).write_parquet(path)
    return path


@pytest.fixture(scope="module")
def folders(survey: Path, solved: Path, troubled: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    from calib.cli import main

    out = tmp_path_factory.mktemp("contract")
    stars = pl.read_parquet(survey / "truth_stars.parquet").filter(pl.col("band") == "g").head(300)
    reference = stars.select(pl.col("star_id") + 2**60, "band", "mag", mag_err=pl.lit(0.01))
    reference.write_csv(out / "reference.csv")
    argv = ["solve", str(troubled), "--reference", str(out / "reference.csv"), "--out", str(out / "o"), "--quiet"]
    assert main(argv) == 0
    return {"plain": (solved, survey / "measurements.parquet"), "troubled": (out / "o", troubled)}


@pytest.fixture(params=["plain", "troubled"])
def folder(request: pytest.FixtureRequest, folders: dict) -> tuple[Path, Path]:
    return folders[request.param]


def test_files(folder: tuple[Path, Path]) -> None:
    out, _ = folder
    assert sorted(p.name for p in out.iterdir()) == sorted(SOLUTION_FILES)
    assert all((out / name).stat().st_size > 0 for name in SOLUTION_FILES)
    page = (out / "report.html").read_text(encoding="utf-8")
    assert page.lstrip().lower().startswith("<!doctype html")
    for outside in ('src="http', 'href="http://', "@import", "<script src", '<link rel="stylesheet"'):
        assert outside not in page


def test_columns_units_and_descriptions(folder: tuple[Path, Path]) -> None:
    out, _ = folder
    for kind, names in NEEDED.items():
        frame = pl.read_parquet(out / f"{kind}.parquet")
        assert set(names) <= set(frame.columns)
        schema = pq.read_schema(out / f"{kind}.parquet")
        assert b"table_meta_yaml" in schema.metadata
        for name in frame.columns:
            column = COLUMNS[kind][name]
            notes = {k.decode(): v.decode() for k, v in (schema.field(name).metadata or {}).items()}
            assert notes.get("unit", "") == column.unit
            assert notes["description"] == column.description
    ecsv, parquet = QTable.read(out / "zeropoints.ecsv"), pl.read_parquet(out / "zeropoints.parquet")
    assert ecsv.colnames == parquet.columns
    assert len(ecsv) == parquet.height
    assert str(ecsv["zeropoint"].unit) == str(ecsv["zeropoint_err"].unit) == "mag"
    np.testing.assert_array_equal(np.asarray(ecsv["zeropoint"].value), parquet["zeropoint"])
    assert {"name", "band", "detector", "night", "value", "err"} <= set(QTable.read(out / "terms.ecsv").colnames)


def test_zeropoints(folder: tuple[Path, Path]) -> None:
    out, given = folder
    z = pl.read_parquet(out / "zeropoints.parquet")
    assert z.select("exposure_id", "band").is_unique().all()
    assert set(z["exposure_id"]) == set(pl.read_parquet(given)["exposure_id"])
    solved = z.filter(pl.col("zeropoint").is_finite())
    assert solved.height
    assert (solved["zeropoint_err"] > 0).all()
    assert solved["zeropoint_err"].is_finite().all()
    assert z["quality"].is_between(0, 1).all()
    assert z.columns[-1] == "stability"
    assert (solved["stability"] > 0).all()
    rows = pl.read_parquet(out / "measurements.parquet", columns=["exposure_id", "influence", "used"])
    most = rows.filter("used").group_by("exposure_id").agg(pl.col("influence").abs().max())
    both = solved.join(most, on="exposure_id")
    assert both.height == solved.height
    np.testing.assert_allclose(both["influence"], both["stability"], rtol=1e-6)
    assert rows.filter(~pl.col("used"))["influence"].is_nan().all()
    assert z.filter(~pl.col("zeropoint").is_finite())["stability"].is_nan().all()
    assert z["flag"].dtype == pl.String
    assert z["flag"].null_count() == 0
    assert set(",".join(z["flag"]).split(",")) - {""} <= {f.name for f in FLAGS}
    assert (z.filter(~pl.col("zeropoint").is_finite())["flag"] != "").all()
    assert (z.group_by("component").agg(pl.col("band").n_unique())["band"] == 1).all()
    assert (z.group_by("component").agg(pl.col("anchored").n_unique())["anchored"] == 1).all()


def test_measurements_are_the_input_rows(folder: tuple[Path, Path]) -> None:
    out, given = folder
    ours, theirs = pl.read_parquet(out / "measurements.parquet"), pl.read_parquet(given)
    for name in ("star_id", "exposure_id", "band"):
        assert ours[name].dtype == theirs[name].dtype
        assert ours[name].equals(theirs[name])
    used = ours.filter(pl.col("used"))
    assert used["outlier_probability"].is_between(0, 1).all()
    assert used["calibrated_mag"].is_finite().all()
    assert (used["weight"] > 0).all()
    assert (ours.filter(~pl.col("used"))["weight"] == 0).all()


def test_stars(folder: tuple[Path, Path]) -> None:
    out, given = folder
    s, m = pl.read_parquet(out / "stars.parquet"), pl.read_parquet(out / "measurements.parquet")
    assert s.select("star_id", "band").is_unique().all()
    assert set(s["star_id"]) == set(pl.read_parquet(given)["star_id"])
    assert s["n_measurements"].sum() == m.height
    seen = s.filter(pl.col("n_used") > 1)
    assert seen["variability_probability"].is_between(0, 1).all()
    assert seen.filter(pl.col("mag").is_finite())["chi2_dof"].is_finite().all()
    good = s.filter(pl.col("mag").is_finite())
    assert (good["mag_err"] > 0).all()


def test_run(folder: tuple[Path, Path]) -> None:
    out, given = folder
    run = json.loads((out / "run.json").read_text(encoding="utf-8"))
    assert set(RUN_KEYS) <= set(run)
    z, m = pl.read_parquet(out / "zeropoints.parquet"), pl.read_parquet(out / "measurements.parquet")
    assert run["counts"]["rows"] == m.height
    reasons = {k: v for k, v in run["counts"].items() if k != "rows" and not k.startswith("reference_")}
    assert sum(reasons.values()) == m.height
    assert reasons["usable"] == m["used"].sum() == z["n_measurements"].sum()
    assert reasons["usable"] == pl.read_parquet(out / "stars.parquet")["n_used"].sum()
    assert all(len(record["sha256"]) == 64 for record in run["inputs"])
    assert run["inputs"][0]["rows"] == m.height
    assert run["method"] in ("wls", "robust", "learned")
    assert set(run["scores"]) == {"wls", "robust", "learned"}
    for row in run["components"]:
        assert {"component", "band", "anchored", "n_exposures", "n_stars", "gauge"} <= set(row)
        mine = z.filter(pl.col("component") == row["component"])
        assert mine.height == row["n_exposures"]
        zeropoint = mine.filter(pl.col("zeropoint").is_finite())["zeropoint"].to_numpy()
        if not row["anchored"] and zeropoint.size:
            assert abs(zeropoint.mean()) < 1e-9
    assert sum(row["n_exposures"] for row in run["components"]) == z.height


def test_troubles_are_counted_and_flagged(folders: dict) -> None:
    out, given = folders["troubled"]
    run = json.loads((out / "run.json").read_text(encoding="utf-8"))
    counts = run["counts"]
    assert counts["null_mag"] == 5
    assert counts["non_finite_mag"] == counts["nonpositive_error"] == counts["non_finite_error"] == 1
    assert counts["flagged"] == 2
    assert counts["isolated"] == 4
    z = {row["exposure_id"]: row for row in pl.read_parquet(out / "zeropoints.parquet").to_dicts()}
    assert "isolated" in z["lonely"]["flag"]
    assert "no_measurements" in z["spoilt"]["flag"]
    assert not np.isfinite(z["lonely"]["zeropoint"])
    assert not np.isfinite(z["spoilt"]["zeropoint"])
    flags = pl.read_parquet(given)["flag"].to_numpy() > 0
    m = pl.read_parquet(out / "measurements.parquet")
    assert not m["used"].to_numpy()[flags].any()
    assert np.isfinite(m["calibrated_mag"].to_numpy()[flags]).all()


def test_reference_stars_set_the_scale(folders: dict, survey: Path) -> None:
    out, _ = folders["troubled"]
    z = pl.read_parquet(out / "zeropoints.parquet").filter(pl.col("zeropoint").is_finite())
    assert z.filter(pl.col("band") == "g")["anchored"].all()
    r = z.filter(pl.col("band") == "r")
    assert not r["anchored"].any()
    assert r["flag"].str.contains("unanchored").all()
    truth = pl.read_parquet(survey / "truth_exposures.parquet").with_columns(
        ("e" + pl.col("exposure_id").cast(pl.String)).alias("exposure_id")
    )
    both = z.filter(pl.col("anchored")).join(truth, on=["exposure_id", "band"], suffix="_true")
    assert both.height == 20
    offset = (both["zeropoint"] - both["zeropoint_true"]).to_numpy()
    assert abs(offset.mean()) < 0.02
    assert offset.std() < 0.02


def test_errors_are_honest_enough(solved: Path, survey: Path) -> None:
    """A small survey cannot say more; accuracy and coverage are benchmarked on many."""
    from calib.compare import compare, read_side

    got = compare(read_side(solved), read_side(survey))["all"]
    assert got["rms_mag"] < 0.004
    assert 0.5 < got["pull_std"] < 1.6


@pytest.mark.parametrize("reference", [None, u.ABmag, u.mag])
@pytest.mark.parametrize(("unit", "system"), [(u.nJy, "AB"), (u.adu / u.s, "instrumental"), (None, None)])
def test_scales_are_stated(unit: u.Unit | None, system: str | None, reference: u.Unit | None, tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    star, exposure = np.tile(np.arange(20), 5), np.repeat(np.arange(5), 20)
    m = QTable({"star_id": star, "exposure_id": exposure})
    flux = 1e4 * (1 + star) * rng.normal(1, 0.01, star.size)
    if unit is None:
        m["mag"], m["mag_err"] = -2.5 * np.log10(flux), np.full(star.size, 0.01)
    else:
        m["flux"], m["flux_err"] = flux * unit, 0.01 * flux * unit
    e = QTable({"exposure_id": np.arange(5), "mjd": Time(60000.0 + np.arange(5), format="mjd", scale="tai")})
    r = None
    if reference is not None:
        r = QTable({"star_id": np.arange(9), "mag": np.arange(9) * 0.1 * reference, "mag_err": np.full(9, 0.01)})
        system = "AB" if reference == u.ABmag else None
    calibrate(m, e if unit else None, r, Config(method="wls", score=False)).write(tmp_path / "out", report=False)
    run = json.loads((tmp_path / "out" / "run.json").read_text(encoding="utf-8"))
    scales = {"time_scale": "tai" if unit else None, "magnitude_system": system}
    assert run["scales"] == scales
    scales = {name: value for name, value in scales.items() if value}
    read = Solution.read(tmp_path / "out")
    assert QTable.read(tmp_path / "out" / "zeropoints.ecsv").meta == read.zeropoints.meta == scales
    for kind, column in (("zeropoints", "zeropoint"), ("stars", "mag"), ("measurements", "calibrated_mag")):
        field = pq.read_schema(tmp_path / "out" / f"{kind}.parquet").field(column)
        assert field.metadata.get(b"magnitude_system", b"").decode() == (system or "")
        assert getattr(read, kind)[column].info.meta.get("magnitude_system") == system


EXPOSURES = 6
UNLINKED = {
    "exposures": {"star_id": range(10 * EXPOSURES)},
    "one star": {"star_id": [7] * 10 * EXPOSURES},
    "one exposure": {"exposure_id": [5] * 10 * EXPOSURES, "star_id": range(10 * EXPOSURES)},
    "one pass": {},
}


@pytest.mark.parametrize("method", ["auto", "robust", "wls"])
@pytest.mark.parametrize("case", UNLINKED)
def test_little_is_told_in_json_and_counted(case: str, method: str, tmp_path: Path, calib: Run) -> None:
    """Where next to nothing could be solved for, or the solve was cut short."""
    rng = np.random.default_rng(4)
    n = 10 * EXPOSURES
    columns = {"star_id": np.tile(np.arange(10), EXPOSURES), "exposure_id": np.repeat(np.arange(EXPOSURES), 10)}
    table = pl.DataFrame(columns | {"mag": rng.normal(18, 0.02, n), "mag_err": rng.uniform(0.01, 0.03, n)})
    table = table.with_columns(*(pl.Series(name, list(values)) for name, values in UNLINKED[case].items()))
    table.write_parquet(tmp_path / "t.parquet")
    (tmp_path / "c.toml").write_text(f"max_passes = {1 if case == 'one pass' else 60}\n")
    out = tmp_path / "out"
    argv = ["solve", tmp_path / "t.parquet", "--out", out, "--method", method, "--config", tmp_path / "c.toml"]
    status, said, _ = calib(*map(str, argv))
    assert status == 0
    run = json.loads((out / "run.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    z, s, m = (pl.read_parquet(out / f"{name}.parquet") for name in ("zeropoints", "stars", "measurements"))
    used = int(m["used"].sum())
    assert used == z["n_measurements"].sum() == s["n_used"].sum() == run["counts"]["usable"]
    assert used == m.filter(pl.col("weight") > 0).height
    assert run["counts"].get("isolated", 0) == n - used == (0 if case in ("one star", "one pass") else n)
    assert (z["n_stars"] > 0).to_list() == z["zeropoint"].is_finite().to_list()
    line = next(line for line in said.splitlines() if line.startswith("rows"))
    assert line.split(None, 1)[1] == f"{used} of {n} used" + (f", {n - used} isolated" if used < n else "")
    again = Solution.read(out)
    again.write(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "run.json").read_text(encoding="utf-8")) == run
    assert calib("report", str(out))[0] == 0
    assert calib("compare", str(out), str(out))[0] == 0
    page = (out / "report.html").read_text(encoding="utf-8")
    assert not re.search(r">(None|nan|NaN|inf)\b", page)
