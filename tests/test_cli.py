from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import polars as pl
import pytest

import calib.commands.solve as solve_command
from calib.cli import main
from calib.commands.options import check_folder, parse_columns
from calib.outcome import NOTHING_SOLVED
from calib.tables import InputError


def one_line(text: str) -> bool:
    return text.count("\n") == 1 and text.endswith("\n")


def left_behind(folder: Path) -> list[str]:
    return [p.name for p in folder.rglob("*") if p.name.startswith(".") or p.suffix in {".part", ".tmp", ".partial"}]


class TestHelp:
    def test_takes_less_than_half_a_second_and_imports_nothing_heavy(self) -> None:
        code = (
            "import sys; from calib.cli import main; status = main(['--help']);"
            "print(sorted({'torch', 'astropy', 'numpy', 'polars', 'numba', 'scipy'} & set(sys.modules)));"
            "sys.exit(status)"
        )
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == "[]"
        assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5

    def test_module_is_the_command(self) -> None:
        done = subprocess.run([sys.executable, "-m", "calib", "--help"], capture_output=True, text=True, check=False)
        assert done.returncode == 0
        for command in ("solve", "check", "apply", "update", "compare", "simulate", "report", "demo"):
            assert re.search(rf"^    {command} ", done.stdout, re.MULTILINE)

    @pytest.mark.parametrize("command", ["solve", "check", "apply", "update", "compare", "simulate", "report", "demo"])
    def test_of_each_command(self, calib, command: str) -> None:
        status, out, err = calib(command, "--help")
        assert (status, err) == (0, "")
        assert "exit status" in out


class TestWrongArguments:
    @pytest.mark.parametrize(
        "argv",
        [
            [],
            ["paint"],
            ["solve"],
            ["solve", "in.parquet"],
            ["solve", "in.parquet", "--out", "x", "--method", "magic"],
            ["solve", "in.parquet", "--out", "x", "--device", "abacus"],
            ["solve", "in.parquet", "--out", "x", "--workers", "3"],
            ["simulate", "--out", "x", "--seed", "-1"],
            ["simulate", "--out", "x", "--seed", "one"],
            ["compare", "a"],
        ],
    )
    def test_one_line_and_status_2(self, calib, argv: list[str], tmp_path: Path, monkeypatch) -> None:
        monkeypatch.chdir(tmp_path)
        status, out, err = calib(*argv)
        assert (status, out) == (2, "")
        assert one_line(err)

    @pytest.mark.parametrize(
        ("argv", "said"),
        [
            (["solve", "absent.parquet", "--out", "o"], "absent.parquet"),
            (["check", "absent/*.parquet"], "absent/"),
            (["apply", "absent", "x.parquet", "--out", "f.parquet"], "absent"),
            (["update", "absent", "x.parquet", "--out", "o"], "absent"),
            (["compare", "absent", "gone"], "absent"),
            (["report", "absent"], "absent"),
            (["simulate", "--out", "o", "--preset", "nice"], "nice"),
            (["check", "x.csv", "--config", "absent.toml"], "absent.toml"),
        ],
    )
    def test_what_is_not_there(self, calib, argv: list[str], said: str, tmp_path: Path, monkeypatch) -> None:
        monkeypatch.chdir(tmp_path)
        status, out, err = calib(*argv)
        assert (status, out) == (2, "")
        assert one_line(err)
        assert said in err
        assert list(tmp_path.iterdir()) == []

    def test_unknown_column(self, calib, survey: Path, tmp_path: Path) -> None:
        table = survey / "measurements.parquet"
        status, _, err = calib("solve", table, "--out", tmp_path / "o", "--columns", "mag=mag_psf,mag_err=e")
        assert status == 2
        assert one_line(err)
        status, _, err = calib("solve", table, "--out", tmp_path / "o", "--columns", "magnitude=mag")
        assert status == 2
        assert "magnitude" in err
        status, _, err = calib("check", table, "--columns", "mag")
        assert status == 2
        assert "A=B" in err
        pl.DataFrame({"a": [1]}).write_csv(tmp_path / "t.csv")
        status, _, err = calib("check", tmp_path / "t.csv")
        assert status == 2
        assert "exposure_id" in err or "star_id" in err

    def test_output_that_cannot_be_written(self, calib, given, tmp_path: Path, monkeypatch) -> None:
        monkeypatch.setattr("calib.pipeline.calibrate", lambda *_, **__: pytest.fail("solved before looking"))
        file = tmp_path / "file"
        file.write_text("mine")
        link = tmp_path / "link"
        link.symlink_to("nothing")
        for out in (file, file / "below", "/proc/calib/out", link, link / "below"):
            status, _, err = calib("solve", *given, "--out", out)
            assert status == 2
            assert one_line(err)
            assert str(out) in err
            status, _, err = calib("simulate", "--out", out)
            assert status == 2
        assert file.read_text() == "mine"

    def test_only_what_will_be_written_must_be_writable(self, tmp_path: Path, monkeypatch) -> None:
        out = tmp_path / "out"
        out.mkdir()
        mkdtemp = tempfile.mkdtemp

        def only_inside(*, dir: Path, **names: str) -> str:
            if dir != out:
                raise PermissionError(13, "Permission denied")
            return mkdtemp(dir=dir, **names)

        monkeypatch.setattr(tempfile, "mkdtemp", only_inside)
        check_folder(str(out))
        with pytest.raises(InputError, match="Permission denied"):
            check_folder(str(tmp_path / "other"))

    def test_apply_output(self, calib, survey: Path, solved: Path, tmp_path: Path) -> None:
        table = survey / "measurements.parquet"
        for out in (tmp_path, tmp_path / "x.xlsx", tmp_path / "no" / "x.parquet", "/proc/x.parquet", table):
            status, _, err = calib("apply", solved, table, "--out", out)
            assert status == 2
            assert one_line(err)
        assert pl.read_parquet(table).height == 6455

    def test_gpu_that_is_not_there(self, calib, given, tmp_path: Path, monkeypatch) -> None:
        import torch

        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        train = ["train", "--out", tmp_path / "w.safetensors", "--work", tmp_path / "work"]
        for command in (["solve", *given, "--out", tmp_path / "o"], train):
            status, _, err = calib(*command, "--device", "cuda")
            assert status == 2
            assert one_line(err)
            assert "GPU" in err
        assert not (tmp_path / "work").exists()


