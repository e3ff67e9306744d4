"""Fine-tuning: what the networks say of ties, taught on the survey at hand by its own stars.

Two groups of stars teach, each under the members' ties against the other, which no network has touched
(`calib.learn.groups`); what is said of a kind of ties may leave what was said at first by as much as surveys differ.
Two others, not taught, say when to stop, and whether it was worth it. Then roles change, and the outcomes are averaged.

Of every member that part learns by which exposures tell each other and their nights what they know, and ten times
faster the head that says ties. What was pooled of measurements stays as it is, and so do weights: groups of stars agree
better under weights fitted to them, and are further from the truth (docs/learned.md).

All members learn together, from the answer under their mean: a step is one solve of each group, on a Laplacian that
is made once.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import huber_loss

from calib.learn.groups import CORNER, Pair, huber

if TYPE_CHECKING:
    from calib.learn.network import Network

Array = NDArray[np.float64]

STEPS = 200
RATE, BODY = 3e-3, 0.1
"""Largest learning rate of the heads, and of the rest over it."""
EVERY, PATIENCE = 10, 3
"""Steps between looks at the groups not taught, and looks without a gain after which it stops."""


@dataclass(frozen=True)
class Taught:
    """What one pair of groups taught: the members where they were best, at which step, and every gain not taught."""

    members: list[Network]
    step: int
    gains: Array


def taught(members: list[Network], pairs: list[Pair], unseen: list[Pair], shift: Array, scatter: float) -> Taught:
    """Teach by some pairs, and stop where others are best; that may be where it began.

    Parameters
    ----------
    members
        On the CPU, as they are; copies learn.
    pairs, unseen
        To teach and to stop by.
    shift
        (3,), of all ties of a kind.
    scatter
        Of shifts between surveys.
    """
    pupils, also = copies(members), torch.from_numpy(shift)
    heads = [p for m in pupils for p in m.tie_head.parameters()]
    body = [p for m in pupils for part in m.between_exposures for p in part.parameters()]
    optimiser = torch.optim.Adam([{"params": body}, {"params": heads}], lr=RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, [BODY * RATE, RATE], total_steps=STEPS)
    before = np.concatenate([huber(pair.shifted(shift)) for pair in unseen])
    best = Taught(members, 0, np.zeros_like(before))
    for step in range(1, STEPS + 1):
        optimiser.zero_grad()
        for pair in pairs:
            said = said_of(pair, pupils)
            x = pair.pulls(pair.a.tied.zeropoints(torch.exp(said + also)))
            departure = ((said - torch.from_numpy(pair.a.said)) ** 2).mean(0).sum() / scatter**2
            loss = huber_loss(x, torch.zeros_like(x), reduction="sum", delta=CORNER) + 0.5 * departure
            (loss / x.shape[0]).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        if step % EVERY:
            continue
        with torch.no_grad():
            now = [pair.pulls(pair.a.tied.zeropoints(torch.exp(said_of(pair, pupils) + also))) for pair in unseen]
        gains = before - np.concatenate([huber(x.numpy()) for x in now])
        if gains.sum() > best.gains.sum():
            best = Taught(copies(pupils), step, gains)
        elif step - best.step >= PATIENCE * EVERY:
            break
    return best


def said_of(pair: Pair, members: list[Network]) -> Tensor:
    """Logarithms of the factors on the ties of a pair's first group, the members' mean, (E, 3)."""
    assert pair.a.scene is not None
    return pair.a.scene.ties(members).mean(0).double()


def copies(members: list[Network]) -> list[Network]:
    """To learn and to keep."""
    return [copy.deepcopy(member).eval() for member in members]


def averaged(one: list[Network], other: list[Network]) -> list[Network]:
    """Members with the mean of both networks' parameters."""
    out = copies(one)
    for network, first, second in zip(out, one, other, strict=True):
        ours, theirs = first.state_dict(), second.state_dict()
        network.load_state_dict({name: 0.5 * (ours[name] + theirs[name]) for name in ours})
    return out
