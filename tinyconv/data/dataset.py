"""Data sets: a length, and an item for every index."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np


class Dataset:
    """Something with a length whose items are found by index, `dataset[i]` for i in [0, len(dataset)).

    A data set that draws something at random (an augmentation, simulated noise) overrides `sample` and takes all its
    randomness from the generator given there; `dataset[i]` stays the same at every call. The DataLoader calls
    `sample` with a generator derived from (seed, epoch, i), so that an item does not depend on who loads it or when.
    """

    def __len__(self) -> int:
        raise NotImplementedError(f"{type(self).__name__}: a Dataset must define __len__.")

    def __getitem__(self, index: int) -> Any:
        raise NotImplementedError(f"{type(self).__name__}: a Dataset must define __getitem__(index).")

    def sample(self, index: int, generator: np.random.Generator) -> Any:
        """Item `index` with its random part drawn from `generator`; where nothing is random, `self[index]`."""
        return self[index]


class TensorDataset(Dataset):
    """item i = (arrays[0][i], arrays[1][i], ...), for arrays of the same length along their first axis.

    Takes NumPy arrays, or anything that `numpy.asarray` takes. ValueError: no array, no axis, unequal lengths.
    """

    def __init__(self, *tensors: Any) -> None:
        self.tensors = tuple(np.asarray(tensor) for tensor in tensors)
        shapes = [tensor.shape for tensor in self.tensors]
        if not shapes or () in shapes or len({shape[0] for shape in shapes}) != 1:
            raise ValueError(
                f"TensorDataset: tensors must be arrays of one length along axis 0, but found the shapes {shapes}."
            )

    def __len__(self) -> int:
        return len(self.tensors[0])

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        return tuple(tensor[index] for tensor in self.tensors)


class Subset(Dataset):
    """item i = dataset[indices[i]]."""

    def __init__(self, dataset: Any, indices: Sequence[int]) -> None:
        self.dataset = dataset
        self.indices = [int(index) for index in indices]
        outside = [index for index in self.indices if not 0 <= index < len(dataset)]
        if outside:
            raise IndexError(
                f"Subset: indices must lie in [0, {len(dataset)}) for a data set of {len(dataset)} items, "
                f"but found {outside[0]}."
            )

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Any:
        return self.dataset[self.indices[index]]

    def sample(self, index: int, generator: np.random.Generator) -> Any:
        return sample(self.dataset, self.indices[index], generator)


def sample(dataset: Any, index: int, generator: np.random.Generator) -> Any:
    """`dataset.sample(index, generator)` of a Dataset, `dataset[index]` of a list or any other sequence."""
    return dataset.sample(index, generator) if isinstance(dataset, Dataset) else dataset[index]


def random_split(
    dataset: Any, lengths: Sequence[float], generator: np.random.Generator | int | None = None
) -> list[Subset]:
    """Disjoint random subsets of the given lengths that together are the whole data set.

    lengths: whole numbers whose sum is len(dataset), or fractions whose sum is 1. Of fraction f a subset gets
    floor(f * len(dataset)) items, and the items that are left over go one each to the first, second, ... subset.
    generator: a `numpy.random.Generator`, a seed, or None for a different split at each call.
    ValueError: lengths that are negative or whose sum is neither.
    """
    total = len(dataset)
    if min(lengths, default=-1) < 0:
        raise ValueError(
            f"random_split: lengths must be one or more numbers, none negative, but found {list(lengths)}."
        )
    if math.isclose(sum(lengths), 1):
        sizes = [math.floor(total * fraction) for fraction in lengths]
        for i in range(total - sum(sizes)):
            sizes[i % len(sizes)] += 1
    elif sum(lengths) == total and all(int(length) == length for length in lengths):
        sizes = [int(length) for length in lengths]
    else:
        raise ValueError(
            f"random_split: lengths must be whole numbers of sum {total}, the length of the data set, or fractions of "
            f"sum 1, but found {list(lengths)} of sum {sum(lengths)}."
        )
    order = np.random.default_rng(generator).permutation(total)
    ends = np.cumsum(sizes)
    return [Subset(dataset, order[end - size : end].tolist()) for end, size in zip(ends, sizes)]
