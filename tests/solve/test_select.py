"""Terms are carried where they earn it; parts of a problem are problems of their own."""

import numpy as np
import polars as pl
import pytest

from calib.config import Config, ConfigError
from calib.solve import select
from calib.solve.methods import REFIT_PASSES, refit
from calib.solve.robust import fit
from calib.solve.select import border_of, candidates, deciding_part, design_of, robust_fit, subset, without_idle


@pytest.mark.parametrize("seed", range(2))
def test_planes_are_chosen_where_there_are_some(survey, problem_of, seed):
    given = {"seed": seed, "n_exposures": 15, "n_stars": 200, "err": (0.004, 0.02)}
    with_planes, _ = robust_fit(problem_of(survey(plane=0.02, **given)[0]), Config())
    assert with_planes.design.degree >= 1
    without, trials = robust_fit(problem_of(survey(places=True, **given)[0]), Config())
    assert without.design.degree == 0
    assert [t.degree for t in trials] == [0, 1]
    assert trials[0].name == "no surface"
    assert trials[1].name == "plane"


def test_what_has_no_room_is_not_tried_and_that_is_told(survey, problem_of):
    given = {"seed": 0, "n_exposures": 15, "n_stars": 200, "err": (0.004, 0.02), "plane": 0.02}
    problem = problem_of(survey(**given)[0])
    entries = robust_fit(problem, Config(surface="off"))[0].equations.topology.symbolic.supernodes.n_entries
    least = 8e-9 * entries  # GB of one coefficient, about 9 and 36 times as much of planes and quadratics

    def tried(factor_gb, **more):
        found, trials = robust_fit(problem, Config(factor_gb=factor_gb, **more))
        return found.design.degree, [(t.degree, t.gigabytes is None) for t in trials if not t.by_magnitude]

    assert tried(5 * least) == (0, [(0, True), (1, False)])
    assert tried(20 * least)[0] == 1
    assert tried(20 * least)[1] == [(0, True), (1, True), (2, False)]
    assert tried(5 * least, surface="plane") == (1, [(1, True)])  # asked for
    with pytest.raises(ConfigError, match="factor_gb is 0"):
        Config(factor_gb=0)


def test_planes_are_recovered(survey, problem_of):
    frame, truth = survey(seed=3, n_exposures=15, n_stars=300, plane=0.03)
    fit, _ = robust_fit(problem_of(frame), Config(surface="plane"))
    assert fit.design.degree == 1
    assert np.sqrt(fit.terms.surfaces[1].scale) == pytest.approx(0.03, rel=0.5)
    z = fit.equations.centred(fit.estimate.theta)[:15, 0]
    off, _ = robust_fit(problem_of(frame), Config(surface="off"))
    without = off.equations.centred(off.estimate.theta)[:15, 0]
    rms = [np.sqrt(np.mean((x - truth["r"]) ** 2)) for x in (z, without)]
    assert rms[0] < rms[1]


def test_a_refit_of_half_the_stars_rests_where_one_from_nothing_does(survey, problem_of):
    given = {"seed": 5, "n_exposures": 15, "n_stars": 300, "plane": 0.02, "err": (0.004, 0.02)}
    problem, config = problem_of(survey(**given)[0]), Config(surface="plane")
    whole, _ = robust_fit(problem, config)
    half = subset(problem, problem.graph.star() % 2 == 0)
    short = refit(half, whole, config)
    assert short.passes <= REFIT_PASSES
    design = design_of(half, 1)
    border = border_of(half, design, config)
    long = fit(design, half.m, half.err, half.band, border, max_passes=300, tolerance=1e-5)
    a, b = (x.equations.centred(x.estimate.theta)[:15, 0] for x in (short, long))
    sigma, other = (np.sqrt(x.spread.node[:15, 0, 0]) for x in (long, short))
    assert np.sqrt(np.mean(((a - b) / sigma) ** 2)) < 0.15
    np.testing.assert_allclose(other / sigma, 1.0, atol=0.1)


def test_candidates_are_what_data_and_configuration_allow(survey, problem_of):
    bare, placed = problem_of(survey(n_stars=30)[0]), problem_of(survey(n_stars=30, places=True)[0])
    assert candidates(bare, Config()) == ([0], [False])
    assert candidates(bare, Config(surface="plane", seeing_response="on")) == ([0], [False])
    assert candidates(placed, Config()) == ([0, 1, 2], [False])
    assert candidates(placed, Config(surface="quadratic")) == ([2], [False])


def test_subset_keeps_what_it_is_told(survey, problem_of):
    problem = problem_of(survey(seed=4, n_stars=60, places=True)[0])
    keep = np.random.default_rng(0).random(problem.m.size) < 0.3
    part = subset(problem, keep)
    np.testing.assert_array_equal(part.m, problem.m[keep])
    np.testing.assert_array_equal(part.err, problem.err[keep])
    np.testing.assert_array_equal(part.xy, problem.xy[keep])
    np.testing.assert_array_equal(part.graph.exposure, problem.graph.exposure[keep])
    np.testing.assert_array_equal(part.graph.order, problem.graph.order[keep])
    assert part.graph.n_exposures == problem.graph.n_exposures
    assert part.graph.n_stars == part.stars.height
    assert (np.diff(part.graph.star_ptr) > 0).all()
    # the same stars, by name
    before = problem.stars["star_id"].to_numpy()[problem.graph.star()[keep]]
    np.testing.assert_array_equal(part.stars["star_id"].to_numpy()[part.graph.star()], before)
    assert problem.m.size == 360  # the whole is as it was


