"""Surveys with a known truth and the troubles of real ones."""

from typing import Any

__all__ = [
    "LAYOUTS",
    "PRESETS",
    "Simulation",
    "SpecError",
    "Survey",
    "SurveySpec",
    "simulate",
    "simulate_to_folder",
    "write_survey",
]

_HOMES = {"PRESETS": "presets", "LAYOUTS": "spec", "SpecError": "spec", "SurveySpec": "spec"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'calib.simulate' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"calib.simulate.{_HOMES.get(name, 'survey')}"), name)


def __dir__() -> list[str]:
    return __all__
