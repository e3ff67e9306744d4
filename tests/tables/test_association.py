"""Stars told by position, against what is slow and plain, on any part of the sky, in any order of the rows."""

import numpy as np
import polars as pl
import pytest
from scipy.sparse.csgraph import connected_components

from calib.tables import InputError, iter_measurements, read_measurements, skygrid
from calib.tables.association import AS_NEAR, USUAL, associate
from calib.tables.duplicates import mark_duplicates
from calib.tables.reasons import CODES, count_reasons

ARCSEC = np.pi / 180 / 3600
CENTRES = [(150.0, 2.0), (0.0, 0.0), (359.99999, -45.0), (123.0, 90.0), (10.0, -90.0), (200.0, 89.9999)]


def on_sky(offset, centre):
    """Offsets (n, 2), arcsec, laid on the sphere around a centre: ra and dec, deg."""
    x, y = (ARCSEC * offset).T
    a, d = np.radians(centre)
    z = np.sqrt(1 - x * x - y * y)
    v = np.stack([z, x, y], 1)
    tilt = np.array([[np.cos(d), 0, -np.sin(d)], [0, 1, 0], [np.sin(d), 0, np.cos(d)]])
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    x, y, z = (v @ tilt.T @ turn.T).T
    return np.degrees(np.arctan2(y, x)) % 360.0, np.degrees(np.arctan2(z, np.hypot(x, y)))


def table(offset, exposure, centre=CENTRES[0], **more):
    """Measurements at offsets (n, 2), arcsec."""
    offset, exposure = np.asarray(offset, float), np.asarray(exposure)
    ra, dec = on_sky(offset, centre)
    frame = pl.DataFrame({"exposure_id": exposure, "band": "r", "mag": 18 + 0.001 * np.arange(len(exposure))})
    frame = frame.with_columns(ra=ra, dec=dec, mag_err=pl.lit(0.01, pl.Float32), **more)
    return frame.with_columns(pl.col("band").cast(pl.Enum(["g", "r"])))


def field(stars, visits=12, scatter=0.1, seed=0, seen=1.0):
    """Detections of stars (S, 2) in every exposure: offsets, exposures, and the star of each."""
    rng = np.random.default_rng(seed)
    star, exposure = (a.ravel() for a in np.meshgrid(np.arange(len(stars)), np.arange(visits), indexing="ij"))
    keep = rng.random(star.size) < np.broadcast_to(seen, len(stars))[star]
    star, exposure = star[keep], exposure[keep]
    return stars[star] + scatter * rng.normal(size=(star.size, 2)), exposure, star


def run(frame, radius=1.0, reason=None):
    reason = np.zeros(frame.height, np.uint8) if reason is None else reason
    made, association = associate(frame.clone(), reason, radius)
    return made["star_id"].to_numpy(), reason, association


def same_partition(a, b):
    pairs = np.unique(np.stack([np.unique(x, return_inverse=True)[1] for x in (a, b)]), axis=1)
    return pairs.shape[1] == len(np.unique(a)) == len(np.unique(b))


def friends(frame, radius):
    """Plain friends of friends: every distance, O(n^2)."""
    a, d = (np.radians(frame[c].to_numpy()) for c in ("ra", "dec"))
    v = np.stack([np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d)], 1)
    near = ((v[:, None] - v[None]) ** 2).sum(2) < (radius * ARCSEC) ** 2
    return connected_components(near)[1]


def separated(n=60, width=60.0, least=3.0, seed=5):
    rng = np.random.default_rng(seed)
    stars = np.empty((0, 2))
    while len(stars) < n:
        new = rng.uniform(-width, width, 2)
        if not len(stars) or np.hypot(*(stars - new).T).min() > least:
            stars = np.vstack([stars, new])
    return stars


@pytest.mark.parametrize("centre", CENTRES)
@pytest.mark.parametrize("radius", [0.05, 1.0, 20.0])
def test_stars_apart_are_those_of_friends_of_friends_anywhere_on_the_sky(centre, radius):
    offset, exposure, star = field(separated() * radius, scatter=0.1 * radius)
    frame = table(offset, exposure, centre)
    made, reason, association = run(frame, radius)
    assert same_partition(made, star)
    assert same_partition(made, friends(frame, radius))
    assert not reason.any()
    assert (association.n_stars, association.n_close, association.n_ambiguous) == (60, 0, 0)
    assert association.median_distance == pytest.approx(0.1177 * radius, rel=0.1)
    assert association.warnings == []


