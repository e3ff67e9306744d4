"""Solutions with exposures added: what a solve of all measurements with the same terms gives, for less work."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from calib import Config, Solution, calibrate
from calib.model.problem import Problem
from calib.solution import SolutionError
from calib.solve.begin import LEAST_FLOOR, Beginning
from calib.solve.select import design_of
from calib.tables import InputError
from calib.tables.measurements import read_parts
from calib.tables.parts import Part
from calib.tables.stage import SOLUTION_FILES
from calib.update import GROWN

CONFIG = Config(method="robust", score=False, tolerance=1e-3, max_passes=300)
"""So tight that an answer does not hang on where it began: by the usual tolerance a solve may end 0.2 errors away."""


def of_nights(folder: Path, *cuts: int) -> list[tuple[pl.DataFrame, pl.DataFrame]]:
    """Measurements and exposures of a simulated survey, cut before these of its nights."""
    rows, exposures = (pl.read_parquet(folder / f"{name}.parquet") for name in ("measurements", "exposures"))
    parts = []
    for nights in np.split(np.unique(exposures["night"]), cuts):
        mine = exposures.filter(pl.col("night").is_in(nights.tolist()))
        parts.append((rows.filter(pl.col("exposure_id").is_in(mine["exposure_id"].to_list())), mine))
    return parts


def written(parts: list[tuple[pl.DataFrame, pl.DataFrame]], folder: Path) -> list[tuple[Path, Path]]:
    paths = [(folder / f"m{k}.parquet", folder / f"e{k}.parquet") for k in range(len(parts))]
    for frames, files in zip(parts, paths, strict=True):
        for frame, file in zip(frames, files, strict=True):
            frame.write_parquet(file)
    return paths


def together(parts: Any, solution: Solution, config: Config = CONFIG, reference: Any = None) -> Solution:
    """The solve of all parts from nothing, with the terms of a solution."""
    terms = solution.diagnostics["model"]["terms"]
    return calibrate([Part(*part) for part in parts], None, reference, replace(config, **terms))


def pulls(a: Solution, b: Solution) -> tuple[np.ndarray, np.ndarray]:
    """Differences of zero-points over their errors, and of the logarithms of these."""
    x, y = a.frames["zeropoints"], b.frames["zeropoints"]
    assert x.select("exposure_id", "band").equals(y.select("exposure_id", "band"))
    known = x["zeropoint"].is_finite().to_numpy()
    assert (known == y["zeropoint"].is_finite().to_numpy()).all()
    err = y["zeropoint_err"].to_numpy()[known]
    return (
        (x["zeropoint"] - y["zeropoint"]).to_numpy()[known] / err,
        np.log(x["zeropoint_err"].to_numpy()[known] / err),
    )


def rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(x**2)))


class Passes:
    """Counts the passes of all robust solves."""

    def __init__(self) -> None:
        self.n = 0

    def __call__(self, stage: str, number: int, change: float) -> None:
        self.n += number > 0


@pytest.fixture(scope="module")
def nights(survey: Path) -> list[tuple[pl.DataFrame, pl.DataFrame]]:
    parts = of_nights(survey, 1, 2)
    assert min(rows.height for rows, _ in parts) > 500
    return parts


@pytest.fixture(scope="module")
def home(nights: list[tuple[pl.DataFrame, pl.DataFrame]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables of three stretches of nights, and a solution of the first in a folder."""
    folder = tmp_path_factory.mktemp("update")
    ((rows, exposures), *_) = written(nights, folder)
    calibrate(str(rows), str(exposures), config=CONFIG).write(folder / "old", report=False)
    return folder


@pytest.fixture(scope="module")
def files(home: Path) -> list[tuple[str, str]]:
    return [(str(home / f"m{k}.parquet"), str(home / f"e{k}.parquet")) for k in range(3)]


@pytest.fixture(scope="module")
def old(home: Path) -> Solution:
    return Solution.read(home / "old")


@pytest.fixture(scope="module")
def updated(old: Solution, files: list[tuple[str, str]]) -> Solution:
    return old.update(*files[1])


