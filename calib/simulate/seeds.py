"""Independent generators derived from a seed and a key, so that any part of a survey can be made again alone."""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Part(IntEnum):
    """What a generator is for; the number enters the seed and is never reused."""

    POINTINGS = 1
    NIGHTS = 2
    EXPOSURES = 3
    SCREENS = 4
    FLATS = 5
    CELL = 6
    BLOCK = 7
    SHUFFLE = 8
    DENSITY = 9


def generator(seed: int, part: Part, *key: int) -> np.random.Generator:
    """Return the generator of one part of a survey.

    Parameters
    ----------
    seed : int
        The survey's seed, not negative.
    part : Part
        What is drawn.
    *key : int
        Which one of many, not negative (a sky cell, a block of exposures).
    """
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence((seed, int(part), *key))))