def crowded(seed=3, n=150, width=8.0):
    """Stars nearer to each other than the radius, some seen in half of the exposures, and detections that are none."""
    rng = np.random.default_rng(seed)
    seen = np.where(np.arange(n) % 3, 1, 0.5)
    offset, exposure, star = field(rng.uniform(-width, width, (n, 2)), 10, 0.12, seed, seen)
    stray = rng.uniform(-width, width, (60, 2))
    return (
        np.vstack([offset, stray]), np.concatenate([exposure, rng.integers(0, 10, 60)]),
        np.concatenate([star, n + np.arange(60)]),
    )  # fmt: skip


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("centre", [CENTRES[0], CENTRES[1], CENTRES[3]])
def test_the_order_of_the_rows_changes_nothing(seed, centre):
    frame = table(*crowded(seed)[:2], centre)
    frame = pl.concat([frame, frame.head(20)])  # duplicates
    frame = frame.with_columns(ra=pl.when(pl.int_range(pl.len()) % 97 == 5).then(np.nan).otherwise("ra"))
    flagged = (np.arange(frame.height) % 13 == 0).astype(np.uint8) * CODES["flagged"]
    before, reason_before = None, None
    for shuffle in range(4):
        order = np.random.default_rng(shuffle).permutation(frame.height) if shuffle else np.arange(frame.height)
        reason = flagged[order].copy()
        mark_duplicates(frame[order], reason)
        made, reason, _ = run(frame[order], 1.0, reason)
        back = np.argsort(order)
        placed = frame["ra"].is_finite().to_numpy()
        # of two equal rows either may be the duplicate: they are compared by what they are
        this, why = made[back], np.sort(reason)
        if before is None:
            before, reason_before = this, why
            continue
        np.testing.assert_array_equal(this[placed], before[placed])
        np.testing.assert_array_equal(why, reason_before)


@pytest.mark.parametrize("seed", range(4))
def test_what_holds_in_a_crowded_field(seed):
    """Against all distances of all rows and stars: O(n S)."""
    offset, exposure, _ = crowded(seed)
    frame = table(offset, exposure)
    made, reason, association = run(frame)
    used = reason == 0
    star, size = np.unique(made, return_counts=True)
    place = np.stack([offset[made == s].mean(0) for s in star])
    own = np.searchsorted(star, made)
    away = np.hypot(*(offset[:, None] - place[None]).transpose(2, 0, 1))
    nearest = away[np.arange(len(made)), own]
    # a star is no wider than its radius, and is in an exposure once
    assert nearest.max() < 1.05
    assert len(np.unique(np.stack([made, exposure]), axis=1).T) == len(made)
    # of the stars that are no fragment of another none is as near as a used row's own
    between = np.hypot(*(place[:, None] - place[None]).transpose(2, 0, 1))
    rarer = (3 * size[:, None] < size[None]) | ((size[:, None] == 1) & (size[None] > 1))
    fragment = (rarer & (between <= 2.0)).any(1)
    rivals = np.where(fragment[None], np.inf, away)
    rivals[np.arange(len(made)), own] = np.inf
    other = rivals.min(1)
    limit = USUAL * association.median_distance
    unclear = (other <= 1.0) & (other <= np.maximum(AS_NEAR * nearest, limit))
    # nor could another row of the exposure be the star's
    first = np.where(fragment[None], np.inf, away).argmin(1)
    reach = np.where(fragment[None], np.inf, away).min(1)
    for s in np.flatnonzero(~fragment):
        for e in range(10):
            rows = np.flatnonzero((exposure == e) & (first == s) & (reach <= 1.0))
            order = rows[np.argsort(reach[rows])]
            alike = reach[order] <= max(AS_NEAR * reach[order[:1]].sum(), limit)
            if alike.sum() > 1:
                unclear[order[alike]] = True
    np.testing.assert_array_equal(unclear, ~used)
    assert 0.05 < (reason == CODES["ambiguous"]).mean() < 0.6
    assert association.n_ambiguous == (reason == CODES["ambiguous"]).sum()
    assert association.n_close > 20


