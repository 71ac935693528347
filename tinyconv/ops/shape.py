"""Operators that move elements without computing: views, joins, cuts, and indexing with its adjoint."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np

from tinyconv.autograd import Function, Tensor
from tinyconv.autograd.gpu import one_device, require
from tinyconv.autograd.tensor import Array
from tinyconv.kernels.arrays import array_module, moved, sum_dtype
from tinyconv.kernels.scatter import sums_at
from tinyconv.ops.convert import as_tensor, cast, clone, common_dtype


def axis_of(op: str, dim: int, ndim: int, name: str = "dim") -> int:
    """``dim`` counted from the front, or an IndexError that gives the legal range."""
    try:
        dim = operator.index(dim)
    except TypeError:
        raise TypeError(f"{op}: {name} must be an int, but is {dim!r}.") from None
    span = max(ndim, 1)  # a 0-d tensor takes dim 0 and -1, as in torch
    if not -span <= dim < span:
        raise IndexError(
            f"{op}: {name}={dim} is out of range for a tensor with {ndim} axes; use {-span} to {span - 1}."
        )
    return dim % span


def axes_of(op: str, dims: int | Sequence[int] | None, ndim: int) -> tuple[int, ...]:
    """Distinct axes counted from the front; None or an empty sequence means all of them."""
    if dims is None or (isinstance(dims, Sequence) and len(dims) == 0):
        return tuple(range(ndim))
    axes = tuple(axis_of(op, d, ndim) for d in (dims if isinstance(dims, Sequence) else (dims,)))
    if len(set(axes)) != len(axes):
        raise ValueError(f"{op}: dim={dims!r} names an axis twice.")
    return axes if ndim else ()


def _flat(sizes: tuple[Any, ...]) -> tuple[int, ...]:
    """f(x, 2, 3) and f(x, (2, 3)) mean the same."""
    return tuple(sizes[0]) if len(sizes) == 1 and isinstance(sizes[0], Sequence) else sizes


# --------------------------------------------------------------------------------------------------
# Views


class Reshape(Function):
    """The same elements in the same order, in another shape."""

    view = True

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape

    def forward(self, x: Array) -> Array:
        self.source = x.shape
        return x.reshape(self.shape)

    def backward(self, g: Tensor) -> Tensor:
        return Reshape(self.source)(g)


class Permute(Function):
    """y[i_p0, i_p1, ...] = x[i_0, i_1, ...]"""

    view = True

    def __init__(self, axes: tuple[int, ...]) -> None:
        self.axes = axes

    def forward(self, x: Array) -> Array:
        return x.transpose(self.axes)

    def backward(self, g: Tensor) -> Tensor:
        return Permute(tuple(sorted(range(len(self.axes)), key=self.axes.__getitem__)))(g)


def reshape(input: Tensor, *shape: int | Sequence[int]) -> Tensor:
    """The same elements in ``shape``; one size may be -1 and follows from the rest."""
    sizes = _flat(shape)
    total, unknown = input.data.size, [n for n in sizes if n == -1]
    known = prod(n for n in sizes if n != -1)
    if (
        len(unknown) > 1 or any(n < -1 for n in sizes) or (total % known if known else total)
        if unknown
        else known != total
    ):
        raise ValueError(f"reshape: {input.shape} has {total} elements, which do not fit the shape {tuple(sizes)}.")
    if unknown and known == 0:
        raise ValueError(f"reshape: -1 in {tuple(sizes)} can be anything for a tensor without elements. Give the size.")
    return Reshape(tuple(sizes))(input)


def permute(input: Tensor, *dims: int | Sequence[int]) -> Tensor:
    """Axes in the order ``dims``: y.shape[j] = input.shape[dims[j]]. NHWC to NCHW is permute(0, 3, 1, 2)."""
    listed = _flat(dims)
    axes = tuple(axis_of("permute", d, input.ndim) for d in listed)
    if sorted(axes) != list(range(input.ndim)):
        raise ValueError(f"permute: dims={tuple(listed)} must name each of the {input.ndim} axes once.")
    return Permute(axes)(input)


def transpose(input: Tensor, dim0: int, dim1: int) -> Tensor:
    """Axes ``dim0`` and ``dim1`` exchanged."""
    a, b = axis_of("transpose", dim0, input.ndim, "dim0"), axis_of("transpose", dim1, input.ndim, "dim1")
    axes = list(range(input.ndim))
    if axes:
        axes[a], axes[b] = b, a
    return Permute(tuple(axes))(input)


def movedim(input: Tensor, source: int, destination: int) -> Tensor:
    """One axis moved to another place, the others in their order."""
    axes = list(range(input.ndim))
    axes.remove(axis_of("movedim", source, input.ndim, "source"))
    axes.insert(axis_of("movedim", destination, input.ndim, "destination"), axis_of("movedim", source, input.ndim))
    return Permute(tuple(axes))(input)


def squeeze(input: Tensor, dim: int | Sequence[int] | None = None) -> Tensor:
    """Axes of size 1 removed: all of them, or those among ``dim``."""
    axes = () if dim == () else axes_of("squeeze", dim, input.ndim)
    return Reshape(tuple(n for axis, n in enumerate(input.shape) if axis not in axes or n != 1))(input)


def unsqueeze(input: Tensor, dim: int) -> Tensor:
    """A new axis of size 1 before position ``dim``; -1 puts it last."""
    axis = axis_of("unsqueeze", dim, input.ndim + 1)
    return Reshape((*input.shape[:axis], 1, *input.shape[axis:]))(input)


def flatten(input: Tensor, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """Axes ``start_dim`` to ``end_dim`` joined into one."""
    first, last = (
        axis_of("flatten", start_dim, input.ndim, "start_dim"),
        axis_of("flatten", end_dim, input.ndim, "end_dim"),
    )
    if first > last:
        raise ValueError(f"flatten: start_dim={start_dim} comes after end_dim={end_dim}.")
    return Reshape((*input.shape[:first], prod(input.shape[first : last + 1]), *input.shape[last + 1 :]))(input)


# --------------------------------------------------------------------------------------------------
# Joining and cutting


class Cat(Function):
    """Tensors one after another along an axis."""

    def __init__(self, axis: int) -> None:
        self.axis = axis

    def forward(self, *xs: Array) -> Array:
        self.sizes = [x.shape[self.axis] for x in xs]
        return array_module(*xs).concatenate(xs, axis=self.axis)

    def backward(self, g: Tensor) -> tuple[Tensor, ...]:
        return split(g, self.sizes, self.axis)


def cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Tensors joined along ``dim``; all other sizes must be equal. Dtypes are promoted."""
    listed = [as_tensor(t, "cat", f"tensors[{i}]") for i, t in enumerate(tensors)]
    if not listed:
        raise ValueError("cat: needs at least one tensor.")
    axis = axis_of("cat", dim, listed[0].ndim)
    shapes = [t.shape for t in listed]
    if any(len(s) == 0 for s in shapes):
        raise ValueError("cat: a 0-d tensor cannot be joined. Use stack, or unsqueeze it first.")
    if any(
        len(s) != len(shapes[0]) or s[:axis] + s[axis + 1 :] != shapes[0][:axis] + shapes[0][axis + 1 :] for s in shapes
    ):
        raise ValueError(f"cat: all sizes but that of dim {axis} must be equal, but the shapes are {shapes}.")
    dtype = common_dtype(listed)
    return Cat(axis)(*[cast(t, dtype) for t in listed])


