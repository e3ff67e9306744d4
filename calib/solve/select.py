"""Which local terms a survey carries: those that raise the marginal likelihood."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calib.config import Config
from calib.memory import give_back
from calib.model.by_magnitude import SHAPES, ByMagnitude
from calib.model.camera import FLAT
from calib.model.problem import Problem
from calib.solve.border import Border
from calib.solve.by_magnitude import by_magnitude, seen_in
from calib.solve.design import BLOCK_SIZES, Design
from calib.solve.instrument import Instrument
from calib.solve.latent import latent_seeing, refreshed
from calib.solve.normal import Topology
from calib.solve.robust import RobustFit, absolute_start, fit, score_test
from calib.solve.terms import Terms
from graphs import MeasurementGraph

Array = NDArray[np.float64]

GAIN = 5.0
"""Log marginal likelihood that a term has to add before it is carried."""
FLAT_SEEN = 5.0
"""Standard deviations by which residuals must vary from cell to cell of the field before a star flat is tried."""
PART_MEASUREMENTS = 300_000
"""Larger surveys try their terms, adapt and score on a connected part of about this many measurements."""
TRIAL_PASSES = 15
"""Passes of a trial on such a part: it chooses terms and says where the whole survey begins."""


@dataclass(frozen=True)
class Trial:
    """One set of terms that was tried; ``response`` is how stars answer: not at all, to the seeing, to a latent one.

    One whose factor would be too large has no evidence, but its gigabytes.
    """

    degree: int
    response: str
    evidence: float | None
    instrument: int = 0
    by_magnitude: str = ""
    gigabytes: float | None = None
    flat: bool = False

    def carried_by(self, fit: RobustFit) -> bool:
        """Whether these are the terms of a fit."""
        kinds = 0 if fit.instrument is None else fit.instrument.columns.n_kinds
        design = fit.design
        shape = "" if design.by_magnitude is None else design.by_magnitude.shape
        mine = (self.degree, bool(self.response), self.instrument, self.by_magnitude)
        if self.gigabytes is not None:
            return False
        return mine == (design.degree, design.star_block == 2, kinds, shape)

    @property
    def name(self) -> str:
        """As run.json and the report call it."""
        surface = ("no surface", "plane", "quadratic")[self.degree]
        instrument = ("", " + detectors' offsets", " + detectors' offsets and colours")[self.instrument]
        if self.flat and self.instrument:
            instrument = " + star flat"
        by_magnitude = f" + {SHAPES[self.by_magnitude].name}" if self.by_magnitude else ""
        return surface + instrument + by_magnitude + (f" + {self.response}" if self.response else "")


def design_of(
    problem: Problem, degree: int, response: Array | None = None, by_magnitude: ByMagnitude | None = None
) -> Design:
    """The problem's measurements under these local terms."""
    return Design(problem.graph, problem.xy, degree, problem.centre, response, by_magnitude)


def border_of(problem: Problem, design: Design, config: Config) -> Border:
    """Hubs of the terms that a design carries and the configuration asks for."""
    return Border.of(problem, surfaces=design.degree > 0, levels=config.extinction != "off", block=design.block)


def candidates(problem: Problem, config: Config) -> tuple[list[int], list[bool]]:
    """Degrees and responses that the data allow and the configuration leaves open."""
    degrees = {"auto": [0, 1, 2], "off": [0], "plane": [1], "quadratic": [2]}[config.surface]
    responses = {"auto": [False, True], "off": [False], "on": [True]}[config.seeing_response]
    if problem.xy is None:
        degrees = [0]
    if problem.response is None:
        responses = [False]  # to a latent seeing, it may be
    return degrees, responses


def instrument_of(
    problem: Problem, design: Design, like: Instrument | None, n_kinds: int | None = None
) -> Instrument | None:
    """Terms of the instrument for the measurements of a problem, beginning from what is known; None without any.

    As many kinds as are known, where their number is not given.
    """
    if n_kinds is None:
        n_kinds = 0 if like is None else like.columns.n_kinds
    if n_kinds == 0 or problem.camera is None:
        return None
    return Instrument(problem.camera, design, problem.band, n_kinds).like(like)


