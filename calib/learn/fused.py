# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs
# (compiled kernels carry no types)
"""`FastNetwork` on a CPU: compiled, every layer of a few stars' measurements while they lie in the nearest cache.

A row of `WIDTH` numbers is one value (`calib.learn.lanes`), and a layer adds the rows of its matrix, each times one of
its inputs, to four rows at a time. Stars go side by side in runs, as many whatever the threads, and what runs say of
exposures is added in their order: on any number of threads the answer is the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor

from calib.learn.autoencoder import CODE, LARGEST_LOG_VARIANCE
from calib.learn.fast import Belief, FastNetwork, Linear
from calib.learn.features import MEASUREMENT, STAR
from calib.learn.lanes import LANES, clamped, fma, load, load_short, plus, same, silu, spread, store, tanh, times, total
from calib.learn.network import LARGEST_WEIGHT, WIDTH, Network
from calib.workers import torch_threads

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

BLOCK = 128
"""Measurements looked at together, but for a star of more: their numbers stay in the nearest cache."""
RUNS = 16
"""Runs of stars that threads share, at most."""
TOGETHER = 4
"""Rows of a layer at a time."""
N_MEASUREMENT, N_STAR = len(MEASUREMENT), len(STAR)
EXPECTED = CODE + 3
"""Lanes that hold a measurement's code, and what is expected of it: residual, log variance, logit."""
assert WIDTH == LANES


class First(NamedTuple):
    """What `first` multiplies by: matrices (inputs, LANES), zeros beyond their outputs; a bias is the last row.

    ``place`` and ``place_star`` are scales and shifts of features; ``others`` is what a code's first layer adds where
    there are others, for their number, and always.
    """

    place: Floats
    place_star: Floats
    token: Floats
    folded: Floats
    others: Floats
    code: Floats
    known: Floats
    of_code: Floats
    inner: Floats
    expected: Floats
    own: Floats
    of_star: Floats
    coded: Floats
    last: Floats


class Second(NamedTuple):
    """What `second` multiplies by, as `First`; of ``*_said`` each row but the last gives one output."""

    place_star: Floats
    star_own: Floats
    star_mean: Floats
    star_around: Floats
    star_last: Floats
    star_hidden: Floats
    star_said: Floats
    own: Floats
    of_star: Floats
    said: Floats


class Runs(NamedTuple):
    """Where each star's measurements begin (S + 1,), where runs of stars do (runs + 1,), measurements or stars of a
    block, and rows that hold those of any.
    """

    ptr: Ints
    star: Ints
    block: int
    room: int


