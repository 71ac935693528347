"""Rows: arithmetic, comparison, functions of one element, choosing, activations, making tensors."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as torch_F
from hypothesis import strategies as st

import tinyconv
import tinyconv.functional as F
from compare import Call
from table.spec import FLOATS, TAME, Row, axes, broadcastable, calls, shapes, spell, tensor

numbers = st.sampled_from([2, -1, 3, 0.5, -1.5, 2.0, True])


def _of(*values: Any) -> st.SearchStrategy[Any]:
    return st.sampled_from(values)


@st.composite
def two(draw: st.DrawFn, domain: str = "real", number: st.SearchStrategy[Any] = numbers, kwargs: Any = None) -> Call:
    """Two tensors that broadcast, or a tensor and a number on one side."""
    extra = draw(kwargs) if kwargs is not None else {}
    if draw(st.integers(0, 3)) == 0:
        return Call((tensor(draw(shapes(0, 3)), domain=domain), draw(number)), extra)
    a, b = draw(broadcastable())
    return Call((tensor(a, domain=domain), tensor(b, domain=domain)), extra)


def one(domain: str = "real") -> st.SearchStrategy[Call]:
    return shapes().map(lambda shape: Call((tensor(shape, domain=domain),)))


def with_options(order: str, domain: str = "real", least: int = 0, **extra: st.SearchStrategy[Any]) -> Any:
    return calls(lambda draw: (tensor(draw(shapes(least)), domain=domain),), order, **extra)


alphas = st.sampled_from([{}, {"alpha": 2}, {"alpha": -1}])
rounding = st.sampled_from([{}, {"rounding_mode": None}, {"rounding_mode": "floor"}, {"rounding_mode": "trunc"}])

arithmetic = [
    Row("add", tinyconv.add, torch.add, two(kwargs=alphas), wild=True),
    Row("sub", tinyconv.sub, torch.sub, two(number=st.sampled_from([2, -1.5]), kwargs=alphas), wild=True),
    Row("mul", tinyconv.mul, torch.mul, two(), products=True, wild=True),
    Row("div", tinyconv.div, torch.div, two(kwargs=rounding), steps=True, contents=TAME),
    Row("floor_divide", tinyconv.floor_divide, torch.floor_divide, two(), steps=True, order=0),
    Row("remainder", tinyconv.remainder, torch.remainder, two(), steps=True, contents=TAME),
    Row("pow", tinyconv.pow, torch.pow, two("positive", st.sampled_from([2, 3, 0.5, -1, -1.5, 0, 1])), contents=TAME),
    Row(
        "pow of any sign",
        tinyconv.pow,
        torch.pow,
        two(number=st.sampled_from([0, 1, 2, 3, 2.0])),
        order=1,
        contents=("ties",),
    ),
    Row(
        "maximum",
        tinyconv.maximum,
        torch.maximum,
        broadcastable().map(lambda s: Call((tensor(s[0]), tensor(s[1])))),
        wild=True,
    ),
    Row(
        "minimum",
        tinyconv.minimum,
        torch.minimum,
        broadcastable().map(lambda s: Call((tensor(s[0]), tensor(s[1])))),
        wild=True,
    ),
]

comparison = [
    *(Row(name, getattr(tinyconv, name), getattr(torch, name), two(), order=0) for name in "eq ne lt le gt ge".split()),
    *(
        Row(
            name,
            getattr(tinyconv, name),
            getattr(torch, name),
            broadcastable().map(lambda s: Call((tensor(s[0]), tensor(s[1])))),
            order=0,
        )
        for name in "logical_and logical_or logical_xor".split()
    ),
    *(
        Row(name, getattr(tinyconv, name), getattr(torch, name), one(), order=0)
        for name in "isnan isinf isfinite logical_not".split()
    ),
]

_POSITIVE = {"log", "log1p", "sqrt", "rsqrt", "reciprocal"}
_TAN = {"tan"}  # near a pole a unit in the last place of x moves tan x by more than the bound
unary = [
    *(
        Row(
            name,
            getattr(tinyconv, name),
            getattr(torch, name),
            one("positive" if name in _POSITIVE else "real"),
            contents=TAME[:-1] if name in _TAN else TAME,
        )
        for name in "abs cos erf exp expm1 log log1p neg reciprocal rsqrt sigmoid sin sqrt square tan tanh".split()
    ),
    *(
        Row(name, getattr(tinyconv, name), getattr(torch, name), one(), wild=True)
        for name in "ceil floor round sign trunc".split()
    ),
    # At the edge of the domain: infinite and NaN values, and what the gradient makes of them.
    *(
        Row(
            f"{name} anywhere",
            getattr(tinyconv, name),
            getattr(torch, name),
            one(),
            order=1,
            contents=("ties", "infinite", "nan"),
        )
        for name in "log log1p sqrt reciprocal exp expm1 sigmoid tanh abs square".split()
    ),
    Row("clone", tinyconv.clone, torch.clone, one(), wild=True),
    Row("zeros_like", tinyconv.zeros_like, torch.zeros_like, one(), order=0),
    Row("ones_like", tinyconv.ones_like, torch.ones_like, one(), order=0),
]


@st.composite
def clamped(draw: st.DrawFn, tensors: bool) -> Call:
    shape = draw(shapes())
    if tensors:
        a, b = (tuple(1 if draw(st.booleans()) else n for n in shape) for _ in range(2))
        return spell(draw, (tensor(shape),), draw(_of({"min": tensor(a), "max": tensor(b)}, {"max": tensor(b)})))
    low, high = draw(_of((-1, 1), (-0.5, 2.0), (0, 0), (1, -1)))
    return spell(
        draw, (tensor(shape),), draw(_of({"min": low, "max": high}, {"min": low}, {"max": high})), ("min", "max")
    )


@st.composite
def chosen(draw: st.DrawFn) -> Call:
    mask, a, b = draw(broadcastable(3))
    sides = draw(st.sampled_from([(tensor(a), tensor(b)), (tensor(a), 0.5), (2.0, tensor(b))]))
    return Call((tensor(mask, domain="bool"), *sides))


@st.composite
def filled(draw: st.DrawFn) -> Call:
    shape = draw(shapes())
    start = draw(st.integers(0, len(shape)))
    mask = tuple(1 if draw(st.booleans()) else n for n in shape[start:])
    return Call((tensor(shape), tensor(mask, domain="bool"), draw(st.sampled_from([0, -1.5, float("-inf")]))))


choosing = [
    Row("clamp", tinyconv.clamp, torch.clamp, clamped(False)),
    # Where min equals max, torch loses the gradient of both.
    Row("clamp between tensors", tinyconv.clamp, torch.clamp, clamped(True), contents=("normal", "negative", "nan")),
    Row("where", tinyconv.where, torch.where, chosen(), wild=True),
    Row("masked_fill", tinyconv.masked_fill, torch.masked_fill, filled(), wild=True),
]


def activation(
    name: str, positions: str = "", contents: tuple[str, ...] = TAME, order: int = 2, dtypes: Any = FLOATS, **extra: Any
) -> Row:
    calls = with_options(positions, **extra)
    return Row(name, getattr(F, name), getattr(torch_F, name), calls, contents=contents, order=order, dtypes=dtypes)


@st.composite
def with_slopes(draw: st.DrawFn) -> Call:
    shape = draw(shapes(1))
    channels = shape[1] if len(shape) > 1 else 1
    count = draw(_of(1, channels)) or 1
    return Call((tensor(shape), tensor((count,))))


@st.composite
def halved(draw: st.DrawFn) -> Call:
    shape = list(draw(shapes(1, 4)))
    axis = draw(axes(len(shape)))
    shape[axis] *= 2
    return spell(draw, (tensor(shape),), {"dim": axis}, ("dim",)) if axis != -1 else Call((tensor(shape),))


along = shapes(1).flatmap(lambda s: axes(len(s)).map(lambda axis: Call((tensor(s), axis))))

activations = [
    activation("relu", contents=(*TAME, "nan", "infinite")),
    activation("relu6"),
    activation("leaky_relu", "negative_slope", negative_slope=_of(0.01, 0.2, 0.0, 1.5)),
    activation("elu", "alpha", alpha=_of(1.0, 0.5, 2.0)),
    activation("celu", "alpha", alpha=_of(1.0, 0.5, 2.0)),
    activation("selu"),
    activation("gelu", "", approximate=_of("none", "tanh")),
    activation("silu"),
    activation("mish"),
    activation("hardtanh", "min_val max_val", min_val=_of(-1.0, -2.0, 0.0), max_val=_of(1.0, 2.0)),
    activation("hardswish"),
    activation("hardsigmoid", order=1, dtypes=("float32",)),  # torch's 1/6 is that of float32
    activation("softplus", "beta threshold", beta=_of(1.0, 0.5, 2), threshold=_of(20.0, 1)),
    activation("softsign"),
    activation("tanhshrink"),
    activation("logsigmoid"),
    Row(
        "threshold",
        F.threshold,
        torch_F.threshold,
        shapes().flatmap(
            lambda s: st.tuples(_of(0.0, 1.0, -0.5), _of(0.0, -3.0)).map(lambda tv: Call((tensor(s), *tv)))
        ),
        contents=TAME,
    ),
    Row("softmax", F.softmax, torch_F.softmax, along),
    Row("log_softmax", F.log_softmax, torch_F.log_softmax, along),
    Row("softmin", F.softmin, torch_F.softmin, along),
    Row("prelu", F.prelu, torch_F.prelu, with_slopes(), contents=TAME),
    Row("glu", F.glu, torch_F.glu, halved(), contents=TAME),
]

# --------------------------------------------------------------------------------------------------
# Making tensors: no tensor comes in


def _dtyped(function: Any, engine: Any) -> Any:
    """dtype as its name, since each engine has its own objects for them."""

    def call(*args: Any, dtype: str | None = None, **kwargs: Any) -> Any:
        return function(*args, **kwargs, **({} if dtype is None else {"dtype": getattr(engine, dtype)}))

    return call


def creation(
    name: str, arguments: st.SearchStrategy[Any], dtypes: tuple[str, ...] = ("float32", "float64", "int64")
) -> Row:
    kwargs = _of({}, *({"dtype": d} for d in dtypes))
    return Row(
        name,
        _dtyped(getattr(tinyconv, name), tinyconv),
        _dtyped(getattr(torch, name), torch),
        st.tuples(arguments, kwargs).map(lambda pair: Call(*pair)),
        order=0,
    )


values = _of(0, 3, -1, 0.5, True)
making = [
    creation("zeros", _of((2, 3), ((2, 0),), ((),), ((4,),))),
    creation("ones", _of((2, 3), ((2, 0),), ((),), ((4,),))),
    creation("full", st.tuples(_of((2, 3), (0,), ()), values)),
    creation("eye", _of((3,), (2, 4), (0,), (4, 1))),
    creation(
        "arange",
        _of((5,), (0,), (2, 7), (7, 2, -2), (0, 1, 0.25), (0.5, 3), (1, 10, 3), (0, -3, -1)),
        ("float32", "float64"),
    ),
    creation("linspace", _of((0, 1, 5), (2, -2, 4), (0, 1, 1), (0.5, 0.5, 3), (0, 1, 0)), ("float32", "float64")),
    creation("tensor", _of((1,), (1.5,), (True,), ([1, 2],), ([[1.0, 2], [3, 4]],), ([],), ([True, False],))),
]

ROWS = [*arithmetic, *comparison, *unary, *choosing, *activations, *making]
