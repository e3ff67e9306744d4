"""The noise model against a plain computation of its mixtures, and its variances against simulated truth."""

import numpy as np
import pytest

from calib import workers
from calib.model.noise import CONTAMINATION_LEVELS, EXCESS_GRID, VARIABILITY_GRID, NoiseModel, weigh
from calib.model.stride import Stride
from calib.model.tails import CONTAMINATIONS, MULTIPLES, Tails, tail_histogram


def survey(seed=0, n_nodes=6, n_stars=25, most=9, bands=2):
    """Sorted measurements of a small survey, some stars without any."""
    rng = np.random.default_rng(seed)
    visits = rng.integers(0, most, n_stars)
    star_ptr = np.concatenate([[0], np.cumsum(visits)]).astype(np.int64)
    node = rng.integers(0, n_nodes, star_ptr[-1]).astype(np.int32)
    err = rng.uniform(0.005, 0.05, node.size).astype(np.float32)
    model = NoiseModel(
        error_scale2=rng.uniform(0.5, 3.0, n_nodes),
        excess=rng.uniform(0, 1e-4, n_nodes),
        floor=rng.uniform(1e-6, 1e-4, bands),
        band=(np.arange(n_nodes) % bands).astype(np.int32),
        survey_scale2=np.full(bands, 1.5),
        tails=Tails(np.array([0.8, 0.1, 0.05, 0.03, 0.015, 0.005])),
        shares=rng.dirichlet(np.ones(VARIABILITY_GRID.size)),
        excess_shares=rng.dirichlet(np.ones(EXCESS_GRID.size)),
        level=np.array([0, 9, 0, 1, 12, 0], np.int8)[:n_nodes],
    )
    residual = rng.standard_t(4, node.size) * err * 2
    return model, star_ptr, node, err, residual**2


def variances(model, node, err):
    return model.error_scale2[node] * err.astype(float) ** 2 + model.floor[model.band[node]] + model.excess[node]


def log_density(model, y, level):
    """(n, ...) at the levels (n,) of contamination, row by row."""
    tails = [model.tails.contaminated(CONTAMINATIONS[k]) for k in level]
    return np.reshape([t.posterior(row.ravel())[0] for t, row in zip(tails, y, strict=True)], y.shape)


def expected_weight(model, y, level):
    tails = [model.tails.contaminated(CONTAMINATIONS[k]) for k in level]
    return np.reshape(
        [(t.posterior(row.ravel())[1] / MULTIPLES).sum(1) for t, row in zip(tails, y, strict=True)], y.shape
    )


def oracle(model, star_ptr, node, err, r2, v=0.0, h=0.0):
    """The mixture star by star, by the tails' own formulas."""
    base = variances(model, node, err)
    v, free = v + np.zeros(node.size), 1 - h + np.zeros(node.size)
    S, E = star_ptr.size - 1, model.band.size
    w, u, variable = np.zeros(node.size), np.zeros(S), np.full(S, model.shares[model.beyond_ordinary :].sum())
    perceptible, ordinary = np.zeros(S), model.beyond_ordinary - 1
    sums, shares, total = np.zeros((7, E)), np.zeros(VARIABILITY_GRID.size), 0.0
    for s in range(S):
        at = np.arange(star_ptr[s], star_ptr[s + 1])
        if not at.size:
            continue
        s2 = base[at, None] + VARIABILITY_GRID
        level = model.level[node[at]]
        joint = log_density(model, r2[at, None] / free[at, None] / s2, level) - 0.5 * np.log(s2)
        joint = np.log(model.shares) + free[at].mean() * joint.sum(0)
        evidence = np.logaddexp.reduce(joint)
        p = np.exp(joint - evidence)
        total += evidence
        shares += p
        variable[s], u[s] = p[model.beyond_ordinary :].sum(), p @ VARIABILITY_GRID
        least = min(0.1, 2 / free[at].sum()) * (base[at].mean() + VARIABILITY_GRID[ordinary])
        perceptible[s] = (p * VARIABILITY_GRID / (VARIABILITY_GRID + least))[model.beyond_ordinary :].sum()
        tau = expected_weight(model, (r2 + v)[at, None] / s2, level) / s2
        w[at] = tau @ p
        sigma2 = err[at].astype(float) ** 2
        one = free[at]
        score, rate, info = (tau * r2[at, None] / s2) @ p, one * ((1 / s2) @ p), one**2 * ((1 / s2**2) @ p)
        values = (sigma2 * score, sigma2 * rate, score, rate, sigma2**2 * info, info, one)
        for row, value in zip(sums, values, strict=True):
            np.add.at(row, node[at], value)
    return w, variable, perceptible, u, sums, shares, total


