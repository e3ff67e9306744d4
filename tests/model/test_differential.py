"""Where a telescope stands, held against astropy's coordinates."""

import numpy as np
import pytest

from calib.model.differential import airmass, site_of
from calib.tables.airmass import airmass as by_astropy

SITES = [(-116.86, 33.36), (289.26 - 360.0, -30.24), (149.06, -31.27)]


def pointings(site, seed=0, n=60):
    """ra, dec, mjd of exposures that are up at a site, and their airmasses by astropy."""
    rng = np.random.default_rng(seed)
    mjd = 60300 + rng.integers(0, 20, 4 * n) + rng.uniform(0, 1, 4 * n)
    ra, dec = rng.uniform(0, 360, 4 * n), np.clip(site[1] + rng.normal(0, 25, 4 * n), -80, 80)
    up = np.flatnonzero(np.nan_to_num(airmass(ra, dec, mjd, site), nan=9.0) < 2.0)[:n]
    ra, dec, mjd = ra[up], dec[up], mjd[up]
    return ra, dec, mjd, by_astropy(ra, dec, mjd, site)


@pytest.mark.parametrize("site", SITES)
def test_airmass_is_astropys(site):
    ra, dec, mjd, given = pointings(site)
    np.testing.assert_allclose(airmass(ra, dec, mjd, site), given, rtol=0.02)  # of another equinox


@pytest.mark.parametrize("site", SITES)
def test_a_site_follows_from_airmasses(site):
    ra, dec, mjd, given = pointings(site)
    found = site_of(ra, dec, mjd, given)
    assert found is not None
    np.testing.assert_allclose(found, site, atol=0.5)
    rng = np.random.default_rng(1)
    rough = site_of(ra, dec, mjd, np.round(given + rng.normal(0, 0.003, given.size), 2))
    np.testing.assert_allclose(rough, site, atol=1.0)


def test_airmasses_of_no_site_give_none():
    ra, dec, mjd, given = pointings(SITES[0])
    rng = np.random.default_rng(1)
    assert site_of(ra, dec, mjd, rng.permutation(given)) is None
    assert site_of(ra, dec, rng.permutation(mjd), given) is None
    assert site_of(ra[:5], dec[:5], mjd[:5], given[:5]) is None
    assert site_of(ra, dec, mjd, np.full(ra.size, 1.2)) is None
    assert site_of(ra, dec, np.full(ra.size, np.nan), given) is None
    two = np.arange(ra.size) % 2 == 0
    elsewhere = by_astropy(ra, dec, mjd - 0.2, SITES[0])
    assert site_of(ra, dec, mjd, np.where(two, given, elsewhere)) is None
