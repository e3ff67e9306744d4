from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import astropy.units as u
import numpy as np
import polars as pl
import pytest
from astropy.table import QTable

from calib import Config, Solution, calibrate
from calib.apply import Applied, apply_frames, apply_stream
from calib.simulate import PRESETS, simulate
from calib.tables import InputError


@pytest.fixture(scope="module")
def solution(solved: Path) -> Solution:
    return Solution.read(solved)


@pytest.fixture(scope="module")
def table(survey: Path) -> pl.DataFrame:
    return pl.read_parquet(survey / "measurements.parquet")


def whole(solution: Solution, inputs: object, **options: object) -> pl.DataFrame:
    return pl.concat(list(apply_frames(solution, inputs, **options)))


def test_gives_back_what_the_solve_said(solution: Solution, solved: Path, survey: Path) -> None:
    theirs = pl.read_parquet(solved / "measurements.parquet")
    ours = whole(solution, survey / "measurements.parquet")
    for name in ("star_id", "exposure_id", "band"):
        assert ours[name].equals(theirs[name])
    np.testing.assert_allclose(ours["calibrated_mag"], theirs["calibrated_mag"], rtol=0, atol=1e-9)
    np.testing.assert_allclose(ours["calibrated_mag_err"], theirs["calibrated_mag_err"], rtol=1e-6)
    np.testing.assert_allclose(ours["residual"], theirs["residual"], rtol=0, atol=1e-6)
    assert solution.diagnostics["model"]["surface_degree"] > 0, "the survey should test surfaces too"


@pytest.mark.parametrize(("preset", "per"), [("ccds", "detector"), ("ccds", "exposure"), ("strip", "exposure")])
def test_detectors_and_places_on_the_sky(preset: str, per: str, tmp_path: Path) -> None:
    from dataclasses import replace

    spec = replace(PRESETS[preset], n_exposures=12, nights=3, visits=4)
    if spec.ccds != (1, 1):
        spec = replace(spec, ccds=(2, 2), bands=("r",), stars_per_exposure=120.0)
    made = simulate(spec, 5)
    config = Config(method="robust", zeropoint_per=per, score=False, surface="plane", seeing_response="on")
    solution = calibrate(made.measurements, made.exposures, None, config)
    solution.write(tmp_path / "o", report=False)
    again = whole(Solution.read(tmp_path / "o"), made.measurements)
    np.testing.assert_allclose(
        again["calibrated_mag"], solution.measurement_frame()["calibrated_mag"], rtol=0, atol=1e-9
    )
    assert (solution.frames["zeropoints"].get_column("surface_x", default=pl.Series([0.0])) != 0).any()


def test_unknown_and_unusable_rows_are_nan_and_counted(solution: Solution, table: pl.DataFrame) -> None:
    some = table.head(6).with_columns(
        pl.Series("exposure_id", [1, 2, *table["exposure_id"][2:6]]),
        pl.Series("mag", [*table["mag"][:4], None, np.nan]),
        pl.Series("star_id", [*table["star_id"][:3], 77, *table["star_id"][4:6]]),
    )
    counts = Applied()
    frame = whole(solution, some, applied=counts)
    assert (counts.rows, counts.calibrated, counts.unknown_exposure, counts.unusable) == (6, 2, 2, 2)
    assert np.isfinite(frame["calibrated_mag"].to_numpy()).tolist() == [False, False, True, True, False, False]
    assert np.isfinite(frame["residual"].to_numpy()).tolist() == [False, False, True, False, False, False]
    assert frame["exposure_id"].to_list() == some["exposure_id"].to_list()


def test_what_is_missing_is_not_calibrated(table: pl.DataFrame) -> None:
    mag, err = table["mag"].to_list(), table["mag_err"].to_list()
    mag[:4] = [99.0, -9999.0, None, np.inf]
    err[4:8] = [0.0, -0.01, None, np.inf]
    flag = np.zeros(table.height, bool)
    flag[[1, 8]] = True
    spoilt = table.with_columns(pl.Series("mag", mag), pl.Series("mag_err", err), pl.Series("flag", flag))
    made, applied = calibrate(spoilt, config=Config(method="wls", score=False)), Applied()
    solved, again = made.measurement_frame(), whole(made, spoilt, applied=applied)
    for frame in (solved, again):
        assert frame.height == table.height
        missing = frame.select(~pl.col("calibrated_mag", "calibrated_mag_err").is_finite())
        assert missing["calibrated_mag"].arg_true().to_list() == [0, 1, 2, 3]
        assert missing["calibrated_mag_err"].arg_true().to_list() == [*range(8)]
    assert not solved["used"][:9].any()
    names = ("flagged", "null_mag", "non_finite_mag", "implausible_mag", "null_error", "non_finite_error")
    counts = made.diagnostics["counts"]
    assert [counts[name] for name in (*names, "nonpositive_error")] == [2, 1, 1, 1, 1, 1, 2]
    assert (applied.calibrated, applied.unusable, applied.without_error) == (table.height - 4, 4, 4)