def kinds_of_instrument(problem: Problem, config: Config) -> list[int]:
    """Numbers of kinds of the instrument's terms that the data allow and the configuration leaves open."""
    asked = {"auto": [0, 1, 2], "off": [0], "offset": [1], "color": [2]}[config.instrument]
    camera = problem.camera
    most = 0 if camera is None else 1 if camera.color is None else 2
    return [k for k in asked if k <= most] or [most]


def robust_fit(
    problem: Problem, config: Config, progress: Callable[[str, int, float], None] | None = None
) -> tuple[RobustFit, list[Trial]]:
    """The robust solve with the local terms that earn their place, and what was tried on the way.

    Degrees are tried upwards while they do not lose; then a star flat, a term by magnitude, the response to seeing. A
    survey of more than `PART_MEASUREMENTS` tries them on a part of itself. What the factor of the whole has no room for
    is not tried.
    """
    plain = design_of(problem, 0)
    topology = Topology(plain)
    degrees, responses = candidates(problem, config)
    room = _Room(problem, plain, config)
    part = deciding_part(problem, plain)
    if part is problem:
        return _tried(problem, plain, topology, degrees, responses, config, room, progress)
    small = design_of(part, 0)
    shorter = replace(config, max_passes=min(config.max_passes, TRIAL_PASSES))
    best, trials = _tried(part, small, Topology(small), degrees, responses, shorter, room, progress)
    noise, degree, response = best.noise.spread_over(problem.band), best.design.degree, best.design.star_block == 2
    latent = response and problem.response is None
    whole, start = plain.with_terms(degree, problem.response if response else None), None
    if best.design.by_magnitude is not None:
        shape = best.design.by_magnitude.shape
        start = absolute_start(whole, problem.m, problem.err, topology)
        whole = whole.with_terms(degree, whole.response, by_magnitude(shape, problem, start))
    border = border_of(problem, whole, config)
    terms = Terms(whole, border).like(best.terms)
    instrument = instrument_of(problem, whole, best.instrument)
    del best, part, small, plain, topology, room  # the whole survey needs the room
    give_back()
    step = (lambda n, change: progress("all measurements", n, change)) if progress else None
    final = fit(
        whole, problem.m, problem.err, problem.band, border, start=start, noise=noise, terms=terms,
        instrument=instrument, max_passes=config.max_passes, tolerance=config.tolerance, progress=step,
    )  # fmt: skip
    seeing = latent_seeing(final) if latent else None
    if seeing is not None:
        final = with_latent(problem, final, seeing, config, step)
    return final, trials


def with_latent(
    problem: Problem, fitted: RobustFit, seeing: Array, config: Config, progress: Callable[[int, float], None] | None
) -> RobustFit:
    """A fit once more, with a latent seeing that its own residuals show."""
    whole = fitted.design.with_terms(fitted.design.degree, seeing, fitted.design.by_magnitude)
    terms = Terms(whole, fitted.terms.border).like(fitted.terms)
    noise, instrument = fitted.noise.copy(), instrument_of(problem, whole, fitted.instrument)
    del fitted
    return fit(
        whole, problem.m, problem.err, problem.band, terms.border, noise=noise, terms=terms, instrument=instrument,
        max_passes=config.max_passes, tolerance=config.tolerance, progress=progress,
    )  # fmt: skip


class _Room:
    """Which terms the factor of a survey has room for."""

    def __init__(self, problem: Problem, plain: Design, config: Config) -> None:
        self._problem, self._plain, self._config = problem, plain, config

    def _entries(self, degree: int, block: int) -> int:
        hubs = Border.of(
            self._problem, surfaces=degree > 0, levels=self._config.extinction != "off", block=block
        ).hubs  # fmt: skip
        return Topology(self._plain, hubs).symbolic.supernodes.n_entries

    @cached_property
    def _most(self) -> int:
        return self._entries(1, 1)  # with most hubs

    def wanted(self, degree: int, by_magnitude: bool) -> float | None:
        """GB that terms would need, where they are too many; None where they are not, or are asked for."""
        config = self._config
        block = BLOCK_SIZES[degree] + by_magnitude
        free = config.surface == "auto" and degree > 0 or config.magnitude_term == "auto" and by_magnitude
        if not free or 8e-9 * self._most * block**2 < config.factor_gb:
            return None
        gigabytes = 8e-9 * self._entries(degree, block) * block**2
        return gigabytes if gigabytes > config.factor_gb else None


