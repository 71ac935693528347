"""Separable linear resampling: interpolate, and the one Function that it shares with adaptive averages and padding.

Each axis has its own list of triples (output, input, weight), an :class:`AxisMap`. The transpose of such a map is
another, so one Function is its own gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tinyconv import kernels
from tinyconv.autograd import Function, Tensor
from tinyconv.autograd.dtypes import is_float
from tinyconv.geometry import Sizes, as_axes
from tinyconv.kernels.arrays import Array, sum_dtype
from tinyconv.kernels.axismap import AxisMap, axis_map
from tinyconv.ops.convert import as_tensor

Floats: TypeAlias = NDArray[np.floating]
FloatType: TypeAlias = Any  # numpy.float32 or numpy.float64, the type itself
ScaleFactor: TypeAlias = "float | Sequence[float]"


class Resample(Function):
    """y[..., o1, o2] = sum over the triples of both axes of w1 w2 x[..., i1, i2]; backward is the transposed map."""

    def __init__(self, maps: Sequence[AxisMap]) -> None:
        self.maps = maps

    def forward(self, x: Array) -> Array:
        return kernels.resample(x, self.maps)

    def backward(self, gy: Tensor) -> Tensor:
        return Resample([m.transposed for m in self.maps])(gy)


# --------------------------------------------------------------------------------------------------
# The maps of one axis. Positions are computed in the image's own precision, as torch does: a float32 position just
# below a whole number chooses another pixel than the float64 one.


def _positions(size: int, output: int, scale: float | None, align_corners: bool, dtype: FloatType) -> Floats:
    """Where each output pixel lies on the input's axis, in pixels; may lie up to half a pixel outside.

    Pixels are unit squares whose borders coincide, i = (o + 1/2) n/m - 1/2, or points whose corners coincide,
    i = o (n-1)/(m-1).
    """
    o = np.arange(output).astype(dtype)
    if align_corners:
        return o * (dtype(size - 1) / dtype(output - 1) if output > 1 else dtype(0))
    return (o + dtype(0.5)) * _ratio(size, output, scale, dtype) - dtype(0.5)


def _ratio(size: int, output: int, scale: float | None, dtype: FloatType) -> Any:
    """Input pixels an output pixel: 1/scale where a scale was given, else the quotient of the sizes."""
    return dtype(1 / scale) if scale is not None else dtype(size) / dtype(output)


def _nearest(size: int, output: int, scale: float | None, align_corners: bool, dtype: FloatType) -> AxisMap:
    """The pixel at floor(o n/m)."""
    return _floor(size, np.arange(output).astype(dtype) * _ratio(size, output, scale, dtype), dtype)


def _nearest_exact(size: int, output: int, scale: float | None, align_corners: bool, dtype: FloatType) -> AxisMap:
    """The pixel whose centre is nearest to that of the output pixel."""
    return _floor(size, _positions(size, output, scale, False, dtype) + dtype(0.5), dtype)


def _floor(size: int, position: Floats, dtype: FloatType) -> AxisMap:
    """The pixel at the whole number below each position, which torch rounds to float32 first."""
    at = np.floor(position.astype(np.float32)).astype(np.int64)
    taps = np.minimum(at, size - 1)[:, None]
    return axis_map(size, taps.tolist(), [[1.0]] * len(taps), dtype)


def _linear(size: int, output: int, scale: float | None, align_corners: bool, dtype: FloatType) -> AxisMap:
    """The two pixels around the position, weighted 1 - t and t."""
    position = np.maximum(_positions(size, output, scale, align_corners, dtype), dtype(0))
    if output == size:
        position = np.arange(size).astype(dtype)  # a copy, whatever the scale says
    left = np.minimum(position.astype(np.int64), size - 1)
    right = np.minimum(left + 1, size - 1)
    t = np.clip(position - left.astype(dtype), dtype(0), dtype(1))
    return axis_map(size, np.stack([left, right], 1).tolist(), np.stack([1 - t, t], 1).tolist(), dtype)


def cubic_weights(t: Any, a: float) -> list[Any]:
    """Weights of the pixels at -1, 0, 1, 2 for a position t in [0, 1) after pixel 0.

    Source: Keys, "Cubic convolution interpolation for digital image processing", 1981, equation 4.
    """

    def near(d: Any) -> Any:  # |d| <= 1
        return ((a + 2) * d - (a + 3)) * d * d + 1

    def far(d: Any) -> Any:  # 1 < |d| < 2
        return ((a * d - 5 * a) * d + 8 * a) * d - 4 * a

    return [far(t + 1), near(t), near(1 - t), far(2 - t)]


def _cubic(size: int, output: int, scale: float | None, align_corners: bool, dtype: FloatType) -> AxisMap:
    """The four pixels around the position, weighted by Keys' cubic (a = -3/4); beyond the border its last pixel."""
    position = _positions(size, output, scale, align_corners, dtype)
    first = np.floor(position)
    weights = np.stack(cubic_weights(position - first, -0.75), 1)
    taps = np.clip(first.astype(np.int64)[:, None] + np.arange(-1, 3), 0, size - 1)
    return axis_map(size, taps.tolist(), weights.tolist(), dtype)


