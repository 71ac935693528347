"""What the tests of operators share: one call on both sides, values, gradients and second derivatives compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from tinyconv import Tensor, grad

#: rtol of a comparison of two different orders of summation of a few hundred terms, times the operators in a row.
RTOL = {np.dtype(np.float64): 1e-10, np.dtype(np.float32): 2e-5}


def _close(found: Tensor | None, expected: torch.Tensor | None, what: str) -> None:
    if expected is None or found is None:
        # No gradient and a gradient of zeros say the same.
        left = 0.0 if found is None else found.data
        right = 0.0 if expected is None else expected.detach().numpy(force=True)
        assert np.all(left == right), f"{what}: one side has no gradient, the other is not zero"
        return
    reference = expected.detach().numpy(force=True)
    assert found.shape == reference.shape, f"{what}: shape {found.shape}, torch has {reference.shape}"
    assert found.dtype == reference.dtype, f"{what}: dtype {found.dtype}, torch has {reference.dtype}"
    rtol = RTOL.get(reference.dtype, 0)
    finite = reference[np.isfinite(reference)]
    scale = np.abs(finite).max(initial=0.0)
    np.testing.assert_allclose(found.data, reference, rtol=rtol, atol=rtol * max(scale, 1e-3), err_msg=what)


def agree(
    ours: Callable[..., Any],
    theirs: Callable[..., Any],
    arrays: Sequence[np.ndarray[Any, Any]],
    wanted: Sequence[int] | None = None,
    second: bool = True,
    seed: int = 0,
) -> None:
    """Equal values, and equal gradients by the arrays ``wanted`` (all float ones) for a random cotangent.

    With ``second``, equal gradients of <those gradients, random> by the inputs and the cotangent as well.
    """
    rng = np.random.default_rng(seed)
    wanted = [i for i, a in enumerate(arrays) if a.dtype.kind == "f"] if wanted is None else wanted
    a = [Tensor(x.copy(), requires_grad=i in wanted) for i, x in enumerate(arrays)]
    b = [torch.tensor(x).requires_grad_(i in wanted) for i, x in enumerate(arrays)]
    before = [x.copy() for x in arrays]
    y, z = ours(*a), theirs(*b)
    _close(y, z, "value")
    for t, x in zip(a, before):
        np.testing.assert_array_equal(t.data, x, err_msg="an input was changed")
    if not wanted:
        return
    v = rng.standard_normal(y.shape).astype(y.dtype)
    va, vb = Tensor(v, requires_grad=True), torch.tensor(v).requires_grad_(True)
    inputs_a, inputs_b = [a[i] for i in wanted], [b[i] for i in wanted]
    first_a = grad(y, inputs_a, va, create_graph=second, allow_unused=True)
    first_b = torch.autograd.grad(z, inputs_b, vb, create_graph=second, allow_unused=True)
    for i, g, h in zip(wanted, first_a, first_b):
        _close(g, h, f"gradient of input {i}")
    if not second:
        return
    pairs = [
        (g, h, rng.standard_normal(g.shape).astype(g.dtype))
        for g, h in zip(first_a, first_b)
        if g is not None and h is not None and h.requires_grad
    ]
    cotangents = [u for *_, u in pairs]
    second_a = grad([g for g, *_ in pairs], [*inputs_a, va], [Tensor(u) for u in cotangents], allow_unused=True)
    second_b = torch.autograd.grad(
        [h for _, h, _ in pairs], [*inputs_b, vb], [torch.tensor(u) for u in cotangents], allow_unused=True
    )
    for i, g, h in zip([*wanted, "cotangent"], second_a, second_b):
        _close(g, h, f"second derivative by input {i}")
