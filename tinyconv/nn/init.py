"""Initial values of weights, written into a tensor in place. ``generator``: a numpy.random.Generator, else the
default one.

Var(w) = 1/fan_in keeps the variance of what passes forward, 1/fan_out that of the gradients; a gain makes up for the
nonlinearity. fan_in counts the inputs that one output sums up, fan_out the outputs that one input goes to.
"""

from __future__ import annotations

import math
from math import prod

import numpy as np

from tinyconv.autograd import Tensor
from tinyconv.autograd.tensor import Array
from tinyconv.kernels.arrays import moved
from tinyconv.ops.random import generator_for


def _fill(tensor: Tensor, values: Array | float) -> Tensor:
    """Values that were drawn on the CPU, so that a seed gives the same bits on every device, or one number."""
    tensor.data[...] = moved(values, tensor.data) if isinstance(values, np.ndarray) else values
    tensor.changed()
    return tensor


def _uniform(op: str, tensor: Tensor, bound: float, generator: np.random.Generator | None) -> Tensor:
    return _fill(tensor, generator_for(op, generator).uniform(-bound, bound, tensor.shape))


def _normal(op: str, tensor: Tensor, std: float, generator: np.random.Generator | None) -> Tensor:
    return _fill(tensor, generator_for(op, generator).normal(0.0, std, tensor.shape))


def fans(op: str, tensor: Tensor) -> tuple[int, int]:
    """(fan_in, fan_out) of a weight (out, in, ...), the product of the further axes counting on both sides."""
    if tensor.ndim < 2:
        raise ValueError(f"{op}: tensor must have at least 2 axes (out, in, ...), but has shape {tensor.shape}.")
    taps = prod(tensor.shape[2:])
    return tensor.shape[1] * taps, tensor.shape[0] * taps


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """The factor by which a weight's standard deviation makes up for the nonlinearity; ``param`` the slope of
    leaky_relu.
    """
    if nonlinearity == "leaky_relu":
        return math.sqrt(2 / (1 + (0.01 if param is None else param) ** 2))
    gains = {"sigmoid": 1.0, "tanh": 5 / 3, "relu": math.sqrt(2), "selu": 3 / 4, "linear": 1.0}
    gains.update({f"conv{kind}{rank}d": 1.0 for kind in ("", "_transpose") for rank in (1, 2, 3)})
    if nonlinearity not in gains:
        listed = ", ".join([*gains, "leaky_relu"])
        raise ValueError(f"calculate_gain: nonlinearity must be one of {listed}, but is {nonlinearity!r}.")
    return gains[nonlinearity]


def uniform_(tensor: Tensor, a: float = 0.0, b: float = 1.0, generator: np.random.Generator | None = None) -> Tensor:
    """w ~ U(a, b)"""
    return _fill(tensor, generator_for("uniform_", generator).uniform(a, b, tensor.shape))


def normal_(
    tensor: Tensor, mean: float = 0.0, std: float = 1.0, generator: np.random.Generator | None = None
) -> Tensor:
    """w ~ N(mean, std^2)"""
    return _fill(tensor, generator_for("normal_", generator).normal(mean, std, tensor.shape))


def trunc_normal_(
    tensor: Tensor,
    mean: float = 0.0,
    std: float = 1.0,
    a: float = -2.0,
    b: float = 2.0,
    generator: np.random.Generator | None = None,
) -> Tensor:
    """w ~ N(mean, std^2) given a <= w <= b, by rejection."""
    if not a < b:
        raise ValueError(f"trunc_normal_: a must be below b, but a={a} and b={b}.")
    rng = generator_for("trunc_normal_", generator)
    peak = (min(max(mean, a), b) - mean) / std  # where the density is largest
    values, open_places = np.empty(tensor.shape), np.ones(tensor.shape, bool)
    while open_places.any():
        candidates = rng.uniform(a, b, int(open_places.sum()))
        log_density = -0.5 * ((candidates - mean) / std) ** 2 + 0.5 * peak**2
        accepted = np.log(1 - rng.random(candidates.shape)) < log_density
        places = np.flatnonzero(open_places)[accepted]
        values.flat[places] = candidates[accepted]
        open_places.flat[places] = False
    return _fill(tensor, values)


