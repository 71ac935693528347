"""The receptive field of a network: which pixels one output unit sees, read off the tape of a forward pass."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from tinyconv import geometry, nn
from tinyconv.autograd import Function, Tensor, enable_grad
from tinyconv.geometry import ReceptiveField, Sizes
from tinyconv.ops.conv import Conv
from tinyconv.ops.fold import Unfold
from tinyconv.ops.pool import AvgPool, MaxPool

_SELF = ReceptiveField(1, 1, 0)  # a pixel sees itself
_NOTHING = ReceptiveField(0, 1, 0)  # a parameter sees no pixel


def receptive_field(
    layers: nn.Module | Iterable[tuple[int, int, int, int]], input_shape: Sizes | None = None, axis: int = 0
) -> ReceptiveField:
    """size, stride and padding of what one output unit sees, and ``centre(o)``, on one spatial axis.

        r <- s r + d(k-1) + 1 - s,   S <- s S,   P <- s P + p     from the last layer to the first

    ``layers``: (kernel, stride, padding, dilation) of each, first layer first; or a network that makes images of images
    (its convolutional part), with ``input_shape`` (N, C, *I), which is run on zeros. Where branches meet, their fields
    are joined. Source: Araujo, Norris and Sim, "Computing receptive fields of convolutional neural networks", 2019.

    >>> receptive_field([(3, 1, 1, 1), (2, 2, 0, 1)])
    ReceptiveField(size=4, stride=2, padding=1)
    """
    if not isinstance(layers, nn.Module):
        return geometry.receptive_field(layers)
    if input_shape is None:
        raise ValueError("receptive_field: a network needs input_shape, e.g. input_shape=(1, 3, 224, 224).")
    x = Tensor(np.zeros(input_shape, np.float32), requires_grad=True)
    y = run_quietly(layers, x)
    field = field_on_tape(y, x, axis, {})
    if field is None:
        raise ValueError(
            f"receptive_field: {type(layers).__name__} does not end in windows on its input alone: a unit behind "
            "flatten, a linear layer, a mean or a transposed convolution has no field of one size. Give its "
            "convolutional part."
        )
    return field


def run_quietly(model: nn.Module, x: Tensor) -> Any:
    """``model(x)`` as in evaluation, on the tape, with every module's mode as before."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with enable_grad():
            return model(x)
    finally:
        for module in training:
            module.training = True


def field_on_tape(y: Tensor, x: Tensor, axis: int, known: dict[int, ReceptiveField | None]) -> ReceptiveField | None:
    """The field of ``y`` in the leaf ``x``; None where it does not depend on it by windows alone.

    A node that keeps the spatial sizes is taken for one that acts pixel by pixel. ``known`` remembers the nodes.
    """
    if y is x:
        return _SELF
    if y.grad_fn is None:
        return None
    known[id(x)] = _SELF
    waiting: list[Function] = [y.grad_fn]
    while waiting:
        node = waiting[-1]
        sources = [edge[0] for edge in node.edges if edge is not None and _leads(edge[0], x)]
        unknown = [source for source in sources if id(source) not in known]
        if unknown:
            waiting.extend(unknown)
            continue
        waiting.pop()
        known[id(node)] = _through(node, sources, [known[id(source)] for source in sources], axis)
    field = known[id(y.grad_fn)]
    return None if field is _NOTHING else field


def _leads(source: Any, x: Tensor) -> bool:
    """A node, or the input itself; a parameter leads nowhere."""
    return source is x or isinstance(source, Function)


def _through(
    node: Function, sources: list[Any], fields: list[ReceptiveField | None], axis: int
) -> ReceptiveField | None:
    """The field behind one node of those before it."""
    pairs = [(source, field) for source, field in zip(sources, fields) if field is not _NOTHING]
    seen = [field for _, field in pairs if field is not None]
    if len(seen) < len(pairs):
        return None
    if not seen:
        return _NOTHING
    if isinstance(node, Conv | MaxPool | AvgPool | Unfold):
        g = node.g
        layer = (g.kernel[axis], g.stride[axis], g.padding[axis][0], g.dilation[axis])
        return geometry.receptive_field([_as_layer(seen[0]), layer])
    size = node.outputs[0][0][2:]
    if not size or any(_shape(source)[2:] != size for source, _ in pairs):
        return None
    return _join(seen)


def _as_layer(field: ReceptiveField) -> tuple[int, int, int, int]:
    """A chain of layers sees what one layer of this kernel, stride and padding sees."""
    return (field.size, field.stride, field.padding, 1)


def _shape(source: Any) -> Sizes:
    return source.shape if isinstance(source, Tensor) else source.outputs[0][0]


def _join(fields: list[ReceptiveField]) -> ReceptiveField | None:
    """The smallest field that holds all of them; None where their strides differ."""
    if len({field.stride for field in fields}) > 1:
        return None
    padding = max(field.padding for field in fields)
    return ReceptiveField(max(field.size - field.padding for field in fields) + padding, fields[0].stride, padding)
