"""A small solution folder written by hand: no solve, so that each part can be taken away."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

N_EXPOSURES, N_STARS = 24, 60


def frames(seed: int = 3, bands: tuple[str, ...] = ("g", "r")) -> dict[str, pl.DataFrame]:
    rng = np.random.default_rng(seed)
    exposure = np.arange(N_EXPOSURES)
    band = np.array(bands)[exposure % len(bands)]
    component = (exposure % len(bands)).astype(np.int64)
    mjd = 60000.1 + (exposure // 8) + 0.01 * (exposure % 8)
    zeropoints = pl.DataFrame(
        {
            "exposure_id": exposure.astype(np.int64),
            "band": band,
            "component": component,
            "anchored": np.zeros(N_EXPOSURES, bool),
            "n_stars": np.full(N_EXPOSURES, N_STARS),
            "n_measurements": np.full(N_EXPOSURES, N_STARS),
            "zeropoint": rng.normal(0, 0.05, N_EXPOSURES),
            "zeropoint_err": rng.uniform(1e-3, 3e-3, N_EXPOSURES),
            "mjd": mjd,
            "ra": 10.0 + 0.3 * (exposure % 6),
            "dec": -5.0 + 0.3 * (exposure // 6),
            "excess_noise": rng.uniform(0, 2e-3, N_EXPOSURES),
            "error_scale": rng.uniform(1, 2, N_EXPOSURES),
            "surface_x": rng.normal(0.002, 0.001, N_EXPOSURES),
            "surface_y": rng.normal(0, 0.001, N_EXPOSURES),
            "limiting_mag": np.full(N_EXPOSURES, 21.0),
            "quality": np.full(N_EXPOSURES, 0.9),
            "flag": ["uncertain" if e == 5 else "" for e in exposure],
        }
    )
    star = np.arange(N_STARS)
    mag = rng.uniform(14, 20, N_STARS)
    stars = pl.concat(
        pl.DataFrame(
            {
                "star_id": star.astype(np.int64),
                "band": [b] * N_STARS,
                "component": np.full(N_STARS, i, np.int64),
                "mag": mag,
                "mag_err": np.full(N_STARS, 0.003),
                "n_measurements": np.full(N_STARS, N_EXPOSURES // len(bands)),
                "n_used": np.full(N_STARS, N_EXPOSURES // len(bands)),
                "chi2_dof": rng.chisquare(8, N_STARS) / 8,
                "variability_probability": np.where(star == 7, 0.99, 0.01),
                "ra": 10.0 + rng.uniform(0, 2, N_STARS),
                "dec": -5.0 + rng.uniform(0, 1, N_STARS),
            }
        )
        for i, b in enumerate(bands)
    )
    e, s = np.repeat(exposure, N_STARS), np.tile(star, N_EXPOSURES)
    noise = 0.003 + 0.002 * 10 ** (0.3 * (mag[s] - 17))
    residual = rng.normal(0, noise)
    measurements = pl.DataFrame(
        {
            "star_id": s.astype(np.int64),
            "exposure_id": e.astype(np.int64),
            "band": band[e],
            "calibrated_mag": mag[s] + residual,
            "calibrated_mag_err": np.hypot(noise, 3e-3).astype(np.float32),
            "residual": residual.astype(np.float32),
            "weight": (noise**-2).astype(np.float32),
            "outlier_probability": rng.choice([0.0, 0.9], e.size, p=[0.95, 0.05]).astype(np.float32),
            "used": rng.random(e.size) > 0.01,
        }
    )
    terms = pl.DataFrame(
        {
            "name": ["extinction"] * 3 + ["seeing"],
            "band": ["g", "g", "g", "r"],
            "detector": [""] * 4,
            "night": [60000, 60001, 60002, None],
            "value": [0.17, 0.18, 0.16, 0.01],
            "err": [0.01, 0.004, 0.02, 0.001],
        },
        schema_overrides={"night": pl.Int64},
    )
    return {"zeropoints": zeropoints, "stars": stars, "measurements": measurements, "terms": terms}


def run_json(bands: tuple[str, ...] = ("g", "r")) -> dict[str, Any]:
    edges = np.linspace(-6, 6, 49)
    counts = np.round(1000 * np.exp(-0.5 * (0.5 * (edges[1:] + edges[:-1])) ** 2)).tolist()
    score = {
        "score": -5.0, "n_exposures": N_EXPOSURES, "rms_difference_mag": 0.002, "pull_std": 1.02, "coverage_68": 0.68,
        "coverage_95": 0.95, "pull_histogram": {"edges": edges.tolist(), "counts": counts},
    }  # fmt: skip
    return {
        "version": "0.0.test",
        "config": {"method": "auto", "seed": 1},
        "inputs": [{"path": "/data/survey.parquet", "rows": 1440, "sha256": "ab" * 32, "columns": {"mag": "m"}}],
        "method": "robust",
        "method_reason": "held-out stars prefer it",
        "scores": {"wls": score | {"pull_std": 3.0}, "robust": score},
        "terms_tried": [
            {"terms": "no surface", "log_evidence": 10.0, "carried": False},
            {"terms": "plane", "log_evidence": 25.5, "carried": True},
        ],
        "components": [
            {"component": i, "band": b, "anchored": False, "n_exposures": 12, "n_stars": 60, "gauge": "mean is 0"}
            for i, b in enumerate(bands)
        ],
        "counts": {"usable": 1430, "nonpositive_flux": 10, "rows": 1440},
        "convergence": {"converged": True, "passes": 9, "change_in_sigma": 0.01, "inflation": {"0": 1.2}},
        "model": {
            "floor_mag": dict.fromkeys(bands, 0.003),
            "error_scale": dict.fromkeys(bands, 1.5),
            "surface_degree": 1,
        },
        "timings": {"read": 0.1, "solve": 1.5},
        "peak_memory_mb": 200.0,
        "warnings": ["two components fall apart"],
    }


Change = Callable[[dict[str, pl.DataFrame], dict[str, Any]], None]
Make = Callable[..., Path]


def write(folder: Path, change: Change | None = None, bands: tuple[str, ...] = ("g", "r")) -> Path:
    """Write a folder; ``change`` may alter the frames and run.json in place."""
    from calib.tables.write import write_table

    tables, run = frames(bands=bands), run_json(bands)
    if change is not None:
        change(tables, run)
    folder.mkdir()
    for kind in ("zeropoints", "stars", "measurements"):
        if kind in tables:
            tables[kind].write_parquet(folder / f"{kind}.parquet")
    if "terms" in tables:
        write_table(tables["terms"], folder / "terms.ecsv", "terms")
    (folder / "run.json").write_text(json.dumps(run), encoding="utf-8")
    return folder


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Write a solution folder."""

    def made(change: Change | None = None, bands: tuple[str, ...] = ("g", "r")) -> Path:
        return write(tmp_path / "out", change, bands)

    return made


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of a solution that has everything, written once."""
    from calib.report import write_report

    path = write_report(write(tmp_path_factory.mktemp("whole") / "out"))
    return path.read_text(encoding="utf-8")
