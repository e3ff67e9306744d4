"""Covariances between exposures as a user asks for them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from calib import Config, Solution, calibrate
from calib import covariance as module
from calib.config import ConfigError
from calib.covariance import CovarianceError, rows_of
from calib.simulate import PRESETS, simulate
from calib.solution import SolutionError

ROBUST = Config(method="robust", score=False)


@pytest.fixture(scope="module")
def islands():
    spec = replace(PRESETS["islands"], n_exposures=60, stars_per_exposure=60.0)
    return simulate(spec, 2)


@pytest.fixture(scope="module")
def reference(islands):
    """Reference stars; what they anchor is held by their scale."""
    truth = islands.truth_stars.sort("star_id")
    return truth.head(truth.height // 3).select("star_id", "band", "mag", mag_err=pl.lit(0.02))


@pytest.mark.parametrize(
    ("config", "with_reference"),
    [
        (ROBUST, False),
        (ROBUST, True),
        (replace(ROBUST, extinction="on"), True),
        (Config(method="wls", score=False), False),
        (replace(ROBUST, surface="quadratic", seeing_response="on"), False),
    ],
    ids=["robust", "references", "catalogue", "wls", "terms"],
)
def test_the_diagonal_is_the_stated_error(islands, reference, config, with_reference):
    solution = calibrate(islands.measurements, islands.exposures, reference if with_reference else None, config)
    z = solution.frames["zeropoints"]
    assert z["component"].n_unique() > 1
    assert z["anchored"].any() == with_reference
    got = solution.covariance(z["exposure_id"])
    np.testing.assert_allclose(np.sqrt(np.diag(got)), z["zeropoint_err"].to_numpy(), rtol=1e-6)
    assert (got == got.T).all()
    known = np.flatnonzero(z["zeropoint_err"].is_finite())
    assert np.linalg.eigvalsh(got[np.ix_(known, known)]).min() > -1e-9 * np.nanmax(got)


def test_zeropoints_of_mean_zero_have_covariances_of_mean_zero(islands):
    """But for what each exposure has for itself."""
    solution = calibrate(islands.measurements, islands.exposures, None, Config(method="wls", score=False))
    z = solution.frames["zeropoints"]
    parts = solution.covariances
    assert parts.grow.max() > 1.0
    got = solution.covariance(z["exposure_id"]) - np.diag(parts.beyond)
    for c in range(z["component"].max() + 1):
        inside = np.flatnonzero(z["component"] == c)
        assert np.abs(got[:, inside].sum(1)).max() < 1e-8 * np.trace(got)
    apart = z["component"].to_numpy()[:, None] != z["component"].to_numpy()
    assert np.abs(got[apart]).max() < 1e-12  # no nights in weighted least squares: nothing links islands


@pytest.mark.parametrize("n_exposures", [1, 7])
def test_where_nothing_links_nothing_is_known(n_exposures, tmp_path):
    """Every exposure has stars of its own: no zero-point, no covariance, and a whole matrix all the same."""
    rng = np.random.default_rng(11)
    exposure = np.repeat(np.arange(n_exposures), 30)
    table = pl.DataFrame({"star_id": np.arange(exposure.size), "exposure_id": exposure})
    table = table.with_columns(mag=rng.normal(18, 1, exposure.size), mag_err=rng.uniform(0.003, 0.05, exposure.size))
    solution = calibrate(table, config=Config(method="wls", score=False, covariance=True))
    solution.write(tmp_path / "out", report=False)
    assert np.isnan(Solution.read(tmp_path / "out").covariance(np.arange(n_exposures))).all()


def test_differences_of_exposures_scatter_as_the_covariance_says():
    """Of two exposures of one field, and of two at the ends of a strip, over many draws of the noise."""
    rng = np.random.default_rng(5)
    star = np.concatenate([np.arange(12) + 6 * e for e in range(8)])
    exposure = np.repeat(np.arange(8), 12)
    table = pl.DataFrame({"star_id": star, "exposure_id": exposure, "mag_err": np.full(star.size, 0.01)})
    config = Config(method="wls", score=False)
    drawn = []
    for _ in range(300):
        noisy = table.with_columns(mag=pl.Series(18.0 + star / 50 + rng.normal(0, 0.01, star.size)))
        solution = calibrate(noisy, config=config)
        drawn.append(solution.frames["zeropoints"]["zeropoint"].to_numpy())
    parts = replace(solution.covariances, grow=np.ones(8), beyond=np.zeros(8), patterns=np.zeros((8, 2)))
    wanted = parts.between(np.arange(8))
    scale = np.sqrt(np.diag(wanted))
    assert np.abs((np.cov(np.array(drawn).T) - wanted) / np.outer(scale, scale)).max() < 5 * np.sqrt(2 / 300)
    assert wanted[0, 7] < -0.5 * scale[0] * scale[7]


def test_shared_parts_are_shared():
    parts = module.ZeropointCovariance(
        None, None, np.array([0, 0, 1]), np.ones(3), np.array([4.0, 9.0]), np.array([1.0, -2.0, 3.0]),
        np.array([0.5, 0.25, 0.0]), np.array([True, True, True]), np.array([[1.0, 0.0], [2.0, 1.0], [3.0, 0.0]]),
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "zeropoint_covariance", lambda equations, nodes, functional: np.eye(nodes.size))
        got = parts.between(np.array([2, 0, 1, 0]))
    np.testing.assert_array_equal(
        got, [[28.0, 3.0, -6.0, 3.0], [3.0, 7.5, 4.0, 7.5], [-6.0, 4.0, 14.25, 4.0], [3.0, 7.5, 4.0, 7.5]]
    )
    np.testing.assert_array_equal(np.diag(got)[[1, 2, 0]], parts.diagonal(np.ones(3)))


class TestWhoIsMeant:
    frame = pl.DataFrame({"exposure_id": [1, 1, 2], "band": ["g", "r", "g"], "zeropoint": [0.0, 0.1, 0.2]})

    def test_by_band(self):
        assert rows_of(self.frame, [2, 1], "g").tolist() == [2, 0]
        assert rows_of(self.frame, np.array([1, 1]), ["r", "g"]).tolist() == [1, 0]
        assert rows_of(self.frame, 2).tolist() == [2]
        assert rows_of(self.frame, []).tolist() == []

    def test_exposure_of_two_bands(self):
        with pytest.raises(CovarianceError, match="^exposure_id 1: has several zero-points; give its band$"):
            rows_of(self.frame, [2, 1])

    def test_no_such_exposure(self):
        with pytest.raises(CovarianceError, match="^exposure_id 2, band r: has no zero-point in this solution$"):
            rows_of(self.frame, [2], "r")

    def test_no_such_column(self):
        with pytest.raises(CovarianceError, match="have no detector"):
            rows_of(self.frame, [2], detector=3)

    def test_bands_that_do_not_fit(self):
        with pytest.raises(CovarianceError, match="2 values of band for 3 exposures"):
            rows_of(self.frame, [1, 2, 2], ["g", "r"])


def test_unknown_zeropoints_are_nan(islands):
    lonely = islands.measurements.head(3).with_columns(
        exposure_id=pl.lit(10**9, pl.Int64), star_id=10**12 + pl.int_range(3, dtype=pl.Int64)
    )
    config = replace(ROBUST, extinction="off")
    solution = calibrate(pl.concat([islands.measurements, lonely]), config=config)
    got = solution.covariance([10**9, islands.exposures["exposure_id"][0]])
    assert np.isfinite(got).tolist() == [[False, False], [False, True]]


def test_large_surveys_keep_nothing_unasked(islands, monkeypatch):
    monkeypatch.setattr("calib.pipeline.KEPT_MEASUREMENTS", 1000)
    given = (islands.measurements, islands.exposures, None, Config(method="wls", score=False))
    ids = islands.exposures["exposure_id"][:2]
    solution = calibrate(*given)
    assert solution.covariances is None
    with pytest.raises(SolutionError, match="keep_covariance=True"):
        solution.covariance(ids)
    kept = calibrate(*given, keep_covariance=True)
    assert kept.covariance(ids).shape == (2, 2)


@pytest.fixture
def given(survey: Path) -> list[str]:
    config = ["--config", str(survey / "config.toml")]
    (survey / "config.toml").write_text("score = false\n")
    files = [str(survey / "measurements.parquet"), "--exposures", str(survey / "exposures.parquet")]
    return [*files, "--method", "wls", "--quiet", *config]


def test_on_the_command_line(calib, given, tmp_path, no_page, monkeypatch):
    out = tmp_path / "o"
    assert calib("solve", *given, "--out", out, "--covariance") == (0, "", "")
    solution = Solution.read(out)
    z = solution.frames["zeropoints"]
    ids, bands = z["exposure_id"].to_list(), z["band"].to_list()
    got = solution.covariance(ids[::-1], bands[::-1])
    np.testing.assert_allclose(np.sqrt(np.diag(got)), z["zeropoint_err"].to_numpy()[::-1], rtol=1e-6)
    with np.load(out / "covariance.npz") as held:
        assert held["exposure_id"].tolist() == ids
        assert held["band"].tolist() == bands
        assert str(held["unit"]) == "mag2"
        np.testing.assert_array_equal(held["covariance"][::-1, ::-1], got)
    solution.write(tmp_path / "copy", report=False)
    np.testing.assert_array_equal(Solution.read(tmp_path / "copy").covariance(ids, bands), got[::-1, ::-1])
    # without it the next solution has no matrix, least of all the old one
    assert calib("solve", *given, "--out", out)[0] == 0
    assert not (out / "covariance.npz").exists()
    with pytest.raises(SolutionError, match=r"covariance\.npz: there is no such file; solve again with --covariance"):
        Solution.read(out).covariance(ids[:1], bands[:1])
    monkeypatch.setattr("calib.pipeline.MOST_EXPOSURES", 10)
    status, printed, error = calib("solve", *given, "--out", tmp_path / "p", "--covariance")
    assert (status, printed) == (2, "")
    assert error.startswith("calib solve: covariance: 40 zero-points, more than the 10")
    assert error.count("\n") == 1
    assert not (tmp_path / "p").exists()


def test_resume_wants_the_matrix_that_is_asked_for(calib, given, tmp_path, no_page):
    out = tmp_path / "o"
    assert calib("solve", *given, "--out", out, "--covariance")[0] == 0
    made = (out / "covariance.npz").stat().st_mtime_ns
    assert calib("solve", *given, "--out", out, "--covariance", "--resume")[0] == 0
    assert (out / "covariance.npz").stat().st_mtime_ns == made
    (out / "covariance.npz").unlink()
    assert calib("solve", *given, "--out", out, "--covariance", "--resume")[0] == 0
    assert (out / "covariance.npz").is_file()


def test_config_is_checked():
    with pytest.raises(ConfigError, match="covariance is 'yes'; it is true or false"):
        Config(covariance="yes")