def _tried(
    part: Problem, plain: Design, topology: Topology, degrees: list[int], responses: list[bool], config: Config,
    room: _Room, progress: Callable[[str, int, float], None] | None,
) -> tuple[RobustFit, list[Trial]]:  # fmt: skip
    """The best of all trials on one problem, and what was tried; ``plain`` is its design without terms."""
    start = absolute_start(plain, part.m, part.err, topology)
    trials: list[Trial] = []

    def fits(degree: int, by_magnitude: str = "") -> bool:
        wanted = room.wanted(degree, bool(by_magnitude))
        if wanted is not None:
            trials.append(Trial(degree, "", None, kinds, by_magnitude, wanted, flat))
        return wanted is None

    def attempt(
        degree: int, response: str, best: RobustFit | None, kinds: int, seeing: Array | None = None,
        term: ByMagnitude | None = None,
    ) -> RobustFit:  # fmt: skip
        design = design_of(part, degree, seeing, term)
        shape = "" if term is None else term.shape
        name = Trial(degree, response, 0.0, kinds, shape, flat=flat).name
        step = (lambda n, change: progress(name, n, change)) if progress else None
        border = border_of(part, design, config)
        found = fit(
            design, part.m, part.err, part.band, border, start=start,
            max_passes=config.max_passes, tolerance=config.tolerance, noise=None if best is None else best.noise.copy(),
            terms=None if best is None else Terms(design, border).like(best.terms), progress=step,
            instrument=instrument_of(part, design, None if best is None else best.instrument, kinds),
        )  # fmt: skip
        trials.append(Trial(degree, response, found.evidence, kinds, shape, flat=flat))
        return found

    flat = part.camera is not None and FLAT in part.camera.kinds
    kinds, *more = kinds_of_instrument(part, config)
    best = attempt(degrees[0], "", None, kinds)
    for n in () if flat else more:  # first, since what all exposures share would pass for the surface of each
        found = attempt(degrees[0], "", best, n)
        if found.evidence < best.evidence + GAIN:
            break
        best, kinds = found, n
    for degree in degrees[1:]:
        if not fits(degree):
            break
        found = attempt(degree, "", best, kinds)
        if found.evidence < best.evidence:
            break
        if found.evidence > best.evidence + GAIN:  # a plane that hardly gains may be part of a quadratic that does
            best = found
    for n in more if flat else ():  # last, for what surfaces leave
        assert part.camera is not None
        cell = part.band[part.graph.exposure] * np.int64(len(part.camera.names) + 1) + part.camera.detector
        if score_test(best, cell) > FLAT_SEEN:
            found = attempt(best.design.degree, "", best, n)
            if found.evidence > best.evidence + GAIN:
                best, kinds = found, n
    asked = config.magnitude_term
    without = best
    if asked == "auto":
        possible = seen_in(best, part, start)
    else:
        possible = [] if asked == "off" else [by_magnitude(asked, part, start)]
    for one in possible:
        if not fits(without.design.degree, one.shape):
            break
        found = attempt(without.design.degree, "", without, kinds, term=one)
        if asked != "auto" or found.evidence > max(without.evidence + GAIN, best.evidence):
            best = found
        if best is without:
            break  # where the most visible gains nothing, the others will not
    term = best.design.by_magnitude
    if True in responses:
        found = attempt(best.design.degree, "seeing response", best, kinds, part.response, term)
        best = _better(best, found, trials, forced=False not in responses)
    elif part.response is None and config.seeing_response != "off":
        seeing, response = latent_seeing(best), "response to a latent seeing"
        if seeing is not None:
            first = attempt(best.design.degree, response, best, kinds, seeing, term)
            del trials[-1]
            found = attempt(best.design.degree, response, first, kinds, refreshed(first), term)
            best = _better(best, found, trials)
    return best, trials


