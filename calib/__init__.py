"""Relative photometric calibration on the graph of repeated star measurements."""

from typing import Any

from calib.version import __version__

__all__ = ["Config", "Solution", "__version__", "calibrate"]

_HOMES = {"Config": "calib.config", "Solution": "calib.solution", "calibrate": "calib.pipeline"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'calib' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
