"""Places in the field: bounds, offsets on the sky against astropy, and means over the field's area."""

import json

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord

from calib.model.field import OUTSIDE, Field, basis_means, tangent_offsets


def disc(rng, n):
    r, phi = np.sqrt(rng.random(n)), rng.uniform(0, 2 * np.pi, n)
    return np.stack([r * np.cos(phi), r * np.sin(phi)], 1).astype(np.float32)


def test_pixels_become_half_fields():
    rng = np.random.default_rng(0)
    x, y = rng.uniform(0, 4096, 50_000), rng.uniform(100, 2148, 50_000)
    field, xy = Field.from_detector(x, y, None)
    np.testing.assert_allclose(field.low, [[0, 100]], atol=6)
    np.testing.assert_allclose(field.high, [[4096, 2148]], atol=6)
    np.testing.assert_allclose(xy[:, 0], (x - 2048) / 2048, atol=0.01)
    np.testing.assert_allclose(xy[:, 1], (y - 1124) / 1024, atol=0.01)
    np.testing.assert_array_equal(field.on_detector(x, y, None), xy)


def test_stray_pixels_neither_set_the_bounds_nor_leave_them():
    rng = np.random.default_rng(1)
    x, y = rng.uniform(0, 1000, (2, 20_000))
    x[:3], y[3] = 1e6, -1e6
    field, xy = Field.from_detector(x, y, None)
    assert field.high[0][0] < 1010
    assert xy[:3, 0] == pytest.approx(OUTSIDE)
    assert xy[3, 1] == pytest.approx(-OUTSIDE)
    assert np.abs(xy).max() <= np.float32(OUTSIDE)


def test_missing_places_lie_in_the_middle():
    x = np.r_[np.linspace(0, 100, 500), np.nan]
    field, xy = Field.from_detector(x, x.copy(), None)
    assert (xy[-1] == 0).all()
    one, middle = Field.from_detector(np.full(5, 3.0), np.full(5, np.nan), None)
    assert (middle == 0).all()
    assert np.isfinite(field.centre + one.centre).all()


def test_each_detector_has_its_bounds():
    rng = np.random.default_rng(2)
    detector = rng.integers(0, 3, 30_000).astype(np.int32)
    x = rng.uniform(0, 1000, 30_000) + 2000 * detector
    y = rng.uniform(-1, 1, 30_000) * (1 + detector)
    field, xy = Field.from_detector(x, y, detector)
    np.testing.assert_allclose(np.array(field.low)[:, 0], [0, 2000, 4000], atol=5)
    for d in range(3):
        inside = detector == d
        np.testing.assert_allclose(xy[inside, 0], (x[inside] - 2000 * d - 500) / 500, atol=0.01)
        np.testing.assert_allclose(xy[inside, 1], y[inside] / (1 + d), atol=0.01)


@pytest.mark.parametrize("dec", [-89.0, -30.0, 0.0, 65.0])
def test_offsets_are_astropys(dec):
    rng = np.random.default_rng(3)
    n = 200
    ra0, dec0 = rng.uniform(0, 360, n), np.full(n, dec)
    centre = SkyCoord(ra0, dec0, unit="deg")
    star = centre.directional_offset_by(rng.uniform(0, 360, n) * u.deg, rng.uniform(0, 1.0, n) * u.deg)
    xi, eta = tangent_offsets(star.ra.deg, star.dec.deg, ra0, dec0)
    local = star.transform_to(centre.skyoffset_frame())
    lon, lat = local.lon.rad, local.lat.rad  # the tangent plane over the offset frame's sphere
    np.testing.assert_allclose(np.radians(xi), np.tan(lon), atol=1e-9)
    np.testing.assert_allclose(np.radians(eta), np.tan(lat) / np.cos(lon), atol=1e-9)


def test_sky_places_do_not_mind_midnight_of_the_sphere():
    rng = np.random.default_rng(4)
    offset = rng.uniform(-0.5, 0.5, (20_000, 2))
    node = rng.integers(0, 2, 20_000).astype(np.int32)
    centre_ra, centre_dec = np.array([0.1, 359.9]), np.array([0.0, 0.0])
    ra = (centre_ra[node] + offset[:, 0]) % 360
    field, xy = Field.from_sky(ra, offset[:, 1], node, centre_ra, centre_dec)
    np.testing.assert_allclose(xy, offset / 0.5, atol=0.01)
    np.testing.assert_allclose(field.on_sky(ra, offset[:, 1], centre_ra[node], centre_dec[node]), xy)


def functions(xy):
    x, y = xy.astype(float).T
    return np.stack([x, y, x * x, x * y, y * y], 1)


def test_means_over_a_square():
    xy = np.random.default_rng(5).uniform(-1, 1, (50_000, 2)).astype(np.float32)
    np.testing.assert_allclose(basis_means(xy), [0, 0, 0, 1 / 3, 0, 1 / 3], atol=1e-12)
    np.testing.assert_allclose((functions(xy) - basis_means(xy)[1:]).mean(0), 0, atol=0.01)


def test_means_over_a_disc():
    xy = disc(np.random.default_rng(6), 50_000)
    np.testing.assert_allclose(basis_means(xy), [0, 0, 0, 0.25, 0, 0.25], atol=0.04)  # to a cell's corner


def test_area_counts_and_not_where_stars_are():
    rng = np.random.default_rng(7)
    even = rng.uniform(-1, 1, (40_000, 2))
    crowded = np.concatenate([even, rng.uniform(0.5, 1, (40_000, 2))]).astype(np.float32)
    np.testing.assert_allclose(basis_means(crowded), [0, 0, 0, 1 / 3, 0, 1 / 3], atol=1e-12)


def test_few_places_say_nothing_of_the_shape():
    np.testing.assert_allclose(basis_means(np.full((9, 2), 0.7, np.float32)), [0, 0, 0, 1 / 3, 0, 1 / 3], atol=1e-12)


def test_json_and_back():
    rng = np.random.default_rng(8)
    x, y = rng.uniform(0, 100, (2, 5000))
    field, xy = Field.from_detector(x, y, (np.arange(5000) % 2).astype(np.int32))
    again = Field(**json.loads(json.dumps(field.to_json())))
    assert again == field
    np.testing.assert_array_equal(again.on_detector(x, y, (np.arange(5000) % 2).astype(np.int32)), xy)
