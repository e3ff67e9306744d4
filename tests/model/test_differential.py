"""Where a telescope stands, and how airmass goes over a field, held against astropy's coordinates."""

import numpy as np
import pytest

from calib.model.differential import across_fields, airmass, basis, site_of
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


@pytest.mark.parametrize("half", [0.5, 3.5, 10.0])
def test_airmass_over_a_field_is_astropys_however_it_was_turned(half):
    rng = np.random.default_rng(3)
    site, per = SITES[1], 400
    ra0, dec0, mjd, _ = pointings(site, n=12)
    high = np.flatnonzero(airmass(ra0, dec0, mjd, site) < 1.4)
    ra0, dec0, mjd = ra0[high], np.clip(dec0[high], -70, 60), mjd[high]
    n = high.size
    node = np.repeat(np.arange(n), per)
    xy = rng.uniform(-1, 1, (node.size, 2))
    turn = rng.uniform(-np.pi, np.pi, n)[node]
    c, s = np.cos(turn), np.sin(turn)
    dec = dec0[node] + half * (s * xy[:, 0] + c * xy[:, 1])
    ra = ra0[node] + half * (c * xy[:, 0] - s * xy[:, 1]) / np.cos(np.radians(dec))
    centre = np.array([0.0, 0.0, 0.0, 1 / 3, 0.0, 1 / 3])
    places = xy.astype(np.float32)
    found = across_fields(places, centre, node, ra, dec, mjd, site)
    expected = by_astropy(ra, dec, mjd[node], site)
    left = expected - (found[node] * basis(places, centre)[:, 1:]).sum(1)
    left -= (np.bincount(node, left) / per)[node]
    about = expected - (np.bincount(node, expected) / per)[node]
    assert left.std() < 0.08 * about.std()


def test_few_stars_tell_a_plane_and_fewer_nothing():
    site = SITES[1]
    ra0, dec0, mjd, _ = pointings(site, n=9)
    ra0, dec0, mjd = ra0[:3], dec0[:3], mjd[:3]
    rng = np.random.default_rng(0)
    node = np.repeat([0, 1, 2], [40, 12, 3])
    xy = rng.uniform(-1, 1, (node.size, 2)).astype(np.float32)
    ra, dec = ra0[node] + xy[:, 0], dec0[node] + xy[:, 1]
    ra[5] = np.nan
    found = across_fields(xy, np.zeros(6), node, ra, dec, mjd, site)
    assert (found[0] != 0).all()
    assert (found[1, :2] != 0).all()
    assert not found[1, 2:].any()
    assert not found[2].any()
