"""Work shared out among threads: every item once, whoever calls and whatever goes wrong."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from tinyconv import kernels
from tinyconv.kernels import threads
from tinyconv.kernels.threads import get_num_threads, parallel, set_num_threads

MUCH = 1e12  # nanoseconds: enough for all threads


@pytest.fixture(params=["sleeping", "watching"], autouse=True)
def helpers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fresh helpers that sleep at once, or that watch for work in compiled code."""
    if request.param == "watching":
        pytest.importorskip("numba", reason="Numba is not installed: nothing watches without the interpreter's lock")
        from tinyconv.kernels.cpu.watch import watch

        monkeypatch.setattr(threads, "watch", watch)
    else:
        kernels.table()  # loads the compiled rung now, which would start to watch later
        monkeypatch.setattr(threads, "watch", threads._sleep_at_once)
    before = get_num_threads()
    set_num_threads(4)
    yield
    set_num_threads(before)


@pytest.mark.parametrize("once", [False, True])
@pytest.mark.parametrize("items", [0, 1, 2, 3, 5, 64, 1000])
def test_every_item_is_worked_on_once(items: int, once: bool) -> None:
    for _ in range(50):
        seen: list[int] = []
        parallel(lambda first, last, seen=seen: seen.extend(range(first, last)), items, MUCH, once)
        assert sorted(seen) == list(range(items))


def test_little_work_stays_with_the_caller() -> None:
    who: set[int] = set()
    for _ in range(20):
        parallel(lambda first, last: who.add(threading.get_ident()), 1000, 1000.0)
    assert who == {threading.get_ident()}


def test_several_callers_at_once_get_all_of_their_own_work() -> None:
    found: dict[int, list[int]] = {}

    def call(number: int) -> None:
        results = []
        for items in range(1, 60):
            seen: list[int] = []
            parallel(lambda first, last, seen=seen: seen.extend(range(first, last)), items, MUCH)
            results.append(sorted(seen) == list(range(items)))
        found[number] = results

    callers = [threading.Thread(target=call, args=(number,)) for number in range(5)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert all(found[number] == [True] * 59 for number in range(5))


@pytest.mark.parametrize("bad", range(8))
def test_what_an_item_raises_reaches_the_caller_and_the_next_call_is_sound(bad: int) -> None:
    def work(first: int, last: int) -> None:
        if first <= bad < last:
            raise KeyError(bad)

    for _ in range(10):
        with pytest.raises(KeyError, match=str(bad)):
            parallel(work, 8, MUCH)
    test_every_item_is_worked_on_once(64, once=False)


def test_the_number_of_threads_may_change_while_others_work() -> None:
    stop = threading.Event()
    wrong: list[list[int]] = []

    def call() -> None:
        while not stop.is_set():
            seen: list[int] = []
            parallel(lambda first, last, seen=seen: seen.extend(range(first, last)), 16, MUCH)
            if sorted(seen) != list(range(16)):
                wrong.append(seen)

    caller = threading.Thread(target=call)
    caller.start()
    for number in (1, 2, 3, 4, 5) * 20:
        set_num_threads(number)
    stop.set()
    caller.join()
    assert not wrong


def test_work_within_work() -> None:
    seen: list[tuple[int, int]] = []

    def outer(first: int, last: int) -> None:
        for i in range(first, last):
            parallel(lambda a, b, i=i: seen.extend((i, j) for j in range(a, b)), 6, MUCH)

    parallel(outer, 7, MUCH)
    assert sorted(seen) == [(i, j) for i in range(7) for j in range(6)]
