"""How a result is compared with torch's: arrays to compare on, and the bounds they must agree within.

A test draws shapes, a seed, a content and memory layouts; the elements follow from the seed.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import torch

import tinyconv
from tinyconv import Tensor
from tinyconv.cuda_on_cpu.compiler import COMPILERS

#: The rungs that can compute here. The emulator of cuda needs a C++ compiler; without it test_cuda_on_cpu.py skips.
RUNGS = ("loops", "im2col", "numba", *(["cuda"] if any(map(shutil.which, COMPILERS)) else []))

LAYOUTS = (
    "plain",
    "Fortran order",
    "every second element",
    "negative strides",
    "read-only",
    "byte-swapped",
    "unaligned",
    "broadcast",
)
FINITE = ("normal", "ties", "distinct", "large", "negative")
CONTENTS = (*FINITE, "nan", "infinite")

#: What torch raises on a wrong call, and what we may raise.
TORCH_ERRORS = (RuntimeError, ValueError, TypeError, IndexError, AssertionError, ArithmeticError, KeyError)
OUR_ERRORS = (RuntimeError, ValueError, TypeError, IndexError)


@dataclass(frozen=True, repr=False)
class A:
    """An array that is an argument: its shape, and which values are legal.

    ``domain``: 'real', 'finite' (never NaN or infinite), 'positive' (at least 0.1), 'unit' (from 0 to 1), 'int'
    (``low`` to ``high`` - 1), 'bool', 'rows' (positive, adding up to 1 over axis 1), or 'values', those listed.
    ``dtype`` None means the floating dtype of the turn.
    """

    shape: tuple[int, ...]
    domain: str = "real"
    low: int = 0
    high: int = 1
    grad: bool = True
    dtype: str | None = None
    values: tuple[Any, ...] = ()

    def __repr__(self) -> str:
        told = [f"{f.name}={getattr(self, f.name)!r}" for f in fields(self)[1:] if getattr(self, f.name) != f.default]
        return f"A({', '.join([repr(self.shape), *told])})"


@dataclass(frozen=True)
class Call:
    """Arguments of one call, with an :class:`A` in the place of every tensor, also inside lists and tuples."""

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)

    def map(self, function: Callable[[A], Any]) -> tuple[list[Any], dict[str, Any]]:
        """The arguments with ``function`` applied to every array."""
        return [_mapped(a, function) for a in self.args], {k: _mapped(v, function) for k, v in self.kwargs.items()}

    def arrays(self) -> list[A]:
        """Every array, in the order of the arguments."""
        found: list[A] = []
        self.map(found.append)
        return found


def _mapped(value: Any, function: Callable[[A], Any]) -> Any:
    if isinstance(value, A):
        return function(value)
    if isinstance(value, list | tuple):
        return type(value)(_mapped(v, function) for v in value)
    return value


@dataclass(frozen=True)
class Turn:
    """What fills the arrays of a call: everything that does not change its shapes."""

    seed: int = 0
    content: str = "normal"
    layouts: tuple[str, ...] = ("plain",)
    dtype: str = "float64"

    def layout(self, position: int) -> str:
        return self.layouts[position % len(self.layouts)]


def fill(a: A, content: str, dtype: str, rng: np.random.Generator) -> np.ndarray:
    """The elements of ``a``."""
    if a.domain == "values":
        return np.array(a.values, a.dtype or dtype).reshape(a.shape)
    if a.domain == "int":
        return np.asarray(rng.integers(a.low, a.high, a.shape)).astype(a.dtype or "int64")
    if a.domain == "bool":
        return np.asarray(rng.random(a.shape) < 0.5)
    if a.domain == "unit":
        values = rng.integers(0, 3, a.shape) / 2 if content == "ties" else rng.uniform(0.05, 0.95, a.shape)
    elif a.domain == "rows":
        values = rng.uniform(0.1, 1, a.shape)
        values = values / values.sum(axis=min(1, values.ndim - 1), keepdims=True)
    else:
        calm = a.domain == "finite" and content not in FINITE
        values = _real(a.shape, "normal" if calm else content, rng)
        values = np.abs(values) + 0.1 if a.domain == "positive" else values
    return np.asarray(values).astype(a.dtype or dtype)


def _real(shape: tuple[int, ...], content: str, rng: np.random.Generator) -> np.ndarray:
    size = int(np.prod(shape))
    values = np.asarray(rng.standard_normal(shape))
    if content == "ties":
        return np.asarray(rng.integers(-2, 3, shape)).astype(float)
    if content == "distinct":
        return (rng.permutation(size).reshape(shape) - size // 2) * 0.37 + 0.11
    if content == "large":
        return values * 200
    if content == "negative":
        return -np.abs(values) - 0.5
    if content == "nan":
        return np.where(rng.random(shape) < 0.2, np.nan, values)
    if content == "infinite":
        return np.where(rng.random(shape) < 0.3, rng.choice([np.inf, -np.inf], shape), values)
    return values


def lay_out(array: np.ndarray, layout: str) -> np.ndarray:
    """The same values in another memory layout ('broadcast' repeats the first of axis 0)."""
    if layout == "Fortran order":
        return np.array(array, order="F", copy=True)
    if layout == "every second element" and array.ndim:
        wide = np.zeros((*array.shape[:-1], 2 * array.shape[-1]), array.dtype)
        wide[..., ::2] = array
        return wide[..., ::2]
    if layout == "negative strides":
        return np.flip(np.flip(array).copy())
    if layout == "read-only":
        locked = array.copy()
        locked.flags.writeable = False
        return locked
    if layout == "byte-swapped":
        return array.astype(array.dtype.newbyteorder())
    if layout == "unaligned":
        shifted = np.zeros(array.nbytes + 1, np.uint8)[1:].view(array.dtype).reshape(array.shape)
        shifted[...] = array
        return shifted
    if layout == "broadcast" and array.ndim and array.shape[0] > 1:
        return np.broadcast_to(array[:1], array.shape)
    return array.copy()


class Host:
    """Where our arrays are while a call is compared; tests/gpu has the other place."""

    kind: type = np.ndarray

    def put(self, array: np.ndarray, layout: str) -> Any:
        """The array there, in that layout."""
        return array

    def get(self, array: Any) -> np.ndarray:
        """The array on the host."""
        return array

    def watched(self) -> AbstractContextManager[None]:
        """Around the call and its gradients."""
        return nullcontext()

    def share(self, a: Any, b: Any) -> bool:
        """Whether two arrays have memory in common."""
        return np.shares_memory(a, b)


HOST = Host()


def as_torch(array: np.ndarray, requires_grad: bool = False) -> torch.Tensor:
    """A torch tensor with a copy of the values."""
    plain = np.array(array, dtype=array.dtype.newbyteorder("="), order="C")
    return torch.from_numpy(plain).requires_grad_(requires_grad)


def tensors(result: Any, kind: type) -> list[Any]:
    """The tensors in a result: itself, or the members of a tuple."""
    return [t for t in (result if isinstance(result, tuple | list) else (result,)) if isinstance(t, kind)]


def numpy(t: Any) -> np.ndarray:
    return t.numpy(force=True) if isinstance(t, torch.Tensor) else t.data


def assert_close(
    what: str,
    found: np.ndarray,
    exact: np.ndarray,
    torchs: np.ndarray,
    magnitude: np.ndarray | None = None,
    scale: float = 0.0,
    factor: float = 1.0,
) -> None:
    """``found`` against torch's float64 result ``exact``, and torch's own ``torchs`` in the dtype of ``found``.

    Where a result is a sum of products, ``magnitude`` is the sum of their absolute values, and the bound is 16 u
    magnitude.
    Otherwise 64 u (|exact| + scale) in float32, plus 8 times torch's own largest error, and 1e-9 |exact| + 64 u scale
    in float64,
    where ``scale`` is the largest |value| in the call, or 1, the size of the cotangents. What is not finite must be
    the same as torch's. Integers and
    bools must be equal.
    """
    assert found.shape == torchs.shape, f"{what}: shape {found.shape}, torch has {torchs.shape}"
    assert found.dtype == torchs.dtype, f"{what}: dtype {found.dtype}, torch has {torchs.dtype}"
    if found.dtype.kind != "f":
        np.testing.assert_array_equal(found, torchs, err_msg=what)
        return
    finite = np.isfinite(torchs)
    np.testing.assert_array_equal(found[~finite], torchs[~finite], err_msg=f"{what}: where torch is not finite")
    f, e, t = (v[finite].astype(np.float64) for v in (found, np.broadcast_to(exact, found.shape), torchs))
    e = np.where(np.isfinite(e), e, t)
    assert np.isfinite(f).all(), f"{what}: not finite where torch is\n{found}\n{torchs}"
    if f.size == 0:
        return
    u = np.finfo(found.dtype).eps / 2
    if magnitude is not None:
        bound = 16 * factor * u * np.abs(np.broadcast_to(magnitude, found.shape)[finite]) + np.finfo(found.dtype).tiny
    elif found.dtype == np.float64:
        bound = 1e-9 * np.abs(e) + factor * 64 * u * scale + 1e-300
    else:
        bound = factor * 64 * u * (np.abs(e) + scale) + 8 * np.abs(t - e).max() + np.finfo(found.dtype).tiny
    worst = int(np.argmax(np.abs(f - e) - bound))
    assert np.abs(f - e)[worst] <= bound[worst], (
        f"{what}: {f[worst]!r} where torch has {e[worst]!r}, off by {abs(f[worst] - e[worst]):.3g} with a bound of "
        f"{bound[worst]:.3g}\nfound:\n{found}\ntorch:\n{torchs}"
    )


@dataclass
class Answer:
    """What one engine says to one call: outputs, gradients, second derivatives; None where there is none."""

    outputs: list[np.ndarray]
    wants: list[bool]
    grads: list[np.ndarray | None]
    seconds: list[np.ndarray | None] | None


def ask_torch(
    function: Any,
    call: Call,
    values: Sequence[np.ndarray],
    cotangents: Callable[..., np.ndarray],
    dtype: str | None,
    order: int,
    absolute: bool = False,
) -> Answer:
    """Torch's answer; with ``dtype`` the floating arrays are cast first; with ``absolute`` all are made positive."""

    def ready(v: np.ndarray) -> np.ndarray:
        v = v.astype(dtype) if dtype is not None and v.dtype.kind == "f" else v
        return np.abs(v) if absolute and v.dtype.kind == "f" else v

    specs, position = call.arrays(), iter(range(len(values)))
    leaves = [as_torch(ready(v), order > 0 and a.grad and v.dtype.kind == "f") for a, v in zip(specs, values)]
    args, kwargs = call.map(lambda _: leaves[next(position)])
    outputs = tensors(function(*args, **kwargs), torch.Tensor)
    wanted = [t for t in leaves if t.requires_grad]
    roots = [y for y in outputs if y.requires_grad]
    grads: list[Any] = [None] * len(wanted)
    seconds: list[Any] | None = None
    if order and roots and wanted:
        gs = [as_torch(ready(cotangents(i, y.shape)), order > 1) for i, y in enumerate(roots)]
        grads = list(torch.autograd.grad(roots, wanted, gs, create_graph=order > 1, allow_unused=True))
        again = {i: g for i, g in enumerate(grads) if g is not None and g.requires_grad}
        if order > 1 and again:
            hs = [as_torch(ready(cotangents(100 + i, g.shape))) for i, g in again.items()]
            seconds = list(torch.autograd.grad(list(again.values()), [*wanted, *gs], hs, allow_unused=True))
    array = [None if g is None else numpy(g) for g in grads]
    return Answer(
        [numpy(y) for y in outputs],
        [y.requires_grad for y in outputs],
        array,
        None if seconds is None else [None if g is None else numpy(g) for g in seconds],
    )


