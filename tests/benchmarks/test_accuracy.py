"""What benchmarks/accuracy.py says of errors that hang together, against errors drawn from the covariance."""

from __future__ import annotations

import accuracy
import numpy as np
import pytest


@pytest.fixture
def stated() -> tuple[np.ndarray, np.ndarray]:
    """Covariance (60, 60) of two components, a few soft modes in each, about their means."""
    rng = np.random.default_rng(3)
    component = np.repeat([0, 1], 30)
    soft = rng.normal(size=(60, 4)) * [3.0, 2.0, 1.0, 1.0] * (component[:, None] == [0, 1, 0, 1])
    covariance = soft @ soft.T + np.diag(rng.uniform(0.1, 0.3, 60))
    return accuracy.centred(accuracy.centred(covariance, component).T, component), component


def test_range_of_ideal_pulls_holds_nineteen_in_twenty(stated: tuple[np.ndarray, np.ndarray]) -> None:
    covariance, component = stated
    low, high = accuracy.ideal_pulls(covariance, component)
    errors = np.random.default_rng(8).multivariate_normal(np.zeros(60), covariance, size=2000, method="eigh")
    pulls = np.sqrt((errors**2 / np.diag(covariance)).mean(1))
    assert np.mean((pulls > low) & (pulls < high)) == pytest.approx(0.95, abs=0.015)
    assert high - low > 0.5  # a few modes carry it: far wider than of independent errors


def test_whitened_pull_is_one_where_the_covariance_is_true(stated: tuple[np.ndarray, np.ndarray]) -> None:
    covariance, component = stated
    errors = np.random.default_rng(9).multivariate_normal(np.zeros(60), covariance, size=200, method="eigh")
    white = np.array([accuracy.white_pull(e + 5.0 * component, covariance, component) for e in errors])
    assert np.mean(white**2) == pytest.approx(1.0, abs=0.03)
    assert np.std(white) == pytest.approx(1 / np.sqrt(2 * 58), rel=0.2)
    assert accuracy.white_pull(2 * errors[0], covariance, component) == pytest.approx(2 * white[0])
