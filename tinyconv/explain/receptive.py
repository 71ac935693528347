"""The receptive field of a network: which pixels one output unit sees, read off the tape of a forward pass."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tinyconv import geometry, nn
from tinyconv.autograd import Function, Tensor, enable_grad
from tinyconv.geometry import PhasedField, ReceptiveField, Sizes
from tinyconv.ops.conv import Conv, ConvInput
from tinyconv.ops.create import zeros
from tinyconv.ops.fold import Unfold
from tinyconv.ops.pool import AvgPool, MaxPool

_SELF = PhasedField()  # a pixel sees itself
_NOTHING = PhasedField((None,))  # a parameter sees no pixel


def receptive_field(
    layers: nn.Module | Iterable[tuple[int, int, int, int]], input_shape: Sizes | None = None, axis: int = 0
) -> ReceptiveField | PhasedField:
    """size, stride and padding of what one output unit sees, and ``centre(o)``, on one spatial axis.

        r <- s r + d(k-1) + 1 - s,   S <- s S,   P <- s P + p     from the last layer to the first

    ``layers``: (kernel, stride, padding, dilation) of each, first layer first; or a network that makes images of images
    (its convolutional part), with ``input_shape`` (N, C, *I), which is run on zeros. Where branches meet, their fields
    are joined. Source: Araujo, Norris and Sim, "Computing receptive fields of convolutional neural networks", 2019.

    A transposed convolution goes the other way: a unit behind it sees ceil(k / s) units at most, how many and which
    depends on its place in the stride, and S <- S / s. The result then is a :class:`~tinyconv.geometry.PhasedField`,
    whose ``size`` is that of the largest region, and ``pixels(o)`` the region of one unit.

    >>> receptive_field([(3, 1, 1, 1), (2, 2, 0, 1)])
    ReceptiveField(size=4, stride=2, padding=1)
    """
    if not isinstance(layers, nn.Module):
        return geometry.receptive_field(layers)
    if input_shape is None:
        raise ValueError("receptive_field: a network needs input_shape, e.g. input_shape=(1, 3, 224, 224).")
    x = zeros_for(layers, input_shape)
    y = run_quietly(layers, x)
    field = field_on_tape(y, x, axis, {})
    if field is None:
        raise ValueError(
            f"receptive_field: {type(layers).__name__} does not end in windows on its input alone: a unit behind "
            "flatten, a linear layer, a mean or a resizing has no field of one size. Give its convolutional part."
        )
    span, *others = field.spans
    return field if others or span is None else ReceptiveField(span[1] - span[0] + 1, field.advance, -span[0])


def zeros_for(model: nn.Module, shape: Sizes) -> Tensor:
    """An input of float32 zeros on the device of the model."""
    device = next((p.device for p in model.parameters()), "cpu")
    return zeros(shape, requires_grad=True, device=device)


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


def field_on_tape(y: Tensor, x: Tensor, axis: int, known: dict[int, PhasedField | None]) -> PhasedField | None:
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


def _through(node: Function, sources: list[Any], fields: list[PhasedField | None], axis: int) -> PhasedField | None:
    """The field behind one node of those before it."""
    pairs = [(source, field) for source, field in zip(sources, fields) if field is not _NOTHING]
    seen = [field for _, field in pairs if field is not None]
    if len(seen) < len(pairs):
        return None
    if not seen:
        return _NOTHING
    if isinstance(node, Conv | ConvInput | MaxPool | AvgPool | Unfold):
        g, field = node.g, seen[0]
        through = field.transposed if isinstance(node, ConvInput) else field.window
        return through(g.kernel[axis], g.stride[axis], g.padding[axis][0], g.dilation[axis])
    size = node.outputs[0][0][2:]
    if not size or any(_shape(source)[2:] != size for source, _ in pairs):
        return None
    joined: PhasedField | None = seen[0]
    for field in seen[1:]:
        joined = None if joined is None else joined.joined(field)
    return joined


def _shape(source: Any) -> Sizes:
    return source.shape if isinstance(source, Tensor) else source.outputs[0][0]
