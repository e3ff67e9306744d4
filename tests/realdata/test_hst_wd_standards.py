"""White-dwarf standards of HST, grouped by band and cycle and anchored on three CALSPEC stars."""

import numpy as np
import polars as pl
import pytest

from calib import Config, Solution, calibrate
from calib.cli import main

pytestmark = pytest.mark.needs_realdata

BANDS = ("F275W", "F336W", "F475W", "F625W", "F775W", "F160W")
SHIFTED = BANDS[1:]
"""Bands that have a cycle 20."""
COLUMNS = {"exposure_id": "group", "mag": "mag_inst"}


@pytest.fixture(scope="module")
def solution(hst):
    frame, reference, _ = hst
    return calibrate(frame, reference=reference, config=Config(columns=COLUMNS))


def of(solution, group):
    row = solution.frames["zeropoints"].filter(pl.col("exposure_id") == group)
    return row["zeropoint"].item(), row["zeropoint_err"].item()


@pytest.mark.parametrize("band", BANDS)
def test_zeropoints_are_the_published_ones(solution, hst, band):
    value, err = of(solution, f"{band}-c22")
    truth, truth_err = hst[2][f"zeropoint {band}"]
    assert abs(value - truth) < 0.006
    assert abs(value - truth) < 2.5 * np.hypot(err, truth_err)


@pytest.mark.parametrize("band", SHIFTED)
def test_offsets_of_cycle_20_are_the_published_ones(solution, hst, band):
    late, early = of(solution, f"{band}-c22"), of(solution, f"{band}-c20")
    truth, truth_err = hst[2][f"c20_offset {band}"]
    offset = early[0] - late[0]
    # the references' error is common to both, so the offset's is smaller than this
    assert abs(offset - truth) < 0.006
    assert abs(offset - truth) < 2.5 * np.hypot(np.hypot(early[1], late[1]), truth_err)


def test_every_group_hangs_on_the_references(solution):
    zeropoints = solution.frames["zeropoints"]
    assert zeropoints["anchored"].all()
    # F275W was taken in one cycle only: its zero-point rests on the references alone, and says so
    alone = zeropoints.filter(pl.col("flag").str.contains("reference_only"))["exposure_id"].to_list()
    assert alone == ["F275W-c22"]


def clipped_offset(frame, passes=10):
    """Difference of two groups' zero-points by least squares with 3-sigma clipping from a start that is not robust."""
    star = frame["star_id"].rank("dense").to_numpy().astype(int) - 1
    early = frame["group"].str.ends_with("c20").to_numpy().astype(float)
    mag = frame["mag_inst"].to_numpy()
    use = np.ones(mag.size, bool)
    sigma = frame["mag_err"].to_numpy()
    for _ in range(passes):
        design = np.c_[np.eye(star.max() + 1)[star], -early]
        weight = use / sigma
        x = np.linalg.lstsq(design * weight[:, None], mag * weight, rcond=None)[0]
        residual = mag - design @ x
        use = np.abs(residual) < 3.0 * sigma
    return x[-1], int((use & (early > 0)).sum())


def test_a_small_group_is_not_clipped_away(solution, hst):
    frame, _, values = hst
    group = frame.filter(pl.col("band") == "F775W")
    truth = values["c20_offset F775W"][0]
    offset, kept = clipped_offset(group)
    assert kept == 0 or abs(offset - truth) > 0.1, "the trap is gone from the data"
    used = solution.measurement_frame().filter(pl.col("exposure_id") == "F775W-c20")
    assert used["used"].all()
    assert (used["outlier_probability"] < 0.5).mean() > 0.8
    found = of(solution, "F775W-c20")[0] - of(solution, "F775W-c22")[0]
    assert abs(found - truth) < 0.006


def test_the_command_line_says_the_same(hst, solution, tmp_path, capsys):
    frame, reference, _ = hst
    frame.write_parquet(tmp_path / "measurements.parquet")
    reference.write_csv(tmp_path / "calspec.csv")
    status = main(
        ["solve", str(tmp_path / "measurements.parquet"), "--reference", str(tmp_path / "calspec.csv"),
         "--columns", ",".join(f"{k}={v}" for k, v in COLUMNS.items()), "--out", str(tmp_path / "out"), "--quiet"]
    )  # fmt: skip
    assert status == 0, capsys.readouterr().err
    again = Solution.read(tmp_path / "out")
    for group in solution.frames["zeropoints"]["exposure_id"]:
        np.testing.assert_allclose(of(again, group), of(solution, group), rtol=1e-9)
