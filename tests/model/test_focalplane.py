"""How detectors lie beside each other, from pixels alone; and what surfaces then make of a camera of several."""

import numpy as np
import polars as pl
import pytest

from calib import Config, calibrate
from calib.apply import Applier
from calib.model import focalplane
from calib.model.focalplane import layout
from calib.model.problem import Problem
from calib.tables import read_measurements
from calib.tables.reasons import count_reasons

SIZE = 2000.0
ROBUST = Config(method="robust", score=False)


def camera(seed, dither=1500.0, turn=0.0, strays=0, plane=0.0, n_exposures=40, fields=None, stretch=0.0):
    """Table of a camera of 2 x 2 detectors with gaps, one read out upside down; true places (n, 2) and zero-points.

    Norths of exposures are turned by `turn` at random, deg; `fields` is by how much more those of two fields are turned
    against each other, each seen by half the exposures. Images are stretched along y by `stretch` at random.
    """
    rng = np.random.default_rng(seed)
    at, sky = rng.normal(0, dither, (n_exposures, 2)), rng.uniform(-6000, 6000, (1500, 2))
    angle = np.radians(turn * rng.normal(size=n_exposures))
    if fields is not None:
        side = np.where(np.arange(n_exposures) % 2, 0.5, -0.5)
        at, angle = 0.2 * at + np.stack([3000.0 * side, 0.0 * side], 1), angle + np.radians(fields) * side
    longer = 1.0 + stretch * np.random.default_rng(seed + 1).normal(size=n_exposures)
    frames, places = [], []
    z, slope = rng.normal(0, 0.1, n_exposures), plane * rng.normal(size=(n_exposures, 2))
    slope -= slope.mean(0)  # what all exposures share of it is a tilt of the sky
    magnitude = rng.uniform(14, 18, len(sky))
    for e in range(n_exposures):
        east, north = (sky - at[e]).T
        u = np.cos(angle[e]) * east + np.sin(angle[e]) * north
        v = longer[e] * (np.cos(angle[e]) * north - np.sin(angle[e]) * east)
        for d in range(4):
            left, low = (d % 2) * (SIZE + 60.0), (d // 2) * (SIZE + 90.0)
            x, y = u + 2030.0 - left, v + 2045.0 - low
            inside = np.flatnonzero((x > 0) & (x < SIZE) & (y > 0) & (y < SIZE))
            g = slope[e] @ np.stack([u[inside], v[inside]]) / 2050.0
            mag = magnitude[inside] - z[e] - g + 0.005 * rng.normal(size=inside.size)
            place = np.stack([x[inside], y[inside]]) + 0.05 * rng.normal(size=(2, inside.size))
            if d == 3:
                place = SIZE - place
            columns = {"star_id": inside, "exposure_id": e, "detector": d, "x": place[0], "y": place[1], "mag": mag}
            frames.append(pl.DataFrame(columns))
            places.append(np.stack([u[inside], v[inside]], 1))
    frame, place = pl.concat(frames).with_columns(mag_err=0.005), np.concatenate(places)
    if strays:
        star = frame["star_id"].to_numpy().copy()
        star[rng.choice(star.size, strays, replace=False)] = rng.integers(0, len(sky), strays)
        frame = frame.with_columns(star_id=star)
    return frame, place, z


def found(frame):
    measurements = read_measurements(frame)
    graph = Problem.of(read_measurements(frame.drop("x", "y")), ROBUST).graph
    part = measurements.frame[graph.order.astype(np.int64)]
    x, y, d = (part[c].to_numpy().astype(float) for c in ("x", "y", "detector"))
    return layout(graph, x, y, d.astype(int), 4), graph, (x, y, d.astype(int))


def test_detectors_are_placed_by_their_stars():
    frame, place, _ = camera(1)
    (plane, stray), graph, pixels = found(frame)
    u, v = plane(*pixels)
    truth = place[graph.order.astype(np.int64)]
    # as truth is, up to a shift of all: one detector's pixels are the scale
    for mine, true in ((u, truth[:, 0]), (v, truth[:, 1])):
        sign = np.sign(np.corrcoef(mine, true)[0, 1])
        gap = mine - sign * true
        assert np.std(gap) < 0.3
    assert stray.mean() < 1e-3


def test_strays_are_told_and_do_not_bend_it():
    frame, _, _ = camera(2)
    clean, _, _ = found(frame)
    mixed, place, _ = camera(2, strays=300)
    (plane, stray), graph, _ = found(mixed)
    np.testing.assert_allclose(plane.affine, clean[0].affine, atol=0.5)
    wrong = (mixed["star_id"] != frame["star_id"]).to_numpy()[graph.order.astype(np.int64)]
    visits = np.bincount(graph.star())[graph.star()]
    assert (stray & ~wrong)[visits > 4].sum() <= 1
    assert (stray & ~wrong).sum() < 0.1 * wrong.sum()  # of two that disagree nothing says which is right
    assert stray[wrong & (visits > 3)].mean() > 0.95


@pytest.mark.parametrize(
    "case",
    [
        {"fields": 0.3}, {"fields": 2.0}, {"fields": 12.0}, {"fields": 0.3, "turn": 0.2}, {"turn": 1.0},
        {"stretch": 0.002}, {"fields": 1.0, "stretch": 0.002},
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("strays", [0, 100])
def test_fields_that_are_turned_against_each_other_lose_nothing(case, strays):
    """Norths of fields side by side are not parallel; an angle of 0.3 deg is 0.005 of a detector at the corner."""
    frame, place, _ = camera(8, **case)
    mixed, _, _ = camera(8, **case, strays=strays)
    (plane, stray), graph, pixels = found(mixed)
    order = graph.order.astype(np.int64)
    wrong = (mixed["star_id"] != frame["star_id"]).to_numpy()[order]
    visits = np.bincount(graph.star())[graph.star()]
    assert not (stray & ~wrong)[visits > 4].any()
    assert (stray & ~wrong).sum() <= 0.1 * wrong.sum()
    if strays:
        assert stray[wrong & (visits > 3)].mean() > 0.95
    # as truth is, up to a linear map of all
    basis = np.stack([*plane(*pixels), np.ones(order.size)], 1)
    left = place[order] - basis @ np.linalg.lstsq(basis, place[order])[0]
    assert np.abs(left).max() < (10.0 if "stretch" in case else 2.0)


def test_an_exposure_that_is_bent_as_no_angle_is_loses_nothing():
    bent = pl.when(pl.col("exposure_id") == 7).then(1000.0 + 1.01 * (pl.col("y") - 1000.0)).otherwise("y")
    (_, stray), _, _ = found(camera(8)[0].with_columns(y=bent))
    assert not stray.any()


def test_a_tenth_of_an_exposure_may_be_wrong():
    frame, _, _ = camera(9, fields=1.0)
    own = np.flatnonzero((frame["exposure_id"] == 7).to_numpy())
    wrong = own[::10]
    star = frame["star_id"].to_numpy().copy()
    star[wrong] = np.roll(star[wrong], 1)
    (_, stray), graph, _ = found(frame.with_columns(star_id=star))
    known = np.isin(graph.order, wrong) & (np.bincount(graph.star())[graph.star()] > 3)
    assert known.sum() > 10
    assert stray[known].all()


@pytest.mark.parametrize("case", [{"dither": 1.0}, {"turn": 30.0}])
def test_pixels_that_do_not_tell_it_tell_nothing(case):
    assert found(camera(3, **case)[0])[0] is None


def test_large_surveys_are_placed_by_a_sample_of_their_stars(monkeypatch):
    frame, place, _ = camera(6, strays=100, n_exposures=60)
    (whole, stray), graph, pixels = found(frame)
    assert stray.any()
    there = whole(*pixels)
    for name, value in (("MOST_MEASUREMENTS", graph.n_measurements // 3), ("MOST_EXPOSURES", 45)):
        with monkeypatch.context() as patch:
            patch.setattr(focalplane, name, value)
            part, none = found(frame)[0]
        basis = np.stack([*part(*pixels), np.ones(pixels[0].size)], 1)  # another detector may be the scale
        left = there.T - basis @ np.linalg.lstsq(basis, there.T)[0]
        assert np.abs(left).max() < 1.0
        assert not none.any()


def test_pixels_that_are_all_alike_tell_nothing():
    frame = camera(7)[0].with_columns(x=pl.lit(5.0), y=pl.lit(5.0))
    assert found(frame)[0] is None


def test_surfaces_reach_across_detectors():
    frame, _, z = camera(4, plane=0.03, strays=100)
    solution = calibrate(frame, config=ROBUST)
    other = calibrate(frame.drop("x", "y"), config=ROBUST)
    gap = [s.frames["zeropoints"].sort("exposure_id")["zeropoint"].to_numpy() - z for s in (solution, other)]
    assert gap[0].std() < 0.5 * gap[1].std()
    assert solution.diagnostics["model"]["surface_degree"] >= 1
    assert 50 < solution.diagnostics["counts"]["misplaced"] <= 105  # of 100, some of stars seen nowhere else
    again, _ = Applier(solution)(read_measurements(frame))
    np.testing.assert_allclose(
        again["calibrated_mag"].to_numpy(), solution.measurements["calibrated_mag"].value, atol=2e-6
    )


def test_rows_that_stray_are_counted_once():
    measurements = read_measurements(camera(5, strays=50)[0])
    problem = Problem.of(measurements, ROBUST)
    counted = count_reasons(measurements.reason)
    assert counted["misplaced"] == problem.rows.unusable.size
    assert counted["usable"] == problem.m.size


def test_what_is_usual_of_an_exposure_and_detector():
    rng = np.random.default_rng(10)
    node, detector, distance = rng.integers(0, 5, 300), rng.integers(0, 3, 300), rng.exponential(size=300)
    sample = focalplane._Sample(np.arange(300), node, detector, np.zeros((300, 2)), 3)
    expected = np.empty(300)
    for e, d in {*zip(node.tolist(), detector.tolist(), strict=True)}:
        mine = (node == e) & (detector == d)
        expected[mine] = np.quantile(distance[mine], focalplane.USUAL, method="lower")
    np.testing.assert_array_equal(sample.usual(distance), expected)
