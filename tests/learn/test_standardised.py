"""Loops over measurements for their features, against whole arrays."""

import numpy as np
import pytest

from calib.learn.features import MEASUREMENT
from calib.learn.standardised import CELLS, asinh, by_place, describe, standardise

VISITS = (3, 1, 0, 5, 2, 9)
NODES, N = 4, sum(VISITS)


@pytest.fixture
def seen(rng):
    """Measurements with all that may be missing of one."""
    found = {
        "star": np.repeat(np.arange(len(VISITS)), VISITS), "node": rng.integers(0, NODES, N).astype(np.int32),
        "w": rng.uniform(0.0, 2.0, N), "base": rng.uniform(0.5, 2.0, N).astype(np.float32),
        "variability": rng.uniform(0.0, 1.0, len(VISITS)), "information": rng.uniform(0.5, 1.0, NODES),
        "prediction": rng.uniform(0.0, 0.7, N), "residual": 4.0 * rng.normal(size=N),
        "err": rng.uniform(0.01, 0.1, N).astype(np.float32), "m": 15.0 + rng.normal(size=N),
        "xy": rng.uniform(-1.1, 1.1, (N, 2)).astype(np.float32), "scale2": rng.uniform(0.5, 2.0, NODES),
        "slope": rng.normal(size=len(VISITS)), "seeing": rng.normal(size=NODES), "typical": rng.normal(size=(NODES, 2)),
    }  # fmt: skip
    found["w"][0], found["residual"][4], found["prediction"][5], found["xy"][6] = 0.0, np.nan, np.nan, np.nan
    return found


def residuals(s):
    """Slow: what `standardise` says."""
    base = s["base"].astype(float)
    variance = base + s["variability"][s["star"]]
    leverage = np.clip(np.nan_to_num(s["w"] * s["information"][s["node"]] * s["prediction"]), 0.0, 0.98)
    residual = np.nan_to_num(s["residual"])
    t = residual / np.sqrt(variance * (1.0 - leverage))
    return base, variance, leverage, residual, t


def common(s):
    ptr = np.r_[0, np.cumsum(VISITS)]
    return ptr, s["node"], s["w"], s["base"], s["variability"]


def test_residuals_and_their_sums(seen):
    t, leverage, stars, nodes = np.empty(N), np.empty(N), np.zeros((len(VISITS), 5)), np.zeros((NODES, 8))
    standardise(*common(seen), seen["information"], seen["prediction"], seen["residual"], t, leverage, stars, nodes)
    base, variance, of_leverage, residual, of_t = residuals(seen)
    np.testing.assert_allclose(t, of_t)
    np.testing.assert_allclose(leverage, of_leverage)
    soft, weight = np.clip(of_t, -6.0, 6.0), seen["w"] * variance
    assert np.abs(of_t).max() > 4.0
    for sums, of, columns in (
        (stars, seen["star"], (np.log(base), residual**2 / base, 1.0 - of_leverage, np.abs(soft), np.cbrt(soft))),
        (nodes, seen["node"], (
            np.ones(N), np.log(base), soft**2, weight * soft, weight, np.cbrt(soft), soft**4, np.abs(of_t) > 4.0,
        )),
    ):  # fmt: skip
        for k, x in enumerate(columns):
            np.testing.assert_allclose(sums[:, k], np.bincount(of, x, sums.shape[0]), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("bare", [False, True], ids=["all", "neither places nor responses"])
def test_rows_of_features(seen, bare):
    _, variance, leverage, _, t = residuals(seen)
    node, soft = seen["node"], np.clip(t, -3.0, 3.0)
    known = np.isfinite(seen["xy"]).all(1)
    xy = np.where(known[:, None], seen["xy"].astype(float), 0.0)
    cell = np.clip(((xy + 1.0) * 0.5 * CELLS).astype(int), 0, CELLS - 1)
    part = (node * CELLS + cell[:, 0]) * CELLS + cell[:, 1]
    sums, squares = np.zeros((NODES * CELLS**2, 3)), np.zeros(NODES)
    by_place(node, seen["xy"], t, sums, squares)
    for k, x in enumerate((soft, soft**2, np.ones(N))):
        np.testing.assert_allclose(sums[:, k], np.bincount(part, x, sums.shape[0]), atol=1e-12)
    np.testing.assert_allclose(squares, np.bincount(node, soft**2, NODES))

    log_err, out = np.log(seen["err"]), np.full((N, len(MEASUREMENT)), np.nan, np.float32)
    places = np.zeros((0, 2), np.float32) if bare else seen["xy"]
    describe(
        *common(seen), t, leverage, seen["err"], log_err, seen["m"], seen["typical"], seen["scale2"], places,
        sums, np.zeros(0) if bare else seen["slope"], seen["seeing"], out,
    )  # fmt: skip
    others, no = sums[part, 2] - 1.0, np.zeros(N)
    expected = {
        "residual": np.arcsinh(t), "residual_size": np.minimum(np.abs(t), 6.0),
        "weight": np.log(np.maximum(seen["w"] * variance, 1e-4)), "reported_error": log_err - seen["typical"][node, 1],
        "brightness": np.arcsinh((seen["m"] - seen["typical"][node, 0]) / 2.0), "leverage": np.sqrt(leverage),
        "radius": no if bare else np.hypot(*xy.T) - 0.75, "edge": no if bare else np.abs(xy).max(1) - 0.65,
        "response": no if bare else np.arcsinh(seen["slope"][seen["star"]] * seen["seeing"][node] / np.sqrt(variance)),
        "error_share": seen["scale2"][node] * seen["err"].astype(float) ** 2 / variance,
        "variability_share": seen["variability"][seen["star"]] / variance,
        "local_mean": no if bare else np.arcsinh((sums[part, 0] - soft) / np.sqrt(others + 1.0)),
        "local_count": no if bare else np.log1p(others), "has_place": no if bare else known,
        "has_response": no if bare else no + 1.0,
    }  # fmt: skip
    for k, name in enumerate(MEASUREMENT):
        np.testing.assert_allclose(
            out[:, k], np.clip(expected[name], -10, 10), rtol=1e-6, atol=1e-7, err_msg=name
        )


@pytest.mark.parametrize("x", [0.0, 1e-12, 1e-5, 0.3, 5.0, 1e10, 1e200, np.inf])
def test_inverse_hyperbolic_sine(x):
    for sign in (1.0, -1.0):
        exact = np.arcsinh(sign * x)
        found = asinh(sign * x)
        assert found == pytest.approx(exact, rel=1e-14, abs=3e-16) or x > 1e150 and found * sign > 300