def test_isolated_exposure_is_counted(table: pl.DataFrame) -> None:
    lonely = table.head(2).with_columns(exposure_id=pl.lit(7, pl.Int64), star_id=pl.lit(9, pl.Int64))
    both = pl.concat([table, lonely])
    made = calibrate(both, config=Config(method="wls", score=False))
    counts = Applied()
    whole(made, both, applied=counts)
    assert counts.unsolved_exposure == 2
    assert counts.calibrated == table.height


@pytest.mark.parametrize("ending", ["parquet", "csv", "fits", "ecsv"])
def test_formats(solution: Solution, table: pl.DataFrame, tmp_path: Path, ending: str) -> None:
    out = tmp_path / f"a.{ending}"
    seen: list[int] = []
    counts = apply_stream(solution, table, out, progress=seen.append)
    assert counts.calibrated == table.height
    assert seen[-1] == table.height
    expected = whole(solution, table)
    if ending in ("fits", "ecsv"):
        back = QTable.read(out)
        assert str(back["calibrated_mag"].unit) == "mag"
        values, ids = np.asarray(back["calibrated_mag"].value), np.asarray(back["star_id"])
    else:
        frame = pl.read_parquet(out) if ending == "parquet" else pl.read_csv(out)
        values, ids = frame["calibrated_mag"].to_numpy(), frame["star_id"].to_numpy()
    np.testing.assert_allclose(values, expected["calibrated_mag"], rtol=0, atol=1e-12)
    assert (ids == expected["star_id"].to_numpy()).all()
    assert [p.name for p in tmp_path.iterdir()] == [out.name]


def test_names_that_fits_cannot_hold(timed: tuple[pl.DataFrame, pl.DataFrame, np.ndarray], tmp_path: Path) -> None:
    one = timed[0].with_columns(star_id=pl.format("α-{} Cen", "star_id"))
    made = calibrate(one, config=Config(method="wls", score=False))
    for ending in ("parquet", "csv", "ecsv"):
        assert apply_stream(made, one, tmp_path / f"a.{ending}").calibrated == one.height
    text = rf"a.fits: star_id is not ASCII in {one.height:,} rows \(first: {one['star_id'][0]}\).* ends in .parquet"
    with pytest.raises(InputError, match=text):
        apply_stream(made, one, tmp_path / "a.fits")
    assert len(list(tmp_path.iterdir())) == 3, "nothing is left of the FITS file"


def test_nothing_is_left_of_a_failure(solution: Solution, table: pl.DataFrame, tmp_path: Path) -> None:
    table.write_parquet(tmp_path / "a.parquet")
    table.drop("x").write_parquet(tmp_path / "b.parquet")
    for ending in ("parquet", "csv", "ecsv"):
        out = tmp_path / f"out.{ending}"
        out.write_text("older")
        with pytest.raises(InputError):
            apply_stream(solution, [tmp_path / "a.parquet", tmp_path / "b.parquet"], out)
        assert out.read_text() == "older"
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_what_is_missing_is_named(solution: Solution, table: pl.DataFrame) -> None:
    with pytest.raises(InputError, match="no column x"):
        whole(solution, table.drop("x", "y"))
    with pytest.raises(InputError, match="exposure_id is String"):
        whole(solution, table.with_columns(pl.col("exposure_id").cast(pl.String)))
    with pytest.raises(InputError, match="star_id is String"):
        whole(solution, table.with_columns(pl.col("star_id").cast(pl.String)))


