"""Small problems of every kind, and the dense solve that all fast paths are held against."""

from dataclasses import dataclass

import numpy as np
import pytest

from calib.model.by_magnitude import ByMagnitude
from calib.solve.design import Design
from calib.solve.normal import Hubs, NormalEquations, Prior, Topology
from graphs import MeasurementGraph

CENTRE = np.array([0.0, 0.05, -0.03, 0.3, 0.01, 0.35])


@dataclass
class Problem:
    """A solve and all that its oracle needs."""

    design: Design
    m: np.ndarray
    w: np.ndarray
    prior: Prior
    topology: Topology

    @property
    def equations(self) -> NormalEquations:
        return NormalEquations(self.design, self.m, self.w, self.prior, self.topology)


def _hubs(n, parent, tied):
    row = np.arange(n, dtype=np.int32)
    return Hubs(int(parent.max()) + 1, row, (n + parent).astype(np.int32), np.full(n, tied))


def _make(
    seed=0, n_nodes=9, n_stars=60, visits=4, K=1, P=1, islands=1, hubs=False, tied=False, anchors=False,
    duplicates=True, singles=True, idle=0.1, isolated=0, dtype=np.float32,
):  # fmt: skip
    """Random survey. Islands share no star; hubs shrink surfaces to groups of nodes, and with tied their zero-points
    too; anchors hold a few zero-points; idle is the share of measurements without weight; isolated nodes come last.
    """
    rng = np.random.default_rng(seed)
    linked = n_nodes - isolated
    star, node = [], []
    for s in range(n_stars):
        home = s % islands
        inside = np.arange(home, linked, islands)
        k = 1 if singles and s % 7 == 0 else min(inside.size, int(rng.integers(2, visits + 1)))
        chosen = list(rng.choice(inside, k, replace=False))
        if duplicates and s % 5 == 0:
            chosen.append(chosen[0])
        rng.shuffle(chosen)
        star += [s] * len(chosen)
        node += chosen
    graph = MeasurementGraph.from_codes(np.array(star, np.int32), np.array(node, np.int32), n_stars, n_nodes)
    n = len(star)
    degree, background = {1: (0, 0), 2: (0, 1), 3: (1, 0), 4: (1, 1), 6: (2, 0), 7: (2, 1)}[K]
    xy = rng.uniform(-1, 1, (n, 2)).astype(np.float32) if K > 2 else None
    h = rng.normal(size=n_nodes) if P == 2 else None
    term = ByMagnitude("background", rng.exponential(1.0, n).astype(np.float32)) if background else None
    design = Design(graph, xy, degree, CENTRE[: K - background].copy(), h, term)
    w = (1 / rng.uniform(0.01, 0.1, n) ** 2).astype(dtype)
    if idle:
        w[rng.random(n) < idle] = 0.0
        w[graph.star_ptr[1] : graph.star_ptr[2]] = 0.0  # a star without any weight
    border = _hubs(n_nodes, rng.integers(0, 2, n_nodes), tied) if hubs else Hubs.none()
    precision = np.zeros((n_nodes, K))
    precision[:, 1:] = rng.uniform(500, 5000, (n_nodes, K - 1))
    if tied:
        precision[:, 0] = 300.0
    total = n_nodes + border.n
    diagonal = np.zeros((total, K, K))
    k = np.arange(K)
    diagonal[:n_nodes, k, k] = precision
    coupling = np.zeros((border.row.size, K, K))
    if hubs:
        # a node's coefficients are held to mixtures of its hub's, of different ones in either direction
        mixed = np.eye(K) + np.triu(rng.uniform(-0.3, 0.3, (n_nodes, K, K)), 1)
        coupling[:] = -precision[:, :, None] * mixed
        np.add.at(diagonal, border.column, -np.einsum("eji,ejk->eik", mixed, coupling))
        diagonal[n_nodes:, k[1:], k[1:]] += 100.0
    rhs = np.zeros((total, K))
    if anchors:
        held = rng.choice(n_nodes, 3, replace=False)
        diagonal[held, 0, 0] += 2000.0
        rhs[held, 0] += 2000.0 * rng.normal(0, 0.1, 3)
    prior = Prior(diagonal, coupling, rhs, np.full(n_stars, 800.0), rng.normal(0, 0.05, n_stars) if P == 2 else None)
    m = rng.normal(0, 0.3, n) + rng.normal(18, 1, n_stars)[graph.star()]
    return Problem(design, m, w, prior, Topology(design, border))


def _basis(design):
    n, K = design.n_measurements, {0: 1, 1: 3, 2: 6}[design.degree]
    phi = np.ones((n, 1))
    if K > 1:
        x, y = design.xy.astype(float).T
        phi = np.stack([np.ones(n), x, y, x * x, x * y, y * y], 1)[:, :K] - CENTRE[:K] * (np.arange(K) > 0)
    return phi if design.by_magnitude is None else np.column_stack([phi, design.by_magnitude.g.astype(float)])


