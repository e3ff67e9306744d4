"""Reported errors that follow their own measurement's noise are found out and freed; others are left alone."""

import numpy as np
import pytest

from calib.model.errors import error_curves, freed_errors


def survey(seed=0, n_nodes=8, per_node=1500, bright=18.0):
    rng = np.random.default_rng(seed)
    n = n_nodes * per_node
    node = np.repeat(np.arange(n_nodes), per_node).astype(np.int32)
    truth = rng.uniform(bright, 22.0, n)
    depth = rng.normal(0, 0.3, n_nodes)[node]

    def sigma(mag):
        """Error of a magnitude in its exposure: sky and photon noise."""
        return np.hypot(0.003 * 10 ** (0.2 * (mag - 18.0)), 0.001 * 10 ** (0.4 * (mag - 18.0))) * 10 ** (0.4 * depth)

    true_sigma = sigma(truth)
    residual = rng.normal(0, true_sigma)
    return node, truth, residual, sigma, n_nodes, rng


def test_errors_from_the_measured_flux_are_found_and_freed():
    node, truth, residual, sigma, n_nodes, rng = survey(bright=20.0)
    m = truth + residual
    err = (sigma(m) * np.exp(rng.normal(0, 0.02, m.size))).astype(np.float32)
    freed, coupling = freed_errors(node, m, err, residual, n_nodes)
    assert coupling == pytest.approx(1.0, abs=0.12)
    pull = residual / sigma(truth)
    log_ratio = np.log(err / sigma(truth)), np.log(freed / sigma(truth))
    before, after = (abs(np.corrcoef(x, pull)[0, 1]) for x in log_ratio)
    assert before > 0.3
    assert after < 0.1 * before

    def bias(errors):
        """Mean over nodes of their weighted mean residual."""
        total = np.bincount(node, weights=residual / errors.astype(float) ** 2)
        return (total / np.bincount(node, weights=1 / errors.astype(float) ** 2)).mean()

    assert bias(err) < bias(sigma(truth)) - 3e-4  # weights prefer bright fluctuations
    assert bias(freed) == pytest.approx(bias(sigma(truth)), abs=5e-5)


def test_errors_from_the_true_flux_are_left_alone():
    node, truth, residual, sigma, n_nodes, rng = survey(1)
    err = (sigma(truth) * np.exp(rng.normal(0, 0.02, truth.size))).astype(np.float32)
    freed, coupling = freed_errors(node, truth + residual, err, residual, n_nodes)
    assert coupling == 0.0
    assert freed is err


def test_constant_errors_are_left_alone():
    node, truth, residual, _, n_nodes, _ = survey(2)
    err = np.full(truth.size, 0.01, np.float32)
    freed, coupling = freed_errors(node, truth + residual, err, residual, n_nodes)
    assert coupling == 0.0
    np.testing.assert_array_equal(freed, err)


def test_outliers_do_not_couple():
    node, truth, residual, sigma, n_nodes, rng = survey(3)
    wrong = rng.random(truth.size) < 0.05
    residual = residual + np.where(wrong, rng.normal(0, 0.5, truth.size), 0.0)
    err = sigma(truth).astype(np.float32)
    assert freed_errors(node, truth + residual, err, residual, n_nodes)[1] == 0.0


def test_error_curves_are_those_of_each_node():
    rng = np.random.default_rng(4)
    node = np.repeat(np.arange(3), 400).astype(np.int32)
    mag = rng.uniform(15, 19, node.size)
    level, slope, bend = np.array([-4.0, -3.0, -5.0]), np.array([0.5, 0.7, 0.4]), np.array([0.05, 0.0, 0.1])
    x = mag - 17.0
    log_err = level[node] + slope[node] * x + bend[node] * x**2
    value, tangent = error_curves(node, mag, log_err, 3)(node, mag)
    np.testing.assert_allclose(value, log_err, atol=0.06)  # shrunk a little towards each other
    np.testing.assert_allclose(tangent, slope[node] + 2 * bend[node] * x, atol=0.08)


def test_a_node_of_few_stars_takes_the_surveys_curve():
    rng = np.random.default_rng(5)
    node = np.r_[np.zeros(2000), np.ones(2)].astype(np.int32)
    mag = np.r_[rng.uniform(15, 19, 2000), 16.0, 16.001]
    log_err = 0.6 * (mag - 17.0) - 4.0 + np.r_[np.zeros(2000), 1.0, 1.5]
    value, slope = error_curves(node, mag, log_err, 2)(node, mag)
    np.testing.assert_allclose(slope[-2:], 0.6, atol=0.05)
    np.testing.assert_allclose(value[-2:], log_err[-2:].mean(), atol=0.1)


def test_empty_nodes_and_missing_values():
    node = np.array([0, 0, 2, 2, 2], np.int32)
    mag = np.array([15.0, 16.0, np.nan, 17.0, 18.0])
    curves = error_curves(node, mag, np.array([-4, -3.5, -3.2, -3.0, np.nan]), 4)
    assert np.isfinite(curves.coefficients).all()
    value, slope = curves(node, mag)
    np.testing.assert_array_equal(np.isfinite(value), np.isfinite(mag))
    np.testing.assert_array_equal(np.isfinite(slope), np.isfinite(mag))