class TestTheAnswer:
    @pytest.mark.parametrize(("response", "within"), [("off", 0.02), ("auto", 0.1)])
    def test_is_that_from_nothing_for_less_work(self, response: str, within: float, tmp_path: Path) -> None:
        """Two thirds of the nights, and then the rest; stars that answer to seeing may rest in more than one way."""
        from calib.cli import main

        argv = ["simulate", "--preset", "demo", "--exposures", "60", "--seed", "3", "--out", str(tmp_path / "sim")]
        assert main([*argv, "--quiet"]) == 0
        parts = of_nights(tmp_path / "sim", 3)
        choice, update = Passes(), Passes()
        config = replace(CONFIG, seeing_response=response)
        older = calibrate(*parts[0], config=config, progress=choice)
        assert older.diagnostics["model"]["terms"]["seeing_response"] == ("on" if response == "auto" else "off")
        new = older.update(*parts[1], old=parts[0][0], old_exposures=parts[0][1], progress=update)
        z, errors = pulls(new, together(parts, older, config))
        assert rms(z) < within
        assert rms(errors) < 0.02
        assert update.n < 0.6 * choice.n
        # it is not that of the old measurements: their exposures have profited
        before = older.frames["zeropoints"].select("exposure_id", "band", "zeropoint_err")
        both = new.frames["zeropoints"].join(before, on=["exposure_id", "band"], suffix="_before")
        assert both.height == before.height
        assert (both["zeropoint_err"] / both["zeropoint_err_before"]).median() < 0.95

    def test_twice_in_a_row(
        self, old: Solution, updated: Solution, files: list[tuple[str, str]], tmp_path: Path
    ) -> None:
        updated.write(tmp_path / "o", report=False)
        twice = Solution.read(tmp_path / "o").update(*files[2])
        z, errors = pulls(twice, together(files, old))
        assert rms(z) < 0.05
        assert rms(errors) < 0.02
        run = twice.diagnostics
        assert run["updated_from"]["folder"] == str(tmp_path / "o")
        assert run["updated_from"]["rows_of_choice"] == old.diagnostics["counts"]["rows"]
        assert [(r["kind"], r["part"]) for r in run["inputs"]] == [
            (kind, part) for kind in ("measurements", "exposures") for part in range(3)
        ]
        grown = run["counts"]["rows"] > GROWN * old.diagnostics["counts"]["rows"]
        assert any("chosen with" in text for text in run["warnings"]) == grown

    def test_begins_where_the_old_one_rests(self, old: Solution, files, nights) -> None:
        measurements = read_parts([Part(*part) for part in files[:2]])
        problem = Problem.of(measurements, CONFIG)
        of = (old.frames["zeropoints"], old.frames["stars"], old.frames["terms"], old.diagnostics["model"])
        begun = Beginning.of(problem, measurements.frame, *of)
        n = nights[0][0].height
        before = old.measurement_frame()["residual"].to_numpy()
        np.testing.assert_allclose(begun.residual[:n], before, atol=1e-6)
        assert np.isnan(begun.residual[n:]).all()
        assert np.isnan(begun.levelled[n:]).all()
        first = problem.nodes["exposure_id"].is_in(nights[0][1]["exposure_id"].to_list()).to_numpy()
        assert (np.isfinite(begun.error_scale2) == first).all()
        design = design_of(problem, 0)
        start = begun.start(problem, design)
        noise = begun.noise(problem, design, start)
        np.testing.assert_allclose(np.sqrt(noise.error_scale2[first]), old.frames["zeropoints"]["error_scale"])
        for b, band in enumerate(problem.bands):
            assert noise.survey_scale2[b] == pytest.approx(old.diagnostics["model"]["error_scale"][band] ** 2)
            assert noise.floor[b] >= LEAST_FLOOR
        # new exposures lie where their stars are
        row = problem.graph.order
        assert np.median(np.abs(start.residual[row >= n])) < 2.0 * np.median(np.abs(start.residual[row < n]))

    @pytest.mark.parametrize("method", ["wls", "learned"])
    def test_by_other_methods(self, method: str, files: list[tuple[str, str]]) -> None:
        config = replace(CONFIG, method=method, adapt=False)
        older = calibrate(*files[0], config=config)
        new = older.update(*files[1])
        assert new.diagnostics["method"] == method
        z, errors = pulls(new, together(files[:2], older, config))
        assert rms(z) < (1e-6 if method == "wls" else 0.05)
        assert rms(errors) < (1e-6 if method == "wls" else 0.02)


    @pytest.mark.parametrize(
        "asked",
        [
            {"magnitude_term": "background"}, {"magnitude_term": "slope"}, {"instrument": "offset"},
            {"seeing_response": "on"}, {"extinction": "off"},
        ],
        ids=lambda asked: " ".join(f"{k}-{v}" for k, v in asked.items()),
    )  # fmt: skip
    def test_with_terms(self, asked: dict[str, str], files) -> None:
        config = replace(CONFIG, **{"surface": "off", "seeing_response": "off", "instrument": "off"} | asked)
        older = calibrate(*files[0], config=config)
        new = older.update(*files[1])
        assert {key: new.diagnostics["config"][key] for key in asked} == asked
        z, errors = pulls(new, together(files[:2], older, config))
        assert rms(z) < 0.1
        assert abs(np.median(errors)) < 0.02

    def test_with_a_catalogue_as_a_node(self, survey: Path, files, tmp_path: Path) -> None:
        stars = pl.read_parquet(survey / "truth_stars.parquet").head(300)
        reference = stars.select("star_id", "band", "mag", mag_err=pl.lit(0.01))
        config = replace(CONFIG, extinction="on", surface="off", seeing_response="off")
        older = calibrate(*files[0], reference, config)
        new = older.update(*files[1], old_reference=reference)
        assert new.frames["zeropoints"]["anchored"].any()
        assert rms(pulls(new, together(files[:2], older, config, reference))[0]) < 0.1

    def test_with_zeropoints_of_detectors(self, nights) -> None:
        split = [(rows.with_columns(detector=pl.col("star_id") % 2), around) for rows, around in nights[:2]]
        config = replace(CONFIG, zeropoint_per="detector", surface="off", seeing_response="off")
        older = calibrate(*split[0], config=config)
        new = older.update(*split[1], old=split[0][0], old_exposures=split[0][1])
        assert new.frames["zeropoints"].height > older.frames["zeropoints"].height
        assert rms(pulls(new, together(split, older, config))[0]) < 0.1

    def test_with_a_latent_seeing(self) -> None:
        """Stars of a stare that answer to a seeing that no table gives."""
        rng = np.random.default_rng(5)
        n_stars, n = 400, 90
        seeing, answer = rng.normal(size=n), np.zeros(n_stars)
        answer[:80] = -rng.exponential(0.012, 80)
        star, exposure = np.tile(np.arange(n_stars), n), np.repeat(np.arange(n), n_stars)
        mag = rng.uniform(14, 18, n_stars)[star] + answer[star] * seeing[exposure] - rng.normal(0, 0.05, n)[exposure]
        columns = {"star_id": star, "exposure_id": exposure, "mag": mag + rng.normal(0, 0.005, star.size)}
        table = pl.DataFrame(columns).with_columns(mag_err=pl.lit(0.005))
        first, rest = (table.filter(side) for side in (pl.col("exposure_id") < 60, pl.col("exposure_id") >= 60))
        older = calibrate(first, config=CONFIG)
        assert "latent_seeing" in older.frames["zeropoints"].columns
        new = older.update(rest, old=first)
        found = new.frames["zeropoints"]["latent_seeing"].to_numpy()
        assert np.corrcoef(found, seeing)[0, 1] > 0.9
        assert rms(pulls(new, together([(first,), (rest,)], older))[0]) < 0.05