@pytest.mark.parametrize("separation", [0.5, 0.7, 1.0, 1.5, 2.0, 3.0])
@pytest.mark.parametrize("seen", [1.0, 0.8])
def test_pairs_that_are_resolved_are_two_stars(separation, seen):
    middle = separated(40, 120.0, 12.0)
    turn = np.random.default_rng(1).uniform(0, 2 * np.pi, 40)
    apart = 0.5 * separation * np.stack([np.cos(turn), np.sin(turn)], 1)
    stars = np.concatenate([middle + apart, middle - apart])
    offset, exposure, star = field(stars, 20, 0.08, seen=seen)
    made, reason, _ = run(table(offset, exposure))
    used = reason == 0
    for s in np.unique(made[used]):
        assert len(np.unique(star[used & (made == s)])) == 1  # nothing of another star is in the solve
    whole = [np.unique(made[used & (star == s)], return_counts=True)[1].max(initial=0) for s in range(80)]
    counts = np.bincount(star, minlength=80)
    assert np.median(whole / counts) > (0.85 if separation < 0.7 else 0.99)
    assert used.mean() > 0.85
    if separation > 1.2:
        assert used.all()
        assert same_partition(made, star)


def test_a_chain_is_not_one_star():
    stars = np.stack([0.7 * np.arange(40), np.zeros(40)], 1)
    offset, exposure, star = field(stars, 10, 0.05)
    frame = table(offset, exposure)
    assert friends(frame, 1.0).max() == 0
    made, reason, _ = run(frame)
    assert same_partition(made, star)
    assert (reason == 0).mean() > 0.95


def test_a_ghost_beside_a_star_takes_nothing_from_it():
    offset, exposure, _ = field(np.zeros((1, 2)), 20, 0.1)
    ghost = np.array([[0.45, 0.0], [0.44, 0.03]])
    made, reason, _ = run(table(np.vstack([offset, ghost]), [*exposure, 3, 4]))
    assert len(set(made[:20])) == 1
    assert made[20] == made[21] != made[0]
    # rows of the exposures with the ghost are unclear only if it is nearly as near
    near = np.hypot(*offset[[3, 4]].T)
    expected = np.hypot(*ghost.T) < np.maximum(AS_NEAR * near, USUAL * 0.1177)
    assert ((reason[[3, 4]] == CODES["ambiguous"]) == expected).all()
    assert (reason[:20] != 0).sum() == expected.sum()


def test_two_rows_of_an_exposure_that_could_be_one_stars_are_both_kept_out():
    offset, exposure, _ = field(np.zeros((1, 2)), 20, 0.1)
    offset[7] = (0.1, 0.0)
    made, reason, association = run(table(np.vstack([offset, [[-0.12, 0.02]]]), [*exposure, 7]))
    assert np.flatnonzero(reason).tolist() == [7, 20]
    assert (reason[[7, 20]] == CODES["ambiguous"]).all()
    assert association.n_ambiguous == 2
    assert made[7] == made[0] != made[20]


def test_a_row_between_two_stars_is_kept_out():
    """As where the seeing melts them into one."""
    offset, exposure, star = field(np.array([[-0.4, 0.0], [0.4, 0.0]]), 20, 0.05)
    keep = exposure != 5
    made, reason, _ = run(table(np.vstack([offset[keep], [[0.02, 0.0]]]), [*exposure[keep], 5]))
    assert same_partition(made[:-1], star[keep])
    assert np.flatnonzero(reason).tolist() == [38]


def test_one_object_over_all_bands_also_within_an_exposure():
    offset, exposure, star = field(separated(10), 6)
    frame = pl.concat([table(offset, exposure, band=pl.lit(b)) for b in "gr"])
    made, reason, _ = run(frame)
    assert same_partition(made, np.tile(star, 2))
    assert not reason.any()


def test_rows_that_are_not_usable_make_no_star_beside_one_and_go_to_it():
    offset, exposure, star = field(separated(10), 6)
    frame = table(offset, exposure)
    plain, _, _ = run(frame)
    stray = np.array([[0.3, 0.0], [200.0, 0.0], [200.1, 0.0]]) + [*separated(10)[:1], [0, 0], [0, 0]]
    more = table(np.vstack([offset, stray]), [*exposure, 1, 1, 2])
    flagged = np.append(np.zeros(len(star), np.uint8), [CODES["flagged"], CODES["null_mag"], CODES["flagged"]])
    made, reason, association = run(more, 1.0, flagged.astype(np.uint8))
    assert same_partition(made[:-3], plain)
    assert made[-3] == made[np.flatnonzero(star == 0)[0]]
    assert made[-2] == made[-1] not in made[:-2]
    assert association.n_stars == 11
    assert reason[-3:].tolist() == [CODES["flagged"], CODES["null_mag"], CODES["flagged"]]


