"""Stars and reference stars told by position give what their names give."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from astropy.table import QTable

from calib import Config, Solution, calibrate
from calib.apply import Applied, apply_frames, apply_stream
from calib.tables import InputError, read_measurements, read_reference
from calib.tables.star_finder import StarFinder, mean_places

SCATTER = 0.1 / 3600
"""Of positions, deg."""
CONFIG = Config(method="robust", score=False)


@pytest.fixture(scope="module")
def table(survey: Path) -> pl.DataFrame:
    """The simulated survey with the positional noise of an observed one."""
    frame = pl.read_parquet(survey / "measurements.parquet")
    rng = np.random.default_rng(1)
    east, north = SCATTER * rng.standard_normal((2, frame.height))
    return frame.with_columns(
        ra=(pl.col("ra") + east / np.cos(np.radians(frame["dec"].to_numpy()))) % 360.0, dec=pl.col("dec") + north
    )


@pytest.fixture(scope="module")
def named(table: pl.DataFrame, survey: Path) -> Solution:
    return calibrate(table, survey / "exposures.parquet", config=CONFIG)


@pytest.fixture(scope="module")
def folder(table: pl.DataFrame, survey: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from calib.cli import main

    home = tmp_path_factory.mktemp("by_position")
    table.drop("star_id").write_parquet(home / "m.parquet")
    (home / "c.toml").write_text('method = "robust"\nscore = false\n')
    given = [str(home / "m.parquet"), "--exposures", str(survey / "exposures.parquet")]
    assert main(["solve", *given, "--config", str(home / "c.toml"), "--out", str(home / "o"), "--quiet"]) == 0
    return home


@pytest.fixture(scope="module")
def placed(folder: Path) -> Solution:
    return Solution.read(folder / "o")


@pytest.fixture(scope="module")
def reference(table: pl.DataFrame, survey: Path) -> pl.DataFrame:
    stars = pl.read_parquet(survey / "truth_stars.parquet").join(mean_places(table), on="star_id")
    return stars.head(400).select("star_id", "ra", "dec", "band", "mag", mag_err=pl.lit(0.01))


def pulls(a: Solution, b: Solution) -> np.ndarray:
    one, other = a.frames["zeropoints"], b.frames["zeropoints"]
    assert one["exposure_id"].equals(other["exposure_id"])
    return ((one["zeropoint"] - other["zeropoint"]) / one["zeropoint_err"]).to_numpy()


def test_zero_points_are_those_of_named_stars(named: Solution, placed: Solution, table: pl.DataFrame) -> None:
    assert np.abs(pulls(named, placed)).max() < 0.05
    ratio = named.frames["zeropoints"]["zeropoint_err"] / placed.frames["zeropoints"]["zeropoint_err"]
    np.testing.assert_allclose(ratio, 1.0, rtol=0.02)
    # but for rows that the simulation gave a wrong name
    right = named.measurement_frame()["used"]
    pairs = pl.DataFrame({"name": table["star_id"], "place": placed.measurement_frame()["star_id"]}).filter(right)
    assert pairs.unique().height == pairs["name"].n_unique() == pairs["place"].n_unique()


def test_what_is_written(placed: Solution, folder: Path, table: pl.DataFrame) -> None:
    rows = pl.read_parquet(folder / "o" / "measurements.parquet")
    assert rows.columns[:5] == ["star_id", "exposure_id", "band", "ra", "dec"]
    assert rows["star_id"].dtype == pl.Int64
    assert rows["star_id"].null_count() == 0
    assert rows["ra"].equals(table["ra"])
    assert rows["dec"].equals(table["dec"])
    assert placed.measurements["ra"].unit == "deg"
    stars = pl.read_parquet(folder / "o" / "stars.parquet")
    assert stars.join(rows.select("star_id").unique(), on="star_id", how="anti").height == 0
    mean = rows.group_by("star_id", "band").agg(pl.col("ra", "dec").mean())
    mean = stars.select("star_id", "band").join(mean, on=["star_id", "band"], how="left", maintain_order="left")
    np.testing.assert_allclose(stars.select("ra", "dec"), mean.select("ra", "dec"), atol=1e-9)
    run = json.loads((folder / "o" / "run.json").read_text())
    told = run["association"]
    assert told["match_radius"] == run["config"]["match_radius"] == 1.0
    assert told["n_stars"] == stars["star_id"].n_unique()
    assert told["median_distance"] == pytest.approx(0.12, rel=0.1)
    assert told["n_ambiguous"] == run["counts"].get("ambiguous", 0)


def test_names_need_no_association(named: Solution) -> None:
    assert named.diagnostics["association"] is None
    assert "ra" not in named.measurement_frame().columns


def test_apply_finds_the_stars_again(placed: Solution, folder: Path, calib) -> None:
    given = pl.read_parquet(folder / "o" / "measurements.parquet")
    again = pl.concat(list(apply_frames(placed, folder / "m.parquet")))
    keys = ["star_id", "exposure_id", "band", "ra", "dec"]
    assert again.columns == [*keys, "calibrated_mag", "calibrated_mag_err", "residual"]
    assert (again["star_id"] == given["star_id"]).mean() > 0.999
    same = (again["star_id"] == given["star_id"]).to_numpy()
    np.testing.assert_allclose(again["calibrated_mag"].filter(same), given["calibrated_mag"].filter(same), atol=1e-9)
    np.testing.assert_allclose(again["residual"].filter(same), given["residual"].filter(same), atol=1e-6)
    assert placed.frames["stars"]["seeing_response"].std() > 0, "stars should answer to seeing"
    status, out, _ = calib("apply", folder / "o", folder / "m.parquet", "--out", folder / "a.parquet")
    assert status == 0
    assert f"{given.height:,} of {given.height:,} rows calibrated" in out
    assert pl.read_parquet(folder / "a.parquet")["star_id"].equals(again["star_id"])


@pytest.mark.parametrize("ending", ["parquet", "csv", "fits", "ecsv"])
def test_apply_where_no_star_is(placed: Solution, table: pl.DataFrame, tmp_path: Path, ending: str) -> None:
    lost = pl.int_range(pl.len()) < 3
    some = table.drop("star_id").head(9).with_columns(
        dec=pl.when(lost).then(pl.col("dec") + 4 / 3600).otherwise("dec"),
        ra=pl.when(pl.int_range(pl.len()) == 8).then(None).otherwise("ra"),
    )
    counts = Applied()
    frame = pl.concat(list(apply_frames(placed, some, applied=counts)))
    unknown = [True] * 3 + [False] * 5 + [True]
    assert frame["star_id"].is_null().to_list() == unknown
    assert (~frame["residual"].is_finite()).to_list() == unknown
    assert frame["calibrated_mag"].is_finite().all()  # as of a star that the solution does not know
    assert counts.calibrated == 9
    assert (pl.concat(list(apply_frames(placed, some, match_radius=5.0)))["star_id"].is_null()).sum() == 1
    path = tmp_path / f"a.{ending}"
    apply_stream(placed, some, path)
    if ending in ("parquet", "csv"):
        back = (pl.read_parquet if ending == "parquet" else pl.read_csv)(path)
        assert back["star_id"].to_list() == frame["star_id"].to_list()
    else:
        ids = QTable.read(path)["star_id"]
        assert ids.mask.tolist() == unknown
        assert ids[~ids.mask].tolist() == frame["star_id"].drop_nulls().to_list()


def test_apply_takes_no_names_for_ours(placed: Solution, table: pl.DataFrame) -> None:
    """Names of another table say nothing of stars that have ours."""
    wrong = table.head(500).with_columns(star_id=pl.int_range(1, pl.len() + 1))
    told = pl.concat(list(apply_frames(placed, wrong)))
    assert told["star_id"].equals(pl.concat(list(apply_frames(placed, wrong.drop("star_id"))))["star_id"])
    ours = wrong.with_columns(star_id=told["star_id"]).drop("ra", "dec")
    with pytest.raises(InputError, match="no column star_id, nor ra and dec"):
        list(apply_frames(placed, ours))
    by_name = pl.concat(list(apply_frames(placed, ours, columns={"star_id": "star_id"})))
    assert by_name["residual"].equals(told["residual"])


def test_apply_to_stars_without_positions(table: pl.DataFrame, survey: Path) -> None:
    nowhere, more = table.drop("ra", "dec"), table.drop("star_id").head(50)
    for response in ("off", "on"):
        config = Config(method="robust", score=False, seeing_response=response, extinction="off")
        solution = calibrate(nowhere, survey / "exposures.parquet", config=config)
        if response == "on":
            with pytest.raises(InputError, match="which answer to seeing each in its own way"):
                list(apply_frames(solution, more))
            continue
        told = pl.concat(list(apply_frames(solution, more)))
        assert told["star_id"].null_count() == 50
        np.testing.assert_allclose(
            told["calibrated_mag"], solution.measurement_frame()["calibrated_mag"][:50], rtol=0, atol=1e-9
        )


def test_text_names_are_found_by_position(table: pl.DataFrame, survey: Path) -> None:
    text = table.with_columns(star_id=pl.format("s{}", "star_id"))
    solution = calibrate(text, survey / "exposures.parquet", config=Config(method="wls", score=False, extinction="off"))
    told = pl.concat(list(apply_frames(solution, table.drop("star_id").head(100))))
    assert told["star_id"].to_list() == text["star_id"].head(100).to_list()


def test_check(folder: Path, calib) -> None:
    status, out, _ = calib("check", folder / "m.parquet")
    assert status == 0
    assert "told by position, within 1 arcsec; rows lie 0.12 arcsec from theirs in the median" in out
    status, out, _ = calib("check", folder / "m.parquet", "--json", "--match-radius", "0.2")
    told = json.loads(out)["association"]
    assert told["match_radius"] == 0.2
    assert told["n_stars"] > json.loads((folder / "o" / "run.json").read_text())["association"]["n_stars"]


def test_radius_from_everywhere(folder: Path, calib, monkeypatch, tmp_path: Path) -> None:
    def used(*argv: object) -> float:
        status, out, err = calib("check", folder / "m.parquet", "--json", *argv)
        assert status == 0, err
        return json.loads(out)["association"]["match_radius"]

    (tmp_path / "c.toml").write_text("match_radius = 0.7\n")
    assert used() == 1.0
    monkeypatch.setenv("CALIB_MATCH_RADIUS", "0.8")
    assert used() == 0.8
    assert used("--config", tmp_path / "c.toml") == 0.7
    assert used("--config", tmp_path / "c.toml", "--match-radius", "0.9") == 0.9
    for value, said in (("wide", "in arcsec"), ("0", "0.01 to 30"), ("31", "0.01 to 30"), ("nan", "0.01 to 30")):
        monkeypatch.setenv("CALIB_MATCH_RADIUS", value)
        status, out, err = calib("check", folder / "m.parquet")
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert said in err


@pytest.fixture(scope="module")
def by_name(table: pl.DataFrame, survey: Path, reference: pl.DataFrame) -> Solution:
    return calibrate(table, survey / "exposures.parquet", reference.drop("ra", "dec"), CONFIG)


def test_references_by_position_are_those_by_name(
    table: pl.DataFrame, survey: Path, reference: pl.DataFrame, by_name: Solution
) -> None:
    solution = calibrate(table, survey / "exposures.parquet", reference.drop("star_id"), CONFIG)
    assert by_name.frames["zeropoints"]["anchored"].any()
    assert solution.frames["zeropoints"].equals(by_name.frames["zeropoints"])
    counts = solution.diagnostics["counts"]
    assert (counts["reference_usable"], counts["reference_unmatched"]) == (400, 0)


def test_references_of_stars_without_names(
    table: pl.DataFrame, survey: Path, reference: pl.DataFrame, by_name: Solution
) -> None:
    """Their own names are of other stars than ours: positions tell them where both are there."""
    solution = calibrate(table.drop("star_id"), survey / "exposures.parquet", reference, CONFIG)
    assert np.abs(pulls(by_name, solution)).max() < 0.05
    assert solution.diagnostics["counts"]["reference_usable"] == 400
    with pytest.raises(InputError, match="no column star_id, nor ra and dec"):
        calibrate(table.drop("star_id"), None, reference.drop("ra", "dec"), CONFIG)


def test_references_that_are_unclear_are_left_out_and_counted(table: pl.DataFrame, reference: pl.DataFrame) -> None:
    measured = read_measurements(table)
    r = reference.filter(pl.col("band") == "g").head(50).drop("star_id").with_columns(pl.col("dec") + 0.05 / 3600)
    clear = read_reference(r).of(measured)
    assert clear.counts == {"usable": 50, "unmatched": 0}
    assert clear.warnings == []
    near = r.head(3).with_columns(pl.col("dec") + 0.3 / 3600, pl.col("mag") + 1)  # of the same star, less near
    same = r[10:12].with_columns(pl.col("dec") + 0.03 / 3600, pl.col("mag") + 1)  # as near
    far = r[20:24].with_columns(pl.col("dec") + 5 / 3600)
    more = pl.concat([r, near, same, far])
    found = read_reference(more).of(measured)
    assert found.counts == {"usable": 48, "unmatched": 4, "ambiguous": 7}
    assert "7 reference rows not used: within 1 arcsec they could be of either of two stars" in found.warnings[-1]
    assert set(found.frame["star_id"]) < set(clear.frame["star_id"])
    assert found.frame["mag"].max() <= clear.frame["mag"].max()
    assert found.frame.columns == ["star_id", "band", "mag", "mag_err"]
    # a second band is no second star
    both = pl.concat([r, r.with_columns(band=pl.lit("r"))])
    assert read_reference(both).of(measured).counts == {"usable": 100, "unmatched": 0}


def test_references_between_two_stars() -> None:
    stars = pl.DataFrame({"star_id": [7, 8, 9], "ra": [0.0, 0.0, 359.9999], "dec": [0.0, 0.7 / 3600, 0.0]})
    find = StarFinder(stars, 1.0)
    dec = np.array([0.0, 0.1, 0.3, 0.35, 0.6, 0.7]) / 3600
    ids, unclear = find.one_to_one(np.zeros(6), dec, np.arange(6))
    assert unclear.tolist() == [False, False, True, True, False, False]
    assert ids.to_list() == [7, 7, None, None, 8, 8]
    ra, dec = np.array([360.0, 359.99995, np.nan, 180.0]), np.array([0.3 / 3600, 0, 0, 0])
    assert find(ra, dec).to_list() == [7, 9, None, None]


def test_references_that_cannot_be_found(table: pl.DataFrame, reference: pl.DataFrame, calib, tmp_path: Path) -> None:
    placed = reference.drop("star_id")
    with pytest.raises(InputError, match="the measurements have no ra and dec by which reference stars could be found"):
        read_reference(placed).of(read_measurements(table.drop("ra", "dec")))
    with pytest.raises(InputError, match="none of 400 reference stars can be told by position"):
        read_reference(placed.with_columns(pl.col("dec") + 0.01)).of(read_measurements(table))
    with pytest.raises(InputError, match="check star_id and the names of bands"):
        read_reference(placed.with_columns(band=pl.lit("z")).unique(["ra", "dec"])).of(read_measurements(table))
    with pytest.raises(InputError, match="several magnitudes"):
        read_reference(pl.concat([placed, placed.head(1).with_columns(pl.col("mag") + 1)]))
    lost = read_reference(placed.with_columns(ra=pl.when(pl.int_range(pl.len()) < 2).then(None).otherwise("ra")))
    assert lost.counts == {"usable": 398, "no_position": 2}
    table.drop("ra", "dec").write_parquet(tmp_path / "m.parquet")
    placed.write_csv(tmp_path / "r.csv")
    given = [tmp_path / "m.parquet", "--reference", tmp_path / "r.csv"]
    status, out, err = calib("solve", *given, "--out", tmp_path / "o")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "r.csv: no column star_id" in err
    assert not (tmp_path / "o").exists()


def test_a_preset_through_every_command(table: pl.DataFrame, calib, monkeypatch, tmp_path: Path) -> None:
    """Rubin's names: exposures in a table of their own, stars by position, and what --columns says first."""
    one = table.filter(pl.col("band") == "g")
    flux = 10 ** (0.4 * (31.4 - 25.0 - one["mag"]))
    theirs = one.select(
        visit="exposure_id", band="band", coord_ra="ra", coord_dec="dec", x="x", y="y", sky=pl.lit(-1.0),
        psfFlux=flux, psfFluxErr=flux * one["mag_err"] * 0.92103, psfFlux_flag=pl.lit(False),
    )  # fmt: skip
    theirs.write_parquet(tmp_path / "s.parquet")
    (tmp_path / "c.toml").write_text('method = "wls"\nscore = false\nextinction = "off"\npreset = "lsst"\n')
    status, out, err = calib("solve", tmp_path / "s.parquet", "--out", tmp_path / "o", "--config", tmp_path / "c.toml")
    assert status == 0, err
    run = json.loads((tmp_path / "o" / "run.json").read_text())
    assert run["config"]["preset"] == "lsst"
    assert run["inputs"][0]["columns"]["flux"] == "psfFlux"
    assert run["scales"]["magnitude_system"] == "AB"
    assert run["association"]["n_stars"] == pytest.approx(one["star_id"].n_unique(), abs=3)
    for preset in ([], ["--preset", "lsst"]):
        status, out, err = calib(
            "apply", tmp_path / "o", tmp_path / "s.parquet", "--out", tmp_path / "a.parquet", *preset
        )
        assert status == 0, err
        assert pl.read_parquet(tmp_path / "a.parquet")["residual"].is_finite().mean() > 0.99
    monkeypatch.setenv("CALIB_PRESET", "lsst")
    assert calib("check", tmp_path / "s.parquet")[0] == 0
    status, out, err = calib("check", tmp_path / "s.parquet", "--preset", "ztf")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "preset ztf" in err
    status, _, err = calib("check", tmp_path / "s.parquet", "--columns", "flux=none")
    assert (status, err.count("\n")) == (2, 1)
    assert "none" in err
    monkeypatch.setenv("CALIB_PRESET", "demo")  # one of calib simulate's
    status, out, err = calib("check", tmp_path / "s.parquet")
    assert (status, out) == (2, "")
    assert "CALIB_PRESET is 'demo'; it is one of ztf, lsst, des, ps1, gaia" in err
    assert calib("simulate", "--out", tmp_path / "sim", "--exposures", "4", "--quiet")[0] == 0
    assert calib("check", tmp_path / "s.parquet", "--preset", "sdss")[0] == 2