class Dense:
    """min (A x - m)' W (A x - m) + x' Q x - 2 q' x over x = (stars, theta), by pseudo-inverse."""

    def __init__(self, problem: Problem):
        d, p = problem.design, problem.prior
        n, S, P, K = d.n_measurements, d.n_stars, d.star_block, d.block
        total = p.diagonal.shape[0]
        self.shape = (S, P, total, K)
        star, node = d.graph.star(), d.graph.exposure
        u = np.ones((n, P))
        if P == 2:
            u[:, 1] = d.response[node]
        phi = _basis(d)
        A = np.zeros((n, S * P + total * K))
        i = np.arange(n)
        for a in range(P):
            A[i, star * P + a] = u[:, a]
        for a in range(K):
            A[i, S * P + node * K + a] = -phi[:, a]
        Q = np.zeros((A.shape[1],) * 2)
        at = S * P + np.arange(total)[:, None] * K + np.arange(K)
        for e in range(total):
            Q[np.ix_(at[e], at[e])] = p.diagonal[e]
        for c, (e, f) in enumerate(zip(problem.topology.hubs.row, problem.topology.hubs.column, strict=True)):
            Q[np.ix_(at[e], at[f])] = p.coupling[c]
            Q[np.ix_(at[f], at[e])] = p.coupling[c].T
        if P == 2:
            Q[np.arange(S) * 2 + 1, np.arange(S) * 2 + 1] = p.star
        w = problem.w.astype(float)
        self.A, self.w = A, w
        self.H = A.T @ (w[:, None] * A) + Q
        q = np.zeros(A.shape[1])
        q[S * P :] = p.rhs.ravel()
        if p.star_mean is not None:
            q[np.arange(S) * 2 + 1] = p.star * p.star_mean
        self.C = np.linalg.pinv(self.H, rcond=1e-13, hermitian=True)
        self.x = self.C @ (A.T @ (w * problem.m) + q)
        # gauges: the constant of each component of more than one node, and its mean
        self.null, self.functional = [], []
        top = problem.topology
        for c in range(top.n_components):
            inside = np.flatnonzero(top.component == c)
            if inside.size < 2:
                continue
            null, functional = np.zeros((2, A.shape[1]))
            null[at[inside, 0]] = 1.0
            null[np.unique(star[np.isin(node, inside)]) * P] = 1.0
            functional[at[inside, 0]] = 1.0 / inside.size
            self.null.append(null)
            self.functional.append(functional)

    def gauged(self, functional=None):
        """(x, C) with the mean of each component's zero-points at zero, or another functional (E + H, K) of theta."""
        S, P, total, K = self.shape
        M = np.eye(self.x.size)
        for null, mean in zip(self.null, self.functional, strict=True):
            f = mean
            if functional is not None:
                f = np.zeros_like(mean)
                f[S * P :] = functional.ravel() * np.repeat(mean[S * P :: K] > 0, K)
            M -= np.outer(null, f)
        return M @ self.x, M @ self.C @ M.T

    def split(self, x):
        S, P, total, K = self.shape
        return x[: S * P].reshape(S, P), x[S * P :].reshape(total, K)

    @property
    def laplacian(self):
        """The Schur complement of the stars, ((E + H) K, (E + H) K)."""
        S, P, _, _ = self.shape
        k = S * P
        return self.H[k:, k:] - self.H[k:, :k] @ np.linalg.pinv(self.H[:k, :k], hermitian=True) @ self.H[:k, k:]


def _survey(
    seed=0, n_exposures=12, n_stars=150, visits=6, err=(0.005, 0.03), scale=1.0, floor=0.0, dof=None, plane=0.0,
    places=False, bands=("r",),
):  # fmt: skip
    """Table of a survey whose noise is what it says, times a scale and with a floor; and its true zero-points."""
    import polars as pl

    rng = np.random.default_rng(seed)
    frames, truth = [], {}
    for band in bands:
        z = rng.normal(0, 0.1, n_exposures)
        z -= z.mean()
        slope = rng.normal(0, plane, (n_exposures, 2)) if plane else np.zeros((n_exposures, 2))
        star = np.repeat(np.arange(n_stars), visits)
        node = np.concatenate([rng.choice(n_exposures, visits, replace=False) for _ in range(n_stars)])
        sigma = np.exp(rng.uniform(*np.log(err), star.size))
        draw = rng.standard_t(dof, star.size) if dof else rng.normal(size=star.size)
        x, y = rng.uniform(0, 2000, (2, star.size))
        surface = slope[node, 0] * (x / 1000 - 1) + slope[node, 1] * (y / 1000 - 1)
        mag = rng.uniform(14, 18, n_stars)[star] - z[node] - surface + np.sqrt((scale * sigma) ** 2 + floor**2) * draw
        columns = {"star_id": star, "exposure_id": node, "band": [band] * star.size, "mag": mag, "mag_err": sigma}
        if plane or places:
            columns |= {"x": x, "y": y}
        frames.append(pl.DataFrame(columns))
        truth[band] = z
    return pl.concat(frames), truth


def _problem(frame, **config):
    from calib.config import Config
    from calib.model.problem import Problem as Numbered
    from calib.tables.measurements import read_measurements

    return Numbered.of(read_measurements(frame), Config(**config))


@pytest.fixture(scope="session")
def survey():
    return _survey


@pytest.fixture(scope="session")
def problem_of():
    return _problem


@pytest.fixture(scope="session")
def make():
    return _make


@pytest.fixture(scope="session")
def dense():
    return Dense