def _better(best: RobustFit, found: RobustFit, trials: list[Trial], forced: bool = False) -> RobustFit:
    """The fit with responses, if their mixture gains enough, or without; the last trial is told what it gained."""
    assert found.terms.response is not None
    gain = found.terms.response.gain
    trials[-1] = replace(trials[-1], evidence=best.evidence + gain)
    return replace(found, evidence=best.evidence + gain) if gain > GAIN or forced else best


def deciding_part(problem: Problem, plain: Design | None = None, most: int | None = None) -> Problem:
    """The survey, or where it is larger connected parts of it: in each band nodes nearest to a start.

    The start is in the band's largest component; a band has its share of the measurements, about ``most`` in all
    (`PART_MEASUREMENTS` where not given).
    ``plain`` is a design of the problem, where one is at hand, for its links.
    """
    most = PART_MEASUREMENTS if most is None else most
    if problem.m.size <= most:
        return problem
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import breadth_first_order

    plain = plain or design_of(problem, 0)
    links = plain.links
    n = problem.graph.n_exposures
    pattern = csr_array((np.ones(links.indices.size, np.int8), links.indices, links.indptr), shape=(n, n))
    counts = np.bincount(problem.graph.exposure, minlength=n)
    labels, keep = plain.components, np.zeros(n, bool)
    for band in np.unique(problem.band[counts > 0]):
        inside = problem.band == band
        largest = np.bincount(labels[inside], weights=counts[inside]).argmax()
        first = int(np.flatnonzero(inside & (labels == largest))[0])
        order = breadth_first_order(pattern, first, directed=False, return_predecessors=False)
        share = most * counts[inside].sum() / counts.sum()
        keep[order[: max(int(np.searchsorted(np.cumsum(counts[order]), share)), 2)]] = True
    return without_idle(subset(problem, keep[problem.graph.exposure]))


def without_idle(problem: Problem) -> Problem:
    """The same without nodes that have no measurement, but for one of each band, so that bands keep their numbers."""
    graph = problem.graph
    kept = np.bincount(graph.exposure, minlength=graph.n_exposures) > 0
    for band in np.setdiff1d(problem.band, problem.band[kept]):
        kept[np.flatnonzero(problem.band == band)[0]] = True
    nodes = np.flatnonzero(kept)
    number = (np.cumsum(kept) - 1).astype(np.int32)

    def of(values: NDArray[Any] | None) -> Any:
        return None if values is None else values[nodes]

    return replace(
        problem, graph=MeasurementGraph(graph.star_ptr, number[graph.exposure], graph.order, nodes.size),
        nodes=problem.nodes[nodes], band=of(problem.band), night=of(problem.night), response=of(problem.response),
        airmass=of(problem.airmass), mjd=of(problem.mjd), log_seeing=of(problem.log_seeing),
        n_catalogue=int((nodes >= problem.n_exposures).sum()),
        survey_nodes=nodes if problem.survey_nodes is None else problem.survey_nodes[nodes], tilt=of(problem.tilt),
    )  # fmt: skip


def subset(problem: Problem, keep: NDArray[np.bool_]) -> Problem:
    """The same stars and nodes with only these of the sorted measurements; stars left without any are dropped."""
    graph = problem.graph
    counts = np.diff(np.concatenate([[0], np.cumsum(keep, dtype=np.int64)])[graph.star_ptr])
    star_ptr = np.concatenate([[0], np.cumsum(counts[counts > 0])]).astype(np.int64)
    smaller = MeasurementGraph(star_ptr, graph.exposure[keep], graph.order[keep], graph.n_exposures)
    return replace(
        problem, graph=smaller, m=problem.m[keep], err=problem.err[keep],
        xy=None if problem.xy is None else problem.xy[keep], stars=problem.stars.filter(counts > 0),
        camera=None if problem.camera is None else problem.camera[keep],
    )  # fmt: skip
