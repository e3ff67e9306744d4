"""Training: an ensemble of networks on cached robust fits of simulated surveys, the same way every time.

Every step is a function of the seed and of its number alone, so that a run that was killed goes on to the same
weights. One survey in `HELD_OUT` is never trained on: it chooses the best checkpoint and sets the temperature.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from calib.learn.ensemble import Ensemble, tempered
from calib.learn.losses import NAMES, Lesson, losses_of
from calib.learn.network import ALL, Network, Parts, Said
from calib.learn.samples import cached, load

DEPARTURE = 0.01
"""What leaving the robust solution costs: the mean square of the logarithms of all factors, times this."""
HELD_OUT = 6
"""One survey in this many is held out."""
LARGEST_SEED = 2**53
"""Members have seeds of their own, of 64 bits."""


@dataclass(frozen=True)
class Plan:
    """What is trained, and on what.

    Attributes
    ----------
    surveys
        Number of simulated surveys, those held out among them.
    steps, batch
        Steps of each member, and surveys a step.
    members
        Networks of the ensemble.
    rate
        Largest learning rate of the one cycle; 0 finds one.
    average
        Decay of the running mean of the weights, which is what is kept.
    every
        Steps between looks at the surveys held out, and between checkpoints.
    seed
        Of everything.
    parts
        Of the networks.
    auxiliary
        Whether reconstruction, outliers and variable stars are losses too.
    """

    surveys: int = 300
    steps: int = 400
    batch: int = 4
    members: int = 5
    rate: float = 0.0
    average: float = 0.98
    every: int = 50
    seed: int = 1
    parts: Parts = ALL
    auxiliary: bool = True

    def __post_init__(self) -> None:
        for name in ("surveys", "steps", "batch", "members", "every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it is at least 1")
        if not 0 <= self.seed < LARGEST_SEED:
            raise ValueError(f"seed is {self.seed}; it lies between 0 and {LARGEST_SEED - 1}")
        if not 0 <= self.rate < 1:
            raise ValueError(f"rate is {self.rate}; it lies between 0 and 1")


class OutOfTime(RuntimeError):
    """The time allowed is over; what was done is kept, and the same command goes on from there."""


class LossBalance(nn.Module):
    """Losses balanced by learned uncertainties: ``sum exp(-s) L + s / 2`` (Kendall et al. 2018, arXiv:1705.07115).

    The two of the zero-points, which are what the solve is for, keep their weight of one.

    Parameters
    ----------
    auxiliary
        Whether the others count.
    """

    def __init__(self, auxiliary: bool = True) -> None:
        super().__init__()
        self.auxiliary = auxiliary
        self.log_variance = nn.Parameter(torch.zeros(len(NAMES) - 2))

    def forward(self, losses: dict[str, Tensor]) -> Tensor:
        """Return the loss to minimise."""
        total = losses["zeropoint"] + losses["likelihood"]
        if not self.auxiliary:
            return total
        for s, name in zip(self.log_variance, NAMES[2:], strict=True):
            total = total + torch.exp(-s) * losses[name] + 0.5 * s
        return total


class Pupil:
    """One member in training: network, balance, optimiser, running mean, and the best so far.

    ``kind`` makes networks of some parts; benchmarks/ablation.py trains other kinds.

    Parameters
    ----------
    plan
        What is trained.
    member
        Number of the member.
    lessons
        To train on; the normalisation is fitted to them.
    start
        Weights to begin from; fresh ones when not given.
    device
        Where the network is, and the lessons are.
    """

    kind: type[Network] = Network

    def __init__(
        self, plan: Plan, member: int, lessons: list[Lesson], start: Network | None = None, device: str = "cpu"
    ) -> None:
        self.plan, self.member, self.lessons = plan, member, lessons
        torch.manual_seed(1000 * plan.seed + member)
        self.network, self.balance = self.kind(plan.parts), LossBalance(plan.auxiliary)
        if start is None:
            fit_normalisation(self.network, lessons)
        else:
            self.network.load_state_dict(start.state_dict())
        self.network.to(device)
        self.balance.to(device)
        self.average = self.kind(plan.parts).eval().to(device)
        self.average.load_state_dict(self.network.state_dict())
        self.step, self.best, self.best_state = 0, math.inf, self._copy()
        self.fine = start is not None
        self.set_rate(plan.rate or 2e-3)

    def _copy(self) -> dict[str, Tensor]:
        return {k: v.detach().to("cpu", copy=True) for k, v in self.average.state_dict().items()}

    def set_rate(self, rate: float) -> None:
        """Begin with this largest learning rate; the body of a network that is fine-tuned learns ten times slower."""
        of_heads = {id(p) for head in self.network.heads for p in head.parameters()}
        body = [p for p in self.network.parameters() if id(p) not in of_heads]
        heads = [p for p in self.network.parameters() if id(p) in of_heads]
        rates = [0.1 * rate if self.fine else rate, rate, rate]
        groups: list[dict[str, Any]] = [
            {"params": body}, {"params": heads}, {"params": list(self.balance.parameters()), "weight_decay": 0.0},
        ]  # fmt: skip
        self.optimiser = torch.optim.AdamW(groups, lr=rate, weight_decay=1e-3)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(self.optimiser, rates, total_steps=self.plan.steps)

    def learn(self) -> float:
        """Take one step; return the geometric mean of error over robust error in its surveys."""
        rng = np.random.default_rng([self.plan.seed, self.member, self.step])
        chosen = rng.choice(len(self.lessons), min(self.plan.batch, len(self.lessons)), replace=False)
        torch.manual_seed(int(rng.integers(2**62)))  # of the dropout
        self.optimiser.zero_grad()
        ratios = []
        for i in chosen:
            said = self.network(self.lessons[i].data)
            losses, watched = losses_of(self.lessons[i], said)
            departure = (said.weight**2).mean() + (said.tie**2).mean() + (said.response**2).mean()
            ((self.balance(losses) + DEPARTURE * departure) / chosen.size).backward()
            ratios.append(math.log(watched["ratio"]))
        norm = nn.utils.clip_grad_norm_([*self.network.parameters(), *self.balance.parameters()], 1.0)
        if torch.isfinite(norm):
            self.optimiser.step()
        self.schedule.step()
        with torch.no_grad():
            # the mean of the first steps is of those steps
            decay = min(self.plan.average, self.step / (self.step + 10.0))
            for mean, value in zip(self.average.parameters(), self.network.parameters(), strict=True):
                mean.lerp_(value, 1.0 - decay)
        self.step += 1
        return math.exp(float(np.mean(ratios)))

    def examine(self, held_out: list[Lesson]) -> dict[str, float]:
        """Look at the surveys held out with the mean weights, and keep them where they are the best."""
        seen = examined(self.average, held_out)
        if seen["loss"] < self.best:
            self.best, self.best_state = seen["loss"], self._copy()
        return seen

    def taught(self) -> Network:
        """The network that was best on the surveys held out."""
        network = self.kind(self.plan.parts)
        network.load_state_dict(self.best_state)
        return network.eval()

    def state(self) -> dict[str, Any]:
        """All that the next step depends on."""
        return {
            "network": self.network.state_dict(), "balance": self.balance.state_dict(),
            "average": self.average.state_dict(), "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(), "step": self.step, "best": self.best, "best_state": self.best_state,
        }  # fmt: skip

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        for name in ("network", "balance", "average", "optimiser", "schedule"):
            getattr(self, name).load_state_dict(state[name])
        self.step, self.best, self.best_state = state["step"], state["best"], state["best_state"]


def fit_normalisation(network: Network, lessons: list[Lesson]) -> None:
    """Means and spreads of all features over the training surveys."""
    for name in ("measurement", "star", "exposure", "night", "link"):
        if name == "link":
            x = torch.cat([lesson.data["exposure", "links", "exposure"].edge_attr for lesson in lessons])
        else:
            x = torch.cat([lesson.data[name].x for lesson in lessons])
        if x.shape[0] > 1:
            layer: Any = network.normalise[name]
            layer.mean.copy_(x.mean(0))
            layer.spread.copy_(x.std(0).clamp(min=0.05))


def examined(network: Network, lessons: list[Lesson]) -> dict[str, float]:
    """Loss of the zero-points, error over robust error (geometric mean, median, largest) and mean squared pulls."""
    with torch.no_grad():
        seen = [losses_of(lesson, network(lesson.data)) for lesson in lessons]
    ratio = np.array([w["ratio"] for _, w in seen])
    out = {name: float(np.mean([float(losses[name]) for losses, _ in seen])) for name in NAMES}
    return out | {
        "loss": out["zeropoint"] + out["likelihood"], "ratio": float(np.exp(np.log(ratio).mean())),
        "median_ratio": float(np.median(ratio)), "worst_ratio": float(ratio.max()),
        "pull2": float(np.mean([w["pull2"] for _, w in seen])),
    }  # fmt: skip


def find_rate(
    plan: Plan, lessons: list[Lesson], device: str = "cpu", steps: int = 24, low: float = 1e-4, high: float = 3e-2
) -> float:
    """Learning-rate finder (Smith 2017, arXiv:1506.01186): a third of the rate at which the smoothed loss is least."""
    pupil = Pupil(plan, 0, lessons, device=device)
    optimiser = torch.optim.AdamW([*pupil.network.parameters(), *pupil.balance.parameters()], lr=low)
    rates, smooth, smoothed = np.geomspace(low, high, steps), 0.0, []
    for k, rate in enumerate(rates):
        for group in optimiser.param_groups:
            group["lr"] = float(rate)
        rng = np.random.default_rng([plan.seed, 999, k])
        optimiser.zero_grad()
        total = 0.0
        for i in rng.choice(len(lessons), min(plan.batch, len(lessons)), replace=False):
            losses, _ = losses_of(lessons[i], pupil.network(lessons[i].data))
            loss = pupil.balance(losses) / plan.batch
            loss.backward()
            total += float(loss.detach())
        nn.utils.clip_grad_norm_(pupil.network.parameters(), 1.0)
        optimiser.step()
        smooth = 0.8 * smooth + 0.2 * total
        smoothed.append(smooth / (1.0 - 0.8 ** (k + 1)))
    return float(np.clip(rates[int(np.argmin(smoothed))] / 3.0, 3e-4, 4e-3))


def train(
    plan: Plan, folder: Path, *, hours: float = math.inf, start: Ensemble | None = None, device: str = "cpu",
    say: Callable[[str], None] = lambda text: None,
) -> Ensemble:  # fmt: skip
    """Train the ensemble, or go on with it.

    Parameters
    ----------
    folder
        Of the surveys and the checkpoints; a run begins where the last one in it ended.
    hours
        Wall time after which it stops with `OutOfTime`, to be gone on with.
    start
        An ensemble to fine-tune.
    device
        Of the networks, ``cpu`` or ``cuda``; surveys are solved on the CPU.

    Raises
    ------
    OutOfTime
        The time was not enough.
    """
    begin = time.monotonic()

    def over() -> bool:
        return time.monotonic() - begin > 3600.0 * hours

    folder.mkdir(parents=True, exist_ok=True)
    spent = _spent(folder)
    lessons: list[Lesson] = []
    held_out: list[Lesson] = []
    for path in cached(folder / "surveys", range(plan.surveys), say, over):
        number = int(path.stem)
        (held_out if number % HELD_OUT == 0 else lessons).append(Lesson.of(load(path)).to(device))
        say(f"survey {number + 1} of {plan.surveys}")
        if over():
            _spend(folder, spent + time.monotonic() - begin)
            raise OutOfTime(f"{len(lessons) + len(held_out)} of {plan.surveys} surveys are solved")
    if not lessons or not held_out:
        raise ValueError(f"{plan.surveys} surveys are too few to train on and hold out; give at least {HELD_OUT + 1}")
    writer = _tensorboard(folder)
    pupils: list[Pupil] = []
    rate = plan.rate
    for member in range(plan.members):
        checkpoint = folder / f"member{member}.checkpoint"
        saved = torch.load(checkpoint, "cpu", weights_only=False) if checkpoint.is_file() else None
        if saved is not None and saved["plan"] != asdict(plan):
            raise ValueError(f"{checkpoint}: is of another plan; give another folder, or the same options")
        if saved is not None:
            rate = saved["rate"]
        elif not rate:
            rate = find_rate(plan, lessons, device)
            say(f"learning rate {rate:.1e}")
        own = None if start is None else start.members[member % len(start.members)]
        pupil = Pupil(plan, member, lessons, own, device)
        pupil.set_rate(rate)
        if saved is not None:
            pupil.restore(saved["state"])
        pupils.append(pupil)
        while pupil.step < plan.steps:
            ratio = pupil.learn()
            where = f"member {member + 1} of {plan.members}, step {pupil.step} of {plan.steps}"
            say(f"{where}, error over robust {ratio:.3f}")
            late = over()
            if late or pupil.step % plan.every == 0 or pupil.step == plan.steps:
                if pupil.step % plan.every == 0 or pupil.step == plan.steps:
                    seen = pupil.examine(held_out)
                    _record(folder, writer, member, pupil.step, seen)
                _save_checkpoint(checkpoint, {"plan": asdict(plan), "rate": rate, "state": pupil.state()})
            if late and not (member == plan.members - 1 and pupil.step == plan.steps):
                _spend(folder, spent + time.monotonic() - begin)
                raise OutOfTime(where)
    ensemble = Ensemble([pupil.taught() for pupil in pupils])
    scores = together(ensemble.to(device), held_out)
    ensemble.to("cpu")
    ensemble.temperature = float(np.clip(math.sqrt(scores["pull2"]), 0.8, 1.5))
    _spend(folder, spent + time.monotonic() - begin)
    ensemble.card = {
        "plan": asdict(plan) | {"rate": rate}, "trained_on": len(lessons), "held_out": len(held_out),
        "scores": scores | {f"member {p.member}": p.best for p in pupils}, "hours": round(_spent(folder) / 3600.0, 2),
        "torch": torch.__version__, "device": device, "fine_tuned": start is not None,
    }  # fmt: skip
    return ensemble


class _Together(nn.Module):
    """Members whose factors are averaged, as the engine takes them."""

    def __init__(self, ensemble: Ensemble) -> None:
        super().__init__()
        self.ensemble = ensemble

    def forward(self, data: Any) -> Any:
        said = [tempered(member(data)) for member in self.ensemble.members]

        def mean(name: str) -> Tensor:
            return torch.stack([getattr(s, name) for s in said]).mean(0)

        return Said(
            mean("weight"), mean("tie"), mean("response"), mean("outlier"), mean("variable"), said[0].reached,
            said[0].decoded,
        )  # fmt: skip


def together(ensemble: Ensemble, lessons: list[Lesson]) -> dict[str, float]:
    """As `examined`, for the whole ensemble."""
    whole: Any = _Together(ensemble)
    return examined(whole, lessons)


def _save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    partial = path.with_name(f".{path.name}.partial")
    torch.save(state, partial)
    os.replace(partial, path)


def _record(folder: Path, writer: Any, member: int, step: int, seen: dict[str, float]) -> None:
    with (folder / "log.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"member": member, "step": step} | seen) + "\n")
    if writer is not None:
        for name, value in seen.items():
            writer.add_scalar(f"member{member}/{name}", value, step)


def _tensorboard(folder: Path) -> Any:
    """A TensorBoard writer where tensorboard is installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder / "tensorboard"))


def _spent(folder: Path) -> float:
    path = folder / "seconds"
    return float(path.read_text()) if path.is_file() else 0.0


def _spend(folder: Path, seconds: float) -> None:
    (folder / "seconds").write_text(repr(seconds))
