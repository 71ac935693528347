"""Which pixels decide a trained network's score: saliency, guided backpropagation, Grad-CAM, occlusion.

All run the network as in evaluation, leave its modes and gradients as they were, and give NumPy arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from itertools import product
from typing import Any, TypeAlias

import numpy as np

from tinyconv import functional as F
from tinyconv import nn
from tinyconv.autograd import Function, Tensor, grad, no_grad
from tinyconv.autograd.dtypes import is_float
from tinyconv.explain.receptive import run_quietly
from tinyconv.geometry import Size, as_axes
from tinyconv.kernels.arrays import Array, array_module
from tinyconv.ops.activation import Activation, Relu
from tinyconv.ops.convert import as_tensor

Target: TypeAlias = "int | Sequence[int] | None"
_MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}


def saliency(model: nn.Module, x: Any, target: Target = None) -> Array:
    """m[n, i] = max over c of |dS_n / dx[n, c, i]|: how much each pixel moves the score; (N, *I).

    ``x`` (N, C, *I). S_n: score of class ``target`` (one for all, or one an image; by default the one with the largest
    score) in the model's output (N, K), before a softmax; of maps (N, K, *O) the sum over the pixels. ValueError: an
    output of another form, a class that is not there. TypeError: an image that is no float.
    Source: Simonyan, Vedaldi and Zisserman, "Deep inside convolutional networks", 2013, section 3.1.
    """
    return np.abs(_gradient("saliency", model, x, target, guided=False)).max(1)


def guided_backpropagation(model: nn.Module, x: Any, target: Target = None) -> Array:
    """dS_n / dx, (N, C, *I), where every ReLU also stops negative gradients: x' = g where y > 0 and g > 0, else 0.

    Shows finer lines than :func:`saliency`, but is no derivative, and depends little on the class. Works for ReLU and
    ReLU6, as modules or functions. ValueError also for a network without them. Arguments: see :func:`saliency`.
    Source: Springenberg et al., "Striving for simplicity: the all convolutional net", 2014, figure 1.
    """
    return _gradient("guided_backpropagation", model, x, target, guided=True)


def grad_cam(model: nn.Module, x: Any, target: Target = None, *, layer: str) -> Array:
    """Heat maps (N, *I) of the image's size: where the maps of ``layer`` speak for the class.

        L = relu(sum over k of a_k A_k),   a_k = mean over the pixels of dS / dA_k

    A (N, K, *O): output of the layer with that name in ``model.named_modules()``, e.g. "layer4"; of a layer that is
    called more than once, of the last call. L is enlarged linearly to the image. Arguments: see :func:`saliency`.
    ValueError also for a layer that is not there or not run, and for an output without spatial axes.
    Source: Selvaraju et al., "Grad-CAM: visual explanations from deep networks via gradient-based localization", 2017.
    """
    images = _images("grad_cam", x)
    y, maps = _run("grad_cam", model, images, layer)
    (slope,) = grad(y, maps, _cotangent(y, _classes("grad_cam", y, target)))
    assert slope is not None
    weight = slope.data.mean(axis=tuple(range(2, maps.ndim)), keepdims=True)  # (N, K, 1, 1)
    with no_grad():
        heat = F.relu(Tensor((weight * maps.data).sum(axis=1, keepdims=True)))  # (N, 1, *O)
        heat = F.interpolate(heat, images.shape[2:], mode=_MODES[images.ndim - 2], align_corners=False)
    return heat.to("cpu").data[:, 0]


def occlusion(
    model: nn.Module, x: Any, target: Target = None, *, size: Size, stride: Size = 1, value: float = 0.0
) -> Array:
    """How much the score falls where a patch hides the image: (N, *I), the mean over all patches on each pixel.

        h[n, i] = mean over the patches that cover i of  S_n(x) - S_n(x with the patch set to value)

    Patches of ``size`` pixels every ``stride`` pixels, and one more at the far border where they do not reach it.
    A stride above the size leaves pixels out: ValueError, as for a patch larger than the image. Other arguments: see
    :func:`saliency`. Costs one run of the model a patch. Source: Zeiler and Fergus, "Visualizing and understanding
    convolutional networks", 2013, section 4.2.
    """
    images = _images("occlusion", x)
    spatial = images.shape[2:]
    sides = as_axes("occlusion", "size", size, len(spatial), least=1)
    steps = as_axes("occlusion", "stride", stride, len(spatial), least=1)
    if any(side > n or step > side for n, side, step in zip(spatial, sides, steps)):
        raise ValueError(
            f"occlusion: size must be at most the image's and stride at most size, but the image has {spatial}, "
            f"size={size} and stride={stride}."
        )
    with no_grad():
        y = _scores("occlusion", run_quietly(model, images.detach()))
        classes = _classes("occlusion", y, target)
        before = _of_class(y, classes)
        total, count = np.zeros((images.shape[0], *spatial), before.dtype), np.zeros(spatial, int)
        starts = [sorted({*range(0, n - side, step), n - side}) for n, side, step in zip(spatial, sides, steps)]
        for corner in product(*starts):
            patch = tuple(slice(first, first + side) for first, side in zip(corner, sides))
            hidden = images.data.copy()
            hidden[(..., *patch)] = value
            fall = before - _of_class(run_quietly(model, Tensor(hidden)), classes)
            total[(slice(None), *patch)] += fall.reshape(-1, *(1,) * len(spatial))
            count[patch] += 1
    return total / count.astype(total.dtype)


def feature_maps(model: nn.Module, x: Any, layer: str) -> Array:
    """The output (N, K, *O) of the layer with that name for images ``x``; ValueError: see :func:`grad_cam`."""
    return _run("feature_maps", model, _images("feature_maps", x), layer)[1].detach().to("cpu").data


# --------------------------------------------------------------------------------------------------
# Running


def _images(op: str, x: Any) -> Tensor:
    """A leaf that wants a gradient, so that all that depends on it is on the tape, also in a frozen network."""
    given = as_tensor(x, op, "x")
    if not is_float(given.dtype):
        raise TypeError(f"{op}: x must be a float array, for it is differentiated, but is {given.dtype}.")
    if given.ndim not in (3, 4, 5):
        mend = " One image: x[None]." if given.ndim == 2 else ""
        raise ValueError(f"{op}: x must be (N, C, *I) with one to three spatial axes, but has {given.shape}.{mend}")
    return Tensor(given.data, requires_grad=True)


def _run(op: str, model: nn.Module, images: Tensor, layer: str) -> tuple[Tensor, Tensor]:
    """The model's output and that of the layer, both on the tape."""
    names = [name for name, _ in model.named_modules() if name]
    try:
        wanted = model.get_submodule(layer)
    except AttributeError:
        near = get_close_matches(layer, names, n=4, cutoff=0.5) or names
        raise ValueError(
            f"{op}: {type(model).__name__} has no layer {layer!r}. Did you mean one of: {', '.join(near)}?"
        ) from None
    outputs: dict[nn.Module, Tensor] = {}

    def note(module: nn.Module, args: tuple[Any, ...], result: Any) -> None:
        outputs[module] = result[0] if isinstance(result, tuple) else result

    handles = [module.register_forward_hook(note) for module in model.modules()]
    try:
        y = run_quietly(model, images)
    finally:
        for handle in handles:
            handle.remove()
    spatial = [name for name in names if (m := outputs.get(model.get_submodule(name))) is not None and m.ndim > 2]
    mend = f" The last layer that has maps is {spatial[-1]!r}." if spatial else ""
    if wanted not in outputs:
        raise ValueError(f"{op}: layer {layer!r} is not called when {type(model).__name__} is evaluated.{mend}")
    if outputs[wanted].ndim < 3:
        raise ValueError(
            f"{op}: the output of {layer!r} has shape {outputs[wanted].shape}, without spatial axes.{mend}"
        )
    return y, outputs[wanted]


