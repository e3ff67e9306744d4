"""The main job, readable in one sitting: table -> graph -> solve -> Solution."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from calib.config import Config, ConfigError
from calib.covariance import KEPT_MEASUREMENTS, MOST_EXPOSURES
from calib.memory import give_back, keep_freed
from calib.model.catalogue import with_catalogue
from calib.model.noise import LARGE
from calib.model.problem import Problem
from calib.model.rows import NamedRows
from calib.outcome import outcome
from calib.solution import Solution
from calib.solve.begin import Beginning
from calib.solve.differential import without_differential_extinction
from calib.solve.held_out_nights import NightSplit, score_nights
from calib.solve.methods import Solved, resolve_robust, solve_robust, solve_wls
from calib.solve.select import deciding_part
from calib.solve.split import Half, SplitScore, score
from calib.tables.airmass import NO_SITE, could_have_airmass, with_airmass
from calib.tables.errors import InputError
from calib.tables.measurements import Measurements, read_parts
from calib.tables.misplaced import many_misplaced
from calib.tables.parts import Part
from calib.tables.reference import read_reference
from calib.version import __version__
from calib.workers import working

if TYPE_CHECKING:
    from calib.learn.adapt import Adaptation

Progress = Callable[[str, int, float], None]

MARGIN = {"wls": 0.1, "robust": 0.0, "learned": 0.01}
"""Another method than the robust one is taken where its score is better by this much and by the standard error of the
difference: 0.1 is errors smaller by a tenth.

