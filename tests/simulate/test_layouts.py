"""Each layout hangs together as its name says."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.sparse.csgraph import connected_components

from calib.simulate import PRESETS, Simulation, SpecError, Survey, SurveySpec, simulate


def components(survey: Survey) -> np.ndarray:
    """Return the component of each exposure, over links by stars of the same band; misidentified ones left out."""
    rows = survey.measurements.filter(~survey.truth_measurements["outlier"])
    exposures = survey.truth_exposures["exposure_id"].to_numpy()
    e = np.searchsorted(exposures, rows["exposure_id"].to_numpy())
    s = (rows["star_id"].cast(str) + rows["band"]).rank("dense").to_numpy().astype(int) - 1
    n = len(exposures)
    links = sp.coo_matrix((np.ones(len(s)), (e, n + s)), shape=(n + s.max() + 1,) * 2)
    return np.asarray(connected_components(links, directed=False)[1][:n])


@pytest.mark.parametrize("preset", ["ordinary", "clean", "deep", "strip", "ccds"])
def test_connected_layouts_are_one_component_a_band(preset: str) -> None:
    survey = simulate(PRESETS[preset], 11)
    label = components(survey)
    for band in PRESETS[preset].bands:
        inside = label[(survey.truth_exposures["band"] == band).to_numpy()]
        # an exposure of few stars may hang on to nothing
        assert np.bincount(inside).max() > 0.97 * len(inside)


def test_islands_fall_apart_but_for_the_bridges() -> None:
    spec = replace(PRESETS["islands"], poor_exposures=0.0)
    survey = simulate(spec, 11)
    label, group = components(survey), survey.truth_exposures["group"].to_numpy()
    of_island = [np.unique(label[group == g]) for g in range(spec.n_islands)]
    assert all(len(found) == 1 for found in of_island)
    assert len(np.unique(label)) == spec.n_islands - spec.n_bridges
    assert of_island[0] == of_island[1] == of_island[2]
    without = survey.measurements.filter(
        survey.measurements["exposure_id"].is_in(survey.truth_exposures["exposure_id"].filter(group >= 0).implode())
    )
    truth = survey.truth_measurements.filter(
        survey.measurements["exposure_id"].is_in(survey.truth_exposures["exposure_id"].filter(group >= 0).implode())
    )
    label = components(replace(survey, measurements=without, truth_measurements=truth))
    assert len(np.unique(label[group >= 0])) == spec.n_islands


def test_sparse_has_few_stars_and_few_visits() -> None:
    survey = simulate(PRESETS["sparse"], 11)
    assert survey.measurements.group_by("exposure_id").len()["len"].median() < 50
    assert survey.measurements.group_by("star_id").len()["len"].median() <= 6


def test_deep_overlaps_everywhere_and_strip_is_long() -> None:
    deep = Simulation(PRESETS["deep"], 1).pointings
    assert np.ptp(deep.dec) < 1.6
    strip = Simulation(PRESETS["strip"], 1).pointings
    assert np.ptp(strip.dec) < 1.5
    assert np.ptp(np.unwrap(np.radians(strip.ra))) > np.radians(35)


def test_all_exposures_are_there_in_order_of_time() -> None:
    for n in (2, 17, 300):
        simulation = Simulation(SurveySpec(n_exposures=n, nights=2), 0)
        assert len(simulation.conditions.mjd) == n
        assert (np.diff(simulation.conditions.mjd) > 0).all()
        assert (np.diff(simulation.conditions.exposure_id) > 0).all()


def test_too_wide_a_survey_is_refused() -> None:
    with pytest.raises(SpecError, match="visits"):
        Simulation(SurveySpec(n_exposures=100_000, visits=1, fov_deg=3.0), 0)
