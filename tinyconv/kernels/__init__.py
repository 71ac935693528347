"""The operators on arrays, and the ladder of kernels that compute them.

Every operator has the same name, arguments and meaning on every rung: ``loops`` is the definition in
plain Python, to be stepped through; ``im2col`` is array code for NumPy and CuPy; ``numba`` is compiled for the CPU
and takes NumPy arrays of float32 and float64; ``cuda`` takes CuPy arrays of them, and NumPy arrays where it is asked
for, in an emulator. What a rung lacks or does not take falls to the next rung below.

In every signature ``g`` is a :class:`~tinyconv.geometry.Geometry` of rank 1, 2 or 3, and I = ``g.size``,
O = ``g.output``, K = ``g.kernel``. The result has the dtype of the arguments; float16 is summed in float32.
Arguments may lie in memory in any way, and are never written to, but for the steps of optimisers. Nothing is checked
here: the operators in ``tinyconv.ops`` check.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType, TracebackType
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from tinyconv.geometry import Geometry, Padding, Size, Sizes, window_geometry
from tinyconv.kernels import choice, im2col, loops
from tinyconv.kernels.arrays import Array, array_module, scratch_limit, set_scratch_limit
from tinyconv.kernels.axismap import AxisMap
from tinyconv.kernels.precision import PRECISIONS, set_precision
from tinyconv.kernels.precision import precision as asked_precision

__all__ = [
    "LADDER",
    "OPERATORS",
    "Table",
    "activation",
    "activation_grad",
    "adam_step",
    "adaptive_max_pool",
    "array_module",
    "avg_pool",
    "avg_pool_input",
    "conv",
    "conv_input",
    "conv_weight",
    "corners",
    "cross_entropy",
    "cross_entropy_grad",
    "erf",
    "explain_choice",
    "fold",
    "kernel",
    "matmul",
    "max_pool",
    "normalise",
    "normalise_grad",
    "relu",
    "relu_grad",
    "resample",
    "rmsprop_step",
    "sample",
    "sample_input",
    "sample_weight",
    "scatter_windows",
    "scratch_limit",
    "set_scratch_limit",
    "sgd_step",
    "sigmoid",
    "slopes",
    "softmax",
    "softmax_grad",
    "table",
    "unfold",
    "use_kernels",
]

LADDER = ("loops", "im2col", "numba", "cuda")
OPERATORS = (
    "matmul",
    "conv",
    "conv_input",
    "conv_weight",
    "max_pool",
    "scatter_windows",
    "avg_pool",
    "avg_pool_input",
    "unfold",
    "fold",
    "resample",
    "adaptive_max_pool",
    "corners",
    "sample",
    "sample_input",
    "sample_weight",
    "normalise",
    "normalise_grad",
    "relu",
    "relu_grad",
    "slopes",
    "sigmoid",
    "erf",
    "activation",
    "activation_grad",
    "softmax",
    "softmax_grad",
    "cross_entropy",
    "cross_entropy_grad",
    "sgd_step",
    "adam_step",
    "rmsprop_step",
)

_modules: dict[str, ModuleType] = {"loops": loops, "im2col": im2col}
_COMPILED_DTYPES = (np.dtype(np.float32), np.dtype(np.float64))  # not in the other byte order
_HALVES = ("conv", "conv_input", "conv_weight")  # what the rung cuda also computes in float16
_rung: str | None = None  # what was asked for; nothing: cuda for CuPy's arrays, numba for NumPy's


class use_kernels:  # noqa: N801 - used like a function
    """Compute with the kernels of ``rung`` from now on, or within a ``with`` block.

    >>> with use_kernels("loops"):
    ...     print(kernel("conv").__module__)
    tinyconv.kernels.loops

    ``conv`` chooses among the algorithms of the rungs ``numba`` and ``cuda``: 'auto' follows the rule in
    :mod:`tinyconv.kernels.choice` and that in :mod:`tinyconv.kernels.cuda.convolution`; 'direct', 'tiled', 'winograd2'
    and 'winograd4' (or just 'winograd'), and on ``cuda`` also 'columns' and 'depthwise', are used wherever they can
    compute the convolution; 'exact' is 'auto' without Winograd's, so that every sum runs over the products of the
    definition.
    ``precision`` is that of float32 products on the rung ``cuda``: 'ieee' multiplies by all bits, 'tf32' and 'bf16'
    round the operands of convolutions and matrix products first, for tensor cores (:mod:`tinyconv.kernels.precision`);
    convolutions with fewer than 16 channels a group, and GPUs without such tensor cores, keep all bits.
    What is not given stays.
    The choice holds for the whole process, all threads included. Leaving the block restores what was in
    use before it, also after an exception.
    """

    def __init__(self, rung: str | None = None, conv: str | None = None, precision: str | None = None) -> None:
        global _rung
        if rung is not None and rung not in LADDER:
            raise ValueError(f"use_kernels: rung must be one of {', '.join(map(repr, LADDER))}, but is {rung!r}.")
        if conv is not None and conv not in choice.ALGORITHMS:
            algorithms = ", ".join(map(repr, choice.ALGORITHMS))
            raise ValueError(f"use_kernels: conv must be one of {algorithms}, but is {conv!r}.")
        if precision is not None and precision not in PRECISIONS:
            known = ", ".join(map(repr, PRECISIONS))
            raise ValueError(f"use_kernels: precision must be one of {known}, but is {precision!r}.")
        self._before = _rung, choice.forced(), asked_precision()
        _rung = rung or _rung
        choice.force(conv or choice.forced())
        set_precision(precision or asked_precision())

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        global _rung
        _rung, algorithm, asked = self._before
        choice.force(algorithm)
        set_precision(asked)


def _module(rung: str) -> ModuleType | None:
    """The kernels of a rung, None where it has none here. Numba is imported at first use: it takes a while."""
    if rung == "numba" and rung not in _modules and find_spec("numba"):
        _modules[rung] = import_module("tinyconv.kernels.cpu")
    if rung == "cuda" and rung not in _modules:
        _modules[rung] = import_module("tinyconv.kernels.cuda")
    return _modules.get(rung)


@cache
def _serving(operator: str, asked: str | None, on_cpu: bool, dtype: np.dtype[Any]) -> str:
    """The rung that is asked for, or the next below it that has ``operator`` and takes such arrays.

    The definition has all operators and takes all arrays.
    """
    compiled = dtype in _COMPILED_DTYPES
    takes = {
        "loops": True,
        "im2col": True,
        "numba": on_cpu and compiled,
        # NumPy's arrays only where the emulator is asked for.
        "cuda": (compiled or dtype == np.float16 and operator in _HALVES) and (not on_cpu or asked == "cuda"),
    }
    below = reversed(LADDER[: LADDER.index(asked or LADDER[-1]) + 1])
    return next(rung for rung in below if takes[rung] and hasattr(_module(rung), operator))


def _serves(operator: str, array: Array | None = None) -> str:
    """The rung for an array; without one, for a NumPy array of float32."""
    on_cpu = array is None or isinstance(array, np.ndarray)
    return _serving(operator, _rung, on_cpu, _COMPILED_DTYPES[0] if array is None else array.dtype)


def kernel(operator: str, array: Array | None = None) -> Callable[..., Any]:
    """The function that computes ``operator`` now, on ``array`` or on a NumPy array of float32.

    ValueError for a name that is not in ``OPERATORS``.
    """
    if operator not in OPERATORS:
        raise ValueError(f"kernel: operator must be one of {', '.join(map(repr, OPERATORS))}, but is {operator!r}.")
    return getattr(_modules[_serves(operator, array)], operator)


class Table(dict[str, str]):
    """Operator: the rung that serves it. Prints as lines of two columns."""

    def __repr__(self) -> str:
        width = max(map(len, self))
        return "\n".join(f"{operator:{width}}  {rung}" for operator, rung in self.items())


def table() -> Table:
    """Which rung serves which operator now."""
    return Table((operator, _serves(operator)) for operator in OPERATORS)


class Choices(dict[str, choice.Choice]):
    """Face of the convolution: its :class:`~tinyconv.kernels.choice.Choice`. Prints as lines."""

    def __repr__(self) -> str:
        return "\n".join(f"{face:11}  {chosen.algorithm:9}  {chosen.reason}" for face, chosen in self.items())


def explain_choice(
    input: Sequence[int],
    weight: Sequence[int],
    stride: Size = 1,
    padding: Padding = 0,
    dilation: Size = 1,
    groups: int = 1,
    dtype: DTypeLike = np.float32,
    rung: str = "numba",
) -> Choices:
    """Which algorithm the kernels of ``rung``, 'numba' or 'cuda', use for a convolution and its two gradients, and why.

    ``input`` (N, C_in, *I) and ``weight`` (C_out, C_in/groups, *K) are shapes, the rest as in ``conv2d``. On 'cuda' it
    is the choice of a GPU with tensor cores. Raises ValueError where no window fits.

    >>> explain_choice((16, 64, 56, 56), (64, 64, 3, 3), padding=1)["conv"].algorithm
    'winograd4'
    """
    if len(input) != len(weight) or len(input) not in (3, 4, 5):
        raise ValueError(
            f"explain_choice: input and weight must be shapes (N, C_in, *I) and (C_out, C_in/groups, *K) with one to "
            f"three axes *I, but are {tuple(input)} and {tuple(weight)}."
        )
    if rung not in ("numba", "cuda"):
        raise ValueError(f"explain_choice: rung must be 'numba' or 'cuda', but is {rung!r}.")
    g = window_geometry("explain_choice", tuple(input[2:]), weight[2:], stride, padding, dilation)
    sizes = input[0], input[1], weight[0], groups, np.dtype(dtype)
    faces = ("conv", "conv_input", "conv_weight")
    if rung == "numba":
        return Choices((face, choice.choose(face, choice.volumes(g), *sizes)) for face in faces)
    choose = import_module("tinyconv.kernels.cuda.convolution").choose
    return Choices((face, choose(face, g, *sizes, asked_precision())) for face in faces)


# --------------------------------------------------------------------------------------------------
# The matrix product


def matmul(a: Array, b: Array) -> Array:
    """y[..., m, n] = sum over k of a[..., m, k] b[..., k, n]; a (*B, M, K), b (*B, K, N) to (*B, M, N)."""
    return kernel("matmul", a)(a, b)


# --------------------------------------------------------------------------------------------------
# The convolution triangle


def conv(x: Array, w: Array, g: Geometry, groups: int) -> Array:
    """y[n, co, o] = sum over ci, k of x[n, ci, o*s + k*d - p] w[co, ci, k], with zeros for padding.

    x (N, C_in, *I), w (C_out, C_in/groups, *K) to y (N, C_out, *O).
    """
    return kernel("conv", x)(x, w, g, groups)


def conv_input(gy: Array, w: Array, g: Geometry, groups: int) -> Array:
    """gx[n, ci, i] = sum over co and the (o, k) that read i of gy[n, co, o] w[co, ci, k]: the transposed convolution.

    gy (N, C_out, *O), w (C_out, C_in/groups, *K) to gx (N, C_in, *I). A pixel that no window reads gets 0.
    """
    return kernel("conv_input", gy)(gy, w, g, groups)


def conv_weight(x: Array, gy: Array, g: Geometry, groups: int) -> Array:
    """gw[co, ci, k] = sum over n, o of x[n, ci, o*s + k*d - p] gy[n, co, o], with zeros for padding.

    x (N, C_in, *I), gy (N, C_out, *O) to gw (C_out, C_in/groups, *K).
    """
    return kernel("conv_weight", x)(x, gy, g, groups)


# --------------------------------------------------------------------------------------------------
# Pooling


def max_pool(x: Array, g: Geometry) -> tuple[Array, Array]:
    """y[n, c, o] = the largest pixel of the window at o, and its flat index within *I (int64).

    x (N, C, *I) to two arrays (N, C, *O). Padding is minus infinity; of equal pixels the first wins; a NaN wins, and of
    several the last, as in torch. A window that reads no pixel at all is minus infinity with index 0.
    """
    return kernel("max_pool", x)(x, g)


def scatter_windows(gy: Array, indices: Array, size: Sizes, windows: Sequence[AxisMap] | None) -> Array:
    """gx[n, c, i] = sum of gy[n, c, o] over the o with indices[n, c, o] = i: the gradient of max pooling.

    gy and indices (N, C, *O) to gx (N, C, *size); indices are flat within *size, as max_pool gives them. ``windows``:
    the maps, one an axis, by which outputs read the pixels that they may have chosen: a GPU then asks few of them;
    None where any output may name any pixel. What an output names beyond its window need not be found.
    """
    return kernel("scatter_windows", gy)(gy, indices, size, windows)


def avg_pool(x: Array, g: Geometry, divisor: Array) -> Array:
    """y[n, c, o] = (sum of the window's pixels) / divisor[o]; x (N, C, *I), divisor (*O) to y (N, C, *O)."""
    return kernel("avg_pool", x)(x, g, divisor)


def avg_pool_input(gy: Array, g: Geometry, divisor: Array) -> Array:
    """gx[n, c, i] = sum over the (o, k) that read i of gy[n, c, o] / divisor[o]; gy (N, C, *O) to gx (N, C, *I)."""
    return kernel("avg_pool_input", gy)(gy, g, divisor)


# --------------------------------------------------------------------------------------------------
# Unfolding


def unfold(x: Array, g: Geometry) -> Array:
    """cols[n, (c, k), o] = x[n, c, o*s + k*d - p], 0 for padding; x (N, C, *I) to (N, C * prod K, prod O)."""
    return kernel("unfold", x)(x, g)


def fold(cols: Array, g: Geometry) -> Array:
    """x[n, c, i] = sum over the (o, k) that read i of cols[n, (c, k), o]; (N, C * prod K, prod O) to (N, C, *I)."""
    return kernel("fold", cols)(cols, g)


# --------------------------------------------------------------------------------------------------
# Maps along single axes


def resample(x: Array, maps: Sequence[AxisMap]) -> Array:
    """y[..., o] = sum of weight * x[..., i] over the triples (o, i, weight) of one of the last axes after the other."""
    return kernel("resample", x)(x, maps)


def adaptive_max_pool(x: Array, maps: Sequence[AxisMap]) -> tuple[Array, Array]:
    """The largest pixel that each output reads, one map an axis, and its flat index; ties and NaN as in max_pool.

    x (N, C, *I) to two arrays (N, C, *O).
    """
    return kernel("adaptive_max_pool", x)(x, maps)


# --------------------------------------------------------------------------------------------------
# Sampling at points


def corners(
    grid: Array, size: Sizes, mode: str, padding_mode: str, align_corners: bool, order: Sequence[int]
) -> tuple[Array, Array]:
    """The K corners between which each point of a grid lies: their weights and their flat indices within ``size``.

    grid (N, L, rank), coordinates as in ``tinyconv.functional.grid_sample``, to two arrays (N, K, L). An index of -1
    means that the corner is outside the image. ``order``: of the derivative of the weights, one int an axis of
    the image; all 0 for the weights themselves.
    """
    return kernel("corners", grid)(grid, size, mode, padding_mode, align_corners, order)


def sample(x: Array, w: Array, at: Array) -> Array:
    """y[n, c, o] = sum over k of w[n, k, o] x[n, c, at[n, k, o]], with 0 for the pixel -1.

    x (N, C, P), w and at (N, K, L) to y (N, C, L). Bilinear in x and w, like a convolution, and its gradients are the
    next two.
    """
    return kernel("sample", x)(x, w, at)


def sample_input(gy: Array, w: Array, at: Array, pixels: int) -> Array:
    """gx[n, c, i] = sum over the (k, o) with at[n, k, o] = i of w[n, k, o] gy[n, c, o].

    gy (N, C, L), w and at (N, K, L) to gx (N, C, pixels).
    """
    return kernel("sample_input", gy)(gy, w, at, pixels)


def sample_weight(x: Array, gy: Array, at: Array) -> Array:
    """gw[n, k, o] = sum over c of x[n, c, at[n, k, o]] gy[n, c, o], with 0 for the pixel -1.

    x (N, C, P), gy (N, C, L), at (N, K, L) to gw (N, K, L).
    """
    return kernel("sample_weight", x)(x, gy, at)


# --------------------------------------------------------------------------------------------------
# Normalisation


def normalise(x: Array, weight: Array, bias: Array, axes: tuple[int, ...], eps: float) -> tuple[Array, Array, Array]:
    """(y, mean, var) with y = weight (x - mean) / sqrt(var + eps) + bias, the (biased) statistics taken over ``axes``.

    weight and bias have as many axes as x, and broadcast to it. mean and var are float64, with axes of size 1.
    """
    return kernel("normalise", x)(x, weight, bias, axes, eps)


def normalise_grad(
    g: Array, x: Array, weight: Array, mean: Array, var: Array, axes: tuple[int, ...], eps: float
) -> tuple[Array, Array, Array]:
    """The gradients (dx, dweight, dbias) of normalise for the cotangent g of y. With n = (x - mean) / sqrt(var + eps):

    dx = (g w - mean(g w) - n mean(g w n)) / sqrt(var + eps),  dweight = sum g n,  dbias = sum g.
    """
    return kernel("normalise_grad", x)(g, x, weight, mean, var, axes, eps)


# --------------------------------------------------------------------------------------------------
# Activation


def relu(x: Array) -> Array:
    """y = max(x, 0), NaN for NaN; any shape."""
    return kernel("relu", x)(x)


def relu_grad(g: Array, y: Array) -> Array:
    """gx = g where not y <= 0, else 0: the gradient of relu at its output y, for a cotangent g of the same shape."""
    return kernel("relu_grad", g)(g, y)


def slopes(x: Array, positive: Array, slope: float) -> Array:
    """y = x where ``positive`` (bool, the shape of x), else slope x."""
    return kernel("slopes", x)(x, positive, slope)


def sigmoid(x: Array) -> Array:
    """y = 1 / (1 + e^-x); any shape."""
    return kernel("sigmoid", x)(x)


def erf(x: Array) -> Array:
    """y = 2/sqrt(pi) * integral of e^(-t^2) from 0 to x; any shape."""
    return kernel("erf", x)(x)


def activation(x: Array, name: str, parameters: tuple[float, ...]) -> Array:
    """y = f(x) of one of these, element by element; any shape.

    'elu' (a, b, c)   a x where x > 0, else b (e^(c x) - 1)
    'hardsigmoid' ()  min(max(x + 3, 0), 6) / 6
    'hardswish' ()    x hardsigmoid(x)
    'hardtanh' (a, b) min(max(x, a), b)
    'logsigmoid' ()   -log(1 + e^-x)
    'silu' ()         x / (1 + e^-x)
    'softplus' (a, b) log(1 + e^(a x)) / a, and x where a x > b
    'gelu' ()         x (1 + erf(x / sqrt 2)) / 2
    'gelu-tanh' ()    x (1 + tanh(u)) / 2 with u = sqrt(2 / pi) (x + 0.044715 x^3)
    """
    return kernel("activation", x)(x, name, parameters)


def activation_grad(g: Array, x: Array, name: str, parameters: tuple[float, ...]) -> Array:
    """gx = g f'(x): the gradient of ``activation`` at its input x. At a kink f' is torch's."""
    return kernel("activation_grad", g)(g, x, name, parameters)


# --------------------------------------------------------------------------------------------------
# Softmax and cross-entropy


def softmax(x: Array, axis: int, log: bool) -> Array:
    """y = e^x / sum e^x along an axis (not negative), or with ``log`` its logarithm, x - log sum e^x; any shape."""
    return kernel("softmax", x)(x, axis, log)


def softmax_grad(g: Array, y: Array, axis: int, log: bool) -> Array:
    """dx = y (g - sum g y), or with ``log`` g - e^y sum g: the gradient of softmax at its output y."""
    return kernel("softmax_grad", g)(g, y, axis, log)


def cross_entropy(x: Array, target: Array, factor: Array, valid: Array) -> tuple[Array, Array, Array]:
    """(loss, top, log_sum): loss[n, j] = factor (log_sum + top - x[n, target, j]), 0 where not ``valid``.

    x (N, C, L); target (int64), factor and valid (bool) (N, L). top[n, 0, j] = max over c of x[n, c, j], and log_sum =
    log sum over c of e^(x - top), are what the gradient needs.
    """
    return kernel("cross_entropy", x)(x, target, factor, valid)


def cross_entropy_grad(
    g: Array, x: Array, target: Array, factor: Array, valid: Array, top: Array, log_sum: Array
) -> Array:
    """dx[n, c, j] = factor g (e^(x - top - log_sum) - [c = target]), 0 where not ``valid``; g (N, L)."""
    return kernel("cross_entropy_grad", x)(g, x, target, factor, valid, top, log_sum)


# --------------------------------------------------------------------------------------------------
# Steps of optimisers: the only operators that change their arguments


def sgd_step(
    x: Array, g: Array, v: Array | None, lr: float, momentum: float, dampening: float, weight_decay: float,
    nesterov: bool, maximize: bool,
) -> None:  # fmt: skip
    """g <- g + weight_decay x;  v <- momentum v + (1 - dampening) g;  x <- x - lr v, of x and v in place; any shape.

    v is None without a momentum: x <- x - lr g. ``nesterov``: g + momentum v for v. ``maximize``: -g for g.
    """
    kernel("sgd_step", x)(x, g, v, lr, momentum, dampening, weight_decay, nesterov, maximize)


def adam_step(
    x: Array, g: Array, m: Array, v: Array, largest: Array | None, count: int, lr: float, beta1: float, beta2: float,
    eps: float, weight_decay: float, decoupled: bool, maximize: bool,
) -> None:  # fmt: skip
    """m <- beta1 m + (1 - beta1) g;  v <- beta2 v + (1 - beta2) g^2;  x <- x - lr M / (sqrt(V) + eps), in place.

    M = m / (1 - beta1^count) and V = v / (1 - beta2^count), or with ``largest`` (else None) the largest v so far for v.
    Before, g <- g + weight_decay x, or where ``decoupled`` x <- (1 - lr weight_decay) x. ``maximize``: -g for g.
    """
    kernel("adam_step", x)(x, g, m, v, largest, count, lr, beta1, beta2, eps, weight_decay, decoupled, maximize)


def rmsprop_step(
    x: Array, g: Array, v: Array, mean: Array | None, b: Array | None, lr: float, alpha: float, eps: float,
    weight_decay: float, momentum: float, maximize: bool,
) -> None:  # fmt: skip
    """v <- alpha v + (1 - alpha) g^2;  b <- momentum b + g / (sqrt(v) + eps);  x <- x - lr b, in place; any shape.

    Before, g <- g + weight_decay x. b is None without a momentum. With ``mean`` (else None), mean <- alpha mean +
    (1 - alpha) g, and v - mean^2 under the root. ``maximize``: -g for g.
    """
    kernel("rmsprop_step", x)(x, g, v, mean, b, lr, alpha, eps, weight_decay, momentum, maximize)
