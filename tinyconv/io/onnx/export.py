"""Networks as ONNX files, which other programs run.

One forward pass is watched: every operator that depends on the input becomes a node, all else a constant. What the
model computes past the operators, from ``x.data``, cannot be seen so. Therefore it is watched a second time, on other
values and one image more: where the two graphs differ, the file would be wrong, or right for one batch size only.
"""

from __future__ import annotations

import os
import warnings
import zlib
from typing import Any

import numpy as np

from tinyconv import nn
from tinyconv.autograd import Function, Tensor
from tinyconv.autograd.dtypes import is_float
from tinyconv.explain.receptive import run_quietly
from tinyconv.io.onnx.export_rules import OPSET, RULES, BatchNormed
from tinyconv.io.onnx.writer import Graph
from tinyconv.nn.norm import _BatchNorm
from tinyconv.ops.convert import as_tensor

_IR = 9  # of 2023: what onnxruntime 1.15 and later reads


def save_onnx(model: nn.Module, x: Any, path: str | os.PathLike[str]) -> None:
    """Write ``model`` as evaluated on inputs of the shape and dtype of ``x``; input "input", output "output".

    Of several outputs the names are "output0", "output1", ... Parameters keep their names, and :func:`load_onnx` reads
    them as such. The first axis is free ("batch") where the model computes the same for another number of images; else
    a warning says what depends on it, and the file is for that of ``x``.

    ValueError: an operator that ONNX has no node for here; a value that depends on the input past the operators (by
    ``x.data``, ``item()``) or on chance; a value changed in place. ImportError: no onnx.
    """
    try:
        import onnx
    except ImportError:
        raise ImportError("save_onnx: ONNX files are written by onnx, which is missing: pip install onnx") from None
    images = Tensor(as_tensor(x, "save_onnx", "x").detach().data)
    graph = _graph(model, images)
    try:
        other = _graph(model, _another(images, 1))
        graph.join(other)
        reason = ""
    except Exception as error:  # whatever a model raises that is made for one number of images
        reason = str(error).removeprefix("save_onnx: ").removesuffix(".")
    if reason:
        other = _graph(model, _another(images, 0))
        graph.join(other)
        warnings.warn(
            f"save_onnx: {os.fspath(path)} is for inputs of shape {images.shape} alone: {reason}.", stacklevel=2
        )
    declared = [
        _declared(name, t, twin, images.shape[:1])
        for name, t, twin in zip(
            ["input", *graph.outputs], [graph.images, *graph.results], [other.images, *other.results]
        )
    ]
    made = onnx.helper.make_graph(
        [*graph.constant_nodes(), *graph.nodes],
        type(model).__name__,
        declared[:1],
        declared[1:],
        [onnx.numpy_helper.from_array(graph.constants[name], name) for name in sorted(graph.weights)],
    )
    opset = onnx.helper.make_opsetid("", OPSET)
    file = onnx.helper.make_model(made, opset_imports=[opset], ir_version=_IR, producer_name="tinyconv")
    onnx.checker.check_model(file, full_check=True)
    onnx.save(file, os.fspath(path))


def _another(images: Tensor, more: int) -> Tensor:
    """Other values of the same kind, ``more`` images more: normal numbers, or whole ones among those given."""
    rng = np.random.default_rng(0)
    size = (images.shape[0] + more, *images.shape[1:]) if images.ndim else ()
    if is_float(images.dtype):
        values = rng.standard_normal(size).astype(images.dtype)
    else:
        values = rng.choice(images.detach().to("cpu").data.reshape(-1), size)
    return Tensor(values).to(images.device)


def _declared(name: str, t: Tensor, twin: Tensor, batch: tuple[int, ...]) -> Any:
    """Name, type and shape of an input or output; a size that differs from the twin's has a name for a size."""
    from onnx import helper

    shape = [
        n if n == m else "batch" if (n,) == batch else f"{name}_{axis}"
        for axis, (n, m) in enumerate(zip(t.shape, twin.shape))
    ]
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(t.dtype), shape)