class TestTables:
    def test_rows_are_those_of_all_tables_in_order(self, updated: Solution, nights) -> None:
        rows = updated.measurement_frame()
        given = pl.concat([part for part, _ in nights[:2]])
        assert rows["star_id"].equals(given["star_id"])
        assert rows["exposure_id"].equals(given["exposure_id"])
        run = updated.diagnostics
        reasons = {k: v for k, v in run["counts"].items() if k != "rows"}
        assert sum(reasons.values()) == run["counts"]["rows"] == given.height
        assert set(updated.frames["zeropoints"]["exposure_id"]) == set(given["exposure_id"])

    def test_repeated_rows_and_exposures(self, old: Solution, nights, files) -> None:
        """Rows that are there already are duplicates; other rows of an old exposure are as good as any."""
        (rows, exposures), (more, around), _ = nights
        one = rows["exposure_id"][0]
        late = rows.filter(pl.col("exposure_id") == one).head(9).with_columns(pl.col("star_id") + 10**9)
        night = pl.concat([rows.head(5), more, late])
        solution = old.update(night, pl.concat([exposures, around]))
        assert solution.diagnostics["counts"]["duplicate"] == 5
        assert solution.diagnostics["counts"]["rows"] == rows.height + night.height
        had = old.frames["zeropoints"].filter(pl.col("exposure_id") == one)["n_measurements"].sum()
        has = solution.frames["zeropoints"].filter(pl.col("exposure_id") == one)["n_measurements"].sum()
        assert has == had + 9
        other = around.vstack(exposures.head(1).with_columns(pl.col("airmass") + 0.5))
        with pytest.raises(InputError, match="2 rows share exposure_id with another"):
            old.update(night, other)

    def test_a_new_band_begins_fresh(self, nights, old: Solution, files) -> None:
        rows, around = nights[1]
        new = rows.with_columns(band=pl.lit("z"), mag=pl.col("mag") + 3.0)
        solution = old.update(new, around)
        z = solution.frames["zeropoints"]
        assert set(z["band"]) == {"g", "r", "z"}
        assert z.filter(pl.col("band") == "z")["zeropoint"].is_finite().all()
        fresh = together([files[0], (new, around)], old)
        assert rms(pulls(solution, fresh)[0]) < 0.05
        scales = [s.diagnostics["model"]["error_scale"]["z"] for s in (solution, fresh)]
        assert scales[0] == pytest.approx(scales[1], rel=0.02)

    def test_new_detectors(self, nights) -> None:
        """Offsets of detectors that are known are begun from; one more is found."""
        rng = np.random.default_rng(2)
        offset = {"a": 0.02, "b": -0.02, "c": 0.01}

        def on(part: tuple[pl.DataFrame, pl.DataFrame], names: str) -> tuple[pl.DataFrame, pl.DataFrame]:
            which = rng.choice(list(names), part[0].height)
            shift = np.array([offset[name] for name in which])
            return part[0].drop("x", "y").with_columns(pl.Series("detector", which), pl.col("mag") - shift), part[1]

        parts = [on(nights[0], "ab"), on(nights[1], "abc")]
        older = calibrate(*parts[0], config=replace(CONFIG, instrument="offset"))
        new = older.update(*parts[1], old=parts[0][0], old_exposures=parts[0][1])
        assert rms(pulls(new, together(parts, older))[0]) < 0.2
        terms = new.frames["terms"].filter((pl.col("name") == "detector_offset") & (pl.col("band") == "g"))
        found = dict(terms.select("detector", "value").iter_rows())
        assert found["a"] - found["b"] == pytest.approx(0.04, abs=0.004)
        assert found["c"] - found["b"] == pytest.approx(0.03, abs=0.006)

    def test_text_and_whole_numbers(self, nights, tmp_path: Path) -> None:
        (rows, around), (more, later), _ = nights
        rows.write_csv(tmp_path / "a.csv")
        around.write_csv(tmp_path / "ae.csv")
        older = calibrate(str(tmp_path / "a.csv"), str(tmp_path / "ae.csv"), config=CONFIG)
        assert older.frames["stars"]["star_id"].dtype == pl.Int64
        text = more.with_columns(pl.format("{}", "star_id"))
        first = pl.int_range(pl.len()) == 0
        named = text.with_columns(star_id=pl.when(first).then(pl.lit("x1")).otherwise("star_id"))
        named.write_csv(tmp_path / "b.csv")
        new = older.update(str(tmp_path / "b.csv"), later)
        assert new.frames["stars"]["star_id"].dtype == pl.String
        assert new.diagnostics["counts"]["rows"] == rows.height + more.height
        rows.write_parquet(tmp_path / "a.parquet")
        older = calibrate(str(tmp_path / "a.parquet"), around, config=CONFIG)
        with pytest.raises(InputError, match="star_id is String and in .*a.parquet Int64"):
            older.update(text, later, old_exposures=around)

    def test_stars_told_by_position(self, nights) -> None:
        (rows, around), (more, later), _ = nights
        nameless = [(part.drop("star_id"), e) for part, e in nights[:2]]
        older = calibrate(*nameless[0], config=CONFIG)
        # names in the new table are of others, and say nothing
        new = older.update(more, later, old=nameless[0][0], old_exposures=around)
        assert new.diagnostics["association"]["n_stars"] > older.diagnostics["association"]["n_stars"]
        assert rms(pulls(new, together(nameless, older))[0]) < 0.05

    def test_references(self, survey: Path, files, tmp_path: Path) -> None:
        stars = pl.read_parquet(survey / "truth_stars.parquet").filter(pl.col("band") == "g").head(300)
        reference = tmp_path / "r.csv"
        stars.select("star_id", "band", "mag", mag_err=pl.lit(0.01)).write_csv(reference)
        older = calibrate(*files[0], str(reference), CONFIG)
        new = older.update(*files[1])
        z = new.frames["zeropoints"]
        assert z.filter(pl.col("band") == "g")["anchored"].all()
        assert not z.filter(pl.col("band") == "r")["anchored"].any()
        assert rms(pulls(new, together(files[:2], older, reference=str(reference)))[0]) < 0.05
        reference.write_text(reference.read_text() + "\n")
        with pytest.raises(InputError, match=r"r\.csv: has changed since the older solution was made of it"):
            older.update(*files[1])

    def test_names_of_its_own_for_each_table(self, nights, updated: Solution, files, old: Solution, tmp_path) -> None:
        (rows, around), (more, later), _ = nights
        renamed = more.rename({"mag": "m_psf", "mag_err": "sigma"})
        names = {"mag": "m_psf", "mag_err": "sigma"}
        new = old.update(renamed, later, columns=names)
        assert new.frames["zeropoints"].equals(updated.frames["zeropoints"])
        assert new.diagnostics["parts"] == [{"columns": {}, "preset": ""}, {"columns": names, "preset": ""}]
        assert new.diagnostics["config"]["columns"] == names  # as the next night is likely to have them
        with pytest.raises(InputError, match="no column color, which .*m0.parquet has"):
            old.update(more.drop("color"), later)
        without = old.update(more.drop("color"), later, columns={"color": ""})
        assert all("color" not in record["columns"] for record in without.diagnostics["inputs"])
        # conditions may stand with the measurements of one and in the exposure table of another
        inside = more.join(later.drop("ra", "dec"), on="exposure_id", how="left", maintain_order="left")
        assert rms(pulls(old.update(inside), updated)[0]) < 1e-3

    def test_other_conditions_are_refused(self, nights, old: Solution) -> None:
        more, later = nights[1]
        with pytest.raises(InputError, match="no column airmass, which .*e0.parquet has"):
            old.update(more)
        with pytest.raises(InputError, match="its columns or their types differ"):
            old.update(more, later.drop("seeing"))