@pytest.mark.parametrize("seed", range(4))
def test_weights_and_sums_are_those_of_the_mixture(seed):
    given = survey(seed)
    if seed % 2:
        rng = np.random.default_rng(seed)
        given = *given, rng.uniform(0, 1e-4, given[2].size), rng.uniform(0, 0.9, given[2].size)
    found = weigh(*given)
    w, variable, perceptible, u, sums, shares, total = oracle(*given)
    np.testing.assert_allclose(found.w, w, rtol=1e-4)
    np.testing.assert_allclose(found.variable, variable, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(found.perceptible, perceptible, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(found.variability, u, rtol=1e-4, atol=1e-9)
    s = found.sums
    got = (s.score_sigma, s.rate_sigma, s.score_one, s.rate_one, s.information_sigma, s.information_one, s.count)
    np.testing.assert_allclose(got, sums, rtol=1e-4)
    assert s.log_likelihood == pytest.approx(total, rel=1e-5)
    share = s.shares - 1e-3  # the prior's counts
    share[0] -= 1.0
    np.testing.assert_allclose(share, shares, atol=1e-3)
    assert s.tails is None
    assert s.excess_likelihood is None


@pytest.mark.parametrize("contamination", [False, True])
def test_likelihoods_on_the_grids(contamination):
    model, star_ptr, node, err, d2 = survey(7)
    found = weigh(
        model, star_ptr, node, err, d2, fit_tails=True, fit_excess=True, fit_contamination=contamination
    )  # fmt: skip
    base = variances(model, node, err)
    u = np.repeat(found.variability, np.diff(star_ptr))
    ones = np.ones(d2.size)
    histogram = tail_histogram(star_ptr, node, model.level, base, d2, ones, found.variability, 1)
    np.testing.assert_allclose(found.sums.tails, histogram, rtol=1e-4, atol=1e-4)
    levels = CONTAMINATION_LEVELS if contamination else CONTAMINATION_LEVELS[:1]
    expected = np.zeros((model.band.size, EXCESS_GRID.size, levels.size))
    for k, v in enumerate(EXCESS_GRID):
        s2 = base - model.excess[node] + v + u
        for c, level in enumerate(levels):
            like = log_density(model, d2 / s2, np.full(d2.size, level)) - 0.5 * np.log(s2)
            np.add.at(expected[:, k, c], node, like)
    got = found.sums.excess_likelihood
    # only differences along the grids mean anything
    np.testing.assert_allclose(np.diff(got[:, :, 0], axis=1), np.diff(expected[:, :, 0], axis=1), rtol=1e-4, atol=3e-4)
    if contamination:
        far = np.bincount(node, d2 > 9 * (base + u), model.band.size)
        usual = np.bincount(node) * model.tails.beyond
        asked = (far > usual + 2 * np.sqrt(usual) + 1) | (model.level > 0) | (model.excess > 1e-4)
        assert 0 < asked.sum() < asked.size
        assert (got[~asked, :, 1:] == -np.inf).all()
        np.testing.assert_allclose(np.diff(got[asked]), np.diff(expected[asked]), rtol=1e-4, atol=3e-4)


def test_scores_are_derivatives_of_the_likelihood():
    model, star_ptr, node, err, d2 = survey(3)
    sums = weigh(model, star_ptr, node, err, d2).sums

    def likelihood(part, at, step):
        other = model.copy()
        getattr(other, part)[at] += step
        return oracle(other, star_ptr, node, err, d2)[-1]

    for part, score in (
        ("error_scale2", 0.5 * (sums.score_sigma - sums.rate_sigma)),
        ("excess", 0.5 * (sums.score_one - sums.rate_one)),
    ):
        for e in (0, 3):
            step = 1e-4 * getattr(model, part)[e]
            numeric = (likelihood(part, e, step) - likelihood(part, e, -step)) / (2 * step)
            assert score[e] == pytest.approx(numeric, rel=1e-3)


def test_a_measurement_counts_by_what_its_fit_left_free():
    """Pairs fitted by their own mean: half a measurement each, as the one difference that they are."""
    rng = np.random.default_rng(5)
    star_ptr, node = np.arange(0, 41, 2), np.zeros(40, np.int32)
    err = np.full(40, 0.02, np.float32)
    model = NoiseModel.start(np.zeros(1, np.int32), np.ones(1))
    difference = rng.normal(size=20) * 0.03
    squared = np.repeat(difference**2 / 4.0, 2)
    pairs = weigh(model, star_ptr, node, err, squared, np.full(40, 1e-4), np.full(40, 0.5))
    # the difference alone, at the scale of one measurement
    ones = weigh(model, np.arange(21), np.zeros(20, np.int32), err[:20], difference**2 / 2.0)
    assert pairs.sums.log_likelihood == pytest.approx(ones.sums.log_likelihood, rel=1e-6)
    np.testing.assert_allclose(pairs.variability, ones.variability, rtol=1e-6)
    assert pairs.sums.count[0] == 20


def test_stars_seen_once_say_nothing():
    err = np.full(30, 0.01, np.float32)
    model = NoiseModel.start(np.zeros(1, np.int32), np.ones(1))
    found = weigh(model, np.arange(31), np.zeros(30, np.int32), err, np.zeros(30), err**2, np.ones(30))
    assert found.sums.count[0] == 0
    before = model.error_scale2.copy(), model.floor.copy()
    model.update(found.sums)
    np.testing.assert_allclose(model.error_scale2, before[0])
    np.testing.assert_allclose(model.floor, before[1])


def test_order_of_stars_does_not_matter():
    model, star_ptr, node, err, d2 = survey(5)
    order = np.random.default_rng(1).permutation(star_ptr.size - 1)
    rows = np.concatenate([np.arange(star_ptr[s], star_ptr[s + 1]) for s in order])
    ptr = np.concatenate([[0], np.cumsum(np.diff(star_ptr)[order])]).astype(np.int64)
    a = weigh(model, star_ptr, node, err, d2, fit_tails=True, fit_excess=True)
    b = weigh(model, ptr, node[rows], err[rows], d2[rows], fit_tails=True, fit_excess=True)
    np.testing.assert_allclose(b.w, a.w[rows], rtol=1e-12)
    np.testing.assert_allclose(b.variable, a.variable[order])
    np.testing.assert_allclose(b.sums.excess_likelihood, a.sums.excess_likelihood)
    assert b.sums.log_likelihood == pytest.approx(a.sums.log_likelihood)


def test_one_star_of_many_measurements_does_not_overflow():
    n = 3000
    model = NoiseModel.start(np.zeros(1, np.int32), np.ones(1))
    found = weigh(model, np.array([0, n]), np.zeros(n, np.int32), np.full(n, 1e-4, np.float32), np.full(n, 1e-8))
    assert np.isfinite(found.sums.log_likelihood)
    assert np.isfinite(found.w).all()


TAILS = np.array([0.95, 0.03, 0.01, 0.007, 0.002, 0.001])


def simulated(seed, scale, floor, excess, n_nodes=60, per_node=250, variable=0.05):
    """Residuals of known noise, with nothing fitted: d2 = r^2."""
    rng = np.random.default_rng(seed)
    visits = 10
    n_stars = n_nodes * per_node // visits
    star_ptr = np.arange(0, (n_stars + 1) * visits, visits).astype(np.int64)
    node = np.concatenate([rng.choice(n_nodes, visits, replace=False) for _ in range(n_stars)]).astype(np.int32)
    err = 10 ** rng.uniform(-3, -1.3, node.size).astype(np.float32)
    u = np.where(rng.random(n_stars) < variable, 0.032**2, 0.0)
    noisy = excess > 0
    v = excess**2 * (rng.random(n_nodes) < 0.3) if noisy else np.zeros(n_nodes)
    s2 = scale**2 * err.astype(float) ** 2 + floor**2 + v[node] + np.repeat(u, visits)
    residual = np.sqrt(s2 * rng.choice(MULTIPLES, node.size, p=TAILS)) * rng.normal(size=node.size)
    return NoiseModel.start(np.zeros(n_nodes, np.int32), np.ones(1)), star_ptr, node, err, residual**2, v, u


def learn(model, star_ptr, node, err, d2, passes=40):
    for _ in range(passes):
        found = weigh(model, star_ptr, node, err, d2, fit_tails=True, fit_excess=True, fit_contamination=True)
        change = model.update(found.sums)
    return found, change


@pytest.mark.parametrize(("scale", "floor", "excess"), [(1.0, 0.003, 0.0), (1.6, 0.006, 0.03), (0.7, 0.002, 0.016)])
def test_variances_are_recovered(scale, floor, excess):
    *given, v, u = simulated(11, scale, floor, excess)
    model = given[0]
    found, change = learn(*given)
    assert change < 0.02
    assert np.sqrt(model.survey_scale2[0]) == pytest.approx(scale, rel=0.09)
    assert np.sqrt(model.floor[0]) == pytest.approx(floor, rel=0.3)
    assert model.tails.shares[0] == pytest.approx(TAILS[0], abs=0.1)
    assert model.tails.shares[2:].sum() == pytest.approx(TAILS[2:].sum(), abs=0.02)
    if excess:
        assert np.sqrt(model.excess[v > 0]).mean() == pytest.approx(excess, rel=0.25)
        assert np.sqrt(model.excess[v == 0]).mean() < 0.25 * excess
    else:
        assert np.sqrt(model.excess).max() < 0.004
    # variability far below the noise cannot be told from a little more of it
    assert model.shares[3:].sum() == pytest.approx((u > 0).mean(), abs=0.03)
    assert found.variable[u > 0].mean() > 0.7 > 0.15 > found.variable[u == 0].mean()


@pytest.mark.parametrize("wide", [0.1, 0.4, 0.9])
def test_thick_clouds_are_as_wide_as_they_are(wide):
    *given, _, _ = simulated(7, 1.2, 0.004, 0.0)
    model, star_ptr, node, err, d2 = given
    rng = np.random.default_rng(3)
    cloudy = node == 5
    d2[cloudy] = (np.sqrt(d2[cloudy]) + rng.normal(0, wide, cloudy.sum())) ** 2
    learn(model, star_ptr, node, err, d2)
    assert np.sqrt(model.excess[5]) == pytest.approx(wide, rel=0.45)
    assert np.sqrt(np.delete(model.excess, 5)).max() < 0.01
    assert not model.level.any()


def test_excess_goes_the_share_of_its_way_that_is_said():
    model, star_ptr, node, err, r2 = survey(3)
    other, start = model.copy(), model.excess.copy()
    for each, step in ((model, 1.0), (other, 0.5)):
        each.update(weigh(each, star_ptr, node, err, r2, fit_excess=True).sums, step)
    assert np.abs(model.excess - start).min() > 0
    np.testing.assert_allclose(other.excess, (model.excess + start) / 2)


def test_a_right_model_stays_where_it_is():
    *given, _, _ = simulated(5, 1.3, 0.004, 0.0, per_node=400, variable=0.0)
    model = given[0]
    model.error_scale2[:] = model.survey_scale2[:] = 1.3**2
    model.excess[:] = 0.0
    learn(*given, passes=25)
    assert np.sqrt(model.survey_scale2[0]) == pytest.approx(1.3, rel=0.04)
    # 400 measurements know a logarithm of a variance to 0.07
    off = np.log(model.error_scale2 / 1.3**2)
    assert np.abs(off).max() < 0.3
    assert off.std() < 0.1
    assert 1 - model.shares[0] < 0.03


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6])
def test_exposures_of_wrong_measurements_are_known_from_noisy_ones(share):
    """A tenth of the exposures have a share of strangers, another tenth an excess."""
    model, star_ptr, node, err, d2, _, u = simulated(3, 1.2, 0.004, 0.0)
    rng = np.random.default_rng(9)
    residual = np.sqrt(d2) * rng.choice([-1.0, 1.0], d2.size)
    strange = (node < 6) & (rng.random(d2.size) < share)
    residual[strange] = rng.normal(0, 0.8, strange.sum())
    noisy = (node >= 6) & (node < 12)
    residual[noisy] += rng.normal(0, 0.03, noisy.sum())
    for _ in range(30):
        found = weigh(
            model, star_ptr, node, err, residual**2, fit_tails=True, fit_excess=True, fit_contamination=True
        )  # fmt: skip
        model.update(found.sums)
    told = CONTAMINATIONS[model.level]
    level, excess = model.level.copy(), model.excess.copy()
    residual[node == 40] = rng.normal(0, 0.8, (node == 40).sum())  # too late to be told from noise
    for _ in range(10):
        later = weigh(
            model, star_ptr, node, err, residual**2, fit_tails=True, fit_excess=True, fit_contamination=True
        )  # fmt: skip
        model.update(later.sums, settled=True)
    np.testing.assert_array_equal(model.level, level)
    assert model.excess[40] > 0.1
    np.testing.assert_allclose(np.sqrt(np.delete(model.excess, 40)), np.sqrt(np.delete(excess, 40)), atol=0.006)
    np.testing.assert_allclose(told[:6], share, atol=0.1)
    assert not told[6:].any()
    assert np.sqrt(model.excess[:6]).max() < 0.01  # of strangers 0.8 mag wide
    np.testing.assert_allclose(np.sqrt(model.excess[6:12]), 0.03, rtol=0.3)
    # the tails that all share are not spoilt by them
    assert model.tails.shares[2:].sum() == pytest.approx(TAILS[2:].sum(), abs=0.02)
    weight = found.w * (model.base(node, err) + found.variability[np.repeat(np.arange(u.size), 10)])
    of_strangers = weight[strange & (np.abs(residual) > 0.3)]
    assert not share or of_strangers.max() < 0.05
    information = model.information[node]
    for k in np.unique(model.level):
        here = model.level[node] == k
        np.testing.assert_allclose(
            information[here], model.tails.contaminated(CONTAMINATIONS[k]).information, rtol=1e-5
        )


