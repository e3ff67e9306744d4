"""The prior that the terms make, against the dense hierarchical sum of squares."""

import numpy as np
import pytest

from calib.solve.border import Border
from calib.solve.design import Design
from calib.solve.illumination import MOST_NIGHTS, SMALLEST_NIGHT, Illumination
from calib.solve.normal import NormalEquations, Topology
from calib.solve.terms import GROUPS, Squares, Terms
from graphs import MeasurementGraph

BLOCKS = {1: 3, 2: 6}


def design_of(degree, response=False, seed=0, E=14, S=60):
    rng = np.random.default_rng(seed)
    star = np.repeat(np.arange(S), 4)
    node = np.concatenate([rng.choice(E, 4, replace=False) for _ in range(S)])
    graph = MeasurementGraph.from_codes(star.astype(np.int32), node.astype(np.int32), S, E)
    xy = rng.uniform(-1, 1, (star.size, 2)).astype(np.float32)
    return Design(graph, xy, degree, np.array([0, 0, 0, 1 / 3, 0, 1 / 3]), rng.normal(size=E) if response else None)


def border_of(design):
    from calib.solve.normal import Hubs

    night = np.array([1] * 6 + [2] * 5 + [3, 3, -1])
    light = Illumination.of(np.zeros(14, np.int32), night, design.n_nodes)
    order = np.lexsort((light.column, light.row))
    place = np.argsort(order)
    hubs = Hubs(light.n_hubs, light.row[order], light.column[order], light.ties[order])
    return Border(hubs, light, None, place, np.zeros(0, np.int64), 1e-3)


def test_nights_large_enough_have_hubs():
    light = border_of(design_of(1)).illumination
    assert (light.n_bands, light.n_nights, light.n_hubs) == (1, 2, 3)
    np.testing.assert_array_equal(light.column, [15] * 6 + [16] * 5 + [14] * 3 + [15, 16])
    np.testing.assert_array_equal(light.row[-2:], [14, 14])  # a band comes before its nights
    assert not light.ties.any()


def test_one_night_or_very_many_hang_on_the_band():
    band = np.zeros(8, np.int32)
    assert Illumination.of(band, np.ones(8, int), 8).n_nights == 0
    assert Illumination.of(band, None, 8).n_nights == 0
    nights = np.repeat(np.arange(MOST_NIGHTS + 1), SMALLEST_NIGHT)
    assert Illumination.of(np.zeros(nights.size, np.int32), nights, nights.size).n_nights == 0


def test_bands_do_not_share_a_night():
    band = np.repeat([0, 1], 4).astype(np.int32)
    light = Illumination.of(band, np.ones(8, int), 8)
    assert light.n_nights == 2
    np.testing.assert_array_equal(light.column[:8], np.repeat([10, 11], 4))
    np.testing.assert_array_equal(light.row[8:], [8, 9])


@pytest.mark.parametrize("degree", [1, 2])
@pytest.mark.parametrize("seen", [False, True])
def test_prior_is_the_hierarchical_sum_of_squares(degree, seen):
    design = design_of(degree)
    border, K, E = border_of(design), BLOCKS[degree], 14
    light = border.illumination
    terms = Terms(design, border)
    rng = np.random.default_rng(degree)
    if seen:
        for g, p in terms.surfaces.items():
            p.scale = rng.uniform(1e-6, 1e-4)
            terms.last[f"surface{g}"] = Squares(rng.uniform(0, 1e-4, E), rng.uniform(0, 1e-5, E))
        for g in terms.surfaces:
            terms.last[f"night{g}"] = Squares(rng.uniform(0, 1e-5, 2), rng.uniform(0, 1e-6, 2))
            terms.last[f"band{g}"] = Squares(rng.uniform(0, 1e-5, 1), rng.uniform(0, 1e-6, 1))

    def weight(prior, name, n):
        if not seen:
            return np.full(n, 1 / prior.scale)
        return prior.precision(terms.last[name].square, terms.last[name].variance)

    prior = terms.prior(design)

    def squares(theta):
        gap = theta[light.row] - theta[light.column]
        total = 0.0
        for g, p in terms.surfaces.items():
            total += (weight(p, f"surface{g}", E) * (gap[:E, GROUPS[g]] ** 2).sum(1)).sum()
        for g, part in GROUPS.items():
            if g in terms.night:
                total += (weight(terms.night[g], f"night{g}", 2) * (gap[E:, part] ** 2).sum(1)).sum()
                total += (theta[light.first, part] ** 2).sum() / terms.band[g].scale
        return total

    for _ in range(5):
        theta = rng.normal(size=(E + light.n_hubs, K))
        value = np.einsum("ea,eab,eb", theta, prior.diagonal, theta)
        value += 2 * np.einsum("ca,cab,cb", theta[border.hubs.row], prior.coupling, theta[border.hubs.column])
        assert value == pytest.approx(squares(theta), rel=1e-10)
    assert (prior.rhs == 0).all()


