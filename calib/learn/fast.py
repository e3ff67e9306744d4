"""A network's answer without gradients, several times faster than `Network.forward` and in less memory.

The same sums in another order. What an exposure or a star puts into the first layer of a measurement's MLP is worked
out once for each exposure or star and gathered; linear layers with nothing between them are folded into one. Of every
measurement one member's `WIDTH` numbers are held between the two looks at it, and what it says.

Here is what both kinds of processor have in common, and how PyTorch takes measurements on a GPU. All is bound by memory
there: numbers of measurements are in half precision, sums in single. On a CPU `calib.learn.fused` takes them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag, pad, silu

from calib.learn.autoencoder import CODE, LARGEST_LOG_VARIANCE
from calib.learn.autoencoder import WIDTH as INNER
from calib.learn.features import MEASUREMENT, STAR
from calib.learn.network import ALL, CONTEXT, KNOWN, LARGEST_TIE, LARGEST_WEIGHT, WIDTH, Network, Part, star_parts

if TYPE_CHECKING:
    from calib.learn.pyg import HeteroData

PART = 4_000_000
"""Measurements at a time: as many as keep a GPU busy."""
ALIGNED = 8
"""Columns in 16 bytes of half precision."""
L = TypeVar("L", "Tensor", "Linear")


class Belief(NamedTuple):
    """What a member says of a survey, as in `calib.learn.network.Said` without what the autoencoder expects."""

    weight: Tensor
    tie: Tensor
    response: Tensor
    outlier: Tensor
    variable: Tensor
    reached: Tensor


class Linear(NamedTuple):
    """``x W + b``, W (inputs, outputs)."""

    weight: Tensor
    bias: Tensor

    @classmethod
    def of(cls, layer: Any) -> Linear:
        """From a module."""
        return cls(layer.weight.detach().t().contiguous(), layer.bias.detach())

    def to(self, number: torch.dtype) -> Linear:
        """In another precision."""
        return Linear(self.weight.to(number), self.bias.to(number))

    def __call__(self, x: Tensor) -> Tensor:
        """Apply to (n, inputs)."""
        return torch.addmm(self.bias, x, self.weight)

    def rows(self, *sizes: int) -> list[Tensor]:
        """W cut by its inputs."""
        return [w.contiguous() for w in torch.split(self.weight, list(sizes))]


class FastNetwork:
    """One member, ready to be asked; on a CPU this is slow, and for tests.

    Parameters
    ----------
    network
        Whole; its weights are copied as they are now.
    number
        What numbers of measurements are kept in: float32, and on a GPU float16, unless given.
    """

    def __init__(self, network: Network, number: torch.dtype | None = None) -> None:
        if network.parts != ALL:
            raise ValueError(f"a network without all its parts is asked by itself; these are {network.parts}")
        self.network = network
        here: Tensor = network.weight_head[0].weight  # type: ignore[assignment]
        self.number = number or (torch.float16 if here.is_cuda else torch.float32)
        m, s = len(MEASUREMENT), len(STAR)
        normalise: Any = network.normalise["measurement"]
        self.scale = 1.0 / normalise.spread
        self.shift = -normalise.mean * self.scale
        coder: Any = network.autoencoder
        token = [Linear.of(coder.token[0]), Linear.of(coder.token[2])]
        self.token = token[0]
        own, self.token_context = token[0].rows(m, CONTEXT)
        self.token_own = self.kept(padded(own))
        code = Linear.of(coder.code[0])
        of_mean, self.of_number = code.rows(CODE, 1)
        folded = token[1].weight @ of_mean  # from the token's hidden layer to the code's
        self.folded = self.kept(folded)
        self.of_any, self.of_none = token[1].bias @ of_mean, code.bias
        self.code = self.kept(Linear.of(coder.code[2]))
        self.decoder = Linear.of(coder.decoder[0])
        self.decoder_inner, self.decoder_last = (self.kept(Linear.of(coder.decoder[k])) for k in (2, 4))
        of_code, known, self.decoder_context = self.decoder.rows(CODE, len(KNOWN), CONTEXT)
        own = known.new_zeros(m, INNER)
        own[KNOWN] = known
        self.decoder_own = self.kept(torch.cat([padded(own), of_code]))
        self.measurement = Linear.of(network.measurement[0])
        self.measurement_last = self.kept(Linear.of(network.measurement[2]))
        own, self.measurement_star, coded = self.measurement.rows(m, s, CODE + 3)
        self.measurement_own = self.kept(torch.cat([padded(own), padded(coded)]))
        self.star = [Linear.of(network.star[k]) for k in (0, 2)]
        self.head = Linear.of(network.weight_head[0])
        self.head_last = self.kept(Linear.of(network.weight_head[2]))
        own, self.head_exposure, self.head_star = self.head.rows(WIDTH, WIDTH, WIDTH)
        self.head_own = self.kept(own)

    def kept(self, layer: L) -> L:
        """A layer or its weights in the precision of measurements."""
        return layer.to(self.number)

    def __call__(self, data: HeteroData, most: int | None = None) -> Belief:
        """Look at a survey's features (`calib.learn.features.Features.to_hetero_data`), ``most`` rows at a time."""
        with torch.inference_mode():
            said = self._ask(data, most)
        if self.number == torch.float16 and not all(bool(x.isfinite().all()) for x in said):
            return FastNetwork(self.network, torch.float32)(data, most)  # other weights may leave half's range
        return said

    def _ask(self, data: Any, most: int | None) -> Belief:
        net, node = self.network, data["measurement"].exposure
        x_e = net.normalise["exposure"](data["exposure"].x)
        context = net.context(x_e)
        at_token = self.kept(self.token.bias + context @ self.token_context)
        at_decoder = self.kept(self.decoder.bias + context @ self.decoder_context)
        cuts = self._cuts(data, most)
        h, of_stars, sums = self._first(data, cuts, at_token, at_decoder)
        count = x_e.new_zeros(x_e.shape[0]).index_add_(0, node, x_e.new_ones(1).expand(node.shape[0]))
        count = count.clamp(min=1.0)[:, None]
        mean = sums[0] / count
        spread = ((sums[1] / count - mean**2).clamp(min=0.0) + 1e-6).sqrt()
        reached = torch.cat([x_e, mean, spread], 1)
        h_e = net.exposures(data, reached)
        around, at_head = self.kept(h_e), self.kept(self.head.bias + h_e @ self.head_exposure)
        weight, outlier, said = self._second(data, cuts, around, at_head, h, of_stars)
        return Belief(
            weight, net.ties(h_e), LARGEST_TIE * torch.tanh(said[:, 0] / LARGEST_TIE), outlier, said[:, 1], reached,
        )  # fmt: skip

    def _cuts(self, data: Any, most: int | None) -> Any:
        """What both looks at measurements need to know of stars: parts, normalised features, numbers of visits."""
        star, n_stars = data["measurement"].star, data["star"].x.shape[0]
        x_s = self.network.normalise["star"](data["star"].x)
        visits = x_s.new_zeros(n_stars).index_add_(0, star, x_s.new_ones(1).expand(star.shape[0]))
        return star_parts(star, n_stars, most or PART), x_s, visits

    def _first(self, data: Any, cuts: Any, at_token: Tensor, at_decoder: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Measurements by themselves and by their stars' others, with what exposures say of them, (E, WIDTH) twice.

        Their numbers (n, WIDTH), the sums of those over stars (S, WIDTH), and of them and their squares over exposures
        (2, E, WIDTH).
        """
        parts, x_s, visits = cuts
        of_star = self.kept(self.measurement.bias + x_s @ self.measurement_star)
        h = x_s.new_empty(data["measurement"].x.shape[0], WIDTH, dtype=self.number)
        of_stars, sums = x_s.new_zeros(x_s.shape[0], WIDTH), x_s.new_zeros(2, at_token.shape[0], WIDTH)
        for part in parts:
            own = of_star[part.stars], visits[part.stars], of_stars[part.stars]
            self._first_part(data, part, at_token, at_decoder, *own, h, sums)
        return h, of_stars, sums

    def _second(
        self, data: Any, cuts: Any, around: Tensor, at_head: Tensor, h: Tensor, of_stars: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Answers for measurements, (n,) twice, and stars (S, 2), with what exposures now are, (E, WIDTH) twice."""
        parts, x_s, visits = cuts
        weight, outlier = x_s.new_empty(h.shape[0]), x_s.new_empty(h.shape[0])
        said = x_s.new_empty(x_s.shape[0], 2)
        for part in parts:
            self._second_part(data, part, around, at_head, x_s, visits[part.stars], h, of_stars, weight, outlier, said)
        return weight, outlier, said

    def _first_part(
        self, data: Any, part: Part, at_token: Tensor, at_decoder: Tensor, of_star: Tensor, visits: Tensor,
        of_stars: Tensor, h: Tensor, sums: Tensor,
    ) -> None:  # fmt: skip
        """Measurements of some stars by themselves and by each other: their numbers, and the sums of those."""
        star = data["measurement"].star[part.rows] - part.stars.start
        node = data["measurement"].exposure[part.rows]
        own = data["measurement"].x[part.rows]
        m = own.shape[1]
        x = own.new_empty(own.shape[0], self.measurement_own.shape[0], dtype=self.number)
        torch.addcmul(self.shift, own, self.scale, out=x[:, :m]).clamp_(-5.0, 5.0)
        x[:, m : (m := self.token_own.shape[0])] = 0.0
        token = silu(taken(at_token, node).addmm_(x[:, :m], self.token_own), inplace=True)
        others = visits - 1.0
        any_other = (others > 0).to(token)
        share = any_other / others.clamp(min=1.0)
        code = (summed(token, visits) @ self.folded).to(share) * share[:, None]
        code += torch.outer(any_other, self.of_any) + torch.log1p(others)[:, None] * self.of_number + self.of_none
        token.mul_(-self.kept(share).index_select(0, star)[:, None])
        hidden = taken(self.kept(code), star).addmm_(token, self.folded)
        torch.addmm(self.code.bias, silu(hidden, inplace=True), self.code.weight, out=x[:, m : m + CODE])
        hidden = silu(taken(at_decoder, node).addmm_(x[:, : m + CODE], self.decoder_own), inplace=True)
        out = narrow(self.decoder_last, silu(self.decoder_inner(hidden), inplace=True))
        log_variance = LARGEST_LOG_VARIANCE * torch.tanh(out[1] / LARGEST_LOG_VARIANCE)
        expected = torch.stack([out[0], log_variance, out[2].clamp(-8.0, 8.0)], 1)
        x[:, m + CODE :] = pad(expected, (0, x.shape[1] - m - CODE - 3))
        hidden = taken(of_star, star).addmm_(x, self.measurement_own)
        mine = h[part.rows]  # written to
        last = self.measurement_last
        torch.addmm(last.bias, silu(hidden, inplace=True), last.weight, out=mine)
        of_stars.copy_(summed(mine, visits))
        mine = mine.to(sums)
        sums[0].index_add_(0, node, mine)
        sums[1].index_add_(0, node, mine * mine)

    def _second_part(
        self, data: Any, part: Part, seen: Tensor, at_head: Tensor, x_s: Tensor, visits: Tensor, h: Tensor,
        of_stars: Tensor, weight: Tensor, outlier: Tensor, said: Tensor,
    ) -> None:  # fmt: skip
        """Answers for the measurements and stars of a part."""
        star = data["measurement"].star[part.rows] - part.stars.start
        node = data["measurement"].exposure[part.rows]
        around = summed(seen, visits, node)
        visits = visits.clamp(min=1.0)[:, None]
        h_s = torch.cat([x_s[part.stars], of_stars[part.stars] / visits, around / visits], 1)
        h_s = self.star[1](silu(self.star[0](h_s), inplace=True))
        said[part.stars] = self.network.star_head(h_s)
        hidden = taken(at_head, node).addmm_(h[part.rows], self.head_own)
        hidden += taken(self.kept(h_s @ self.head_star), star)
        out = narrow(self.head_last, silu(hidden, inplace=True)).to(weight)
        weight[part.rows] = LARGEST_WEIGHT * torch.tanh(out[0] / LARGEST_WEIGHT)
        outlier[part.rows] = out[1]


def padded(weight: Tensor) -> Tensor:
    """With rows of zeros to a multiple of `ALIGNED`, so that the rows of what they multiply begin in step."""
    return pad(weight, (0, 0, 0, -weight.shape[0] % ALIGNED))


def taken(table: Tensor, index: Tensor) -> Tensor:
    """Rows of a table.

    On a GPU each row is followed by a gap: of aligned rows PyTorch would start a block for every index, too many for
    rows as short as these. Numbers in half precision go by twos.
    """
    if not table.is_cuda:
        return table.index_select(0, index)
    if table.dtype == torch.float16:
        return gapped(table.contiguous().view(torch.float32)).index_select(0, index).view(torch.float16)
    return gapped(table).index_select(0, index)


def gapped(table: Tensor) -> Tensor:
    """With a gap after each row."""
    return pad(table, (0, 1))[:, :-1]


def summed(rows: Tensor, visits: Tensor, index: Tensor | None = None) -> Tensor:
    """Sums over stars, (S, width), of rows sorted by star, or of those of a table that an index names."""
    last = torch.cumsum(visits, 0, dtype=torch.float64)  # exact, also where float32 is not
    index = torch.arange(rows.shape[0], device=rows.device) if index is None else index
    return embedding_bag(index, rows, (last - visits).long(), mode="sum")


def narrow(layer: Linear, x: Tensor) -> Tensor:
    """Transposed answer (outputs, n) of a layer of few outputs: libraries are slow on thin matrices the other way."""
    return torch.addmm(layer.bias[:, None], layer.weight.t(), x.t())
