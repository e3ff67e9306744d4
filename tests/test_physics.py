"""What any calibration must obey, through the public path, on small surveys of known truth."""

import numpy as np
import polars as pl
import pytest

from calib import Config, calibrate
from calib.simulate import SurveySpec, simulate
from calib.tables import InputError

ROBUST = Config(method="robust", score=False)
METHODS = ["robust", "wls"]


def survey(seed=0, n_exposures=12, n_stars=60, share=0.5, err=0.01, bands=("r",), error_scale=1.0):
    """Measurements, what they should be (``expected``) and the true zero-points; some measurements are outliers."""
    rng = np.random.default_rng(seed)
    rows = []
    for k, band in enumerate(bands):
        star = rng.uniform(15, 19, n_stars)
        z = rng.normal(25 + k, 0.1, n_exposures)
        s, e = np.nonzero(rng.random((n_stars, n_exposures)) < share)
        sigma = err * rng.uniform(0.5, 1.5, s.size)
        noise = rng.normal(size=s.size) * sigma * error_scale
        noise[rng.random(s.size) < 0.01] += 0.3
        rows.append(
            pl.DataFrame({"star_id": s, "exposure_id": e + 100 * k, "mag": star[s] - z[e] + noise, "mag_err": sigma,
                          "zeropoint_true": z[e], "expected": star[s] - z[e]}).with_columns(band=pl.lit(band))
        )  # fmt: skip
    return pl.concat(rows)


def solve(frame, config=ROBUST, **kw):
    return calibrate(frame.drop("zeropoint_true", "expected", strict=False), config=config, **kw)


def zeropoints(solution, *keys):
    keys = keys or ("exposure_id", "band")
    return solution.frames["zeropoints"].sort(*keys)


def values(solution, *columns):
    return zeropoints(solution).select(columns or ("zeropoint", "zeropoint_err")).to_numpy()


def config_of(method):
    return Config(method=method, score=False)


