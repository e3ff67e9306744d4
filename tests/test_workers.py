"""Threads of a solve: whole, in order, and without a trace in the answer."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from calib import Config, Solution, calibrate, workers


class TestCut:
    @pytest.mark.parametrize("seed", range(4))
    def test_runs_hold_every_star_once_and_in_order(self, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
        visits = np.random.default_rng(seed).integers(0, 9, 500)
        ptr = np.concatenate([[0], np.cumsum(visits)])
        monkeypatch.setattr(workers, "RUN", 60)
        monkeypatch.setattr(workers, "MOST_RUNS", 20)
        runs = workers.cut(ptr)
        assert 15 < len(runs) <= 20
        assert [k for first, stop in runs for k in range(first, stop)] == list(range(500))
        assert max(ptr[stop] - ptr[first] for first, stop in runs) < ptr[-1] / 20 + 2 * 9

    def test_hangs_on_the_measurements_alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        ptr = np.arange(0, 1001, 5)
        monkeypatch.setattr(workers, "RUN", 100)
        runs = workers.cut(ptr)
        assert len(runs) == 10
        for threads in (1, 2, 7):
            with workers.working(threads):
                assert workers.cut(ptr) == runs

    def test_a_small_survey_is_one_run(self) -> None:
        ptr = np.arange(2 * workers.RUN)
        with workers.working(8):
            assert workers.cut(ptr) == workers.shared(ptr) == [(0, ptr.size - 1)]
            assert workers.dealt(11, ptr.size - 1) == [(0, 11)]

    def test_what_is_the_same_however_it_is_cut_is_cut_for_the_threads(self) -> None:
        ptr = np.arange(50 * workers.RUN)
        assert workers.shared(ptr) == [(0, ptr.size - 1)]
        with workers.working(3):
            assert len(workers.shared(ptr)) == 3 * workers.SHARES
            assert workers.dealt(11, ptr.size) == [(0, 3), (3, 7), (7, 11)]

    def test_without_a_star(self) -> None:
        empty = np.zeros(1, np.int64)
        assert workers.cut(empty) == workers.shared(empty) == [(0, 0)]


class TestThreads:
    def test_there_are_as_many_as_asked_for(self) -> None:
        meeting = threading.Barrier(3)  # nobody passes before three are there
        with workers.working(3):
            workers.each(lambda *_: meeting.wait(timeout=30), [(k, k + 1) for k in range(6)])
        seen: set[int] = set()
        with workers.working(1):
            workers.each(lambda *_: seen.add(threading.get_ident()), [(k, k + 1) for k in range(6)])
        assert seen == {threading.get_ident()}

    def test_sums_are_added_in_the_order_of_the_runs(self) -> None:
        runs = [(k, k + 1) for k in range(9)]
        rng = np.random.default_rng(0)
        values = rng.normal(size=9) * 10.0 ** rng.integers(-9, 9, 9)  # any other order rounds differently
        expected = np.zeros(1)
        for value in values:
            expected += value
        assert sum(values[::-1]) != expected[0]
        for threads in (1, 2, 5):
            late = threading.Event()

            def job(k: int, _: int, out: np.ndarray, late: threading.Event = late, threads: int = threads) -> int:
                if k == 0 and threads > 1:
                    late.wait(timeout=30)  # the first is done after the second
                if k == 1:
                    late.set()
                out += values[k]
                return k

            total = np.zeros(1)
            with workers.working(threads):
                assert workers.summed(job, runs, total) == list(range(9))
            assert total[0] == expected[0]

    def test_few_sums_wait_to_be_added(self) -> None:
        alive, most, lock = 0, 0, threading.Lock()

        def job(_: int) -> int:
            nonlocal alive, most
            with lock:
                alive += 1
                most = max(most, alive)
            return 1

        with workers.working(2):
            for _ in workers.in_order(job, range(50)):
                with lock:
                    alive -= 1
        assert most <= 4

    @pytest.mark.parametrize("threads", [1, 3])
    def test_what_a_job_raises_is_raised(self, threads: int) -> None:
        done: list[int] = []

        def job(k: int, _: int) -> None:
            if k == 2:
                raise ZeroDivisionError("of a run")
            done.append(k)

        with workers.working(threads), pytest.raises(ZeroDivisionError, match="of a run"):
            workers.each(job, [(k, k + 1) for k in range(1000)])
        assert {0, 1} <= set(done)
        assert len(done) < 20
        assert workers.asked() is None

    def test_they_are_those_of_the_innermost_solve(self) -> None:
        assert workers.asked() is None
        with workers.working(2):
            with workers.working(5):
                assert workers.asked() == 5
            assert workers.asked() == 2
        assert workers.asked() is None

    def test_two_solves_side_by_side_have_each_their_own(self) -> None:
        meeting, found = threading.Barrier(2), {}

        def solve(number: int) -> None:
            with workers.working(number):
                meeting.wait(timeout=30)
                found[number] = workers.asked()

        threads = [threading.Thread(target=solve, args=(number,)) for number in (2, 3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == {2: 2, 3: 3}

    def test_none_said_is_all_that_there_are(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(6)), raising=False)
        monkeypatch.setattr("numba.core.config.NUMBA_NUM_THREADS", 64)
        with workers.working(0):
            assert workers.asked() == 6
        monkeypatch.setattr("numba.core.config.NUMBA_NUM_THREADS", 4)
        with workers.working(0):
            assert workers.asked() == 4
        with workers.working(9):
            assert workers.asked() == 9


class TestDown:
    """A forest: 0 and 1 below 2, 3 below 5, 2 and 4 below 6; 5 and 6 are roots."""

    PARENT = np.array([2, 2, 6, 5, 6, -1, -1])

    @pytest.mark.parametrize("threads", [1, 2, 3])
    def test_parents_come_first(self, threads: int) -> None:
        done: list[int] = []
        lock = threading.Lock()

        def job(q: int) -> None:
            with lock:
                assert self.PARENT[q] < 0 or self.PARENT[q] in done
            time.sleep(0.002 * (q % 3))
            with lock:
                done.append(q)

        with workers.working(threads):
            workers.down(job, self.PARENT, 3)
        assert sorted(done) == list(range(7))
        if threads == 1:
            assert done == [6, 5, 4, 3, 2, 1, 0]

    def test_branches_go_side_by_side(self) -> None:
        meeting = threading.Barrier(2)
        with workers.working(8):
            workers.down(lambda q: meeting.wait(timeout=30) if q in (0, 1) else None, self.PARENT, 2)
        seen: set[int] = set()
        with workers.working(8):
            workers.down(lambda _: seen.add(threading.get_ident()), self.PARENT, 1)
        assert seen == {threading.get_ident()}

    @pytest.mark.parametrize("threads", [1, 3])
    def test_what_a_job_raises_is_raised_and_nothing_below_it_begun(self, threads: int) -> None:
        begun: list[int] = []

        def job(q: int) -> None:
            begun.append(q)
            if q == 2:
                raise ZeroDivisionError("of a branch")

        with workers.working(threads), pytest.raises(ZeroDivisionError, match="of a branch"):
            workers.down(job, self.PARENT, 3)
        assert not {0, 1} & set(begun)


def solution(survey: Path, method: str, threads: int) -> Solution:
    config = Config(method=method, workers=threads, score=False)
    return calibrate(str(survey / "measurements.parquet"), str(survey / "exposures.parquet"), config=config)


def tables(solution: Solution) -> dict[str, pl.DataFrame]:
    return {**solution.frames, "measurements": solution.measurement_frame()}


class TestCalibrate:
    @pytest.mark.parametrize("method", ["wls", "robust", "learned"])
    def test_the_answer_is_the_same_to_the_last_bit(
        self, survey: Path, method: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        begun: set[int] = set()
        real = workers.in_order

        def counted(job, parts):  # noqa: ANN001, ANN202
            begun.add(len(parts))
            return real(job, parts)

        whole = tables(solution(survey, method, 1))
        monkeypatch.setattr(workers, "in_order", counted)
        monkeypatch.setattr(workers, "RUN", 400)
        one = tables(solution(survey, method, 1))
        assert max(begun) > 8
        for threads in (2, 3):
            many = tables(solution(survey, method, threads))
            for name, frame in one.items():
                assert frame.equals(many[name], null_equal=True), (name, threads)
        for name, tolerance in (("zeropoint", 1e-8), ("zeropoint_err", 1e-8)):
            found, expected = (t["zeropoints"][name].to_numpy() for t in (one, whole))
            np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)
        if method != "wls":  # runs round otherwise, or this test would be of one alone
            assert not one["zeropoints"].equals(whole["zeropoints"], null_equal=True)

    def test_the_number_is_on_record_and_matters_no_more(self, survey: Path) -> None:
        found = solution(survey, "wls", 2)
        assert found.diagnostics["config"]["workers"] == 2
        assert workers.asked() is None

    def test_what_goes_wrong_in_a_thread_is_told(self, survey: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        where: list[threading.Thread] = []

        def broken(*_: object) -> None:
            where.append(threading.current_thread())
            raise FloatingPointError("in a run of stars")

        monkeypatch.setattr(workers, "RUN", 400)
        monkeypatch.setattr("calib.solve.kernels._right_hand_side", broken)
        with pytest.raises(FloatingPointError, match="in a run of stars"):
            solution(survey, "wls", 2)
        assert threading.main_thread() not in where
        assert workers.asked() is None

    def test_networks_have_no_more_threads(self, survey: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        import torch

        from calib.learn.ensemble import Ensemble

        seen: list[int] = []
        real = Ensemble.listen

        def listen(self: Ensemble, data: object) -> object:
            seen.append(torch.get_num_threads())
            return real(self, data)

        before = torch.get_num_threads()
        monkeypatch.setattr(Ensemble, "listen", listen)
        solution(survey, "learned", before + 1)
        assert set(seen) == {before + 1}
        assert torch.get_num_threads() == before
