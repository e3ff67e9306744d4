"""The exact solve under learned factors, as torch sees it: zero-points, their variances, and gradients of both.

The unknowns x minimise ``sum w_i (m_i - A_i x)^2 + x' P x``; the network multiplies the robust weights w, the
precisions of the ties in P, and those of the stars' responses. With H the matrix of the minimum and ``H a = g`` for the
gradient g of a loss,

    dl/dw_i = (A_i a) r_i,   dl/dpi_t = -(c_t . a) (c_t . x - mu_t),   dl/dtau_s = a_s (mean_s - b_s);

(where ties alone change, none of it touches a measurement: `TiedEquations`);
for a zero-point's variance ``v_e = f_e' H^-1 f_e``, f_e the zero-point less its component's mean, and ``H x_e = f_e``,

    dv_e/dw_i = -(A_i x_e)^2,   dv_e/dpi_t = -(c_t . x_e)^2,   dv_e/dtau_s = -x_es^2.

Variances take one solve for every exposure: they are for training, on surveys of a few hundred.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from calib.learn.ties import Ties
from calib.solve import kernels
from calib.solve.normal import NormalEquations
from calib.solve.robust import RobustFit

if TYPE_CHECKING:
    from torch import Tensor

Array = NDArray[np.float64]


class LearnedEquations:
    """Normal equations of a robust fit under factors.

    Parameters
    ----------
    fit
        Where to start: design, weights and prior.
    """

    def __init__(self, fit: RobustFit) -> None:
        self.fit, self.design = fit, fit.design
        self.prior, self.m = fit.equations.prior, fit.equations.m
        self.topology = fit.equations.topology
        self.w = fit.equations.w
        self.ties = Ties.of(fit.terms.border, self.prior, fit.design)
        self.loss = fit.noise.information[fit.design.graph.exposure]

    def equations(self, weight: Array, tie: Array, star: Array, scale: float | Array = 1.0) -> NormalEquations:
        """With the weights times ``weight`` (n,) and ``scale``, ties times ``tie`` (E, 3), responses times ``star``."""
        prior = self.ties.added(self.prior, self.ties.precision * (self.ties.factors(tie) - 1.0))
        prior = replace(prior, star=self.prior.star * star)
        return NormalEquations(self.design, self.m, self.w * weight * scale, prior, self.topology)

    def zeropoints(self, weight: Tensor, tie: Tensor, star: Tensor) -> Tensor:
        """(E,), mag, mean zero in each component."""
        out: Tensor = _functions()[0].apply(self, weight, tie, star)
        return out

    def variances(self, weight: Tensor, tie: Tensor, star: Tensor) -> Tensor:
        """(E,), mag^2, of the zero-points about their components' mean, with the information that weights cost."""
        out: Tensor = _functions()[1].apply(self, weight, tie, star)
        return out

    def centring(self, values: Array) -> Array:
        """Values (E, ...) less the mean of each component: symmetric, so its own adjoint."""
        return self.topology.about_mean(values)

    def along(self, equations: NormalEquations, theta: Array) -> tuple[Array, Array]:
        """``A_i a`` (n,) and the stars (S, P) of an adjoint whose nodes' part is theta (E + H, K)."""
        design = self.design
        xy, centre, response = design.arrays
        stars, minus = np.empty((design.n_stars, design.star_block)), np.empty(design.n_measurements)
        kernels.back_substitute(
            design.graph.star_ptr, design.graph.exposure, np.zeros(design.n_measurements), equations.w,
            equations.star_inverse, xy, design.block, centre, design.star_block, response,
            np.ascontiguousarray(theta), stars, minus,
        )  # fmt: skip
        return -np.nan_to_num(minus), np.nan_to_num(stars)


class TiedEquations:
    """The solve of a survey in which nothing but ties changes: what its stars say is gathered once.

    Parameters
    ----------
    job
        The survey.
    weight, star
        (n,) and (S,), factors on weights and on the precisions of responses, which stay.
    """

    def __init__(self, job: LearnedEquations, weight: Array, star: Array) -> None:
        self.job, prior = job, job.prior
        untied = replace(
            prior, star=prior.star * star, diagonal=np.zeros_like(prior.diagonal),
            coupling=np.zeros_like(prior.coupling), rhs=np.zeros_like(prior.rhs),
        )  # fmt: skip
        self.untied = NormalEquations(job.design, job.m, job.w * weight, untied, job.topology)

    def solve(self, tie: Array) -> tuple[NormalEquations, Array]:
        """Under factors on the ties (E, 3): the equations, and nodes and hubs, (E + H, K)."""
        ties = self.job.ties
        prior = ties.added(self.job.prior, ties.precision * (ties.factors(tie) - 1.0))
        equations = self.untied.with_prior(prior)
        return equations, equations.factor.solve(equations.rhs)

    def zeropoints(self, tie: Tensor) -> Tensor:
        """(E,), mag, mean zero in each component."""
        out: Tensor = _functions()[2].apply(self, tie)
        return out


