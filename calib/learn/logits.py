"""What the robust fit itself says of outliers and of variable stars, as logits that the network corrects."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from calib.model.problem import Problem
from calib.solve.robust import RobustFit

Floats = NDArray[np.float32]

LARGEST = 9.0


def outlier_logit(problem: Problem, fit: RobustFit) -> Floats:
    """(n,), of the probability that a measurement's noise is an outlier's."""
    node = problem.graph.exposure
    base = fit.noise.base(node, fit.err).astype(float)
    leverage = np.clip(fit.noise.information[node] * fit.equations.w * fit.spread.prediction, 0.0, 0.99)
    noise = (base + fit.weighted.variability[problem.graph.star()]) * (1.0 - leverage)
    t2 = np.asarray(fit.estimate.residual, float) ** 2 / noise
    return _logit(fit.noise.outlier(node, np.nan_to_num(t2)))


def variable_logit(fit: RobustFit) -> Floats:
    """(S,), of the probability that a star varies."""
    return _logit(np.nan_to_num(fit.weighted.variable, nan=0.5))


def _logit(p: NDArray[np.floating]) -> Floats:
    p = np.clip(np.asarray(p, float), 1e-4, 1.0 - 1e-4)
    return np.clip(np.log(p / (1.0 - p)), -LARGEST, LARGEST).astype(np.float32)
