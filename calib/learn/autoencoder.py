"""The autoencoder of repeated measurements: a star's set, any number and in any order, tells each what to expect.

Every measurement is a token; a star's code is the mean of its tokens and their number (Zaheer et al. 2017, Deep Sets,
arXiv:1703.06114). Each measurement is decoded from the code of the *others* and from what is known of it without its
own residual, so that it cannot predict itself:

    (t_1 .. t_n) -> token_i = phi(x_i, exposure_i),  code_i = mean_{j != i} token_j,
    (mu_i, ln v_i, outlier_i) = psi(code_i, metadata_i, exposure_i)

``mu`` serves the reconstruction alone; it is never used to correct a magnitude.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

WIDTH, CODE = 16, 8
LARGEST_LOG_VARIANCE = 5.0


def mlp(*sizes: int) -> nn.Sequential:
    """Linear layers with SiLU between."""
    layers: list[nn.Module] = []
    for a, b in zip(sizes[:-1], sizes[1:], strict=True):
        layers += [nn.Linear(a, b), nn.SiLU()]
    return nn.Sequential(*layers[:-1])


def pooled(values: Tensor, index: Tensor, size: int) -> Tensor:
    """Sum of values (n, d) by index (n,), (size, d)."""
    out = values.new_zeros((size, *values.shape[1:]))
    return out.index_add(0, index, values)


class Decoded(NamedTuple):
    """Of every measurement (n,): expected residual, log variance, logit of being an outlier; and the code (n, CODE)."""

    mean: Tensor
    log_variance: Tensor
    outlier: Tensor
    code: Tensor


class StarAutoencoder(nn.Module):
    """Encode each star's measurements and decode each from the others.

    Parameters
    ----------
    seen, known
        Number of a measurement's features, and of those without its own residual.
    context
        Number of features of its exposure.
    """

    def __init__(self, seen: int, known: int, context: int) -> None:
        super().__init__()
        self.token = mlp(seen + context, WIDTH, CODE)
        self.code = mlp(CODE + 1, WIDTH, CODE)
        self.decoder = mlp(CODE + known + context, WIDTH, WIDTH, 3)

    def forward(self, seen: Tensor, known: Tensor, context: Tensor, star: Tensor, n_stars: int) -> Decoded:
        """Decode.

        Parameters
        ----------
        seen, known, context
            (n, seen), (n, known), (n, context).
        star
            int64 (n,), the star of each.
        """
        token = self.token(torch.cat([seen, context], 1))
        total = pooled(token, star, n_stars)
        visits = pooled(torch.ones_like(token[:, :1]), star, n_stars)
        others = visits[star] - 1.0
        mean = (total[star] - token) / others.clamp(min=1.0)
        # a star seen once has no others: their mean is nothing, not what rounding leaves
        mean = torch.where(others > 0, mean, 0.0)
        code = self.code(torch.cat([mean, torch.log1p(others)], 1))
        out = self.decoder(torch.cat([code, known, context], 1))
        log_variance = LARGEST_LOG_VARIANCE * torch.tanh(out[:, 1] / LARGEST_LOG_VARIANCE)
        return Decoded(out[:, 0], log_variance, out[:, 2], code)


def reconstruction_loss(decoded: Decoded, t: Tensor) -> Tensor:
    """Negative log likelihood of the residuals left out, over those of stars with others."""
    return 0.5 * (decoded.log_variance + (t - decoded.mean) ** 2 * torch.exp(-decoded.log_variance)).mean()
