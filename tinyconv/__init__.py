"""tinyconv: a deep learning engine to read, step through and train with."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np

from tinyconv import amp as amp
from tinyconv import methods as _methods  # gives Tensor its operators
from tinyconv.autograd import (
    Function,
    Tensor,
    backward,
    detect_anomaly,
    enable_grad,
    grad,
    gradcheck,
    gradgradcheck,
    is_grad_enabled,
    no_grad,
    set_grad_enabled,
)
from tinyconv.autograd.device import device
from tinyconv.kernels import use_kernels
from tinyconv.kernels.threads import get_num_threads, set_num_threads
from tinyconv.ops.activation import erf
from tinyconv.ops.broadcast import expand
from tinyconv.ops.clamp import clamp, masked_fill
from tinyconv.ops.compare import (
    eq,
    ge,
    gt,
    isfinite,
    isinf,
    isnan,
    le,
    logical_and,
    logical_not,
    logical_or,
    logical_xor,
    lt,
    ne,
)
from tinyconv.ops.convert import as_tensor, clone
from tinyconv.ops.create import arange, eye, from_dlpack, from_numpy, full, linspace, ones, rand, randn, tensor, zeros
from tinyconv.ops.elementwise import (
    abs,
    add,
    ceil,
    cos,
    div,
    exp,
    expm1,
    floor,
    floor_divide,
    log,
    log1p,
    maximum,
    minimum,
    mul,
    neg,
    ones_like,
    pow,
    reciprocal,
    remainder,
    round,
    rsqrt,
    sigmoid,
    sign,
    sin,
    sqrt,
    square,
    sub,
    tan,
    tanh,
    trunc,
    where,
    zeros_like,
)
from tinyconv.ops.matmul import einsum, matmul
from tinyconv.ops.random import get_rng_state, manual_seed, set_rng_state
from tinyconv.ops.reduce import (
    all,
    amax,
    amin,
    any,
    argmax,
    argmin,
    cumsum,
    logsumexp,
    max,
    mean,
    min,
    norm,
    prod,
    std,
    sum,
    var,
)
from tinyconv.ops.shape import (
    cat,
    chunk,
    flatten,
    flip,
    gather,
    index_select,
    movedim,
    narrow,
    permute,
    repeat,
    reshape,
    roll,
    scatter_add,
    split,
    squeeze,
    stack,
    transpose,
    unbind,
    unsqueeze,
)

__version__ = "0.1.0"

float16, float32, float64 = np.dtype(np.float16), np.dtype(np.float32), np.dtype(np.float64)
uint8, int8, int16, int32, int64 = (np.dtype(t) for t in (np.uint8, np.int8, np.int16, np.int32, np.int64))
bool = np.dtype(np.bool_)

#: Rooms that are imported at first use, so that ``import tinyconv`` stays quick.
_ROOMS = (
    "cuda",
    "data",
    "explain",
    "functional",
    "imaging",
    "io",
    "metrics",
    "models",
    "nn",
    "optim",
    "training",
    "transfer",
)


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return import_module(f"tinyconv.{name}")
    raise AttributeError(f"module 'tinyconv' has no attribute {name!r}")
