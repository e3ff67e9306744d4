"""Gauges: the functional of each component that is held, since stars fix zero-points only up to a constant."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from calib.solve.factor import Factor
from calib.solve.few_stars import StarFactor
from calib.solve.kernels import basis

Array = NDArray[np.float64]

# ruff: noqa: D103 - the kernel's one line stands in its comment


@njit(cache=True, nogil=True)
def _star_functional(star_ptr, node, w, inv, phi, P, h, omega, out):  # type: ignore[no-untyped-def]
    # out (E, K) += the coefficients of theta in sum_s omega_s M_s
    for s in range(star_ptr.size - 1):
        if omega[s] == 0.0:
            continue
        for i in range(star_ptr[s], star_ptr[s + 1]):
            e = node[i]
            b = omega[s] * np.float64(w[i]) * (inv[s, 0] + (inv[s, 1] * h[e] if P == 2 else 0.0))
            for a in range(phi.shape[1]):
                out[e, a] += b * phi[i, a]


def along_gauge(
    factor: Factor | StarFactor, functional: Array, component: NDArray[np.int32], group: NDArray[np.int32]
) -> tuple[Array, Array]:
    """Covariance of every node's unknowns with its own component's functional, and the functionals' variances.

    Components that hubs tie together share a factor, so their functionals are solved for apart; others all at once.

    Parameters
    ----------
    functional
        (E + H, K), coefficients of theta; those of one component sum to one over its zero-points.
    component
        (E,).
    group
        (components,), label shared by components that are tied.
    """
    n = component.size
    n_components = group.size
    live = np.bincount(component, weights=np.abs(functional[:n]).sum(1), minlength=n_components) > 0
    turn = np.zeros(n_components, np.int64)
    order = np.lexsort((np.arange(n_components), ~live, group))
    starts = np.concatenate([[True], np.diff(group[order]) != 0])
    first = np.maximum.accumulate(np.where(starts, np.arange(n_components), 0))
    turn[order] = np.arange(n_components) - first
    turn[~live] = 0
    along = np.zeros_like(functional)
    for k in range(int(turn.max(initial=0)) + 1):
        mine = (turn[component] == k) & live[component]
        rhs = np.zeros_like(functional)
        rhs[:n][mine] = functional[:n][mine]
        along[:n][mine] = factor.solve(rhs)[:n][mine]
    variance = np.bincount(component, weights=(along * functional)[:n].sum(1), minlength=n_components)
    return along, np.asarray(variance, float)


def star_functional(equations: Any, omega: Array) -> Array:
    """(E + H, K), the coefficients of theta in ``sum_s omega_s M_s`` of some normal equations.

    Parameters
    ----------
    equations
        `NormalEquations`, whose weights say how a star averages its measurements.
    omega
        (S,), shares of the stars.
    """
    design = equations.design
    xy, centre, response = design.arrays
    phi = basis(xy, design.block, centre) if design.block > 1 else np.ones((design.n_measurements, 1))
    out = np.zeros((design.n_nodes + equations.topology.hubs.n, design.block))
    _star_functional(
        design.graph.star_ptr, design.graph.exposure, equations.w, equations.star_inverse, phi, design.star_block,
        response, omega, out,
    )  # fmt: skip
    return out
