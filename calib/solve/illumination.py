"""Surfaces across the field, shrunk to what their night and their survey have in common.

    g_e ~ t(g_night, S_exposure),  g_night ~ t(g_band, S_night),  g_band ~ N(0, S_band)

Nights and bands are hubs of the Laplacian, so that what they take from all exposures, and the error that a shared
gradient leaves in the zero-points (it is nearly degenerate with a tilt of the sky), come out of the one solve.
Where detectors have zero-points of their own, each has a flat field too, and is as a band here (`Problem.channels`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int32]

SMALLEST_NIGHT = 4
"""Exposures that a night needs before it has an illumination of its own."""
MOST_NIGHTS = 400
"""Beyond this many, nights share the band's illumination: their hubs would fill the factor."""


@dataclass(frozen=True)
class Illumination:
    """Which hub each node and each night hangs on.

    Attributes
    ----------
    n_bands, n_nights
        Hubs of bands come first, then those of nights.
    first
        Number of the first hub.
    row, column
        int32 (E + nights,), pairs (node, its hub), then (its band, night).
    ties
        All False: surfaces do not tie zero-points together.
    """

    n_bands: int
    n_nights: int
    first: int
    row: Ints
    column: Ints

    @property
    def n_hubs(self) -> int:
        """Hubs of bands and nights."""
        return self.n_bands + self.n_nights

    @property
    def ties(self) -> NDArray[np.bool_]:
        """Which pairs tie zero-points: none."""
        return np.zeros(self.row.size, bool)

    @classmethod
    def of(cls, band: Ints, night: NDArray[np.int64] | None, first: int) -> Illumination:
        """Hang nodes on their night where it is known (not negative) and has exposures enough, else on their band."""
        n_bands = int(band.max(initial=-1)) + 1
        parent = (first + band).astype(np.int32)
        night_band = np.zeros(0, np.int32)
        if night is not None and band.size:
            keys, which, counts = np.unique(np.c_[band, night], axis=0, return_inverse=True, return_counts=True)
            which = which.ravel()
            good = (keys[:, 1] >= 0) & (counts >= SMALLEST_NIGHT)
            if 2 <= good.sum() <= MOST_NIGHTS:
                number = np.where(good, np.cumsum(good) - 1, -1)
                inside = number[which] >= 0
                parent[inside] = first + n_bands + number[which][inside]
                night_band = (first + keys[good, 0]).astype(np.int32)
        nights = first + n_bands + np.arange(night_band.size, dtype=np.int32)
        row = np.concatenate([np.arange(band.size, dtype=np.int32), night_band])
        return cls(n_bands, night_band.size, first, row, np.concatenate([parent, nights]).astype(np.int32))
