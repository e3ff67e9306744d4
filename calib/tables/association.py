"""Detections to stars, by where they lie on the sky: over all exposures and bands, whatever the order of the rows.

Stars are sought where detections lie densest, and each takes the nearest detection of every exposure within the match
radius of its mean position: a chain of detections in a crowded field is no star, and two detections of one exposure are
not of one. Detections that no star took are looked through again, so that of two stars closer than the radius that both
are seen, both are found. Then stars that lie near each other share their detections out anew, each to the nearest. What
was found beside a star but once, or less than a third as often as it, is a fragment, a ghost or a passing thing: it
keeps what the star could not take, and takes nothing from it.

Positions are of one epoch: proper motion is not modelled.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from calib.config import MATCH_RADIUS
from calib.tables import skygrid
from calib.tables.reasons import CODES, mark
from graphs.ids import encode_ids

Ints = NDArray[np.int64]

ROUNDS = 6
"""Times that what no star took is looked through; what is left then is a star each."""
SETTLING = 2
"""Times that stars move to the mean of what they took."""
FRAGMENT = 3
"""A star seen less often than a neighbour by more than this factor is no rival of it, nor is one seen but once."""
AS_NEAR = 2.0
"""Another star counts as near where it is less than this many times as far as a detection's own star."""
USUAL = 3.0
"""So does one within this many times the median distance of detections from their stars."""


@dataclass(frozen=True)
class Association:
    """How detections were told apart by position.

    Attributes
    ----------
    match_radius
        arcsec.
    n_stars
        Stars made, those without a usable row among them.
    n_close
        Those of them that have another within the match radius.
    median_distance
        Of detections from their stars, where these have three or more, arcsec; NaN where none has.
    n_ambiguous, n_no_position
        Rows that were kept out for it.
    """

    match_radius: float
    n_stars: int
    n_close: int
    median_distance: float
    n_ambiguous: int
    n_no_position: int

    @property
    def warnings(self) -> list[str]:
        """What the user should look at."""
        if not self.median_distance > self.match_radius / USUAL:
            return []
        return [
            f"stars by position: rows lie {self.median_distance:.2f} arcsec from their stars in the median, which the"
            f" match radius of {self.match_radius:g} arcsec cuts off: enlarge match_radius, or bring positions to one"
            " epoch and frame"
        ]


def associate(
    frame: pl.DataFrame, reason: NDArray[np.uint8], match_radius: float = MATCH_RADIUS
) -> tuple[pl.DataFrame, Association]:
    """Give every row a star by its position, and rows of which it is not clear the reason ``ambiguous``, in place.

    Usable rows alone make stars; the others go to the nearest one, and make stars of their own where there is none;
    duplicates go where the row goes that they repeat. Rows without ra and dec get the reason ``no_position``, and are a
    star each.

    A row is ambiguous where another star lies within the match radius and is less than `AS_NEAR` times as far as its
    own, or within `USUAL` times what is usual; and so are two rows of one exposure that could be one star's by the
    same measure.

    Parameters
    ----------
    frame : polars.DataFrame
        Canonical columns with ra, dec (deg, NaN where missing), exposure_id and band, n rows; duplicates are marked.
    reason : uint8 array, shape (n,)
    match_radius : float
        arcsec, within `calib.config.RADII`.

    Returns
    -------
    frame : polars.DataFrame
        With star_id, Int64, first: 1, 2, ... from south to north.
    Association
    """
    ra, dec = frame["ra"].to_numpy(), frame["dec"].to_numpy()
    placed = np.isfinite(ra) & np.isfinite(dec)
    mark(reason, ~placed, "no_position")
    radius = int(np.rint(2.0 * np.sin(np.radians(match_radius / 3600.0) / 2.0) * skygrid.ONE))
    exposure, n_exposures = _exposures(frame)
    mag, err = frame["mag"].to_numpy(), frame["mag_err"].to_numpy()

    def points(row: Ints) -> _Points:
        return _Points.of(ra, dec, exposure, row, radius)

    search = _Search(radius, n_exposures, mag, err)
    good = points(np.flatnonzero(placed & (reason == 0)))
    found = search.stars(good)
    star = np.full(frame.height, -1, np.int32)
    star[good.row] = found.owner
    repeats = np.flatnonzero(placed & (reason == CODES["duplicate"]))
    star[repeats] = _repeated(frame, repeats, good.row, found.owner)
    left = points(np.flatnonzero(placed & (star < 0)))
    near, _, _ = search.nearest(left, found.xyz)
    star[left.row] = near
    left = left.take(np.flatnonzero(near < 0))
    more = search.stars(left)
    star[left.row] = more.owner + len(found.xyz)
    xyz = np.concatenate([found.xyz, more.xyz])
    n_ambiguous = int(np.count_nonzero(found.ambiguous))
    unclear = np.zeros(frame.height, np.bool_)
    unclear[good.row[found.ambiguous]] = True
    mark(reason, unclear, "ambiguous")

    order = np.lexsort(xyz.T)
    number = np.empty(len(order) + 1, np.int64)
    number[order] = np.arange(1, len(order) + 1)
    star_id = number[star]
    lost = np.flatnonzero(~placed)
    star_id[lost] = len(order) + 1 + np.arange(lost.size)
    arcsec = float(np.degrees(skygrid.UNIT)) * 3600.0
    median = found.usual * arcsec if found.usual else float("nan")
    return frame.insert_column(0, pl.Series("star_id", star_id)), Association(
        match_radius, len(order) + lost.size, found.n_close, median, n_ambiguous, lost.size
    )


