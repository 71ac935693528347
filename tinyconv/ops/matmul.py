"""Matrix products: matmul, einsum, linear and bilinear, all built of one Function."""

from __future__ import annotations

from math import prod

from tinyconv import kernels
from tinyconv.autograd import Function, Tensor
from tinyconv.kernels.arrays import Array
from tinyconv.ops.broadcast import expand
from tinyconv.ops.convert import as_tensor
from tinyconv.ops.mixed import in_float16
from tinyconv.ops.operands import common_shape


class MatMul(Function):
    """y = a b, (*B, M, K) and (*B, K, N) to (*B, M, N);  dy/da: g b^T, dy/db: a^T g"""

    saves = (0, 1)

    def forward(self, a: Array, b: Array) -> Array:
        return kernels.matmul(a, b)

    def backward(self, g: Tensor) -> tuple[Tensor | None, Tensor | None]:
        a, b = self.saved_inputs
        ga = MatMul()(g, b.transpose(-1, -2)) if self.needs_grad(0) else None
        gb = MatMul()(a.transpose(-1, -2), g) if self.needs_grad(1) else None
        return ga, gb


def _check_dtypes(op: str, names: tuple[str, ...], tensors: tuple[Tensor, ...]) -> None:
    """Refuse bools and mixed dtypes, as torch does in products."""
    for name, t in zip(names, tensors):
        if t.dtype.kind == "b":
            raise TypeError(f"{op}: {name} must be numbers, but is bool. Convert it with {name}.float().")
        if t.dtype != tensors[0].dtype:
            raise TypeError(
                f"{op}: {names[0]} and {name} must have one dtype, but are {tensors[0].dtype} and {t.dtype}. "
                f"Convert one of them, e.g. {name}.to({names[0]}.dtype)."
            )


@in_float16
def matmul(input: Tensor, other: Tensor) -> Tensor:
    """y[..., m, n] = sum over k of input[..., m, k] other[..., k, n].

    Two vectors give their dot product; a vector first stands as a row, a vector last as a column, and that axis is
    dropped from the result. Axes before the last two broadcast. Raises ValueError where the sizes disagree, TypeError
    for mixed dtypes.
    """
    input, other = as_tensor(input, "matmul"), as_tensor(other, "matmul", "other")
    _check_dtypes("matmul", ("input", "other"), (input, other))
    if input.ndim == 0 or other.ndim == 0:
        raise ValueError(
            f"matmul: both arguments need at least 1 axis, but have shapes {input.shape} and {other.shape}. Use * "
            "for numbers."
        )
    if input.shape[-1] != other.shape[-2 if other.ndim > 1 else -1]:
        raise ValueError(
            f"matmul: the last axis of input and the {'second last' if other.ndim > 1 else 'only'} axis of other "
            "must be equal, "
            f"but the shapes are {input.shape} and {other.shape}. Transpose one of them?"
        )
    a = input.unsqueeze(0) if input.ndim == 1 else input
    b = other.unsqueeze(1) if other.ndim == 1 else other
    y = _product(a, b)
    if other.ndim == 1:
        y = y.squeeze(-1)
    if input.ndim == 1:
        y = y.squeeze(-1 if other.ndim == 1 else -2)
    return y


def _product(a: Tensor, b: Tensor) -> Tensor:
    """Matrix product of tensors with two axes or more, the leading ones broadcast."""
    if b.ndim == 2 and a.ndim > 2:
        # One large product instead of many: the rows of all matrices are the rows of one.
        rows = a.reshape(prod(a.shape[:-1]), a.shape[-1])
        return MatMul()(rows, b).reshape(*a.shape[:-1], b.shape[-1])
    batch = common_shape("matmul", a.shape[:-2], b.shape[:-2])
    return MatMul()(expand(a, (*batch, *a.shape[-2:])), expand(b, (*batch, *b.shape[-2:])))


@in_float16
def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """y[..., o] = bias[o] + sum over i of input[..., i] weight[o, i].

    input (..., I); weight (O, I), or (I,) for a result without the last axis; bias (O,). Raises ValueError where the
    sizes disagree, TypeError for mixed dtypes.
    """
    input, weight = as_tensor(input, "linear"), as_tensor(weight, "linear", "weight")
    bias = None if bias is None else as_tensor(bias, "linear", "bias")
    given = (input, weight) if bias is None else (input, weight, bias)
    _check_dtypes("linear", ("input", "weight", "bias"), given)
    if weight.ndim not in (1, 2):
        raise ValueError(f"linear: weight must be (out_features, in_features), but has shape {weight.shape}.")
    if input.ndim == 0 or input.shape[-1] != weight.shape[-1]:
        raise ValueError(
            f"linear: weight expects {weight.shape[-1]} features in the last axis of input "
            f"(weight.shape={weight.shape}), "
            f"but input has shape {input.shape}."
        )
    if bias is not None and bias.shape not in ((), weight.shape[:-1]):
        raise ValueError(f"linear: bias must have shape {weight.shape[:-1]}, but has {bias.shape}.")
    y = matmul(input, weight.transpose(0, 1) if weight.ndim == 2 else weight)
    return y if bias is None else y + bias


