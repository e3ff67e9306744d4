"""The graph network: measurement -> exposure, exposure <-> exposure, exposure <-> night, and back.

It says what to believe: factors on the robust fit's weights, on the precisions of its ties and responses, and
corrections to its logits of outliers and variable stars. All heads begin at zero, where the answer is the robust one,
and are bounded; none moves a magnitude.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from calib.learn.autoencoder import CODE, Decoded, StarAutoencoder, mlp, pooled
from calib.learn.features import EXPOSURE, MEASUREMENT, NIGHT, OWN_RESIDUAL, STAR
from calib.learn.links import LINK
from calib.learn.pyg import MessagePassing

if TYPE_CHECKING:
    from calib.learn.pyg import HeteroData

WIDTH = 16
CONTEXT = 8
DROPOUT = 0.1
LARGEST_WEIGHT = 2.0
"""Largest logarithm of a factor on a measurement's weight."""
LARGEST_TIE = 3.0
"""Largest logarithm of a factor on the precision of a tie or a response."""


class Said(NamedTuple):
    """What the network says.

    Attributes
    ----------
    weight
        (n,), logarithm of the factor on each measurement's weight.
    tie
        (E, 3), of the factors on the ties of the jitter, the plane and the quadratic.
    response
        (S,), of the factor on the precision of each star's response.
    outlier, variable
        (n,), (S,), added to the logits of the robust engine.
    reached
        (E, ...), what exposures know before they tell each other (`Network.exposures`).
    decoded
        What the autoencoder expects.
    """

    weight: Tensor
    tie: Tensor
    response: Tensor
    outlier: Tensor
    variable: Tensor
    reached: Tensor
    decoded: Decoded


class Part(NamedTuple):
    """A run of stars and their measurements."""

    stars: slice
    rows: slice


def star_parts(star: Tensor, n_stars: int, most: int) -> list[Part]:
    """Cut the stars, whose measurements are sorted by star, into parts of about ``most`` measurements."""
    n = star.shape[0]
    cuts = [0]
    for row in range(most, n, most):
        at = int(star[row])
        if at > cuts[-1]:
            cuts.append(at)
    rows = [0, *torch.searchsorted(star, torch.tensor(cuts[1:], dtype=star.dtype, device=star.device)).tolist(), n]
    cuts.append(n_stars)
    return [
        Part(slice(a, b), slice(i, j))
        for a, b, i, j in zip(cuts[:-1], cuts[1:], rows[:-1], rows[1:], strict=True)
    ]  # fmt: skip


@dataclass(frozen=True)
class Parts:
    """What of a network is there: all of it, but where benchmarks/ablation.py asks what a part is worth.

    A part that is off says nothing; parameters are the same.

    Attributes
    ----------
    autoencoder
        The code of a star's other measurements and what it expects of each.
    exposure_messages
        From measurements to their exposure.
    star_messages
        From measurements and exposures to a star, and back.
    links, nights
        Between exposures that share stars, and between those of a night.
    weights, ties, responses
        The factors that are said.
    """

    autoencoder: bool = True
    exposure_messages: bool = True
    star_messages: bool = True
    links: bool = True
    nights: bool = True
    weights: bool = True
    ties: bool = True
    responses: bool = True


ALL = Parts()


def present(x: Tensor, there: bool) -> Tensor:
    """The tensor, or zeros where its part is off."""
    return x if there else torch.zeros_like(x)


class LinkMessages(MessagePassing):  # type: ignore[misc]
    """``h_e + MLP(h_e, mean over linked f of MLP(h_f, link))``, weighted by the number of shared stars."""

    def __init__(self) -> None:
        super().__init__(aggr="add", node_dim=0)
        self.message_mlp = mlp(WIDTH + len(LINK), WIDTH, WIDTH)
        self.update_mlp = mlp(2 * WIDTH, WIDTH, WIDTH)

    def forward(self, h: Tensor, edge_index: Tensor, edge_attr: Tensor, shared: Tensor) -> Tensor:
        """Pass messages once; h (E, WIDTH), edge_index (2, L), edge_attr (L, 3), shared (L,)."""
        total = pooled(shared[:, None], edge_index[1], h.shape[0])
        share = shared[:, None] / total[edge_index[1]].clamp(min=1e-9)
        gathered = self.propagate(edge_index, h=h, attr=edge_attr, share=share)
        out: Tensor = h + self.update_mlp(torch.cat([h, gathered], 1))
        return out

    def message(self, h_j: Tensor, attr: Tensor, share: Tensor) -> Tensor:
        """One link's message."""
        out: Tensor = share * self.message_mlp(torch.cat([h_j, attr], 1))
        return out


