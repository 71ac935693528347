"""Other small libraries beside tinyconv and torch: forward and both gradients of layers that all of them have.

Stride 1 and padding that keeps the size, since autograd's convolution has neither stride nor padding. A peer that is
not installed, or does not run here, is skipped by name. tinygrad compiles its kernels with clang and runs them as
installed, after its TinyJit has seen them.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

import tinyconv
from benchmarks.layers import Array, Pool, check, results
from benchmarks.shapes import Layer
from benchmarks.timing import Side, interleaved

Results = Callable[[], tuple[Any, Any, Any]]

LAYERS = [
    (8, Layer(16, 32, 32, 3)),
    (64, Layer(1, 6, 28, 5)),
    (16, Layer(64, 256, 28, 1)),
    (4, Layer(128, 128, 28, 3)),
    (4, Layer(64, 64, 56, 3)),
]


def with_mygrad(layer: Layer, x: Array, w: Array, gy: Array) -> Results:
    """Its layers take numpy arrays with stride and padding."""
    import mygrad
    from mygrad.nnet.layers import conv_nd

    def run() -> tuple[Any, Any, Any]:
        tx, tw = mygrad.tensor(x, copy=False), mygrad.tensor(w, copy=False)
        y = conv_nd(tx, tw, stride=1, padding=layer.pad)
        y.backward(gy)
        return y.data, tx.grad, tw.grad

    return run


def with_autograd(layer: Layer, x: Array, w: Array, gy: Array) -> Results:
    """Its convolution is the mathematician's, which turns the kernel around: turned back here."""
    import autograd.numpy as anp
    from autograd import make_vjp
    from autograd.scipy.signal import convolve

    edges = [(0, 0), (0, 0), (layer.pad, layer.pad), (layer.pad, layer.pad)]

    def conv(x: Any, w: Any) -> Any:
        padded, turned = anp.pad(x, edges, "constant"), w[:, :, ::-1, ::-1]
        return convolve(padded, turned, axes=([2, 3], [2, 3]), dot_axes=([1], [1]), mode="valid")

    def run() -> tuple[Any, Any, Any]:
        gradients, y = make_vjp(conv, (0, 1))(x, w)
        return y, *gradients(gy)

    return run


def with_smallpebble(layer: Layer, x: Array, w: Array, gy: Array) -> Results:
    """Its images are NHWC and its kernels (K, K, in, out); it starts a gradient from a sum."""
    import smallpebble as sp

    images, kernels = np.ascontiguousarray(x.transpose(0, 2, 3, 1)), np.ascontiguousarray(w.transpose(2, 3, 1, 0))
    factors = np.ascontiguousarray(gy.transpose(0, 2, 3, 1))

    def run() -> tuple[Any, Any, Any]:
        tx, tw = sp.Variable(images), sp.Variable(kernels)
        y = sp.conv2d(tx, tw, padding="SAME")
        gradients = sp.get_gradients(sp.sum(sp.mul(y, sp.Variable(factors))))
        nchw = (array.transpose(0, 3, 1, 2) for array in (y.array, gradients[tx]))
        return *nchw, gradients[tw].transpose(3, 2, 0, 1)

    return run


def with_tinygrad(layer: Layer, x: Array, w: Array, gy: Array) -> Results:
    """Lazy: the results are asked for, and the device waited for."""
    from tinygrad import Device, Tensor, TinyJit

    tensors = [Tensor(array, device="CPU").realize() for array in (x, w, gy)]

    @TinyJit
    def jitted(x: Any, w: Any, gy: Any) -> tuple[Any, ...]:
        y = x.conv2d(w, padding=layer.pad)
        gx, gw = (y * gy).sum().gradient(x, w)
        return y.realize(), gx.realize(), gw.realize()

    def run() -> tuple[Any, Any, Any]:
        y, gx, gw = jitted(*tensors)
        Device["CPU"].synchronize()
        return y, gx, gw

    for _ in range(3):  # the first is plain, the second is recorded, the third replays
        run()
    return run


def with_library(library: Any) -> Callable[[Layer, Array, Array, Array], Results]:
    """tinyconv or torch."""

    def make(layer: Layer, x: Array, w: Array, gy: Array) -> Results:
        def run() -> tuple[Any, Any, Any]:
            made = results(library, layer, x, w, gy)
            return made["y"], made["gx"], made["gw"]

        return run

    return make


EVERYONE = {
    "tinyconv": with_library(tinyconv),
    "torch": with_library(torch),
    "mygrad": with_mygrad,
    "autograd": with_autograd,
    "tinygrad": with_tinygrad,
    "smallpebble": with_smallpebble,
}


def as_side(results_of: Results) -> Side:
    """A peer as interleaved() times it."""

    def run() -> Generator[str, None, None]:
        yield "start"
        results_of()
        yield "both"

    return run


def as_array(value: Any) -> Array:
    """Of an array, or of a tensor that knows how to become one."""
    return np.asarray(value.numpy() if hasattr(value, "numpy") else value)


def run(quick: bool) -> dict[str, Any]:
    """Seconds of every layer with everyone who is here, and why the others are not."""
    pool, rows, skipped = Pool(), [], {}
    for batch, layer in tqdm(LAYERS[:2] if quick else LAYERS, desc="peers", unit="shape"):
        operands = [array.copy() for array in pool.take(*layer.shapes(batch).values())]
        sides = {}
        for name, make in EVERYONE.items():
            try:
                results_of = make(layer, *operands)
            except (ImportError, OSError, RuntimeError) as error:  # not installed, no compiler, no device
                skipped[name] = f"{type(error).__name__}: {error}".splitlines()[0]
                continue
            check(layer, dict(zip(("y", "gx", "gw"), map(as_array, results_of()))), operands, name)
            sides[name] = as_side(results_of)
        timed = interleaved(sides, 1.0 if quick else 4.0)
        seconds = {name: stages["both"] for name, stages in timed.items()}
        rows.append({"layer": str(layer), "batch": batch, "seconds": seconds})
    return {"rows": rows, "skipped": skipped}
