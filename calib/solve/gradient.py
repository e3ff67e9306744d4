"""The exact solve as a function that torch can differentiate: one adjoint solve, whatever the number of weights.

The unknowns ``x = (star, theta)`` minimise ``sum w (m - A x)^2 + sum lambda (x - mu)^2``, the rows of A being
``A_i x = u_i . star_s - phi_i . theta_e``; so ``H x = A' W m + lambda mu``. For a loss with gradients g of x let
``H a = g``, ``q = A a`` and ``r = m - A x``:

    dl/dw_i = q_i r_i,  dl/dm_i = w_i q_i,  dl/dlambda = a (mu - x),  dl/dmu = lambda a,
    d log det H / dw_i = Var(A_i x),  d log det H / dlambda = Var(x).

Eliminating the stars, ``L a_theta = g_theta + sum w phi u . D^-1 g_star`` has the matrix of the solve itself: the same
engine answers it. Zero-points of a floating group have zero mean, and so have their adjoints.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from calib.solve import kernels
from calib.solve.design import Design
from calib.solve.engines import Engine, Solver
from calib.solve.normal import NormalEquations, Prior, Topology
from calib.solve.predictions import prediction_variance
from calib.solve.system import System

if TYPE_CHECKING:
    from torch import Tensor

Array = NDArray[np.float64]


class NotConverged(RuntimeError):
    """A solve that gradients would stand on did not converge."""


class DifferentiableSolve:
    """``(w, m, lambda, mu) -> (theta, stars)`` of one design, with gradients for all of them.

    Parameters
    ----------
    design
        The measurements; float64 tensors are expected in their order.
    prior
        What is added to every solve: hubs, and the precisions that are not given by the call. None by default.
    topology
        Of the design with the prior's hubs; made when not given.
    engine, tolerance_sigma
        As for `calib.solve.engines.Solver`.
    """

    def __init__(
        self,
        design: Design,
        prior: Prior | None = None,
        topology: Topology | None = None,
        *,
        engine: Engine = "direct",
        tolerance_sigma: float = 1e-7,
    ) -> None:
        self.design, self.prior = design, prior or Prior.none(design)
        self.topology = topology or Topology(design)
        self.engine: Engine = engine
        self.tolerance_sigma = tolerance_sigma
        self.star = design.graph.star()

    def __call__(
        self,
        w: Tensor,
        m: Tensor,
        precision: Tensor | None = None,
        mean: Tensor | None = None,
        star_precision: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Solve.

        Parameters
        ----------
        w, m
            (n,), weights in mag^-2 and magnitudes, sorted by star.
        precision, mean
            (E + H, K), precision (mag^-2) of a prior of each unknown and its mean (mag), beyond the fixed prior; none
            and zero when not given.
        star_precision
            (S,), of the stars' responses to seeing, beyond the fixed prior and about its mean.

        Returns
        -------
        theta : (E + H, K)
            Zero mean over the zero-points of every floating group.
        stars : (S, P)
            Zero where a star has no weight.

        Raises
        ------
        NotConverged
            The solve or its adjoint did not reach the tolerance.
        """
        theta, stars = _functions()[0].apply(self, *self._complete(w, m, precision, mean, star_precision))
        return theta, stars

    def log_det(self, w: Tensor, precision: Tensor | None = None, star_precision: Tensor | None = None) -> Tensor:
        """Log determinant of H, with one zero-point of each floating group held.

        A group is floating or held by precisions; the two determinants differ, and the gradient is that of the one.
        """
        out: Tensor = _functions()[1].apply(self, *self._complete(w, w, precision, None, star_precision)[::2])
        return out

    def _complete(self, w: Tensor, m: Tensor, precision: Any, mean: Any, star_precision: Any) -> tuple[Tensor, ...]:
        import torch

        shape = self.prior.rhs.shape
        precision = torch.zeros(shape, dtype=torch.float64) if precision is None else precision
        mean = torch.zeros(shape, dtype=torch.float64) if mean is None else mean
        if star_precision is None:
            star_precision = torch.zeros(self.design.n_stars, dtype=torch.float64)
        return w, m, precision, mean, star_precision

    def equations(self, w: Array, m: Array, precision: Array, mean: Array, star_precision: Array) -> NormalEquations:
        """Normal equations with the precisions of a call added to the fixed prior."""
        fixed = self.prior
        diagonal = fixed.diagonal.copy()
        k = np.arange(self.design.block)
        diagonal[:, k, k] += precision
        rhs = fixed.rhs + precision * mean
        prior = replace(fixed, diagonal=diagonal, rhs=rhs, star=fixed.star + star_precision)
        return NormalEquations(self.design, m, w, prior, self.topology)

    def seen(self, stars: Array) -> Array:
        """``u_i . star_s`` of every measurement, (n,)."""
        out: Array = stars[self.star, 0]
        if self.design.star_block == 2 and self.design.response is not None:
            out = out + self.design.response[self.design.graph.exposure] * stars[self.star, 1]
        return out

    def gathered(self, values: Array) -> Array:
        """``sum_i phi_i values_i`` over the measurements of each node, (E + H, K)."""
        xy, centre, _ = self.design.arrays
        node, K = self.design.graph.exposure, self.design.block
        out = np.zeros(self.prior.rhs.shape)
        phi = kernels.basis(xy, K, centre) if K > 1 else np.ones((values.size, 1))
        for a in range(K):
            out[: self.design.n_nodes, a] = np.bincount(node, phi[:, a] * values, self.design.n_nodes)
        return out

    def solver(self, equations: NormalEquations) -> Solver:
        """The engine for these equations."""
        return Solver(equations, self.engine)

    def answer(self, solver: Solver, rhs: Array | None) -> Array:
        """Theta, or an error."""
        solved = solver.solve(rhs, tolerance_sigma=self.tolerance_sigma)
        if not solved.converged:
            raise NotConverged(f"engine {solved.engine}, {solved.error_sigma:.1e} sigma left: {solved.why.value}")
        return solved.theta


