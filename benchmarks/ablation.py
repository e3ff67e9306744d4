"""What each part of the learned method is worth: the same training without it, judged by surveys of its own.

    python benchmarks/ablation.py --surveys FOLDER [--most 300] [--least 3000] [--steps 250] [--members 3] [--batch 4]
                                  [--rate 2e-3] [--seed 3] [--only all,links,...] [--json out.json]

FOLDER holds solved surveys as `calib train` leaves them in WORK/surveys; they are made there where there are fewer than
``--most``. Of every six one chooses the best checkpoint, one judges, and the rest are trained on; those with fewer than
``--least`` measurements judge nothing. For every variant:
zero-point rms over that of the robust method on the surveys that judge (geometric mean, median, worst, and how many are
more than 2 % above), the geometric mean over that of the whole network on the same surveys with its standard error, and
mean squared pulls. Same seeds, same surveys, same steps throughout.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from halves import lessons_of_halves, parts_of

from calib.learn.ensemble import Ensemble
from calib.learn.exact import LearnedEquations
from calib.learn.features import features_of
from calib.learn.losses import Lesson
from calib.learn.network import ALL, Network, Said
from calib.learn.samples import Sample, cached, load
from calib.learn.train import HELD_OUT, Plan, Pupil, together

CHOOSE, JUDGE = 0, HELD_OUT // 2
"""Numbers of surveys modulo HELD_OUT that choose checkpoints, and that judge."""
class Unrolled(Network):
    """Passes of {features, network, exact solve}: each looks at the answer to all that was said before.

    Features are made anew without gradient; what every pass says reaches the zero-points by itself.
    """

    passes = 2

    def forward(self, data: Any, most: int = 2_000_000) -> Said:
        """As a network's; ``data.sample`` is the survey that the features are of."""
        said = super().forward(data, most)
        for _ in range(self.passes - 1):
            more = super().forward(looked_at_again(data.sample, said), most)
            said = more._replace(
                weight=said.weight + more.weight, tie=said.tie + more.tie, response=said.response + more.response
            )
        return said


class ThreeTimes(Unrolled):
    passes = 3


def looked_at_again(sample: Sample, said: Said) -> Any:
    """Features of the answer under what was said."""
    fit, job = sample.fit, LearnedEquations(sample.fit)
    factors = [np.exp(x.detach().numpy().astype(float)) for x in (said.weight, said.tie, said.response)]
    equations, informed = job.equations(*factors), job.equations(*factors, scale=job.loss)
    now = replace(
        fit, equations=equations, estimate=equations.estimate(), spread=informed.spread(), prior=equations.prior,
        stated=informed, weighted=replace(fit.weighted, w=equations.w),
    )  # fmt: skip
    return features_of(sample.problem, now).to_hetero_data()


class Twice(Pupil):
    kind = Unrolled


class Thrice(Pupil):
    kind = ThreeTimes


def split(lessons: list[Lesson]) -> list[Lesson]:
    """Halves of the stars of every survey, each held against the other; surveys that cannot be halved are left out."""
    return [half for lesson in lessons for half in lessons_of_halves(*parts_of(lesson.data.sample, 2))]


VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "all": ("the whole network", {}),
    "autoencoder": ("without the autoencoder", {"parts": replace(ALL, autoencoder=False)}),
    "exposures": ("without messages to exposures", {"parts": replace(ALL, exposure_messages=False)}),
    "stars": ("without messages to stars", {"parts": replace(ALL, star_messages=False)}),
    "links": ("without same-star links", {"parts": replace(ALL, links=False)}),
    "nights": ("without nights", {"parts": replace(ALL, nights=False)}),
    "messages": (
        "without any message",
        {"parts": replace(ALL, autoencoder=False, exposure_messages=False, star_messages=False, links=False,
                          nights=False)},
    ),
    "weights": ("weights as they are", {"parts": replace(ALL, weights=False)}),
    "ties": ("ties of the prior as they are", {"parts": replace(ALL, ties=False)}),
    "responses": ("responses to seeing as they are", {"parts": replace(ALL, responses=False)}),
    "auxiliary": ("losses of zero-points alone", {"auxiliary": False}),
    "split": ("star-split only, no truth", {"auxiliary": False, "lessons": split}),
    "two": ("two passes", {"pupil": Twice}),
    "three": ("three passes", {"pupil": Thrice}),
}  # fmt: skip
"""Name, what it is, and what of the plan is other, or who learns it, or from what."""


def lessons_of(folder: Path, most: int, least: int = 0) -> tuple[list[Lesson], list[Lesson], list[Lesson]]:
    """To train on, to choose by, and to judge by; of these, only with this many measurements or more."""
    found: tuple[list[Lesson], list[Lesson], list[Lesson]] = ([], [], [])
    for path in cached(folder, range(most)):
        kind = {CHOOSE: 1, JUDGE: 2}.get(int(path.stem) % HELD_OUT, 0)
        sample = load(path)
        if kind != 2 or sample.problem.m.size >= least:
            lesson = Lesson.of(sample)
            lesson.data.sample = sample
            found[kind].append(lesson)
    if not all(found):
        raise SystemExit(f"{folder}: {most} surveys are too few to train, choose and judge; give --most {2 * HELD_OUT}")
    return found


