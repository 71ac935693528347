"""The kernels for the CPU, compiled by Numba: the rung that NumPy arrays of float32 and float64 are computed with."""

from __future__ import annotations

from tinyconv.kernels.cpu.convolution import conv, conv_input, conv_weight
from tinyconv.kernels.cpu.threads import get_num_threads, set_num_threads
