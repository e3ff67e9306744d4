"""Rows of numbers in compiled kernels: each lane is what numpy says of it."""

import numpy as np
import pytest
from numba import njit

from calib.learn.lanes import LANES, clamped, fma, load, load_short, plus, same, silu, spread, store, tanh, times, total


@njit
def curves(x, of_silu, of_tanh, of_clamped):
    for r in range(x.shape[0]):
        row = load(x, r)
        store(of_silu, r, silu(row))
        store(of_tanh, r, tanh(row))
        store(of_clamped, r, clamped(row, 5))


@njit
def sums(x, y, short, out):
    for r in range(x.shape[0]):
        store(out, r, plus(fma(spread(x, r, 3), load(y, r), load(x, r)), times(load_short(short, r, 11), load(y, r))))
        out[r, 0] = total(load(x, r))
    store(out, 0, same(np.float32(2.5)))


def looked_at(values):
    x = np.resize(np.asarray(values, np.float32), (len(values) // LANES + 1, LANES))
    out = [np.empty_like(x) for _ in range(3)]
    curves(x, *out)
    return x.astype(float), *out


def test_curves_are_those_of_double_precision():
    x, of_silu, of_tanh, of_clamped = looked_at(np.linspace(-30, 30, 40_001))
    np.testing.assert_allclose(of_silu, x / (1.0 + np.exp(-x)), rtol=2e-6, atol=2e-7)
    np.testing.assert_allclose(of_tanh, np.tanh(x), rtol=0, atol=3e-7)
    np.testing.assert_array_equal(of_clamped, np.clip(x, -5, 5).astype(np.float32))


@pytest.mark.parametrize("size", [0.0, 1e-40, 1e-20, 86.0, 88.0, 1e3, 1e30, 3e38])
def test_curves_of_tiny_and_of_huge_numbers(size):
    x, of_silu, of_tanh, _ = looked_at([size, -size])
    np.testing.assert_allclose(of_silu, np.maximum(x, 0.0) if size > 80 else 0.5 * x, rtol=1e-6, atol=1e-30)
    np.testing.assert_allclose(of_tanh, np.where(size > 80, np.sign(x), 0.0), atol=1e-7)
    if size == 0.0:
        assert not of_silu.any()
        assert not of_tanh.any()


def test_what_is_no_number_stays_none():
    for out in looked_at([np.nan, 1.0, np.nan, -1.0])[1:]:
        np.testing.assert_array_equal(np.isnan(out.ravel()[:4]), [True, False, True, False])


def test_rows_are_taken_and_summed(rng):
    x, y = rng.normal(size=(2, 7, LANES)).astype(np.float32)
    short = rng.normal(size=(7, 11)).astype(np.float32)
    out = np.empty_like(x)
    sums(x, y, short, out)
    filled = np.pad(short, ((0, 0), (0, LANES - 11)))
    np.testing.assert_allclose(out[1:, 1:], (x[:, 3:4] * y + x + filled * y)[1:, 1:], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(out[1:, 0], x[1:].sum(1), rtol=1e-5, atol=1e-6)
    assert (out[0] == 2.5).all()