def test_copies_and_spreads():
    model = survey(1)[0]
    other = model.copy()
    other.error_scale2[0] = other.shares[0] = 7.0
    assert model.error_scale2[0] != 7.0
    assert model.shares[0] != 7.0
    wide = model.spread_over(np.array([0, 1, 1, 0, 1, 0, 0], np.int32))
    np.testing.assert_array_equal(wide.floor, model.floor)
    np.testing.assert_array_equal(wide.error_scale2, model.survey_scale2[wide.band])
    np.testing.assert_allclose(np.sqrt(wide.excess), model.excess_shares @ np.sqrt(EXCESS_GRID))


@pytest.mark.parametrize(
    ("noise", "variability", "visits", "low", "high"),
    [(0.1, 0.0, 6, 0.0, 0.02), (0.005, 0.0, 6, 0.0, 0.1), (0.02, 0.2, 12, 0.99, 1.0), (0.02, 0.007, 2000, 0.9, 1.0)],
)
def test_a_star_varies_perceptibly_where_its_measurements_could_show_it(noise, variability, visits, low, high):
    """Faint and constant, bright and constant, an RR Lyrae, and a small wave in many visits."""
    rng = np.random.default_rng(8)
    model = NoiseModel.start(np.zeros(1, np.int32), np.ones(1), floor=1e-6)
    model.tails = Tails(np.array([0.995, *[0.001] * 5]))
    y = rng.normal(0, np.hypot(noise, variability), visits)
    err = np.full(visits, noise, np.float32)
    found = weigh(model, np.array([0, visits]), np.zeros(visits, np.int32), err, (y - y.mean()) ** 2)
    assert low <= found.perceptible[0] <= high
    assert found.perceptible[0] <= found.variable[0]


