"""A star flat finer than a quadratic: found in cells of the field, with right errors, and applied to every row."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from calib import Config, calibrate
from calib.apply import Applier
from calib.model.calibrator import Calibrator
from calib.model.camera import CELL_NAMES, CELLS, FLAT, Camera, Flat, cells
from calib.model.problem import Problem
from calib.solve import select
from calib.tables import read_measurements
from calib.tables.errors import InputError

ROBUST = Config(method="robust", score=False)


def dithered(seed, flat=0.01, n_exposures=24, noise=0.004, bands=("r",)):
    """Table of dithered exposures of one detector of 1000 x 1000 pixels, zero-points, and the cells of each band."""
    rng = np.random.default_rng(seed)
    centre = np.repeat(rng.uniform(0, 1.5, (n_exposures // len(bands), 2)), len(bands), axis=0)
    band = np.tile(np.arange(len(bands)), n_exposures // len(bands))
    at = rng.uniform(-0.5, 2.0, (800, 2))
    exposure, star = np.nonzero((np.abs(at - centre[:, None]) < 0.5).all(2))
    inside = at[star] - centre[exposure] + 0.5
    cell = np.minimum((CELLS * inside).astype(int), CELLS - 1) @ [CELLS, 1]
    values = rng.normal(0, flat, (len(bands), CELLS**2))
    values -= values.mean(1, keepdims=True)
    z, magnitude = rng.normal(0, 0.1, n_exposures), rng.uniform(15, 19, len(at))
    mag = magnitude[star] - z[exposure] - values[band[exposure], cell] + rng.normal(0, noise, star.size)
    frame = pl.DataFrame(
        {
            "star_id": star, "exposure_id": exposure, "band": [bands[k] for k in band[exposure]], "mag": mag,
            "mag_err": noise, "x": 1000 * inside[:, 0], "y": 1000 * inside[:, 1],
        }
    )  # fmt: skip
    return frame, z, values


def test_cells_are_counted_from_the_corner_of_small_x_and_y():
    xy = np.array([[-1.1, -1.0], [-0.9, 0.99], [0.01, -0.99], [1.1, 1.1]], np.float32)
    assert [CELL_NAMES[k] for k in cells(xy)] == ["0,0", "0,7", "4,0", "7,7"]


def test_stars_that_stay_where_they_are_tell_no_cells_apart():
    rng = np.random.default_rng(0)
    place, star_ptr = rng.uniform(-1, 1, (50, 2)).astype(np.float32), np.arange(0, 501, 10)
    still = np.repeat(place, 10, axis=0)
    assert Camera.of_field(still, star_ptr) is None
    moved = Camera.of_field(np.clip(still + rng.uniform(-0.5, 0.5, still.shape).astype(np.float32), -1, 1), star_ptr)
    assert moved.kinds == (FLAT,)
    assert moved[np.arange(500) % 2 == 0].kinds == (FLAT,)
    assert moved.with_catalogue(np.array([3])).detector[3] == CELLS**2


def test_zero_points_are_better_with_it_and_nothing_is_lost_where_there_is_none():
    frame, z, values = dithered(1)
    off, auto = (calibrate(frame, config=replace(ROBUST, instrument=how)) for how in ("off", "auto"))
    rms = [np.std(s.frames["zeropoints"].sort("exposure_id")["zeropoint"].to_numpy() - z) for s in (off, auto)]
    assert rms[1] < 0.6 * rms[0]
    assert [t["terms"] for t in auto.diagnostics["terms_tried"] if t["carried"]][0].endswith("star flat")
    rows = auto.frames["terms"].filter(pl.col("name") == FLAT)
    found = dict(zip(rows["detector"], rows["value"], strict=True))
    gap = np.array([found[name] for name in CELL_NAMES]) - values[0]
    assert np.std(gap) < 0.35 * values.std()

    plain = calibrate(dithered(2, flat=0.0)[0], config=ROBUST)
    assert not any("star flat" in t["terms"] for t in plain.diagnostics["terms_tried"])
    assert not plain.frames["terms"].height


def test_errors_of_cells_and_zero_points_are_right():
    pulls, whitened = [], []
    for seed in range(16):
        frame, z, values = dithered(seed, flat=0.006)
        solution = calibrate(frame, config=replace(ROBUST, instrument="offset", surface="off"))
        rows = solution.frames["terms"]
        order = [CELL_NAMES.index(name) for name in rows["detector"]]
        pulls.append((rows["value"].to_numpy() - values[0, order]) / rows["err"].to_numpy())
        gap = solution.frames["zeropoints"].sort("exposure_id")["zeropoint"].to_numpy() - z
        unseen = solution.covariances.patterns[:, :2]  # a gradient of the whole field: here there is none
        # errors of cells are shared by all exposures: in units of their whole covariance
        size, along = np.linalg.eigh(solution.covariance(list(range(z.size))) - unseen @ unseen.T)
        known = size > 1e-9 * size.max()
        whitened.append((along[:, known].T @ (gap - gap.mean())) / np.sqrt(size[known]))
    for each in (pulls, whitened):
        assert np.sqrt(np.mean(np.concatenate(each) ** 2)) == pytest.approx(1.0, abs=0.12)


@pytest.mark.parametrize("surface", ["off", "plane"])
def test_every_row_is_calibrated_alike_and_apply_repeats_it(surface, tmp_path):
    frame, _, _ = dithered(6, flat=0.02, bands=("g", "r"))
    frame = frame.with_columns(flag=pl.int_range(frame.height) % 7 == 0)
    solution = calibrate(frame, config=replace(ROBUST, instrument="offset", surface=surface))
    assert solution.frames["terms"]["band"].unique().sort().to_list() == ["g", "r"]
    calibrated = solution.measurements["calibrated_mag"].value
    again, _ = Applier(solution)(read_measurements(frame))
    np.testing.assert_allclose(again["calibrated_mag"].to_numpy(), calibrated, atol=2e-6)
    residual = again["residual"].to_numpy()
    assert np.nanstd(residual[frame["flag"].to_numpy()]) < 0.008  # rows left out of the solve hold it too
    with pytest.raises(InputError, match="no column x"):
        Applier(solution)(read_measurements(frame.drop("x", "y")))


def test_a_table_without_a_flat_makes_none():
    terms = pl.DataFrame({"name": ["extinction"], "band": ["r"], "detector": [""], "value": [0.1]})
    assert Flat.of(terms, pl.Series(["r"])) is None
    assert Flat.of(pl.DataFrame(), pl.Series(["r"])) is None
    frame, _, _ = dithered(3)
    solution = calibrate(frame, config=replace(ROBUST, instrument="off", surface="off"))
    model = {**solution.diagnostics["model"]}
    assert not Calibrator.of(solution.frames["zeropoints"], model, solution.frames["terms"]).needs_places


def test_large_surveys_have_no_cells(monkeypatch):
    frame, _, _ = dithered(4)
    assert Problem.of(read_measurements(frame), ROBUST).camera.kinds == (FLAT,)
    monkeypatch.setattr("calib.model.problem.LARGE", 1000)
    assert Problem.of(read_measurements(frame), ROBUST).camera is None
    assert select.kinds_of_instrument(Problem.of(read_measurements(frame), ROBUST), ROBUST) == [0]
