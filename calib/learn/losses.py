"""What the network is asked for, on surveys whose truth is known.

- zero-points: the logarithm of their error over the robust one's, half of it with every exposure counted alike in mag,
  half in units of the robust errors; and the Gaussian negative log likelihood of the truth under the stated variance,
  without which errors would be arbitrary;
- reconstruction of residuals left out (`calib.learn.autoencoder`);
- outliers and variable stars: cross-entropy of the robust logits corrected.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from calib.learn.autoencoder import reconstruction_loss
from calib.learn.exact import LearnedEquations
from calib.learn.features import features_of
from calib.learn.logits import outlier_logit, variable_logit
from calib.learn.network import Said
from calib.learn.samples import Sample

if TYPE_CHECKING:
    from calib.learn.pyg import HeteroData

NAMES = ("zeropoint", "likelihood", "reconstruction", "outlier", "variable")
LARGEST_PULL2 = 36.0
CLEAR_OUTLIER = 3.0
"""Glitches of fewer sigma are neither outliers nor not."""
CLEAR_VARIABLE = 1.0
"""Variable stars of less than this times their noise are neither."""


@dataclass
class Lesson:
    """A survey as training takes it: features, the solve, and the truth as tensors.

    ``truth_variance`` is zero where a simulation knows the truth; other stars of the same exposures may stand for it
    (benchmarks/halves.py).
    """

    seed: int
    data: HeteroData
    job: LearnedEquations
    truth: Tensor
    truth_variance: Tensor
    linked: Tensor
    robust_error: Tensor
    robust_variance: Tensor
    outlier_logit: Tensor
    outlier: Tensor
    outlier_known: Tensor
    variable_logit: Tensor
    variable: Tensor
    variable_known: Tensor

    @classmethod
    def of(cls, sample: Sample) -> Lesson:
        """Make what every step needs, once."""
        job = LearnedEquations(sample.fit)
        # of what blends too faint to be seen do, zero-points are freed afterwards: it is not the networks' to take away
        truth = job.centring(sample.truth.zeropoint - sample.fit.faint_blends)
        n, size = job.design.n_nodes, job.topology.size[job.topology.component]
        ones = torch.ones(job.design.n_measurements), torch.ones(n, 3), torch.ones(job.design.n_stars)
        z = job.zeropoints(*ones)
        star = sample.problem.graph.star()
        amplitude, visits = sample.truth.variable, np.diff(sample.problem.graph.star_ptr)
        base = sample.fit.noise.base(sample.problem.graph.exposure, sample.fit.err)
        noise = np.sqrt(np.bincount(star, base, amplitude.size) / np.maximum(visits, 1))
        return cls(
            sample.seed, features_of(sample.problem, sample.fit).to_hetero_data(), job, torch.from_numpy(truth),
            torch.zeros(n, dtype=torch.double), torch.from_numpy(size > 2), z - torch.from_numpy(truth),
            job.variances(*ones),
            torch.from_numpy(outlier_logit(sample.fit)),
            torch.from_numpy(sample.truth.outlier).float(),
            torch.from_numpy(~sample.truth.outlier | (sample.truth.outlier_sigma > CLEAR_OUTLIER)).float(),
            torch.from_numpy(variable_logit(sample.fit)), torch.from_numpy(amplitude > 0).float(),
            torch.from_numpy((visits > 1) & ((amplitude == 0) | (amplitude > CLEAR_VARIABLE * noise))).float(),
        )  # fmt: skip

    def to(self, device: str) -> Lesson:
        """With its tensors on a device; the solve stays where it is."""
        data = self.data.clone().to(device)  # PyG moves data in place
        tensors: dict[str, Any] = {
            f.name: x.to(device) for f in fields(self) if isinstance(x := getattr(self, f.name), Tensor)
        }
        return replace(self, data=data, **tensors)


def losses_of(lesson: Lesson, said: Said) -> tuple[dict[str, Tensor], dict[str, float]]:
    """All losses of a survey, and what is watched: error over robust error, and mean squared pull."""
    factors = tuple(torch.exp(x.double()) for x in (said.weight, said.tie, said.response))
    inside = lesson.linked
    error = (lesson.job.zeropoints(*factors) - lesson.truth)[inside]
    unsure = lesson.truth_variance[inside]
    variance = lesson.job.variances(*factors)[inside].clamp(min=1e-14) + unsure
    before, before_variance = lesson.robust_error[inside], lesson.robust_variance[inside] + unsure

    def log_ratio(weight: Tensor) -> Tensor:
        return 0.5 * torch.log((weight * error**2).sum() / (weight * before**2).sum())

    pull2 = error**2 / variance
    losses = {
        "zeropoint": 0.5 * (log_ratio(torch.ones_like(error)) + log_ratio(1.0 / before_variance)),
        "likelihood": 0.5 * (torch.log(variance / before_variance) + huber(pull2)).mean(),
        "reconstruction": reconstruction_loss(said.decoded, lesson.data["measurement"].t),
        "outlier": _entropy(lesson.outlier_logit + said.outlier, lesson.outlier, lesson.outlier_known)
        + _entropy(said.decoded.outlier, lesson.outlier, lesson.outlier_known),
        "variable": _entropy(lesson.variable_logit + said.variable, lesson.variable, lesson.variable_known),
    }
    watched = {
        "ratio": float(torch.sqrt((error**2).sum() / (before**2).sum()).detach()),
        "pull2": float(pull2.detach().clamp(max=LARGEST_PULL2).mean()),
        "robust_pull2": float((before**2 / before_variance).clamp(max=LARGEST_PULL2).mean()),
    }
    return losses, watched


def huber(pull2: Tensor, corner: float = 3.0) -> Tensor:
    """Squared pulls, growing linearly in the pull beyond the corner."""
    size = torch.sqrt(pull2 + 1e-12)
    return torch.where(size < corner, pull2, corner * (2.0 * size - corner))


def _entropy(logit: Tensor, truth: Tensor, known: Tensor) -> Tensor:
    each: Any = binary_cross_entropy_with_logits(logit.float(), truth, reduction="none")
    out: Tensor = (each * known).sum() / known.sum().clamp(min=1.0)
    return out


