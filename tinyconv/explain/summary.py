"""The shapes of a whole network: a table of its layers, measured in one forward pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tinyconv import nn
from tinyconv.autograd import Tensor
from tinyconv.explain.receptive import field_on_tape, run_quietly, zeros_for
from tinyconv.geometry import PhasedField, Sizes

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_HEADS = ("kernel", "stride", "padding", "dilation", "groups")


@dataclass(frozen=True)
class Layer:
    """One call of a layer.

    ``settings``: kernel, stride, padding, dilation and groups, '' where it has none. ``multiply_adds``: one a product,
    those with padding included. ``memory``: bytes of the output. ``field``: size of the receptive field on each axis,
    of the largest one behind a transposed convolution, () behind what sees the whole image.
    """

    name: str
    kind: str
    settings: tuple[str, ...]
    output: Sizes
    parameters: int
    multiply_adds: int
    memory: int
    field: Sizes


@dataclass(frozen=True)
class Summary:
    """The layers in the order of their calls, and the sums; prints as a table."""

    layers: tuple[Layer, ...]
    parameters: int
    multiply_adds: int
    memory: int

    def __str__(self) -> str:
        heads = ("layer", "kind", *_HEADS, "output", "parameters", "multiply-adds", "memory", "field")
        rows = [
            (
                *(layer.name, layer.kind, *layer.settings, _by(layer.output)),
                *(f"{layer.parameters:,}", f"{layer.multiply_adds:,}", _bytes(layer.memory), _by(layer.field)),
            )
            for layer in self.layers
        ]
        sums = (f"{self.parameters:,}", f"{self.multiply_adds:,}", _bytes(self.memory), "")
        table = [heads, *rows, ("sum", *[""] * 7, *sums)]
        widths = [max(len(row[column]) for row in table) for column in range(len(heads))]
        lines = []
        for row in table:
            left = [cell.ljust(width) for cell, width in zip(row[:2], widths)]
            right = [cell.rjust(width) for cell, width in zip(row[2:], widths[2:])]
            lines.append("  ".join([*left, *right]))
        return "\n".join(line.rstrip() for line in lines)


def summary(model: nn.Module, input_shape: Sizes) -> Summary:
    """Table of the layers of ``model`` for an input (N, C, *I) of float32 zeros, in evaluation mode.

    A layer is a module that holds no others; what ``forward`` computes with functions between them has no row, but the
    receptive field goes through it. The sum of parameters counts each once, also those outside of layers.
    """
    x = zeros_for(model, input_shape)
    calls: list[tuple[str, nn.Module, tuple[Any, ...], Any]] = []
    names = {module: name for name, module in model.named_modules() if not list(module.children())}

    def note(module: nn.Module, args: tuple[Any, ...], y: Any) -> None:
        calls.append((names[module], module, args, y))

    handles = [module.register_forward_hook(note) for module in names]
    try:
        run_quietly(model, x)
    finally:
        for handle in handles:
            handle.remove()
    known: list[dict[int, PhasedField | None]] = [{} for _ in input_shape[2:]]
    layers = tuple(_layer(name, module, args[0], y, x, known) for name, module, args, y in calls)
    return Summary(
        layers,
        sum(p.data.size for p in model.parameters()),
        sum(layer.multiply_adds for layer in layers),
        sum(layer.memory for layer in layers),
    )


def _layer(
    name: str, module: nn.Module, given: Tensor, result: Any, x: Tensor, known: list[dict[int, PhasedField | None]]
) -> Layer:
    y: Tensor = result[0] if isinstance(result, tuple) else result
    weight = getattr(module, "weight", None)
    macs = 0
    if weight is not None and weight.ndim >= 2:
        source = given if isinstance(module, _TRANSPOSED) else y
        macs = source.data.size * weight.data[0].size
    fields = [field_on_tape(y, x, axis, seen) for axis, seen in enumerate(known)]
    return Layer(
        name,
        type(module).__name__,
        tuple(_setting(getattr(module, head, getattr(module, f"{head}_size", ""))) for head in _HEADS),
        y.shape,
        sum(p.data.size for p in module.parameters()),
        macs,
        y.data.nbytes,
        tuple(field.size for field in fields if field is not None) if None not in fields else (),
    )


def _setting(value: Any) -> str:
    """3 for (3, 3); 3x1 for (3, 1)"""
    if isinstance(value, tuple | list):
        return str(value[0]) if len(set(value)) == 1 else "x".join(map(str, value))
    return str(value)


def _by(sizes: Sizes) -> str:
    return "x".join(map(str, sizes))


def _bytes(count: int) -> str:
    """With the unit that leaves one to four digits before the point."""
    size, units = float(count), ["B", "KiB", "MiB", "GiB"]
    while size >= 1024 and len(units) > 1:
        size /= 1024
        units.pop(0)
    return f"{size:.0f} {units[0]}" if units[0] == "B" else f"{size:.1f} {units[0]}"