def test_band_of_the_exposure_where_rows_have_none(solution: Solution, table: pl.DataFrame) -> None:
    frame = whole(solution, table.drop("band"))
    assert frame["band"].equals(table["band"])
    np.testing.assert_array_equal(frame["calibrated_mag"], whole(solution, table)["calibrated_mag"])


def test_columns_do_not_depend_on_the_batch(
    timed: tuple[pl.DataFrame, pl.DataFrame, np.ndarray], tmp_path: Path
) -> None:
    one, exposures, _ = timed
    known = one.drop("band")
    unknown = known.head(50).with_columns(exposure_id=pl.lit(7, pl.Int64))
    banded = calibrate(one, config=Config(method="wls", score=False))
    plain = calibrate(known, config=Config(method="wls", score=False))
    some = exposures.head(3).with_columns(band=pl.lit("g"))  # a table of few exposures says which band they are in
    for solution, table in ((banded, None), (plain, some), (banded, some)):
        for number, inputs in enumerate(([known, unknown], [unknown, known])):
            for ending in ("csv", "parquet", "fits", "ecsv"):
                out = tmp_path / f"{number}.{ending}"
                assert apply_stream(solution, inputs, out, exposures=table).rows == one.height + 50
            for ending in ("csv", "parquet"):
                back = (pl.read_csv if ending == "csv" else pl.read_parquet)(tmp_path / f"{number}.{ending}")
                assert back.columns[:3] == ["star_id", "exposure_id", "band"]
                assert back.height == one.height + 50
    assert "band" not in whole(plain, [known, unknown]).columns


def test_names_of_the_solve_are_taken_where_none_are_given(table: pl.DataFrame) -> None:
    renamed = table.rename({"mag": "m_inst"})
    made = calibrate(renamed, config=Config(method="wls", score=False, columns={"mag": "m_inst"}))
    assert np.isfinite(whole(made, renamed)["calibrated_mag"].to_numpy()).all()
    assert np.isfinite(whole(made, table, columns={"mag": "mag"})["calibrated_mag"].to_numpy()).all()


def counts_of(table: pl.DataFrame, exptime: np.ndarray | None, unit: u.UnitBase = u.adu) -> QTable:
    """Rows as fluxes, in counts of exposures of some length, s, or in another unit."""
    flux = 10 ** (-0.4 * (table["mag"].to_numpy() - 31.4)) * (1.0 if exptime is None else exptime)
    out = QTable({name: table[name].to_numpy() for name in ("star_id", "exposure_id")})
    out["flux"], out["flux_err"] = flux * unit, flux * table["mag_err"].to_numpy() / 1.0857362 * unit
    return out


@pytest.fixture(scope="module")
def timed(table: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame, np.ndarray]:
    """Rows of one band, their exposures of 30, 90 and 150 s in turn, and each row's exposure time, s."""
    one = table.filter(pl.col("band") == "g")
    exposures = one.select(pl.col("exposure_id").unique(maintain_order=True)).with_row_index()
    exposures = exposures.select("exposure_id", exptime=30.0 + 60.0 * (pl.col("index") % 3))
    return one, exposures, one.join(exposures, on="exposure_id", maintain_order="left")["exptime"].to_numpy()


def test_conditions_are_mapped_as_in_the_solve(timed: tuple[pl.DataFrame, pl.DataFrame, np.ndarray]) -> None:
    one, exposures, exptime = timed
    theirs = exposures.rename({"exptime": "EXPT"}).with_columns(AM=pl.lit(1.2))
    counts = counts_of(one, exptime)
    config = Config(method="wls", score=False, columns={"exptime": "EXPT", "airmass": "AM"})
    made = calibrate(counts, theirs, config=config)
    expected = made.measurement_frame()["calibrated_mag"]
    np.testing.assert_allclose(whole(made, counts, exposures=theirs)["calibrated_mag"], expected, atol=1e-9)
    less = theirs.drop("AM")  # the solution has it
    np.testing.assert_allclose(whole(made, counts, exposures=less)["calibrated_mag"], expected, atol=1e-9)
    with pytest.raises(InputError, match="no column TYPO, which exptime was mapped to"):
        whole(made, counts, columns={"exptime": "TYPO"}, exposures=theirs)


