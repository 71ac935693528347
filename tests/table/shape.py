"""Rows: reductions, shape, indexing, products of matrices."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as torch_F
from hypothesis import strategies as st

import tinyconv
import tinyconv.functional as F
from compare import A, Call
from table.spec import TAME, Row, axes, broadcastable, integers, options, shapes, sizes, some_axes, spell, tensor

# --------------------------------------------------------------------------------------------------
# Reductions


@st.composite
def reduced(draw: st.DrawFn, several: bool = True, empty: bool = True, must: bool = False, most: int = 4) -> Call:
    shape = draw(shapes(0, most, empty))
    chosen = options(draw, keepdim=st.booleans())
    if must or draw(st.booleans()):
        dim = draw(some_axes(len(shape)) if several else axes(len(shape)))
        if dim is None and must:
            dim = tuple(range(len(shape))) or 0
        if dim is not None:
            chosen = {"dim": dim, **chosen}
    if "dim" not in chosen:
        chosen.pop("keepdim", None)  # torch wants dim beside keepdim
    return spell(draw, (tensor(shape),), chosen, ("dim", "keepdim"))


def reduction(name: str, strategy: st.SearchStrategy[Call], **flags: Any) -> Row:
    return Row(name, getattr(tinyconv, name), getattr(torch, name), strategy, **flags)


@st.composite
def scattered(draw: st.DrawFn, spread: bool = False) -> Call:
    """var and std; with ``spread`` unequal elements are combined, so that std has a second derivative."""
    shape = tuple(n + spread for n in draw(shapes(2 * spread, 3, empty=False)))
    dim = draw(some_axes(len(shape)))
    if spread and dim is not None:
        dim = tuple({len(shape) - 1, *(d % len(shape) for d in (dim if isinstance(dim, tuple) else (dim,)))})
    chosen = options(
        draw, correction=st.sampled_from([0, 1, 2] if spread and shape[-1] > 3 else [0, 1]), keepdim=st.booleans()
    )
    if draw(st.integers(0, 4)) == 0:
        return Call((tensor(shape),), {"unbiased": draw(st.booleans())})
    return Call((tensor(shape),), {"dim": dim, **chosen})


@st.composite
def normed(draw: st.DrawFn, orders: tuple[Any, ...] = ("fro", 2, 1, 3, 0.5, 2.5, float("inf"), float("-inf"))) -> Call:
    shape = draw(shapes(empty=False))
    chosen = options(draw, p=st.sampled_from(orders))
    if draw(st.booleans()):
        # torch forgets keepdim where dim is None and p is not 'fro'.
        dim = draw(some_axes(len(shape)).filter(lambda d: d is not None))
        if isinstance(dim, tuple) and chosen.get("p", "fro") == "fro":
            dim = dim[:2]  # torch's 'fro' takes the norm of vectors and matrices alone
        chosen = {**chosen, "dim": dim, **options(draw, keepdim=st.booleans())}
    return spell(draw, (tensor(shape),), chosen, ("p", "dim", "keepdim"))


FINITE = ("normal", "ties", "distinct", "negative")
reductions = [
    reduction("sum", reduced(), products=True, wild=True),
    reduction("mean", reduced(empty=False), contents=(*TAME, "nan")),
    Row("mean of nothing", tinyconv.mean, torch.mean, reduced(), order=1, contents=("normal",)),
    reduction("var", scattered(spread=True), contents=TAME),
    Row("var of one", tinyconv.var, torch.var, scattered(), order=1, contents=TAME),
    reduction("std", scattered(spread=True), contents=("normal", "distinct", "negative", "large")),
    Row("std at 0", tinyconv.std, torch.std, scattered(), order=1, contents=("ties",)),
    reduction("prod", reduced(several=False, most=2), contents=FINITE),
    reduction("logsumexp", reduced(must=True, empty=False)),
    # The gradient of a NaN maximum is NaN everywhere in torch's amax, and goes to the NaN in its max and in ours.
    reduction("amax", reduced(empty=False)),
    reduction("amin", reduced(empty=False)),
    reduction("max", reduced(several=False, empty=False), wild=True),
    reduction("min", reduced(several=False, empty=False), wild=True),
    reduction("argmax", reduced(several=False, empty=False), order=0),
    reduction("argmin", reduced(several=False, empty=False), order=0),
    reduction("all", reduced(), order=0),
    reduction("any", reduced(), order=0),
    reduction(
        "cumsum", shapes().flatmap(lambda s: axes(len(s)).map(lambda axis: Call((tensor(s), axis)))), products=True
    ),
    reduction("norm", normed(), contents=("normal", "distinct", "negative")),
    Row("norm at 0", tinyconv.norm, torch.norm, normed(("fro", 2, 1, 3, float("inf"))), order=1, contents=("ties",)),
]

# --------------------------------------------------------------------------------------------------
# Shape


@st.composite
def reshaped(draw: st.DrawFn) -> Call:
    shape = draw(shapes(1))
    parts = draw(st.sampled_from(["flat", "merge", "split", "unknown"]))
    total = 1
    for n in shape:
        total *= n
    if parts == "merge":
        new: tuple[int, ...] = (shape[0], total // shape[0]) if shape[0] else (total, 3)
    elif parts == "split":
        new = (1, *shape, 1)
    elif parts == "unknown" and total:
        new = (-1, shape[-1])
    else:
        new = (total,)
    return Call((tensor(shape), new))


@st.composite
def permuted(draw: st.DrawFn) -> Call:
    shape = draw(shapes())
    order = draw(st.permutations(range(len(shape))))
    return Call((tensor(shape), tuple(a - len(shape) if draw(st.booleans()) else a for a in order)))


@st.composite
def two_axes(draw: st.DrawFn, least: int = 0) -> Call:
    shape = draw(shapes(least))
    return Call((tensor(shape), draw(axes(len(shape))), draw(axes(len(shape)))))


@st.composite
def squeezed(draw: st.DrawFn) -> Call:
    shape = tuple(1 if draw(st.booleans()) else n for n in draw(shapes()))
    dim = draw(some_axes(len(shape)))
    return Call((tensor(shape),)) if dim is None else spell(draw, (tensor(shape),), {"dim": dim}, ("dim",))


@st.composite
def flattened(draw: st.DrawFn) -> Call:
    shape = draw(shapes())
    span = max(len(shape), 1)
    first = draw(st.integers(0, span - 1))
    last = draw(st.integers(first, span - 1))
    chosen = draw(st.sampled_from([{}, {"start_dim": first}, {"start_dim": first, "end_dim": last - span}]))
    return spell(draw, (tensor(shape),), chosen, ("start_dim", "end_dim"))


@st.composite
def expanded(draw: st.DrawFn) -> Call:
    whole = draw(shapes(0, 4))
    old = tuple(1 if draw(st.booleans()) else n for n in whole[draw(st.integers(0, len(whole))) :])
    new = len(whole) - len(old)
    wanted = tuple(-1 if i >= new and old[i - new] == n and draw(st.booleans()) else n for i, n in enumerate(whole))
    return Call((tensor(old), wanted))


@st.composite
def joined(draw: st.DrawFn, new_axis: bool = False) -> Call:
    shape = draw(shapes(0 if new_axis else 1, 3))
    axis = draw(axes(len(shape) + new_axis))
    count = draw(st.integers(1, 3))
    members = []
    for _ in range(count):
        own = list(shape)
        if not new_axis:
            own[axis] = draw(st.integers(0, 3))
        members.append(tensor(own))
    listed = draw(st.sampled_from([list, tuple]))(members)
    return Call((listed,)) if axis == 0 and draw(st.booleans()) else spell(draw, (listed,), {"dim": axis}, ("dim",))


@st.composite
def cut(draw: st.DrawFn, pieces: str) -> Call:
    shape = draw(shapes(1))
    axis = draw(axes(len(shape)))
    n = shape[axis]
    if pieces == "chunks":
        how: Any = draw(st.integers(1, 5))
    elif draw(st.booleans()):
        how = draw(st.integers(1, 5))
    else:
        first = draw(st.integers(0, n))
        how = [first, n - first, 0]
    return spell(draw, (tensor(shape), how), {} if axis == 0 and draw(st.booleans()) else {"dim": axis}, ("dim",))


@st.composite
def narrowed(draw: st.DrawFn) -> Call:
    shape = draw(shapes(1))
    axis = draw(axes(len(shape)))
    start = draw(st.integers(0, shape[axis]))
    return Call((tensor(shape), axis, start, draw(st.integers(0, shape[axis] - start))))


@st.composite
def flipped(draw: st.DrawFn) -> Call:
    shape = draw(shapes())
    dims = draw(st.lists(st.integers(0, len(shape) - 1), unique=True)) if shape else []
    return Call((tensor(shape), tuple(d - len(shape) if draw(st.booleans()) else d for d in dims)))


@st.composite
def rolled(draw: st.DrawFn) -> Call:
    shape = draw(shapes(1))
    shift = st.integers(-5, 5)
    if draw(st.booleans()):
        return Call((tensor(shape), draw(shift), draw(axes(len(shape)))))
    if draw(st.booleans()):
        return Call((tensor(shape), draw(shift)))
    dims = draw(st.lists(st.integers(0, len(shape) - 1), unique=True, min_size=1))
    return Call((tensor(shape), tuple(draw(shift) for _ in dims), tuple(dims)))


@st.composite
def repeated(draw: st.DrawFn) -> Call:
    shape = draw(shapes(0, 3))
    counts = [draw(st.integers(0, 3)) for _ in range(len(shape) + draw(st.integers(0, 1)))]
    return Call((tensor(shape), tuple(counts)))


@st.composite
def gathered(draw: st.DrawFn, scatter: bool = False) -> Call:
    shape = draw(shapes(1, 3, empty=False))
    axis = draw(axes(len(shape)))
    at = axis % len(shape)
    index = tuple(draw(st.integers(0, 5)) if a == at else draw(st.integers(1, n)) for a, n in enumerate(shape))
    named = integers(index, 0, shape[at])
    if not scatter:
        return Call((tensor(shape), axis, named))
    return Call((tensor(shape), axis, named, tensor(index)))


@st.composite
def selected(draw: st.DrawFn) -> Call:
    shape = draw(shapes(1, empty=False))
    axis = draw(axes(len(shape)))
    return Call((tensor(shape), axis, integers((draw(st.integers(0, 4)),), 0, shape[axis])))


@st.composite
def indexed(draw: st.DrawFn) -> Call:
    """x[key] with ints, slices, None, an ellipsis, masks and integer tensors that may repeat."""
    shape = draw(shapes(1, 3, empty=False))
    parts: list[Any] = []
    lists = draw(sizes)  # all index tensors of one key must broadcast
    for n in shape[: draw(st.integers(0, len(shape)))]:
        kind = draw(st.sampled_from(["int", "slice", "slice", "none", "tensor", "mask"]))
        if kind == "int":
            parts.append(draw(st.integers(-n, n - 1)))
        elif kind == "slice":
            bound = st.none() | st.integers(-n - 1, n + 1)
            parts.append(slice(draw(bound), draw(bound), draw(st.sampled_from([None, 1, 2]))))
        elif kind == "none":
            parts.extend([None, slice(None)])
        elif kind == "tensor":
            parts.append(integers(draw(st.sampled_from([(lists,), (1,), (2, 1), ()])), -n, n))
        elif not any(isinstance(p, A) for p in parts):
            parts.append(A((n,), "bool"))
            parts.append(Ellipsis)
            break
    if Ellipsis not in parts and draw(st.integers(0, 3)) == 0:
        parts.append(Ellipsis)
    return Call((tensor(shape), tuple(parts)))


def _getitem(x: Any, key: Any) -> Any:
    return x[key]


@st.composite
def hot(draw: st.DrawFn) -> Call:
    shape = draw(shapes(0, 3, empty=False))
    return Call(
        (integers(shape, 0, 4),),
        draw(st.sampled_from([{"num_classes": 4}, {"num_classes": 6}, {}, {"num_classes": -1}])),
    )


shaping = [
    Row("reshape", tinyconv.reshape, torch.reshape, reshaped(), views=True),
    Row("permute", tinyconv.permute, torch.permute, permuted(), views=True),
    Row("transpose", tinyconv.transpose, torch.transpose, two_axes(), views=True),
    Row("movedim", tinyconv.movedim, torch.movedim, two_axes(1), views=True),
    Row("squeeze", tinyconv.squeeze, torch.squeeze, squeezed(), views=True),
    Row(
        "unsqueeze",
        tinyconv.unsqueeze,
        torch.unsqueeze,
        shapes().flatmap(lambda s: axes(len(s) + 1).map(lambda axis: Call((tensor(s), axis)))),
        views=True,
    ),
    Row("flatten", tinyconv.flatten, torch.flatten, flattened(), views=True),
    Row("expand", tinyconv.expand, lambda x, size: x.expand(size), expanded(), views=True, products=True),
    Row("cat", tinyconv.cat, torch.cat, joined()),
    Row("stack", tinyconv.stack, torch.stack, joined(True)),
    Row("split", tinyconv.split, torch.split, cut("sizes"), views=True),
    Row("chunk", tinyconv.chunk, torch.chunk, cut("chunks"), views=True),
    Row(
        "unbind",
        tinyconv.unbind,
        torch.unbind,
        shapes(1).flatmap(lambda s: axes(len(s)).map(lambda axis: Call((tensor(s), axis)))),
        views=True,
    ),
    Row("narrow", tinyconv.narrow, torch.narrow, narrowed(), views=True),
    Row("flip", tinyconv.flip, torch.flip, flipped()),
    Row("roll", tinyconv.roll, torch.roll, rolled()),
    Row("repeat", tinyconv.repeat, lambda x, counts: x.repeat(counts), repeated(), products=True),
    Row("gather", tinyconv.gather, torch.gather, gathered(), products=True),
    Row("scatter_add", tinyconv.scatter_add, torch.scatter_add, gathered(True), products=True),
    Row("index_select", tinyconv.index_select, torch.index_select, selected(), products=True),
    Row("getitem", _getitem, _getitem, indexed(), views=True, products=True),
    Row("one_hot", F.one_hot, torch_F.one_hot, hot(), order=0),
]

# --------------------------------------------------------------------------------------------------
# Products of matrices

inner = st.integers(1, 5)


@st.composite
def multiplied(draw: st.DrawFn) -> Call:
    n, k, m = draw(inner), draw(st.integers(0, 5)), draw(inner)
    left, right = draw(broadcastable(2, 2))
    a = draw(st.sampled_from([(k,), (n, k), (*left, n, k)]))
    b = draw(st.sampled_from([(k,), (k, m), (*right, k, m)]))
    return Call((tensor(a), tensor(b)))


@st.composite
def affine(draw: st.DrawFn) -> Call:
    n, m = draw(inner), draw(inner)
    lead = draw(shapes(0, 3))
    weight = draw(st.sampled_from([(m, n), (m, n), (n,)]))
    # torch takes a bias beside a weight of one axis only sometimes.
    bias = {"bias": draw(st.sampled_from([None, tensor(weight[:-1])]))} if len(weight) == 2 else {}
    return spell(draw, (tensor((*lead, n)), tensor(weight)), draw(st.sampled_from([{}, bias])), ("bias",))


@st.composite
def bilinear(draw: st.DrawFn) -> Call:
    a, b, m = draw(inner), draw(inner), draw(inner)
    lead = draw(shapes(1, 3))
    bias = draw(st.sampled_from([{}, {"bias": None}, {"bias": tensor((m,))}]))
    return spell(draw, (tensor((*lead, a)), tensor((*lead, b)), tensor((m, a, b))), bias, ("bias",))


EQUATIONS = (
    ("ij,jk->ik", ("ij", "jk")),
    ("ij,jk", ("ij", "jk")),
    ("ij->ji", ("ij",)),
    ("ij->", ("ij",)),
    ("ba", ("ba",)),
    ("ii->i", ("ii",)),
    ("ii", ("ii",)),
    ("i,j->ij", ("i", "j")),
    ("bij,bjk->bik", ("bij", "bjk")),
    ("bhqd,bhkd->bhqk", ("bhqd", "bhkd")),
    ("nchw,oc->nohw", ("nchw", "oc")),
    ("ij,ij->ij", ("ij", "ij")),
    ("i,ij,j->", ("i", "ij", "j")),
    (" i j , j k -> k i ", ("ij", "jk")),
    ("...ij,...jk->...ik", ("xij", "xjk")),
    ("...i->...", ("xyi",)),
    ("i...,i...", ("ix", "ix")),
    ("iij,jk->ik", ("iij", "jk")),
)


@st.composite
def summed(draw: st.DrawFn) -> Call:
    equation, terms = draw(st.sampled_from(EQUATIONS))
    named = {letter: draw(sizes) for letter in sorted(set("".join(terms)))}
    return Call((equation, *(tensor([named[letter] for letter in term]) for term in terms)))


products = [
    Row("matmul", tinyconv.matmul, torch.matmul, multiplied(), windowed=True, products=True),
    Row("einsum", tinyconv.einsum, torch.einsum, summed(), products=True, views=True),
    Row("linear", F.linear, torch_F.linear, affine(), windowed=True, products=True),
    Row("bilinear", F.bilinear, torch_F.bilinear, bilinear(), products=True),
]

ROWS = [*reductions, *shaping, *products]