@pytest.mark.parametrize("method", METHODS)
def test_shifting_an_exposure_shifts_its_zeropoint_by_the_opposite(method):
    frame, shift = survey(1), 0.37
    moved = frame.with_columns(mag=pl.col("mag") + shift * (pl.col("exposure_id") == 4))
    before, after = (zeropoints(solve(f, config_of(method))) for f in (frame, moved))
    change = (after["zeropoint"] - before["zeropoint"]).to_numpy()
    expected = np.where(before["exposure_id"] == 4, -shift, 0.0) + shift / before.height  # the mean is held at 0
    np.testing.assert_allclose(change, expected, rtol=0, atol=1e-6 if method == "robust" else 1e-9)
    np.testing.assert_allclose(after["zeropoint_err"], before["zeropoint_err"], rtol=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_a_common_shift_of_all_magnitudes_changes_nothing_relative(method):
    frame = survey(2)
    a, b = (values(solve(f, config_of(method))) for f in (frame, frame.with_columns(mag=pl.col("mag") - 7.25)))
    np.testing.assert_allclose(a, b, atol=2e-8)


@pytest.mark.parametrize("method", METHODS)
def test_permuting_rows_changes_nothing(method):
    frame = survey(3)
    order = np.random.default_rng(0).permutation(frame.height)
    a, b = solve(frame, config_of(method)), solve(frame[order], config_of(method))
    np.testing.assert_allclose(values(a), values(b), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(
        a.measurement_frame()["calibrated_mag"].to_numpy()[order], b.measurement_frame()["calibrated_mag"], atol=1e-7
    )


def test_renaming_ids_changes_nothing():
    frame = survey(4)
    # another order of the names: the numbering inside changes, the answer does not
    renamed = frame.with_columns(
        star_id=7 * (1000 - pl.col("star_id")), exposure_id=2**53 + 1 + 31 * pl.col("exposure_id")
    )
    a, b = solve(frame), solve(renamed)
    np.testing.assert_allclose(values(a, "zeropoint"), values(b, "zeropoint"), rtol=0, atol=1e-6)
    # the bootstrap that may enlarge errors draws a sign for each star, from its errors and not from its name
    np.testing.assert_allclose(values(a, "zeropoint_err"), values(b, "zeropoint_err"), rtol=1e-3)
    assert b.frames["zeropoints"]["exposure_id"].sort().to_list() == [2**53 + 1 + 31 * k for k in range(12)]


def test_string_ids_equal_integer_ids():
    frame = survey(5)
    text = frame.with_columns(
        star_id=pl.format("s{}", pl.col("star_id").cast(pl.String).str.zfill(4)),
        exposure_id=pl.format("e{}", pl.col("exposure_id").cast(pl.String).str.zfill(4)),
    )
    a, b = solve(frame), solve(text)
    assert b.frames["zeropoints"]["exposure_id"].dtype == pl.String
    np.testing.assert_allclose(values(a), values(b), rtol=1e-6, atol=1e-8)


def test_magnitudes_and_fluxes_agree():
    frame = survey(6)
    flux = 10 ** (-0.4 * (pl.col("mag") - 31.4))  # nJy
    fluxes = frame.select(
        "star_id", "exposure_id", "band", flux=flux, flux_err=flux * pl.col("mag_err") * np.log(10) / 2.5
    )
    np.testing.assert_allclose(values(solve(frame)), values(solve(fluxes)), rtol=1e-4, atol=1e-6)


def seen_again(frame, seed=99):
    """The same measurements with noise of their own."""
    noise = np.random.default_rng(seed).normal(size=frame.height) * frame["mag_err"].to_numpy()
    return frame.with_columns(mag=pl.col("expected") + pl.Series(noise))


def test_repeating_every_visit_shrinks_the_stars_errors_by_the_root_of_two():
    frame = seen_again(survey(7, n_stars=150), 70)
    again = seen_again(frame, 71).with_columns(exposure_id=pl.col("exposure_id") + 1000)
    once, twice = solve(frame), solve(pl.concat([frame, again]))
    stars = [s.frames["stars"].sort("star_id")["mag_err"].to_numpy() for s in (once, twice)]
    assert 0.62 < np.median(stars[1] / stars[0]) < 0.8
    # of a zero-point, the part of the other exposures halves and its own stays
    assert 0.85 < zeropoints(twice)["zeropoint_err"].median() / zeropoints(once)["zeropoint_err"].median() < 1.05


def test_measuring_everything_twice_shrinks_zeropoint_errors_by_the_root_of_two():
    frame = seen_again(survey(8, n_stars=150), 80)
    once, twice = solve(frame), solve(pl.concat([frame, seen_again(frame, 81)]))
    assert 0.62 < np.median(values(twice)[:, 1] / values(once)[:, 1]) < 0.8


def test_a_lone_exposure_is_nan_and_flagged():
    frame = survey(9)
    lone = pl.DataFrame({"star_id": [900, 901, 902], "exposure_id": [99] * 3, "mag": [17.0, 18.0, 16.5],
                         "mag_err": [0.01] * 3, "band": ["r"] * 3})  # fmt: skip
    solution = solve(pl.concat([frame.drop("zeropoint_true", "expected"), lone], how="diagonal"))
    row = solution.frames["zeropoints"].filter(pl.col("exposure_id") == 99)
    assert np.isnan(row["zeropoint"].item())
    assert np.isnan(row["zeropoint_err"].item())
    assert row["flag"].item() == "isolated"
    assert not row["anchored"].item()
    rest = zeropoints(solution).filter(pl.col("exposure_id") != 99)
    without = zeropoints(solve(frame))
    np.testing.assert_allclose(rest["zeropoint"], without["zeropoint"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(rest["zeropoint_err"], without["zeropoint_err"], rtol=0.05)
    rows = solution.measurement_frame().filter(pl.col("exposure_id") == 99)
    assert not rows["used"].any()
    assert (rows["weight"] == 0).all()


def reference_of(frame, error=0.005, seed=0, share=0.5):
    """True magnitudes of some stars, from the noiseless relation, with errors."""
    rng = np.random.default_rng(seed)
    stars = frame.group_by("star_id", "band").agg(mag=(pl.col("mag") + pl.col("zeropoint_true")).median())
    stars = stars.sort("star_id", "band").filter(pl.Series(rng.random(stars.height) < share))
    return stars.with_columns(
        mag=pl.col("mag") + pl.Series(rng.normal(size=stars.height) * error), mag_err=pl.lit(error)
    )


def true_zeropoints(frame):
    return frame.group_by("exposure_id", "band").agg(pl.col("zeropoint_true").first()).sort("exposure_id", "band")


def test_references_set_the_scale():
    frame = survey(10)
    solution = solve(frame, reference=reference_of(frame))
    z = zeropoints(solution)
    assert z["anchored"].all()
    pull = (z["zeropoint"] - true_zeropoints(frame)["zeropoint_true"]) / z["zeropoint_err"]
    assert abs(pull.mean()) < 3.0
    assert abs(z["zeropoint"].mean() - 25.0) < 0.15
    loose = solve(frame)
    relative = z["zeropoint"] - zeropoints(loose)["zeropoint"]
    assert relative.std() < 1e-9


def test_references_do_not_bend_the_relative_solution():
    frame = survey(11)
    reference = reference_of(frame)
    half = reference.with_columns(mag=pl.col("mag") + 0.1 * (pl.int_range(pl.len()) % 2))
    a, b = (zeropoints(solve(frame, reference=r))["zeropoint"] for r in (reference, half))
    assert (a - b).std() < 1e-9


@pytest.mark.parametrize("seed", range(3))
def test_wrong_references_move_the_scale_little(seed):
    frame = survey(12 + seed)
    reference = reference_of(frame, seed=seed, share=0.8)
    wrong = reference.with_columns(
        mag=pl.col("mag")
        + 0.5 * pl.Series(np.random.default_rng(seed).permutation(reference.height) < 0.3 * reference.height)
    )
    good, bad = (zeropoints(solve(frame, reference=r)) for r in (reference, wrong))
    moved = (bad["zeropoint"] - good["zeropoint"]).to_numpy()
    assert np.ptp(moved) < 1e-9
    assert abs(moved[0]) < 2.5 * bad["zeropoint_err"].median()


def test_a_lone_exposure_with_references_takes_their_scale():
    frame = survey(13)
    alone = frame.filter(pl.col("exposure_id") == 3).with_columns(
        star_id=pl.col("star_id") + 5000, exposure_id=pl.lit(77, pl.Int64)
    )
    both = pl.concat([frame, alone])
    solution = solve(both, reference=reference_of(both, share=0.7))
    row = solution.frames["zeropoints"].filter(pl.col("exposure_id") == 77)
    truth = alone["zeropoint_true"][0]
    assert row["anchored"].item()
    assert "reference_only" in row["flag"].item()
    assert abs(row["zeropoint"].item() - truth) < 4 * row["zeropoint_err"].item()
    assert solution.measurement_frame().filter(pl.col("exposure_id") == 77)["used"].all()


def night(seed=20, fields=10, k=0.15, clouded=()):
    """One photometric night of fields that share no star, with airmass, and a catalogue of a few stars in each."""
    rng = np.random.default_rng(seed)
    rows, exposures, reference = [], [], []
    for f in range(fields):
        star = rng.uniform(12, 16, 12)
        for visit in range(2):
            e, airmass = 2 * f + visit, 1.0 + 1.2 * (f + 0.3 * visit) / fields
            cloud = 3.0 if e in clouded else 0.0
            z = 20.0 - k * (airmass - 1.0) - cloud + rng.normal() * 0.004
            exposures.append({"exposure_id": e, "airmass": airmass, "night": 1, "zeropoint_true": z})
            mag = star - z + rng.normal(size=12) * 0.008
            rows.append(pl.DataFrame({"star_id": np.arange(12) + 100 * f, "exposure_id": [e] * 12, "mag": mag,
                                      "mag_err": [0.008] * 12}))  # fmt: skip
        reference.append(pl.DataFrame({"star_id": np.arange(9) + 100 * f, "mag": star[:9] + rng.normal(size=9) * 0.03,
                                       "mag_err": [0.015] * 9}))  # fmt: skip
    return pl.concat(rows), pl.DataFrame(exposures), pl.concat(reference)


@pytest.mark.parametrize("clouded", [(), (5,)])
def test_extinction_of_fields_that_only_references_tie(clouded):
    frame, exposures, reference = night(clouded=clouded)
    config = Config(method="robust", score=False, extinction="on")
    solution = calibrate(frame, exposures.drop("zeropoint_true"), reference, config)
    k = solution.frames["terms"].filter(pl.col("name") == "extinction")
    assert abs(k["value"].item() - 0.15) < 2.5 * k["err"].item()
    assert k["err"].item() < 0.02
    z = zeropoints(solution, "exposure_id")
    assert z.height == 20
    assert z["component"].n_unique() == 1
    pull = (z["zeropoint"] - exposures["zeropoint_true"]) / z["zeropoint_err"]
    assert (pull**2).mean() ** 0.5 < 2.0
    assert solution.measurement_frame().height == frame.height
    assert solution.frames["stars"]["n_used"].to_list() == [2] * 120
    component = solution.diagnostics["components"][0]
    assert component["n_exposures"] == 20
    # the catalogue's errors are too small by half, and that is found
    assert 0.012 < component["reference_scatter_mag"] < 0.04


def test_extinction_that_drifts_through_the_night_is_followed():
    spec = SurveySpec(layout="islands", n_exposures=90, stars_per_exposure=60, nights=6, visits=3, cloudy_nights=0.0)
    made = simulate(spec, 46)
    exposures = made.exposures.with_columns(
        hours=24 * (pl.col("mjd") - pl.col("mjd").mean().over("night")),
        drift=0.008 * (pl.col("night").rank("dense") % 3 - 1.0),
    ).with_columns(lost=pl.col("drift") * pl.col("hours") * pl.col("airmass"))
    own = made.measurements.join(exposures.select("exposure_id", "lost"), on="exposure_id", maintain_order="left")
    table = made.measurements.with_columns(mag=pl.col("mag") + own["lost"])
    given = exposures.drop("hours", "drift", "lost")
    truth = made.truth_exposures.join(exposures.select("exposure_id", "lost"), on="exposure_id").sort("exposure_id")

    def error(exposures):
        solution = calibrate(table, exposures=exposures, config=ROBUST)
        z = zeropoints(solution, "exposure_id")
        gap = z.with_columns(gap=pl.col("zeropoint") - (truth["zeropoint"] - truth["lost"]))
        gap = gap.with_columns(pl.col("gap") - pl.col("gap").mean().over("component"))
        return solution, gap["gap"].to_numpy(), gap["zeropoint_err"].to_numpy()

    solution, gap, err = error(given)
    assert np.sqrt(np.mean((gap / err) ** 2)) < 1.3
    _, without, _ = error(given.drop("mjd"))  # nights, without times
    assert np.std(gap) < 0.8 * np.std(without)
    found = solution.frames["terms"].filter(pl.col("name") == "extinction_drift").sort("night")
    true = exposures.group_by("night").agg(pl.col("drift").first()).sort("night")
    pull = (found["value"] - true["drift"]).to_numpy() / found["err"].to_numpy()
    assert np.abs(pull).max() < 3.0
    assert found["err"].to_numpy().max() < 0.004


def test_two_bands_in_one_run_equal_two_runs():
    frame = survey(14, bands=("g", "r"))
    config = Config(method="wls", score=False)
    together = zeropoints(solve(frame, config))
    for band in ("g", "r"):
        alone = zeropoints(solve(frame.filter(pl.col("band") == band), config))
        part = together.filter(pl.col("band") == band)
        np.testing.assert_allclose(part["zeropoint"], alone["zeropoint"], atol=1e-10)
    assert together.group_by("band").agg(pl.col("component").n_unique())["component"].to_list() == [1, 1]


def test_two_bands_share_only_what_the_noise_has_in_common():
    frame = survey(15, bands=("g", "r"))
    together = zeropoints(solve(frame))
    for band in ("g", "r"):
        alone = zeropoints(solve(frame.filter(pl.col("band") == band)))
        part = together.filter(pl.col("band") == band)
        gap = (part["zeropoint"] - alone["zeropoint"]) / alone["zeropoint_err"]
        assert gap.abs().max() < 0.5


def test_exposure_by_detector():
    frame = survey(16, n_stars=120, share=0.8)
    split = frame.with_columns(detector=pl.col("star_id") % 3 // 2 + (pl.col("exposure_id") + pl.col("star_id")) % 2)
    offset = 0.05 * (pl.col("detector") == 1)
    config = Config(method="robust", score=False, zeropoint_per="detector")
    plain = zeropoints(solve(split, config), "exposure_id", "detector")
    moved = zeropoints(solve(split.with_columns(mag=pl.col("mag") + offset), config), "exposure_id", "detector")
    assert plain.height == split.select("exposure_id", "detector").unique().height
    change = (moved["zeropoint"] - plain["zeropoint"]).to_numpy()
    step = -0.05 * (plain["detector"] == 1).to_numpy()
    np.testing.assert_allclose(change, step - step.mean(), rtol=0, atol=1e-6)


def test_detectors_with_zeropoints_of_their_own_have_levels_of_their_own():
    spec = SurveySpec(layout="mosaic", n_exposures=48, stars_per_exposure=240, ccds=(2, 2), nights=4, cloudy_nights=0.0)
    made = simulate(spec, 61)
    plain = made.measurements
    detector = pl.col("detector").cast(pl.String).rank("dense") - 1.0
    moved = plain.with_columns(mag=pl.col("mag") + 0.1 * detector)
    config = Config(method="robust", score=False, zeropoint_per="detector")
    solved = [calibrate(f, exposures=made.exposures, config=config) for f in (plain, moved)]
    before, after = (s.frames["zeropoints"].sort("exposure_id", "detector") for s in solved)
    step = -0.1 * before.select(detector).to_series().to_numpy()
    change = (after["zeropoint"] - before["zeropoint"]).to_numpy()
    np.testing.assert_allclose(change, step - step.mean(), rtol=0, atol=1e-4)
    np.testing.assert_allclose(after["zeropoint_err"], before["zeropoint_err"], rtol=0.02)
    extinction = solved[1].frames["terms"].filter(pl.col("name") == "extinction")
    assert set(extinction["detector"]) == set(after["detector"].cast(pl.String))


def test_the_gauge_changes_nothing_measurable():
    frame = survey(17)
    reference = reference_of(frame)
    free, tied = solve(frame), solve(frame, reference=reference)
    a, b = (s.measurement_frame() for s in (free, tied))
    np.testing.assert_allclose(a["residual"], b["residual"], atol=1e-6)
    np.testing.assert_allclose(a["weight"], b["weight"], rtol=1e-6)
    gap = (b["calibrated_mag"] - a["calibrated_mag"]).to_numpy()
    assert np.ptp(gap) < 1e-9
    assert abs(zeropoints(free)["zeropoint"].mean()) < 1e-9


def test_flagged_rows_are_calibrated_and_not_used():
    frame = survey(18)
    flagged = pl.Series(np.arange(frame.height) % 9 == 0)
    spoilt = frame.with_columns(flag=flagged, mag=pl.col("mag") + 2.0 * flagged)
    solution, clean = solve(spoilt), solve(frame.filter(~flagged))
    np.testing.assert_allclose(values(solution), values(clean), rtol=1e-6, atol=1e-8)
    rows = solution.measurement_frame()
    assert (rows["used"] == ~flagged).all()
    assert rows["calibrated_mag"].is_finite().all()
    assert (rows.filter(flagged)["weight"] == 0).all()
    assert solution.diagnostics["counts"]["flagged"] == flagged.sum()


def test_unusable_rows_are_counted_and_kept():
    frame = survey(19)
    mag, err = frame["mag"].to_numpy().copy(), frame["mag_err"].to_numpy().copy()
    mag[[5, 6]] = np.nan, np.inf
    err[[8, 9, 10]] = 0.0, -1.0, np.inf
    bad = frame.with_columns(mag=pl.Series(mag), mag_err=pl.Series(err))
    solution = solve(bad)
    counts = solution.diagnostics["counts"]
    assert (counts["non_finite_mag"], counts["nonpositive_error"], counts["non_finite_error"]) == (2, 2, 1)
    assert counts["usable"] == frame.height - 5
    rows = solution.measurement_frame()
    assert rows.height == frame.height
    assert rows["used"].sum() == frame.height - 5
    kept = pl.Series(~np.isin(np.arange(frame.height), [5, 6, 8, 9, 10]))
    np.testing.assert_allclose(values(solution), values(solve(frame.filter(kept))), rtol=1e-6, atol=1e-8)


DEGENERATE = {
    "one exposure": [(s, 0) for s in range(8)],
    "one star": [(0, e) for e in range(8)],
    "one measurement": [(0, 0)],
    "stars seen once": [(s, s % 3) for s in range(9)],
    "two exposures": [(s, e) for s in range(6) for e in range(2)],
    "two exposures, one star": [(0, 0), (0, 1)],
    "one star again and again in one exposure": [(0, 0)] * 5,
    "two islands of two": [(s, e + 2 * (s % 2)) for s in range(8) for e in range(2)],
}


@pytest.mark.parametrize("method", ["auto", *METHODS])
@pytest.mark.parametrize("name", sorted(DEGENERATE))
def test_degenerate_surveys_answer(name, method):
    rng = np.random.default_rng(30)
    star, exposure = np.array(DEGENERATE[name]).T
    mag = 17.0 + star + 0.01 * rng.normal(size=star.size)
    frame = pl.DataFrame({"star_id": star, "exposure_id": exposure, "mag": mag, "mag_err": np.full(star.size, 0.01)})
    solution = calibrate(frame, config=Config(method=method))
    z = solution.frames["zeropoints"]
    assert z.height == np.unique(exposure).size
    solved = z.filter(pl.col("zeropoint").is_finite())
    assert (solved["zeropoint_err"] > 0).all()
    assert (z.filter(~pl.col("zeropoint").is_finite())["flag"] == "isolated").all()
    assert (solved.height > 0) == (
        name in {"one star", "two exposures", "two exposures, one star", "two islands of two"}
    )
    assert solution.measurement_frame().height == frame.height


def test_nothing_usable_is_refused_in_one_line():
    frame = pl.DataFrame({"star_id": [1, 2], "exposure_id": [1, 1], "mag": [np.nan, 17.0], "mag_err": [0.01, 0.0]})
    with pytest.raises(InputError, match="none of 2 rows can be used") as refusal:
        calibrate(frame)
    assert "\n" not in str(refusal.value)
