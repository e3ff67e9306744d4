"""A small survey, and the same survey in every form a table can have."""

import numpy as np
import polars as pl
import pytest

BIG = 2**53 + 1


def survey(n_stars: int = 6, n_exposures: int = 4, seed: int = 1) -> pl.DataFrame:
    """Every star in every exposure; ids beyond 2^53."""
    rng = np.random.default_rng(seed)
    star, exposure = (a.ravel() for a in np.meshgrid(np.arange(n_stars), np.arange(n_exposures)))
    n = star.size
    return pl.DataFrame(
        {
            "star_id": star.astype(np.int64) + BIG,
            "exposure_id": exposure.astype(np.int64) + 7_000_000_000,
            "mag": np.round(rng.normal(20, 1, n), 6),
            "mag_err": np.round(rng.uniform(0.01, 0.05, n), 6),
        }
    )


@pytest.fixture
def table() -> pl.DataFrame:
    return survey()