def stack(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Tensors of one shape joined along a new axis ``dim``."""
    listed = [as_tensor(t, "stack", f"tensors[{i}]") for i, t in enumerate(tensors)]
    if not listed:
        raise ValueError("stack: needs at least one tensor.")
    if len({t.shape for t in listed}) > 1:
        raise ValueError(f"stack: all shapes must be equal, but they are {[t.shape for t in listed]}.")
    axis = axis_of("stack", dim, listed[0].ndim + 1)
    return cat([unsqueeze(t, axis) for t in listed], axis)


def narrow(input: Tensor, dim: int, start: int, length: int) -> Tensor:
    """A view of ``length`` elements from ``start`` along ``dim``."""
    axis = axis_of("narrow", dim, input.ndim)
    if length < 0 or not 0 <= start <= input.shape[axis] - length:
        raise ValueError(f"narrow: start={start}, length={length} leave the size {input.shape[axis]} of dim {dim}.")
    return getitem(input, (slice(None),) * axis + (slice(start, start + length),))


def split(tensor: Tensor, split_size_or_sections: int | Sequence[int], dim: int = 0) -> tuple[Tensor, ...]:
    """Views along ``dim``: each of the given size (the last may be smaller), or of the listed sizes."""
    axis = axis_of("split", dim, tensor.ndim)
    n = tensor.shape[axis]
    if isinstance(split_size_or_sections, int):
        size = split_size_or_sections
        if size < 0 or (size == 0 and n > 0):
            raise ValueError(f"split: the size must be positive, but is {size}.")
        sections = [min(size, n - start) for start in range(0, n, size)] if n else [0]
    else:
        sections = list(split_size_or_sections)
        if sum(sections) != n or min(sections, default=0) < 0:
            raise ValueError(f"split: the sizes {sections} must add up to the size {n} of dim {dim}.")
    starts = np.cumsum([0, *sections]).tolist()
    return tuple(narrow(tensor, axis, start, size) for start, size in zip(starts, sections))


def chunk(input: Tensor, chunks: int, dim: int = 0) -> tuple[Tensor, ...]:
    """At most ``chunks`` views of equal size along ``dim``, the last one smaller."""
    if chunks < 1:
        raise ValueError(f"chunk: chunks must be at least 1, but is {chunks}.")
    n = input.shape[axis_of("chunk", dim, input.ndim)]
    return split(input, -(-n // chunks), dim) if n else split(input, [0] * chunks, dim)


def unbind(input: Tensor, dim: int = 0) -> tuple[Tensor, ...]:
    """The slices along ``dim``, without that axis."""
    axis = axis_of("unbind", dim, input.ndim)
    return tuple(getitem(input, (slice(None),) * axis + (i,)) for i in range(input.shape[axis]))


class Flip(Function):
    """Elements in reverse order along axes."""

    def __init__(self, axes: tuple[int, ...]) -> None:
        self.axes = axes

    def forward(self, x: Array) -> Array:
        return array_module(x).flip(x, self.axes).copy()

    def backward(self, g: Tensor) -> Tensor:
        return Flip(self.axes)(g)


class Roll(Function):
    """Elements moved along axes, those pushed out at the end come in at the front."""

    def __init__(self, shifts: tuple[int, ...], axes: tuple[int, ...]) -> None:
        self.shifts, self.axes = shifts, axes

    def forward(self, x: Array) -> Array:
        return array_module(x).roll(x, self.shifts, self.axes)

    def backward(self, g: Tensor) -> Tensor:
        return Roll(tuple(-s for s in self.shifts), self.axes)(g)


def flip(input: Tensor, *dims: int | Sequence[int]) -> Tensor:
    """A copy with the order of the axes ``dims`` reversed."""
    listed = _flat(dims)
    return Flip(axes_of("flip", listed, input.ndim) if listed else ())(input)


def roll(input: Tensor, shifts: int | Sequence[int], dims: int | Sequence[int] | None = None) -> Tensor:
    """y[(i + shift) mod n] = input[i] along each of ``dims``; without ``dims`` the flattened tensor is rolled."""
    if dims is None:
        return reshape(roll(flatten(input), shifts, 0), input.shape)
    moved = tuple(shifts) if isinstance(shifts, Sequence) else (shifts,)
    axes = axes_of("roll", dims, input.ndim)
    if len(moved) != len(axes):
        raise ValueError(f"roll: shifts={shifts!r} and dims={dims!r} must have the same length.")
    return Roll(moved, axes)(input)


def repeat(input: Tensor, *repeats: int | Sequence[int]) -> Tensor:
    """The tensor laid side by side ``repeats[j]`` times along axis j; new axes may stand in front."""
    counts = _flat(repeats)
    if len(counts) < input.ndim or min(counts, default=0) < 0:
        raise ValueError(f"repeat: needs a count of at least 0 for each of {input.ndim} axes, but has {tuple(counts)}.")
    if not counts:
        return clone(input)
    y = reshape(input, (1,) * (len(counts) - input.ndim) + input.shape)
    for axis, count in enumerate(counts):
        y = cat([y] * count, axis) if count else narrow(y, axis, 0, 0)
    return y


# --------------------------------------------------------------------------------------------------
# Indexing: reading by position, and adding by position


class Index(Function):
    """y = x[key]; a view for ints and slices, as in NumPy."""

    def __init__(self, key: tuple[Any, ...]) -> None:
        self.key = key
        self.view = all(part is None or part is Ellipsis or isinstance(part, int | slice) for part in key)

    def forward(self, x: Array) -> Array:
        self.source = x.shape
        return x[self.key]

    def backward(self, g: Tensor) -> Tensor:
        return AddAt(self.source, self.key, self.view)(g)


class AddAt(Function):
    """y = zeros, y[key] += x, where an element named twice receives twice: the adjoint of :class:`Index`."""

    def __init__(self, shape: tuple[int, ...], key: tuple[Any, ...], distinct: bool) -> None:
        self.shape, self.key, self.distinct = shape, key, distinct

    def forward(self, x: Array) -> Array:
        xp = array_module(x)
        if self.distinct:
            y = xp.zeros(self.shape, x.dtype)
            y[self.key] = x
        elif xp is np:
            y = np.zeros(self.shape, x.dtype)
            np.add.at(y, self.key, x)
        else:
            size = prod(self.shape)
            places = xp.arange(size).reshape(self.shape)[self.key]
            wide = x.astype(sum_dtype(x.dtype), copy=False)
            y = sums_at(places.reshape(-1), wide.reshape(-1), size).reshape(self.shape)
        return y.astype(x.dtype, copy=False)

    def backward(self, g: Tensor) -> Tensor:
        return Index(self.key)(g)


def _index_part(part: Any, like: Array) -> Any:
    """One entry of an index as NumPy takes it; tensors and lists become arrays, 0-d integers become ints."""
    if part is None or part is Ellipsis or isinstance(part, slice | int):
        return part
    if isinstance(part, Tensor):
        one_device("getitem", part, like)
        array = part.data
    else:
        array = part if hasattr(part, "__cuda_array_interface__") else np.asarray(part)
    if array.dtype.kind not in "biu":
        if array.size == 0:
            return array.astype(np.int64)
        raise IndexError(f"getitem: an index must be integer or bool, but is {array.dtype}.")
    return int(array) if array.ndim == 0 and array.dtype.kind != "b" else moved(array, like)


def _is_mask(part: Any) -> bool:
    return getattr(part, "dtype", None) == np.bool_


def index_keys(key: Any, like: Array) -> list[tuple[Any, ...]]:
    """What stands between the brackets, as keys that the array ``like`` takes one after the other.

    Ints beside index arrays go first. NumPy would read an int as one more index array, and move axes to the front.
    """
    parts = [_index_part(part, like) for part in (key if isinstance(key, tuple) else (key,))]
    if not isinstance(like, np.ndarray):
        _check_places(parts, like.shape)
    if not any(hasattr(p, "dtype") for p in parts) or not any(type(p) is int for p in parts):
        return [tuple(parts)]
    ints: list[Any] = []
    for part in parts:
        if part is Ellipsis or type(part) is int:
            ints.append(part)
        else:
            taken = part.ndim if _is_mask(part) else int(part is not None and not isinstance(part, bool))
            ints += [slice(None)] * taken
    return [tuple(ints), tuple(p for p in parts if type(p) is not int)]


def _check_places(parts: list[Any], shape: tuple[int, ...]) -> None:
    """IndexError for integers of index arrays that lie outside, which CuPy would wrap around."""
    takes = [0 if p is None or p is Ellipsis else p.ndim if _is_mask(p) else 1 for p in parts]
    axis = 0
    for i, part in enumerate(parts):
        if part is Ellipsis:
            axis = len(shape) - sum(takes[i:])
        elif hasattr(part, "dtype") and not _is_mask(part) and axis < len(shape):
            n = shape[axis]
            say = "getitem: index runs from {} to {}, but its axis has size " + str(n)
            require_range(part, -n, n, say.format)
        axis += takes[i]


def getitem(input: Tensor, key: Any) -> Tensor:
    """x[key] with ints, slices, None, ..., bool masks and integer tensors, arrays or lists, as torch reads them.

    Ints and slices give a view; the others a copy. Raises IndexError for what lies outside.
    """
    try:
        y = input
        for each in index_keys(key, input.data):
            y = Index(each)(y)
        return y
    except IndexError as error:
        raise IndexError(f"getitem: {error} (the tensor has shape {input.shape}).") from None


def _along(op: str, input: Tensor, dim: int, index: Tensor) -> tuple[int, tuple[Array, ...]]:
    """The axis, and the full index that ``index`` along it stands for."""
    axis = axis_of(op, dim, input.ndim)
    if index.dtype.kind not in "iu":
        raise TypeError(f"{op}: index must be integer, but is {index.dtype}.")
    if index.ndim != input.ndim:
        raise ValueError(f"{op}: index needs as many axes as the input ({input.ndim}), but has {index.ndim}.")
    if any(i > n for a, (i, n) in enumerate(zip(index.shape, input.shape)) if a != axis):
        raise ValueError(
            f"{op}: index of shape {index.shape} is larger than the input {input.shape} outside dim {axis}."
        )
    one_device(op, input, index)
    at, size = index.data, input.shape[axis]
    require_range(
        at, 0, size, lambda low, high: f"{op}: index runs from {low} to {high}, but dim {axis} has size {size}."
    )
    return axis, _full_index(at, axis)


def require_range(at: Array, first: int, end: int, sentence: Callable[[int, int], str]) -> None:
    """IndexError, of the smallest and the largest, unless all indices ``at`` lie in [first, end)."""
    if at.size:
        low, high = at.min(), at.max()
        require((low >= first) & (high < end), lambda: IndexError(sentence(int(low), int(high))))


def _full_index(at: Array, axis: int) -> tuple[Array, ...]:
    """The key whose index along ``axis`` is ``at``, and along each other axis the position itself."""
    xp = array_module(at)
    grid = [xp.arange(n).reshape([-1 if a == b else 1 for b in range(at.ndim)]) for a, n in enumerate(at.shape)]
    return tuple(at if a == axis else grid[a] for a in range(at.ndim))


def take_along(input: Tensor, axis: int, index: Tensor) -> Tensor:
    """:func:`gather` with an index that is known to be right."""
    if input.ndim == 0:
        return clone(input)
    y: Tensor = Index(_full_index(index.data, axis))(input)
    return y


def gather(input: Tensor, dim: int, index: Tensor) -> Tensor:
    """y[i, j, ...] = input[i, index[i, j, ...], ...] with the index in place ``dim``; y has the shape of ``index``."""
    index = as_tensor(index, "gather", "index")
    if input.ndim == 0:
        return reshape(gather(reshape(input, 1), 0, reshape(index, -1)), index.shape)
    return Index(_along("gather", input, dim, index)[1])(input)


def scatter_add(input: Tensor, dim: int, index: Tensor, src: Tensor) -> Tensor:
    """y = input, y[i, index[i, j], ...] += src[i, j, ...] with the index in place ``dim``: the adjoint of
    :func:`gather`.
    """
    index = as_tensor(index, "scatter_add", "index")
    src = as_tensor(src, "scatter_add", "src")
    _, key = _along("scatter_add", input, dim, index)
    if any(i > n for i, n in zip(index.shape, src.shape)) or src.dtype != input.dtype:
        raise ValueError(
            f"scatter_add: src must have the input's dtype {input.dtype} and at least the index's shape {index.shape}, "
            f"but is {src.dtype} {src.shape}."
        )
    picked = getitem(src, tuple(slice(n) for n in index.shape))
    return input + AddAt(input.shape, key, False)(picked)


def index_select(input: Tensor, dim: int, index: Tensor) -> Tensor:
    """The slices of ``input`` along ``dim`` that ``index`` (1-d) names."""
    axis = axis_of("index_select", dim, input.ndim)
    index = as_tensor(index, "index_select", "index")
    if index.dtype.kind not in "iu":
        raise TypeError(f"index_select: index must be integer, but is {index.dtype}.")
    if index.ndim > 1:
        raise ValueError(f"index_select: index must have one axis, but has shape {index.shape}.")
    one_device("index_select", input, index)
    size, told = input.shape[axis], "index_select: index runs from {} to {}, but dim {} has size {}."
    require_range(index.data, 0, size, lambda low, high: told.format(low, high, dim, size))
    return getitem(input, (slice(None),) * axis + (reshape(index, -1),))


def one_hot(tensor: Tensor, num_classes: int = -1) -> Tensor:
    """y[..., c] = 1 where tensor[...] = c, else 0; int64. ``num_classes`` -1 takes the largest class plus one.

    Raises TypeError for floats, ValueError for classes below 0 or at least ``num_classes``.
    """
    classes = as_tensor(tensor, "one_hot").data
    if classes.dtype.kind not in "iu":
        raise TypeError(f"one_hot: classes must be integers, but are {classes.dtype}.")
    if classes.size == 0 and num_classes < 1:
        raise ValueError("one_hot: an empty tensor does not tell the number of classes. Give num_classes.")
    count = int(classes.max()) + 1 if num_classes == -1 else num_classes
    if classes.size:
        least, most = classes.min(), classes.max()
        require(
            (least >= 0) & (most < count),
            lambda: ValueError(f"one_hot: classes run from {least} to {most}, but must lie in [0, {count})."),
        )
    xp = array_module(classes)
    return Tensor.wrap((classes[..., None] == xp.arange(count)).astype(xp.int64))