def _gradient(op: str, model: nn.Module, x: Any, target: Target, guided: bool) -> Array:
    images = _images(op, x)
    y = run_quietly(model, images)
    cotangent = _cotangent(y, _classes(op, y, target))
    if guided and not _guide(y):
        raise ValueError(
            f"{op}: {type(model).__name__} has no ReLU, so the result would be the plain gradient. Use saliency."
        )
    (found,) = grad(y, images, cotangent)
    assert found is not None
    return found.to("cpu").data


def _guide(y: Tensor) -> int:
    """Let the ReLUs on the tape behind ``y`` stop negative gradients; their number. The tape is walked once."""
    waiting, seen, count = [y.grad_fn], {id(y.grad_fn)}, 0
    while waiting:
        node = waiting.pop()
        clipped = isinstance(node, Activation) and node.kind == "hardtanh" and node.parameters[0] == 0
        if isinstance(node, Relu) or clipped:
            node.hooks = {0: [F.relu]}
            count += 1
        for edge in node.edges if node is not None else ():
            if edge is not None and isinstance(edge[0], Function) and id(edge[0]) not in seen:
                seen.add(id(edge[0]))
                waiting.append(edge[0])
    return count


# --------------------------------------------------------------------------------------------------
# Scores


def _scores(op: str, y: Any) -> Tensor:
    if not isinstance(y, Tensor) or y.ndim < 2:
        found = f"has shape {y.shape}" if isinstance(y, Tensor) else f"is a {type(y).__name__}"
        raise ValueError(f"{op}: the model's output must be class scores (N, K) or maps (N, K, *O), but {found}.")
    return y


def _classes(op: str, y: Any, target: Target) -> Array:
    """The class of each image: (N,)"""
    scores = _scores(op, y).detach().to("cpu").data
    number, classes = scores.shape[:2]
    if target is None:
        return scores.reshape(number, classes, -1).sum(2).argmax(1)
    chosen = np.asarray(target)
    if chosen.dtype.kind not in "iu" or chosen.shape not in ((), (number,)):
        raise ValueError(f"{op}: target must be a class or one for each of {number} images, but is {target!r}.")
    if chosen.min(initial=0) < 0 or chosen.max(initial=0) >= classes:
        raise ValueError(f"{op}: target must be one of the classes 0 to {classes - 1}, but is {target!r}.")
    return np.broadcast_to(chosen, number)


def _cotangent(y: Tensor, classes: Array) -> Tensor:
    """1 at the scores of each image's class, else 0: what weighs y so that the sum of all S_n is differentiated."""
    xp = array_module(y.data)
    weight = xp.zeros_like(y.data)
    weight[xp.arange(len(classes)), xp.asarray(classes)] = 1
    return Tensor(weight)


def _of_class(y: Tensor, classes: Array) -> Array:
    """S_n: (N,)"""
    scores = y.detach().to("cpu").data
    return scores.reshape(*scores.shape[:2], -1).sum(2)[np.arange(len(classes)), classes]