@cache
def _functions() -> tuple[Any, Any, Any]:
    import torch
    from torch.autograd.function import once_differentiable

    def numpy(tensor: Tensor) -> Any:
        return tensor.detach().cpu().numpy().astype(float)

    def like(values: Array, tensor: Tensor) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(tensor)

    class Zeropoints(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, job: LearnedEquations, *inputs: Tensor) -> Tensor:
            equations = job.equations(*(numpy(t) for t in inputs))
            estimate = equations.estimate()
            ctx.job, ctx.equations, ctx.estimate, ctx.inputs = job, equations, estimate, inputs
            n = job.design.n_nodes
            return torch.from_numpy(job.centring(estimate.theta[:n, 0].copy())).to(inputs[0].device)

        @staticmethod
        @once_differentiable
        def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
            job, equations, estimate = ctx.job, ctx.equations, ctx.estimate
            rhs = np.zeros(equations.prior.rhs.shape)
            rhs[: job.design.n_nodes, 0] = job.centring(numpy(gradient))
            a = equations.factor.solve(rhs)
            q, stars = job.along(equations, a)
            weight = q * np.nan_to_num(estimate.residual) * job.w
            tie = job.ties.pulled(estimate.theta, a)
            star = np.zeros(job.design.n_stars)
            if stars.shape[1] == 2:
                mean = 0.0 if job.prior.star_mean is None else job.prior.star_mean
                star = stars[:, 1] * (mean - np.nan_to_num(estimate.stars[:, 1])) * job.prior.star
            return None, *(like(g, t) for g, t in zip((weight, tie, star), ctx.inputs, strict=True))

    class Variances(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, job: LearnedEquations, *inputs: Tensor) -> Tensor:
            weight, tie, star = (numpy(t) for t in inputs)
            equations = job.equations(weight, tie, star, job.loss)
            n = job.design.n_nodes
            functional = job.centring(np.eye(n))
            rhs = np.zeros((*equations.prior.rhs.shape, n))
            rhs[:n, 0] = functional
            x = equations.factor.solve(rhs)
            ctx.job, ctx.equations, ctx.x, ctx.inputs = job, equations, x, inputs
            return torch.from_numpy(np.einsum("en,en->n", functional, x[:n, 0])).to(inputs[0].device)

        @staticmethod
        @once_differentiable
        def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
            job, equations, x, g = ctx.job, ctx.equations, ctx.x, numpy(gradient)
            weight, star = np.zeros(job.design.n_measurements), np.zeros(job.design.n_stars)
            for e in np.flatnonzero(g):
                q, stars = job.along(equations, x[..., e])
                weight -= g[e] * q**2
                if stars.shape[1] == 2:
                    star -= g[e] * stars[:, 1] ** 2
            tie = -job.ties.gathered((job.ties.gap(x) ** 2 @ g) * job.ties.precision)
            grads = (weight * job.w * job.loss, tie, star * job.prior.star)
            return None, *(like(v, t) for v, t in zip(grads, ctx.inputs, strict=True))

    class Tied(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, tied: TiedEquations, tie: Tensor) -> Tensor:
            ctx.tied, (ctx.equations, ctx.theta), ctx.tie = tied, tied.solve(numpy(tie)), tie
            job = tied.job
            return torch.from_numpy(job.centring(ctx.theta[: job.design.n_nodes, 0].copy())).to(tie.device)

        @staticmethod
        @once_differentiable
        def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
            job = ctx.tied.job
            rhs = np.zeros_like(ctx.theta)
            rhs[: job.design.n_nodes, 0] = job.centring(numpy(gradient))
            a = ctx.equations.factor.solve(rhs)
            return None, like(job.ties.pulled(ctx.theta, a), ctx.tie)

    return Zeropoints, Variances, Tied