class TestSolve:
    def test_summary(self, calib, given, tmp_path: Path, no_page) -> None:
        status, out, err = calib("solve", *given, "--out", tmp_path / "o", "--method", "wls")
        assert (status, err) == (0, "")
        for name in ("exposures", "rows", "components", "method", "errors", "report"):
            assert re.search(rf"^{name} ", out, re.MULTILINE)
        assert "mmag in the median" in out
        assert str(tmp_path / "o" / "report.html") in out
        assert left_behind(tmp_path) == []

    def test_quiet(self, calib, given, tmp_path: Path, no_page) -> None:
        assert calib("solve", *given, "--out", tmp_path / "o", "--method", "wls", "--quiet") == (0, "", "")

    def test_columns_and_config(self, calib, survey: Path, tmp_path: Path, no_page) -> None:
        table = pl.read_parquet(survey / "measurements.parquet").rename({"mag": "m_inst", "mag_err": "sigma"})
        table.write_csv(tmp_path / "t.csv")
        config = tmp_path / "c.toml"
        config.write_text('method = "wls"\nseed = 7\n[columns]\nmag = "m_inst"\nmag_err = "wrong"\n')
        argv = ["solve", tmp_path / "t.csv", "--out", tmp_path / "o", "--config", config]
        status, _, err = calib(*argv)
        assert (status, "wrong" in err or "mag_err" in err) == (2, True)
        status, _, _ = calib(*argv, "--columns", "mag_err=sigma,x=", "--columns", "y=")
        assert status == 0
        run = json.loads((tmp_path / "o" / "run.json").read_text())
        assert run["config"]["method"] == "wls"
        assert run["config"]["seed"] == 7
        assert run["config"]["columns"] == {"mag": "m_inst", "mag_err": "sigma", "x": "", "y": ""}
        assert "x" not in run["inputs"][0]["columns"]

    def test_strict(self, calib, survey: Path, tmp_path: Path, no_page) -> None:
        table = pl.read_parquet(survey / "measurements.parquet")
        lonely = table.head(3).with_columns(pl.lit(1).cast(pl.Int64).alias("exposure_id"), pl.col("star_id") * 0 + 5)
        pl.concat([table, lonely.select(table.columns)]).write_parquet(tmp_path / "t.parquet")
        argv = ["solve", tmp_path / "t.parquet", "--out", tmp_path / "o", "--method", "wls"]
        status, out, err = calib(*argv)
        assert (status, err) == (0, "")
        assert "warning" in out
        status, _, err = calib(*argv, "--strict")
        assert status == 3
        assert one_line(err)
        assert (tmp_path / "o" / "zeropoints.parquet").is_file()
        assert calib(*argv, "--strict", "--resume", "--quiet")[0] == 3

    @pytest.mark.parametrize("exposures", [1, 4])
    def test_nothing_to_solve(self, calib, exposures: int, tmp_path: Path, no_page) -> None:
        n = 10 * exposures
        table = pl.DataFrame({"star_id": range(n), "exposure_id": [i % exposures for i in range(n)]})
        table.with_columns(mag=15.0, mag_err=0.01).write_parquet(tmp_path / "t.parquet")
        argv = ["solve", tmp_path / "t.parquet", "--out", tmp_path / "o", "--method", "robust"]
        status, out, err = calib(*argv)
        assert (status, err) == (0, "")
        assert f"warning     {NOTHING_SOLVED}\n" in out
        assert json.loads((tmp_path / "o" / "run.json").read_text())["warnings"] == [NOTHING_SOLVED]
        assert pl.read_parquet(tmp_path / "o" / "zeropoints.parquet")["flag"].to_list() == ["isolated"] * exposures
        for more in ([], ["--resume"]):
            assert calib(*argv, "--quiet", *more) == (0, "", f"calib solve: {NOTHING_SOLVED}\n")
            status, out, err = calib(*argv, "--quiet", "--strict", *more)
            assert (status, out, err) == (3, "", f"calib solve: --strict: {NOTHING_SOLVED}\n")
        status, out, err = calib("check", tmp_path / "t.parquet")
        assert (status, err) == (0, "")
        assert "No two exposures share a star" in out
        assert "thread" not in out
        assert not out.endswith("\n\n")

    def test_resume(self, calib, given, tmp_path: Path, no_page, monkeypatch) -> None:
        argv = ["solve", *given, "--out", tmp_path / "o", "--method", "wls", "--resume"]
        assert calib(*argv)[0] == 0
        before = (tmp_path / "o" / "run.json").stat().st_mtime_ns
        status, out, _ = calib(*argv)
        assert (status, "already" in out) == (0, True)
        assert (tmp_path / "o" / "run.json").stat().st_mtime_ns == before
        for changed in (["--columns", "color="], ["--method", "wls", "--columns", "ra=,dec="]):
            assert calib(*argv, *changed)[0] == 0
            after = (tmp_path / "o" / "run.json").stat().st_mtime_ns
            assert after != before
            before = after
        (tmp_path / "o" / "stars.parquet").unlink()
        assert "already" not in calib(*argv)[1]
        monkeypatch.setattr("calib.version.__version__", "9.9")
        assert "already" not in calib(*argv)[1]

    def test_solution_in_the_folder_of_its_inputs(self, calib, survey: Path, tmp_path: Path, no_page) -> None:
        pl.read_parquet(survey / "measurements.parquet").write_parquet(tmp_path / "m.parquet")
        argv = ["solve", tmp_path, "--out", tmp_path / "made" / "o", "--method", "wls", "--resume"]
        assert calib(*argv)[0] == 0
        assert "already" in calib(*argv)[1]
        assert calib(*argv[:-1])[0] == 0
        run = json.loads((tmp_path / "made" / "o" / "run.json").read_text())
        assert [Path(source["path"]).name for source in run["inputs"]] == ["m.parquet"]

    def test_inputs_are_not_written_over(self, calib, survey: Path, tmp_path: Path, monkeypatch) -> None:
        monkeypatch.setattr("calib.pipeline.calibrate", lambda *_, **__: pytest.fail("solved before looking"))
        monkeypatch.chdir(tmp_path)
        table = tmp_path / "measurements.parquet"
        pl.read_parquet(survey / "measurements.parquet").write_parquet(table)
        for given, out in ((table, "."), ("measurements.parquet", tmp_path), (tmp_path, tmp_path)):
            status, _, err = calib("solve", given, "--out", out)
            assert (status, one_line(err)) == (2, True)
            assert f"input {given};" in err
        assert [p.name for p in tmp_path.iterdir()] == ["measurements.parquet"]

    def test_resume_sees_other_inputs(self, calib, survey: Path, tmp_path: Path, no_page) -> None:
        table = tmp_path / "t.parquet"
        frame = pl.read_parquet(survey / "measurements.parquet")
        frame.write_parquet(table)
        argv = ["solve", table, "--out", tmp_path / "o", "--method", "wls", "--resume"]
        assert calib(*argv)[0] == 0
        frame.with_columns(pl.col("mag") + 0.01).write_parquet(table)
        assert "already" not in calib(*argv)[1]
        assert "already" in calib(*argv)[1]
        assert "already" not in calib(*argv, "--exposures", survey / "exposures.parquet")[1]


