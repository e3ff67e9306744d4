from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from calib.compare import Side, compare, read_side, text
from calib.tables import InputError


def side(label: str, *, solution: bool = False, **columns: object) -> Side:
    return Side(label, pl.DataFrame(columns), solution)


@pytest.fixture
def pair() -> tuple[Side, Side]:
    """Two components of 4,000 exposures with honest errors, each off by a constant."""
    rng = np.random.default_rng(4)
    n = 8000
    truth = rng.normal(25.0, 0.3, n)
    err = rng.uniform(0.001, 0.004, n)
    component = (np.arange(n) >= n // 2).astype(int)
    found = truth + err * rng.standard_normal(n) + np.where(component == 0, -25.0, -24.0)
    a = side(
        "a", solution=True, exposure_id=np.arange(n), zeropoint=found, zeropoint_err=err, component=component,
        anchored=np.zeros(n, bool),
    )  # fmt: skip
    return a, side("b", exposure_id=np.arange(n)[::-1], zeropoint=truth[::-1])


def test_honest_errors_have_honest_pulls(pair: tuple[Side, Side]) -> None:
    got = compare(*pair)
    assert [round(c["offset_mag"], 3) for c in got["components"]] == [-25.0, -24.0]
    assert [(c["component_a"], c["component_b"], c["n"]) for c in got["components"]] == [(0, -1, 4000), (1, -1, 4000)]
    everything = got["all"]
    assert everything["pull_std"] == pytest.approx(1.0, abs=0.03)
    assert everything["coverage_68"] == pytest.approx(0.683, abs=0.02)
    assert everything["coverage_95"] == pytest.approx(0.95, abs=0.01)
    expected = float(np.sqrt(np.mean(pair[0].frame["zeropoint_err"].to_numpy() ** 2)))
    assert everything["rms_mag"] == pytest.approx(expected, rel=0.03)
    assert everything["robust_rms_mag"] == pytest.approx(0.85 * expected, rel=0.1)  # errors of many sizes
    assert got["notes"] == []


def test_turning_it_round_changes_signs_only(pair: tuple[Side, Side]) -> None:
    forth, back = compare(*pair), compare(*pair[::-1])
    for name in ("rms_mag", "robust_rms_mag", "pull_std", "coverage_68"):
        assert back["all"][name] == pytest.approx(forth["all"][name], rel=1e-12)
    assert {c["component_b"]: -c["offset_mag"] for c in back["components"]} == pytest.approx(
        {c["component_a"]: c["offset_mag"] for c in forth["components"]}
    )


def test_exposures_held_as_whole_floats(tmp_path: Path) -> None:
    frame = pl.DataFrame({"exposure_id": [1000, 1001], "detector": [3, 3], "zeropoint": [25.0, 26.0]})
    frame.write_parquet(tmp_path / "a.parquet")
    frame.with_columns(pl.col("exposure_id", "detector").cast(pl.Float64)).write_parquet(tmp_path / "f.parquet")
    frame.with_columns(pl.col("exposure_id").cast(pl.String)).write_parquet(tmp_path / "t.parquet")
    sides = [read_side(tmp_path / f"{name}.parquet") for name in "aft"]
    assert [compare(sides[1], other)["n_matched"] for other in sides] == [2, 2, 2]
    frame.with_columns(pl.col("exposure_id") + 0.5).write_parquet(tmp_path / "h.parquet")
    assert read_side(tmp_path / "h.parquet").frame["exposure_id"].to_list() == [1000.5, 1001.5]


def test_offset_stays_where_both_are_absolute() -> None:
    ids = np.arange(4)
    truth = side("t", exposure_id=ids, zeropoint=[1.0, 2.0, 3.0, 4.0])
    found = np.array([1.0, 2.0, 3.0, 4.0]) + 0.01
    anchored = side("s", solution=True, exposure_id=ids, zeropoint=found, anchored=[True] * 4, component=[0] * 4)
    got = compare(anchored, truth)
    assert got["components"][0]["absolute"]
    assert got["all"]["rms_mag"] == pytest.approx(0.01)
    relative = side("s", solution=True, exposure_id=ids, zeropoint=found, anchored=[False] * 4, component=[0] * 4)
    got = compare(relative, truth)
    assert got["all"]["rms_mag"] == pytest.approx(0.0, abs=1e-12)
    assert got["components"][0]["offset_mag"] == pytest.approx(0.01)
    assert "* removed" in text(got)


def test_unmatched_and_unsolved_are_counted() -> None:
    a = side("a", exposure_id=[1, 2, 3, 4], zeropoint=[0.0, 1.0, np.nan, 3.0])
    b = side("b", exposure_id=[2, 3, 4, 5, 6], zeropoint=[1.0, 2.0, 3.0, 4.0, 5.0])
    got = compare(a, b)
    assert (got["n_matched"], got["n_only_a"], got["n_only_b"], got["n_unsolved"]) == (3, 1, 2, 1)
    assert got["all"]["n"] == 2
    with pytest.raises(InputError, match="none of its 4 exposures"):
        compare(a, side("c", exposure_id=[9], zeropoint=[0.0]))


def test_bands_are_told_apart_and_may_be_absent() -> None:
    a = side("a", exposure_id=[1, 1, 2, 2], band=["g", "r", "g", "r"], zeropoint=[0.0, 1.0, 2.0, 3.0])
    b = side("b", exposure_id=[2, 2, 1, 1], band=["r", "g", "r", "g"], zeropoint=[3.0, 2.0, 1.0, 0.0])
    assert compare(a, b)["all"]["rms_mag"] == 0.0
    nameless = side("c", exposure_id=[1, 2], band=["", ""], zeropoint=[0.0, 2.0])
    only_g = Side("g", a.frame.filter(pl.col("band") == "g"), False)
    assert compare(only_g, nameless)["all"]["n"] == 2
    with pytest.raises(InputError, match="share exposure_id"):
        compare(nameless, a)


def test_detectors_against_one_truth_per_exposure() -> None:
    a = side("a", exposure_id=[1, 1, 2, 2], detector=[0, 1, 0, 1], zeropoint=[1.0, 1.1, 2.0, 2.1])
    b = side("b", exposure_id=[1, 2], zeropoint=[1.05, 2.05])
    assert compare(a, b)["all"]["rms_mag"] == pytest.approx(0.05)
    with pytest.raises(InputError, match="first"):
        compare(b, a)


def test_opposite_signs_are_said() -> None:
    z = np.linspace(-1, 1, 9)
    got = compare(side("a", exposure_id=np.arange(9), zeropoint=z), side("b", exposure_id=np.arange(9), zeropoint=-z))
    assert "opposite signs" in got["notes"][0]


@pytest.mark.parametrize("ending", ["csv", "ecsv", "parquet", "fits"])
def test_tables_of_any_format(tmp_path: Path, ending: str) -> None:
    from astropy.table import QTable

    big = 2**53 + 1
    frame = pl.DataFrame({"exposure_id": [big, big + 1, big + 2], "zeropoint": [1.0, 2.0, 3.5]})
    path = tmp_path / f"t.{ending}"
    if ending == "csv":
        frame.write_csv(path)
    elif ending == "parquet":
        frame.write_parquet(path)
    else:
        QTable({c: frame[c].to_numpy() for c in frame.columns}).write(path)
    got = compare(read_side(path), Side("here", frame, False))
    assert got["n_matched"] == 3
    assert got["all"]["rms_mag"] == 0.0


def test_table_without_zeropoints_is_refused(tmp_path: Path) -> None:
    pl.DataFrame({"exposure_id": [1], "zp": [2.0]}).write_csv(tmp_path / "t.csv")
    with pytest.raises(InputError, match="no column zeropoint"):
        read_side(tmp_path / "t.csv")
    pl.DataFrame({"exposure_id": [1], "zeropoint": ["low"]}).write_csv(tmp_path / "u.csv")
    with pytest.raises(InputError, match="1 row"):
        read_side(tmp_path / "u.csv")


def test_command(calib, solved: Path, survey: Path, tmp_path: Path) -> None:
    out = tmp_path / "c.json"
    status, printed, err = calib("compare", solved, survey, "--out", out)
    assert (status, err) == (0, "")
    assert "40 in both" in printed
    assert "worst exposures" in printed
    got = json.loads(out.read_text())
    assert got["all"]["rms_mag"] < 0.003
    assert len(got["components"]) == 2
    again = calib("compare", solved / "zeropoints.ecsv", survey / "truth_exposures.parquet")[1]
    assert again.splitlines()[5:] == printed.splitlines()[5:]
    status, printed, _ = calib("compare", solved, solved)
    assert "0.00" in printed