class FusedNetwork(FastNetwork):
    """One member, ready to be asked on a CPU, on as many threads as torch has.

    Parameters
    ----------
    network
        Whole; its weights are copied as they are now.
    """

    def __init__(self, network: Network) -> None:
        super().__init__(network, torch.float32)
        self.threads = torch.get_num_threads()
        star: Any = network.normalise["star"]
        head: Any = network.star_head
        place_star = rows(1.0 / star.spread, -star.mean / star.spread)
        expected = torch.zeros(LANES, WIDTH)
        expected[:, CODE:EXPECTED] = self.decoder_last.weight
        self.first = First(
            place=rows(self.scale, self.shift), place_star=place_star, token=rows(self.token_own[:N_MEASUREMENT]),
            folded=rows(self.folded), others=rows(self.of_any, self.of_number, self.of_none),
            code=rows(self.code.weight, torch.cat([self.code.bias, self.decoder_last.bias])),
            known=rows(self.decoder_own[:N_MEASUREMENT]), of_code=rows(self.decoder_own[-CODE:]),
            inner=rows(*self.decoder_inner), expected=rows(expected), own=rows(self.measurement_own[:N_MEASUREMENT]),
            of_star=rows(self.measurement_star, self.measurement.bias),
            coded=rows(self.measurement_own[-LANES:][:EXPECTED]), last=rows(*self.measurement_last),
        )  # fmt: skip
        own, mean, around = self.star[0].rows(N_STAR, WIDTH, WIDTH)
        self.second = Second(
            place_star=place_star, star_own=rows(own, self.star[0].bias), star_mean=rows(mean),
            star_around=rows(around), star_last=rows(*self.star[1]), star_hidden=rows(*Linear.of(head[0])),
            star_said=rows(head[2].weight, head[2].bias), own=rows(self.head_own), of_star=rows(self.head_star),
            said=rows(self.head_last.weight.t(), self.head_last.bias),
        )  # fmt: skip

    def _ask(self, data: Any, most: int | None) -> Belief:
        with torch_threads(1):  # what torch does of exposures is little, and so the same on any number of threads
            return super()._ask(data, most)

    def _cuts(self, data: Any, most: int | None) -> Runs:
        star, n = data["measurement"].star.numpy(), data["measurement"].x.shape[0]
        ptr = np.zeros(data["star"].x.shape[0] + 1, np.int64)
        np.cumsum(np.bincount(star, minlength=ptr.size - 1), out=ptr[1:])
        runs = min(RUNS, max(n // (8 * max(data["exposure"].x.shape[0], 1)), 1))  # their sums take less than h does
        cuts = np.searchsorted(ptr, n * np.arange(1, runs) // runs)
        block = most or BLOCK
        largest = max(block, int(np.diff(ptr).max(initial=0)))
        return Runs(ptr, np.unique(np.r_[0, cuts, ptr.size - 1]), block, (largest // LANES + 1) * LANES)

    def _first(self, data: Any, cuts: Runs, at_token: Tensor, at_decoder: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        n, n_stars, n_nodes = data["measurement"].x.shape[0], cuts.ptr.size - 1, at_token.shape[0]
        h, of_stars = np.empty((n, WIDTH), np.float32), np.zeros((n_stars, WIDTH), np.float32)
        sums = np.zeros((cuts.star.size - 1, 2 * n_nodes, WIDTH), np.float32)
        given = seen(data), self.first, at_token.numpy(), at_decoder.numpy(), h, of_stars

        def job(k: int) -> None:
            first(cuts.ptr, cuts.star[k], cuts.star[k + 1], cuts.block, cuts.room, *given, sums[k])

        each(job, sums.shape[0], self.threads)
        return torch.from_numpy(h), torch.from_numpy(of_stars), torch.from_numpy(sums).sum(0).view(2, n_nodes, WIDTH)

    def _second(
        self, data: Any, cuts: Runs, around: Tensor, at_head: Tensor, h: Tensor, of_stars: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        n, n_stars = h.shape[0], cuts.ptr.size - 1
        weight, outlier, said = np.empty(n, np.float32), np.empty(n, np.float32), np.empty((n_stars, 2), np.float32)
        given = seen(data), self.second, *(t.numpy() for t in (around, at_head, h, of_stars)), weight, outlier, said

        def job(k: int) -> None:
            second(cuts.ptr, cuts.star[k], cuts.star[k + 1], cuts.block, cuts.room, *given)

        each(job, cuts.star.size - 1, self.threads)
        return torch.from_numpy(weight), torch.from_numpy(outlier), torch.from_numpy(said)


class Seen(NamedTuple):
    """The exposure of every measurement, its features and those of stars."""

    node: Ints
    x: Floats
    x_s: Floats


def seen(data: Any) -> Seen:
    """What the kernels look at."""
    x, node, x_s = data["measurement"].x, data["measurement"].exposure, data["star"].x
    return Seen(node.contiguous().numpy(), x.contiguous().numpy(), x_s.contiguous().numpy())


def rows(*parts: Tensor) -> Floats:
    """Rows, one or (inputs, outputs), below each other and filled up with zeros to (all inputs, LANES)."""
    out = np.zeros((sum(1 if p.dim() == 1 else p.shape[0] for p in parts), LANES), np.float32)
    k = 0
    for p in (np.atleast_2d(p.detach().numpy()) for p in parts):
        out[k : (k := k + p.shape[0]), : p.shape[1]] = p
    return out


def each(job: Callable[[int], None], runs: int, threads: int) -> None:
    """Do a job of every run, side by side."""
    if min(threads, runs) < 2:
        for k in range(runs):
            job(k)
        return
    with ThreadPoolExecutor(min(threads, runs)) as pool:
        list(pool.map(job, range(runs)))


# ruff: noqa: D103 - each kernel's one line stands in its comment


@njit(cache=True)
def block_end(ptr, s, b, block):
    # first star that is not looked at together with star s
    e = s + 1
    while e < b and e - s < block and ptr[e + 1] - ptr[s] <= block:
        e += 1
    return e


@njit(cache=True)
def summed(x, w, inputs, r, a, b, c, d):
    # a to d, to which rows of w have been added, each times one of so many inputs of rows r to r + 3
    for k in range(inputs):
        row = load(w, k)
        a = fma(spread(x, r, k), row, a)
        b = fma(spread(x, r + 1, k), row, b)
        c = fma(spread(x, r + 2, k), row, c)
        d = fma(spread(x, r + 3, k), row, d)
    return a, b, c, d


@njit(cache=True)
def stored(out, r, rows):
    # TOGETHER rows from r on
    store(out, r, rows[0])
    store(out, r + 1, rows[1])
    store(out, r + 2, rows[2])
    store(out, r + 3, rows[3])


@njit(cache=True)
def added(x, w, out, n):
    # out += x w; n rows, up to a multiple of four
    for r in range(0, n, TOGETHER):
        now = load(out, r), load(out, r + 1), load(out, r + 2), load(out, r + 3)
        stored(out, r, summed(x, w, w.shape[0], r, *now))


@njit(cache=True)
def made(x, w, out, n):
    # out = x w + bias, the last row of w; n rows, up to a multiple of four
    inputs = w.shape[0] - 1
    bias = load(w, inputs)
    for r in range(0, n, TOGETHER):
        stored(out, r, summed(x, w, inputs, r, bias, bias, bias, bias))


@njit(cache=True)
def activated(x, n):
    # silu of n rows, in place
    for r in range(n):
        store(x, r, silu(load(x, r)))


@njit(cache=True)
def placed(x, low, width, place, out, n):
    # normalised features of n rows from low on
    scale, shift = load(place, 0), load(place, 1)
    for r in range(n):
        store(out, r, clamped(fma(load_short(x, low + r, width), scale, shift), 5))


@njit(cache=True)
def gathered(table, node, low, out, n):
    # rows of a table that n measurements from low on name
    for r in range(n):
        store(out, r, load(table, node[low + r]))


@njit(cache=True)
def handed_out(table, ptr, s, e, out):
    # rows of the stars s to e to their measurements
    for t in range(s, e):
        for r in range(ptr[t] - ptr[s], ptr[t + 1] - ptr[s]):
            store(out, r, load(table, t - s))


@njit(cache=True)
def without_own(token, ptr, s, e, others, sums, constant):
    # of the mean of the others' tokens, of which the code's first layer is linear: what all measurements of a star
    # share, before that layer (sums) and after it (constant), and in place of each token what it takes off itself
    for t in range(s, e):
        low, high = ptr[t] - ptr[s], ptr[t + 1] - ptr[s]
        every = same(np.float32(0.0))
        for r in range(low, high):
            every = plus(every, load(token, r))
        number = max(high - low - 1, 0)
        company = np.float32(min(number, 1))
        share = company / np.float32(max(number, 1))
        store(sums, t - s, times(every, same(share)))
        row = fma(same(np.float32(math.log(1.0 + number))), load(others, 1), load(others, 2))
        store(constant, t - s, fma(same(company), load(others, 0), row))
        for r in range(low, high):
            store(token, r, times(load(token, r), same(-share)))


@njit(cache=True)
def bounded(x, column, n, size, work):
    # size tanh(x / size) of a column of n rows; work has a number for each
    for r in range(n):
        work[r // LANES, r % LANES] = x[r, column] / size
    for k in range((n + LANES - 1) // LANES):
        store(work, k, times(same(size), tanh(load(work, k))))
    for r in range(n):
        x[r, column] = work[r // LANES, r % LANES]


@njit(cache=True)
def answered(x, said, n):
    # in place of the first numbers of n rows the two that a last layer says
    one, two = load(said, 0), load(said, 1)
    for r in range(n):
        row = load(x, r)
        x[r, 0] = total(times(row, one)) + said[2, 0]
        x[r, 1] = total(times(row, two)) + said[2, 1]


@njit(cache=True, nogil=True)
def first(ptr, a, b, block, room, seen, layers, at_token, at_decoder, h, of_stars, sums):
    # measurements of the stars a to b by themselves and by each other: their numbers h, sums of those over stars, and
    # over exposures sums of them and, below, of their squares
    work = np.zeros((7, room, LANES), np.float32)
    own, token, hidden, code, of_star, of_code, shared = work[0], work[1], work[2], work[3], work[4], work[5], work[6]
    column = np.zeros((room // LANES, LANES), np.float32)
    node, n_nodes = seen.node, sums.shape[0] // 2
    s = a
    while s < b:
        e = block_end(ptr, s, b, block)
        low, n, stars = ptr[s], ptr[e] - ptr[s], e - s
        placed(seen.x_s, s, N_STAR, layers.place_star, shared, stars)
        made(shared, layers.of_star, of_star, stars)
        placed(seen.x, low, N_MEASUREMENT, layers.place, own, n)
        gathered(at_token, node, low, token, n)
        added(own, layers.token, token, n)
        activated(token, n)

        without_own(token, ptr, s, e, layers.others, shared, of_code)
        added(shared, layers.folded, of_code, stars)
        handed_out(of_code, ptr, s, e, hidden)
        added(token, layers.folded, hidden, n)
        activated(hidden, n)
        made(hidden, layers.code, code, n)

        gathered(at_decoder, node, low, hidden, n)
        added(own, layers.known, hidden, n)
        added(code, layers.of_code, hidden, n)
        activated(hidden, n)
        made(hidden, layers.inner, token, n)
        activated(token, n)
        added(token, layers.expected, code, n)
        bounded(code, CODE + 1, n, np.float32(LARGEST_LOG_VARIANCE), column)
        for r in range(n):
            if abs(code[r, CODE + 2]) > 8.0:
                code[r, CODE + 2] = math.copysign(8.0, code[r, CODE + 2])

        handed_out(of_star, ptr, s, e, hidden)
        added(own, layers.own, hidden, n)
        added(code, layers.coded, hidden, n)
        activated(hidden, n)
        made(hidden, layers.last, token, n)
        for t in range(s, e):
            every = same(np.float32(0.0))
            for i in range(ptr[t], ptr[t + 1]):
                row, at = load(token, i - low), node[i]
                store(h, i, row)
                every = plus(every, row)
                store(sums, at, plus(load(sums, at), row))
                store(sums, n_nodes + at, fma(row, row, load(sums, n_nodes + at)))
            store(of_stars, t, every)
        s = e


@njit(cache=True, nogil=True)
def second(ptr, a, b, block, room, seen, layers, exposures, at_head, h, of_stars, weight, outlier, said):
    # answers for the measurements of the stars a to b and for these
    work = np.zeros((6, room, LANES), np.float32)
    own, hidden, placed_star, mean, around, star = work[0], work[1], work[2], work[3], work[4], work[5]
    column = np.zeros((room // LANES, LANES), np.float32)
    node = seen.node
    s = a
    while s < b:
        e = block_end(ptr, s, b, block)
        low, n, stars = ptr[s], ptr[e] - ptr[s], e - s
        placed(seen.x_s, s, N_STAR, layers.place_star, placed_star, stars)
        for t in range(s, e):
            share = same(np.float32(1.0 / max(ptr[t + 1] - ptr[t], 1)))
            every = same(np.float32(0.0))
            for i in range(ptr[t], ptr[t + 1]):
                every = plus(every, load(exposures, node[i]))
            store(around, t - s, times(every, share))
            store(mean, t - s, times(load(of_stars, t), share))
        made(placed_star, layers.star_own, star, stars)
        added(mean, layers.star_mean, star, stars)
        added(around, layers.star_around, star, stars)
        activated(star, stars)
        made(star, layers.star_last, mean, stars)
        made(mean, layers.star_hidden, around, stars)
        activated(around, stars)
        answered(around, layers.star_said, stars)
        star[:stars] = 0.0
        added(mean, layers.of_star, star, stars)

        for t in range(s, e):
            said[t, 0], said[t, 1] = around[t - s, 0], around[t - s, 1]
            for i in range(ptr[t], ptr[t + 1]):
                store(own, i - low, load(h, i))
                store(hidden, i - low, plus(load(star, t - s), load(at_head, node[i])))
        added(own, layers.own, hidden, n)
        activated(hidden, n)
        answered(hidden, layers.said, n)
        bounded(hidden, 0, n, np.float32(LARGEST_WEIGHT), column)
        for r in range(n):
            weight[low + r], outlier[low + r] = hidden[r, 0], hidden[r, 1]
        s = e