def test_rows_without_a_position_are_a_star_each_and_counted():
    offset, exposure, _ = field(separated(10), 6)
    frame = table(offset, exposure)
    lost = frame.with_columns(
        ra=pl.when(pl.int_range(pl.len()).is_in([3, 4])).then(None).otherwise("ra"),
        dec=pl.when(pl.int_range(pl.len()) == 9).then(np.inf).otherwise("dec"),
    )
    m = read_measurements(lost.with_columns(pl.col("band").cast(pl.String)))
    assert m.counts == {"usable": 57, "no_position": 3}
    assert m.association.n_no_position == 3
    alone = m.frame["star_id"].to_numpy()[[3, 4, 9]]
    assert sorted(alone) == [11, 12, 13]
    assert m.frame["star_id"].null_count() == 0


def test_stars_are_numbered_from_south_to_north():
    offset, exposure, star = field(separated(20), 4)
    made, _, _ = run(table(offset, exposure))
    north = [offset[star == s, 1].mean() for s in range(20)]
    assert [int(made[star == s][0]) for s in np.argsort(north)] == list(range(1, 21))


def test_repeated_rows_are_duplicates_of_the_star():
    offset, exposure, star = field(separated(10), 6)
    frame = table(offset, exposure).with_columns(pl.col("band").cast(pl.String))
    m = read_measurements(pl.concat([frame, frame.head(7)]))
    assert m.counts == {"usable": 60, "duplicate": 7}
    assert m.frame["star_id"][-7:].to_list() == m.frame["star_id"][:7].to_list()
    assert m.association.n_stars == 10


def test_a_radius_too_small_is_told():
    offset, exposure, _ = field(separated(30, 200.0, 12.0), 20, 0.5)
    _, _, association = run(table(offset, exposure))
    assert len(association.warnings) == 1
    assert "enlarge match_radius" in association.warnings[0]
    assert run(table(offset, exposure), 3.0)[2].warnings == []


def test_names_come_first(tmp_path):
    offset, exposure, star = field(separated(10), 6)
    frame = table(offset, exposure).with_columns(pl.col("band").cast(pl.String))
    named = read_measurements(frame.with_columns(star_id=-star), match_radius=0.5)
    assert named.frame["star_id"].to_list() == (-star).tolist()
    assert named.association is None
    assert named.keys == ["star_id", "exposure_id", "band"]
    dropped = read_measurements(frame.with_columns(star_id=-star), columns={"star_id": ""})
    assert same_partition(dropped.frame["star_id"].to_numpy(), star)
    assert dropped.keys == ["star_id", "exposure_id", "band", "ra", "dec"]
    mapped = frame.rename({"ra": "alpha", "dec": "delta"})
    again = read_measurements(mapped, columns={"ra": "alpha", "dec": "delta"})
    assert again.frame["star_id"].equals(dropped.frame["star_id"])
    frame.head(30).write_parquet(tmp_path / "a.parquet")
    frame.tail(30).write_parquet(tmp_path / "b.parquet")
    assert read_measurements(tmp_path).frame["star_id"].equals(dropped.frame["star_id"])
    frame.tail(30).with_columns(star_id=1).write_parquet(tmp_path / "b.parquet")
    with pytest.raises(InputError, match="a.parquet: no column star_id, which .*b.parquet has"):
        read_measurements(tmp_path)


def test_what_cannot_be_told(tmp_path):
    frame = table(*field(separated(10), 6)[:2]).with_columns(pl.col("band").cast(pl.String))
    with pytest.raises(InputError, match="no column star_id, nor ra and dec .*--columns star_id=THEIR_NAME"):
        read_measurements(frame.drop("ra", "dec"))
    with pytest.raises(InputError, match="column ra is there without dec"):
        read_measurements(frame.drop("dec"))
    with pytest.raises(InputError, match="no column sid, which star_id was mapped to"):
        read_measurements(frame, columns={"star_id": "sid"})
    with pytest.raises(InputError, match="stars are told by position only where all rows are read together"):
        next(iter_measurements(frame))
    nowhere = read_measurements(frame.with_columns(ra=np.nan))
    assert nowhere.counts == {"usable": 0, "no_position": 60}