class TestFailure:
    def test_of_the_program_is_one_line_and_status_1(self, calib, given, tmp_path: Path, monkeypatch) -> None:
        def broken(*_: object, **__: object) -> None:
            raise ZeroDivisionError("division by zero\nsomewhere")

        monkeypatch.setattr("calib.pipeline.calibrate", broken)
        status, out, err = calib("solve", *given, "--out", tmp_path / "o")
        assert (status, out) == (1, "")
        assert one_line(err)
        assert "CALIB_DEBUG" in err
        assert "ZeroDivisionError" in err
        monkeypatch.setenv("CALIB_DEBUG", "1")
        assert "Traceback" in calib("solve", *given, "--out", tmp_path / "o")[2]
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("kept", [False, True])
    def test_interrupted_while_writing(self, calib, given, tmp_path: Path, monkeypatch, no_page, kept: bool) -> None:
        if kept:
            assert calib("solve", *given, "--out", tmp_path / "o", "--method", "wls")[0] == 0
        before = {p.name: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}

        def interrupted(_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr("calib.report.write_report", interrupted)
        status, _, err = calib("solve", *given, "--out", tmp_path / "o", "--method", "wls")
        assert status == 130
        assert one_line(err)
        assert {p.name: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
        assert left_behind(tmp_path) == []

    def test_simulation_interrupted(self, calib, tmp_path: Path, monkeypatch) -> None:
        def interrupted(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr("calib.simulate.survey.Simulation.truth_stars", interrupted)
        assert calib("simulate", "--out", tmp_path / "new" / "s", "--exposures", "12")[0] == 130
        assert list(tmp_path.iterdir()) == []

    def test_terminated_leaves_nothing(self, survey: Path, tmp_path: Path) -> None:
        code = (
            "import os, signal, sys, calib.report, calib.cli\n"
            "calib.report.write_report = lambda folder: os.kill(os.getpid(), signal.SIGTERM)\n"
            "sys.exit(calib.cli.main(sys.argv[1:]))"
        )
        argv = ["solve", str(survey / "measurements.parquet"), "--out", str(tmp_path / "o"), "--method", "wls"]
        done = subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True, check=False)
        assert done.returncode == 143, done.stderr
        assert list(tmp_path.iterdir()) == []

    def test_reader_that_leaves(self, survey: Path) -> None:
        read, write = os.pipe()
        os.close(read)
        argv = [sys.executable, "-m", "calib", "check", str(survey / "measurements.parquet"), "--json"]
        done = subprocess.run(argv, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
        os.close(write)
        assert (done.returncode, done.stderr) == (0, "")


class TestOthers:
    def test_simulate_is_reproducible(self, calib, survey: Path, tmp_path: Path) -> None:
        argv = ["simulate", "--preset", "demo", "--exposures", 40, "--seed", 3, "--out", tmp_path / "again"]
        status, out, _ = calib(*argv)
        assert status == 0
        assert "6,455 measurements" in out
        for name in ("measurements", "exposures", "truth_exposures", "truth_stars", "truth_measurements"):
            again = pl.read_parquet(tmp_path / "again" / f"{name}.parquet")
            assert again.equals(pl.read_parquet(survey / f"{name}.parquet"))

    def test_report_is_made_anew(self, calib, solved: Path, tmp_path: Path, no_page) -> None:
        for path in solved.iterdir():
            (tmp_path / path.name).write_bytes(path.read_bytes())
        (tmp_path / "report.html").unlink()
        status, out, _ = calib("report", tmp_path)
        assert status == 0
        assert out.strip() == str(tmp_path / "report.html")
        assert (tmp_path / "report.html").is_file()

    def test_demo_prints_scores(self, calib, survey: Path, tmp_path: Path, no_page, monkeypatch) -> None:
        import calib.commands.demo as demo

        monkeypatch.setattr(demo, "KEPT", survey)
        status, out, err = calib("demo", "--out", tmp_path / "d")
        assert (status, err) == (0, "")
        rms = [float(x) for x in re.findall(r"  +(\d+\.\d\d)$", out, re.MULTILINE)]
        chosen = re.findall(r"^  calib .*\((\w+)\) ", out, re.MULTILINE)
        assert chosen in (["robust"], ["robust", "learned"], ["robust", "wls"])
        wls, clipped, robust = rms[:3]
        ours, bound, floor = rms[-3:]
        assert len(rms) == 4 + len(chosen)
        assert robust < clipped < wls
        assert ours < clipped
        assert floor < bound
        assert ours < 1.3 * bound
        assert "standard deviation" in out
        assert out.rstrip().endswith("report.html")

    def test_demo_without_data_simulates(self, calib, tmp_path: Path, no_page, monkeypatch) -> None:
        import calib.commands.demo as demo

        made: list[str] = []

        def simulated(out: str, *rest: object) -> int:
            made.append(out)
            raise KeyboardInterrupt

        monkeypatch.setattr(demo, "KEPT", tmp_path / "absent")
        monkeypatch.setattr(demo, "simulated", simulated)
        assert calib("demo", "--out", tmp_path / "d")[0] == 130
        assert len(made) == 1
        assert not Path(made[0]).exists()
        assert not (tmp_path / "d").exists()

    def test_progress_only_on_a_terminal(self, monkeypatch, capsys) -> None:
        from calib.commands.options import Progress

        for terminal, quiet in ((False, False), (True, True)):
            monkeypatch.setattr(sys.stderr, "isatty", lambda terminal=terminal: terminal)
            shown = Progress(quiet)
            shown("robust", 3, 0.1)
            shown.close()
            assert capsys.readouterr().err == ""
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
        shown = Progress(False)
        shown("robust", 3, 0.1)
        shown.close()
        assert "robust, pass 3" in capsys.readouterr().err


def test_parse_columns() -> None:
    assert parse_columns(["a=b, c = d", "e=", ""], "here") == {"a": "b", "c": "d", "e": ""}
    assert parse_columns(["a=b", "a=c"], "here") == {"a": "c"}


def test_every_command_has_its_module() -> None:
    import importlib

    from calib.cli import parser

    action = next(a for a in parser()._actions if a.dest == "command")
    for command in action.choices:
        assert callable(importlib.import_module(f"calib.commands.{command}").run)
    assert solve_command.run is not None
    assert main(["--version"]) == 0