def ask_us(
    function: Any,
    call: Call,
    values: Sequence[Any],
    cotangents: Callable[..., Any],
    order: int,
    views: bool,
    place: Host = HOST,
) -> Answer:
    """Our answer, to arrays that are at ``place``. Checks as well that the results are there, and that nothing that
    came in is changed or, unless ``views``, shared.
    """
    specs, position = call.arrays(), iter(range(len(values)))
    before = [place.get(v).tobytes() for v in values]
    leaves = [Tensor(v, requires_grad=order > 0 and a.grad and v.dtype.kind == "f") for a, v in zip(specs, values)]
    args, kwargs = call.map(lambda _: leaves[next(position)])
    with place.watched():
        result = function(*args, **kwargs)
    outputs = tensors(result, Tensor)
    assert not isinstance(result, np.ndarray | np.generic), "an operator returned an array, not a Tensor"
    wanted = [t for t in leaves if t.requires_grad]
    roots = [y for y in outputs if y.requires_grad]
    grads: list[Any] = [None] * len(wanted)
    seconds: list[Any] | None = None
    if order and roots and wanted:
        gs = [Tensor(cotangents(i, y.shape), requires_grad=order > 1) for i, y in enumerate(roots)]
        inside = [place.get(g.data).tobytes() for g in gs]
        with place.watched():
            grads = list(tinyconv.grad(roots, wanted, gs, create_graph=order > 1, allow_unused=True))
        again = {i: g for i, g in enumerate(grads) if g is not None and g.requires_grad}
        if order > 1 and again:
            hs = [Tensor(cotangents(100 + i, g.shape)) for i, g in again.items()]
            with place.watched():
                seconds = list(tinyconv.grad(list(again.values()), [*wanted, *gs], hs, allow_unused=True))
        assert inside == [place.get(g.data).tobytes() for g in gs], "a cotangent was changed"
    for t in (*outputs, *(g for g in (*grads, *(seconds or ())) if g is not None)):
        assert isinstance(t.data, place.kind), f"the data of a result is {type(t.data)}, not {place.kind}"
    assert before == [place.get(v).tobytes() for v in values], "an argument was changed"
    if not views:
        for y in outputs:
            assert not any(place.share(y.data, t.data) for t in leaves), "a result shares memory with an argument"
    return Answer(
        [place.get(y.data) for y in outputs],
        [y.requires_grad for y in outputs],
        [None if g is None else place.get(g.data) for g in grads],
        None if seconds is None else [None if g is None else place.get(g.data) for g in seconds],
    )