def test_of_few_rows():
    one = table(np.zeros((1, 2)), [1])
    made, reason, association = run(one)
    assert (made.tolist(), reason.tolist(), association.n_stars) == ([1], [0], 1)
    assert np.isnan(association.median_distance)
    made, reason, _ = run(table(np.zeros((5, 2)), [1, 1, 1, 2, 3]))
    assert sorted(np.bincount(made)[1:]) == [1, 1, 3]
    assert (reason[:3] == CODES["ambiguous"]).all()
    many = table(np.zeros((30, 2)), np.ones(30, int))  # more in an exposure than rounds that look for them
    made, reason, association = run(many)
    assert (len(set(made)), association.n_stars) == (30, 30)
    assert count_reasons(reason) == {"usable": 0, "ambiguous": 30}


@pytest.mark.parametrize("centre", CENTRES)
def test_kernels_against_all_pairs(centre):
    rng = np.random.default_rng(2)
    radius = int(ARCSEC * skygrid.ONE)
    ra, dec = on_sky(rng.uniform(-6, 6, (400, 2)), centre)
    row = np.arange(400)
    xyz, cell = np.empty((400, 3), np.int64), np.empty(400, np.int64)
    skygrid.unit_vectors(ra, dec, row, xyz)
    skygrid.number_cells(xyz, radius, cell)
    again = np.empty(400, np.int64)
    skygrid.cells_of_rows(ra, dec, row, radius, again)
    np.testing.assert_array_equal(cell, again)
    order = np.argsort(cell, kind="stable")
    xyz, cell = xyz[order], cell[order]
    apart = ((xyz[:, None] - xyz[None]) ** 2).sum(2)

    point, star = np.arange(400) % 4 != 0, np.arange(400) % 4 == 0
    best, d2, other2 = np.empty(300, np.int32), np.empty(300, np.int64), np.empty(300, np.int64)
    skygrid.nearest_two(xyz[point], cell[point], xyz[star], cell[star], radius, best, d2, other2)
    slow = np.sort(np.where(apart <= radius**2, apart, radius**2 + 1)[point][:, star], axis=1)
    np.testing.assert_array_equal(np.stack([d2, other2], 1), slow[:, :2])
    found = best >= 0
    np.testing.assert_array_equal(found, slow[:, 0] <= radius**2)
    np.testing.assert_array_equal(apart[point][:, star].argmin(1)[found], best[found])

    weight, dense = rng.integers(1, 9, 400).astype(np.int32), np.empty(400)
    skygrid.density(xyz, cell, weight, radius, dense)
    kernel = np.clip(1 - np.sqrt(apart) / radius, 0, None) ** skygrid.SHARP
    np.testing.assert_allclose(dense, kernel @ weight, rtol=1e-9)
    first = np.empty(400, np.int64)
    chosen = first[: skygrid.leaders(np.argsort(-dense, kind="stable"), xyz, cell, radius, first)]
    between = apart[np.ix_(chosen, chosen)] + np.eye(len(chosen), dtype=np.int64) * (radius**2 + 1)
    assert between.min() > radius**2
    assert (apart[:, chosen].min(1) <= radius**2).all()
    assert chosen[0] == dense.argmax()

    mean, of, n = np.empty((400, 3), np.int64), np.empty(400, np.int64), np.empty(400, np.int32)
    k = skygrid.make_grains(xyz, cell, radius, radius // 2, mean, of, n)
    name = np.stack([cell, *(((xyz + skygrid.ONE) % radius) // (radius // 2)).T], 1)
    slow_of, where, count = np.unique(name, axis=0, return_inverse=True, return_counts=True)
    assert k == len(slow_of) < 400
    np.testing.assert_array_equal(of[:k], slow_of[:, 0])
    np.testing.assert_array_equal(n[:k], count)
    total = np.zeros((k, 3))
    np.add.at(total, where.ravel(), (xyz - xyz[0]).astype(float))
    np.testing.assert_allclose(mean[:k] - xyz[0], total / count[:, None], atol=1.0)


def test_the_nearest_of_an_exposure_against_all_rows():
    rng = np.random.default_rng(4)
    n = 500
    best, exposure = rng.integers(-1, 30, n).astype(np.int32), rng.integers(0, 8, n).astype(np.int32)
    d2, mag, err = rng.integers(0, 4, n), rng.integers(0, 3, n) * 1.0, rng.permutation(n) * 1.0
    row, lost_to = rng.permutation(n), np.empty(n, np.int32)
    skygrid.nearest_of_exposure(best, d2, exposure, row, mag, err, 30, 8, lost_to)
    for i in range(n):
        mine = np.flatnonzero((best == best[i]) & (exposure == exposure[i]))
        first = min(mine, key=lambda j: (d2[j], mag[row[j]], err[row[j]]))
        assert lost_to[i] == (-1 if best[i] < 0 or first == i else first)
