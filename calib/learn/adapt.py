"""Adaptation to the survey at hand: how tightly the ties hold in it, judged by its own stars.

The networks say a factor on each tie, of a zero-point to its night and of a surface to its illumination; a survey of
another kind than those trained on may want them tighter or looser. The stars are dealt to four groups that judge each
other (`calib.learn.groups`). First a shift of all ties of a kind: under shifts q a group's ties are ``ln tie_k + q_k``,

    l(q) = sum_e h[(z_A(q) - z_B)_e^2 / (v_A + v_B)_e] + 1/2 sum_k (q_k / SCATTER)^2,   h half of Huber's square,

is minimised by Gauss-Newton steps on two groups against each other and judged on the other two, then the other way
round. Then, where that is asked for, the networks themselves are fine-tuned (`calib.learn.fine_tune`), and judged
likewise. What does not better stars that it has not seen by far more than chance is not kept: what all stars of an
exposure have in common no dealing of them shows, and ties that would have held it look too tight (docs/learned.md).

Only ties are adapted. Weights fitted in this way agree better between groups of stars and are further from the truth.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from calib.config import Config
from calib.learn.engine import Heard, heard
from calib.learn.ensemble import shipped
from calib.learn.exact import LearnedEquations
from calib.learn.fine_tune import averaged, taught
from calib.learn.groups import CORNER, Group, Pair, huber, solved_apart
from calib.model.problem import Problem
from calib.solve.robust import RobustFit
from calib.solve.select import deciding_part
from calib.workers import torch_threads

if TYPE_CHECKING:
    from calib.learn.ensemble import Ensemble
    from calib.learn.network import Network

Array = NDArray[np.float64]

ADAPT_MEASUREMENTS, ADAPT_EXPOSURES = 5_000, 40
"""Smaller surveys are left as they are: their quarters could not tell."""
SCATTER = 0.7
"""Of shifts between surveys; a prior, for surveys whose exposures are few to say otherwise."""
STEPS = 4
CHANGE = 0.05
"""Of a shift, to see what it does."""
SURE = 4.0
"""Standard errors by which stars not seen have to be bettered. Chosen on surveys held out of training, where at two the
shift of one in three made zero-points a third worse."""


@dataclass(frozen=True)
class Verdict:
    """What stars not seen say of a change.

    Attributes
    ----------
    gain, significance
        In their log likelihood, and over its standard error.
    kept
        Whether it is used.
    """

    gain: float
    significance: float
    kept: bool

    @classmethod
    def of(cls, gains: Array) -> Verdict:
        """From the gain of every zero-point."""
        gain = float(gains.sum())
        significance = gain / max(float(gains.std()) * gains.size**0.5, 1e-12)
        return cls(gain, significance, significance > SURE)

    def json(self) -> dict[str, Any]:
        """For run.json."""
        return {"gain": self.gain, "significance": self.significance, "kept": self.kept}


NOTHING = Verdict(0.0, 0.0, False)


@dataclass(frozen=True)
class Adaptation:
    """What was found.

    Attributes
    ----------
    shift
        Added to the logarithms of the ties' factors: jitter, plane, quadratic; zero where it is not kept.
    of_shift, of_tuning
        What stars not seen say of the shift, and of the fine-tuned members.
    steps
        Of fine-tuning, at which the members were best, of either two groups.
    members
        Fine-tuned ones, where they are kept.
    """

    shift: tuple[float, float, float]
    of_shift: Verdict
    of_tuning: Verdict = NOTHING
    steps: tuple[int, int] = (0, 0)
    members: tuple[Network, ...] = ()

    def shifted(self, said: Heard) -> Heard:
        """What networks say of ties with the shift alone."""
        return replace(said, tie=said.tie + np.array(self.shift, np.float32))

    def applied(self, said: Heard) -> Heard:
        """What networks say of ties, adapted."""
        if self.members and said.scene is not None:
            with torch.no_grad():
                said = replace(said, tie=said.scene.ties(self.members).numpy())
        return self.shifted(said)

    def json(self) -> dict[str, Any]:
        """For run.json."""
        tuning = self.of_tuning.json() | {"steps": list(self.steps)}
        return {"shift": list(self.shift), **self.of_shift.json(), "fine_tuning": tuning}


def best_shift(pairs: list[Pair]) -> Array:
    """Minimise l(q) by Gauss-Newton steps, halved where they do not lower it."""

    def pulls(q: Array) -> Array:
        return np.concatenate([pair.shifted(q) for pair in pairs])

    def loss(q: Array, x: Array) -> float:
        return float(huber(x).sum() + 0.5 * ((q / SCATTER) ** 2).sum())

    q = np.zeros(3)
    x = pulls(q)
    now = loss(q, x)
    for _ in range(STEPS):
        slope = np.stack([(pulls(q + CHANGE * along) - x) / CHANGE for along in np.eye(3)], axis=1)
        weight = np.minimum(1.0, CORNER / np.maximum(np.abs(x), 1e-9))
        curvature = slope.T @ (weight[:, None] * slope) + np.eye(3) / SCATTER**2
        step = np.linalg.solve(curvature, -slope.T @ (weight * x) - q / SCATTER**2)
        for size in (1.0, 0.5, 0.25):
            trial = pulls(q + size * step)
            lower = loss(q + size * step, trial)
            if lower < now:
                break
        else:
            break
        q, x, gain, now = q + size * step, trial, now - lower, lower
        if gain < 0.01:
            break
    return q


def judged(groups: list[Group]) -> Adaptation:
    """Shifts from two groups each, and what the other two say of them."""
    one, two = two_sides(groups)
    if not all(pair.node.size for pair in one + two):
        return Adaptation((0.0, 0.0, 0.0), NOTHING)
    first, second = best_shift(one), best_shift(two)
    unseen = [(pair, q) for pairs, q in ((one, second), (two, first)) for pair in pairs]
    verdict = Verdict.of(
        np.concatenate([huber(pair.shifted(np.zeros(3))) - huber(pair.shifted(q)) for pair, q in unseen])
    )
    shift = 0.5 * (first + second) if verdict.kept else np.zeros(3)
    return Adaptation((float(shift[0]), float(shift[1]), float(shift[2])), verdict)


def fine_tuned(groups: list[Group], members: list[Network], found: Adaptation) -> Adaptation:
    """What is found with members fine-tuned beyond a shift, where stars not seen say that it is better."""
    one, two = two_sides(groups)
    if not all(pair.node.size for pair in one + two):
        return found
    shift = np.array(found.shift)
    with torch_threads(1):  # little work, and so the same on any number of threads
        first = taught(members, one, two, shift, SCATTER)
        if not first.step:
            return found
        second = taught(members, two, one, shift, SCATTER)
    verdict = Verdict.of(np.concatenate([first.gains, second.gains]))
    kept = tuple(averaged(first.members, second.members)) if verdict.kept else ()
    return replace(found, of_tuning=verdict, steps=(first.step, second.step), members=kept)


def two_sides(groups: list[Group]) -> tuple[list[Pair], list[Pair]]:
    """Two groups against each other, both ways, and the two others."""
    one, two = ([Pair(a, b), Pair(b, a)] for a, b in (groups[:2], groups[2:]))
    return one, two


def adapted(
    problem: Problem, fit: RobustFit, config: Config, ensemble: Ensemble | None = None, device: str = "auto"
) -> Adaptation | None:
    """Adapt to a survey, or to a part that decides for it; None where it is too small to tell, or without ties.

    Parameters
    ----------
    fit
        The robust one of the whole survey.
    ensemble
        The shipped one when not given.
    """
    part = deciding_part(problem, fit.design)
    enough = part.m.size >= ADAPT_MEASUREMENTS and part.n_exposures >= ADAPT_EXPOSURES
    if not enough or not LearnedEquations(fit).ties.precision.size:
        return None
    groups = quarters(part, fit, config, ensemble, device)
    found = judged(groups)
    if not config.fine_tune:
        return found
    members = [copy.deepcopy(member).to("cpu") for member in (ensemble or shipped()).members]
    return fine_tuned(groups, members, found)


def quarters(
    problem: Problem, fit: RobustFit, config: Config, ensemble: Ensemble | None = None, device: str = "auto"
) -> list[Group]:
    """Four groups of a survey's stars, solved and looked at alone; arguments as for `adapted`."""
    parts = solved_apart(problem, fit, 4, config)
    return [Group.of(found, heard(quarter, found, ensemble, device)) for quarter, found in parts]