def check(
    ours: Any,
    theirs: Any,
    call: Call,
    turn: Turn,
    order: int = 1,
    products: bool = False,
    same_precision: bool = False,
    views: bool = False,
    factor: float = 1.0,
    place: Host = HOST,
) -> None:
    """One call, ours against torch's: values, gradients (``order`` 1), second derivatives (``order`` 2).

    ``products``: the result is a sum of products of the arguments, so the bound follows from the sum of their
    absolute values.
    ``same_precision``: compare with torch in float32 where a step in the operator (a floor, say) makes float64
    another function.
    """
    rng = np.random.default_rng(turn.seed)
    values = [lay_out(fill(a, turn.content, turn.dtype, rng), turn.layout(i)) for i, a in enumerate(call.arrays())]

    def cotangents(position: int, shape: Sequence[int]) -> np.ndarray:
        """The same random numbers whoever asks, in the dtype of the turn and a layout of its own."""
        numbers = np.asarray(np.random.default_rng([turn.seed, position]).standard_normal(tuple(shape))).astype(
            turn.dtype
        )
        return lay_out(numbers, turn.layout(position + 3))

    ours_are = [place.put(v, turn.layout(i)) for i, v in enumerate(values)]
    us = ask_us(ours, call, ours_are, lambda *g: place.put(cotangents(*g), "plain"), order, views, place)
    same = ask_torch(theirs, call, values, cotangents, None, order)
    exact = same
    if turn.dtype != "float64" and not same_precision:
        exact = ask_torch(theirs, call, values, cotangents, "float64", order)
    sizes = ask_torch(theirs, call, values, cotangents, "float64", order, absolute=True) if products else None

    scale = max(_largest(exact), 1.0)
    assert len(us.outputs) == len(same.outputs), f"{len(us.outputs)} outputs, torch has {len(same.outputs)}"
    for i, (y, e, t) in enumerate(zip(us.outputs, exact.outputs, same.outputs)):
        assert_close(f"output {i}", y, e, t, None if sizes is None else sizes.outputs[i], scale, factor)
    if order:
        assert us.wants == same.wants, f"outputs require gradients: {us.wants}, torch's: {same.wants}"
    _compare_all("gradient", us.grads, exact.grads, same.grads, None if sizes is None else sizes.grads, scale, factor)
    if order > 1 and same.seconds is not None:
        mine = us.seconds if us.seconds is not None else [None] * len(same.seconds)
        _compare_all("second derivative", mine, exact.seconds, same.seconds, sizes and sizes.seconds, scale, 4 * factor)