def constant_(tensor: Tensor, val: float) -> Tensor:
    """w = val"""
    return _fill(tensor, val)


def zeros_(tensor: Tensor) -> Tensor:
    """w = 0"""
    return _fill(tensor, 0.0)


def ones_(tensor: Tensor) -> Tensor:
    """w = 1"""
    return _fill(tensor, 1.0)


def xavier_uniform_(tensor: Tensor, gain: float = 1.0, generator: np.random.Generator | None = None) -> Tensor:
    """w ~ U(-c, c), c = gain sqrt(6 / (fan_in + fan_out)). Source: Glorot and Bengio, AISTATS 2010, equation 16."""
    bound = gain * math.sqrt(6 / sum(fans("xavier_uniform_", tensor)))
    return _uniform("xavier_uniform_", tensor, bound, generator)


def xavier_normal_(tensor: Tensor, gain: float = 1.0, generator: np.random.Generator | None = None) -> Tensor:
    """w ~ N(0, std^2), std = gain sqrt(2 / (fan_in + fan_out)). Source: Glorot and Bengio, AISTATS 2010."""
    std = gain * math.sqrt(2 / sum(fans("xavier_normal_", tensor)))
    return _normal("xavier_normal_", tensor, std, generator)


def _kaiming_std(op: str, tensor: Tensor, a: float, mode: str, nonlinearity: str) -> float:
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f"{op}: mode must be 'fan_in' or 'fan_out', but is {mode!r}.")
    fan = fans(op, tensor)[mode == "fan_out"]
    return calculate_gain(nonlinearity, a) / math.sqrt(fan) if fan else 0.0


def kaiming_uniform_(
    tensor: Tensor,
    a: float = 0.0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: np.random.Generator | None = None,
) -> Tensor:
    """w ~ U(-c, c), c = gain sqrt(3 / fan); ``a`` the slope of leaky_relu. Source: He et al., ICCV 2015, equation
    10.
    """
    bound = math.sqrt(3) * _kaiming_std("kaiming_uniform_", tensor, a, mode, nonlinearity)
    return _uniform("kaiming_uniform_", tensor, bound, generator)


def kaiming_normal_(
    tensor: Tensor,
    a: float = 0.0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: np.random.Generator | None = None,
) -> Tensor:
    """w ~ N(0, std^2), std = gain / sqrt(fan); ``a`` the slope of leaky_relu. Source: He et al., ICCV 2015, equation
    10.
    """
    return _normal("kaiming_normal_", tensor, _kaiming_std("kaiming_normal_", tensor, a, mode, nonlinearity), generator)


def orthogonal_(tensor: Tensor, gain: float = 1.0, generator: np.random.Generator | None = None) -> Tensor:
    """w, flattened to (out, the rest), has orthogonal rows or columns of length ``gain``.

    Source: Saxe, McClelland and Ganguli, ICLR 2014; signs after Mezzadri, Notices of the AMS 54, 2007, for a uniform
    choice.
    """
    rows, columns = tensor.shape[0], fans("orthogonal_", tensor)[0]
    tall = generator_for("orthogonal_", generator).normal(size=(max(rows, columns), min(rows, columns)))
    q, r = np.linalg.qr(tall)
    q = q * np.sign(np.diag(r))
    return _fill(tensor, gain * (q if rows >= columns else q.T).reshape(tensor.shape))


def default_weight_(weight: Tensor, bias: Tensor | None) -> None:
    """What Linear and the convolutions start with: both U(-1/sqrt(fan_in), 1/sqrt(fan_in)), as in torch."""
    kaiming_uniform_(weight, a=math.sqrt(5))
    if bias is not None:
        fan_in, _ = fans("default_weight_", weight)
        bound = 1 / math.sqrt(fan_in) if fan_in else 0.0
        uniform_(bias, -bound, bound)