The learned answer differs from the robust one by little, and on the same stars: a smaller gain is no luck.
"""
LEARNED_MEASUREMENTS, LEARNED_EXPOSURES = 3_000, 20
"""Smaller surveys are not tried by the learned method: their held-out stars could not tell."""
LEARNED_MOST = 4_000_000
"""Larger ones neither, unless it is asked for: features and networks hold about 0.6 kB a measurement."""
NIGHTS_APART = 1.5
"""Times their errors by which stars may differ between halves of the nights without a warning."""


def calibrate(
    measurements: Any,
    exposures: Any = None,
    reference: Any = None,
    config: Config | None = None,
    *,
    progress: Progress | None = None,
    keep_covariance: bool = False,
    start: Solution | None = None,
) -> Solution:
    """Zero-point of every exposure from stars measured again and again.

    ``calibrated magnitude = mag + zeropoint + terms at the measurement's place``

    Parameters
    ----------
    measurements
        Path, folder, glob, astropy Table, polars frame or pyarrow table; a list of `calib.tables.Part`, which have
        names and exposures of their own; or checked `Measurements`.
    exposures
        Table of exposures with mjd, night, airmass, seeing, sky, exptime, ra, dec, all optional.
    reference
        Table of reference stars: star_id (or ra and dec), band, mag, mag_err. They set the absolute scale.
    config
        Choices; the defaults serve most surveys.
    progress
        Called with (stage, pass, change) as the solve goes on.
    keep_covariance
        Whether a survey of more than a million measurements keeps its equations in memory for `Solution.covariance`;
        smaller ones do.
    start
        Where the robust method begins: a solution of part of the measurements with the terms that ``config`` asks for
        (`calib.update`).

    Raises
    ------
    calib.tables.InputError
        A table cannot be used; the message is one line.
    calib.config.ConfigError
        The whole covariance of too many zero-points is asked for.
    """
    config = config or Config()
    with working(config.workers):
        return _calibrated(measurements, exposures, reference, config, progress, keep_covariance, start)


def _calibrated(
    measurements: Any, exposures: Any, reference: Any, config: Config, progress: Progress | None,
    keep_covariance: bool, start: Solution | None,
) -> Solution:  # fmt: skip
    """As `calibrate`, on the threads that there are."""
    clock = _Clock()
    references = None if reference is None else read_reference(reference)
    text = frozenset() if references is None else references.text_ids
    if not isinstance(measurements, Measurements):
        parts = measurements
        if not (isinstance(parts, list) and parts and all(isinstance(part, Part) for part in parts)):
            parts = [Part(measurements, exposures, config.columns, config.preset)]
        measurements = read_parts(parts, text_ids=text, match_radius=config.match_radius)
    if references is not None and measurements.by_position and not references.by_position:
        references = read_reference(reference, by_position=True)
    elif references is not None and not references.by_position and "star_id" in measurements.text_ids - text:
        references = read_reference(reference, text_ids=measurements.text_ids)
    if config.site:
        measurements = with_airmass(measurements, config.site)
    elif config.extinction != "off" and could_have_airmass(measurements):
        measurements = replace(measurements, warnings=[*measurements.warnings, NO_SITE])
    if references is not None:
        references = references.of(measurements, config.match_radius)
    clock("read")
    problem = Problem.of(measurements, config)
    far = many_misplaced(measurements.frame, measurements.reason)
    measurements = replace(measurements, warnings=[*measurements.warnings, *far])
    if problem.m.size == 0:
        raise InputError(
            f"{_label(measurements)}: none of {len(measurements)} rows can be used: {_reasons(measurements)}"
        )
    if config.covariance and problem.n_exposures > MOST_EXPOSURES:
        raise ConfigError(
            f"covariance: {problem.n_exposures:,} zero-points, more than the {MOST_EXPOSURES:,} of which the whole"
            " matrix is written; leave it out, and ask Solution.covariance for some, after"
            " calibrate(..., keep_covariance=True)"
        )
    problem, differential = without_differential_extinction(problem, measurements.frame, config)
    beginning = None
    if start is not None and config.method != "wls":
        old, model = start.frames, start.diagnostics["model"]
        beginning = Beginning.of(problem, measurements.frame, old["zeropoints"], old["stars"], old["terms"], model)
    # the problem has sorted and numbered for itself what the table holds: a large survey is held once
    unused = measurements.frame.filter(~measurements.usable)
    measurements = replace(measurements, frame=measurements.frame.clear())
    give_back()
    if problem.m.size < LARGE:
        keep_freed()
    if references is not None and config.extinction == "on":
        problem = with_catalogue(problem, references.frame)
    clock("graph")
    solved, scores, why = _solve(problem, config, progress, clock, beginning)
    method = why["method"]
    give_back()
    made = outcome(problem, measurements, unused, solved, None if references is None else references.frame)
    clock("outcome")
    fit = solved.fit
    warnings = [*measurements.warnings, *([] if references is None else references.warnings), *made.warnings]
    if not fit.converged:
        warnings.append(
            f"not converged after {fit.passes} passes: zero-points still moved by {fit.change:.3f} of their errors"
        )
    for trial in solved.trials:
        if trial.gigabytes is not None:
            warnings.append(
                f"{trial.name}: not tried, its factor would need {trial.gigabytes:.1f} GB, more than factor_gb in the"
                " configuration allows"
            )
    told = why["held_out_nights"]
    if told and told["inflation_68"] > NIGHTS_APART:
        warnings.append(
            f"stars of one half of the nights differ from the other's by {told['inflation_68']:.1f} times their errors:"
            " something changes from night to night that is not modelled (held_out_nights)"
        )
    run: dict[str, Any] = {
        "version": __version__,
        "config": config.resolved(),
        "inputs": measurements.inputs + ([] if references is None else references.inputs),
        "parts": measurements.parts,
        "directory": _directory(),
        "scales": {
            "time_scale": measurements.time_scale or None,
            "magnitude_system": (measurements if references is None else references).system or None,
        },
        "association": None if measurements.association is None else asdict(measurements.association),
        "method": method,
        "method_reason": why["reason"],
        "scores": {name: _score_json(s) for name, s in scores.items()},
        "held_out_nights": why["held_out_nights"],
        "adaptation": why["adaptation"],
        "terms_tried": [
            {"terms": t.name, "log_evidence": t.evidence, "carried": t.carried_by(fit)} for t in solved.trials
        ],
        "components": made.components,
        "counts": _counts(measurements, int(np.count_nonzero(made.measurements.used)))
        | {"rows": problem.rows.n}
        | ({} if references is None else {f"reference_{k}": v for k, v in references.counts.items()}),
        "convergence": {
            "converged": fit.converged,
            "passes": fit.passes,
            "change_in_sigma": fit.change,
            "inflation": {str(c): float(v) for c, v in enumerate(solved.inflation) if v > 1.0},
            "bootstrap_ratio": solved.bootstrap_ratio,
        },
        "model": made.model
        | {
            "differential_extinction": None if differential is None else asdict(differential),
            "magnitudes": {"system": measurements.system, "undivided": measurements.undivided},
        },
        "timings": clock.seconds,
        "memory_mb": clock.memory,
        "peak_memory_mb": _peak_mb(),
        "warnings": warnings,
    }
    frames = {"zeropoints": made.zeropoints, "stars": made.stars, "terms": made.terms}
    rows = NamedRows(measurements, problem.stars, problem.nodes, problem.star_code, problem.node_code, problem.rows)
    kept = keep_covariance or config.covariance or problem.m.size <= KEPT_MEASUREMENTS
    return Solution(frames, run, (rows, made.measurements), covariances=made.covariance.compact() if kept else None)


def _solve(
    problem: Problem, config: Config, progress: Progress | None, clock: _Clock, beginning: Beginning | None
) -> tuple[Solved, dict[str, SplitScore], dict[str, Any]]:
    """The method that was asked for, or the one that held-out stars prefer, with the scores of all that were tried."""
    names = methods_tried(problem, config)
    solved: dict[str, Solved] = {}
    adaptation: Adaptation | None = None
    for name in names:
        if name == "learned":
            from calib.learn.engine import solve_learned, unchanged

            if progress:
                progress("networks", 0, float("nan"))
            if config.adapt:
                from calib.learn.adapt import adapted

                adaptation = adapted(problem, solved["robust"].fit, config, device=config.device)
            adapt = adaptation.applied if adaptation else unchanged
            solved[name] = solve_learned(problem, solved["robust"], config.seed, device=config.device, adapted=adapt)
        elif name == "robust":
            solved[name] = solve_robust(problem, config, progress, beginning)
        else:
            solved[name] = solve_wls(problem, config, progress)
    clock("solve")
    scores: dict[str, SplitScore] = {}
    part = problem
    if config.score or config.method == "auto":
        part = deciding_part(problem, next(iter(solved.values())).fit.design)
        for name, half in _halves(names, solved, config, adaptation).items():
            if progress:
                progress(f"held-out stars, {name}", 0, float("nan"))
            scores[name] = score(part, half, config.seed)
        clock("held-out stars")
    method, reason = _chosen(scores, config)
    nights: NightSplit | None = None
    if scores and problem.night is not None:
        if progress:
            progress("held-out nights", 0, float("nan"))
        nights = score_nights(part, _again(solved, method, config), config.seed)
        clock("held-out nights")
    return solved[method], scores, {
        "method": method, "reason": reason, "adaptation": adaptation.json() if adaptation else None,
        "held_out_nights": nights.json() if nights else None,
    }  # fmt: skip


def _chosen(scores: dict[str, SplitScore], config: Config) -> tuple[str, str]:
    """The method whose answer is given, and why."""
    if config.method != "auto":
        return config.method, "asked for"
    finite = {name: s.score for name, s in scores.items() if np.isfinite(s.score)}
    if not finite:
        return "robust", "too few stars to hold any out"
    # a gain that the luck of a few exposures could have made is none
    luck = {name: 0.0 if name == "robust" else np.nan_to_num(scores[name].beyond(scores["robust"])) for name in finite}
    asked = {name: value + MARGIN[name] + float(luck[name]) for name, value in finite.items()}
    best = min(asked, key=lambda name: asked[name])
    said = ", ".join(f"{name} {value:.3f}" for name, value in finite.items())
    reason = f"held-out stars prefer it (score, smaller is better: {said})"
    if best == "robust" and min(finite, key=lambda name: finite[name]) != "robust":
        reason = f"held-out stars hardly tell methods apart (score, smaller is better: {said})"
    return best, reason


def _again(solved: dict[str, Solved], method: str, config: Config) -> Callable[[Problem], Solved]:
    """How part of the survey is solved as the whole was; the learned method's stars are as good as the robust one's."""
    if method == "wls":
        return lambda part: solve_wls(part, config)
    fit = solved["robust"].fit
    return lambda part: resolve_robust(part, fit, config)


def methods_tried(problem: Problem, config: Config) -> list[str]:
    """The methods to solve by, in order; the learned one goes on from the robust one."""
    if config.method != "auto":
        return ["robust", "learned"] if config.method == "learned" else [config.method]
    fits = LEARNED_MEASUREMENTS <= problem.m.size <= LEARNED_MOST and problem.n_exposures >= LEARNED_EXPOSURES
    return ["wls", "robust", "learned"] if fits else ["wls", "robust"]


def _halves(
    names: list[str], solved: dict[str, Solved], config: Config, adaptation: Adaptation | None
) -> dict[str, Callable[[Problem], Half]]:
    """How each method solves half the stars; the learned one goes on from what the robust one found."""
    found: list[Solved] = []

    def robust(stars: Problem) -> Half:
        answer = resolve_robust(stars, solved["robust"].fit, config)
        if "learned" in names:
            found.append(answer)
        return answer.half()

    def learned(stars: Problem) -> Half:
        from calib.learn.engine import solve_learned, unchanged

        # fine-tuned members have seen these stars, and would be praised by them
        adapt = adaptation.shifted if adaptation else unchanged
        # the same halves in the same order
        return solve_learned(stars, found.pop(0), config.seed, device=config.device, adapted=adapt).half()

    def wls(stars: Problem) -> Half:
        return solve_wls(stars, config).half()

    every = {"wls": wls, "robust": robust, "learned": learned}
    return {name: every[name] for name in names}


def _score_json(s: SplitScore) -> dict[str, Any]:
    counts, edges = np.histogram(np.clip(s.pull, -6, 6), bins=48, range=(-6, 6))
    return s.summary() | {"pull_histogram": {"edges": edges.tolist(), "counts": counts.tolist()}}


def _counts(measurements: Measurements, used: int) -> dict[str, int]:
    """Rows by reason, when it is known how many were used: the other usable ones are of isolated exposures."""
    counts = measurements.counts
    isolated = counts["usable"] - used
    return counts | {"usable": used} | ({"isolated": isolated} if isolated else {})


def _label(measurements: Measurements) -> str:
    return str(measurements.inputs[0]["path"]) if measurements.inputs else "measurements"


def _reasons(measurements: Measurements) -> str:
    return ", ".join(f"{count} {name}" for name, count in measurements.counts.items() if name != "usable")


def _directory() -> str:
    """Where inputs whose paths are relative lie; empty where that is gone."""
    try:
        return os.getcwd()
    except OSError:
        return ""


def _peak_mb() -> float:
    """The most memory that the process had so far."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0, 1)


class _Clock:
    """Seconds of each stage, wall clock, and the most memory that the process had by its end, MB."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.memory: dict[str, float] = {}
        self._last = time.perf_counter()

    def __call__(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[stage] = round(now - self._last, 3)
        self.memory[stage] = _peak_mb()
        self._last = now
