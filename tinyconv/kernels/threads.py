"""Work shared out among threads: compiled kernels release the interpreter's lock, so Python's own threads suffice.

Numba's threading layers would do the same, but its default one ends the process when two Python threads enter it at
once, and GNU OpenMP ends a process that was forked after its first use. These threads survive both.

A sleeping thread takes some 40 microseconds to wake, as long as many a kernel runs. So a helper that has done its work
watches for more, about 0.1 milliseconds, before it sleeps.

A kernel's result never depends on who computes which item, so the number of threads changes no bit.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

import numpy as np

_TURNS = 200_000  # of watching for work, before a helper sleeps
_PATIENCE = 2_000_000  # of watching a helper at work, before the caller sleeps


def _cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _sleep_at_once(numbers: Any, index: int, least: int, turns: int) -> bool:
    """Watching needs a compiled loop that does not hold the interpreter's lock: see ``cpu/watch.py``."""
    return False


watch: Callable[[Any, int, int, int], bool] = _sleep_at_once

_GIVEN, _DONE = 0, 8  # places of a helper's numbers, on cache lines of their own


class _Helper:
    """A thread that works for one caller at a time."""

    def __init__(self) -> None:
        self.numbers = np.zeros(16, np.int64)
        self.jobs: deque[Callable[[], None] | None] = deque()
        self.given, self.asleep, self.awaited = 0, False, False
        self.bell: SimpleQueue[None] = SimpleQueue()
        self.finished: SimpleQueue[None] = SimpleQueue()
        self.error: BaseException | None = None
        threading.Thread(target=self._serve, name="tinyconv", daemon=True).start()

    def _serve(self) -> None:
        turn = 0
        while True:
            turn += 1
            if not watch(self.numbers, _GIVEN, turn, _TURNS):
                self.asleep = True
                while self.numbers[_GIVEN] < turn:
                    self.bell.get()
                self.asleep = False
            try:
                job = self.jobs.pop()
            except IndexError:
                job = _nothing  # it was taken back
            if job is None:
                return
            try:
                job()
            except BaseException as error:
                self.error = error
            self.numbers[_DONE] = turn
            if self.awaited:
                self.finished.put(None)

    def give(self, job: Callable[[], None] | None) -> None:
        """Begin a job as soon as possible; None ends the thread."""
        self.jobs.append(job)
        self.given += 1
        self.numbers[_GIVEN] = self.given
        if self.asleep:
            self.bell.put(None)

    def finish(self) -> BaseException | None:
        """Take the job back if it has not begun, or wait for its end; what it raised."""
        try:
            self.jobs.pop()
            return None
        except IndexError:
            pass
        if not watch(self.numbers, _DONE, self.given, _PATIENCE):
            self.awaited = True
            while self.numbers[_DONE] < self.given:
                self.finished.get()
            self.awaited = False
        error, self.error = self.error, None
        return error


def _nothing() -> None:
    """A job that was taken back."""


class _Team:
    """The helpers of all callers."""

    def __init__(self, threads: int) -> None:
        self.threads, self.idle, self.missing = threads, deque[_Helper](), deque(range(threads - 1))

    def call(self, wanted: int) -> list[_Helper]:
        """As many helpers as are free, up to ``wanted``."""
        found: list[_Helper] = []
        while len(found) < wanted:
            try:
                found.append(self.idle.pop())
            except IndexError:
                try:
                    self.missing.pop()
                except IndexError:
                    break
                found.append(_Helper())
        return found

    def dismiss(self) -> None:
        """End the threads that are free."""
        while self.idle:
            self.idle.pop().give(None)


_team = _Team(_cores())


def _forget() -> None:
    """A forked child has none of its parent's threads."""
    global _team
    _team = _Team(_team.threads)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def get_num_threads() -> int:
    """How many threads a kernel uses at most."""
    return _team.threads


def set_num_threads(threads: int) -> None:
    """Let each kernel of the CPU use at most ``threads`` threads, for the whole process; all cores by default.

    No result depends on it. Matrix products that NumPy computes follow its BLAS library's own setting. Raises
    TypeError and ValueError for anything but a positive int.
    """
    global _team
    if isinstance(threads, bool) or not isinstance(threads, int):
        raise TypeError(f"set_num_threads: threads must be an int, but is {threads!r}.")
    if threads < 1:
        raise ValueError(f"set_num_threads: threads must be at least 1, but is {threads}.")
    before, _team = _team, _Team(threads)
    before.dismiss()


def parallel(work: Callable[[int, int], Any], items: int, cost: float, once: bool = False) -> None:
    """Call ``work(first, last)`` for parts that together make up range(items), by several threads where it pays.

    ``cost`` is what all items take, in nanoseconds of one thread. There are up to four parts a thread, of 30,000 at
    least, and whoever is free takes the next; or, where each call of ``work`` has costs of its own, ``once`` for each
    thread.
    """
    team = _team
    threads = min(team.threads, items, int(cost / 20_000))
    if threads <= 1:
        if items:
            work(0, items)
        return
    parts = threads if once else min(items, 4 * threads, max(threads, int(cost / 30_000)))
    bounds = [items * part // parts for part in range(parts + 1)]
    waiting = iter(list(zip(bounds, bounds[1:])))  # a list's iterator hands out each part once, whoever asks

    def run() -> None:
        for first, last in waiting:
            work(first, last)

    helpers = team.call(threads - 1)
    for helper in helpers:
        helper.give(run)
    errors: list[BaseException] = []
    try:
        run()
    finally:
        for helper in helpers:
            error = helper.finish()
            if error is not None:
                errors.append(error)
            if team is _team:
                team.idle.append(helper)
            else:  # another number of threads was asked for meanwhile
                helper.give(None)
    if errors:
        raise errors[0]
