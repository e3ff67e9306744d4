"""The softest patterns of zero-points: what the measurements constrain least."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator, eigsh

from graphs.errors import GraphError
from graphs.laplacian import Blocks, PseudoInverse

if TYPE_CHECKING:
    from graphs.exposures import ExposureGraph

Float64s = NDArray[np.float64]
Int32s = NDArray[np.int32]

DENSE_LIMIT = 300  # exposures of a component up to which a dense eigensolver is faster


@dataclass(frozen=True, eq=False)
class WeakModes:
    """Softest eigenvectors of the weighted Laplacian, softest first.

    Attributes
    ----------
    eigenvalue : (k,) float64, mag**-2
        Of ``L v = eigenvalue v``; the zero-points' error along v has variance ``1 / eigenvalue``.
    rms : (k,) float64, mag
        What the mode adds, in quadrature, to the zero-points of its component: ``1 / sqrt(eigenvalue n)``, n its
        exposures. A true error only where the weights are inverse variances.
    component : (k,) int32
        The component it lives in.
    vector : (n_exposures, k) float64
        Of unit length, zero outside its component, largest entry positive.
    """

    eigenvalue: Float64s
    rms: Float64s
    component: Int32s
    vector: Float64s


def weak_modes(graph: ExposureGraph, k: int = 3, component: int | None = None) -> WeakModes:
    """Softest modes of a graph; a component of n exposures has n - 1, its overall shift being the gauge.

    Lanczos on the pseudo-inverse of the Laplacian, whose largest eigenvalues are the softest modes; dense on small
    components. Measurements that share stars at random leave no soft mode; a long thin survey, or two halves joined
    by few stars, leaves one that dwarfs the rest.

    Parameters
    ----------
    graph
        Links with weights in mag**-2.
    k
        How many; fewer are returned if the graph has fewer.
    component
        Only those of this component; otherwise the softest of all.

    Raises
    ------
    GraphError
        There is no such component.
    """
    blocks = Blocks.of(graph)
    if component is not None and not 0 <= component < blocks.n_components:
        raise GraphError(f"no component {component}; there are {blocks.n_components}")
    chosen = range(blocks.n_components) if component is None else [component]
    found: list[tuple[float, int, Float64s]] = []
    for c in chosen:
        if blocks.size(c) > 1 and k > 0:
            values, vectors = softest(blocks, c, k)
            found.extend((float(value), c, vector) for value, vector in zip(values, vectors.T, strict=True))
            found = sorted(found, key=lambda mode: mode[:2])[:k]
    vector = np.zeros((graph.n_exposures, len(found)))
    for column, (_, c, entries) in enumerate(found):
        vector[blocks.exposures(c), column] = entries
    eigenvalue = np.array([value for value, _, _ in found], np.float64)
    labels = np.array([c for _, c, _ in found], np.int32)
    n = np.diff(blocks.ptr)[labels]
    return WeakModes(eigenvalue, 1 / np.sqrt(eigenvalue * n), labels, vector)


def softest(blocks: Blocks, component: int, k: int, inverse: PseudoInverse | None = None) -> tuple[Float64s, Float64s]:
    """Softest ``min(k, n - 1)`` modes of one component of n > 1: (eigenvalues ascending, vectors (n, k))."""
    n = blocks.size(component)
    k = min(k, n - 1)
    if n <= DENSE_LIMIT or k > n // 4:
        values, vectors = np.linalg.eigh(blocks.block(component).toarray())
        values, vectors = values[1 : k + 1], vectors[:, 1 : k + 1]
    else:
        inverse = inverse or PseudoInverse(blocks.block(component))
        operator = LinearOperator((n, n), matvec=lambda b: inverse.apply(b.ravel()), dtype=np.float64)
        start = np.random.default_rng(0).standard_normal(n)
        softness, vectors = eigsh(operator, k=k, which="LM", v0=start - start.mean(), tol=1e-10)
        softer_first = np.argsort(-softness)
        values, vectors = 1 / softness[softer_first], vectors[:, softer_first]
    largest = vectors[np.argmax(np.abs(vectors), axis=0), np.arange(k)]
    return values, vectors * np.sign(largest)
