"""What a user chooses: on the command line, in a configuration file, in the environment, and which of them counts."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from calib import pipeline
from calib.cli import parser
from calib.commands.options import config_of
from calib.config import ConfigError
from calib.workers import asked


def test_command_line_before_file_before_environment(calib, given, tmp_path: Path, no_page, monkeypatch) -> None:
    def method(*more: object) -> str:
        assert calib("solve", *given, "--out", tmp_path / "o", "--quiet", *more)[0] == 0
        return str(json.loads((tmp_path / "o" / "run.json").read_text())["config"]["method"])

    monkeypatch.setattr("calib.pipeline._solve", _wls_whatever())
    monkeypatch.setenv("CALIB_METHOD", "wls")
    (tmp_path / "c.toml").write_text('method = "robust"\n')
    assert method() == "wls"
    assert method("--config", tmp_path / "c.toml") == "robust"
    assert method("--config", tmp_path / "c.toml", "--method", "auto") == "auto"


def test_environment_mirrors_the_options(calib, given, tmp_path: Path, no_page, monkeypatch) -> None:
    monkeypatch.setenv("CALIB_OUT", str(tmp_path / "o"))
    monkeypatch.setenv("CALIB_METHOD", "wls")
    monkeypatch.setenv("CALIB_QUIET", "1")
    assert calib("solve", *given) == (0, "", "")
    assert (tmp_path / "o" / "run.json").is_file()
    monkeypatch.setenv("CALIB_QUIET", "perhaps")
    status, _, err = calib("solve", *given)
    assert status == 2
    assert "CALIB_QUIET" in err
    monkeypatch.delenv("CALIB_QUIET")
    monkeypatch.setenv("CALIB_METHOD", "magic")
    status, _, err = calib("solve", *given)
    assert status == 2
    assert "CALIB_METHOD" in err


def test_adaptation_by_flag_file_and_environment(tmp_path: Path, monkeypatch) -> None:

    def adapt(*argv: str) -> bool:
        return config_of(parser().parse_args(["solve", "in.parquet", "--out", "o", *argv])).adapt

    (tmp_path / "yes.toml").write_text("adapt = true\n")
    (tmp_path / "no.toml").write_text("adapt = false\n")
    yes, no = ("--config", str(tmp_path / "yes.toml")), ("--config", str(tmp_path / "no.toml"))
    assert adapt()
    assert not adapt("--no-adapt")
    assert not adapt(*no)
    assert not adapt(*yes, "--no-adapt")
    monkeypatch.setenv("CALIB_NO_ADAPT", "1")
    assert not adapt()
    assert adapt(*yes)
    monkeypatch.setenv("CALIB_NO_ADAPT", "0")
    assert adapt()
    monkeypatch.setenv("CALIB_NO_ADAPT", "perhaps")
    with pytest.raises(ConfigError, match="CALIB_NO_ADAPT is 'perhaps'; it is 1 or 0"):
        adapt()


def test_workers_by_option_file_and_environment(tmp_path: Path, monkeypatch) -> None:

    def asked(*argv: str) -> int:
        return config_of(parser().parse_args(["solve", "in.parquet", "--out", "o", *argv])).workers

    (tmp_path / "c.toml").write_text("workers = 3\n")
    file = ("--config", str(tmp_path / "c.toml"))
    assert (asked(), asked("--workers", "2"), asked(*file), asked(*file, "--workers", "0")) == (0, 2, 3, 0)
    monkeypatch.setenv("CALIB_WORKERS", "5")
    assert (asked(), asked("--workers", "2"), asked(*file)) == (5, 2, 3)
    for wrong in ("-1", "all", "1.5"):
        monkeypatch.setenv("CALIB_WORKERS", wrong)
        with pytest.raises(ConfigError, match=r"whole number"):
            asked()


def test_tables_are_read_on_no_more_threads(calib, tmp_path: Path, monkeypatch) -> None:
    argv = ["solve", tmp_path / "none.parquet", "--out", tmp_path / "o"]

    def threads(*more: str) -> str | None:
        monkeypatch.setenv("POLARS_MAX_THREADS", "")  # to be put back afterwards
        monkeypatch.delenv("POLARS_MAX_THREADS")
        assert calib(*argv, *more)[0] == 2
        return os.environ.get("POLARS_MAX_THREADS")

    assert (threads(), threads("--workers", "0"), threads("--workers", "3")) == (None, None, "3")
    monkeypatch.setenv("CALIB_WORKERS", "4")
    assert (threads(), threads("--workers", "3"), threads("--workers", "0")) == ("4", "3", None)
    monkeypatch.setenv("POLARS_MAX_THREADS", "1")
    assert calib(*argv, "--workers", "3")[0] == 2
    assert os.environ["POLARS_MAX_THREADS"] == "1"


@pytest.mark.parametrize("command", [["solve"], ["update", "older"]])
@pytest.mark.parametrize("value", ["-2", "two", "1.5", ""])
def test_workers_are_a_whole_number(calib, given, tmp_path: Path, command: list[str], value: str) -> None:
    status, out, err = calib(*command, *given, "--out", tmp_path / "o", f"--workers={value}")
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    assert "--workers" in err
    assert "whole number" in err


def test_workers_reach_the_solve_and_not_the_answer(calib, given, tmp_path: Path, no_page, monkeypatch) -> None:

    threads: list[int | None] = []
    real = pipeline._solve

    def seen(*args: object) -> object:
        threads.append(asked())
        return real(*args)

    monkeypatch.setattr(pipeline, "_solve", seen)
    argv = ["solve", *given, "--out", tmp_path / "o", "--method", "wls", "--resume"]
    assert calib(*argv, "--workers", "3")[0] == 0
    assert threads == [3]
    run = json.loads((tmp_path / "o" / "run.json").read_text())
    assert run["config"]["workers"] == 3
    assert "already" in calib(*argv, "--workers", "2")[1]
    assert "already" in calib(*argv)[1]
    assert threads == [3]


def _wls_whatever():  # noqa: ANN202
    real = pipeline._solve
    return lambda problem, config, *rest: real(problem, replace(config, method="wls", score=False), *rest)
