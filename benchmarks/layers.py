"""Single convolutions beside torch: forward, and forward with both gradients."""

from __future__ import annotations

from collections.abc import Generator
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

import tinyconv
from benchmarks.shapes import Layer, distinct
from benchmarks.timing import Side, interleaved
from tinyconv import functional

Array = NDArray[np.float32]
LIBRARIES: dict[str, Any] = {"tinyconv": tinyconv, "torch": torch}
BATCHES = (1, 16)

#: What two float32 sums of the same products may differ by: 16 roundings of the sum of all |x||w|.
DIRECT = 16 * float(np.finfo(np.float32).eps)
#: Winograd's transforms add numbers that cancel: its error is stated relative to the largest output.
WINOGRAD = 1e-4


class Pool:
    """Random float32 numbers, of which each call takes the next: beyond the last cache, never zeros, the same for
    both sides, aligned as torch aligns its own.
    """

    def __init__(self, megabytes: int = 64) -> None:
        self.rng = np.random.default_rng(0)
        self._fill(megabytes << 18)

    def _fill(self, count: int) -> None:
        numbers = self.rng.standard_normal(count + 16, np.float32)
        start = -numbers.ctypes.data % 64 // 4
        self.numbers, self.next = numbers[start : start + count], 0

    def take(self, *shapes: tuple[int, ...]) -> list[Array]:
        """Arrays of ``shapes``, one after the other in memory."""
        steps = [-(-prod(shape) // 16) * 16 for shape in shapes]  # whole cache lines
        if sum(steps) > self.numbers.size:
            self._fill(sum(steps))
        if self.next + sum(steps) > self.numbers.size:
            self.next = 0
        arrays = []
        for shape, step in zip(shapes, steps):
            arrays.append(self.numbers[self.next : self.next + prod(shape)].reshape(shape))
            self.next += step
        return arrays


def convolve(library: Any, layer: Layer, x: Any, w: Any) -> Any:
    """The layer's convolution of ``library``'s tensors, by the function of the same name in both."""
    module = torch.nn.functional if library is torch else functional
    name = f"conv{'_transpose' if layer.transposed else ''}{layer.rank}d"
    return getattr(module, name)(x, w, stride=layer.stride, padding=layer.pad, groups=layer.groups)


def side(library: Any, layer: Layer, batch: int, pool: Pool) -> Side:
    """The layer as interleaved() times it, on other numbers each time."""
    shapes = layer.shapes(batch)

    def run() -> Generator[str, None, None]:
        x, w, gy = map(library.from_numpy, pool.take(shapes["x"], shapes["w"], shapes["gy"]))
        x.requires_grad = w.requires_grad = True
        yield "start"
        y = convolve(library, layer, x, w)
        yield "forward"
        y.backward(gy)
        yield "both"

    return run


def results(library: Any, layer: Layer, x: Array, w: Array, gy: Array) -> dict[str, Array]:
    """The output and both gradients."""
    tx, tw = library.from_numpy(x), library.from_numpy(w)
    tx.requires_grad = tw.requires_grad = True
    y = convolve(library, layer, tx, tw)
    y.backward(library.from_numpy(gy))
    return {"y": y.detach().numpy(), "gx": tx.grad.numpy(), "gw": tw.grad.numpy()}


def check(layer: Layer, ours: dict[str, Array], operands: list[Array], who: str = "tinyconv") -> dict[str, float]:
    """How far ``ours`` is from torch: the largest error relative to the sum of |x||w|, and to the largest output.

    AssertionError where one of the three is beyond both DIRECT and WINOGRAD: what is wrong is not timed.
    """
    theirs = results(torch, layer, *operands)
    sums = results(torch, layer, *(np.abs(a) for a in operands))
    worst = {"of_sum": 0.0, "of_largest": 0.0}
    for name, expected in theirs.items():
        if ours[name].shape != expected.shape:
            raise AssertionError(f"{who}, {layer}: {name} has the shape {ours[name].shape}, not {expected.shape}.")
        error = np.abs(ours[name] - expected)
        of_sum = float(np.max(error / (sums[name] + np.finfo(np.float32).tiny)))
        of_largest = float(error.max() / np.abs(expected).max())
        if not (of_sum <= DIRECT or of_largest <= WINOGRAD):  # also where one is NaN
            raise AssertionError(
                f"{who}, {layer}: {name} differs from torch by {of_sum:.2g} of the sum of its products (at most "
                f"{DIRECT:.2g}) and {of_largest:.2g} of the largest output (at most {WINOGRAD:.2g})."
            )
        worst = {"of_sum": max(worst["of_sum"], of_sum), "of_largest": max(worst["of_largest"], of_largest)}
    return worst


def run(quick: bool) -> list[dict[str, Any]]:
    """Every distinct layer of every network at batch 1 and 16, and what it takes of both libraries."""
    pool, rows = Pool(), []
    jobs = [(layer, batch, uses) for batch in BATCHES for layer, uses in distinct(quick=quick).items()]
    for layer, batch, uses in tqdm(jobs, desc="layers", unit="shape", mininterval=1):
        operands = pool.take(*layer.shapes(batch).values())
        error = check(layer, results(tinyconv, layer, *operands), operands)
        sides = {name: side(library, layer, batch, pool) for name, library in LIBRARIES.items()}
        rows.append(
            {
                "layer": str(layer),
                "batch": batch,
                "networks": uses,
                "plain_3x3": layer.kernel == 3 and layer.stride == 1 and layer.groups == 1 and layer.rank == 2,
                "flop": 2 * layer.multiply_adds(batch),
                "bytes": 4 * sum(prod(shape) for shape in layer.shapes(batch).values()),
                "error": error,
                "seconds": interleaved(sides, 0.3 if quick else 1.0),
            }
        )
    return rows