@in_float16
def bilinear(input1: Tensor, input2: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """y[..., o] = bias[o] + sum over i, j of input1[..., i] weight[o, i, j] input2[..., j].

    input1 (..., I); input2 (..., J) with the same leading sizes; weight (O, I, J); bias (O,).
    """
    input1, input2 = as_tensor(input1, "bilinear", "input1"), as_tensor(input2, "bilinear", "input2")
    weight = as_tensor(weight, "bilinear", "weight")
    bias = None if bias is None else as_tensor(bias, "bilinear", "bias")
    given = (input1, input2, weight) if bias is None else (input1, input2, weight, bias)
    _check_dtypes("bilinear", ("input1", "input2", "weight", "bias"), given)
    if weight.ndim != 3 or (input1.shape[-1:], input2.shape[-1:]) != (weight.shape[1:2], weight.shape[2:]):
        raise ValueError(
            f"bilinear: weight must be (O, I, J) for input1 (..., I) and input2 (..., J), but the shapes are "
            f"{weight.shape}, "
            f"{input1.shape} and {input2.shape}."
        )
    if input1.shape[:-1] != input2.shape[:-1]:
        raise ValueError(
            f"bilinear: the leading axes of input1 and input2 must be equal, but the shapes are {input1.shape} "
            f"and {input2.shape}."
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bilinear: bias must have shape {weight.shape[:1]}, but has {bias.shape}.")
    y = einsum("...i,oij,...j->...o", input1, weight, input2)
    return y if bias is None else y + bias


# --------------------------------------------------------------------------------------------------
# einsum


@in_float16
def einsum(equation: str, *operands: Tensor) -> Tensor:
    """The sum of products that ``equation`` names: 'bij,bjk->bik' is a product of batches of matrices.

    Each letter names an axis; letters that do not stand after '->' are summed over. A letter twice in one operand
    takes the diagonal; '...' stands for axes that broadcast. Without '->' the result has '...' and then, in
    alphabetical order, the letters that occur once. Evaluated from left to right, two operands at a time, each
    as one batched matrix product. Raises ValueError for an equation that does not fit its operands.
    """
    tensors = [as_tensor(t, "einsum", f"operand {i}") for i, t in enumerate(operands)]
    inputs, output = _parse(equation, [t.ndim for t in tensors])
    tensors = [_diagonals(equation, t, labels) for t, labels in zip(tensors, inputs)]
    inputs = ["".join(dict.fromkeys(labels)) for labels in inputs]
    sizes = _sizes(equation, tensors, inputs)
    tensors = [expand(t, tuple(sizes[label] for label in labels)) for t, labels in zip(tensors, inputs)]
    result, labels = tensors[0], inputs[0]
    for position in range(1, len(tensors)):
        later = set("".join(inputs[position + 1 :])) | set(output)
        result, labels = _contract(result, labels, tensors[position], inputs[position], later)
    result, labels = _sum_unused(result, labels, set(output))
    return result.permute(*(labels.index(label) for label in output)) if output != labels else result


#: Labels of the axes that '...' stands for, counted from the last: no letters, so that they cannot meet the user's.
_ELLIPSIS_LABELS = "".join(map(chr, range(0xE000, 0xE040)))


def _parse(equation: str, ranks: list[int]) -> tuple[list[str], str]:
    """One label an axis for each operand and for the output, '...' replaced by labels of its own."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) != len(ranks) or not ranks:
        raise ValueError(f"einsum: {equation!r} has {len(terms)} operands, but {len(ranks)} were given.")
    inputs, widest = [], 0
    for position, (term, rank) in enumerate(zip(terms, ranks)):
        _check_letters(equation, term)
        hidden = rank - len(term.replace("...", ""))
        if hidden < 0 or (hidden > 0 and "..." not in term):
            raise ValueError(
                f"einsum: {term!r} in {equation!r} must name each axis of operand {position}, which has {rank}."
            )
        widest = max(widest, hidden)
        inputs.append(term.replace("...", _ELLIPSIS_LABELS[:hidden][::-1]))
    ellipsis = _ELLIPSIS_LABELS[:widest][::-1]
    if not arrow:
        letters = left.replace("...", "").replace(",", "")
        return inputs, ellipsis + "".join(sorted(c for c in letters if letters.count(c) == 1))
    _check_letters(equation, right)
    for letter in right.replace("...", ""):
        if letter not in left or right.count(letter) > 1:
            raise ValueError(
                f"einsum: each letter after '->' must stand there once and also before it, but {letter!r} in "
                f"{equation!r} does not."
            )
    return inputs, right.replace("...", ellipsis)


def _check_letters(equation: str, term: str) -> None:
    bare = term.replace("...", "", 1)
    if not all(c.isascii() and c.isalpha() for c in bare):
        raise ValueError(
            f"einsum: {term!r} in {equation!r} must be letters, one an axis, with at most one '...'. Separate "
            "operands by ','."
        )


def _diagonals(equation: str, t: Tensor, labels: str) -> Tensor:
    """The diagonal over axes with the same label, until each label names one axis."""
    for label in dict.fromkeys(labels):
        while labels.count(label) > 1:
            first = labels.index(label)
            second = labels.index(label, first + 1)
            if t.shape[first] != t.shape[second]:
                raise ValueError(
                    f"einsum: {label!r} in {equation!r} names two axes of one operand, of sizes {t.shape[first]} "
                    f"and {t.shape[second]}."
                )
            t = _diagonal(t, first, second)
            labels = labels[:second] + labels[second + 1 :]
    return t


def _diagonal(t: Tensor, first: int, second: int) -> Tensor:
    """y[..., i, ...] = t[..., i, ..., i, ...]: the second axis is dropped."""
    last = [axis for axis in range(t.ndim) if axis not in (first, second)]
    size = t.shape[first]
    rows = t.permute(*last, first, second).reshape(*(t.shape[axis] for axis in last), size * size)
    picked = rows[..., :: size + 1]  # elements 0, size + 1, 2 (size + 1), ...: the diagonal
    return picked.permute(*range(first), picked.ndim - 1, *range(first, picked.ndim - 1))


def _sizes(equation: str, tensors: list[Tensor], inputs: list[str]) -> dict[str, int]:
    """The size of each label; axes of size 1 broadcast."""
    sizes: dict[str, int] = {}
    for t, labels in zip(tensors, inputs):
        for label, n in zip(labels, t.shape):
            if sizes.get(label, 1) not in (1, n) and n != 1:
                name = label if label.isascii() else "..."
                raise ValueError(
                    f"einsum: {name!r} in {equation!r} names axes of different sizes, {sizes[label]} and {n}."
                )
            sizes[label] = n if sizes.get(label, 1) == 1 else sizes[label]
    return sizes


def _sum_unused(t: Tensor, labels: str, needed: set[str]) -> tuple[Tensor, str]:
    """Sum over the axes whose label nobody needs."""
    axes = tuple(axis for axis, label in enumerate(labels) if label not in needed)
    return (t.sum(axes), "".join(label for label in labels if label in needed)) if axes else (t, labels)


def _contract(a: Tensor, a_labels: str, b: Tensor, b_labels: str, later: set[str]) -> tuple[Tensor, str]:
    """Multiply two operands and sum over the labels that neither a later operand nor the output has."""
    a, a_labels = _sum_unused(a, a_labels, later | set(b_labels))
    b, b_labels = _sum_unused(b, b_labels, later | set(a_labels))
    both = [label for label in a_labels if label in b_labels]
    batch = [label for label in both if label in later]
    summed = [label for label in both if label not in later]
    rows = [label for label in a_labels if label not in b_labels]
    columns = [label for label in b_labels if label not in a_labels]
    sizes = dict(zip(a_labels + b_labels, a.shape + b.shape))
    m, k, n = (prod(sizes[label] for label in group) for group in (rows, summed, columns))
    a = a.permute(*map(a_labels.index, batch + rows + summed)).reshape(*(sizes[label] for label in batch), m, k)
    b = b.permute(*map(b_labels.index, batch + summed + columns)).reshape(*(sizes[label] for label in batch), k, n)
    if summed:
        _check_dtypes("einsum", ("operand 0", "the next operand"), (a, b))
        y = MatMul()(a, b)
    else:
        y = a * b  # nothing to sum: (.., m, 1) times (.., 1, n)
    labels = batch + rows + columns
    return y.reshape(*(sizes[label] for label in labels)), "".join(labels)