# --------------------------------------------------------------------------------------------------
# Watching


class _Watch:
    """While it is entered, every application of an operator is noted, in order: (operator, inputs, outputs).

    The notes keep the tensors alive, so that the ids of their arrays stay theirs. A batch norm in evaluation, which is
    four operators here, is noted as one.
    """

    def __init__(self, model: nn.Module) -> None:
        self.calls: list[tuple[Function, tuple[Tensor, ...], tuple[Tensor, ...]]] = []
        self.sums: list[int] = []  # checksums of the results
        self.norms = [m for m in model.modules() if _is_plain_norm(m)]

    def __enter__(self) -> _Watch:
        apply = self.apply = Function.__call__

        def watched(function: Function, *inputs: Tensor) -> Any:
            result = apply(function, *inputs)
            self.note(function, inputs, result if isinstance(result, tuple) else (result,))
            return result

        Function.__call__ = watched  # type: ignore[assignment, method-assign]
        self.begins: list[int] = []
        self.hooks = [m.register_forward_pre_hook(lambda *_: self.begins.append(len(self.calls))) for m in self.norms]
        self.hooks += [m.register_forward_hook(self.norm) for m in self.norms]
        return self

    def __exit__(self, *_: Any) -> None:
        Function.__call__ = self.apply  # type: ignore[method-assign]
        for hook in self.hooks:
            hook.remove()

    def note(self, function: Function, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...]) -> None:
        self.calls.append((function, inputs, outputs))
        self.sums.append(_checksum(outputs[0]))

    def norm(self, module: Any, args: Any, y: Tensor) -> None:
        """In place of what was noted since the norm began, the norm."""
        begin = self.begins.pop()
        if module.training:  # a model may keep a part of it so
            return
        del self.calls[begin:], self.sums[begin:]
        x, mean = args[0], module.running_mean
        ones, zeros = (Tensor(np.full(mean.shape, value, x.dtype)) for value in (1, 0))
        weight, bias = (plain if t is None else t for t, plain in ((module.weight, ones), (module.bias, zeros)))
        self.note(BatchNormed(module.eps), (x, weight, bias, mean, module.running_var), (y,))


def _is_plain_norm(module: nn.Module) -> bool:
    """A batch norm with running statistics, whose forward nobody has changed."""
    changed = type(module).forward is not _BatchNorm.forward or module._pre_hooks or module._hooks
    return isinstance(module, _BatchNorm) and module.running_mean is not None and not changed


def _checksum(t: Tensor) -> int:
    return zlib.crc32(t.detach().to("cpu").data.tobytes())


def _check_unchanged(what: str, t: Tensor, noted: int) -> None:
    """ValueError: somebody has written to the tensor's array since, which no operator shows."""
    if _checksum(t) != noted:
        place = f" at {t.version.place}" if t.version.place else ""
        raise ValueError(
            f"save_onnx: {what}, of shape {t.shape}, is changed in place{place}, which ONNX cannot say. Make a new "
            "tensor there (x = x + 1 for x += 1)."
        )


def _graph(model: nn.Module, images: Tensor) -> Graph:
    """The model run on a copy of the images, watched and written down."""
    images = Tensor(images.data.copy())  # a model may write to what it is given
    given = _checksum(images)
    with _Watch(model) as watch:
        result = run_quietly(model, images)
    graph = Graph(model, images, result if isinstance(result, tuple) else (result,))
    for _, inputs, _ in watch.calls:
        graph.uses.update(id(t.data) for t in inputs)
    for (function, inputs, outputs), noted in zip(watch.calls, watch.sums):
        _check_unchanged(f"the result of {function.name}", outputs[0], noted)
        graph.add(RULES.get(type(function)), function, inputs, outputs)
    _check_unchanged("the input", images, given)
    graph.calls = watch.calls
    graph.finish()
    return graph
