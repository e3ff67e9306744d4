"""A small simulated survey and its solution, made once, for the tests of what a user types."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from calib.cli import main

Run = Callable[..., tuple[int, str, str]]


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a GPU where there is none."""
    if item.get_closest_marker("needs_cuda"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs_cuda: no NVIDIA GPU here")


@pytest.fixture(autouse=True)
def _no_options_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "METHOD",
        "COLUMNS",
        "OUT",
        "QUIET",
        "STRICT",
        "RESUME",
        "COVARIANCE",
        "DEVICE",
        "NO_ADAPT",
        "SEED",
        "PRESET",
        "DEBUG",
        "CONFIG",
        "MATCH_RADIUS",
        "WORKERS",
    ):
        monkeypatch.delenv(f"CALIB_{name}", raising=False)


@pytest.fixture(scope="session")
def survey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("survey") / "sim"
    assert main(["simulate", "--preset", "demo", "--exposures", "40", "--seed", "3", "--out", str(folder)]) == 0
    return folder


@pytest.fixture(scope="session")
def solved(survey: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("solved") / "out"
    given = [str(survey / "measurements.parquet"), "--exposures", str(survey / "exposures.parquet")]
    assert main(["solve", *given, "--out", str(folder)]) == 0
    return folder


@pytest.fixture
def calib(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command: (exit status, what it printed, what it printed to stderr)."""

    def run(*argv: object) -> tuple[int, str, str]:
        capsys.readouterr()
        status = main([str(a) for a in argv])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run


@pytest.fixture
def given(survey: Path) -> list[object]:
    """Arguments that name its tables."""
    return [survey / "measurements.parquet", "--exposures", survey / "exposures.parquet"]


@pytest.fixture
def no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write a stand-in for report.html, which takes seconds to make."""

    def write_report(folder: str | Path) -> Path:
        page = Path(folder) / "report.html"
        page.write_text("<html></html>")
        return page

    monkeypatch.setattr("calib.report.write_report", write_report)
