"""Is a derivative right? Compare it with finite differences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tinyconv.autograd.tape import grad
from tinyconv.autograd.tensor import Tensor


def gradcheck(
    func: Callable[..., Any],
    inputs: Tensor | Sequence[Tensor],
    eps: float = 1e-6,
    atol: float = 1e-5,
    rtol: float = 1e-3,
    seed: int = 0,
    fast: bool = False,
) -> bool:
    """Compare the gradients of ``func(*inputs)`` with central differences; True, or RuntimeError that names the
    element.

        d/dx <v, f(x)>  =  <v, f(x + eps e) - f(x - eps e)> / (2 eps)      for a random cotangent v

    Every element of every input that requires a gradient is moved by ``eps``; ``fast`` moves all at once in one
    random direction instead. Inputs must be float64: in float32 the difference drowns in rounding. Also
    checks shapes and dtypes, that a second walk gives the same gradient and a zero cotangent gives zero.
    """
    inputs = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    wanted = [t for t in inputs if isinstance(t, Tensor) and t.requires_grad]
    if not wanted:
        raise ValueError("gradcheck: no input requires a gradient. Make one with requires_grad=True.")
    if any(t.device != "cpu" for t in wanted):
        raise ValueError("gradcheck: inputs must be on the CPU, where differences are computed. Use x.detach().cpu().")
    if any(t.dtype != np.float64 for t in wanted):
        raise TypeError("gradcheck: inputs must be float64, since differences of float32 values are mostly rounding.")
    rng = np.random.default_rng(seed)
    outputs = _float_outputs(func(*inputs))
    cotangents = [Tensor(rng.standard_normal(y.shape).astype(y.dtype)) for y in outputs]
    analytic = grad(outputs, wanted, cotangents, retain_graph=True, allow_unused=True)
    again = grad(outputs, wanted, cotangents, retain_graph=True, allow_unused=True)
    zero = grad(outputs, wanted, [y.detach() * 0 for y in cotangents], allow_unused=True)

    def value(arrays: list[np.ndarray[Any, Any]]) -> float:
        """<v, f> at other values of the wanted inputs."""
        moved = dict(zip(map(id, wanted), arrays))
        # func may differentiate inside, so the moved inputs require gradients as well.
        results = _float_outputs(
            func(*[Tensor(moved[id(t)], requires_grad=True) if id(t) in moved else t for t in inputs])
        )
        return sum(float((v.data * y.data).sum()) for v, y in zip(cotangents, results))

    for position, t in enumerate(wanted):
        g, g_again, g_zero = (
            np.zeros(t.shape) if found[position] is None else found[position].data  # type: ignore[union-attr]
            for found in (analytic, again, zero)
        )
        if g.shape != t.shape or g.dtype != t.dtype:
            raise RuntimeError(
                f"gradcheck: input {position} has shape {t.shape}, {t.dtype}; its gradient {g.shape}, {g.dtype}."
            )
        if not np.array_equal(g, g_again, equal_nan=True):
            raise RuntimeError(f"gradcheck: backward run twice gave two different gradients for input {position}.")
        if np.any(g_zero != 0):
            raise RuntimeError(f"gradcheck: a zero cotangent gave a gradient that is not zero for input {position}.")
        for where, direction in _directions(t.shape, rng, fast):
            up, down = ([u.data + sign * direction if u is t else u.data for u in wanted] for sign in (eps, -eps))
            numeric = (value(up) - value(down)) / (2 * eps)
            found = float((g * direction).sum())
            if not abs(found - numeric) <= atol + rtol * abs(numeric):
                raise RuntimeError(
                    f"gradcheck: input {position}, {where}: backward gives {found:.8g}, differences give {numeric:.8g}."
                )
    return True


def gradgradcheck(
    func: Callable[..., Any], inputs: Tensor | Sequence[Tensor], seed: int = 0, **tolerances: Any
) -> bool:
    """:func:`gradcheck` of the gradient of ``func``, as a function of the inputs and of the cotangent: second
    derivatives.
    """
    inputs = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    rng = np.random.default_rng(seed)
    outputs = _float_outputs(func(*inputs))
    cotangents = [Tensor(rng.standard_normal(y.shape).astype(y.dtype), requires_grad=True) for y in outputs]

    def gradient(*arguments: Tensor) -> tuple[Tensor, ...]:
        xs, vs = arguments[: len(inputs)], arguments[len(inputs) :]
        wanted = [x for x in xs if isinstance(x, Tensor) and x.requires_grad]
        grads = grad(_float_outputs(func(*xs)), wanted, list(vs), create_graph=True, allow_unused=True)
        # What is constant in the inputs has no second derivative to check.
        return tuple(g for g in grads if g is not None and g.requires_grad)

    return gradcheck(gradient, [*inputs, *cotangents], seed=seed, **tolerances)


def _float_outputs(result: Any) -> list[Tensor]:
    results = result if isinstance(result, tuple | list) else (result,)
    return [y for y in results if y.requires_grad]


def _directions(shape: tuple[int, ...], rng: np.random.Generator, fast: bool) -> Any:
    """(name, array) of each step to take: unit vectors, or one random direction."""
    if fast:
        yield "a random direction", rng.standard_normal(shape)
        return
    for index in np.ndindex(*shape):
        unit = np.zeros(shape)
        unit[index] = 1.0
        yield f"element {index}", unit