def _largest(answer: Answer) -> float:
    """The largest finite |value| in an answer."""
    floats = [
        v for v in (*answer.outputs, *answer.grads, *(answer.seconds or [])) if v is not None and v.dtype.kind == "f"
    ]
    return max((float(np.abs(v[np.isfinite(v)]).max(initial=0.0)) for v in floats), default=0.0)


def check_both_or_neither(
    ours: Any, theirs: Any, call: Call, turn: Turn, stricter: bool = False, factor: float = 1.0, place: Host = HOST
) -> None:
    """Where torch raises we raise one of our errors, and else the values agree.

    ``stricter``: we may refuse a call that torch takes.
    """
    rng = np.random.default_rng(turn.seed)
    values = [fill(a, turn.content, turn.dtype, rng) for a in call.arrays()]
    before = [v.copy() for v in values]
    position = iter(range(2 * len(values)))
    leaves = [as_torch(v) for v in values] + [Tensor(place.put(v, "plain")) for v in values]
    args, kwargs = call.map(lambda _: leaves[next(position)])
    try:
        theirs(*args, **kwargs)
    except TORCH_ERRORS as error:
        refused: BaseException | None = error
    else:
        refused = None
    position = iter(range(len(values), 2 * len(values)))
    args, kwargs = call.map(lambda _: leaves[next(position)])
    try:
        for y in tensors(ours(*args, **kwargs), Tensor):
            place.get(y.data)
    except OUR_ERRORS as error:
        assert refused is not None or stricter, f"torch takes this call, we say: {error}"
        assert len(str(error)) > 15, f"{type(error).__name__} without a sentence: {error}"
        np.testing.assert_equal(values, before, err_msg="an argument was changed by a call that raised")
        return
    assert refused is None, f"we take this call, torch says: {refused}"
    check(ours, theirs, call, turn, order=0, views=True, factor=factor, place=place)


def _compare_all(what: str, found: Any, exact: Any, torchs: Any, sizes: Any, scale: float, factor: float) -> None:
    """Lists of arrays where None means zeros."""
    for i, (f, e, t) in enumerate(zip(found, exact, torchs)):
        if f is None and t is None:
            continue
        like = f if t is None else t
        f, e, t = (np.zeros_like(like) if v is None else v for v in (f, e, t))
        assert_close(f"{what} {i}", f, e, t, None if sizes is None else sizes[i], scale, factor)