class TestOldTables:
    def test_in_memory_are_given_again(self, nights) -> None:
        (rows, around), (more, later), (last, latest) = nights
        older = calibrate(rows, around, config=CONFIG)
        with pytest.raises(InputError, match="measurements in memory; give them again, as old of Solution.update"):
            older.update(more, later)
        with pytest.raises(InputError, match="exposures in memory; give them again, as old_exposures"):
            older.update(more, later, old=rows)
        with pytest.raises(InputError, match=r"is not what the older solution was made of \([0-9,]+ rows of measur"):
            older.update(more, later, old=rows.head(20), old_exposures=around)
        with pytest.raises(InputError, match="the older solution was made without reference"):
            older.update(more, later, old=rows, old_exposures=around, old_reference=rows)
        new = older.update(more, later, old=rows, old_exposures=around)
        with pytest.raises(InputError, match="old: the solution was made of 2 sets of tables"):
            new.update(last, latest, old=rows)
        twice = new.update(last, latest, old=[rows, more], old_exposures=[around, later])
        assert twice.diagnostics["counts"]["rows"] == rows.height + more.height + last.height

    def test_that_are_elsewhere_are_found_from_where_the_solve_was(
        self, nights, old: Solution, files, tmp_path: Path, monkeypatch
    ) -> None:
        (here, there) = (tmp_path / name for name in ("here", "there"))
        here.mkdir()
        there.mkdir()
        written(nights[:1], here)
        monkeypatch.chdir(here)
        older = calibrate("m0.parquet", "e0.parquet", config=CONFIG)
        monkeypatch.chdir(there)
        new = older.update(*files[1])
        assert new.diagnostics["inputs"][0]["path"] == str(here / "m0.parquet")
        shutil.move(here / "m0.parquet", here / "gone.parquet")
        with pytest.raises(InputError, match="m0.parquet: is gone, and the older solution was made of it"):
            older.update(*files[1])
        again = older.update(*files[1], old=str(here / "gone.parquet"))
        assert again.frames["zeropoints"].equals(new.frames["zeropoints"])
        with pytest.raises(InputError, match="is not what the older solution was made of"):
            older.update(*files[1], old=files[2][0])

    def test_unknown(self, old: Solution, files) -> None:
        lacking = replace(old, diagnostics={k: v for k, v in old.diagnostics.items() if k != "parts"})
        with pytest.raises(SolutionError, match="does not say what an update begins from; solve again"):
            lacking.update(*files[1])


