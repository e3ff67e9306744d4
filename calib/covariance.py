"""Covariance between the zero-points of chosen exposures, as their stated errors have it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from calib.solve.normal import NormalEquations
from calib.solve.sampled import zeropoint_covariance

Array = NDArray[np.float64]

FILE = "covariance.npz"
"""Where a solution's folder holds the whole matrix, when it was asked for."""
MOST_EXPOSURES = 5_000
"""Zero-points of which the whole matrix is written: 200 MB."""
KEPT_MEASUREMENTS = 1_000_000
"""Surveys to this size keep what covariances are made of, about 100 bytes a measurement, without being asked."""
KEYS = ("exposure_id", "band", "detector", "component")


class CovarianceError(ValueError):
    """No covariance of these exposures can be told; one line says why."""


@dataclass(frozen=True)
class ZeropointCovariance:
    """What the covariance between any zero-points is made of.

    ``C = grow C_solve grow + V_component + s s' + P P' + diag(beyond)``

    Attributes
    ----------
    equations
        Those whose inverse states the errors.
    functional
        (E + H, K), what the gauge holds in each component; the mean of its zero-points where None.
    component
        int (E,).
    grow
        (E,), factor on errors.
    offset_variance
        (components,), of the scale that reference stars set, mag^2; shared by all of a component.
    response
        (E,), s, what a response that all stars have in common may do to all zero-points together, mag.
    beyond
        (E,), variance that each zero-point has for itself, mag^2.
    linked
        bool (E,), zero-points that are known at all.
    patterns
        (E, patterns), P, what an unseen gradient of the flat field and the errors of the instrument's terms do to the
        zero-points of a component together, mag.
    """

    equations: NormalEquations
    functional: Array | None
    component: NDArray[np.int32]
    grow: Array
    offset_variance: Array
    response: Array
    beyond: Array
    linked: NDArray[np.bool_]
    patterns: Array

    def diagonal(self, node_variance: Array) -> Array:
        """(E,), variances of the zero-points, mag^2, given those of the solve."""
        own = np.maximum(node_variance, 0.0) * self.grow**2 + self.offset_variance[self.component]
        shared = self.response**2 + (self.patterns**2).sum(1)
        return np.where(self.linked, own + shared + self.beyond, np.nan)

    def compact(self) -> ZeropointCovariance:
        """The same, when all that can be made anew of its equations is forgotten."""
        self.equations.release()
        self.equations.design.__dict__.pop("walk", None)
        return self

    def between(self, nodes: NDArray[np.integer]) -> Array:
        """(k, k), covariance between the zero-points of nodes, mag^2; NaN where they are unknown."""
        nodes = np.asarray(nodes, np.int64)
        known = np.flatnonzero(self.linked[nodes])
        at = nodes[known]
        one, of = np.unique(at, return_inverse=True)
        solved = zeropoint_covariance(self.equations, one, functional=self.functional)[np.ix_(of, of)]
        component, s, p = self.component[at], self.response[at], self.patterns[at]
        shared = np.where(component[:, None] == component, self.offset_variance[component] + p @ p.T, 0.0)
        mine = np.where(at[:, None] == at, self.beyond[at], 0.0)
        out = np.full((nodes.size, nodes.size), np.nan)
        out[np.ix_(known, known)] = solved * np.outer(self.grow[at], self.grow[at]) + shared + np.outer(s, s) + mine
        return out


def rows_of(zeropoints: pl.DataFrame, exposure_ids: Any, band: Any = None, detector: Any = None) -> NDArray[np.int64]:
    """Row of the zero-point table of every exposure asked for.

    Parameters
    ----------
    zeropoints
        Table of a solution.
    exposure_ids
        (k,), or one.
    band, detector
        Of all, or (k,); may be left out where an exposure has one zero-point only.

    Raises
    ------
    CovarianceError
        An exposure has no zero-point, or several.
    """
    ids = _listed(exposure_ids)
    asked: dict[str, list[Any]] = {"exposure_id": ids}
    for name, value in (("band", band), ("detector", detector)):
        if value is None:
            continue
        if name not in zeropoints.columns:
            raise CovarianceError(f"{name} {value}: the zero-points of this solution have no {name}")
        values = _listed(value)
        asked[name] = values * len(ids) if len(values) == 1 else values
        if len(asked[name]) != len(ids):
            raise CovarianceError(f"{len(values)} values of {name} for {len(ids)} exposures; give one, or one for each")
    keys = list(asked)
    row: dict[tuple[Any, ...], int] = {}
    several: set[tuple[Any, ...]] = set()
    for number, key in enumerate(zeropoints.select(keys).iter_rows()):
        if key in row:
            several.add(key)
        row[key] = number
    wanted = list(zip(*asked.values(), strict=True))
    for key in wanted:
        said = ", ".join(f"{name} {value}" for name, value in zip(keys, key, strict=True))
        if key not in row:
            raise CovarianceError(f"{said}: has no zero-point in this solution")
        if key in several:
            missing = " and ".join(n for n in ("band", "detector") if n in zeropoints.columns and n not in keys)
            raise CovarianceError(f"{said}: has several zero-points; give its {missing}")
    return np.array([row[key] for key in wanted], np.int64)


def write_covariance(path: str | Path, zeropoints: pl.DataFrame, matrix: Array) -> None:
    """Write the whole matrix, in the order of the zero-point table, with the keys of its rows."""
    keys = {name: zeropoints[name].to_numpy() for name in KEYS if name in zeropoints.columns}
    texts = {name: value.astype(str) if value.dtype == object else value for name, value in keys.items()}
    np.savez(path, allow_pickle=False, covariance=matrix, unit=np.array("mag2"), **texts)


def read_covariance(path: str | Path) -> Array:
    """(E, E), mag^2, in the order of the zero-point table."""
    with np.load(path, allow_pickle=False) as held:
        return np.asarray(held["covariance"], float)


def _listed(values: Any) -> list[Any]:
    """Python values of one or many."""
    if isinstance(values, str) or not isinstance(values, Sequence | np.ndarray | pl.Series):
        return [values.item() if isinstance(values, np.generic) else values]
    return [v.item() if isinstance(v, np.generic) else v for v in values]
