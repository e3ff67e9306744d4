"""A small solved survey with every term: surfaces, responses to seeing, nights."""

import numpy as np
import pytest
import torch

from calib.config import Config
from calib.learn.groups import solved_apart
from calib.learn.network import Network
from calib.learn.samples import Sample, Truth
from calib.model.problem import Problem
from calib.simulate import SurveySpec, simulate
from calib.solve.methods import stated
from calib.solve.select import robust_fit
from calib.tables import read_measurements

SPEC = SurveySpec(
    n_exposures=36, stars_per_exposure=50, nights=5, visits=6, cloudy_nights=0.5, blend_fraction=0.4, fov_deg=0.8
)


CLOUDY = SurveySpec(n_exposures=60, stars_per_exposure=60, nights=6, visits=6, cloudy_nights=0.6, fov_deg=0.8)


def solved(survey, **config):
    config = Config(method="robust", score=False, **config)
    problem = Problem.of(read_measurements(survey.measurements, exposures=survey.exposures), config)
    fit, _ = robust_fit(problem, config)
    return problem, fit


@pytest.fixture(scope="session")
def as_if_trained():
    """Makes networks of a seed whose heads say something."""

    def made(seed):
        torch.manual_seed(seed)
        out = Network().eval()
        for head in out.heads:
            torch.nn.init.normal_(head[-1].weight, std=0.3)
        return out

    return made


@pytest.fixture(scope="session")
def sample():
    survey = simulate(SPEC, 77)
    problem, fit = solved(survey, surface="plane", seeing_response="on", extinction="on")
    return Sample(77, problem, fit, Truth.of(problem, survey))


@pytest.fixture(scope="session")
def bare():
    """The four needed columns alone."""
    survey = simulate(SPEC, 78)
    four = survey.measurements.select("star_id", "exposure_id", "mag", "mag_err")
    config = Config(method="robust", score=False)
    problem = Problem.of(read_measurements(four), config)
    return problem, robust_fit(problem, config)[0]


@pytest.fixture(scope="session")
def cloudy_survey():
    return simulate(CLOUDY, 79)


@pytest.fixture(scope="session")
def cloudy(cloudy_survey):
    """A cloudy survey, its robust fit and those of its quarters, its truth and its configuration."""
    made = cloudy_survey
    config = Config(method="robust", score=False, surface="plane", seeing_response="off", extinction="on")
    problem = Problem.of(read_measurements(made.measurements, exposures=made.exposures), config)
    fit, _ = robust_fit(problem, config)
    truth = problem.nodes.select("exposure_id").join(
        made.truth_exposures.select("exposure_id", "zeropoint"), on="exposure_id", how="left", maintain_order="left"
    )
    parts = list(solved_apart(problem, fit, 4, config))
    return problem, fit, parts, truth["zeropoint"].to_numpy(), config


@pytest.fixture(scope="session")
def robust(sample):
    return stated(sample.fit, [], sample.problem.err, 1)


@pytest.fixture
def rng():
    return np.random.default_rng(5)