class TestCommand:
    def test_is_the_call_in_python(self, calib, home: Path, files, updated: Solution, tmp_path: Path) -> None:
        out = tmp_path / "o"
        argv = ["update", home / "old", files[1][0], "--exposures", files[1][1], "--out", out]
        status, said, err = calib(*argv)
        assert (status, err) == (0, "")
        assert f"robust: taken over from {home / 'old'}" in said
        assert sorted(p.name for p in out.iterdir()) == sorted(SOLUTION_FILES)
        z = pl.read_parquet(out / "zeropoints.parquet")
        assert z.equals(updated.frames["zeropoints"].select(z.columns))
        run = json.loads((out / "run.json").read_text(), parse_constant=pytest.fail)
        assert run["config"]["method"] == "robust"
        assert {run["config"][key] for key in run["model"]["terms"]}.isdisjoint({"auto"})
        assert run["updated_from"]["folder"] == str(home / "old")
        assert [t["carried"] for t in run["terms_tried"]] == [True]
        status, said, _ = calib(*argv, "--resume")
        assert (status, "already" in said) == (0, True)
        assert calib(*argv, "--resume", "--quiet", "--match-radius", "2")[:2] == (0, "")
        assert json.loads((out / "run.json").read_text())["config"]["match_radius"] == 2

    def test_options_by_environment(self, calib, home: Path, files, tmp_path: Path, no_page, monkeypatch) -> None:
        table = pl.read_parquet(files[1][0]).rename({"mag": "m"})
        table.write_parquet(tmp_path / "m.parquet")
        for name, value in {
            "COLUMNS": "mag=m", "EXPOSURES": files[1][1], "OUT": str(tmp_path / "o"), "QUIET": "1", "COVARIANCE": "1",
            "METHOD": "wls", "MATCH_RADIUS": "1.5", "WORKERS": "2",
        }.items():  # fmt: skip
            monkeypatch.setenv(f"CALIB_{name}", value)
        assert calib("update", home / "old", tmp_path / "m.parquet") == (0, "", "")
        config = json.loads((tmp_path / "o" / "run.json").read_text())["config"]
        assert (config["columns"], config["match_radius"], config["covariance"]) == ({"mag": "m"}, 1.5, True)
        assert config["workers"] == 2
        assert config["method"] == "robust"  # of the solution, whatever is usual here
        assert (tmp_path / "o" / "covariance.npz").is_file()

    def test_strict(self, calib, home: Path, files, tmp_path: Path, no_page) -> None:
        lonely = pl.read_parquet(files[1][0]).with_columns(
            star_id=pl.when(pl.int_range(pl.len()) < 3).then(5).otherwise("star_id"),
            exposure_id=pl.when(pl.int_range(pl.len()) < 3).then(1).otherwise("exposure_id"),
        )
        lonely.write_parquet(tmp_path / "m.parquet")
        argv = ["update", home / "old", tmp_path / "m.parquet", "--exposures", files[1][1], "--out", tmp_path / "o"]
        status, _, err = calib(*argv, "--strict", "--quiet")
        assert (status, err.count("\n")) == (3, 1)
        assert err.startswith("calib update: --strict: ")
        assert (tmp_path / "o" / "zeropoints.parquet").is_file()

    def test_nothing_new(self, calib, home: Path, files, tmp_path: Path, no_page) -> None:
        argv = ["update", home / "old", "--exposures", files[0][1], "--out", tmp_path / "o", "--quiet"]
        n = pl.read_parquet(files[0][0]).height
        assert calib(*argv, files[0][0])[0] == 0
        said = [w for w in json.loads((tmp_path / "o" / "run.json").read_text())["warnings"] if "no new rows" in w]
        assert said == [f"no new rows: of {n:,} that were added none can be used ({n:,} duplicate)"]
        assert calib(*argv, "--strict", files[0][0])[0] == 3
        another = pl.col("mag") + 0.01 * (pl.int_range(pl.len()) == 0)
        pl.read_parquet(files[0][0]).with_columns(another).write_parquet(tmp_path / "m.parquet")
        assert calib(*argv, tmp_path / "m.parquet")[0] == 0
        warnings = json.loads((tmp_path / "o" / "run.json").read_text())["warnings"]
        assert not [w for w in warnings if "no new rows" in w]

    def test_old_tables_that_are_gone_or_have_changed(self, calib, nights, files, tmp_path: Path) -> None:
        paths = written(nights[:1], tmp_path)[0]
        out, folder = tmp_path / "o", tmp_path / "old"
        calibrate(*map(str, paths), config=Config(method="wls", score=False)).write(folder, report=False)
        argv = ["update", folder, files[1][0], "--exposures", files[1][1], "--out", out]
        for path in paths:
            kept = path.read_bytes()
            pl.read_parquet(path).reverse().write_parquet(path)
            status, said, err = calib(*argv)
            assert (status, said, err.count("\n")) == (2, "", 1)
            assert f"{path}: has changed since {folder} was made of it" in err
            assert "solve anew" in err
            path.unlink()
            status, said, err = calib(*argv)
            assert (status, said, err.count("\n")) == (2, "", 1)
            assert f"{path}: is gone" in err
            path.write_bytes(kept)
        assert not out.exists()

    def test_nothing_is_written_over(self, calib, home: Path, files, tmp_path: Path, monkeypatch) -> None:
        monkeypatch.setattr("calib.pipeline.calibrate", lambda *_, **__: pytest.fail("solved before looking"))
        argv = ["update", home / "old", files[1][0], "--exposures", files[1][1]]
        status, _, err = calib(*argv, "--out", home / "old")
        assert (status, err.count("\n")) == (2, 1)
        assert "is the solution that is added to" in err
        status, _, err = calib("update", home / "m1.parquet", files[1][0], "--out", tmp_path / "o")
        assert (status, err.count("\n")) == (2, 1)
        inside = tmp_path / "in" / "zeropoints.parquet"
        inside.parent.mkdir()
        shutil.copyfile(files[1][0], inside)
        status, _, err = calib("update", home / "old", inside, "--out", inside.parent)
        assert (status, err.count("\n")) == (2, 1)
        assert "would replace or join the input" in err
