"""A simulated MRI acquisition: uneven coil sensitivity (bias field) and noise of the magnitude image (Rician)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def bias_field(
    shape: Sequence[int],
    generator: np.random.Generator,
    low: float = 0.6,
    high: float = 1.4,
    control_points: int = 3,
) -> NDArray[np.float32]:
    """A smooth random field b that multiplies an image, as uneven sensitivity of a receive coil does.

    b(p) = sum over control points c of b_c * prod over axes w(|u_axis(p) - c_axis|), with w(t) = 1 - 3 t^2 + 2 t^3 for
    t < 1, else 0, where u runs from 0 to control_points - 1 along each axis and b_c is uniform in [low, high].
    The weights are not negative and add up to 1, so low <= b <= high, and b has a continuous first derivative of at
    most 1.5 (high - low) per cell of the grid.

    Returns float32 of the given shape (any number of axes), without unit: 1 leaves the image as it is.
    ValueError: an axis shorter than 1, low not in (0, high], fewer than 2 control points.
    Source: the multiplicative model v = b u + n of Sled, Zijdenbos and Evans, IEEE TMI 17 (1998) 87, equation 1.
    """
    if min(shape, default=0) < 1:
        raise ValueError(f"bias_field: shape must be one or more sizes of at least 1, but it is {tuple(shape)}.")
    if not 0 < low <= high < math.inf:
        raise ValueError(f"bias_field: low and high must satisfy 0 < low <= high, but found low={low}, high={high}.")
    if control_points < 2:
        raise ValueError(f"bias_field: control_points must be at least 2 for each axis, but it is {control_points}.")
    field = generator.uniform(low, high, (control_points,) * len(shape))
    for size in shape:
        u = np.linspace(0, control_points - 1, size)
        t = np.minimum(np.abs(u[:, None] - np.arange(control_points)), 1)  # (size, control_points)
        weight = 1 - 3 * t**2 + 2 * t**3
        field = np.tensordot(field, weight, axes=(0, 1))  # the first axis becomes the last one, at full size
    return np.clip(field, low, high).astype(np.float32)  # the clip takes off rounding only


def rician_noise(image: NDArray[Any], sigma: float, generator: np.random.Generator) -> NDArray[np.float32]:
    """M = |A + n1 + i n2|, with n1 and n2 normal of mean 0 and deviation sigma: the noise of a magnitude image.

    The density of M is (M / sigma^2) exp(-(M^2 + A^2) / (2 sigma^2)) I0(A M / sigma^2); at A = 0 it is Rayleigh's, of
    mean sigma sqrt(pi / 2), and always E[M^2] = A^2 + 2 sigma^2.

    image: real A of any shape; sigma: in the intensity units of the image. Returns float32 of the image's shape.
    ValueError: sigma negative or not finite. TypeError: an image that is not of real numbers.
    Source: Gudbjartsson and Patz, Magnetic Resonance in Medicine 34 (1995) 910, equations 1 and 2.
    """
    if image.dtype.kind not in "uif":
        raise TypeError(f"rician_noise: image must hold real numbers, but its dtype is {image.dtype}.")
    if not 0 <= sigma < math.inf:
        raise ValueError(f"rician_noise: sigma must be finite and not negative, but it is {sigma}.")
    real, imaginary = np.float32(sigma) * generator.standard_normal((2, *image.shape), np.float32)
    return np.hypot(image.astype(np.float32) + real, imaginary)


def simulate_acquisition(
    image: NDArray[Any], generator: np.random.Generator, sigma: float = 25.0
) -> NDArray[np.float32]:
    """rician_noise(b * image, sigma) with a fresh bias_field b: one MRI acquisition of a clean image.

    image: real, of any shape, with an intensity range of about 0 to 255 for the default sigma. Returns float32 of the
    same shape and unit, not negative and not cut off above.
    """
    return rician_noise(image * bias_field(image.shape, generator), sigma, generator)
