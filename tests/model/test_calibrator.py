"""Calibrated magnitudes against the formula, row by row."""

import json

import numpy as np
import polars as pl
import pytest

from calib.model.calibrator import SURFACE_COLUMNS, Calibrator
from calib.model.field import Field, tangent_offsets

CENTRE = [0.0, 0.01, -0.02, 0.33, 0.0, 0.3]


def zeropoints(surface=True, sky=False, seeing=True):
    rng = np.random.default_rng(0)
    columns = {
        "band": ["g", "g", "r"],
        "zeropoint": [0.1, np.nan, -0.2],
        "zeropoint_err": [0.002, np.nan, 0.003],
        "error_scale": [1.5, 1.0, 2.0],
        "excess_noise": [0.01, 0.0, 0.02],
    }
    if surface:
        columns |= {c: rng.normal(0, 0.02, 3) for c in SURFACE_COLUMNS}
    if seeing:
        columns["seeing"] = [1.0, 1.5, None]
    if sky:
        columns |= {"ra": [10.0, 20.0, 359.9], "dec": [0.0, 1.0, -60.0]}
    return pl.DataFrame(columns)


NO_TERMS = pl.DataFrame()


def model(field=None, scale=(1.5, 0.5), detectors=()):
    made = {
        "field": None if field is None else field.to_json(),
        "detectors": list(detectors),
        "seeing_scale": scale,
        "floor_mag": {"g": 0.004, "r": 0.006},
    }
    return json.loads(json.dumps(made))


def basis(x, y):
    return np.array([x, y, x * x, x * y, y * y]) - np.array(CENTRE[1:])


def test_zero_point_alone():
    frame = pl.DataFrame({"mag": [15.0, 16.0, 17.0, 18.0], "mag_err": np.array([0.01, 0.02, 0.03, 0.04], np.float32)})
    calibrator = Calibrator.of(zeropoints(surface=False, seeing=False), model(scale=None), NO_TERMS)
    mag, err = calibrator(frame, np.array([0, 2, 1, -1]), np.zeros(4))
    np.testing.assert_allclose(mag, [15.1, 15.8, np.nan, np.nan])
    expected = [
        np.sqrt((1.5 * 0.01) ** 2 + 0.004**2 + 0.01**2 + 0.002**2),
        np.sqrt((2.0 * 0.02) ** 2 + 0.006**2 + 0.02**2 + 0.003**2),
    ]
    np.testing.assert_allclose(err[:2], expected, rtol=1e-6)
    assert np.isnan(err[2:]).all()


def test_responses_are_taken_off():
    frame = pl.DataFrame({"mag": [15.0, 15.0], "mag_err": [0.01, 0.01]})
    calibrator = Calibrator.of(zeropoints(surface=False), model(), NO_TERMS)
    mag, _ = calibrator(frame, np.array([0, 2]), np.array([-0.05, -0.05]))
    h = (1.0**2 - 1.5) / 0.5
    np.testing.assert_allclose(mag, [15.0 + 0.1 + 0.05 * h, 15.0 - 0.2])  # nothing where the seeing is unknown


@pytest.mark.parametrize("detectors", [1, 2])
def test_surfaces_on_detectors(detectors):
    low, high = [[0.0, 0.0], [2000.0, 0.0]][:detectors], [[1000.0, 500.0], [3000.0, 400.0]][:detectors]
    field = Field("detector", low, high, CENTRE)
    names = ["a", "b"]
    which = np.array([0, 1, 0])[:3] % detectors
    x, y = np.array([100.0, 2750.0, 900.0]), np.array([400.0, 100.0, 10.0])
    if detectors == 1:
        x[1] = 750.0
    frame = pl.DataFrame({"mag": [15.0] * 3, "mag_err": [0.01] * 3, "x": x, "y": y})
    if detectors == 2:
        frame = frame.with_columns(detector=pl.Series([names[d] for d in which]))
    table, node = zeropoints(seeing=False), np.array([0, 2, 2])
    calibrator = Calibrator.of(table, model(field, None, names[:detectors] if detectors == 2 else ()), NO_TERMS)
    mag, _ = calibrator(frame, node, np.zeros(3))
    surface = table.select(SURFACE_COLUMNS).to_numpy()
    for i in range(3):
        (x0, y0), (x1, y1) = low[which[i]], high[which[i]]
        place = (2 * (x[i] - x0) / (x1 - x0) - 1, 2 * (y[i] - y0) / (y1 - y0) - 1)
        expected = 15.0 + table["zeropoint"][int(node[i])] + basis(*place) @ surface[node[i]]
        assert mag[i] == pytest.approx(expected, abs=1e-6)


def test_surfaces_on_the_sky():
    field = Field("sky", [[-0.5, -0.4]], [[0.5, 0.4]], CENTRE)
    table, node = zeropoints(sky=True, seeing=False), np.array([0, 2, 2])
    ra, dec = np.array([10.3, 0.5, 359.8]), np.array([0.2, -60.1, -59.9])
    frame = pl.DataFrame({"mag": [15.0] * 3, "mag_err": [0.01] * 3, "ra": ra, "dec": dec})
    mag, _ = Calibrator.of(table, model(field, None), NO_TERMS)(frame, node, np.zeros(3))
    xi, eta = tangent_offsets(ra, dec, table["ra"].to_numpy()[node], table["dec"].to_numpy()[node])
    surface = table.select(SURFACE_COLUMNS).to_numpy()
    for i in range(3):
        expected = 15.0 + table["zeropoint"][int(node[i])] + basis(xi[i] / 0.5, eta[i] / 0.4) @ surface[node[i]]
        assert mag[i] == pytest.approx(expected, abs=1e-6)


def test_the_input_is_not_changed():
    frame = pl.DataFrame({"mag": [15.0, 15.0], "mag_err": [0.01, 0.01]})
    Calibrator.of(zeropoints(surface=False), model(), NO_TERMS)(frame, np.array([0, 2]), np.full(2, 0.1))
    assert frame["mag"].to_list() == [15.0, 15.0]


def test_no_rows_and_no_nodes():
    frame = pl.DataFrame({"mag": [], "mag_err": []}, schema={"mag": pl.Float64, "mag_err": pl.Float32})
    mag, err = Calibrator.of(zeropoints(), model(), NO_TERMS)(frame, np.zeros(0, int), np.zeros(0))
    assert mag.size == err.size == 0
