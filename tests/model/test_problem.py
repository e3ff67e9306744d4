"""From checked tables to numbered stars and nodes."""

import numpy as np
import polars as pl
import pytest

from calib.config import Config
from calib.model.problem import SEEING_POWER, Problem, standardised
from calib.tables.measurements import read_measurements


def table(seed=0, n=400, bands=("g", "r"), detectors=0, places=False, sky=False):
    rng = np.random.default_rng(seed)
    columns = {
        "star_id": rng.integers(1000, 1040, n),
        "exposure_id": [f"e{k:02d}" for k in rng.integers(0, 12, n)],
        "band": rng.choice(bands, n),
        "mag": rng.uniform(14, 20, n),
        "mag_err": rng.uniform(0.01, 0.1, n),
    }
    if detectors:
        columns["detector"] = rng.integers(0, detectors, n)
    if places or detectors:
        columns |= {"x": rng.uniform(0, 2000, n), "y": rng.uniform(0, 4000, n)}
    if sky:
        columns |= {"ra": rng.uniform(10, 11, n), "dec": rng.uniform(-1, 0, n)}
    return pl.DataFrame(columns)


def problem_of(frame, exposures=None, **config):
    return Problem.of(read_measurements(frame, exposures=exposures), Config(**config))


def test_codes_name_what_the_rows_name():
    frame = table()
    p = problem_of(frame)
    for code, names, columns in (
        (p.star_code, p.stars, ("star_id", "band")),
        (p.node_code, p.nodes, ("exposure_id", "band")),
    ):
        assert names.select(columns).is_duplicated().sum() == 0
        for c in columns:
            assert names[c].cast(pl.String)[code].to_list() == frame[c].cast(pl.String).to_list()
    assert [p.bands[b] for b in p.band] == p.nodes["band"].cast(pl.String).to_list()
    assert p.stars.height == frame.n_unique(["star_id", "band"])


def test_sorted_arrays_are_the_inputs_rows():
    frame = table(1)
    p = problem_of(frame)
    row = p.input_row
    np.testing.assert_array_equal(np.sort(row), np.arange(frame.height))
    np.testing.assert_array_equal(p.m, frame["mag"].to_numpy()[row])
    np.testing.assert_array_equal(p.err, frame["mag_err"].to_numpy()[row].astype(np.float32))
    np.testing.assert_array_equal(p.graph.star(), p.star_code[row])
    np.testing.assert_array_equal(p.graph.exposure, p.node_code[row])
    assert (np.diff(p.graph.star()) >= 0).all()


def test_unusable_rows_are_left_out_and_still_numbered():
    frame = table(2)
    bad = np.arange(frame.height) % 7 == 0
    frame = frame.with_columns(mag=pl.when(pl.Series(bad)).then(None).otherwise(pl.col("mag")))
    p = problem_of(frame)
    assert p.m.size == (~bad).sum()
    np.testing.assert_array_equal(np.sort(p.input_row), np.flatnonzero(~bad))
    np.testing.assert_array_equal(p.m, frame["mag"].to_numpy()[p.input_row])
    np.testing.assert_array_equal(p.graph.star(), p.star_code[p.input_row])
    assert p.star_code.size == frame.height
    assert p.nodes["exposure_id"][p.node_code].to_list() == frame["exposure_id"].to_list()


def test_a_table_without_band():
    frame = table(3).drop("band")
    p = problem_of(frame)
    assert p.bands == [""]
    assert p.stars.height == frame["star_id"].n_unique()
    assert (p.band == 0).all()


@pytest.mark.parametrize("names", ["numbers", "text"])
def test_nodes_of_detectors(names):
    frame = table(4, detectors=3)
    if names == "text":
        frame = frame.with_columns(detector=pl.format("ccd{}", "detector"))
    p = problem_of(frame, zeropoint_per="detector")
    columns = ["exposure_id", "band", "detector"]
    assert p.nodes.height == frame.n_unique(columns)
    for c in columns:
        assert p.nodes[c].cast(pl.String)[p.node_code].to_list() == frame[c].cast(pl.String).to_list()
    assert len(p.field.low) == 3
    channels = p.channels
    named = [(p.bands[b], name) for b, name in zip(channels.band, channels.detector, strict=True)]
    assert [named[c] for c in channels.of_node] == p.nodes.select("band", pl.col("detector").cast(pl.String)).rows()
    whole = problem_of(frame)
    np.testing.assert_array_equal(whole.channels.of_node, whole.band)
    assert set(whole.channels.detector) == {""}
    assert "detector" not in whole.nodes.columns
    assert whole.nodes.height == frame.n_unique(columns[:2])


