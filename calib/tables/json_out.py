"""JSON that any reader takes: null where there is no number."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


def to_json(value: Any) -> str:
    """Return a value as JSON; NaN and infinity, which JSON does not know, are null.

    Parameters
    ----------
    value
        Of mappings, lists, numpy's scalars and arrays, paths, and what JSON knows.

    Raises
    ------
    TypeError
        It holds anything else.
    """
    return json.dumps(_plain(value), indent=1, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, Path):
        return str(value)
    return value
