"""The measurements as the solve sees them: sorted by star, with places in the field and each exposure's seeing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from calib.solve.assembly import Walk
from calib.solve.dense import DenseFields
from calib.workers import asked

if TYPE_CHECKING:
    from calib.model.by_magnitude import ByMagnitude
    from graphs import ExposureGraph, MeasurementGraph

BLOCK_SIZES = {0: 1, 1: 3, 2: 6}
"""Coefficients of a node for each degree of its surface: 1; and x, y; and x^2, x y, y^2. One by magnitude adds one."""


@dataclass(frozen=True)
class Design:
    """What multiplies the unknowns: ``m = u . star - phi . theta``, ``u = (1, h)``, ``phi = (1, x, y, ..., g)``.

    Parameters
    ----------
    graph
        Measurements sorted by star; its exposures are the nodes that carry zero-points.
    xy
        float32 (n, 2), place in the field in half fields, sorted by star; None when the degree is 0.
    degree
        Of the surface across the field: 0, 1 or 2.
    centre
        float64 (K,), mean of each basis function over the field, so that surfaces have zero mean.
    response
        float64 (n_nodes,), the standardised seeing h_e that stars respond to; None when they do not.
    by_magnitude
        What an exposure does to each measurement by its star's magnitude; None where nodes have no such term.
    """

    graph: MeasurementGraph
    xy: NDArray[np.float32] | None = None
    degree: int = 0
    centre: NDArray[np.float64] | None = None
    response: NDArray[np.float64] | None = None
    by_magnitude: ByMagnitude | None = None

    def __post_init__(self) -> None:
        if self.degree not in BLOCK_SIZES:
            raise ValueError(f"degree is {self.degree}, expected one of {sorted(BLOCK_SIZES)}")
        if self.degree > 0 and self.xy is None:
            raise ValueError("a surface needs places: give xy or use degree 0")
        if self.xy is not None and self.xy.shape != (self.graph.n_measurements, 2):
            raise ValueError(f"xy has shape {self.xy.shape}, expected ({self.graph.n_measurements}, 2)")
        if self.response is not None and self.response.shape != (self.graph.n_exposures,):
            raise ValueError(f"response has shape {self.response.shape}, expected ({self.graph.n_exposures},)")
        if self.by_magnitude is not None and self.by_magnitude.g.shape != (self.graph.n_measurements,):
            raise ValueError(f"g has shape {self.by_magnitude.g.shape}, expected ({self.graph.n_measurements},)")

    @property
    def block(self) -> int:
        """K, the number of unknowns of a node."""
        return self.surface_block + (self.by_magnitude is not None)

    @property
    def surface_block(self) -> int:
        """Unknowns of a node that its surface and zero-point take; that of the stars' magnitude is behind them."""
        return BLOCK_SIZES[self.degree]

    @property
    def star_block(self) -> int:
        """P, the number of unknowns of a star: its magnitude and, with a response, its answer to seeing."""
        return 1 if self.response is None else 2

    @property
    def n_stars(self) -> int:
        """Number of stars."""
        return self.graph.n_stars

    @property
    def n_nodes(self) -> int:
        """Number of nodes: exposures x band (x detector)."""
        return self.graph.n_exposures

    @property
    def n_measurements(self) -> int:
        """Number of measurements."""
        return self.graph.n_measurements

    @cached_property
    def walk(self) -> Walk:
        """Order of assembly."""
        return Walk.of(self.graph.star_ptr, self.graph.exposure, self.n_nodes)

    @cached_property
    def dense(self) -> DenseFields | None:
        """Components whose stars are in most of their nodes."""
        return DenseFields.of(self.walk, self.components)

    @cached_property
    def components(self) -> NDArray[np.int32]:
        """int32 (E,), nodes that stars link, one way or another."""
        return self.graph.components()

    @cached_property
    def links(self) -> ExposureGraph:
        """Pattern of the Laplacian: which nodes share stars."""
        from graphs import MeasurementGraph

        walk = self.walk  # the same graph, its stars in the order of assembly: several times faster to link
        graph = MeasurementGraph(walk.star_ptr, walk.nodes, walk.source, self.n_nodes)
        return replace(graph.exposure_graph(threads=asked()), incidence=None)

    @cached_property
    def arrays(self) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.float64]]:
        """(places, centre, response) with stand-ins for what is absent, as the kernels take them.

        Places are x, y, and with a term by magnitude its g, whose mean is not taken off.
        """
        xy = np.zeros((1, 2), np.float32) if self.xy is None else self.xy
        if self.by_magnitude is not None:
            flat = np.zeros((self.n_measurements, 2), np.float32) if self.xy is None else self.xy
            xy = np.column_stack([flat, self.by_magnitude.g])
        centre = np.zeros(self.block)
        if self.centre is not None:
            centre[: self.surface_block] = np.asarray(self.centre, float)[: self.surface_block]
        response = np.zeros(1) if self.response is None else self.response
        return xy, centre, response

    def with_terms(
        self, degree: int, response: NDArray[np.float64] | None, by_magnitude: ByMagnitude | None = None
    ) -> Design:
        """The same measurements under other local terms; the links are shared."""
        other = replace(self, degree=degree, response=response, by_magnitude=by_magnitude)
        for kept in ("links", "walk", "components", "dense"):
            if kept in self.__dict__:
                other.__dict__[kept] = self.__dict__[kept]
        return other
