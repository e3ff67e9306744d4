"""Exposures drawn to their wrong measurements find back to the right ones, and noisy ones stay noisy."""

import numpy as np
import pytest

from calib.model.cores import settle_on_cores
from calib.model.noise import NoiseModel


def exposures(seed, off, share=0.6, n=200):
    """Three exposures of n stars each: a contaminated one whose zero-point is off, a noisy one and a usual one."""
    rng = np.random.default_rng(seed)
    star_ptr = np.arange(0, 3 * n + 1, 3)
    node = np.tile(np.arange(3, dtype=np.int32), n)
    err = np.full(3 * n, 0.02, np.float32)
    residual = rng.normal(0, 0.02, 3 * n)
    residual[1::3] += rng.normal(0, 0.25, n)
    strange = np.flatnonzero(rng.random(n) < share) * 3
    residual[strange] += -rng.gumbel(0.3, 0.8, strange.size)
    residual[0::3] -= off
    model = NoiseModel.start(np.zeros(3, np.int32), np.ones(1))
    model.excess[:] = 0.256**2, 0.256**2, 0.0
    return model, star_ptr, node, err, residual


@pytest.mark.parametrize("off", [-0.2, -0.08, 0.0, 0.15])
@pytest.mark.parametrize("seed", range(3))
def test_a_contaminated_exposure_goes_to_its_core(seed, off):
    given = exposures(seed, off)
    model = given[0]
    shift = settle_on_cores(*given, np.zeros(600), np.zeros(200))
    assert shift[0] == pytest.approx(off, abs=0.015)
    np.testing.assert_array_equal(shift[1:], 0.0)
    assert model.excess[0] == 0.0
    assert model.level[0] > 0
    assert model.excess[1] == 0.256**2
    np.testing.assert_array_equal(model.level[1:], 0)


def test_what_is_left_free_is_what_counts():
    given = exposures(1, -0.08)
    leverage = np.full(600, 0.98)  # four measurements in all: not enough to be sure
    assert not settle_on_cores(*given, leverage, np.zeros(200)).any()
    assert given[0].excess[0] == 0.256**2
    leverage[:] = 0.5
    assert settle_on_cores(*given, leverage, np.zeros(200))[0] == pytest.approx(-0.08, abs=0.015)


def test_without_noisy_exposures_nothing_is_looked_at():
    model, *rest = exposures(2, -0.08)
    model.excess[:] = 1e-6
    assert not settle_on_cores(model, *rest, np.zeros(600), np.zeros(200)).any()
