"""Reading any table of measurements; writing solutions.

The edge of the package: the only room that knows astropy units, masks, nulls, byte order, file formats and atomic
writing. astropy and pyarrow are imported when a table is read or written, not before.
"""

from typing import Any

_HOMES = {
    "COLUMNS": "calib.tables.schema",
    "InputError": "calib.tables.errors",
    "MeasurementWriter": "calib.tables.write",
    "Measurements": "calib.tables.measurements",
    "UNUSED_REASONS": "calib.tables.reasons",
    "iter_measurements": "calib.tables.measurements",
    "read_any": "calib.tables.solution_tables",
    "read_exposures": "calib.tables.exposures",
    "read_measurements": "calib.tables.measurements",
    "read_reference": "calib.tables.reference",
    "read_solution_tables": "calib.tables.solution_tables",
    "stage_folder": "calib.tables.stage",
    "to_qtable": "calib.tables.astropy_out",
    "write_table": "calib.tables.write",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'calib.tables' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
