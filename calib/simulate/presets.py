"""Named surveys: ten pairs of layout and trouble on which accuracy is measured, and a small one for demonstration."""

from __future__ import annotations

from calib.simulate.spec import SurveySpec

PRESETS: dict[str, SurveySpec] = {
    "ordinary": SurveySpec(rotator="flip"),
    "clean": SurveySpec(
        cloudy_nights=0.1, cloud=0.05, error_scale=(1.0, 1.1), error_scale_scatter=0.03, floor=0.002,
        excess_noise=0.001, bad_exposures=0.01, bad_noise=0.01, blend_fraction=0.04, edge=0.0015, flat=0.001,
        flat_night=0.0004, color_term=0.002, variable_fraction=0.015, outlier_fraction=0.001, trail_fraction=0.01,
        bad_columns=0, misidentified=0.0001, poor_exposures=0.0, nonlinearity=0.005, aperture_loss=0.005,
        zero_jitter=0.0005,
    ),
    "cloudy": SurveySpec(cloudy_nights=0.8, cloud=0.3, cloud_structure=0.10, visits=6, rotator="random"),
    "dirty": SurveySpec(
        outlier_fraction=0.06, trail_fraction=0.3, bad_columns=8, misidentified=0.006, blend_fraction=0.45,
        variable_fraction=0.10, edge=0.02, flat=0.010, flat_night=0.004, bad_exposures=0.15, bad_noise=0.04,
        nonlinearity=0.05, poor_exposures=0.05, error_scale_scatter=0.25, flag_saturated=True, rotator="flip",
    ),
    "understated": SurveySpec(error_scale=(2.0, 4.0), error_scale_scatter=0.25, floor=0.008, rotator="random"),
    "islands": SurveySpec(layout="islands", n_exposures=300, visits=5),
    "deep": SurveySpec(
        layout="deep", n_exposures=160, stars_per_exposure=300.0, nights=16, seeing_scatter=0.28, blend_fraction=0.25
    ),
    "strip": SurveySpec(layout="strip", n_exposures=200, visits=4, dither=0.15, nights=16, rotator="flip"),
    "sparse": SurveySpec(layout="sparse", n_exposures=400, stars_per_exposure=35.0, visits=3, overlap=0.25, nights=25),
    "ccds": SurveySpec(
        ccds=(4, 4), bands=("g", "r"), visits=8, fov_deg=1.5, stars_per_exposure=320.0, rotator="random",
        ccd_offset=0.006, color_term=0.015, flat=0.005, nights=24,
    ),
    "demo": SurveySpec(
        n_exposures=128, stars_per_exposure=240.0, bands=("g", "r"), visits=8, nights=10, cloudy_nights=0.4,
        error_scale=(1.6, 2.0), rotator="flip",
    ),
}  # fmt: skip
"""Surveys by name."""