def test_counts_take_the_exposure_times_of_the_solution(
    timed: tuple[pl.DataFrame, pl.DataFrame, np.ndarray], tmp_path: Path
) -> None:
    one, exposures, exptime = timed
    counts = counts_of(one, exptime)
    calibrate(counts, exposures, config=Config(method="wls", score=False)).write(tmp_path / "o", report=False)
    made, applied = Solution.read(tmp_path / "o"), Applied()
    expected = made.measurement_frame()["calibrated_mag"]
    np.testing.assert_allclose(whole(made, counts, applied=applied)["calibrated_mag"], expected, atol=1e-9)
    assert applied.warnings == []
    few = exposures.with_columns(pl.when(pl.int_range(pl.len()) % 2 == 0).then("exptime"))
    np.testing.assert_allclose(whole(made, counts, exposures=few)["calibrated_mag"], expected, atol=1e-9)
    banded = counts.copy()
    banded["band"] = one["band"].to_numpy()
    assert np.isnan(whole(made, banded)["calibrated_mag"].to_numpy()).all(), "the solution has no band g"
    counts["exposure_id"] = counts["exposure_id"].astype(str)
    with pytest.raises(InputError, match="exposure_id is String and in the solution Int64"):
        whole(made, counts)


def test_magnitudes_of_another_system_are_refused(timed: tuple[pl.DataFrame, pl.DataFrame, np.ndarray]) -> None:
    one, exposures, exptime = timed
    config = Config(method="wls", score=False)
    counts, rates = counts_of(one, exptime), counts_of(one, None, u.adu / u.s)
    fluxes = counts_of(one, None, u.nJy)
    of_rates, of_counts, of_fluxes = (calibrate(t, config=config) for t in (rates, counts, fluxes))
    plain = one.select("star_id", "exposure_id", "mag", "mag_err")
    np.testing.assert_array_equal(
        whole(of_counts, counts)["calibrated_mag"], of_counts.measurement_frame()["calibrated_mag"]
    )
    np.testing.assert_allclose(
        whole(of_rates, counts, exposures=exposures)["calibrated_mag"],
        of_rates.measurement_frame()["calibrated_mag"], atol=1e-9,
    )  # fmt: skip
    refused = (
        (of_rates, counts, {}, "of counts of whole exposures and in the solution instrumental; map exposure times"),
        (of_counts, counts, {"exposures": exposures}, "--columns exptime="),
        (of_counts, rates, {}, "instrumental and in the solution of counts of whole exposures"),
        (of_fluxes, counts, {}, "of counts of whole exposures and in the solution AB; give one system"),
        (of_fluxes, rates, {}, "instrumental and in the solution AB"),
        (of_rates, fluxes, {}, "AB and in the solution instrumental"),
    )
    unstated = calibrate(plain, config=config)
    for solution, table in ((of_fluxes, plain), (unstated, rates), (unstated, plain)):
        assert whole(solution, table)["calibrated_mag"].is_finite().all()
    for solution, table, options, text in refused:
        with pytest.raises(InputError, match=text):
            whole(solution, table, **options)


def test_solution_apply_is_a_qtable(solution: Solution, table: pl.DataFrame) -> None:
    got = solution.apply(table)
    assert str(got["calibrated_mag"].unit) == "mag"
    assert len(got) == table.height


def peak_mb(solved: Path, inputs: list[Path], out: Path) -> float:
    code = (
        "import resource, sys; from calib.apply import apply_stream; from calib import Solution;"
        "apply_stream(Solution.read(sys.argv[1]), sys.argv[3:], sys.argv[2]);"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)"
    )
    argv = [sys.executable, "-c", code, str(solved), str(out), *map(str, inputs)]
    return float(subprocess.run(argv, capture_output=True, text=True, check=True).stdout)


@pytest.mark.soak
def test_memory_does_not_grow_with_the_input(solved: Path, table: pl.DataFrame, tmp_path: Path) -> None:
    part = tmp_path / "part.parquet"
    pl.concat([table] * 50).sample(fraction=1.0, shuffle=True, seed=1).write_parquet(part)  # 0.3 M rows
    one = peak_mb(solved, [part], tmp_path / "one.parquet")
    ten = peak_mb(solved, [part] * 10, tmp_path / "ten.parquet")
    assert pl.scan_parquet(tmp_path / "ten.parquet").select(pl.len()).collect().item() == 500 * table.height
    assert ten - one < 100, f"{one:.0f} MB for 0.3 M rows, {ten:.0f} MB for 3 M"
