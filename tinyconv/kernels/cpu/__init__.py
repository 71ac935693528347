"""The kernels for the CPU, compiled by Numba: the rung that NumPy arrays of float32 and float64 are computed with."""

from __future__ import annotations

from tinyconv.kernels import threads
from tinyconv.kernels.cpu import notice
from tinyconv.kernels.cpu.activation import activation, activation_grad, erf, relu, relu_grad, sigmoid, slopes
from tinyconv.kernels.cpu.convolution import conv, conv_input, conv_weight
from tinyconv.kernels.cpu.entropy import cross_entropy, cross_entropy_grad
from tinyconv.kernels.cpu.heap import keep_freed_memory
from tinyconv.kernels.cpu.norm import normalise, normalise_grad
from tinyconv.kernels.cpu.pool import adaptive_max_pool, avg_pool, avg_pool_input, max_pool, scatter_windows
from tinyconv.kernels.cpu.resample import resample
from tinyconv.kernels.cpu.sample import corners, sample, sample_input, sample_weight
from tinyconv.kernels.cpu.softmax import softmax, softmax_grad
from tinyconv.kernels.cpu.update import adam_step, rmsprop_step, sgd_step
from tinyconv.kernels.cpu.watch import watch

keep_freed_memory()
threads.watch = watch
