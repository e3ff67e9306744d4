"""Airmass worked out from mjd, ra, dec and a site."""

import numpy as np
import polars as pl
import pytest

from calib import Config, calibrate
from calib.config import ConfigError
from calib.tables import read_measurements
from calib.tables.airmass import airmass, with_airmass

SITE = [-70.7, -30.2]
ROBUST = {"method": "robust", "score": False}


def by_hand(ra, dec, mjd, site):
    """Secant of the zenith distance by mean sidereal time, of places of the year 2000 (Meeus 1998, equation 12.4)."""
    sidereal = np.radians(280.46061837 + 360.98564736629 * (mjd - 51544.5) + site[0])
    hour, d, lat = sidereal - np.radians(ra), np.radians(dec), np.radians(site[1])
    return 1.0 / (np.sin(lat) * np.sin(d) + np.cos(lat) * np.cos(d) * np.cos(hour))


def test_it_is_the_secant_high_up_and_known_at_the_horizon():
    rng = np.random.default_rng(1)
    mjd, ra, dec = rng.uniform(51500, 51590, 2000), rng.uniform(0, 360, 2000), rng.uniform(-80, 30, 2000)
    x, secant = airmass(ra, dec, mjd, SITE), by_hand(ra, dec, mjd, SITE)
    high = (secant > 0) & (secant < 2)
    assert high.sum() > 300
    np.testing.assert_allclose(x[high], secant[high], rtol=5e-3)
    assert np.isnan(x[secant < 0]).all()
    for wrong in (2459000.5, 1e9, -5.0):
        assert np.isnan(airmass(ra[:1], dec[:1], np.array([wrong]), SITE)).all()
    assert np.isfinite(airmass(np.array([10.0]), np.array([-90.0]), np.array([90000.0]), SITE)).all()
    low = (secant > 5) & (secant < 10)
    assert (x[low] < secant[low]).all()


def survey(seed=3, n_nights=6, per_night=30):
    """Eight fields, a star of the next one in every sixth exposure; 0.15 mag per airmass, photometric nights."""
    rng = np.random.default_rng(seed)
    night = np.repeat(np.arange(n_nights), per_night)
    mjd = 60000.0 + night + 0.1 + 0.25 * np.tile(np.arange(per_night), n_nights) / per_night
    place = rng.integers(0, 8, night.size)
    ra, dec = 150.0 + 4.0 * place, np.full(night.size, -25.0)
    x = airmass(ra, dec, mjd, SITE)
    zero = 0.01 * rng.standard_normal(n_nights)[night] - 0.15 * (x - 1) + 0.002 * rng.standard_normal(night.size)
    rows = []
    for e in range(night.size):
        star = np.r_[100 * place[e] + np.arange(60), [100 * ((place[e] + 1) % 8)] * (e % 6 == 0)].astype(int)
        rows.append(pl.DataFrame({"star_id": star, "exposure_id": np.full(star.size, e)}))
    frame = pl.concat(rows)
    magnitude = rng.uniform(15, 18, 1000)
    star, exposure = frame["star_id"].to_numpy(), frame["exposure_id"].to_numpy()
    mag = magnitude[star] - zero[exposure] + 0.02 * rng.standard_normal(star.size)
    frame = frame.with_columns(mag=mag, mag_err=pl.lit(0.02))
    exposures = pl.DataFrame({"exposure_id": np.arange(night.size), "mjd": mjd, "ra": ra, "dec": dec, "airmass": x})
    return frame, exposures, zero


def rms(solution, zero):
    z = solution.frames["zeropoints"].sort("exposure_id")["zeropoint"].to_numpy() - zero
    return float(np.std(z))


def test_a_site_serves_as_well_as_the_airmass():
    frame, exposures, zero = survey()
    given = calibrate(frame, exposures=exposures, config=Config(**ROBUST))
    bare = calibrate(frame, exposures=exposures.drop("airmass"), config=Config(**ROBUST))
    sited = calibrate(frame, exposures=exposures.drop("airmass"), config=Config(**ROBUST, site=SITE))
    assert rms(sited, zero) == pytest.approx(rms(given, zero), rel=1e-6)
    assert rms(sited, zero) < 0.7 * rms(bare, zero)
    assert "airmass" in sited.frames["zeropoints"].columns
    assert not any("site" in text for text in sited.diagnostics["warnings"])
    assert any("site = [longitude, latitude]" in text for text in bare.diagnostics["warnings"])
    assert not any("site" in text for text in given.diagnostics["warnings"])
    off = calibrate(frame, exposures=exposures.drop("airmass"), config=Config(**ROBUST, extinction="off"))
    assert not any("site" in text for text in off.diagnostics["warnings"])


def test_what_is_given_stays_and_what_cannot_be_is_counted():
    frame, exposures, _ = survey()
    first, second, third = (pl.col("exposure_id") == k for k in range(3))
    exposures = exposures.with_columns(
        airmass=pl.when(first).then(1.234), mjd=pl.when(~second).then(pl.col("mjd")),
        dec=pl.when(third).then(89.0).otherwise(pl.col("dec")),
    )  # fmt: skip
    done = with_airmass(read_measurements(frame, exposures=exposures), SITE)
    x = done.exposures.sort("exposure_id")["airmass"]
    assert x[0] == 1.234
    assert x.is_null().to_list() == [False, True, True] + [False] * 177
    assert done.warnings == [
        "site: 1 exposure would lie within 3 degrees of the horizon or below it, or in no year of these, without"
        " airmass: look at site (longitude to the east, latitude) and mjd",
        "site: 1 exposure with no airmass, nor mjd, ra and dec to work it out",
    ]


@pytest.mark.parametrize("site", [(1.0,), "Paranal", (0.0, 91.0), (400.0, 0.0), (True, 0.0), 3.0])
def test_a_site_that_is_none_is_refused(site):
    with pytest.raises(ConfigError, match="site is"):
        Config(site=site)


def test_a_site_comes_from_toml_and_from_the_record(tmp_path):
    (tmp_path / "c.toml").write_text("site = [-70.7, -30.2]\nflat_gradient = 0.001\n")
    config = Config.from_toml(tmp_path / "c.toml")
    assert config.site == SITE
    assert config.flat_gradient == 1e-3
    assert Config.from_mapping(config.resolved()) == config
    with pytest.raises(ConfigError, match="flat_gradient"):
        Config(flat_gradient=-1.0)
