"""What the robust fit itself says of outliers and of variable stars, as logits that the network corrects."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from calib.solve.robust import RobustFit

Floats = NDArray[np.float32]

LARGEST = 9.0


def outlier_logit(fit: RobustFit) -> Floats:
    """(n,), of the probability that a measurement's noise is an outlier's."""
    return _logit(fit.outlier_probability(fit.noise.base(fit.design.graph.exposure, fit.err)))


def variable_logit(fit: RobustFit) -> Floats:
    """(S,), of the probability that a star varies."""
    return _logit(np.nan_to_num(fit.weighted.variable, nan=0.5))


def _logit(p: NDArray[np.floating]) -> Floats:
    p = np.clip(np.asarray(p, float), 1e-4, 1.0 - 1e-4)
    return np.clip(np.log(p / (1.0 - p)), -LARGEST, LARGEST).astype(np.float32)
