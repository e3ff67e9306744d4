"""The real data sets as benchmarks/realsets.py reads them; tests are skipped where they are absent."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import realsets


def _read(name):
    try:
        return getattr(realsets, name)()
    except FileNotFoundError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def hst():
    return _read("hst")


@pytest.fixture(scope="session")
def photrix():
    return _read("photrix")


@pytest.fixture(scope="session")
def hsc():
    return _read("hsc")


@pytest.fixture(scope="session")
def m3():
    return _read("m3")