def trained(
    plan: Plan, lessons: list[Lesson], choosing: list[Lesson], say: Callable[[str], None],
    pupil_of: type[Pupil] = Pupil,
) -> Ensemble:
    """Train an ensemble of such networks."""
    members = []
    for member in range(plan.members):
        pupil = pupil_of(plan, member, lessons)
        while pupil.step < plan.steps:
            pupil.learn()
            if pupil.step % plan.every == 0 or pupil.step == plan.steps:
                pupil.examine(choosing)
                say(f"member {member + 1} of {plan.members}, step {pupil.step}: {pupil.best:.4f}")
        members.append(pupil.taught())
    return Ensemble(members)


def ratios(ensemble: Ensemble, lessons: list[Lesson]) -> np.ndarray:
    """Error over robust error in every survey."""
    return np.array([together(ensemble, [lesson])["ratio"] for lesson in lessons])


def ablate(
    plan: Plan, names: list[str], lessons: tuple[list[Lesson], ...], say: Callable[[str], None] = lambda text: None
) -> Iterator[dict[str, Any]]:
    """A row for every variant as it is done; the whole network is the first of them, asked for or not."""
    train, choose, judge = lessons
    whole = np.zeros(0)
    for name in ["all", *(n for n in names if n != "all")]:
        what, other = VARIANTS[name]
        begin = time.process_time()
        of_plan = {key: value for key, value in other.items() if key not in ("pupil", "lessons")}
        taught = other.get("lessons", list)
        ensemble = trained(
            replace(plan, **of_plan), taught(train), taught(choose), lambda text, name=name: say(f"{name}: {text}"),
            other.get("pupil", Pupil),
        )  # fmt: skip
        ratio = np.log(ratios(ensemble, judge))
        whole = ratio if name == "all" else whole
        loss = ratio - whole
        error = float(loss.std(ddof=1) / np.sqrt(loss.size)) if loss.size > 1 else float("nan")
        yield {
            "name": name, "what": what, "mean": float(np.exp(ratio.mean())),
            "median": float(np.exp(np.median(ratio))), "worst": float(np.exp(ratio.max())),
            "above": int((ratio > np.log(1.02)).sum()), "surveys": ratio.size,
            "over_whole": float(np.exp(loss.mean())), "error": error,
            "pull2": together(ensemble, judge)["pull2"], "seconds": time.process_time() - begin,
        }  # fmt: skip


def show(row: dict[str, Any]) -> str:
    """A line of the table."""
    against = "" if row["name"] == "all" else f"{row['over_whole']:.3f} +- {row['error']:.3f}"
    return (
        f"{row['what']:32s} {row['mean']:6.3f} {row['median']:6.3f} {row['worst']:6.3f} {row['above']:3d} of "
        f"{row['surveys']:<3d} {against:>15s} {row['pull2']:6.2f} {row['seconds']:7.0f}"
    )


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--surveys", type=Path, required=True, help="folder of solved surveys")
    parser.add_argument("--most", type=int, default=300, help="surveys, those that choose and judge among them")
    parser.add_argument("--least", type=int, default=0, help="measurements of a survey that judges")
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--members", type=int, default=3)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--every", type=int, default=50)
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--only", help=f"of {', '.join(VARIANTS)}, joined by commas; all where not given")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quiet", action="store_true")
    args = parser.parse_args(argv)
    names = args.only.split(",") if args.only else list(VARIANTS)
    if unknown := sorted(set(names) - set(VARIANTS)):
        parser.error(f"--only: no {', '.join(unknown)}; there are {', '.join(VARIANTS)}")
    plan = Plan(args.most, args.steps, args.batch, args.members, args.rate, every=args.every, seed=args.seed)
    lessons = lessons_of(args.surveys, args.most, args.least)
    sizes = [len(part) for part in lessons]
    print(
        f"{platform.platform()}, Python {platform.python_version()}, torch {torch.__version__}\n"
        f"{sizes[0]} surveys trained on, {sizes[1]} choose, {sizes[2]} judge; {plan.members} networks of {plan.steps} "
        f"steps of {plan.batch} surveys, rate {plan.rate:g}, seed {plan.seed}\n\n"
        f"{'error over robust':32s} {'mean':>6s} {'median':>6s} {'worst':>6s} {'> 1.02':>10s} {'over whole':>15s} "
        f"{'pull2':>6s} {'cpu s':>7s}"
    )
    say = (lambda text: None) if args.quiet else lambda text: print("  " + text, flush=True)
    rows = []
    for row in ablate(plan, names, lessons, say):
        rows.append(row)
        print(show(row), flush=True)
    if args.json:
        args.json.write_text(json.dumps({"plan": asdict(plan), "sizes": sizes, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
