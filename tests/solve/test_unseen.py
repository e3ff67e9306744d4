"""A flat field's gradient that agrees with every measurement is in the errors of zero-points and of stars."""

import numpy as np
import polars as pl
import pytest

from calib import Config, calibrate
from calib.config import FLAT_GRADIENT as GRADIENT

WLS = Config(method="wls", score=False)
SPACING = 0.7


def strip(gradient, seed=1, n_exposures=40):
    """Table and truths of a strip of fields of width 1 under a gradient, mag over half a field; 1 mmag of noise."""
    rng = np.random.default_rng(seed)
    centre = np.column_stack([np.arange(n_exposures) * SPACING, np.zeros(n_exposures)])
    at = rng.uniform([-0.5, -0.5], centre.max(0) + 0.5, (n_exposures * 40, 2))
    star, exposure = np.nonzero((np.abs(at[:, None] - centre) < 0.5).all(2))
    magnitude, zeropoint = rng.uniform(15, 20, len(at)), rng.normal(0, 0.1, n_exposures)
    flat = 2.0 * (at[star] - centre[exposure]) @ gradient
    mag = magnitude[star] - zeropoint[exposure] + flat + rng.normal(0, 1e-3, star.size)
    frame = pl.DataFrame({"star_id": star, "exposure_id": exposure, "mag": mag, "mag_err": 1e-3})
    return frame, magnitude, zeropoint


def errors(solution, magnitude, zeropoint):
    """Errors of zero-points and stars over what is stated, each about the scale of the solution."""
    nodes = solution.frames["zeropoints"].sort("exposure_id")
    stars = solution.frames["stars"].filter(pl.col("mag").is_finite())
    z = nodes["zeropoint"].to_numpy() - zeropoint
    mag = stars["mag"].to_numpy() - magnitude[stars["star_id"].to_numpy()]
    level = 0.0 if nodes["anchored"].all() else z.mean()
    return (z - level) / nodes["zeropoint_err"].to_numpy(), (mag - level) / stars["mag_err"].to_numpy()


def test_pulls_are_right_over_many_cameras():
    rng = np.random.default_rng(7)
    pulls = [
        errors(calibrate(frame, config=WLS), *truth)
        for frame, *truth in (strip(rng.normal(0, GRADIENT, 2), seed) for seed in range(60))
    ]
    for what in (0, 1):
        assert np.sqrt(np.mean(np.concatenate([p[what] for p in pulls]) ** 2)) == pytest.approx(1.0, abs=0.2)


def test_a_survey_across_many_fields_is_less_certain_than_its_noise():
    frame, *_ = strip(np.zeros(2))
    solution = calibrate(frame, config=WLS)
    err = solution.frames["zeropoints"].sort("exposure_id")["zeropoint_err"].to_numpy()
    half_length = 39 * SPACING  # in half fields, from the middle to an end
    assert err[[0, -1]] == pytest.approx(half_length * GRADIENT, rel=0.15)
    assert err[19:21].max() < 0.2 * err[0]
    ends = solution.covariance([0, 39])
    assert ends[0, 1] < -0.9 * err[0] * err[-1]
    neighbours = solution.covariance([0, 1])
    assert np.sqrt(neighbours[0, 0] + neighbours[1, 1] - 2 * neighbours[0, 1]) < 0.1 * err[0]


def test_errors_grow_from_the_reference_stars():
    frame, magnitude, zeropoint = strip(np.zeros(2))
    near = np.unique(frame.filter(pl.col("exposure_id") == 0)["star_id"].to_numpy())
    reference = pl.DataFrame({"star_id": near, "mag": magnitude[near], "mag_err": 1e-3})
    solution = calibrate(frame, reference=reference, config=WLS)
    err = solution.frames["zeropoints"].sort("exposure_id")["zeropoint_err"].to_numpy()
    assert err[-1] == pytest.approx(2 * 39 * SPACING * GRADIENT, rel=0.15)
    assert err[0] < 0.1 * err[-1]
    stars = solution.frames["stars"].sort("star_id")["mag_err"].to_numpy()
    assert np.nanmax(stars) == pytest.approx(err[-1], rel=0.1)
    with_gradient, *truth = strip(np.array([2e-3, 0.0]))
    z, mag = errors(calibrate(with_gradient, reference=reference, config=WLS), *truth)
    assert np.abs(z).max() < 3.0  # two standard deviations of the gradient, and the noise
    assert np.nanmax(np.abs(mag)) < 6.0


@pytest.mark.parametrize("size", [0.0, 6.0])
def test_references_show_how_large_the_gradient_is(size):
    frame, magnitude, zeropoint = strip(np.array([size * GRADIENT, 0.0]))
    rng = np.random.default_rng(3)
    seen = np.unique(frame["star_id"].to_numpy())
    told = np.sort(rng.choice(seen, 150, replace=False))
    mag = magnitude[told] + rng.normal(0, 5e-3, told.size)
    mag[:8] += 0.4  # wrong ones
    reference = pl.DataFrame({"star_id": told, "mag": mag, "mag_err": 5e-3})
    solution = calibrate(frame, reference=reference, config=WLS)
    err = solution.frames["zeropoints"].sort("exposure_id")["zeropoint_err"].to_numpy()
    allowed = 39 * SPACING * GRADIENT
    assert err[0] == pytest.approx(max(size, 1.0) * allowed, rel=0.25)
    bent = any("bend away from the reference stars" in w for w in solution.diagnostics["warnings"])
    assert bent == (size > 2.0)
    if size:
        pull, of_stars = errors(solution, magnitude, zeropoint)
        assert np.sqrt(np.mean(pull**2)) == pytest.approx(1.0, abs=0.25)
        assert np.sqrt(np.nanmean(of_stars**2)) == pytest.approx(1.0, abs=0.3)


def test_surfaces_have_their_own_prior():
    frame, *_ = strip(np.zeros(2))
    frame = frame.with_columns(
        x=pl.Series(np.random.default_rng(1).uniform(-1, 1, frame.height)),
        y=pl.Series(np.random.default_rng(2).uniform(-1, 1, frame.height)),
    )
    on, off = (
        calibrate(frame, config=Config(method="robust", surface=surface, score=False)) for surface in ("plane", "off")
    )
    assert not on.covariances.patterns.any()
    assert off.covariances.patterns.any()
