"""Small seeded surveys, and the slow obvious way to their graphs."""

from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import settings

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
settings.register_profile("graphs", deadline=None, derandomize=True, max_examples=40)
settings.load_profile("graphs")


def random_links(n, n_links, seed):
    """Distinct pairs of n exposures with stars and weights."""
    rng = np.random.default_rng(seed)
    everything = np.column_stack(np.triu_indices(n, 1))
    pairs = everything[rng.permutation(len(everything))[:n_links]]
    return pairs, rng.integers(1, 20, len(pairs)), rng.uniform(0.5, 50, len(pairs))


@pytest.fixture(params=[(12, 14, 0), (12, 40, 1), (25, 30, 2), (8, 4, 3)], ids=lambda p: f"{p[0]}-{p[1]}")
def small(request):
    """A small exposure graph, sparse enough to have bridges and several components."""
    from graphs import ExposureGraph

    n, n_links, seed = request.param
    return ExposureGraph.from_links(n, *random_links(n, n_links, seed))


@pytest.fixture
def survey():
    """Codes of 300 measurements of 40 stars in 15 exposures, with repeats, an unseen star and an idle exposure."""
    rng = np.random.default_rng(5)
    star = rng.integers(0, 40, 300).astype(np.int32)
    exposure = rng.integers(0, 15, 300).astype(np.int32)
    star[star == 7] = 8
    exposure[exposure == 3] = 4
    return star, exposure, 41, 16