def _repeated(frame: pl.DataFrame, repeats: Ints, row: Ints, owner: NDArray[np.int32]) -> NDArray[np.int32]:
    """Star of the row that each duplicate repeats, among some rows whose stars are known; -1 where there is none."""
    if not repeats.size:
        return np.zeros(0, np.int32)
    names = ["exposure_id", "band", "ra", "dec", "mag", "mag_err"]
    wanted = frame[repeats].select(names)
    known = frame[row].select(names).with_columns(star=owner).join(wanted, on=names, how="semi")
    known = known.group_by(names).agg(pl.col("star").min())
    return wanted.join(known, on=names, how="left", maintain_order="left")["star"].fill_null(-1).to_numpy()


def _exposures(frame: pl.DataFrame) -> tuple[NDArray[np.int32], int]:
    """Number of each row's exposure: a star may be in an exposure once in each band."""
    codes, ids = encode_ids(frame["exposure_id"])
    kind = frame["band"].dtype
    assert isinstance(kind, pl.Enum)
    bands = len(kind.categories)
    if bands > 1:
        codes = codes * np.int32(bands) + frame["band"].to_physical().to_numpy().astype(np.int32)
    return codes, len(ids) * bands


@dataclass
class _Points:
    """Rows in ascending order of their cells: unit vectors (k, 3), cells (k,), exposures (k,) and input rows (k,)."""

    xyz: Ints
    cell: Ints
    exposure: NDArray[np.int32]
    row: Ints

    @classmethod
    def of(
        cls, ra: NDArray[Any], dec: NDArray[Any], exposure: NDArray[np.int32], row: Ints, radius: int
    ) -> Self:
        cell = np.empty(row.size, np.int64)
        skygrid.cells_of_rows(ra, dec, row, _width(radius), cell)
        order = np.argsort(cell)
        row, cell = row[order], cell[order]
        del order
        xyz = np.empty((row.size, 3), np.int64)
        skygrid.unit_vectors(ra, dec, row, xyz)
        return cls(xyz, cell, exposure[row], row)

    def __len__(self) -> int:
        return self.row.size

    def take(self, which: NDArray[Any]) -> _Points:
        return _Points(self.xyz[which], self.cell[which], self.exposure[which], self.row[which])


@dataclass
class _Stars:
    """Stars (S, 3) and the one of each point (k,); which points are ambiguous."""

    xyz: Ints
    owner: NDArray[np.int32]
    ambiguous: NDArray[np.bool_]
    n_close: int
    usual: float


def _width(radius: int) -> int:
    return max(radius, skygrid.NARROWEST)


def _cells(xyz: Ints, radius: int) -> Ints:
    cell = np.empty(len(xyz), np.int64)
    skygrid.number_cells(xyz, _width(radius), cell)
    return cell


