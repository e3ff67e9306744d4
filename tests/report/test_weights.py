"""The figure of weights over those of the reported errors says what was put in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from calib.report import residuals, style


@dataclass
class Material:
    """What the figure looks at."""

    sample: pl.DataFrame
    every: int = 1


def material(ratio: Any, error: float = 0.01) -> Any:
    ratio = np.asarray(ratio, float)
    return Material(pl.DataFrame({"reported_err": np.full(ratio.size, error), "weight": ratio / error**2}))


def picture(ratio: Any, error: float = 0.01) -> Any:
    with style.theme():
        return residuals.weight_ratios(material(ratio, error))


def test_median_and_spread_are_told() -> None:
    rng = np.random.default_rng(1)
    spread = 10.0 ** rng.uniform(-1.0, 1.0, 4000)
    said = picture(0.25 * spread).caption
    assert "The median weight is 0.25 of that" in said or "The median weight is 0.24 of that" in said
    assert "over a factor of 23" in said or "over a factor of 22" in said  # 10^(0.68 x 2)


def test_a_common_factor_on_errors_and_weights_changes_nothing() -> None:
    ratio = 10.0 ** np.random.default_rng(2).normal(0, 0.3, 1000)
    assert picture(ratio, 0.01).caption == picture(ratio, 0.5).caption


def test_weights_all_as_reported_are_drawn() -> None:
    assert "The median weight is 1 of that" in picture(np.ones(500)).caption


def test_few_are_not_drawn() -> None:
    assert picture(np.ones(20)) is None
    assert residuals.weight_ratios(Material(pl.DataFrame({"weight": [1.0]}))) is None  # type: ignore[arg-type]
