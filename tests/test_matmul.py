"""matmul, einsum, linear and bilinear against torch, and the wrong calls."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as TF
from hypothesis import given, settings
from hypothesis import strategies as st

import tinyconv
from compare import A, Call, check
from tinyconv import Tensor, gradcheck, gradgradcheck
from tinyconv import functional as F
from tinyconv.ops.matmul import einsum
from windowed import refused, turns

sizes = st.integers(1, 4)


@st.composite
def products(draw: st.DrawFn) -> Call:
    """Two operands of one to four axes whose leading axes broadcast; seldom one axis is empty."""
    m, k, n = (draw(st.sampled_from([0, 1, 2, 3, 4])) for _ in range(3))
    batch = draw(st.lists(st.sampled_from([1, 2, 3]), max_size=2))

    def leading() -> tuple[int, ...]:
        kept = batch[draw(st.integers(0, len(batch))) :]
        return tuple(1 if draw(st.booleans()) else b for b in kept)

    a = (k,) if draw(st.integers(0, 3)) == 0 else (*leading(), m, k)
    b = (k,) if draw(st.integers(0, 3)) == 0 else (*leading(), k, n)
    return Call((A(a), A(b)))


@settings(max_examples=150)
@given(products(), turns())
def test_matmul_is_that_of_torch(call: Call, turn: Any) -> None:
    check(tinyconv.matmul, torch.matmul, call, turn, order=2, products=True)


@settings(max_examples=40)
@given(products(), turns(("nan", "infinite"), ("float64",)))
def test_matmul_of_what_is_not_finite(call: Call, turn: Any) -> None:
    check(tinyconv.matmul, torch.matmul, call, turn, order=0)


@st.composite
def linears(draw: st.DrawFn) -> tuple[str, Call]:
    leading = tuple(draw(st.lists(st.integers(0, 3), max_size=3)))
    i, j, o = (draw(sizes) for _ in range(3))
    if draw(st.booleans()):
        return "bilinear", Call(
            (A((*leading, i)), A((*leading, j)), A((o, i, j)), draw(st.sampled_from([None, A((o,))])))
        )
    if draw(st.integers(0, 4)) == 0:
        return "linear", Call((A((*leading, i)), A((i,))))
    return "linear", Call((A((*leading, i)), A((o, i)), draw(st.sampled_from([None, A((o,))]))))


@settings(max_examples=80)
@given(linears(), turns())
def test_linear_and_bilinear_are_those_of_torch(case: tuple[str, Call], turn: Any) -> None:
    name, call = case
    check(getattr(F, name), getattr(TF, name), call, turn, order=2, products=True)


@st.composite
def equations(draw: st.DrawFn) -> Call:
    """Up to three operands with letters from a small alphabet, repeated ones and '...' among them."""
    size = {letter: draw(st.integers(1, 3)) for letter in "abcD"}
    dots = tuple(draw(st.lists(st.integers(1, 3), max_size=2)))
    terms, arrays = [], []
    for _ in range(draw(st.integers(1, 3))):
        letters = "".join(draw(st.lists(st.sampled_from("abcD"), max_size=3)))
        shape = [size[c] if letters.count(c) > 1 or draw(st.integers(0, 5)) else 1 for c in letters]
        if draw(st.integers(0, 2)) == 0:
            at, kept = draw(st.integers(0, len(letters))), dots[draw(st.integers(0, len(dots))) :]
            letters = letters[:at] + "..." + letters[at:]
            shape[at:at] = [1 if draw(st.integers(0, 3)) == 0 else n for n in kept]
        terms.append(letters)
        arrays.append(A(tuple(shape)))
    equation = ",".join(terms)
    if draw(st.booleans()):
        used = sorted(set(equation) - set(".,"))
        output = "".join(draw(st.permutations(draw(st.lists(st.sampled_from(used), unique=True)) if used else [])))
        if "..." in equation and draw(st.booleans()):
            output = "..." + output
        equation += "->" + output
    return Call((equation, *arrays))


@settings(max_examples=200)
@given(equations(), turns(("normal", "large")))
def test_einsum_is_that_of_torch(call: Call, turn: Any) -> None:
    check(einsum, torch.einsum, call, turn, order=2, products=True, views=True)


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("bij,bjk->bik", [(2, 3, 4), (2, 4, 5)]),
        ("bhqd,bhkd->bhqk", [(2, 2, 3, 4), (2, 2, 5, 4)]),
        ("i,j,k->kij", [(2,), (3,), (4,)]),
        ("ij,jk,kl,lm->im", [(2, 3), (3, 4), (4, 2), (2, 3)]),
        ("iij,jkk->ki", [(2, 2, 3), (3, 4, 4)]),
        ("nchw,ochw->no", [(2, 3, 2, 2), (4, 3, 2, 2)]),
        ("ii", [(3, 3)]),
        ("->", [()]),
        (" i j , j k -> i k ", [(2, 3), (3, 2)]),
        ("...ij,jk...->i...k", [(4, 1, 2, 3), (3, 2, 5)]),
    ],
)
def test_einsum_of_known_equations(equation: str, shapes: list[tuple[int, ...]]) -> None:
    from compare import Turn

    check(einsum, torch.einsum, Call((equation, *map(A, shapes))), Turn(), order=2, products=True, views=True)


def test_derivatives_against_finite_differences() -> None:
    rng = np.random.default_rng(0)
    a, b, c = (Tensor(rng.standard_normal(s), requires_grad=True) for s in ((2, 3), (2, 3, 2), (2,)))
    for function in (
        lambda a, b, c: tinyconv.matmul(a, b),
        lambda a, b, c: einsum("ij,kjl,l->ik", a, b, c),
        lambda a, b, c: einsum("...ij,kji,i", a, b, c),
    ):
        assert gradcheck(function, (a, b, c))
        assert gradgradcheck(function, (a, b, c))


def test_integers_and_float16() -> None:
    x = np.arange(6).reshape(2, 3)
    assert tinyconv.matmul(x, x.T).data.tolist() == [[5, 14], [14, 50]]
    half = np.full((1, 4000), 1.0, np.float16)
    assert tinyconv.matmul(half, half.T).data.item() == 4000  # a sum in float16 stops at 2048


def ones(*shape: int, dtype: str = "float32") -> np.ndarray:
    return np.ones(shape, dtype)


A23 = ones(2, 3)
WRONG = [
    ("inner sizes", tinyconv.matmul, torch.matmul, (A23, A23), "(2, 3) and (2, 3)"),
    ("vectors", tinyconv.matmul, torch.matmul, (ones(3), ones(2)), "(3,) and (2,)"),
    ("number", tinyconv.matmul, torch.matmul, (ones(), ones(2)), "1 axis"),
    ("batches", tinyconv.matmul, torch.matmul, (ones(2, 2, 3), ones(3, 3, 3)), "broadcast"),
    ("mixed", tinyconv.matmul, torch.matmul, (A23, ones(3, 2, dtype="float64")), "float32 | float64"),
    ("bool", tinyconv.matmul, torch.matmul, (A23 > 0, A23.T > 0), "bool"),
    ("linear features", F.linear, TF.linear, (ones(2, 4), ones(5, 3)), "3 features | (2, 4)"),
    ("linear number", F.linear, TF.linear, (ones(), ones(5, 3)), "3 features"),
    ("linear weight", F.linear, TF.linear, (A23, ones(5, 1, 3)), "weight | (5, 1, 3)"),
    ("linear bias", F.linear, TF.linear, (A23, ones(5, 3), ones(4)), "bias | (5,)"),
    ("linear mixed", F.linear, TF.linear, (A23, ones(5, 3), ones(5, dtype="float64")), "bias | float64"),
    ("bilinear weight", F.bilinear, TF.bilinear, (A23, A23, ones(5, 3)), "weight"),
    ("bilinear sizes", F.bilinear, TF.bilinear, (A23, A23, ones(5, 3, 2)), "(5, 3, 2)"),
    ("bilinear batches", F.bilinear, TF.bilinear, (A23, ones(1, 3), ones(5, 3, 3)), "(2, 3) and (1, 3)"),
    ("bilinear bias", F.bilinear, TF.bilinear, (A23, A23, ones(5, 3, 3), ones(4)), "bias"),
    ("einsum output twice", einsum, torch.einsum, ("ij->ijj", A23), "'j'"),
    ("einsum unknown output", einsum, torch.einsum, ("ij->k", A23), "'k'"),
    ("einsum operands", einsum, torch.einsum, ("ij,jk", A23), "2 operands | 1"),
    ("einsum no operand", einsum, torch.einsum, ("",), "0"),
    ("einsum axes", einsum, torch.einsum, ("ijk", A23), "'ijk' | 2"),
    ("einsum too few letters", einsum, torch.einsum, ("i", A23), "'i'"),
    ("einsum digits", einsum, torch.einsum, ("i1", A23), "letters"),
    ("einsum dots", einsum, torch.einsum, ("..ij", A23), "'...'"),
    ("einsum dots twice", einsum, torch.einsum, ("...i...", A23), "'...'"),
    ("einsum arrows", einsum, torch.einsum, ("ij->ji->ij", A23), "letters"),
    ("einsum sizes", einsum, torch.einsum, ("ij,jk", A23, ones(2, 3)), "'j' | 3 and 2"),
    ("einsum diagonal", einsum, torch.einsum, ("ii", A23), "'i' | 2 and 3"),
    ("einsum dot sizes", einsum, torch.einsum, ("...,...", A23, ones(2, 2)), "'...' | 3 and 2"),
    ("einsum mixed", einsum, torch.einsum, ("ij,jk", A23, ones(3, 2, dtype="float64")), "float64"),
]  # fmt: skip


@pytest.mark.parametrize(("ours", "theirs", "args", "named"), [pytest.param(*w[1:], id=w[0]) for w in WRONG])
def test_wrong_calls_are_refused_in_words(ours: Any, theirs: Any, args: tuple[Any, ...], named: str) -> None:
    refused(ours, theirs, args, named)
