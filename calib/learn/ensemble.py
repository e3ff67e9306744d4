"""Networks on disk: an ensemble in one safetensors file, with what must be known to use it."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from calib.learn.fast import Belief, FastNetwork
from calib.learn.features import EXPOSURE, MEASUREMENT, NIGHT, STAR
from calib.learn.fused import FusedNetwork
from calib.learn.network import Network, Said
from calib.learn.pyg import HeteroData

SHIPPED = Path(__file__).parent / "weights" / "calib.safetensors"
STRENGTH = 0.75
"""Share of what the members say, in the logarithm, that is believed: what is gained is nearly as much, and what is lost
is less. Chosen on the surveys held out of training."""
FEATURES = {"measurement": MEASUREMENT, "star": STAR, "exposure": EXPOSURE, "night": NIGHT}


class WeightsError(ValueError):
    """Weights that cannot be used; the message names the file and what to do."""


S = TypeVar("S", Said, Belief)


def tempered(said: S) -> S:
    """With `STRENGTH` of its factors' logarithms."""
    return said._replace(weight=STRENGTH * said.weight, tie=STRENGTH * said.tie, response=STRENGTH * said.response)


@dataclass(frozen=True)
class Scene:
    """What the exposures of a survey know before they tell each other, on the CPU: all that ties are said from.

    Attributes
    ----------
    data
        Features of exposures and nights, and the links between them.
    reached
        Of every member, what reached its exposures, (E, ...).
    """

    data: HeteroData
    reached: tuple[Tensor, ...]

    @classmethod
    def of(cls, data: Any, said: list[Belief]) -> Scene:
        """From a survey's features and what was said of them; without its measurements and stars."""
        own: Any = HeteroData()
        for name in ("exposure", "night"):
            own[name].x = data[name].x.cpu()
        own["exposure", "in", "night"].edge_index = data["exposure", "in", "night"].edge_index.cpu()
        links = data["exposure", "links", "exposure"]
        own["exposure", "links", "exposure"].edge_index = links.edge_index.cpu()
        own["exposure", "links", "exposure"].edge_attr = links.edge_attr.cpu()
        return cls(own, tuple(s.reached.cpu().clone() for s in said))  # cloned: it may be learned from

    def ties(self, members: Sequence[Network]) -> Tensor:
        """What members say of ties, tempered, (members, E, 3)."""
        return STRENGTH * torch.stack(
            [m.ties(m.exposures(self.data, x)) for m, x in zip(members, self.reached, strict=True)]
        )


@dataclass
class Ensemble:
    """Members and what goes with them.

    Attributes
    ----------
    members
        Networks, in evaluation mode.
    temperature
        Factor on stated errors, from surveys held out of training.
    card
        How the weights were made, for the record.
    """

    members: list[Network]
    temperature: float = 1.0
    card: dict[str, Any] = field(default_factory=dict)

    def listen(self, data: Any) -> list[Belief]:
        """What each member says of a survey's features, its factors tempered by `STRENGTH`."""
        kind = FastNetwork if data["measurement"].x.is_cuda else FusedNetwork
        return [tempered(kind(member)(data)) for member in self.members]

    def to(self, device: str) -> Ensemble:
        """Move the members."""
        return Ensemble([m.to(device) for m in self.members], self.temperature, self.card)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all members, whole or not at all."""
        from safetensors.torch import save

        tensors = {
            f"{k}.{name}": value.contiguous()
            for k, member in enumerate(self.members) for name, value in member.state_dict().items()
        }  # fmt: skip
        notes = {
            "members": str(len(self.members)), "temperature": repr(self.temperature), "card": json.dumps(self.card),
            "features": json.dumps(FEATURES),
        }  # fmt: skip
        path = Path(path)
        partial = path.with_name(f".{path.name}.partial")
        partial.write_bytes(save(tensors, notes))
        os.replace(partial, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Ensemble:
        """Read weights.

        Raises
        ------
        WeightsError
            There is no such file, or it is not for this version's features.
        """
        from safetensors import SafetensorError, safe_open

        if not Path(path).is_file():
            raise WeightsError(f"{path}: no weights there; make them with `calib train --out {path}`")
        try:
            with safe_open(path, framework="pt") as file:
                notes = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        except SafetensorError as error:
            raise WeightsError(f"{path}: is not a safetensors file ({error})") from None
        if json.loads(notes.get("features", "null")) != {k: list(v) for k, v in FEATURES.items()}:
            raise WeightsError(f"{path}: was trained on other features than this version's; train it anew")
        members = []
        for k in range(int(notes["members"])):
            member = Network()
            own = {n.partition(".")[2]: t for n, t in tensors.items() if n.partition(".")[0] == str(k)}
            member.load_state_dict(own)
            members.append(member.eval())
        return cls(members, float(notes["temperature"]), json.loads(notes["card"]))


def chosen(device: str) -> str:
    """``cpu`` or ``cuda``; for ``auto`` a GPU where PyTorch finds one."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return device


@cache
def shipped() -> Ensemble:
    """The weights that come with the package."""
    return Ensemble.load(SHIPPED)