def test_variances_are_observed_as_gaps():
    design = design_of(1)
    border = border_of(design)
    terms = Terms(design, border)
    rng = np.random.default_rng(5)
    m = rng.normal(18, 1, 60)[design.graph.star()] + rng.normal(0, 0.02, design.n_measurements)
    equations = NormalEquations(
        design, m, np.full(m.size, 2500.0), terms.prior(design), Topology(design, border.hubs)
    )
    estimate, spread = equations.estimate(), equations.spread()
    terms.observe(design, estimate, spread)
    light = border.illumination
    gap = estimate.theta[light.row] - estimate.theta[light.column]
    np.testing.assert_allclose(terms.last["surface1"].square, (gap[:14, 1:] ** 2).sum(1))
    # of a dense inverse of L with the same zero-point held
    n, K = 17, 3
    diagonal, off = equations.blocks
    L = np.zeros((n, K, n, K))
    for e in range(n):
        L[e, :, e, :] = diagonal[e]
        for k in range(equations.topology.indptr[e], equations.topology.indptr[e + 1]):
            f = equations.topology.indices[k]
            L[e, :, f, :] += off[k]
            L[f, :, e, :] += off[k].T
    L[:, 0, :, 0] += np.diag(np.arange(n) >= 14)  # hubs carry no zero-point
    held = equations.topology.grounded[0]
    L[held, 0, held, 0] += 1e9
    C = np.linalg.inv(L.reshape(n * K, n * K)).reshape(n, K, n, K)
    for name, part in (("surface1", slice(0, 14)), ("night1", slice(14, 16))):
        for e, (a, b) in enumerate(zip(light.row[part], light.column[part], strict=True)):
            v = sum(C[a, k, a, k] + C[b, k, b, k] - 2 * C[a, k, b, k] for k in (1, 2))
            assert terms.last[name].variance[e] == pytest.approx(v, rel=1e-6)
    assert terms.update(np.bincount(design.graph.exposure, minlength=14)) >= 0.0
    assert np.isfinite(terms.log_density())


def test_terms_begin_from_what_others_have_learned():
    planes, learned = design_of(1), Terms(design_of(2), border_of(design_of(2)))
    for k, prior in enumerate([*learned.surfaces.values(), *learned.night.values(), *learned.band.values()]):
        prior.scale, prior.dof = 1e-5 * (k + 1), 7.0
    terms = Terms(planes, border_of(planes)).like(learned)
    assert set(terms.surfaces) == {1}  # what a design does not carry stays away
    for kind in ("surfaces", "night", "band"):
        mine, theirs = getattr(terms, kind)[1], getattr(learned, kind)[1]
        assert (mine.scale, mine.dof) == (theirs.scale, theirs.dof)
        mine.scale = 1.0
        assert theirs.scale != 1.0  # a copy
    blended = [Terms(design, border_of(design)) for design in (design_of(1, response=True, seed=s) for s in (0, 1))]
    blended[0].response.shares = np.arange(1.0, 10.0) / 45.0
    np.testing.assert_array_equal(blended[1].like(blended[0]).response.shares, blended[0].response.shares)
    assert (blended[1].response.mean == 0.0).all()  # a star's own site is not another's


def test_a_flat_that_curves_is_not_thought_level():
    """The prior of the gradient that all exposures share grows with the curvature that they share."""
    for curvature, expected in ((0.0, 1e-3), (0.03, 0.7 * 0.03)):
        design = design_of(2)
        terms = Terms(design, border_of(design))
        terms.last = {
            f"{kind}{g}": Squares(np.full(n, 1e-6), np.full(n, 1e-7))
            for kind, n in (("surface", 14), ("night", 2), ("band", 1))
            for g in (1, 2)
        }
        terms.last["band2"] = Squares(np.array([3 * curvature**2]), np.array([1e-7]))
        for _ in range(40):
            terms.update(np.ones(design.n_nodes, np.int64))
        assert np.sqrt(terms.band[1].usual) == pytest.approx(expected)
        # two coefficients' worth of belief and two coefficients of 0.7 mmag that the data determine hardly
        assert np.sqrt(terms.band[1].scale) == pytest.approx(expected, rel=0.5)


def test_a_flat_is_no_steeper_than_its_curvature_suggests():
    design = design_of(2)
    terms = Terms(design, border_of(design))
    rng = np.random.default_rng(1)
    nodes, nights = (Squares(rng.uniform(1e-8, 1e-6, n), np.full(n, 1e-8)) for n in (14, 2))
    curved = Squares(np.array([3 * 0.02**2]), np.array([1e-6]))
    steep = Squares(np.array([2 * 0.5**2]), np.array([1e-4]))
    terms.last = {f"{kind}{g}": x for g in (1, 2) for kind, x in (("surface", nodes), ("night", nights))}
    terms.last |= {"band1": steep, "band2": curved}  # a gradient of half a magnitude with a curvature of 20 mmag
    for _ in range(30):
        terms.update(np.full(14, 100))
    assert np.sqrt(terms.band[1].scale) == pytest.approx(0.7 * 0.02, rel=0.25)
    assert np.sqrt(terms.band[2].scale) == pytest.approx(0.02, rel=0.3)
