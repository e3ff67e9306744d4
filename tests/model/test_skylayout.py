"""How detectors lie beside each other from pixels and sky positions, whichever way the camera was turned."""

import numpy as np
import polars as pl
import pytest

from calib import Config, calibrate
from calib.apply import Applier
from calib.model.problem import Problem
from calib.model.skylayout import sky_layout
from calib.tables import read_measurements

PIXELS = 2000.0
DEG = 1e-4


def camera(rng, columns=3, rows=2, flip=False):
    """Affine (D, 2, 3) of detectors beside each other, each turned a little or upside down."""
    affine = []
    for i in range(columns):
        for j in range(rows):
            angle = rng.normal(0, 0.01) + np.pi * rng.integers(2)
            c, s = DEG * np.cos(angle), DEG * np.sin(angle)
            linear = np.array([[c, -s], [s, c]]) @ np.diag([-1.0 if flip else 1.0, 1.0])
            middle = np.array([0.22 * i, 0.23 * j]) - linear @ [PIXELS / 2, PIXELS / 2]
            affine.append(np.column_stack([linear, middle]))
    return np.array(affine)


def views(seed, n_exposures=30, per_detector=12, flip=False, noise=3e-5, turning=True, sees=1.0):
    """Layout, and u, x, y, node, detector of the measurements of a camera that turns."""
    rng = np.random.default_rng(seed)
    affine = camera(rng, flip=flip)
    D = len(affine)
    shown = rng.random((n_exposures, D)) < sees
    node, detector = (np.repeat(v, per_detector) for v in np.nonzero(shown))
    x, y = rng.uniform(0, PIXELS, (2, node.size))
    a = affine[detector]
    p = (a[:, :, 0] * x[:, None] + a[:, :, 1] * y[:, None] + a[:, :, 2]) @ [1, 1j]
    turn = np.exp(1j * rng.uniform(-np.pi, np.pi, n_exposures) * turning)
    shift = rng.normal(0, 0.05, n_exposures) + 1j * rng.normal(0, 0.05, n_exposures)
    u = turn[node] * p + shift[node] + noise * (rng.normal(size=p.size) + 1j * rng.normal(size=p.size))
    return affine, (u, x, y, node, detector, D)


def between(layout, rng):
    """Distances between pairs of pixels of any detectors, which no turn of the camera changes."""
    D = len(layout)
    x, y = rng.uniform(0, PIXELS, (2, 400))
    a = np.asarray(layout)[rng.integers(0, D, 400)]
    p = (a[:, :, 0] * x[:, None] + a[:, :, 1] * y[:, None] + a[:, :, 2]) @ [1, 1j]
    return np.abs(p[:200] - p[200:])


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("turning", [False, True])
@pytest.mark.parametrize("sees", [1.0, 0.5])  # no exposure of the latter shows all detectors
def test_a_camera_is_laid_out_whichever_way_it_was_turned(flip, turning, sees):
    for seed in range(3):
        truth, given = views(seed, flip=flip, turning=turning, sees=sees)
        found = sky_layout(*given)
        assert found is not None
        expected, got = (between(v, np.random.default_rng(7)) for v in (truth, found.affine))
        np.testing.assert_allclose(got, expected, atol=3e-5)  # a tenth of a pixel


def test_rows_of_other_stars_and_missing_places_move_nothing():
    truth, (u, x, y, node, detector, D) = views(1)
    rng = np.random.default_rng(0)
    wrong = rng.random(u.size) < 0.05
    u = np.where(wrong, u + rng.normal(0, 0.1, u.size), u)
    x[rng.random(u.size) < 0.02] = np.nan
    found = sky_layout(u, x, y, node, detector, D)
    expected, got = (between(v, np.random.default_rng(7)) for v in (truth, found.affine))
    np.testing.assert_allclose(got, expected, atol=6e-5)


def test_what_is_no_rigid_camera_is_not_laid_out():
    _, (u, x, y, node, detector, D) = views(2)
    rng = np.random.default_rng(0)
    shuffled = rng.permutation(u)
    assert sky_layout(shuffled, x, y, node, detector, D) is None  # pixels that say nothing of the sky
    sheared = np.where(node % 2, u + 0.2 * u.real, u)
    assert sky_layout(sheared, x, y, node, detector, D) is None
    assert sky_layout(u, x, y, node, np.where(detector == 3, 0, detector), D) is None  # a detector never seen
    assert sky_layout(u[:0], x[:0], y[:0], node[:0], detector[:0], D) is None
    assert sky_layout(u, np.zeros_like(x), np.zeros_like(y), node, detector, D) is None


def turning_survey(seed, n_exposures=40, n_stars=700, slope=0.02):
    """Table of a camera that turns, whose flat field falls along its own x; and zero-points."""
    rng = np.random.default_rng(seed)
    affine = camera(rng)
    sky = rng.uniform(-0.6, 0.6, n_stars) + 1j * rng.uniform(-0.6, 0.6, n_stars)
    magnitude, z = rng.uniform(15, 18, n_stars), rng.normal(0, 0.2, n_exposures)
    ra0, dec0 = 50.0, 0.0
    tables = []
    for e in range(n_exposures):
        p = (sky - rng.normal(0, 0.15) - 1j * rng.normal(0, 0.15)) * np.exp(-1j * rng.uniform(-3, 3)) + 0.22 + 0.115j
        for d, a in enumerate(affine):
            linear = np.linalg.inv(a[:, :2])
            x, y = linear @ (np.stack([p.real, p.imag]) - a[:, 2:])
            on = (x > 0) & (x < PIXELS) & (y > 0) & (y < PIXELS)
            fall = slope * (p.real - 0.22) / 0.33
            mag = magnitude - z[e] + fall + 0.004 * rng.normal(size=n_stars)
            tables.append(
                pl.DataFrame(
                    {"star_id": np.flatnonzero(on), "exposure_id": e, "detector": f"d{d}", "x": x[on], "y": y[on],
                     "ra": ra0 + sky.real[on], "dec": dec0 + sky.imag[on], "mag": mag[on], "mag_err": 0.004}
                )
            )  # fmt: skip
    return pl.concat(tables), z


def test_a_flat_field_that_turns_with_the_camera_is_seen():
    """No overlap of a camera that never turns could tell its slope from one of the sky."""
    config = Config(method="robust", score=False)
    for seed in range(2):
        frame, z = turning_survey(seed)
        field = Problem.of(read_measurements(frame), config).field
        assert field.kind == "plane"
        solution = calibrate(frame, config=config)
        table = solution.frames["zeropoints"]
        gap = table["zeropoint"].to_numpy() - z[table["exposure_id"]]
        gap -= gap.mean()
        assert gap.std() < 0.0015
        slope = np.hypot(table["surface_x"].to_numpy(), table["surface_y"].to_numpy())
        np.testing.assert_allclose(slope, 0.02, atol=0.006)  # over the half field, in the camera's frame
        again, _ = Applier(solution)(read_measurements(frame))
        np.testing.assert_allclose(
            again["calibrated_mag"].to_numpy(), solution.measurements["calibrated_mag"].value, atol=1e-6
        )


def test_bands_of_one_exposure_are_one_view():
    """A band per detector: no band alone shows how detectors lie."""
    frame, _ = turning_survey(0)
    banded = frame.with_columns(band=pl.col("detector"))
    field = Problem.of(read_measurements(banded), Config()).field
    assert field.kind == "plane"
