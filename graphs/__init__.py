"""Stars, exposures and the links between them: the graph on which relative photometric calibration stands.

Codes in, compressed sparse structure out; no magnitudes, no files, no learning. Names are imported when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graphs.cuts import StarCut, WeakLinks
    from graphs.errors import GraphError
    from graphs.exposures import ExposureGraph
    from graphs.measurements import MeasurementGraph
    from graphs.modes import WeakModes
    from graphs.planning import LinkGain

_HOME = {
    "ExposureGraph": "graphs.exposures",
    "GraphError": "graphs.errors",
    "LinkGain": "graphs.planning",
    "MeasurementGraph": "graphs.measurements",
    "StarCut": "graphs.cuts",
    "WeakLinks": "graphs.cuts",
    "WeakModes": "graphs.modes",
}

__all__ = [
    "ExposureGraph",
    "GraphError",
    "LinkGain",
    "MeasurementGraph",
    "StarCut",
    "WeakLinks",
    "WeakModes",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'graphs' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
