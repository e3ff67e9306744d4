"""Lessons that need no truth: some of a survey's stars, with the zero-points of others in the place of it.

The others are solved without networks and as good as without nights, and stay as they are, so that nothing can be made
to agree by leaning on a prior that both have. The mean of the squared difference is then the squared error of what is
taught, but for a constant, as far as the two have no error in common.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from calib.config import Config
from calib.learn.engine import Heard
from calib.learn.groups import Group, Pair, solved_apart
from calib.learn.losses import Lesson
from calib.learn.samples import Sample


def parts_of(sample: Sample, parts: int) -> list[Sample]:
    """Deal a survey's stars, and solve each part from what the whole has learned."""
    whole, truth, out = sample.problem, sample.truth, []
    config = Config(method="robust", score=False, seed=sample.seed)
    for part, fit in solved_apart(whole, sample.fit, parts, config):
        row = np.isin(whole.input_row, part.input_row)
        own = replace(
            truth, outlier=truth.outlier[row], outlier_sigma=truth.outlier_sigma[row],
            variable=truth.variable[np.unique(whole.graph.star()[row])],
        )  # fmt: skip
        out.append(Sample(sample.seed, part, fit, own))
    return out


def lessons_of_halves(one: Sample, other: Sample) -> list[Lesson]:
    """Two lessons: some stars held against the others, and the other way round; empty where they share too little."""
    pupils = [Lesson.of(sample) for sample in (one, other)]
    groups = [Group.of(sample.fit, nothing(sample)) for sample in (one, other)]
    out = []
    for lesson, a, b in ((pupils[0], *groups), (pupils[1], *groups[::-1])):
        pair = Pair(a, b)
        if not pair.node.size:
            return []
        z = lesson.robust_error + lesson.truth
        truth, variance, linked = z.clone(), torch.zeros_like(z), torch.zeros_like(lesson.linked)
        truth[pair.node] = z[pair.node] - torch.from_numpy(pair.shifted(np.zeros(3)) * pair.error)
        variance[pair.node] = torch.from_numpy(b.free_variance[pair.node])
        linked[pair.node] = True
        out.append(
            replace(lesson, truth=truth, truth_variance=variance, linked=linked, robust_error=z - truth)
        )  # fmt: skip
    return out


def nothing(sample: Sample) -> Heard:
    """Of networks that say nothing."""
    design = sample.fit.design
    n, nodes, stars = design.n_measurements, design.n_nodes, design.n_stars
    zero = [np.zeros(shape, np.float32) for shape in ((1, n), (1, nodes, 3), (1, stars))]
    return Heard(zero[0], zero[1], zero[2], np.zeros(n, np.float32), 1.0)
