"""L applied in torch, straight from the measurements, on CPU or GPU; L itself is never assembled.

Sums are over segments of sorted arrays (by star, then by node), never scattered: the same bits on every run, also on
CUDA where index_add is not deterministic. Vectors and sums are float64, weights stay as they are given.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from calib.solve.system import System

if TYPE_CHECKING:
    from torch import Tensor


class TorchOperator:
    """``theta -> L theta`` with L = Phi' W Phi - Phi' W U D^-1 U' W Phi + prior.

    Parameters
    ----------
    system
        What to apply.
    device
        torch device.
    """

    def __init__(self, system: System, device: str = "cpu") -> None:
        import torch

        eq = system.equations
        design, top = eq.design, eq.topology
        graph, K, P = design.graph, design.block, design.star_block
        self.device, self.K, self.P = torch.device(device), K, P

        def move(a: Any) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(a)).to(self.device)

        node_ptr, by_node = graph.by_exposure()
        self.node, self.by_node, self.star = move(graph.exposure), move(by_node), move(graph.star())
        self.star_ptr, self.node_ptr = move(graph.star_ptr), move(node_ptr)
        self.w = move(eq.w)
        self.inverse = move(eq.star_inverse)
        self.seeing = move(design.response)[self.node] if design.response is not None else None
        self.places: list[Tensor] = []
        if design.xy is not None and design.degree > 0:
            _, centre, _ = design.arrays
            x, y = (move(design.xy[:, a]).double() for a in (0, 1))
            powers = [x, y, x * x, x * y, y * y][: design.surface_block - 1]
            self.places = [p - c for p, c in zip(powers, centre[1 : design.surface_block].tolist(), strict=True)]
        if design.by_magnitude is not None:
            self.places.append(move(design.by_magnitude.g).double())
        self.prior = move(eq.prior.diagonal)
        # couplings of the hubs in both directions, by destination
        hubs = top.hubs
        to = np.concatenate([hubs.row, hubs.column])
        order = np.argsort(to, kind="stable")
        both = np.concatenate([eq.prior.coupling, eq.prior.coupling.transpose(0, 2, 1)])
        self.coupling = move(both[order]) if order.size else None
        self.coupled_from = move(np.concatenate([hubs.column, hubs.row])[order])
        self.coupled_ptr = move(np.concatenate([[0], np.cumsum(np.bincount(to, minlength=system.shape[0]))]))
        self.empty = move(system.empty)

    @staticmethod
    def _sum(values: Tensor, ptr: Tensor) -> Tensor:
        import torch

        return torch.segment_reduce(values, "sum", offsets=ptr, axis=0, initial=0, unsafe=True)

    def __call__(self, theta: Tensor) -> Tensor:
        """``L theta`` for theta (E + H, K), float64."""
        import torch

        at = theta.index_select(0, self.node)
        g = at[:, 0]
        for k, p in enumerate(self.places):
            g = g + p * at[:, k + 1]
        wg = self.w * g
        y0 = self._sum(wg, self.star_ptr)
        s0 = self.inverse[:, 0] * y0
        if self.seeing is not None:
            y1 = self._sum(wg * self.seeing, self.star_ptr)
            s0 = s0 + self.inverse[:, 1] * y1
            s1 = self.inverse[:, 1] * y0 + self.inverse[:, 2] * y1
            g = g - self.seeing * s1.index_select(0, self.star)
        g = self.w * (g - s0.index_select(0, self.star))
        columns = [self._sum(g.index_select(0, self.by_node), self.node_ptr)]
        for p in self.places:
            columns.append(self._sum((g * p).index_select(0, self.by_node), self.node_ptr))
        out = torch.einsum("eab,eb->ea", self.prior, theta)
        n = self.node_ptr.numel() - 1
        out[:n] += torch.stack(columns, 1)
        if self.coupling is not None:
            out += self._sum(
                torch.einsum("cab,cb->ca", self.coupling, theta.index_select(0, self.coupled_from)), self.coupled_ptr
            )
        return torch.where(self.empty, 0.0, out)