class Normalise(nn.Module):
    """``(x - mean) / spread`` of the training surveys, kept within bounds; stored with the weights."""

    mean: Tensor
    spread: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("spread", torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (n, size)."""
        return ((x - self.mean) / self.spread).clamp(-5.0, 5.0)


def head(inputs: int, outputs: int) -> nn.Sequential:
    """A head whose answer begins at zero."""
    out = mlp(inputs, WIDTH, outputs)
    last = out[-1]
    assert isinstance(last, nn.Linear)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return out


KNOWN = [i for i, name in enumerate(MEASUREMENT) if name not in OWN_RESIDUAL]
"""Columns of a measurement's features that do not hold its residual."""


class Network(nn.Module):
    """One member of the ensemble.

    Parameters
    ----------
    parts
        Which are there.
    """

    def __init__(self, parts: Parts = ALL) -> None:
        super().__init__()
        self.parts = parts
        m, s, e, g = len(MEASUREMENT), len(STAR), len(EXPOSURE), len(NIGHT)
        self.normalise = nn.ModuleDict(
            {"measurement": Normalise(m), "star": Normalise(s), "exposure": Normalise(e), "night": Normalise(g),
             "link": Normalise(len(LINK))}
        )  # fmt: skip
        self.context = mlp(e, WIDTH, CONTEXT)
        self.autoencoder = StarAutoencoder(m, len(KNOWN), CONTEXT)
        self.measurement = mlp(m + s + CODE + 3, WIDTH, WIDTH)
        self.exposure = mlp(e + 2 * WIDTH, WIDTH, WIDTH)
        self.links = nn.ModuleList([LinkMessages(), LinkMessages()])
        self.night = mlp(g + WIDTH, WIDTH, WIDTH)
        self.from_night = mlp(2 * WIDTH, WIDTH, WIDTH)
        self.star = mlp(s + 2 * WIDTH, WIDTH, WIDTH)
        self.dropout = nn.Dropout(DROPOUT)
        self.weight_head = head(3 * WIDTH, 2)
        self.tie_head = head(WIDTH, 3)
        self.star_head = head(WIDTH, 2)

    @property
    def between_exposures(self) -> list[nn.Module]:
        """What exposures tell each other and their nights by, with what is pooled of their measurements."""
        return [self.exposure, self.links, self.night, self.from_night]

    @property
    def heads(self) -> list[nn.Module]:
        """What may learn faster than the body when fine-tuned."""
        return [self.weight_head, self.tie_head, self.star_head]

    def forward(self, data: HeteroData, most: int = 2_000_000) -> Said:
        """Look at a survey's features (`calib.learn.features.Features.to_hetero_data`).

        Stars are taken in parts of at most about ``most`` measurements, so that what is held of them is bounded.
        """
        star, node = data["measurement"].star, data["measurement"].exposure
        n_stars, n_nodes = data["star"].x.shape[0], data["exposure"].x.shape[0]
        x_e = self.normalise["exposure"](data["exposure"].x)
        context = self.context(x_e)
        parts = star_parts(star, n_stars, most)
        sums, heard = x_e.new_zeros((n_nodes, 2 * WIDTH + 1)), None
        for part in parts:
            heard = self.measurements(data, part, context)
            each = torch.cat([heard[0], heard[0] ** 2, torch.ones_like(heard[0][:, :1])], 1)
            sums = sums.index_add(0, node[part.rows], each.to(sums))
        count = sums[:, -1:].clamp(min=1.0)
        mean, square = sums[:, :WIDTH] / count, sums[:, WIDTH:-1] / count
        spread = ((square - mean**2).clamp(min=0.0) + 1e-6).sqrt()
        gathered = present(torch.cat([mean, spread], 1), self.parts.exposure_messages)
        reached = torch.cat([x_e, gathered], 1)
        h_e = self.dropout(self.exposures(data, reached))
        if len(parts) == 1 and heard is not None:
            said = [self.believed(data, parts[0], h_e, *heard)]
        else:
            said = [self.believed(data, part, h_e, *self.measurements(data, part, context)) for part in parts]
        own, of_star = torch.cat([s[0] for s in said]), torch.cat([s[1] for s in said])
        decoded = Decoded(*(torch.cat([s[2][k] for s in said]) for k in range(4)))
        return Said(
            present(LARGEST_WEIGHT * torch.tanh(own[:, 0] / LARGEST_WEIGHT), self.parts.weights),
            present(self.ties(h_e), self.parts.ties),
            present(LARGEST_TIE * torch.tanh(of_star[:, 0] / LARGEST_TIE), self.parts.responses),
            own[:, 1], of_star[:, 1], reached, decoded,
        )  # fmt: skip

    def measurements(self, data: Any, part: Part, context: Tensor) -> tuple[Tensor, Decoded]:
        """What measurements of some stars say by themselves and by each other, (n, WIDTH)."""
        rows, star = part.rows, data["measurement"].star[part.rows] - part.stars.start
        x_m = self.normalise["measurement"](data["measurement"].x[rows])
        x_s = self.normalise["star"](data["star"].x[part.stars])
        around = context[data["measurement"].exposure[rows]]
        decoded = self.autoencoder(x_m, x_m[:, KNOWN], around, star, x_s.shape[0])
        expected = torch.stack([decoded.mean, decoded.log_variance, decoded.outlier.clamp(-8, 8)], 1)
        coded = present(torch.cat([decoded.code, expected], 1), self.parts.autoencoder)
        return self.dropout(self.measurement(torch.cat([x_m, x_s[star], coded], 1))), decoded

    def believed(
        self, data: Any, part: Part, h_e: Tensor, h: Tensor, decoded: Decoded
    ) -> tuple[Tensor, Tensor, Decoded]:
        """Answers of the heads for measurements and stars of a part."""
        star = data["measurement"].star[part.rows] - part.stars.start
        x_s = self.normalise["star"](data["star"].x[part.stars])
        n = x_s.shape[0]
        around = h_e[data["measurement"].exposure[part.rows]]
        visits = pooled(torch.ones_like(h[:, :1]), star, n).clamp(min=1.0)
        gathered = torch.cat([pooled(h, star, n) / visits, pooled(around, star, n) / visits], 1)
        h_s = self.star(torch.cat([x_s, present(gathered, self.parts.star_messages)], 1))
        return self.weight_head(torch.cat([h, around, h_s[star]], 1)), self.star_head(h_s), decoded

    def ties(self, h_e: Tensor) -> Tensor:
        """(E, 3), logarithms of the factors on the ties of exposures."""
        return LARGEST_TIE * torch.tanh(self.tie_head(h_e) / LARGEST_TIE)

    def exposures(self, data: Any, seen: Tensor) -> Tensor:
        """Exposures after messages over links and nights, (E, WIDTH)."""
        h: Tensor = self.exposure(seen)
        links = data["exposure", "links", "exposure"]
        attr = self.normalise["link"](links.edge_attr)
        shared = torch.exp(links.edge_attr[:, 0])
        member, night = data["exposure", "in", "night"].edge_index
        x_g = self.normalise["night"](data["night"].x)
        for layer in self.links:
            if self.parts.links:
                h = layer(h, links.edge_index, attr, shared)
            if self.parts.nights and x_g.shape[0]:
                count = pooled(torch.ones_like(h[member, :1]), night, x_g.shape[0]).clamp(min=1.0)
                of_night = pooled(h[member], night, x_g.shape[0]) / count
                g = self.night(torch.cat([x_g, of_night], 1))
                h = h.index_add(0, member, self.from_night(torch.cat([h[member], g[night]], 1)).to(h))
        return h
