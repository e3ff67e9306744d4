"""Threads of a solve: what touches measurements is a map over stars and a sum over exposures.

Kernels let go of Python's lock, so threads share one memory and nothing is copied. Stars are cut into runs by the
measurements alone, and what runs add up is added in their order: the answer is the same to the last bit on any number
of threads. A survey of one run is solved as if there were none of this.

`working` says how many threads a solve has, for the code that it calls; outside of it there is one.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from heapq import heappop, heappush
from threading import Condition
from typing import Any, TypeVar

import numpy as np
from numba.core import config
from numpy.typing import NDArray

RUN = 75_000
"""Measurements of a run, at least: kernels take milliseconds for them, threads begin and end in a tenth of one."""
MOST_RUNS = 64
"""Each adds up sums of its own; runs are longer where there would be more."""
SHARES = 4
"""Parts a thread, where how work is cut cannot change the answer: the last ones level what took longer."""

Ints = NDArray[np.integer[Any]]
Run = tuple[int, int]
P = TypeVar("P")
R = TypeVar("R")

_asked: ContextVar[int | None] = ContextVar("workers", default=None)


def available() -> int:
    """CPUs that the process may run on, and no more than ``NUMBA_NUM_THREADS`` where the user set that."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cpus, int(config.NUMBA_NUM_THREADS)))  # type: ignore[attr-defined]


@contextmanager
def working(workers: int) -> Iterator[None]:
    """Give so many threads to what is called from here; 0 for as many as are `available`."""
    token = _asked.set(workers or available())
    try:
        yield
    finally:
        _asked.reset(token)


@contextmanager
def torch_threads(threads: int | None) -> Iterator[None]:
    """Give PyTorch so many threads on the CPU; None for as many as it has."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def asked() -> int | None:
    """The threads of the solve that this is called from; None where none said how many."""
    return _asked.get()


def cut(ptr: Ints) -> list[Run]:
    """Runs of stars: first and the one after the last; ``ptr`` (S + 1,) delimits their measurements."""
    n = int(ptr[-1] - ptr[0])
    return _cut(ptr, min(max(n // RUN, 1), MOST_RUNS))


def shared(ptr: Ints, least: int | None = None) -> list[Run]:
    """Runs likewise, as threads like them best, for what is the same however it is cut; `RUN` is least if not given."""
    n, threads = int(ptr[-1] - ptr[0]), asked() or 1
    return _cut(ptr, 1 if threads == 1 else min(max(n // (least or RUN), 1), SHARES * threads))


def dealt(n: int, measurements: int) -> list[Run]:
    """So many things, each done of all measurements and the same whoever does it, as threads like them best."""
    return _cut(np.arange(n + 1), 1 if measurements < 2 * RUN else min(asked() or 1, n))


def _cut(ptr: Ints, runs: int) -> list[Run]:
    at = np.searchsorted(ptr, ptr[0] + (ptr[-1] - ptr[0]) * np.arange(1, runs) // runs)
    bounds = np.unique(np.r_[0, at, ptr.size - 1]).tolist()
    return list(zip(bounds[:-1], bounds[1:], strict=True)) or [(0, 0)]


def in_order(job: Callable[[P], R], parts: Sequence[P]) -> Iterator[R]:
    """What a job gives for each part, in their order; few that are done wait to be taken.

    What a job raises is raised here, and those that have not begun are left.
    """
    threads = min(asked() or 1, len(parts))
    if threads < 2:
        yield from map(job, parts)
        return
    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for part in parts:
                waiting.append(pool.submit(job, part))
                if len(waiting) > threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def down(job: Callable[[int], Any], parent: Ints, most: int) -> None:
    """Do a job of every node of a forest after its parent's, on no more than so many threads.

    A parent is numbered above its children; of those that may begin, the last begins first, as it would on one thread.
    """
    threads = min(asked() or 1, most)
    if threads < 2:
        for q in range(parent.size - 1, -1, -1):
            job(q)
        return
    children: list[list[int]] = [[] for _ in range(parent.size)]
    ready: list[int] = []
    for q, p in enumerate(parent.tolist()):
        if p < 0:
            heappush(ready, -q)
        else:
            children[p].append(-q)
    left, failed, changed = parent.size, False, Condition()

    def work() -> None:
        nonlocal left, failed
        while True:
            with changed:
                while not (ready or failed or not left):
                    changed.wait()
                if failed or not left:
                    return
                q = -heappop(ready)
            try:
                job(q)
            except BaseException:
                with changed:
                    failed = True
                    changed.notify_all()
                raise
            with changed:
                left -= 1
                for child in children[q]:
                    heappush(ready, child)
                changed.notify_all()

    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(work) for _ in range(threads)]:
            done.result()


def each(job: Callable[[int, int], Any], runs: Sequence[Run]) -> None:
    """Do a job of every run, where each writes what no other does."""
    deque(in_order(lambda run: job(*run), runs), maxlen=0)


def summed(job: Callable[..., R], runs: Sequence[Run], *sums: NDArray[np.floating[Any]]) -> list[R]:
    """Do a job of every run, ``job(first, stop, *sums)``, that adds to sums; what it gives, run by run.

    The sums of one run after the other are added; an only one adds to them itself.
    """
    if len(runs) == 1:
        return [job(*runs[0], *sums)]

    def apart(run: Run) -> tuple[R, list[NDArray[np.floating[Any]]]]:
        own = [np.zeros_like(x) for x in sums]
        return job(*run, *own), own

    found = []
    for given, own in in_order(apart, runs):
        found.append(given)
        for total, part in zip(sums, own, strict=True):
            total += part
    return found
