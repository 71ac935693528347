"""Losses: how far a prediction is from its target, one number an element, reduced to their mean or sum.

``reduction``: 'none' leaves the elements, 'mean' averages them, 'sum' adds them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinyconv import kernels
from tinyconv.autograd import Function, Tensor
from tinyconv.autograd.gpu import one_device, require
from tinyconv.autograd.tensor import Array
from tinyconv.kernels.arrays import array_module
from tinyconv.ops.activation import log_softmax, logsigmoid, softmax
from tinyconv.ops.clamp import clamp
from tinyconv.ops.convert import as_tensor
from tinyconv.ops.elementwise import abs as absolute
from tinyconv.ops.elementwise import exp, log, log1p, sqrt, where
from tinyconv.ops.mixed import in_float32
from tinyconv.ops.operands import common_shape
from tinyconv.ops.reduce import norm
from tinyconv.ops.shape import axis_of, take_along
from tinyconv.ops.windows import require_float


def _check_reduction(op: str, reduction: str, *further: str) -> None:
    legal = ("none", "mean", "sum", *further)
    if reduction not in legal:
        raise ValueError(f"{op}: reduction must be one of {', '.join(map(repr, legal))}, but is {reduction!r}.")


def _reduced(op: str, loss: Tensor, reduction: str) -> Tensor:
    _check_reduction(op, reduction)
    if reduction == "none":
        return loss
    return loss.mean() if reduction == "mean" else loss.sum()


def _pair(op: str, input: Any, target: Any, name: str = "target") -> tuple[Tensor, Tensor]:
    """Two float tensors of one shape. Broadcasting (N, 1) with (N,) would compare every pair, so it is refused."""
    x, t = require_float(op, "input", input), require_float(op, name, target)
    if x.shape != t.shape:
        raise ValueError(
            f"{op}: {name} must have the input's shape {x.shape}, but has {t.shape}. Use reshape, or expand if you "
            f"mean it."
        )
    return x, t


# --------------------------------------------------------------------------------------------------
# Distances


@in_float32
def mse_loss(input: Tensor, target: Tensor, *, reduction: str = "mean") -> Tensor:
    """(input - target)^2. Equal shapes."""
    x, t = _pair("mse_loss", input, target)
    d = x - t
    return _reduced("mse_loss", d * d, reduction)


@in_float32
def l1_loss(input: Tensor, target: Tensor, *, reduction: str = "mean") -> Tensor:
    """|input - target|. Equal shapes. The derivative at 0 is 0."""
    x, t = _pair("l1_loss", input, target)
    return _reduced("l1_loss", absolute(x - t), reduction)


@in_float32
def smooth_l1_loss(input: Tensor, target: Tensor, *, reduction: str = "mean", beta: float = 1.0) -> Tensor:
    """d^2 / (2 beta) where |d| < beta, else |d| - beta/2, with d = input - target. Equal shapes.

    Source: Girshick, ICCV 2015, equation 3.
    """
    if beta < 0:
        raise ValueError(f"smooth_l1_loss: beta must not be negative, but is {beta}.")
    if beta == 0:
        return l1_loss(input, target, reduction=reduction)
    x, t = _pair("smooth_l1_loss", input, target)
    d = x - t
    size = absolute(d)
    return _reduced("smooth_l1_loss", where(size < beta, d * d * (0.5 / beta), size - 0.5 * beta), reduction)


@in_float32
def huber_loss(input: Tensor, target: Tensor, reduction: str = "mean", delta: float = 1.0) -> Tensor:
    """d^2 / 2 where |d| <= delta, else delta (|d| - delta/2), with d = input - target. Equal shapes.

    Source: Huber, Annals of Mathematical Statistics 35, 1964.
    """
    if delta <= 0:
        raise ValueError(f"huber_loss: delta must be positive, but is {delta}.")
    x, t = _pair("huber_loss", input, target)
    d = x - t
    size = absolute(d)
    return _reduced("huber_loss", where(size <= delta, d * d * 0.5, (size - 0.5 * delta) * delta), reduction)


@in_float32
def cosine_similarity(x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    """<x1, x2> / (max(||x1||, eps) max(||x2||, eps)) along ``dim``. Shapes broadcast; ``dim`` disappears."""
    a, b = require_float("cosine_similarity", "x1", x1), require_float("cosine_similarity", "x2", x2)
    if eps < 0:
        raise ValueError(f"cosine_similarity: eps must not be negative, but is {eps}.")
    shape = common_shape("cosine_similarity", a.shape, b.shape)
    a, b, axis = a.expand(shape), b.expand(shape), axis_of("cosine_similarity", dim, len(shape))
    length_a, length_b = (clamp(norm(v, 2, axis, keepdim=True), min=eps) for v in (a, b))
    return ((a / length_a) * (b / length_b)).sum(axis)


@in_float32
def cosine_embedding_loss(
    input1: Tensor, input2: Tensor, target: Tensor, margin: float = 0.0, *, reduction: str = "mean"
) -> Tensor:
    """1 - cos(input1, input2) where target = 1, max(0, cos - margin) where target = -1.

    input1, input2 (N, D) or (D,); target (N,) or (). 1e-12 is added to the squared lengths.
    """
    a, b = _pair("cosine_embedding_loss", input1, input2, "input2")
    t = as_tensor(target, "cosine_embedding_loss", "target")
    if a.ndim not in (1, 2) or t.shape != a.shape[:-1]:
        raise ValueError(
            f"cosine_embedding_loss: inputs must be (N, D) with target (N,), or (D,) with target (), but have the "
            f"shapes "
            f"{a.shape} and {t.shape}."
        )
    cosine = (a * b).sum(-1) / sqrt(((a * a).sum(-1) + 1e-12) * ((b * b).sum(-1) + 1e-12))
    apart = where(t == -1, clamp(cosine - margin, min=0), 0.0)
    return _reduced("cosine_embedding_loss", where(t == 1, 1 - cosine, apart), reduction)


@in_float32
def kl_div(input: Tensor, target: Tensor, *, reduction: str = "mean", log_target: bool = False) -> Tensor:
    """target (log target - input): the Kullback-Leibler divergence, with input already a logarithm. Equal shapes.

    ``log_target``: target is a logarithm too. Further reduction 'batchmean': the sum over the batch size, which is what
    the definition means ('mean' divides by the number of elements).
    """
    _check_reduction("kl_div", reduction, "batchmean")
    x, t = _pair("kl_div", input, target)
    if log_target:
        loss = exp(t) * (t - x)
    else:
        loss = t * log(where(t == 0, 1.0, t)) - t * x  # 0 log 0 = 0
    if reduction == "batchmean":
        return loss.sum() / (x.shape[0] if x.ndim else 1)
    return _reduced("kl_div", loss, reduction)


# --------------------------------------------------------------------------------------------------
# Yes or no


class BinaryCrossEntropy(Function):
    """-(t log x + (1 - t) log(1 - x)), logarithms at least -100;  d/dx = (x - t) / max(x (1 - x), 1e-12)"""

    saves = (0, 1)

    def forward(self, x: Array, t: Array) -> Array:
        xp = array_module(x)
        floor = x.dtype.type(-100)
        return (t - 1) * xp.maximum(xp.log1p(-x), floor) - t * xp.maximum(xp.log(x), floor)

    def backward(self, g: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, t = self.saved_inputs
        by_x = g * (x - t) / clamp(x * (1 - x), min=1e-12) if self.needs_grad(0) else None
        by_t = g * (clamp(log1p(-x), min=-100) - clamp(log(x), min=-100)) if self.needs_grad(1) else None
        return by_x, by_t


def _weighted(op: str, loss: Tensor, weight: Tensor | None, name: str = "weight") -> Tensor:
    """weight * loss, where the weight broadcasts to the loss and not the reverse."""
    if weight is None:
        return loss
    y = loss * weight
    if y.shape != loss.shape:
        raise ValueError(f"{op}: {name} of shape {weight.shape} does not broadcast to the input's shape {loss.shape}.")
    return y


def binary_cross_entropy(
    input: Tensor, target: Tensor, weight: Tensor | None = None, *, reduction: str = "mean"
) -> Tensor:
    """-weight (target log input + (1 - target) log(1 - input)), input and target in [0, 1], equal shapes.

    Logarithms are cut at -100, so that a certain and wrong prediction costs 100 and not infinity.
    """
    x, t = _pair("binary_cross_entropy", input, target)
    if x.dtype != t.dtype:
        raise TypeError(f"binary_cross_entropy: target must have the input's dtype {x.dtype}, but is {t.dtype}.")
    require(
        ((x.data >= 0) & (x.data <= 1)).all(),
        lambda: ValueError(
            "binary_cross_entropy: input must lie in [0, 1]. Use sigmoid first, or binary_cross_entropy_with_logits."
        ),
    )
    loss: Tensor = BinaryCrossEntropy()(x, t)
    return _reduced("binary_cross_entropy", _weighted("binary_cross_entropy", loss, weight), reduction)


@in_float32
def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
) -> Tensor:
    """-weight (pos_weight target log s + (1 - target) log(1 - s)), s = sigmoid(input), exact for any magnitude.

    Equal shapes; ``weight`` and ``pos_weight`` broadcast. ``pos_weight`` above 1 makes a missed positive dearer.
    """
    x, t = _pair("binary_cross_entropy_with_logits", input, target)
    positive = logsigmoid(x)
    if pos_weight is not None:
        dearer = (as_tensor(pos_weight, "binary_cross_entropy_with_logits", "pos_weight") - 1) * t + 1
        positive = _weighted("binary_cross_entropy_with_logits", positive, dearer, "pos_weight")
    loss = (1 - t) * x - positive
    loss = _weighted("binary_cross_entropy_with_logits", loss, weight)
    return _reduced("binary_cross_entropy_with_logits", loss, reduction)


# --------------------------------------------------------------------------------------------------
# One of many classes


class CrossEntropy(Function):
    """y = -f log softmax(x)[t] for an input (N, C, L), classes t and factors f, both (N, L); 0 where not ``valid``.

    Between forward and backward only x and two numbers a pixel are held.
    """

    saves = (0,)

    def __init__(self, target: Array, factor: Array, valid: Array) -> None:
        self.target, self.factor, self.valid = target, factor, valid

    def forward(self, x: Array) -> Array:
        loss, top, log_sum = kernels.cross_entropy(x, self.target, self.factor, self.valid)
        self.kept = (top, log_sum)
        return loss

    def backward(self, g: Tensor) -> Tensor:
        (x,) = self.saved_inputs
        result: Tensor = CrossEntropyGrad(self.target, self.factor, self.valid, self.kept)(x, g)
        return result


class CrossEntropyGrad(Function):
    """dx = f g (softmax(x) - onehot(t)), in one array; 0 where not ``valid``, also if g is NaN (a mean of nothing)"""

    saves = (0, 1)

    def __init__(self, target: Array, factor: Array, valid: Array, kept: tuple[Array, ...]) -> None:
        self.target, self.factor, self.valid, self.kept = target, factor, valid, kept

    def forward(self, x: Array, g: Array) -> Array:
        top, log_sum = self.kept
        return kernels.cross_entropy_grad(g, x, self.target, self.factor, self.valid, top, log_sum)

    def backward(self, v: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, g = self.saved_inputs
        p, factor = softmax(x, 1), Tensor.wrap(self.factor)
        pv = p * v
        by_x = by_g = None
        if self.needs_grad(0):
            scale = where(Tensor.wrap(self.valid), g * factor, 0.0)
            by_x = scale.unsqueeze(1) * (pv - p * pv.sum(1, keepdim=True))
        if self.needs_grad(1):
            by_g = factor * (pv.sum(1) - take_along(v, 1, Tensor.wrap(self.target[:, None])).squeeze(1))
        return by_x, by_g


def _classes(op: str, x: Tensor, target: Any, ignore_index: int | None) -> tuple[Tensor, Array, Array]:
    """Input as (N, C, L), target as (N, L) with 0 where ignored, and where it is not: all checked."""
    t = as_tensor(target, op, "target")
    one_device(op, x, t)
    if t.dtype.kind not in "iu":
        raise TypeError(f"{op}: target must hold class numbers (integers), but is {t.dtype}. Use target.to(int64).")
    if x.ndim == 0:
        raise ValueError(f"{op}: input must be (N, C, ...) or (C,), but is 0-d.")
    expected = (x.shape[0], *x.shape[2:]) if x.ndim > 1 else ()
    if t.shape != expected:
        raise ValueError(
            f"{op}: target must have shape {expected}, one class for each prediction of input.shape={x.shape} "
            f"(classes on axis 1), but has {t.shape}."
        )
    classes = x.shape[1] if x.ndim > 1 else x.shape[0]
    if classes == 0:
        raise ValueError(f"{op}: input has no classes (input.shape={x.shape}).")
    batch = x.shape[0] if x.ndim > 1 else 1
    pixels = t.data.size // batch if batch else 0
    flat = t.data.reshape(batch, pixels).astype(np.int64, copy=False)
    valid = flat == flat if ignore_index is None else flat != ignore_index
    right = valid & (flat >= 0) & (flat < classes)

    def wrong() -> IndexError:
        found = int(flat[valid & ~right][0])
        mend = "." if ignore_index is None else f", or pass ignore_index={found} to leave it out."
        return IndexError(
            f"{op}: target holds class {found}, but input has {classes} classes, numbered 0 to {classes - 1}. Relabel "
            f"it{mend}"
        )

    require((right == valid).all(), wrong)
    return x.reshape(batch, classes, pixels), flat * right, valid  # no kernel may see a class that does not exist


def _class_weight(op: str, weight: Any, x: Tensor) -> Tensor | None:
    if weight is None:
        return None
    w = as_tensor(weight, op, "weight")
    one_device(op, x, w)
    classes = x.shape[1] if x.ndim > 1 else x.shape[0]
    if w.shape != (classes,):
        raise ValueError(f"{op}: weight must have shape ({classes},), one for each class, but has {w.shape}.")
    if w.dtype != x.dtype:
        raise TypeError(f"{op}: weight must have the input's dtype {x.dtype}, but is {w.dtype}. Cast one of them.")
    return w


def _factor(x: Tensor, weight: Tensor | None, target: Array, valid: Array) -> Array:
    """The weight of each pixel: that of its class, 0 where ignored. (N, L)"""
    return valid.astype(x.dtype) if weight is None else weight.data[target] * valid


def _weighted_mean(loss: Tensor, factor: Array, reduction: str, shape: tuple[int, ...]) -> Tensor:
    """The reduction of losses (N, L) that contain their factor: 'mean' divides by the sum of the factors."""
    if reduction == "none":
        return loss.reshape(shape)
    total = loss.sum()
    return total if reduction == "sum" else total / Tensor.wrap(factor.sum(keepdims=True).reshape(()))


@in_float32
def nll_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """-weight[target] input[target]: the negative log likelihood of log probabilities, e.g. from log_softmax.

    input (N, C, ...) or (C,), target (N, ...) or () of class numbers, weight (C,). Targets equal to ``ignore_index``
    count nothing. 'mean' divides by the sum of the weights that took part, NaN if none did.
    """
    _check_reduction("nll_loss", reduction)
    x = require_float("nll_loss", "input", input)
    w = _class_weight("nll_loss", weight, x)
    flat, t, valid = _classes("nll_loss", x, target, ignore_index)
    factor = _factor(x, w, t, valid)
    chosen = take_along(flat, 1, Tensor.wrap(t[:, None])).squeeze(1)
    loss = where(Tensor.wrap(valid), -chosen * Tensor.wrap(factor), 0.0)
    return _weighted_mean(loss, factor, reduction, as_tensor(target).shape)


@in_float32
def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """-sum over c of weight[c] q[c] log softmax(input)[c], with q the target distribution.

    input (N, C, ...) or (C,), classes on axis 1. target: class numbers (N, ...) or (), then q = 1 at the target; or
    probabilities of the input's shape. ``label_smoothing`` e mixes q with the uniform one: (1 - e) q + e / C. Targets
    equal to ``ignore_index`` count nothing. 'mean' divides by the sum of weight[target] that took part (NaN if none
    did), for probabilities by the number of predictions. Raises IndexError for a class that does not exist.
    Source of the smoothing: Szegedy et al., CVPR 2016, section 7.
    """
    op = "cross_entropy"
    _check_reduction(op, reduction)
    x, t = require_float(op, "input", input), as_tensor(target, op, "target")
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"{op}: label_smoothing must lie in [0, 1], but is {label_smoothing}.")
    w = _class_weight(op, weight, x)
    if x.ndim and t.shape == x.shape:
        probabilities = require_float(op, "target of the input's shape", t)
        return _soft_cross_entropy(x, probabilities, w, ignore_index, reduction, label_smoothing)
    flat, classes, valid = _classes(op, x, t, ignore_index)
    factor = _factor(x, w, classes, valid)
    loss: Tensor = CrossEntropy(classes, factor, valid)(flat)
    if label_smoothing:
        logs = log_softmax(flat, 1)
        others = (logs if w is None else logs * w.reshape(1, -1, 1)).sum(1) / flat.shape[1]
        loss = loss * (1 - label_smoothing) - where(Tensor.wrap(valid), others * label_smoothing, 0.0)
    return _weighted_mean(loss, factor, reduction, t.shape)


def _soft_cross_entropy(
    x: Tensor, q: Tensor, weight: Tensor | None, ignore_index: int, reduction: str, smoothing: float
) -> Tensor:
    """Cross entropy to target probabilities q of the input's shape."""
    if ignore_index >= 0:
        raise ValueError(
            f"cross_entropy: ignore_index={ignore_index} needs class numbers as target, but target holds probabilities."
        )
    axis = min(1, x.ndim - 1)
    classes = x.shape[axis]
    if smoothing:
        q = q * (1 - smoothing) + smoothing / classes
    terms = log_softmax(x, axis) * q
    if weight is not None:
        terms = terms * weight.reshape(classes, *[1] * (x.ndim - 1 - axis))
    loss = -terms.sum(axis)
    if reduction == "none":
        return loss
    return loss.sum() if reduction == "sum" else loss.sum() / (x.data.size // classes)


@in_float32
def dice_loss(
    input: Tensor,
    target: Tensor,
    *,
    smooth: float = 1e-5,
    batch: bool = False,
    background: bool = True,
    reduction: str = "mean",
) -> Tensor:
    """Soft Dice: 1 - (2 sum p t + smooth) / (sum p + sum t + smooth), sums over space, one value for each image and
    class.

    input (N, C, ...): probabilities p, e.g. softmax(logits, 1). target: class numbers (N, ...), or probabilities (N,
    C, ...).
    ``batch`` sums over the images too, so that a class missing in one image does not count there; ``background=False``
    leaves out class 0. 'none' gives (N, C), or (C,) with ``batch``. A class in neither p nor t costs 0.
    ValueError: shapes that do not fit, classes out of range, an input outside [0, 1], as logits are.
    Source: Milletari, Navab and Ahmadi, 3DV 2016, with plain sums in the denominator as in Drozdzal et al., LABELS
    2016.
    """
    p, t = require_float("dice_loss", "input", input), as_tensor(target, "dice_loss", "target")
    if p.ndim < 2:
        raise ValueError(f"dice_loss: input must be (N, C, ...), but has shape {p.shape}.")
    if t.shape == p.shape:
        y = require_float("dice_loss", "target of the input's shape", t)
    else:
        _, flat, _ = _classes("dice_loss", p, t, None)
        number = array_module(p.data).arange(p.shape[1])[:, None]
        y = Tensor.wrap((flat[:, None] == number).astype(p.dtype).reshape(p.shape))
    if not background:
        p, y = p[:, 1:], y[:, 1:]
    if p.data.size:
        low, high = p.data.min(), p.data.max()
        require(
            ~((low < 0) | (high > 1.001)),  # a softmax may round to a little above 1
            lambda: ValueError(
                f"dice_loss: input must hold probabilities in [0, 1], but runs from {float(low):.4g} to "
                f"{float(high):.4g}. Of logits take softmax(input, 1) or sigmoid(input) first."
            ),
        )
    over = ((0,) if batch else ()) + tuple(range(2, p.ndim))
    both, either = (p * y, p + y) if not over else ((p * y).sum(over), (p + y).sum(over))
    return _reduced("dice_loss", 1 - (both * 2 + smooth) / (either + smooth), reduction)