def _star_inverse_times(inverse: Array, g: Array) -> Array:
    """``D_s^-1 g_s``, (S, P)."""
    if g.shape[1] == 1:
        return inverse[:, :1] * g
    a, b, c = inverse.T
    return np.stack([a * g[:, 0] + b * g[:, 1], b * g[:, 0] + c * g[:, 1]], 1)


@cache
def _functions() -> tuple[Any, Any]:
    """The two autograd functions; made when first used, so that torch is imported then."""
    import torch
    from torch.autograd.function import once_differentiable

    def numpy(tensor: Tensor) -> Any:
        return tensor.detach().cpu().numpy()

    def like(values: Array, tensor: Tensor) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(tensor)

    class Solve(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, job: DifferentiableSolve, *inputs: Tensor) -> tuple[Tensor, Tensor]:
            w, m, precision, mean, star_precision = (numpy(t) for t in inputs)
            equations = job.equations(w, m.astype(float), precision, mean, star_precision)
            solver = job.solver(equations)
            estimate = equations.estimate(job.answer(solver, None))
            stars = np.nan_to_num(estimate.stars)
            ctx.job, ctx.solver, ctx.theta, ctx.stars, ctx.inputs = job, solver, estimate.theta, stars, inputs
            # without weight there is no residual to learn from
            ctx.residual = np.nan_to_num(estimate.residual)
            return like(estimate.theta, inputs[2]), like(stars, inputs[2])

        @staticmethod
        @once_differentiable
        def backward(ctx: Any, g_theta: Tensor, g_stars: Tensor) -> tuple[Tensor | None, ...]:
            job, solver, equations = ctx.job, ctx.solver, ctx.solver.equations
            w, _, precision, mean, _ = (numpy(t) for t in ctx.inputs)
            inverse, design = equations.star_inverse, job.design
            own = _star_inverse_times(inverse, numpy(g_stars).astype(float))
            along = job.seen(own)
            a = job.answer(solver, numpy(g_theta) + job.gathered(w * along))
            # A a: stars of the adjoint by back substitution, without magnitudes
            xy, centre, response = design.arrays
            stars, minus_q = np.empty_like(own), np.empty(design.n_measurements)
            kernels.back_substitute(
                design.graph.star_ptr, design.graph.exposure, np.zeros(design.n_measurements), w, inverse, xy,
                design.block, centre, design.star_block, response, a, stars, minus_q,
            )  # fmt: skip
            q = along - np.nan_to_num(minus_q)
            stars = np.nan_to_num(stars) + own
            of_response = np.zeros(stars.shape[0])
            if stars.shape[1] == 2:
                expected = 0.0 if job.prior.star_mean is None else job.prior.star_mean
                of_response = stars[:, 1] * (expected - ctx.stars[:, 1])
            grads = (q * ctx.residual, w * q, a * (mean - ctx.theta), precision * a, of_response)
            return None, *(like(g, t) for g, t in zip(grads, ctx.inputs, strict=True))

    class LogDet(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, job: DifferentiableSolve, *inputs: Tensor) -> Tensor:
            w, precision, star_precision = (numpy(t) for t in inputs)
            zero = np.zeros_like(precision)
            equations = job.equations(w, np.zeros(w.size), precision, zero, star_precision)
            system = System(equations)
            ctx.job, ctx.system, ctx.inputs = job, system, inputs
            inverse = equations.star_inverse
            det = inverse[:, 0] if job.design.star_block == 1 else inverse[:, 0] * inverse[:, 2] - inverse[:, 1] ** 2
            det = np.where(det > 0, det, inverse[:, 0])
            value = system.factor.log_det - system.log_ground - float(np.log(det[det > 0]).sum())
            return like(np.asarray(value), inputs[1])

        @staticmethod
        @once_differentiable
        def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
            job, system = ctx.job, ctx.system
            equations, design, top = system.equations, job.design, job.topology
            selected = system.factor.selected_inverse()
            xy, centre, response = design.arrays
            place = (xy, design.block, centre, design.star_block, response)
            variance, star, _ = prediction_variance(
                design.walk, design.graph.exposure, equations.w, equations.star_inverse, top.indptr, top.indices, place,
                selected.diagonal, selected.blocks, np.zeros(system.shape),
            )  # fmt: skip
            node = np.where(system.empty, 0.0, np.einsum("ekk->ek", selected.diagonal))
            of_response = star[:, 2] if design.star_block == 2 else np.zeros(star.shape[0])
            grads = (np.nan_to_num(variance), node, np.nan_to_num(of_response))
            return None, *(g * like(x, t) for x, t in zip(grads, ctx.inputs, strict=True))

    return Solve, LogDet