def test_subset_of_all_and_of_none(survey, problem_of):
    problem = problem_of(survey(n_stars=20)[0])
    whole = subset(problem, np.ones(problem.m.size, bool))
    np.testing.assert_array_equal(whole.graph.star_ptr, problem.graph.star_ptr)
    none = subset(problem, np.zeros(problem.m.size, bool))
    assert none.m.size == 0
    assert none.stars.height == 0


def test_the_deciding_part_is_connected_and_about_as_large_as_asked(survey, problem_of):
    # a chain: each star in neighbouring exposures only
    star = np.repeat(np.arange(590), 2)
    node = star // 10 + np.tile([0, 1], 590)
    one = np.ones(1180)
    frame = pl.DataFrame({"star_id": star, "exposure_id": node, "mag": 15 * one, "mag_err": 0.01 * one})
    problem = problem_of(frame)
    part = deciding_part(problem, most=300)
    assert deciding_part(problem) is problem
    assert 240 <= part.m.size <= 360
    used = np.unique(part.graph.exposure)
    assert np.unique(part.graph.components()[used]).size == 1
    assert used.size == design_of(part, 0).n_nodes < problem.graph.n_exposures
    assert part.nodes["exposure_id"].to_list() == problem.nodes["exposure_id"][part.survey_nodes].to_list()
    row = part.input_row
    np.testing.assert_array_equal(part.nodes["exposure_id"].to_numpy()[part.graph.exposure], node[row])


def test_a_large_survey_is_solved_whole_by_what_its_part_chose(survey, problem_of, monkeypatch):
    frame, truth = survey(seed=3, n_exposures=15, n_stars=300, plane=0.03)
    problem = problem_of(frame)
    at_once, _ = robust_fit(problem, Config())
    monkeypatch.setattr(select, "PART_MEASUREMENTS", problem.m.size // 2)
    said = []
    by_part, trials = robust_fit(problem, Config(), lambda name, n, change: said.append(name))
    assert said[-1] == "all measurements"
    assert by_part.design.degree == at_once.design.degree >= 1
    assert by_part.design.n_measurements == problem.m.size
    assert len(trials) > 1
    a, b = (x.equations.centred(x.estimate.theta)[:15, 0] for x in (by_part, at_once))
    sigma = np.sqrt(at_once.spread.node[:15, 0, 0])
    assert np.sqrt(np.mean(((a - b) / sigma) ** 2)) < 0.3
    assert np.sqrt(np.mean((a - truth["r"]) ** 2)) < 1.1 * np.sqrt(np.mean((b - truth["r"]) ** 2))


def test_every_band_has_its_share_of_the_deciding_part(survey, problem_of):
    frame = survey(n_stars=400)[0]
    second = frame.filter(pl.col("star_id").rank("dense") % 3 == 0)
    both = [x.with_columns(band=pl.lit(b), exposure_id=pl.format(b + "{}", "exposure_id")) for x, b in
            ((frame, "g"), (second, "r"))]  # fmt: skip
    problem = problem_of(pl.concat(both))
    most = problem.m.size // 3
    part = deciding_part(problem, most=most)
    assert 0.5 * most < part.m.size < 1.5 * most
    of_band = np.bincount(part.band[part.graph.exposure], minlength=2)
    assert (of_band > 0).all()
    assert of_band[0] > 1.5 * of_band[1]


def test_bands_keep_their_numbers_without_idle_nodes(survey, problem_of):
    frame = survey(n_stars=30)[0]
    names = np.array(["g", "r", "z"])[frame["exposure_id"].rank("dense").to_numpy() % 3]
    problem = problem_of(frame.with_columns(band=pl.Series(names)))
    part = without_idle(subset(problem, problem.band[problem.graph.exposure] == 1))
    assert np.unique(part.band).tolist() == [0, 1, 2]
    assert (np.bincount(part.graph.exposure, minlength=part.band.size)[part.band != 1] == 0).all()
    np.testing.assert_array_equal(part.band, problem.band[part.survey_nodes])


def test_stars_whose_rows_are_all_unused_leave_no_gap(survey, problem_of):
    """Also where they are the first and the last."""
    frame, _ = survey(seed=5, n_exposures=6, n_stars=30, visits=3)
    unused = (0, 13, 29)
    problem = problem_of(frame.with_columns(flag=pl.col("star_id").is_in(unused)))
    keep = np.arange(problem.m.size) % 2 == 0
    part = subset(problem, keep)
    np.testing.assert_array_equal(part.m, problem.m[keep])
    of = problem.stars["star_id"].to_numpy()
    np.testing.assert_array_equal(
        part.stars["star_id"].to_numpy()[part.graph.star()], of[problem.graph.star()][keep]
    )
    assert part.stars.height == part.graph.n_stars == np.unique(problem.graph.star()[keep]).size