def test_places_are_pixels_on_one_detector_and_sky_on_several():
    frame = table(5, places=True)
    p = problem_of(frame)
    assert p.field.kind == "detector"
    x = frame["x"].to_numpy()[p.input_row]
    np.testing.assert_allclose(p.xy[:, 0], (x - 1000) / 1000, atol=0.03)
    several = table(5, detectors=2, sky=True)
    assert problem_of(several).field.kind == "sky"
    assert problem_of(table(5)).field is None
    assert problem_of(table(5)).xy is None
    np.testing.assert_array_equal(problem_of(table(5)).centre, np.zeros(6))


def exposures(seed=0):
    rng = np.random.default_rng(seed)
    return pl.DataFrame(
        {
            "exposure_id": [f"e{k:02d}" for k in range(12)],
            "mjd": 60000.2 + np.arange(12) // 4,
            "night": 60000 + np.arange(12) // 4,
            "airmass": rng.uniform(1, 2, 12),
            "seeing": rng.uniform(0.7, 2.0, 12),
        }
    )


def test_conditions_stand_beside_their_nodes():
    given = exposures()
    p = problem_of(table(6), given)
    at = [given["exposure_id"].to_list().index(e) for e in p.nodes["exposure_id"]]
    np.testing.assert_allclose(p.airmass, given["airmass"].to_numpy()[at])
    np.testing.assert_array_equal(p.night, given["night"].to_numpy()[at])
    seeing = given["seeing"].to_numpy()[at]
    np.testing.assert_allclose(p.log_seeing, np.log(seeing / np.median(seeing)))
    assert p.response.mean() == pytest.approx(0, abs=1e-9)
    assert p.response.std() == pytest.approx(1)
    assert np.corrcoef(p.response, seeing**SEEING_POWER)[0, 1] == pytest.approx(1)


def test_missing_conditions():
    p = problem_of(table(7))
    assert p.night is None
    assert p.airmass is None
    assert p.response is None
    assert p.seeing_scale is None
    assert (p.log_seeing == 0).all()
    given = exposures().with_columns(
        seeing=pl.when(pl.col("exposure_id") == "e03").then(None).otherwise("seeing"),
        airmass=pl.when(pl.col("exposure_id") == "e04").then(None).otherwise("airmass"),
        night=pl.when(pl.col("exposure_id") == "e05").then(None).otherwise("night"),
    )
    p = problem_of(table(7), given.drop("mjd"))
    name = p.nodes["exposure_id"].to_numpy()
    assert (p.response[name == "e03"] == 0).all()
    assert (p.log_seeing[name == "e03"] == 0).all()
    assert np.isnan(p.airmass[name == "e04"]).all()
    assert (p.night[name == "e05"] == -1).all()


def test_seeing_that_does_not_vary_is_no_seeing():
    p = problem_of(table(8), exposures().with_columns(seeing=pl.lit(1.2)))
    assert p.response is None


def test_standardised_is_bounded_and_zero_where_unknown():
    values = standardised(np.array([1.0, np.nan, -1.0, 0.0, 100.0, 2.0]), (1.0, 1.5))
    np.testing.assert_allclose(values, [0, 0, 0, 0, 4, 2])


def test_text_and_numbers_number_alike():
    frame = table(9)
    a, b = problem_of(frame), problem_of(frame.with_columns(star_id=pl.format("s{}", "star_id")))
    np.testing.assert_array_equal(a.graph.star_ptr, b.graph.star_ptr)
    np.testing.assert_array_equal(a.graph.exposure, b.graph.exposure)


def test_without_a_catalogue_all_is_measured():
    p = problem_of(table(10))
    assert p.n_exposures == p.nodes.height == p.graph.n_exposures
    assert p.own == slice(None)
