"""JSON that every reader takes."""

import json
from pathlib import Path

import numpy as np
import pytest

from calib.tables.json_out import to_json


def test_what_is_no_number_is_null():
    value = {
        "nan": float("nan"),
        "numpy": np.float32("inf"),
        "array": np.array([[1.5, -np.inf]]),
        "deep": [{"a": (np.nan, 2)}],
        "rest": [None, True, np.int64(2**60), "NaN", Path("a/b"), np.bool_(False)],
    }
    said = json.loads(to_json(value), parse_constant=pytest.fail)
    assert said == {
        "nan": None,
        "numpy": None,
        "array": [[1.5, None]],
        "deep": [{"a": [None, 2]}],
        "rest": [None, True, 2**60, "NaN", "a/b", False],
    }


def test_numbers_come_back_as_they_were():
    value = [0.1, 1e-300, np.pi, np.float64(2) / 3]
    assert json.loads(to_json(value)) == value


def test_what_json_does_not_know_is_refused():
    with pytest.raises(TypeError):
        to_json({"a": object()})
