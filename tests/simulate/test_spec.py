"""A spec that cannot be made says which field, its value and what is possible."""

from dataclasses import replace
from typing import Any

import pytest

from calib.simulate import PRESETS, SpecError, SurveySpec


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"layout": "spiral"}, "layout"),
        ({"n_exposures": 1}, "n_exposures"),
        ({"n_exposures": 2.5}, "n_exposures"),
        ({"nights": 1000}, "nights"),
        ({"stars_per_exposure": 0.0}, "stars_per_exposure"),
        ({"n_stars": 0}, "n_stars"),
        ({"bands": ()}, "bands"),
        ({"bands": ("r", "r")}, "bands"),
        ({"bands": ("g", "r", "i"), "visits": 2}, "visits"),
        ({"ccds": (0, 2)}, "ccds"),
        ({"rotator": "wild"}, "rotator"),
        ({"error_scale": (2.0, 1.0)}, "error_scale"),
        ({"outlier_fraction": 1.5}, "outlier_fraction"),
        ({"floor": -0.01}, "floor"),
        ({"cloud": float("nan")}, "cloud"),
        ({"mag_bright": 22.0}, "mag_bright"),
        ({"n_bridges": 6}, "n_bridges"),
        ({"fov_deg": 20.0}, "fov_deg"),
        ({"drop": ("mag",)}, "mag"),
    ],
)
def test_impossible_specs_are_named(change: dict[str, Any], named: str) -> None:
    with pytest.raises(SpecError, match=named):
        replace(SurveySpec(), **change)


def test_ten_presets_and_a_demo() -> None:
    assert len(PRESETS) == 11
    assert {spec.layout for spec in PRESETS.values()} == {"mosaic", "deep", "strip", "islands", "sparse"}
