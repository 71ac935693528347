"""The operators as methods of a Tensor: x + y, x.sum(), x[0], numpy.exp(x).

Operators make Tensors and Tensors have operators. This file, one floor above both, closes the circle; the
types are in autograd/tensor.pyi.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from tinyconv.autograd import Function, Tensor, tape
from tinyconv.autograd.mode import switches
from tinyconv.autograd.tensor import Array
from tinyconv.ops import activation, clamp, compare, convert, elementwise, inplace, matmul, reduce, shape
from tinyconv.ops.broadcast import expand

_NAMES = {
    clamp: "clamp masked_fill",
    elementwise: "abs add ceil cos div exp expm1 floor floor_divide log log1p maximum minimum mul "
    "neg pow reciprocal remainder round rsqrt sigmoid sign sin sqrt square sub tan tanh trunc",
    compare: "eq ge gt isfinite isinf isnan le logical_and logical_not logical_or logical_xor lt ne",
    activation: "erf",
    reduce: "all amax amin any argmax argmin cumsum logsumexp max mean min norm prod std sum var",
    shape: "chunk flatten flip gather index_select movedim narrow permute repeat reshape roll scatter_add split "
    "squeeze "
    "transpose unbind unsqueeze",
    inplace: "add_ copy_ div_ fill_ mul_ sub_ zero_",
    convert: "clone cpu cuda to",
    matmul: "matmul",
}
for _module, _listed in _NAMES.items():
    for _name in _listed.split():
        setattr(Tensor, _name, getattr(_module, _name))


def _reflected(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda self, other: function(other, self)


def _or_not_implemented(function: Callable[..., Tensor]) -> Callable[..., Any]:
    """Comparing with something that is no number is left to the other object (x == None is False)."""

    def compare(self: Tensor, other: Any) -> Any:
        if isinstance(other, Tensor | np.ndarray | np.generic | bool | int | float):
            return function(self, other)
        return NotImplemented

    return compare


def _augmented(in_place: Callable[..., Tensor], operator: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """x += y: in place where nothing is recorded; a result on the tape, or one that joins it, is a new tensor."""

    def assign(self: Tensor, other: Any) -> Tensor:
        joins = isinstance(other, Tensor) and other.requires_grad
        leaf = self.requires_grad and self.grad_fn is None
        if not switches.recording or leaf or not (self.requires_grad or joins):
            return in_place(self, other)
        result = convert.cast(operator(self, other), self.dtype)
        if result.shape != self.shape:
            raise ValueError(f"{in_place.__name__}: the result has shape {result.shape}, the tensor {self.shape}.")
        return result

    return assign


_OPERATORS = {
    "add": elementwise.add,
    "sub": elementwise.sub,
    "mul": elementwise.mul,
    "truediv": elementwise.div,
    "floordiv": elementwise.floor_divide,
    "mod": elementwise.remainder,
    "pow": elementwise.pow,
    "matmul": matmul.matmul,
}
for _name, _function in _OPERATORS.items():
    setattr(Tensor, f"__{_name}__", _function)
    setattr(Tensor, f"__r{_name}__", _reflected(_function))
for _name in ("eq", "ne", "lt", "le", "gt", "ge"):
    setattr(Tensor, f"__{_name}__", _or_not_implemented(getattr(compare, _name)))
_OTHERS = {
    "__neg__": elementwise.neg,
    "__abs__": elementwise.abs,
    "__invert__": compare.logical_not,
    "__and__": compare.logical_and,
    "__or__": compare.logical_or,
    "__xor__": compare.logical_xor,
    "__getitem__": shape.getitem,
    "__setitem__": inplace.setitem,
    "__iadd__": _augmented(inplace.add_, elementwise.add),
    "__isub__": _augmented(inplace.sub_, elementwise.sub),
    "__imul__": _augmented(inplace.mul_, elementwise.mul),
    "__itruediv__": _augmented(inplace.div_, elementwise.div),
    "expand": expand,
    "view": shape.reshape,
    "T": property(lambda self: shape.permute(self, tuple(range(self.ndim))[::-1])),
    "mT": property(lambda self: shape.transpose(self, -1, -2)),
    "__float__": lambda self: float(item(self)),
    "__int__": lambda self: int(item(self)),
    "__bool__": lambda self: bool(item(self)),
}
for _name, _attribute in _OTHERS.items():
    setattr(Tensor, _name, _attribute)


def _method(function: Callable[..., Any]) -> Callable[..., Any]:
    """Attach a function of this file to Tensor under its own name."""
    setattr(Tensor, function.__name__, function)
    return function


# --------------------------------------------------------------------------------------------------
# The tape


@_method
def backward(
    self: Tensor, gradient: Tensor | None = None, retain_graph: bool | None = None, create_graph: bool = False
) -> None:
    """Add d(self)/d(leaf), weighted by ``gradient``, to ``leaf.grad`` of every leaf below.

    See :func:`tinyconv.backward`.
    """
    tape.backward(self, gradient, retain_graph, create_graph)


class Handle:
    """What registering a hook returns; ``remove()`` takes the hook off again."""

    def __init__(self, hooks: list[Any], hook: Any) -> None:
        self._hooks, self._hook = hooks, hook

    def remove(self) -> None:
        """Take the hook off; a second time does nothing."""
        if self._hook in self._hooks:
            self._hooks.remove(self._hook)


@_method
def register_hook(self: Tensor, hook: Callable[[Tensor], Tensor | None]) -> Handle:
    """Call ``hook(gradient)`` when the gradient of this tensor is known; what it returns, if not None, takes its
    place.
    """
    if not self.requires_grad:
        raise RuntimeError("register_hook: this tensor requires no gradient, so none will come.")
    if self.grad_fn is None:
        self.hooks = hooks = self.hooks if self.hooks is not None else []
    else:
        node: Function = self.grad_fn
        node.hooks = node.hooks if node.hooks is not None else {}
        hooks = node.hooks.setdefault(self.output_index, [])
    hooks.append(hook)
    return Handle(hooks, hook)


@_method
def retain_grad(self: Tensor) -> None:
    """Keep the gradient of this result in ``.grad``, as leaves do."""
    if self.grad_fn is None:
        return
    reference = weakref.ref(self)  # the hook hangs on the node, which the tensor holds: no cycle

    def keep(g: Tensor) -> None:
        tensor = reference()
        if tensor is not None:
            tensor.grad = convert.clone(g) if tensor.grad is None else tensor.grad + g

    register_hook(self, keep)


@_method
def requires_grad_(self: Tensor, requires_grad: bool = True) -> Tensor:
    """Set whether this leaf requires a gradient, in place."""
    if self.grad_fn is not None and not requires_grad:
        raise RuntimeError("requires_grad_: this is a result, not a leaf. Use detach().")
    self.requires_grad = Tensor(self.data, requires_grad=requires_grad).requires_grad
    return self


# --------------------------------------------------------------------------------------------------
# Numbers and arrays


@_method
def item(self: Tensor) -> Any:
    """The only element as a Python number."""
    if self.data.size != 1:
        raise ValueError(f"item: needs exactly one element, but the shape is {self.shape}. Use tolist() or an index.")
    return self.detach().cpu().data.item()


@_method
def tolist(self: Tensor) -> Any:
    """The elements as nested lists of Python numbers."""
    return self.detach().cpu().data.tolist()


@_method
def numpy(self: Tensor) -> Array:
    """The elements as a NumPy array, sharing memory. Raises where the history or the device would be lost unseen."""
    if self.requires_grad:
        raise RuntimeError("numpy: this tensor requires a gradient, which NumPy would lose. Use x.detach().numpy().")
    if self.device != "cpu":
        raise RuntimeError("numpy: this tensor is on the GPU. Use x.to('cpu').numpy().")
    return self.data


@_method
def size(self: Tensor, dim: int | None = None) -> Any:
    """The shape, or the size of one axis."""
    return self.shape if dim is None else self.shape[shape.axis_of("size", dim, self.ndim)]


@_method
def numel(self: Tensor) -> int:
    """Number of elements."""
    return int(self.data.size)


@_method
def dim(self: Tensor) -> int:
    """Number of axes."""
    return int(self.data.ndim)


@_method
def contiguous(self: Tensor) -> Tensor:
    """The tensor itself where its elements lie in row-major order, else a copy that does."""
    return self if self.data.flags.c_contiguous else convert.clone(self)


@_method
def t(self: Tensor) -> Tensor:
    """The transpose of a matrix; a tensor with fewer axes stays as it is."""
    if self.ndim > 2:
        raise ValueError(f"t: needs at most 2 axes, but the shape is {self.shape}. Use permute or transpose.")
    return self if self.ndim < 2 else shape.transpose(self, 0, 1)


def _in_dtype(name: str, dtype: type) -> None:
    def converted(self: Tensor) -> Tensor:
        return convert.cast(self, dtype)

    converted.__name__, converted.__doc__ = name, f"The values in {np.dtype(dtype)}."
    setattr(Tensor, name, converted)


for _name, _dtype in (
    ("half", np.float16),
    ("float", np.float32),
    ("double", np.float64),
    ("int", np.int32),
    ("long", np.int64),
    ("bool", np.bool_),
):
    _in_dtype(_name, _dtype)


@_method
def __index__(self: Tensor) -> int:
    if self.data.dtype.kind not in "biu":
        raise TypeError(f"only an integer tensor can be an index, but this one is {self.dtype}.")
    return int(item(self))


@_method
def __iter__(self: Tensor) -> Any:
    if self.ndim == 0:
        raise TypeError("iteration over a 0-d tensor. Use item().")
    return iter(shape.unbind(self))


@_method
def __format__(self: Tensor, spec: str) -> str:
    return format(item(self), spec) if spec and self.data.size == 1 else repr(self)


@_method
def __array__(self: Tensor, dtype: Any = None, copy: bool | None = None) -> Array:
    array = numpy(self)
    return np.array(array, dtype=dtype, copy=copy)


@_method
def __dlpack__(self: Tensor, **options: Any) -> Any:
    if self.requires_grad:
        raise BufferError("this tensor requires a gradient, which the other library would lose. Use x.detach().")
    return self.data.__dlpack__(**options)


@_method
def __dlpack_device__(self: Tensor) -> Any:
    return self.data.__dlpack_device__()


_UFUNCS: dict[np.ufunc, Callable[..., Tensor]] = {
    np.divide: elementwise.div,
    np.power: elementwise.pow,
    np.negative: elementwise.neg,
    np.absolute: elementwise.abs,
    np.equal: compare.eq,
    np.not_equal: compare.ne,
    np.less: compare.lt,
    np.less_equal: compare.le,
    np.greater: compare.gt,
    np.greater_equal: compare.ge,
    np.subtract: elementwise.sub,
    np.multiply: elementwise.mul,
    np.matmul: matmul.matmul,
}
for _name in (
    "add exp expm1 log log1p sqrt square sin cos tan tanh sign floor ceil trunc maximum minimum floor_divide "
    "remainder reciprocal isnan isinf isfinite logical_and logical_or logical_xor logical_not".split()
):
    _UFUNCS[getattr(np, _name)] = getattr(elementwise if hasattr(elementwise, _name) else compare, _name)


@_method
def __array_ufunc__(self: Tensor, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
    """numpy.exp(x), array + x and numpy.float32(2) * x are our operators, with their gradients."""
    function = _UFUNCS.get(ufunc)
    if method != "__call__" or function is None or options:
        return NotImplemented
    return function(*inputs)
