"""Surveys to learn from: simulated, solved by the robust engine once, and kept on disk."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from calib.config import Config
from calib.learn.world import FIRST_SEED, draw_spec
from calib.model.problem import Problem
from calib.simulate import simulate
from calib.simulate.bounds import zeropoint_errors
from calib.simulate.survey import Survey
from calib.solve.normal import NormalEquations, Topology
from calib.solve.robust import RobustFit
from calib.solve.select import robust_fit
from calib.tables import read_measurements

Array = NDArray[np.float64]


@dataclass
class Truth:
    """What a simulation knows, in the problem's order.

    Attributes
    ----------
    zeropoint, cloud
        (E,), mag.
    photometric
        bool (E,).
    outlier
        bool (n,), glitches and wrong identities.
    outlier_sigma
        (n,), their size over the measurement's true noise.
    variable
        (S,), rms variability of each star, mag.
    """

    zeropoint: Array
    cloud: Array
    photometric: NDArray[np.bool_]
    outlier: NDArray[np.bool_]
    outlier_sigma: Array
    variable: Array

    @classmethod
    def of(cls, problem: Problem, survey: Survey) -> Truth:
        """Bring a survey's truth into the order of its problem."""
        nodes = problem.nodes.with_columns(pl.col("band").cast(pl.String))
        exposures = survey.truth_exposures.with_columns(pl.col("band").cast(pl.String))
        exposures = nodes.select("exposure_id", "band").join(
            exposures, on=["exposure_id", "band"], how="left", maintain_order="left"
        )
        stars = problem.stars.with_columns(pl.col("band").cast(pl.String)).select("star_id", "band")
        stars = stars.join(
            survey.truth_stars.with_columns(pl.col("band").cast(pl.String)), on=["star_id", "band"], how="left",
            maintain_order="left",
        )  # fmt: skip
        rows = survey.truth_measurements[problem.input_row]
        return cls(
            exposures["zeropoint"].to_numpy(), exposures["cloud"].to_numpy(), exposures["photometric"].to_numpy(),
            rows["outlier"].to_numpy(), np.abs(rows["outlier_offset"].to_numpy()) / rows["sigma"].to_numpy(),
            stars["variability_rms"].fill_null(0.0).to_numpy(),
        )  # fmt: skip


@dataclass
class Sample:
    """A solved survey and its truth."""

    seed: int
    problem: Problem
    fit: RobustFit
    truth: Truth

    @property
    def robust_rms(self) -> float:
        """Of the robust zero-points, mag."""
        z = self.fit.equations.centred(self.fit.estimate.theta)[: self.fit.design.n_nodes, 0]
        return zeropoint_errors(z, self.truth.zeropoint, self.fit.equations.topology.component).rms


def solved_sample(survey: Survey, seed: int) -> Sample | None:
    """Solve a survey as the robust method does; None where nothing is linked."""
    config = Config(method="robust", score=False)
    problem = Problem.of(read_measurements(survey.measurements, exposures=survey.exposures), config)
    fit, _ = robust_fit(problem, config)
    if not (fit.equations.topology.size > 2).any():
        return None
    return Sample(seed, problem, fit, Truth.of(problem, survey))


def save(sample: Sample, path: Path) -> None:
    """Write a sample, whole or not at all; what can be made again from the rest is left out."""
    fit = sample.fit
    design = fit.design.with_terms(fit.design.degree, fit.design.response, fit.design.by_magnitude)
    slim = replace(fit, equations=None, stated=None, design=design)  # type: ignore[arg-type]
    for kept in ("links", "walk", "components"):
        slim.design.__dict__.pop(kept, None)
    state = (sample.seed, sample.problem, slim, np.asarray(fit.equations.w), fit.equations.prior, sample.truth)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(pickle.dumps(state, protocol=5))
    os.replace(partial, path)


def load(path: Path) -> Sample:
    """Read a sample that `save` wrote. Pickle: only from a folder of one's own."""
    seed, problem, fit, w, prior, truth = pickle.loads(path.read_bytes())
    topology = Topology(fit.design, fit.terms.border.hubs)
    m = problem.m if fit.instrument is None else fit.instrument.added_to(problem.m)
    fit = replace(fit, equations=NormalEquations(fit.design, m, w, prior, topology))
    return Sample(seed, problem, fit, truth)


def cached(
    folder: Path,
    numbers: range,
    progress: Callable[[str], Any] | None = None,
    deadline: Callable[[], bool] | None = None,
) -> Iterator[Path]:
    """Yield the files of surveys with these numbers, making those that are not there yet; the useless are passed by."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        path = folder / f"{number:06d}.pickle"
        none = folder / f"{number:06d}.none"
        if not path.exists() and not none.exists():
            if deadline is not None and deadline():
                return
            seed = FIRST_SEED + number
            sample = solved_sample(simulate(draw_spec(seed), seed), seed)
            if sample is None or not np.isfinite(sample.robust_rms):
                none.touch()
                continue
            save(sample, path)
            if progress is not None:
                progress(f"survey {number + 1} of {numbers.stop} solved")
        if path.exists():
            yield path