def test_a_stride_that_turns_is_shorter_and_one_that_goes_on_grows():
    stride = Stride()
    ahead = np.array([5.0, 0.2])
    np.testing.assert_array_equal(stride(ahead), [1.0, 0.2])
    np.testing.assert_allclose(stride(-ahead), [-0.4, -0.2])  # the short one is within its reach either way
    np.testing.assert_allclose(stride(ahead), [0.16, 0.16])
    np.testing.assert_allclose(stride(ahead), [0.24, 0.2])
    for _ in range(9):
        last = stride(ahead)
    np.testing.assert_allclose(last, [1.0, 0.2])


def test_runs_of_stars_add_up(monkeypatch):
    model, *given = survey(4, n_stars=400)
    rng = np.random.default_rng(4)
    given += [rng.uniform(0, 1e-4, given[1].size), rng.uniform(0, 0.9, given[1].size)]
    asked = {"fit_tails": True, "fit_excess": True, "fit_contamination": True}

    def arrays(found):
        sums = vars(found.sums)
        return {"w": found.w, "u": found.variability, "variable": found.variable, "seen": found.perceptible, **sums}

    whole = arrays(weigh(model, *given, **asked))
    monkeypatch.setattr(workers, "RUN", 50)
    assert len(workers.cut(given[0])) > 20
    alone = arrays(weigh(model, *given, **asked))
    for threads in (2, 3):
        with workers.working(threads):
            found = arrays(weigh(model, *given, **asked))
        for name, value in alone.items():
            np.testing.assert_array_equal(found[name], value, err_msg=name)
    for name, value in whole.items():
        np.testing.assert_allclose(alone[name], value, rtol=1e-12, err_msg=name)
    for name in ("w", "u", "variable", "seen", "excess_likelihood"):  # of a measurement, a star or a place on a grid
        np.testing.assert_array_equal(alone[name], whole[name], err_msg=name)
    assert (alone["score_sigma"] != whole["score_sigma"]).any()
