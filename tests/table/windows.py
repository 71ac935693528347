"""Rows: everything that slides a window or moves pixels: convolution, pooling, folding, padding, resampling,
sampling.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as torch_F
from hypothesis import strategies as st

import tinyconv.functional as F
from compare import A, Call
from table.spec import TAME, Row, batches, options, per_axis, shapes, spell, spread, tensor
from tinyconv.geometry import output_size, transposed_output_size

small = st.integers(1, 3)


def _lead(draw: st.DrawFn, channels: int) -> tuple[int, ...]:
    """Batch and channels, or channels alone."""
    return (channels,) if draw(st.integers(0, 4)) == 0 else (draw(batches), channels)


def _taps(rank: int) -> st.SearchStrategy[int]:
    return st.integers(1, 3 if rank < 3 else 2)


# --------------------------------------------------------------------------------------------------
# Convolution: the output size is drawn, the input size follows, with a rest that the stride does not use


@st.composite
def convolved(draw: st.DrawFn, rank: int) -> Call:
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    channels, filters = groups * draw(st.integers(1, 2)), groups * draw(st.integers(1, 2))
    kernel = tuple(draw(_taps(rank)) for _ in range(rank))
    chosen = options(
        draw,
        bias=st.sampled_from([None, tensor((filters,))]),
        stride=st.just(per_axis(draw, rank, small)),
        padding=st.sampled_from([per_axis(draw, rank, st.integers(0, 2)), "same", "valid"]),
        dilation=st.just(per_axis(draw, rank, small)),
    )
    if groups > 1:
        chosen["groups"] = groups
    if chosen.get("padding") == "same":
        chosen["stride"] = 1
    pads = chosen.get("padding", 0)
    dilations = spread(chosen.get("dilation", 1), rank)
    size = []
    for k, s, d, p in zip(
        kernel,
        spread(chosen.get("stride", 1), rank),
        dilations,
        (0,) * rank if isinstance(pads, str) else spread(pads, rank),
    ):
        extent = d * (k - 1) + 1
        wanted = draw(st.integers(1, 3 if rank < 3 else 2))
        size.append(max(1, (wanted - 1) * s + extent - 2 * p + draw(st.integers(0, s - 1))))
    order = ("bias", "stride", "padding", "dilation", "groups")
    # An infinite weight on padding is NaN here; in torch that depends on the algorithm it picks.
    weight = tensor((filters, channels // groups, *kernel), domain="finite")
    return spell(draw, (tensor((*_lead(draw, channels), *size)), weight), chosen, order)


@st.composite
def transposed(draw: st.DrawFn, rank: int) -> Call:
    groups = draw(st.sampled_from([1, 1, 2]))
    channels, filters = groups * draw(st.integers(1, 2)), groups * draw(st.integers(1, 2))
    kernel = tuple(draw(_taps(rank)) for _ in range(rank))
    size = tuple(draw(small) for _ in range(rank))
    chosen = options(
        draw,
        bias=st.sampled_from([None, tensor((filters,))]),
        stride=st.just(per_axis(draw, rank, small)),
        padding=st.just(per_axis(draw, rank, st.integers(0, 2))),
        dilation=st.just(per_axis(draw, rank, small)),
    )
    strides, dilations = spread(chosen.get("stride", 1), rank), spread(chosen.get("dilation", 1), rank)
    if draw(st.booleans()):
        chosen["output_padding"] = tuple(draw(st.integers(0, max(s, d) - 1)) for s, d in zip(strides, dilations))
    if groups > 1:
        chosen["groups"] = groups
    extra = chosen.get("output_padding", (0,) * rank)
    made = zip(size, kernel, strides, spread(chosen.get("padding", 0), rank), dilations, extra)
    if any(transposed_output_size(i, k, s, p, d, a) < 1 for i, k, s, p, d, a in made):
        chosen.pop("padding", None)
    order = ("bias", "stride", "padding", "output_padding", "groups", "dilation")
    required = (tensor((*_lead(draw, channels), *size)), tensor((channels, filters // groups, *kernel)))
    return spell(draw, required, chosen, order)


# --------------------------------------------------------------------------------------------------
# Pooling


@st.composite
def pooled(draw: st.DrawFn, rank: int, order: str, dilated: bool = False, padded: bool = True, **extra: Any) -> Call:
    """A call of a pool: ``order`` are torch's arguments after the input; extra strategies for options that change no
    size.
    """
    kernel = (
        draw(_taps(rank)) if rank == 1 and not padded else per_axis(draw, rank, _taps(rank))
    )  # torch's lp_pool1d takes an int
    taps = spread(kernel, rank)
    chosen = options(
        draw, stride=st.sampled_from([None, per_axis(draw, rank, small)]), ceil_mode=st.booleans(), **extra
    )
    if padded and draw(st.booleans()):
        chosen["padding"] = tuple(draw(st.integers(0, k // 2)) for k in taps)
    if dilated and draw(st.booleans()):
        chosen["dilation"] = per_axis(draw, rank, small)
    strides = taps if chosen.get("stride") is None else spread(chosen["stride"], rank)
    dilations, pads = spread(chosen.get("dilation", 1), rank), spread(chosen.get("padding", 0), rank)
    size = []
    for k, s, d, p in zip(taps, strides, dilations, pads):
        least = d * (k - 1) + 1 - 2 * p * (rank < 3)  # torch's avg_pool3d wants a whole kernel without the padding
        # At least d pixels, so that no window steps over the image: torch's index of such a maximum lies outside.
        size.append(max(d, least + draw(st.integers(0, 2 if rank == 3 else 4)) + draw(st.integers(0, s - 1))))
        if output_size(size[-1], k, s, p, d, chosen.get("ceil_mode", False)) < 1:
            size[-1] += d * k
    required = (tensor((*_lead(draw, draw(st.integers(1, 2))), *size)),)
    return spell(draw, required, {"kernel_size": kernel, **chosen}, order.split())


def max_pool(rank: int) -> Row:
    order = "kernel_size stride padding dilation ceil_mode"
    name = f"max_pool{rank}d"
    strategy = pooled(rank, order, dilated=True, return_indices=st.booleans())
    return Row(name, getattr(F, name), getattr(torch_F, name), strategy, windowed=True, wild=True)


def avg_pool(rank: int) -> Row:
    order = "kernel_size stride padding ceil_mode count_include_pad divisor_override"
    extra = {"count_include_pad": st.booleans()}
    if rank > 1:
        extra["divisor_override"] = st.sampled_from([None, 1, 3])
    name = f"avg_pool{rank}d"
    strategy = pooled(rank, order, **extra)
    return Row(name, getattr(F, name), getattr(torch_F, name), strategy, windowed=True, products=True, wild=True)


@st.composite
def lp_pooled(draw: st.DrawFn, rank: int) -> Call:
    call = draw(pooled(rank, "", padded=False))
    image = call.args[0]
    chosen = dict(call.kwargs)
    kernel = chosen.pop("kernel_size")
    return spell(
        draw,
        (A(image.shape, "positive"), draw(st.sampled_from([1, 2, 3, 1.5])), kernel),
        chosen,
        ("stride", "ceil_mode"),
    )


@st.composite
def adaptive(draw: st.DrawFn, rank: int, indices: bool) -> Call:
    size = tuple(draw(st.integers(1, 5 if rank < 3 else 3)) for _ in range(rank))
    each = st.integers(1, 6 if rank < 3 else 4)
    wanted: Any = per_axis(draw, rank, each)
    if rank > 1 and draw(st.integers(0, 3)) == 0:
        wanted = tuple(None if draw(st.booleans()) else n for n in spread(wanted, rank))
    chosen = {"return_indices": True} if indices and draw(st.booleans()) else {}
    required = (tensor((*_lead(draw, draw(st.integers(1, 2))), *size)), wanted)
    return spell(draw, required, chosen)


@st.composite
def unpooled(draw: st.DrawFn, rank: int) -> Call:
    """Values and indices as a pool without overlap makes them: each index once, inside its own window."""
    kernel = tuple(draw(st.integers(1, 3)) for _ in range(rank))
    small_size = tuple(draw(st.integers(1, 3)) for _ in range(rank))
    lead = _lead(draw, draw(st.integers(1, 2)))
    seed = draw(st.integers(0, 1000))
    big = tuple(k * n for k, n in zip(kernel, small_size))
    chosen: dict[str, Any] = draw(st.sampled_from([{}, {"stride": None}, {"stride": kernel}, {"padding": 0}]))
    if draw(st.booleans()):
        extra = tuple(n + draw(st.integers(0, k - 1)) for k, n in zip(kernel, big))
        chosen = {**chosen, "output_size": draw(st.sampled_from([extra, (*lead, *extra)])) if len(lead) == 2 else extra}
        big = extra
    image = torch.randn((*lead, *big), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    pool = getattr(torch_F, f"max_pool{rank}d")
    indices = pool(image, kernel, return_indices=True)[1]
    values = A(tuple(indices.shape), "values", dtype="int64", values=tuple(indices.flatten().tolist()))
    return spell(draw, (tensor(indices.shape), values, kernel), chosen)


# --------------------------------------------------------------------------------------------------
# Folding and padding


@st.composite
def columns(draw: st.DrawFn, back: bool) -> Call:
    kernel = per_axis(draw, 2, small)
    taps = spread(kernel, 2)
    chosen = options(
        draw,
        dilation=st.just(per_axis(draw, 2, small)),
        padding=st.just(per_axis(draw, 2, st.integers(0, 2))),
        stride=st.just(per_axis(draw, 2, small)),
    )
    size, blocks = [], 1
    for axis, k in enumerate(taps):
        s, p, d = (
            spread(chosen.get(n, default), 2)[axis] for n, default in (("stride", 1), ("padding", 0), ("dilation", 1))
        )
        size.append(max(1, d * (k - 1) + 1 - 2 * p + draw(st.integers(0, 4))))
        blocks *= output_size(size[-1], k, s, p, d)
    lead = _lead(draw, draw(st.integers(1, 2)))
    order = ("dilation", "padding", "stride")
    if not back:
        return spell(draw, (tensor((*lead, *size)), kernel), chosen, order)
    shape = (*lead[:-1], lead[-1] * taps[0] * taps[1], blocks)
    return spell(draw, (tensor(shape), tuple(size), kernel), chosen, order)


@st.composite
def padded(draw: st.DrawFn) -> Call:
    mode = draw(st.sampled_from(["constant", "constant", "reflect", "replicate", "circular"]))
    if mode == "constant":
        shape = draw(shapes(1, 4, empty=False))
        pads = []
        for n in reversed(shape[-draw(st.integers(1, len(shape))) :]):
            before = draw(st.integers(1 - n, 3))
            pads += [before, draw(st.integers(max(1 - n - before, 1 - n), 3))]
        chosen = draw(st.sampled_from([{}, {"mode": "constant"}, {"mode": "constant", "value": 1.5}, {"value": -2}]))
        return spell(draw, (tensor(shape), pads), chosen, ("mode", "value"))
    rank = draw(st.integers(1, 3))
    size = [draw(st.integers(1, 4 if rank < 3 else 3)) for _ in range(rank)]
    pads = []
    for n in reversed(size):
        most = {"reflect": n - 1, "replicate": 3, "circular": n}[mode]
        pads += [draw(st.integers(0, most)), draw(st.integers(0, most))]
    channels = draw(st.integers(1, 2))
    lead = (draw(st.integers(1, 2)), channels) if draw(st.booleans()) else (channels,)
    return spell(draw, (tensor((*lead, *size)), tuple(pads)), {"mode": mode}, ("mode",))


# --------------------------------------------------------------------------------------------------
# Resampling


@st.composite
def interpolated(draw: st.DrawFn, mode: str) -> Call:
    rank = {"linear": 1, "bilinear": 2, "bicubic": 2, "trilinear": 3}.get(mode) or draw(st.integers(1, 3))
    size = tuple(draw(st.integers(1, 4 if rank < 3 else 3)) for _ in range(rank))
    shape = (draw(st.integers(1, 2)), draw(st.integers(1, 2)), *size)
    chosen: dict[str, Any] = {}
    if draw(st.booleans()):
        chosen["size"] = per_axis(draw, rank, st.integers(1, 6 if rank < 3 else 4))
    else:
        factor = st.sampled_from([1, 2, 1.5, 0.5, 3, 0.7])
        factors = per_axis(draw, rank, factor)
        enough = all(
            int(n * f) >= 1 for n, f in zip(size, factors if isinstance(factors, tuple) else (factors,) * rank)
        )
        chosen["scale_factor"] = factors if enough else 2
        if draw(st.booleans()):
            chosen["recompute_scale_factor"] = draw(st.sampled_from([None, False, True]))
    if mode != "nearest" or draw(st.booleans()):
        chosen["mode"] = mode
    if mode in ("linear", "bilinear", "bicubic", "trilinear"):
        chosen.update(
            draw(st.sampled_from([{}, {"align_corners": True}, {"align_corners": False}, {"align_corners": None}]))
        )
    return spell(draw, (tensor(shape),), chosen, ("size", "scale_factor", "mode", "align_corners"))


@st.composite
def sampled(draw: st.DrawFn, mode: str) -> Call:
    rank = 2 if mode == "bicubic" else draw(st.sampled_from([2, 2, 3]))
    batch, channels = draw(st.integers(0, 2)), draw(st.integers(1, 2))
    size = tuple(draw(st.integers(1, 4)) for _ in range(rank))
    out = tuple(draw(st.integers(1, 3)) for _ in range(rank))
    chosen = options(
        draw,
        padding_mode=st.sampled_from(["zeros", "border", "reflection"]),
        align_corners=st.sampled_from([None, True, False]),
    )
    if mode != "bilinear" or draw(st.booleans()):
        chosen["mode"] = mode
    order = ("mode", "padding_mode", "align_corners")
    return spell(draw, (tensor((batch, channels, *size)), tensor((batch, *out, rank))), chosen, order)


@st.composite
def affine_grids(draw: st.DrawFn) -> Call:
    rank = draw(st.sampled_from([2, 3]))
    batch = draw(st.integers(1, 2))
    size = (batch, draw(st.integers(1, 2)), *(draw(st.integers(1, 4)) for _ in range(rank)))
    chosen = draw(st.sampled_from([{}, {"align_corners": True}, {"align_corners": False}, {"align_corners": None}]))
    return spell(draw, (tensor((batch, rank, rank + 1)), size), chosen, ("align_corners",))


@st.composite
def shuffled(draw: st.DrawFn, back: bool) -> Call:
    r = draw(st.integers(1, 3))
    lead = draw(st.sampled_from([(), (2,), (2, 1)]))  # torch has no gradient for an empty batch
    c, h, w = draw(small), draw(small), draw(small)
    shape = (*lead, c, h * r, w * r) if back else (*lead, c * r * r, h, w)
    return Call((tensor(shape), r))


@st.composite
def regrouped(draw: st.DrawFn) -> Call:
    groups = draw(small)
    return Call((tensor((draw(st.integers(1, 2)), groups * draw(small), draw(small), draw(small))), groups))


def interpolation(mode: str) -> Row:
    # torch computes the source coordinates in float32 for float32 images.
    return Row(
        f"interpolate {mode}",
        F.interpolate,
        torch_F.interpolate,
        interpolated(mode),
        steps=True,
        contents=TAME,
        factor=4,
    )


def sampling(mode: str) -> Row:
    # Large coordinates leave the image; 'ties' hits pixels, borders and centres exactly.
    contents = ("normal", "ties", "negative")
    # The weights of a cell are differences of nearby coordinates, which cancel.
    return Row(
        f"grid_sample {mode}",
        F.grid_sample,
        torch_F.grid_sample,
        sampled(mode),
        steps=True,
        order=1,
        contents=contents,
        factor=16,
    )


RANKS = (1, 2, 3)
ROWS = [
    *(
        Row(
            f"conv{r}d",
            getattr(F, f"conv{r}d"),
            getattr(torch_F, f"conv{r}d"),
            convolved(r),
            windowed=True,
            products=True,
        )
        for r in RANKS
    ),
    *(
        Row(
            f"conv_transpose{r}d",
            getattr(F, f"conv_transpose{r}d"),
            getattr(torch_F, f"conv_transpose{r}d"),
            transposed(r),
            windowed=True,
            products=True,
            contents=TAME,  # torch multiplies the zeros between the pixels too, and 0 * inf is NaN, or does not
        )
        for r in RANKS
    ),
    *(max_pool(r) for r in RANKS),
    *(avg_pool(r) for r in RANKS),
    *(
        Row(
            f"lp_pool{r}d",
            getattr(F, f"lp_pool{r}d"),
            getattr(torch_F, f"lp_pool{r}d"),
            lp_pooled(r),
            windowed=True,
            contents=("normal", "distinct"),
        )
        for r in RANKS
    ),
    *(
        Row(
            f"adaptive_{kind}_pool{r}d",
            getattr(F, f"adaptive_{kind}_pool{r}d"),
            getattr(torch_F, f"adaptive_{kind}_pool{r}d"),
            adaptive(r, kind == "max"),
            windowed=True,
            products=kind == "avg",
            contents=(*TAME, "nan"),
        )
        for r in RANKS
        for kind in ("avg", "max")
    ),
    *(
        Row(
            f"max_unpool{r}d",
            getattr(F, f"max_unpool{r}d"),
            getattr(torch_F, f"max_unpool{r}d"),
            unpooled(r),
            windowed=True,
        )
        for r in RANKS
    ),
    Row("unfold", F.unfold, torch_F.unfold, columns(False), windowed=True, products=True),
    Row("fold", F.fold, torch_F.fold, columns(True), windowed=True, products=True),
    Row("pad", F.pad, torch_F.pad, padded(), products=False),
    *(
        interpolation(mode)
        for mode in ("nearest", "nearest-exact", "linear", "bilinear", "bicubic", "trilinear", "area")
    ),
    *(sampling(mode) for mode in ("bilinear", "nearest", "bicubic")),
    Row("affine_grid", F.affine_grid, torch_F.affine_grid, affine_grids(), contents=TAME),
    Row("pixel_shuffle", F.pixel_shuffle, torch_F.pixel_shuffle, shuffled(False), views=True),
    Row("pixel_unshuffle", F.pixel_unshuffle, torch_F.pixel_unshuffle, shuffled(True), views=True),
    Row("channel_shuffle", F.channel_shuffle, torch.channel_shuffle, regrouped(), views=True),
]