def _antialiased(
    size: int, output: int, scale: float | None, align_corners: bool, dtype: FloatType, reach: int
) -> AxisMap:
    """A triangle (reach 1) or Keys' cubic, a = -1/2 (reach 2), as wide as an input or output pixel, the larger."""
    if output == size:  # a copy, whatever the scale says
        ratio = 1.0
    elif align_corners:
        ratio = (size - 1) / (output - 1) if output > 1 else 0.0
    else:
        ratio = 1 / scale if scale is not None else size / output
    width = max(ratio, 1.0)
    taps, weights = [], []
    for o in range(output):
        centre = ratio * (o + 0.5)
        first = max(0, int(centre - reach * width + 0.5))
        last = min(size, int(centre + reach * width + 0.5))
        row = [_filter(abs((i + 0.5 - centre) / width), reach) for i in range(first, last)]
        taps.append(range(first, last))
        weights.append([w / sum(row) for w in row])
    return axis_map(size, taps, weights, dtype)


def _filter(d: float, reach: int) -> float:
    """The triangle or the cubic at distance d."""
    if reach == 1:
        return max(0.0, 1.0 - d)
    return float(cubic_weights(d % 1, -0.5)[1 - int(d)]) if d < 2 else 0.0


def _area(size: int, output: int, scale: float | None, align_corners: bool, dtype: FloatType) -> AxisMap:
    return adaptive_map(size, output, dtype)


