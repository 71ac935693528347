"""DataLoader: items in, batches out, the same bits for any number of workers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import Any

import numpy as np

from tinyconv.data.dataset import sample


def default_collate(batch: Sequence[Any]) -> Any:
    """A list of N items -> one batch: arrays of shape S become one array of shape (N, *S).

    Numbers become an array of shape (N,). Tuples, lists and dicts are collated member by member, and strings stay a
    list. ValueError: no items, arrays of unequal shape, tuples of unequal length, dicts of unequal keys.
    TypeError: items of unequal or unknown kind.
    """
    if not batch:
        raise ValueError("default_collate: batch must hold at least one item, but it is empty.")
    first = batch[0]
    if isinstance(first, dict):
        if any(not isinstance(item, dict) or item.keys() != first.keys() for item in batch):
            raise ValueError(
                f"default_collate: every item must be a dict with the keys {list(first)} of the first one."
            )
        return {key: default_collate([item[key] for item in batch]) for key in first}
    if isinstance(first, (tuple, list)):
        if any(not isinstance(item, (tuple, list)) or len(item) != len(first) for item in batch):
            raise ValueError(
                f"default_collate: every item must be a tuple of {len(first)} members, as the first one is."
            )
        members = [default_collate(member) for member in zip(*batch)]
        return type(first)(*members) if hasattr(first, "_fields") else type(first)(members)
    if isinstance(first, (str, bytes)):
        return list(batch)
    strangers = [
        item for item in batch if not isinstance(item, (int, float, complex)) and not hasattr(item, "__array__")
    ]
    if strangers:
        raise TypeError(
            f"default_collate: items must hold arrays, numbers, strings, tuples, lists or dicts of them, but found "
            f"{type(strangers[0]).__name__}. Give the DataLoader a collate_fn of your own."
        )
    arrays = [np.asarray(item) for item in batch]
    shapes = list(dict.fromkeys(array.shape for array in arrays))
    if len(shapes) > 1:
        raise ValueError(
            f"default_collate: the arrays of a batch must have one shape, but found {shapes[0]} and {shapes[1]}. "
            "Crop or pad the items to one size, use batch_size=1, or give the DataLoader a collate_fn of your own."
        )
    return np.stack(arrays)


class DataLoader:
    """Batches of a data set, in order or shuffled: batch b = collate_fn([item of order[i] for i in b's range]).

    The order of epoch e follows from (seed, e) alone and the randomness of item i (see Dataset.sample) from
    (seed, e, i) alone, so neither depends on the number of workers nor on what was loaded before. Each `iter(loader)`
    is one epoch: the first is epoch 0, the next one 1, ... even if the first was left early.

    batch_size: items a batch; the last one has fewer unless drop_last.
    num_workers: threads that load batches in advance, 0 to load in the calling thread. Items should be made by NumPy
        (which lets other threads run); leaving the iteration ends the threads.
    collate_fn: list of items -> batch; default_collate where None.
    prefetch_factor: batches that each worker loads in advance.
    Errors: what goes wrong inside an item is raised here as a RuntimeError that names the item's index.

    To resume within an epoch, keep `state_dict()` and give it to `load_state_dict`: the next iteration goes on with
    the batch that follows the last one delivered.
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int = 1,
        shuffle: bool = False,
        *,
        num_workers: int = 0,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        drop_last: bool = False,
        prefetch_factor: int = 2,
        seed: int = 0,
    ) -> None:
        for name, value, least in (
            ("batch_size", batch_size, 1),
            ("num_workers", num_workers, 0),
            ("prefetch_factor", prefetch_factor, 1),
            ("seed", seed, 0),
        ):
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
                raise TypeError(f"DataLoader: {name} must be a whole number, but it is {value!r}.")
            if value < least:
                raise ValueError(f"DataLoader: {name} must be at least {least}, but it is {value}.")
        if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
            raise TypeError(
                f"DataLoader: dataset must have __len__ and __getitem__, but {type(dataset).__name__} has not."
            )
        self.dataset = dataset
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.num_workers = num_workers
        self.collate_fn = default_collate if collate_fn is None else collate_fn
        self.drop_last = drop_last
        self.prefetch_factor = prefetch_factor
        self.seed = seed
        self.set_epoch(0)

    def __len__(self) -> int:
        """Batches in an epoch."""
        spare = 0 if self.drop_last else self.batch_size - 1
        return (len(self.dataset) + spare) // self.batch_size

    def set_epoch(self, epoch: int) -> None:
        """The next iteration is epoch `epoch`, from its first batch."""
        self.load_state_dict({"seed": self.seed, "epoch": epoch, "batch": 0})

    def state_dict(self) -> dict[str, int]:
        """{"seed", "epoch", "batch"}: the seed, and the position of the batch that follows the last one delivered."""
        return {"seed": self.seed, "epoch": self._position[0], "batch": self._position[1]}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """The next iteration starts at the position in `state_dict`. ValueError: there is no such position."""
        seed, epoch, batch = (int(state_dict[key]) for key in ("seed", "epoch", "batch"))
        if seed < 0 or epoch < 0 or not 0 <= batch <= len(self):
            raise ValueError(
                f"DataLoader.load_state_dict: seed and epoch must not be negative and batch must lie in "
                f"[0, {len(self)}], the batches of an epoch, but found seed={seed}, epoch={epoch}, batch={batch}."
            )
        self.seed = seed
        self._start = self._position = (epoch, batch)

    def __iter__(self) -> Iterator[Any]:
        epoch, first = self._position = self._start
        self._start = (epoch + 1, 0)
        order = np.arange(len(self.dataset))
        if self.shuffle:
            order = self._generator(epoch).permutation(order)
        batches = [order[b * self.batch_size : (b + 1) * self.batch_size].tolist() for b in range(first, len(self))]
        return self._deliver(epoch, first, batches)

    def _generator(self, *key: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=key))

    def _deliver(self, epoch: int, first: int, batches: list[list[int]]) -> Iterator[Any]:
        load = self._load_ahead if self.num_workers else self._load_here
        with closing(load(epoch, batches)) as loaded:
            for b, batch in enumerate(loaded, start=first):
                self._position = (epoch, b + 1)
                yield batch
        self._position = (epoch + 1, 0)

    def _load_here(self, epoch: int, batches: list[list[int]]) -> Generator[Any, None, None]:
        for indices in batches:
            yield self._load(epoch, indices)

    def _load_ahead(self, epoch: int, batches: list[list[int]]) -> Generator[Any, None, None]:
        pool = ThreadPoolExecutor(self.num_workers, thread_name_prefix="DataLoader")
        pending: deque[Future[Any]] = deque()
        try:
            for indices in batches:
                pending.append(pool.submit(self._load, epoch, indices))
                if len(pending) > self.num_workers * self.prefetch_factor:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:  # also when the caller leaves the iteration early: no thread stays behind
            pool.shutdown(wait=True, cancel_futures=True)

    def _load(self, epoch: int, indices: list[int]) -> Any:
        items = []
        for index in indices:
            try:
                items.append(sample(self.dataset, index, self._generator(epoch, index)))
            except Exception as error:
                raise RuntimeError(
                    f"DataLoader: item {index} of the {type(self.dataset).__name__} could not be loaded in epoch "
                    f"{epoch}: {type(error).__name__}: {error}"
                ) from error
        return self.collate_fn(items)
