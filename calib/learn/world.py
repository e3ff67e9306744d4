"""The world that the network learns in: surveys of any layout, size and trouble, drawn afresh."""

from __future__ import annotations

import numpy as np

from calib.simulate.spec import LAYOUTS, SurveySpec

FIRST_SEED = 1_000_000
"""Surveys are simulated from this seed on: benchmarks and tests use small ones."""


def draw_spec(seed: int) -> SurveySpec:
    """Draw a survey; the same seed draws the same.

    Strengths of troubles are log-uniform about those of real surveys, each absent at times; a tenth of the surveys has
    nothing but the four columns that a solve needs, and others lack places, seeing or nights.
    """
    rng = np.random.default_rng([7, seed])

    def log(low: float, high: float) -> float:
        return float(np.exp(rng.uniform(np.log(low), np.log(high))))

    def some(low: float, high: float, absent: float = 0.15) -> float:
        value = log(low, high)
        return 0.0 if rng.random() < absent else value

    layout = LAYOUTS[int(rng.integers(len(LAYOUTS)))]
    n_exposures = int(log(40, 180))
    two = rng.random() < 0.25
    bands = ("g", "r") if two else (("g",), ("r",), ("i",), ("z",))[int(rng.integers(4))]
    low = log(0.8, 3.0)
    misleading = rng.random()
    drop: tuple[str, ...] = ()
    if misleading < 0.12:
        drop = ("x", "y", "ra", "dec", "color", "exposures")
    elif misleading < 0.2:
        drop = ("x", "y", "ra", "dec")
    elif misleading < 0.28:
        drop = ("seeing", "sky")
    elif misleading < 0.36:
        drop = ("night", "mjd", "airmass")
    cloudy = rng.random()
    return SurveySpec(
        layout=layout,
        n_exposures=n_exposures,
        stars_per_exposure=log(25, min(30_000 / n_exposures, 250)),
        bands=bands,
        ccds=(2, 2) if rng.random() < 0.15 else (1, 1),
        nights=int(np.clip(n_exposures / log(4, 25), 1, n_exposures)),
        visits=int(rng.integers(3, 9)) + 2 * two,
        fov_deg=log(0.4, 2.0),
        overlap=rng.uniform(0.05, 0.4),
        dither=rng.uniform(0.05, 0.35),
        rotator=("fixed", "flip", "random")[int(rng.integers(3))],
        n_islands=4,
        n_bridges=int(rng.integers(1, 4)),
        cloudy_nights=0.0 if cloudy < 0.1 else float(rng.uniform(0.1, 1.0)),
        cloud=log(0.03, 0.5),
        cloud_structure=some(0.02, 0.2),
        cloud_minutes=log(10, 90),
        extinction_scatter=log(0.03, 0.3),
        zero_drift=log(0.002, 0.03),
        zero_jitter=log(0.0003, 0.006),
        seeing=log(0.7, 2.2),
        seeing_scatter=log(0.1, 0.35),
        aperture_loss=some(0.003, 0.06),
        error_scale=(low, low * log(1.0, 1.8)),
        error_scale_scatter=log(0.02, 0.4),
        floor=some(0.001, 0.012),
        excess_noise=some(0.0005, 0.01),
        bad_exposures=some(0.01, 0.25),
        bad_noise=log(0.008, 0.08),
        blend_fraction=some(0.03, 0.6),
        edge=some(0.001, 0.025),
        flat=some(0.0007, 0.012),
        flat_night=some(0.0003, 0.005),
        ccd_offset=log(0.001, 0.01),
        color_term=log(0.001, 0.02),
        variable_fraction=some(0.01, 0.15),
        outlier_fraction=some(0.001, 0.1),
        trail_fraction=some(0.01, 0.4),
        bad_columns=int(rng.integers(0, 10)),
        misidentified=some(0.0001, 0.01),
        poor_exposures=some(0.01, 0.12),
        nonlinearity=some(0.003, 0.06),
        flag_saturated=bool(rng.random() < 0.4),
        density_contrast=log(0.05, 0.8),
        drop=drop,
    )