@lru_cache(maxsize=256)
def adaptive_map(size: int, output: int, dtype: FloatType) -> AxisMap:
    """The mean over the adaptive windows of one axis: window o is floor(o n / m) to ceil((o+1) n / m)."""
    windows = [range(o * size // output, -(-(o + 1) * size // output)) for o in range(output)]
    return axis_map(size, windows, [[1 / len(w)] * len(w) for w in windows], dtype)


_MAPS: dict[str, Callable[..., AxisMap]] = {
    "nearest": _nearest,
    "nearest-exact": _nearest_exact,
    "area": _area,
    "linear": _linear,
    "bilinear": _linear,
    "trilinear": _linear,
    "bicubic": _cubic,
}
#: Number of spatial axes of the modes that are bound to one.
_RANK = {"linear": 1, "bilinear": 2, "bicubic": 2, "trilinear": 3}
_REACH = {"bilinear": 1, "bicubic": 2}


@lru_cache(maxsize=256)
def _axis(
    mode: str,
    size: int,
    output: int,
    scale: float | None,
    align_corners: bool,
    antialias: bool,
    dtype: FloatType,
) -> AxisMap:
    if antialias:
        return _antialiased(size, output, scale, align_corners, dtype, _REACH[mode])
    return _MAPS[mode](size, output, scale, align_corners, dtype)


# --------------------------------------------------------------------------------------------------
# interpolate


def interpolate(
    input: Tensor,
    size: int | Sequence[int] | None = None,
    scale_factor: ScaleFactor | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Tensor:
    """input (N, C, *I) resized to (N, C, *O): y[o] = sum of w(o, i) input[i], axis by axis.

    ``size`` is O, or ``scale_factor`` gives O = floor(I * scale). ``mode``: nearest (pixel floor(o I/O)),
    nearest-exact, area (mean), linear (3 axes), bilinear, bicubic (4), trilinear (5). ``align_corners``: pixels are
    points and the corner points coincide; otherwise they are squares and the borders do. A given scale also sets
    the spacing of the positions, unless ``recompute_scale_factor``, which takes I/O. ``antialias`` (bilinear,
    bicubic) widens the filter when shrinking. Source of bicubic: Keys 1981, a = -3/4.
    """
    input = as_tensor(input, "interpolate")
    _check_input(input, mode, align_corners, antialias)
    spatial = input.shape[2:]
    output, scales = _output(spatial, size, scale_factor, recompute_scale_factor)
    dtype: FloatType = sum_dtype(input.dtype).type if is_float(input.dtype) else np.float32
    maps = [
        _axis(mode, n, m, scale, bool(align_corners), antialias, dtype) for n, m, scale in zip(spatial, output, scales)
    ]
    return Resample(maps)(input)


def _check_input(input: Tensor, mode: str, align_corners: bool | None, antialias: bool) -> None:
    op = "interpolate"
    if mode not in _MAPS:
        raise ValueError(f"{op}: mode must be one of {', '.join(_MAPS)}, but is {mode!r}.")
    if input.ndim not in (3, 4, 5):
        raise ValueError(
            f"{op}: input must be (N, C, *I) with one to three spatial axes, but has shape {input.shape}. Add "
            "axes with x.unsqueeze(0)."
        )
    if _RANK.get(mode, input.ndim - 2) != input.ndim - 2:
        fitting = next(m for m, rank in _RANK.items() if rank == input.ndim - 2)
        raise ValueError(
            f"{op}: mode={mode!r} needs {_RANK[mode] + 2} axes, but input has {input.ndim} (shape {input.shape}). "
            f"For this input use mode={fitting!r}."
        )
    if not is_float(input.dtype) and not (input.dtype == np.uint8 and mode.startswith("nearest")):
        raise TypeError(
            f"{op}: input must be a float tensor (or uint8 for mode='nearest'), but is {input.dtype}. Convert it "
            "with input.float()."
        )
    if 0 in input.shape[1:]:
        raise ValueError(f"{op}: only the batch may be empty, but input.shape={input.shape}.")
    if align_corners is not None and mode not in _RANK:
        raise ValueError(
            f"{op}: align_corners has no meaning for mode={mode!r}. Leave it out, or use one of {', '.join(_RANK)}."
        )
    if antialias and mode not in _REACH:
        raise ValueError(f"{op}: antialias needs mode 'bilinear' or 'bicubic', but mode={mode!r}.")


def _output(
    spatial: Sizes, size: int | Sequence[int] | None, scale_factor: ScaleFactor | None, recompute: bool | None
) -> tuple[Sizes, Sequence[float | None]]:
    """Output sizes, and the scale of each axis where it is to set the spacing."""
    rank = len(spatial)
    if (size is None) == (scale_factor is None):
        raise ValueError(
            f"interpolate: give either size or scale_factor, but size={size!r} and scale_factor={scale_factor!r}."
        )
    if scale_factor is None:
        if recompute:
            raise ValueError("interpolate: recompute_scale_factor has no meaning with size. Leave it out.")
        return as_axes("interpolate", "size", size, rank, least=1), [None] * rank  # type: ignore[arg-type]
    factors = list(scale_factor) if isinstance(scale_factor, Sequence) else [scale_factor] * rank
    if len(factors) != rank or any(isinstance(f, bool) or not isinstance(f, int | float) for f in factors):
        raise ValueError(f"interpolate: scale_factor must be one number or {rank} numbers, but is {scale_factor!r}.")
    output = tuple(math.floor(n * f) for n, f in zip(spatial, factors))
    if min(output) < 1:
        raise ValueError(
            f"interpolate: scale_factor={scale_factor!r} makes {output} of {spatial}; every axis needs at least "
            "one pixel."
        )
    return output, [None if recompute else float(f) for f in factors]
