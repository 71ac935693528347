"""Work shared out among threads: compiled kernels release the interpreter's lock, so Python's own threads suffice.

Numba's threading layers would do the same, but its default one ends the process when two Python threads enter it at
once, and GNU OpenMP ends a process that was forked after its first use. These threads survive both.

A kernel's result never depends on who computes which item, so the number of threads changes no bit.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any


def _cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_threads = _cores()
_helpers: ThreadPoolExecutor | None = None
_lock = threading.Lock()


def _forget() -> None:
    """A forked child has none of its parent's threads, and perhaps a lock that one of them held."""
    global _helpers, _lock
    _helpers, _lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def get_num_threads() -> int:
    """How many threads a kernel uses at most."""
    return _threads


def set_num_threads(threads: int) -> None:
    """Let each kernel of the CPU use at most ``threads`` threads, for the whole process; all cores by default.

    No result depends on it. Matrix products that NumPy computes follow its BLAS library's own setting. Raises
    TypeError and ValueError for anything but a positive int.
    """
    global _threads, _helpers
    if isinstance(threads, bool) or not isinstance(threads, int):
        raise TypeError(f"set_num_threads: threads must be an int, but is {threads!r}.")
    if threads < 1:
        raise ValueError(f"set_num_threads: threads must be at least 1, but is {threads}.")
    with _lock:
        _threads, _helpers = threads, None


def _pool() -> ThreadPoolExecutor:
    """The threads that help the calling one."""
    global _helpers
    with _lock:
        if _helpers is None:
            _helpers = ThreadPoolExecutor(max(1, _threads - 1), "tinyconv")
        return _helpers


def parallel(work: Callable[[int, int], Any], items: int, cost: float, once: bool = False) -> None:
    """Call ``work(first, last)`` for parts that together make up range(items), by several threads where it pays.

    ``cost`` is what all items take, in nanoseconds of one thread; another thread begins some 40,000 later. So there are
    up to four parts a thread, of 50,000 at least, and whoever is free takes the next; or, where each call of ``work``
    has costs of its own, ``once`` for each thread.
    """
    threads = min(_threads, items, int(cost / 50_000))
    if threads <= 1:
        if items:
            work(0, items)
        return
    parts = threads if once else min(items, 4 * threads, max(threads, int(cost / 50_000)))
    bounds = [items * part // parts for part in range(parts + 1)]
    waiting = iter(list(zip(bounds, bounds[1:])))  # a list's iterator hands out each part once, whoever asks

    def run() -> None:
        for first, last in waiting:
            work(first, last)

    futures = [_pool().submit(run) for _ in range(threads - 1)]
    try:
        run()
    finally:
        for future in futures:
            if not future.cancel():  # not begun: nothing is left to do
                future.result()
