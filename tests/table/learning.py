"""Rows: normalisation, losses."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as torch_F
from hypothesis import strategies as st

import tinyconv.functional as F
from compare import A, Call
from table.spec import Row, options, shapes, sizes, spell, tensor

reductions = st.sampled_from(["none", "mean", "sum"])
SMOOTH = ("normal", "distinct", "negative")

# --------------------------------------------------------------------------------------------------
# Normalisation


def _updated(batch_or_instance_norm: Any) -> Any:
    """The norm on copies of the running statistics, which are returned beside the result."""

    def call(x: Any, mean: Any = None, var: Any = None, *args: Any, **kwargs: Any) -> Any:
        mean, var = (None if s is None else s.clone() for s in (mean, var))
        y = batch_or_instance_norm(x, mean, var, *args, **kwargs)
        return y, mean, var

    return call


def _constant(count: int, domain: str = "real") -> A:
    return A((count,), domain, grad=False)


def _scale(draw: st.DrawFn, shape: tuple[int, ...], halves: bool) -> dict[str, Any]:
    """weight and bias, or neither; with ``halves`` one of them, for which torch has no second derivative."""
    weight, bias = {"weight": tensor(shape)}, {"bias": tensor(shape)}
    if halves:
        return draw(st.sampled_from([weight, bias, {"weight": None, **bias}, {**weight, "bias": None}]))
    return draw(st.sampled_from([{}, {"weight": None, "bias": None}, {**weight, **bias}]))


@st.composite
def batch_normed(draw: st.DrawFn, instance: bool, halves: bool = False) -> Call:
    channels = draw(st.integers(1, 3))
    space = tuple(draw(st.integers(2, 4)) for _ in range(draw(st.integers(1, 3))))
    shape = (draw(st.integers(1, 3)), channels, *space)
    if not instance and draw(st.integers(0, 3)) == 0:
        shape = (draw(st.integers(2, 4)), channels)
    if instance and draw(st.integers(0, 4)) == 0:
        shape = (draw(st.integers(1, 3)), channels, *space)
    flag = "use_input_stats" if instance else "training"
    chosen = _scale(draw, (channels,), halves) | options(
        draw,
        momentum=st.sampled_from([0.1, 0.5, 0.0]),
        eps=st.sampled_from([1e-5, 1e-3, 0.5]),
        **{flag: st.booleans()},
    )
    stats: tuple[Any, ...] = (_constant(channels), _constant(channels, "positive"))
    if chosen.get(flag, instance) and draw(st.booleans()):
        stats = (None, None)
    return spell(draw, (tensor(shape), *stats), chosen, ("weight", "bias", flag, "momentum", "eps"))


@st.composite
def layer_normed(draw: st.DrawFn, halves: bool = False) -> Call:
    shape = draw(shapes(1, 4, empty=False))
    last = shape[len(shape) - draw(st.integers(1, len(shape))) :]
    chosen = _scale(draw, last, halves) | options(draw, eps=st.sampled_from([1e-5, 1e-2]))
    return spell(draw, (tensor(shape), list(last)), chosen, ("weight", "bias", "eps"))


@st.composite
def group_normed(draw: st.DrawFn, halves: bool = False) -> Call:
    groups = draw(st.integers(1, 3))
    channels = groups * draw(st.integers(1, 2))
    space = tuple(draw(st.integers(2, 4)) for _ in range(draw(st.integers(1, 3))))
    # torch's group norm has no gradient at all for a bias without a weight.
    scale = {"weight": tensor((channels,))} if halves else _scale(draw, (channels,), False)
    chosen = scale | options(draw, eps=st.sampled_from([1e-5, 1e-2]))
    return spell(draw, (tensor((draw(st.integers(1, 3)), channels, *space)), groups), chosen, ("weight", "bias", "eps"))


@st.composite
def locally_normed(draw: st.DrawFn) -> Call:
    space = tuple(draw(sizes) for _ in range(draw(st.integers(1, 3))))
    chosen = options(
        draw,
        alpha=st.sampled_from([1e-4, 0.5]),
        beta=st.sampled_from([0.75, 0.5]),
        k=st.sampled_from([1.0, 2.0]),
    )
    shape = (draw(st.integers(1, 2)), draw(st.integers(1, 5)), *space)
    return spell(draw, (tensor(shape), draw(st.integers(1, 5))), chosen, ("alpha", "beta", "k"))


@st.composite
def normalized(draw: st.DrawFn) -> Call:
    shape = draw(shapes(2, 4, empty=False))
    chosen = options(
        draw, p=st.sampled_from([2.0, 1.0, 3.0]), dim=st.integers(0, len(shape) - 1), eps=st.sampled_from([1e-12, 1e-2])
    )
    return spell(draw, (tensor(shape),), chosen, ("p", "dim", "eps"))


# Normalising divides by a spread that may be small beside the mean: the error of x - mean, relative to the spread, is
# larger.
norms = [
    *(
        Row(
            f"{name}{' with weight or bias' * halves}",
            ours,
            theirs,
            strategy(halves),
            order=2 - halves,
            contents=SMOOTH,
            factor=64,
        )
        for halves in (False, True)
        for name, ours, theirs, strategy in (
            (
                "batch_norm",
                _updated(F.batch_norm),
                _updated(torch_F.batch_norm),
                lambda halves: batch_normed(False, halves),
            ),
            (
                "instance_norm",
                _updated(F.instance_norm),
                _updated(torch_F.instance_norm),
                lambda halves: batch_normed(True, halves),
            ),
            ("layer_norm", F.layer_norm, torch_F.layer_norm, layer_normed),
            ("group_norm", F.group_norm, torch_F.group_norm, group_normed),
        )
    ),
    Row("local_response_norm", F.local_response_norm, torch_F.local_response_norm, locally_normed(), contents=SMOOTH),
    Row("normalize", F.normalize, torch_F.normalize, normalized(), contents=SMOOTH, factor=64),
]

# --------------------------------------------------------------------------------------------------
# Losses


def _fixed(shape: tuple[int, ...], domain: str = "real") -> A:
    return A(shape, domain, grad=False)


def pairwise(domain: str = "real", target: str = "real", fixed: bool = False, **extra: st.SearchStrategy[Any]) -> Any:
    """input and target of one shape, and options by name."""

    @st.composite
    def drawn(draw: st.DrawFn) -> Call:
        shape = draw(shapes(1, 3, empty=False))
        goal = A(shape, target, grad=not fixed)
        return Call((A(shape, domain), goal), options(draw, reduction=reductions, **extra))

    return drawn()


@st.composite
def binary(draw: st.DrawFn, logits: bool) -> Call:
    shape = draw(shapes(1, 3, empty=False))
    weight = st.sampled_from([None, _fixed(shape, "positive"), _fixed(shape[-1:], "positive")])
    chosen = options(draw, weight=weight, reduction=reductions)
    if logits:
        chosen.update(options(draw, pos_weight=st.sampled_from([None, _fixed(shape[-1:], "positive")])))
    return spell(draw, (A(shape, "real" if logits else "unit"), A(shape, "unit", grad=logits)), chosen, ("weight",))


@st.composite
def classified(draw: st.DrawFn, soft: bool) -> Call:
    """nll_loss and cross_entropy: (C), (N, C) or (N, C, ...), some targets ignored."""
    classes = draw(st.integers(1, 4))
    batch = draw(st.integers(1, 3))
    space = tuple(draw(sizes) for _ in range(draw(st.integers(0, 3))))
    shape = (classes,) if draw(st.integers(0, 4)) == 0 else (batch, classes, *space)
    labels = () if len(shape) == 1 else (batch, *space)
    chosen = options(draw, weight=st.sampled_from([None, _fixed((classes,), "positive")]), reduction=reductions)
    goal = A(labels, "int", 0, classes)
    if soft:
        chosen.update(options(draw, label_smoothing=st.sampled_from([0.0, 0.1, 1.0])))
        if draw(st.integers(0, 2)) == 0:
            return spell(draw, (tensor(shape), A(shape, "rows" if len(shape) > 1 else "unit")), chosen, ("weight",))
    if draw(st.booleans()):
        ignored = draw(st.integers(-1, classes - 1))
        chosen["ignore_index"] = ignored
        goal = A(labels, "int", min(ignored, 0), classes)
    return spell(draw, (tensor(shape), goal), chosen, ("weight",))


@st.composite
def embedded(draw: st.DrawFn) -> Call:
    n, width = draw(sizes), draw(st.integers(2, 4))
    chosen = options(draw, margin=st.sampled_from([0.0, 0.5, -0.5]), reduction=reductions)
    signs = tuple(draw(st.sampled_from([-1, 1])) for _ in range(n))
    if draw(st.integers(0, 4)) == 0:
        target = A((), "values", dtype="int64", values=signs[:1])
        return Call((tensor((width,)), tensor((width,)), target), chosen)
    target = A((n,), "values", dtype="int64", values=signs)
    return Call((tensor((n, width)), tensor((n, width)), target), chosen)


@st.composite
def similar(draw: st.DrawFn) -> Call:
    shape = draw(shapes(2, 3, empty=False))
    chosen = options(draw, dim=st.integers(0, len(shape) - 1), eps=st.sampled_from([1e-8, 1e-3]))
    return spell(draw, (tensor(shape), tensor(shape)), chosen, ("dim", "eps"))


def torch_dice(
    input: torch.Tensor,
    target: torch.Tensor,
    smooth: float = 1e-5,
    batch: bool = False,
    background: bool = True,
    reduction: str = "mean",
) -> torch.Tensor:
    """Soft Dice in torch, which has none: its own formula, with its own gradients."""
    if target.ndim != input.ndim:
        target = torch_F.one_hot(target, input.shape[1]).movedim(-1, 1).to(input.dtype)
    start = 0 if background else 1
    p, t = input[:, start:], target[:, start:]
    space = ([0] if batch else []) + list(range(2, p.ndim))
    total = torch.sum if space else (lambda x, _: x)
    dice = (2 * total(p * t, space) + smooth) / (total(p, space) + total(t, space) + smooth)
    return {"mean": torch.mean, "sum": torch.sum, "none": lambda x: x}[reduction](1 - dice)


@st.composite
def overlapping(draw: st.DrawFn) -> Call:
    batch, classes = draw(st.integers(1, 3)), draw(st.integers(2, 3))
    space = tuple(draw(sizes) for _ in range(draw(st.integers(0, 2))))
    shape = (batch, classes, *space)
    chosen = options(
        draw, smooth=st.sampled_from([1e-5, 1.0]), batch=st.booleans(), background=st.booleans(), reduction=reductions
    )
    goal = draw(st.sampled_from([A((batch, *space), "int", 0, classes), A(shape, "unit")]))
    return Call((A(shape, "unit"), goal), chosen)


betas = st.sampled_from([1.0, 0.5, 2.0])
losses = [
    Row("mse_loss", F.mse_loss, torch_F.mse_loss, pairwise()),
    Row("l1_loss", F.l1_loss, torch_F.l1_loss, pairwise()),
    Row(
        "smooth_l1_loss", F.smooth_l1_loss, torch_F.smooth_l1_loss, pairwise(beta=st.sampled_from([1.0, 0.5, 0.0, 2.0]))
    ),
    Row("huber_loss", F.huber_loss, torch_F.huber_loss, pairwise(delta=betas)),
    Row(
        "kl_div",
        F.kl_div,
        torch_F.kl_div,
        pairwise("real", "unit", log_target=st.booleans()).flatmap(
            lambda call: st.sampled_from(["none", "mean", "sum", "batchmean"]).map(
                lambda r: Call(call.args, {**call.kwargs, "reduction": r})
            )
        ),
        contents=("normal", "distinct", "negative"),
    ),
    Row("kl_div at 0", F.kl_div, torch_F.kl_div, pairwise("real", "unit", fixed=True), contents=("ties",)),
    Row(
        "binary_cross_entropy",
        F.binary_cross_entropy,
        torch_F.binary_cross_entropy,
        binary(False),
        contents=("normal",),
    ),
    Row(
        "binary_cross_entropy at 0 and 1",
        F.binary_cross_entropy,
        torch_F.binary_cross_entropy,
        binary(False),
        order=1,
        contents=("ties",),
        dtypes=("float32",),  # torch's 1e-12 is that of float32, 4e-9 off
    ),
    Row(
        "binary_cross_entropy_with_logits",
        F.binary_cross_entropy_with_logits,
        torch_F.binary_cross_entropy_with_logits,
        binary(True),
        contents=("normal", "ties", "distinct", "large", "negative"),
    ),
    Row("nll_loss", F.nll_loss, torch_F.nll_loss, classified(False), contents=("normal", "ties", "large", "negative")),
    Row(
        "cross_entropy",
        F.cross_entropy,
        torch_F.cross_entropy,
        classified(True),
        contents=("normal", "ties", "large", "negative"),
    ),
    Row("cosine_similarity", F.cosine_similarity, torch_F.cosine_similarity, similar(), contents=SMOOTH, factor=64),
    Row(
        "cosine_embedding_loss",
        F.cosine_embedding_loss,
        torch_F.cosine_embedding_loss,
        embedded(),
        contents=("normal",),
        factor=64,
    ),
    Row("dice_loss", F.dice_loss, torch_dice, overlapping(), contents=("normal", "ties")),
]

ROWS = [*norms, *losses]
