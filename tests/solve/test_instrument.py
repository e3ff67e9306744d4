"""What detectors add in every exposure alike: solved exactly with the rest, with right errors, for every row."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from calib import Config, calibrate
from calib.apply import Applier
from calib.model.problem import Problem
from calib.solve import instrument as instrument_module
from calib.solve.instrument import Columns, Instrument, links
from calib.solve.normal import NormalEquations, Prior, Topology
from calib.solve.select import design_of
from calib.tables import read_measurements

ROBUST = Config(method="robust", score=False)


def camera_survey(seed, offset=0.01, slope=0.0, n_exposures=24, noise=0.005, bands=("r",)):
    """Table of dithered exposures by a camera of 3 x 3 detectors, truth of zero-points, offsets and slopes."""
    rng = np.random.default_rng(seed)
    centre = np.repeat(rng.uniform(0, 1.5, (n_exposures // len(bands), 2)), len(bands), axis=0)
    band = np.tile(np.arange(len(bands)), n_exposures // len(bands))
    at = rng.uniform(-0.5, 2.0, (500, 2))
    exposure, star = np.nonzero((np.abs(at - centre[:, None]) < 0.5).all(2))
    inside = at[star] - centre[exposure] + 0.5
    detector = (3 * inside[:, 0]).astype(int) + 3 * (3 * inside[:, 1]).astype(int)
    values = {"offset": rng.normal(0, offset, (len(bands), 9)), "slope": rng.normal(0, slope, (len(bands), 9))}
    for value in values.values():
        value -= value.mean(1, keepdims=True)
    color, magnitude = rng.uniform(0, 2, len(at)), rng.uniform(15, 19, len(at))
    z = rng.normal(0, 0.1, n_exposures)
    b = band[exposure]
    mag = magnitude[star] - z[exposure] - values["offset"][b, detector] + rng.normal(0, noise, star.size)
    mag -= values["slope"][b, detector] * (color[star] - np.median(color[star]))
    frame = pl.DataFrame(
        {
            "star_id": star, "exposure_id": exposure, "band": [bands[k] for k in b], "mag": mag, "mag_err": noise,
            "detector": [f"ccd{d}" for d in detector], "color": color[star],
        }
    )  # fmt: skip
    return frame, z, values


def pulls_of(solution, z):
    """Errors of zero-points about their mean, over what is stated without an unseen gradient: here there is none."""
    gap = solution.frames["zeropoints"]["zeropoint"].to_numpy() - z[solution.frames["zeropoints"]["exposure_id"]]
    gradient = (solution.covariances.patterns[:, :2] ** 2).sum(1)
    return (gap - gap.mean()) / np.sqrt(solution.frames["zeropoints"]["zeropoint_err"].to_numpy() ** 2 - gradient)


def dense(problem, w, n_kinds, precision):
    """Full normal matrix and columns of stars, zero-points and terms, one zero-point of each band held."""
    graph, camera = problem.graph, problem.camera
    n, S, E, D = problem.m.size, graph.n_stars, graph.n_exposures, len(camera.names)
    A = np.zeros((n, S + E + len(problem.bands) * n_kinds * D))
    rows = np.arange(n)
    A[rows, graph.star()] = -1.0  # residual = m + z + terms - M
    A[rows, S + graph.exposure] = 1.0
    column = S + E + problem.band[graph.exposure] * n_kinds * D + camera.detector
    A[rows, column] = 1.0
    if n_kinds == 2:
        A[rows, column + D] = camera.color
    H = A.T @ (w[:, None] * A)
    held = [S + int(np.flatnonzero(problem.band == b)[0]) for b in range(len(problem.bands))]
    H[held, held] += 1e9
    terms = np.arange(S + E, A.shape[1])
    H[terms, terms] += precision
    return A, H, terms


@pytest.mark.parametrize(("n_kinds", "at_once"), [(1, 32), (2, 32), (2, 5)])
def test_precision_and_step_are_those_of_the_dense_solve(n_kinds, at_once, monkeypatch):
    monkeypatch.setattr(instrument_module, "AT_ONCE", at_once)
    frame, _, _ = camera_survey(1, slope=0.01, n_exposures=12, bands=("g", "r"))
    problem = Problem.of(read_measurements(frame), ROBUST)
    w = np.random.default_rng(2).uniform(0.2, 1.0, problem.m.size) / 0.005**2
    design = design_of(problem, 0)
    equations = NormalEquations(design, problem.m, w, Prior.none(design), Topology(design))
    columns = Columns(problem.graph.exposure, problem.band, problem.camera, n_kinds)
    A, H, terms = dense(problem, w, n_kinds, 0.0)
    rest = np.setdiff1d(np.arange(H.shape[0]), terms)
    schur = H[np.ix_(terms, terms)] - H[np.ix_(terms, rest)] @ np.linalg.solve(
        H[np.ix_(rest, rest)], H[np.ix_(rest, terms)]
    )
    G = links(columns, equations)
    size = n_kinds * 9
    for b in range(2):
        part = slice(b * size, (b + 1) * size)
        np.testing.assert_allclose(G[b], schur[part, part], atol=1e-6 * G.max())

    instrument = Instrument(problem.camera, design, problem.band, n_kinds)
    for prior in instrument.priors:
        prior.dof = 1e12  # normal, so that one step is the answer
    precision = 1.0 / instrument.priors[0].scale
    instrument.link(1, equations)
    instrument.step(equations, equations.estimate().residual)
    _, H, _ = dense(problem, w, n_kinds, precision)
    found = np.linalg.solve(H, -A.T @ (w * problem.m))
    expected = found[terms].reshape(2, n_kinds, 9)
    expected = expected - expected.mean(2, keepdims=True)
    np.testing.assert_allclose(instrument.value[:, :, :9], expected, atol=2e-6)
    assert not instrument.value[:, :, 9].any()


def test_offsets_and_slopes_are_found_with_right_errors():
    pulls = {"detector_offset": [], "detector_color": [], "zeropoint": []}
    for seed in range(25):
        frame, z, values = camera_survey(seed, slope=0.01)
        solution = calibrate(frame, config=replace(ROBUST, instrument="color"))
        terms = solution.frames["terms"].sort("detector")
        for name, value in (("detector_offset", values["offset"]), ("detector_color", values["slope"])):
            rows = terms.filter(pl.col("name") == name)
            pulls[name].append((rows["value"].to_numpy() - value[0]) / rows["err"].to_numpy())
        pulls["zeropoint"].append(pulls_of(solution, z))
    for each in pulls.values():
        assert np.sqrt(np.mean(np.concatenate(each) ** 2)) == pytest.approx(1.0, abs=0.15)


def test_zero_points_are_better_with_them_and_nothing_is_lost_where_there_are_none():
    frame, z, _ = camera_survey(3, offset=0.02)
    off, auto = (calibrate(frame, config=replace(ROBUST, instrument=how)) for how in ("off", "auto"))
    rms = [np.std(s.frames["zeropoints"].sort("exposure_id")["zeropoint"].to_numpy() - z) for s in (off, auto)]
    assert rms[1] < 0.5 * rms[0]
    assert set(auto.frames["terms"]["name"]) == {"detector_offset"}
    carried = [t["terms"] for t in auto.diagnostics["terms_tried"] if t["carried"]]
    assert carried == ["no surface + detectors' offsets"]

    frame, _, _ = camera_survey(4, offset=0.0)
    plain = calibrate(frame, config=ROBUST)
    assert not plain.frames["terms"].height
    assert [t["terms"] for t in plain.diagnostics["terms_tried"]] == ["no surface", "no surface + detectors' offsets"]


def test_few_stars_between_detectors_are_in_the_errors_of_zero_points():
    frame, _, _ = camera_survey(5, offset=0.02, n_exposures=8)
    free = calibrate(frame, config=replace(ROBUST, instrument="offset"))
    off = calibrate(frame.drop("detector"), config=ROBUST)
    shared = free.covariances.patterns
    assert (shared**2).sum(1).max() > 0.01 * (free.frames["zeropoints"]["zeropoint_err"] ** 2).max()
    assert shared.mean(0) == pytest.approx(0.0, abs=1e-9)  # the gauge holds the mean
    assert off.covariances.patterns.shape[1] == 2  # an unseen gradient alone
    whole = free.covariance(list(range(8)))
    np.testing.assert_allclose(np.sqrt(np.diag(whole)), free.frames["zeropoints"]["zeropoint_err"], rtol=1e-6)


def test_every_row_is_calibrated_alike_and_apply_repeats_it():
    frame, _, _ = camera_survey(6, offset=0.02, slope=0.02, bands=("g", "r"))
    frame = frame.with_columns(flag=pl.int_range(frame.height) % 7 == 0)
    solution = calibrate(frame, config=replace(ROBUST, instrument="color"))
    values = solution.frames["terms"]
    assert values["band"].unique().sort().to_list() == ["g", "r"]
    calibrated = solution.measurements["calibrated_mag"].value
    again, _ = Applier(solution)(read_measurements(frame))
    np.testing.assert_allclose(again["calibrated_mag"].to_numpy(), calibrated, atol=1e-6)
    residual = again["residual"].to_numpy()
    assert np.nanstd(residual[frame["flag"].to_numpy()]) < 0.007  # rows left out of the solve hold it too


def test_apply_asks_for_the_detector_and_knows_no_other():
    from calib.tables.errors import InputError

    frame, _, _ = camera_survey(7, offset=0.02)
    solution = calibrate(frame, config=replace(ROBUST, instrument="offset"))
    apply = Applier(solution)
    with pytest.raises(InputError, match="no column detector"):
        apply(read_measurements(frame.drop("detector")))
    elsewhere, _ = apply(read_measurements(frame.with_columns(detector=pl.lit("new"))))
    z = solution.frames["zeropoints"].sort("exposure_id")["zeropoint"].to_numpy()
    expected = frame["mag"].to_numpy() + z[frame["exposure_id"].to_numpy()]
    np.testing.assert_allclose(elsewhere["calibrated_mag"].to_numpy(), expected, atol=1e-9)


def test_a_catalogue_has_no_detector():
    frame, _, _ = camera_survey(8, offset=0.02)
    stars = frame.group_by("star_id").agg(pl.col("mag").mean()).sort("star_id").head(60)
    reference = stars.with_columns(mag_err=pl.lit(0.05), band=pl.lit("r"))
    night = frame.with_columns(night=pl.col("exposure_id") // 8, airmass=1.0 + pl.col("exposure_id") % 8 * 0.1)
    solution = calibrate(night, reference=reference, config=replace(ROBUST, extinction="on", instrument="offset"))
    rows = solution.frames["terms"].filter(pl.col("name") == "detector_offset")
    assert rows.height == 9
    assert rows["band"].unique().to_list() == ["r"]
    assert solution.frames["zeropoints"]["anchored"].all()


def test_a_stale_precision_does_not_carry_a_step_too_far():
    """Weights that let detectors hang together by nothing, and then by something: the step answers to the new ones."""
    frame, _, _ = camera_survey(3, n_exposures=6)
    problem = Problem.of(read_measurements(frame), ROBUST)
    design, full = design_of(problem, 0), np.full(problem.m.size, 1 / 0.005**2)
    loose = np.where(problem.camera.detector < 4, full, 1e-6)

    def equations(w):
        return NormalEquations(design, problem.m, w, Prior.none(design), Topology(design))

    def misfit(instrument):
        found = equations(full)
        found = NormalEquations(design, instrument.added_to(problem.m), full, found.prior, found.topology)
        value = instrument.value[:, :, :-1]
        residual = found.estimate().residual
        return (full * residual**2).sum() + (value**2 / 2.5e-5).sum()

    instrument = Instrument(problem.camera, design, problem.band, 1)
    for prior in instrument.priors:
        prior.dof = 1e12
    instrument.link(1, equations(loose))
    before = misfit(instrument)
    instrument.step(equations(full), equations(full).estimate().residual)
    assert misfit(instrument) < before