class _Search:
    """Looks for stars.

    Parameters
    ----------
    radius
        In units of `skygrid.UNIT`.
    n_exposures
        Exposures x bands.
    mag, err
        (n,), of the input's rows, by which ties are broken.
    """

    def __init__(self, radius: int, n_exposures: int, mag: NDArray[Any], err: NDArray[Any]) -> None:
        self.radius, self.n_exposures, self.mag, self.err = radius, n_exposures, mag, err

    def stars(self, points: _Points) -> _Stars:
        """Stars of some points: every point has one."""
        xyz, owner = self._discover(points)
        pairs = _near_pairs(xyz, 2 * self.radius)
        close = np.unique(pairs)
        ambiguous = np.zeros(len(points), np.bool_)
        usual = self._usual(points, xyz, owner)
        if not close.size:
            return _Stars(xyz, owner, ambiguous, 0, usual)
        some = np.zeros(len(xyz), np.bool_)
        some[close] = True
        inside = np.flatnonzero(some[owner])
        part = points.take(inside)
        local = np.full(len(xyz), -1, np.int32)
        local[close] = np.arange(close.size)
        fragment = self._fragments(local[owner[inside]], local[pairs], close.size)
        shared, of = self._share_out(part, xyz[close], fragment)
        pairs = _near_pairs(shared, 2 * self.radius)
        ambiguous[inside] = self._unclear(part, shared, of, self._fragments(of, pairs, len(shared)), usual)
        apart = np.flatnonzero(~some)
        final = np.empty(len(points), np.int32)
        place = np.full(len(xyz), -1, np.int32)
        place[apart] = np.arange(apart.size)
        final[:] = place[owner]
        final[inside] = apart.size + of
        apart2 = ((shared[pairs[:, 0]] - shared[pairs[:, 1]]) ** 2).sum(1)
        n_close = np.unique(pairs[apart2 <= self.radius**2]).size
        return _Stars(np.concatenate([xyz[apart], shared]), final, ambiguous, n_close, usual)

    def nearest(self, points: _Points, xyz: Ints) -> tuple[NDArray[np.int32], Ints, Ints]:
        """Nearest star of each point, -1 where none is within the radius; squares of distances to it and the next."""
        cell = _cells(xyz, self.radius)
        order = np.argsort(cell, kind="stable")
        best = np.empty(len(points), np.int32)
        d2, other2 = np.empty(len(points), np.int64), np.empty(len(points), np.int64)
        skygrid.nearest_two(points.xyz, points.cell, xyz[order], cell[order], self.radius, best, d2, other2)
        return np.append(order, -1).astype(np.int32)[best], d2, other2

    def _take(self, points: _Points, xyz: Ints) -> tuple[NDArray[np.int32], Ints, Ints, NDArray[np.int32]]:
        """As `nearest`, and the point that took a point's star from it in its exposure, -1 where none did."""
        best, d2, other2 = self.nearest(points, xyz)
        lost_to = np.empty(len(points), np.int32)
        skygrid.nearest_of_exposure(
            best, d2, points.exposure, points.row, self.mag, self.err, len(xyz), self.n_exposures, lost_to
        )
        return best, d2, other2, lost_to

    def _settle(self, points: _Points, xyz: Ints) -> tuple[Ints, Any]:
        """Stars moved to the mean of what they take; and what they take then, as of `_take`."""
        for _ in range(SETTLING):
            best, _, _, lost_to = self._take(points, xyz)
            xyz = self._moved(points, xyz, best, lost_to)
        return xyz, self._take(points, xyz)

    @staticmethod
    def _moved(points: _Points, xyz: Ints, owner: NDArray[np.int32], lost_to: NDArray[np.int32]) -> Ints:
        """Stars at the mean of the points that they own and have not lost."""
        total, n = np.zeros_like(xyz), np.zeros(len(xyz), np.int64)
        skygrid.add_up(points.xyz, xyz, owner, lost_to, total, n)
        return np.asarray(xyz + total // np.maximum(n, 1)[:, None])

    def _discover(self, points: _Points) -> tuple[Ints, NDArray[np.int32]]:
        """Stars where points lie densest, and among what these do not take again; the star of every point."""
        owner = np.full(len(points), -1, np.int32)
        found: list[Ints] = []
        n, left = 0, points
        at: Ints | None = None  # of the points left
        for _ in range(ROUNDS):
            if not len(left):
                break
            xyz, (best, _, _, lost_to) = self._settle(left, self._densest(left))
            took = (best >= 0) & (lost_to < 0)
            used = np.unique(best[took])
            number = np.zeros(len(xyz), np.int32)
            number[used] = n + np.arange(used.size)
            mine = np.flatnonzero(took) if at is None else at[took]
            owner[mine] = number[best[took]]
            found.append(xyz[used])
            n += used.size
            rest = np.flatnonzero(~took)
            at = rest if at is None else at[rest]
            left = left.take(rest)
        if len(left) and at is not None:
            owner[at] = n + np.arange(at.size)
            found.append(left.xyz)
        return np.concatenate(found) if found else np.zeros((0, 3), np.int64), owner

    def _densest(self, points: _Points) -> Ints:
        """Places (k, 3) no two of which lie within the radius, the densest first; near one of them lies every point."""
        n = len(points)
        mean, cell, weight = np.empty((n, 3), np.int64), np.empty(n, np.int64), np.empty(n, np.int32)
        width, grain = _width(self.radius), max(1, self.radius // skygrid.GRAINS)
        k = skygrid.make_grains(points.xyz, points.cell, width, grain, mean, cell, weight)
        mean, cell, weight = mean[:k], cell[:k], weight[:k]
        dense = np.empty(k)
        skygrid.density(mean, cell, weight, self.radius, dense)
        first = np.empty(k, np.int64)
        order = np.argsort(-dense, kind="stable")
        chosen = first[: skygrid.leaders(order, mean, cell, self.radius, first)]
        return np.asarray(mean[chosen])

    def _share_out(
        self, points: _Points, xyz: Ints, fragment: NDArray[np.bool_]
    ) -> tuple[Ints, NDArray[np.int32]]:
        """Points of stars that lie near each other, each to the nearest that is no fragment, if that can have it."""
        whole, (best, _, _, lost_to) = self._settle(points, xyz[~fragment])
        took = (best >= 0) & (lost_to < 0)
        out = np.where(took, best, -1).astype(np.int32)
        rest = np.flatnonzero(~took)
        # what is left keeps its fragment, or is looked through again
        left, pieces = points.take(rest), xyz[fragment]
        near, _, _, beaten = self._take(left, pieces)
        has = (near >= 0) & (beaten < 0)
        out[rest[has]] = len(whole) + near[has]
        again, new = self._discover(left.take(np.flatnonzero(~has)))
        out[rest[~has]] = len(whole) + len(pieces) + new
        xyz = np.concatenate([whole, pieces, again])
        used, inverse = np.unique(out, return_inverse=True)
        of = inverse.astype(np.int32)
        return self._moved(points, xyz[used], of, np.full(len(points), -1, np.int32)), of

    def _unclear(
        self, points: _Points, xyz: Ints, owner: NDArray[np.int32], fragment: NDArray[np.bool_], usual: float
    ) -> NDArray[np.bool_]:
        """Which points could be another star's that is no fragment, or their star another point's of the exposure."""
        whole = np.flatnonzero(~fragment)
        best, near2, next2, lost_to = self._take(points, xyz[whole])
        own2 = np.empty(len(points), np.int64)
        skygrid.distances(points.xyz, xyz, owner, own2)
        mine = np.append(whole, -1)[best] == owner
        other2 = np.where(mine, next2, near2)
        limit2 = (USUAL * usual) ** 2
        unclear: NDArray[np.bool_] = (other2 <= self.radius**2) & (other2 <= np.maximum(AS_NEAR**2 * own2, limit2))
        second = np.flatnonzero(lost_to >= 0)
        first = lost_to[second]
        alike = near2[second] <= np.maximum(AS_NEAR**2 * near2[first], limit2)
        unclear[second[alike]] = True
        unclear[first[alike]] = True
        return unclear

    @staticmethod
    def _fragments(owner: NDArray[np.int32], pairs: NDArray[Any], n_stars: int) -> NDArray[np.bool_]:
        """Which stars are no rivals of those near them."""
        n = np.bincount(owner, minlength=n_stars)
        fragment = np.zeros(n_stars, np.bool_)
        for a, b in (pairs.T, pairs.T[::-1]):
            fragment[a[(FRAGMENT * n[a] < n[b]) | ((n[a] == 1) & (n[b] > 1))]] = True
        return fragment

    def _usual(self, points: _Points, xyz: Ints, owner: NDArray[np.int32]) -> float:
        """Median distance of points from their stars, where these have three or more, in units of `skygrid.UNIT`."""
        d2 = np.empty(len(points), np.int64)
        skygrid.distances(points.xyz, xyz, owner, d2)
        d2 = d2[(np.bincount(owner, minlength=len(xyz)) > 2)[owner]]
        return float(np.sqrt(np.median(d2))) if d2.size else 0.0


def _near_pairs(xyz: Ints, radius: int) -> Ints:
    """Pairs (k, 2) of stars within a distance of each other."""
    from scipy.spatial import cKDTree

    pairs: Ints = cKDTree(xyz * skygrid.UNIT).query_pairs(radius * skygrid.UNIT, output_type="ndarray")
    return pairs
