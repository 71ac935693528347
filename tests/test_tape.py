"""The tape: what the table of operators cannot see."""

from __future__ import annotations

import gc
import threading
from typing import Any

import numpy as np
import pytest
import torch

import tinyconv
from tinyconv import Function, Tensor, grad, no_grad

rng = np.random.default_rng(0)


def leaf(*shape: int, dtype: str = "float64") -> Tensor:
    return Tensor(np.asarray(rng.standard_normal(shape)).astype(dtype), requires_grad=True)


# --------------------------------------------------------------------------------------------------
# The shape of the tape


class Counting(Function):
    """y = x, and a count of the visits."""

    visits = 0

    def forward(self, *xs: np.ndarray) -> np.ndarray:
        return sum(xs[1:], xs[0].copy())

    def backward(self, g: Tensor) -> tuple[Tensor, ...]:
        Counting.visits += 1
        return (g,) * len(self.edges)


@pytest.fixture(autouse=True)
def same_start() -> None:
    """Every test draws the same numbers, whichever ran before it."""
    rng.bit_generator.state = np.random.default_rng(7).bit_generator.state


def test_a_chain_of_100000_nodes() -> None:
    Counting.visits = 0
    x = y = leaf(2)
    for _ in range(100_000):
        y = Counting()(y)
    y.backward(Tensor(np.array([1.0, 2.0])))
    np.testing.assert_array_equal(x.grad.data, [1, 2])
    assert Counting.visits == 100_000


def test_dropping_a_long_chain_does_not_overflow_the_stack() -> None:
    y = leaf(1)
    for _ in range(100_000):
        y = y + 1
    del y
    gc.collect()


@pytest.mark.parametrize("depth", [5, 60])
def test_diamonds_are_linear(depth: int) -> None:
    Counting.visits = 0
    x = y = leaf()
    for _ in range(depth):
        y = Counting()(y, y)
    y.backward()
    assert Counting.visits == depth
    assert x.grad.item() == 2.0**depth


def test_a_second_derivative_through_diamonds_is_linear() -> None:
    x = y = leaf()
    for _ in range(30):
        y = Counting()(y, y)
    (g,) = grad(y * y, x, create_graph=True)
    Counting.visits = 0
    grad(g, x)
    assert Counting.visits < 200


def test_grad_visits_only_what_lies_between() -> None:
    Counting.visits = 0
    x, w = leaf(3), leaf(3)
    below = Counting()(x)
    y = (below * w).sum()
    grad(y, w)
    assert Counting.visits == 0


# --------------------------------------------------------------------------------------------------
# backward and grad


def test_the_tape_is_freed_and_says_so() -> None:
    x = leaf(3)
    y = (x * x).sum()
    y.backward()
    with pytest.raises(RuntimeError, match="retain_graph=True"):
        y.backward()


def test_retain_graph_adds_up() -> None:
    x = leaf(3)
    y = (x * x).sum()
    y.backward(retain_graph=True)
    y.backward()
    np.testing.assert_allclose(x.grad.data, 4 * x.data)


def test_a_graph_that_keeps_nothing_can_be_walked_again() -> None:
    x = leaf(3)
    y = (x + 1).sum()
    y.backward()
    y.backward()
    np.testing.assert_array_equal(x.grad.data, [2, 2, 2])


def test_unused_inputs() -> None:
    x, z = leaf(2), leaf(2)
    y = (x * 3).sum()
    with pytest.raises(RuntimeError, match=r"inputs\[1\].*allow_unused=True"):
        grad(y, [x, z], retain_graph=True)
    g, none = grad(y, [x, z], allow_unused=True)
    assert none is None
    np.testing.assert_array_equal(g.data, [3, 3])
    assert x.grad is None, "grad() leaves .grad alone"


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Tensor(np.ones(2)).sum().backward(), "no history.*requires_grad=True"),
        (lambda: (leaf(2) * 2).backward(), r"shape \(2,\).*sum\(\)"),
        (lambda: (leaf(2) * 2).backward(Tensor(np.ones(3))), r"\(2,\).*\(3,\)"),
        (lambda: (leaf(2) * 2).backward(Tensor(np.ones(2, np.float32))), "float64.*float32"),
        (lambda: grad(leaf(2).sum(), Tensor(np.ones(2))), r"inputs\[0\] does not require"),
        (lambda: grad([leaf(2).sum()], leaf(2), [None, None]), "1 outputs need 1"),
        (lambda: Tensor(np.ones(2, int), requires_grad=True), "only float.*int64"),
        (lambda: Tensor(np.ones(2, complex)), "complex128"),
        (lambda: Tensor(np.array(["a"])), "not supported"),
        (lambda: (leaf(2) * 2).requires_grad_(False), "detach"),
        (lambda: Tensor(np.ones(2)).register_hook(print), "requires no gradient"),
        (lambda: leaf(2).numpy(), r"detach\(\)\.numpy\(\)"),
        (lambda: np.asarray(leaf(2)), r"detach\(\)\.numpy\(\)"),
        (lambda: leaf(2).item(), r"one element.*\(2,\)"),
        (lambda: bool(leaf(2) > 0), "one element"),
        (lambda: len(leaf()), "0-d"),
        (lambda: list(leaf()), "0-d"),
        (lambda: [0, 1][leaf()], "integer"),
        (lambda: leaf(3)[5], r"\(3,\)"),
        (lambda: leaf(3)[0.5], "integer or bool"),
        (lambda: leaf(2).add_(1), "no_grad"),
        (lambda: Tensor(np.ones(1)).add_(np.ones(2)), r"add_.*\(2,\).*\(1,\)"),
        (lambda: Tensor(np.ones(2, int)).mul_(0.5), "mul_.*int64"),
    ],
)
def test_wrong_calls(call: Any, words: str) -> None:
    with pytest.raises((RuntimeError, ValueError, TypeError, IndexError), match=words):
        call()


def test_third_derivatives() -> None:
    """x^4 and sin: closed forms."""
    x = leaf(5)
    for function, third in ((lambda t: t**4, 24 * x.data), (lambda t: t.sin(), -np.cos(x.data))):
        y = function(x).sum()
        for _ in range(3):
            (g,) = grad(y, x, create_graph=True)
            y = g.sum()
        np.testing.assert_allclose(g.data, third, rtol=1e-12)


def test_a_third_derivative_through_a_convolution_equals_torchs() -> None:
    x, w = rng.standard_normal((2, 2, 5, 5)), rng.standard_normal((3, 2, 3, 3))

    def third(engine: Any, functional: Any, make: Any) -> Any:
        a, b = make(x.copy()), make(w.copy())
        y = (functional.conv2d(a, b, None, 2, 1) ** 3).sum()
        differentiate = tinyconv.grad if engine is tinyconv else torch.autograd.grad
        for _ in range(3):
            g, h = differentiate(y, [a, b], create_graph=True)
            y = (g * g * g).sum() + (h * a.sum()).sum()
        return g.detach().numpy()

    import tinyconv.functional as F

    ours = third(tinyconv, F, lambda v: Tensor(v, requires_grad=True))
    theirs = third(torch, torch.nn.functional, lambda v: torch.tensor(v, requires_grad=True))
    np.testing.assert_allclose(ours, theirs, rtol=1e-9)


def test_gradients_never_share_memory() -> None:
    for build in (lambda a, b: a + b, lambda a, b: (a + b).reshape(6), lambda a, b: a - b * 1, lambda a, b: a.T + b.T):
        a, b = leaf(2, 3), leaf(2, 3)
        y = build(a, b)
        v = Tensor(rng.standard_normal(y.shape))
        y.backward(v)
        arrays = [a.grad.data, b.grad.data, v.data, a.data, b.data]
        assert not any(np.shares_memory(p, q) for i, p in enumerate(arrays) for q in arrays[:i])
        assert all(g.flags.writeable for g in arrays[:2])


def test_the_gradient_of_a_broadcast_sum_can_be_written_to() -> None:
    x = leaf(3, 4)
    x.sum().backward()
    x.grad.data += 1  # a stride-0 view would be read-only, or change everywhere at once
    np.testing.assert_array_equal(x.grad.data, np.full((3, 4), 2.0))


def test_backward_on_a_leaf() -> None:
    x = leaf(2)
    v = Tensor(np.array([3.0, 4.0]))
    x.backward(v)
    np.testing.assert_array_equal(x.grad.data, v.data)
    assert not np.shares_memory(x.grad.data, v.data)


def test_several_outputs_and_unused_ones() -> None:
    x = leaf(4, 3)
    values, _ = x.max(1)
    first, *_ = x.split(2)
    tinyconv.backward([values.sum(), first.sum()])
    expected = np.zeros((4, 3))
    expected[np.arange(4), x.data.argmax(1)] = 1
    expected[:2] += 1
    np.testing.assert_array_equal(x.grad.data, expected)


# --------------------------------------------------------------------------------------------------
# Hooks


def test_a_hook_on_a_leaf_and_on_a_result() -> None:
    x = leaf(2)
    y = x * 2
    seen: list[Any] = []
    y.register_hook(lambda g: seen.append(g.data.copy()))
    handle = x.register_hook(lambda g: g * 10)
    y.backward(Tensor(np.array([1.0, 2.0])), retain_graph=True)
    np.testing.assert_array_equal(seen, [[1, 2]])
    np.testing.assert_array_equal(x.grad.data, [20, 40])
    handle.remove()
    handle.remove()
    x.grad = None
    y.backward(Tensor(np.array([1.0, 2.0])))
    np.testing.assert_array_equal(x.grad.data, [2, 4])
    assert len(seen) == 2


def test_a_hook_sees_the_sum_once() -> None:
    x = leaf(2)
    y = x * 2
    calls: list[Any] = []
    y.register_hook(lambda g: calls.append(g.data.copy()))
    (y + y * 3).sum().backward()
    np.testing.assert_array_equal(calls, [[4, 4]])


def test_retain_grad() -> None:
    x = leaf(2)
    y = x * 2
    y.retain_grad()
    z = y * y
    z.sum().backward()
    np.testing.assert_allclose(y.grad.data, 2 * y.data)
    assert z.grad is None


def test_hooks_take_part_in_second_derivatives() -> None:
    x = leaf(3)
    x.register_hook(lambda g: g * g)
    (g,) = grad((x * x).sum(), x, create_graph=True)
    (h,) = grad(g.sum(), x)
    np.testing.assert_allclose(g.data, 4 * x.data**2)
    # The hook runs in the second walk too: (8 x)^2.
    np.testing.assert_allclose(h.data, (8 * x.data) ** 2)


# --------------------------------------------------------------------------------------------------
# Switches


def test_no_grad_and_enable_grad() -> None:
    x = leaf(2)
    with no_grad():
        assert not tinyconv.is_grad_enabled()
        assert not (x * 2).requires_grad
        with tinyconv.enable_grad():
            assert (x * 2).requires_grad
        assert not (x * 2).requires_grad
    with tinyconv.set_grad_enabled(False):
        assert not (x * 2).requires_grad
    assert (x * 2).requires_grad

    @no_grad()
    def quiet(t: Tensor) -> Tensor:
        return t * 2

    assert not quiet(x).requires_grad
    with pytest.raises(ZeroDivisionError), no_grad():
        raise ZeroDivisionError
    assert tinyconv.is_grad_enabled()


def test_grad_mode_belongs_to_the_thread() -> None:
    x = leaf(2)
    inside, done = threading.Event(), threading.Event()
    seen: list[bool] = []

    def other() -> None:
        inside.wait()
        seen.append((x * 2).requires_grad)
        done.set()

    thread = threading.Thread(target=other)
    thread.start()
    with no_grad():
        inside.set()
        done.wait()
    thread.join()
    assert seen == [True]


def test_detach_shares_memory_without_history() -> None:
    x = leaf(2)
    y = (x * 2).detach()
    assert not y.requires_grad and y.grad_fn is None
    assert np.shares_memory(x.detach().data, x.data)


# --------------------------------------------------------------------------------------------------
# Changes in place


def _line_of(text: str) -> int:
    """The line of this file that ends with a comment."""
    with open(__file__) as file:
        return next(n for n, line in enumerate(file, 1) if line.rstrip().endswith(f"# {text}"))


def test_a_changed_saved_tensor_names_both_places() -> None:
    x, w = leaf(3), leaf(3)
    y = w * x  # saved here
    with no_grad():
        x += 1  # changed here
    with pytest.raises(RuntimeError) as error:
        y.sum().backward()
    message = str(error.value)
    assert f"{__file__}:{_line_of('saved here')}" in message
    assert f"{__file__}:{_line_of('changed here')}" in message
    assert "x.clone()" in message and "Mul" in message


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.add_(1),
        lambda t: t.mul_(2),
        lambda t: t.zero_(),
        lambda t: t.fill_(3),
        lambda t: t.copy_(np.zeros(3)),
        lambda t: t.__setitem__(0, 5.0),
        lambda t: t[1:].add_(1),
        lambda t: t.reshape(3, 1).mul_(2),
        lambda t: t.detach().add_(1),
        lambda t: t.sub_(1),
        lambda t: t.div_(2),
    ],
)
def test_every_way_to_change_a_tensor_is_noticed(change: Any) -> None:
    x, w = Tensor(np.array([1.0, 2.0, 3.0])), leaf(3)
    y = (w * x).sum()
    change(x)
    with pytest.raises(RuntimeError, match="changed in place"):
        y.backward()


def test_a_changed_output_is_noticed() -> None:
    x = leaf(3)
    y = x.exp()
    z = y.sum()
    y.detach().mul_(2)
    with pytest.raises(RuntimeError, match="Exp: its output was kept.*changed in place"):
        z.backward()


def test_a_change_of_what_no_gradient_needs_is_allowed() -> None:
    x, b = leaf(3), Tensor(np.ones(3))
    y = (x + b).sum()
    b.add_(1)
    y.backward()
    np.testing.assert_array_equal(x.grad.data, [1, 1, 1])


def test_augmented_assignment_changes_the_tensor_itself() -> None:
    w = leaf(3)
    same, before = w, w.data.copy()
    with no_grad():
        w -= 0.5 * Tensor(np.ones(3))
        w *= 2
    assert same is w and w.requires_grad
    np.testing.assert_allclose(w.data, (before - 0.5) * 2)
    with pytest.raises(RuntimeError, match="x = x \\+ 1"):
        w += 1


@pytest.mark.parametrize("kind", ["residual", "running total", "divided"])
def test_augmented_assignment_on_the_tape_is_that_of_torch(kind: str) -> None:
    """out += identity, total += loss: the values and gradients of torch, whose memory we do not imitate."""

    def run(library: Any, x: Any) -> Any:
        if kind == "running total":
            total = library.zeros(3, dtype=library.float64)
            for factor in (2.0, 3.0):
                total += x * x * factor
            return total
        out = x * 2.0
        if kind == "divided":
            out /= x * x + 1.0
            out -= 1.0
        else:
            out += x
            out *= x
        return out

    values, cotangent = np.array([0.5, -2.0, 3.0]), np.array([1.3, -0.7, 0.2])
    x, theirs = Tensor(values, requires_grad=True), torch.tensor(values, requires_grad=True)
    y, expected = run(tinyconv, x), run(torch, theirs)
    y.backward(Tensor(cotangent))
    expected.backward(torch.tensor(cotangent))
    np.testing.assert_allclose(y.detach().numpy(), expected.detach().numpy(), rtol=1e-14)
    np.testing.assert_allclose(x.grad.numpy(), theirs.grad.numpy(), rtol=1e-14)
    with pytest.raises(ValueError, match="add_"):
        grown = x * 1.0
        grown += Tensor(np.ones((2, 3)))


# --------------------------------------------------------------------------------------------------
# Anomaly mode


class Failing(Function):
    def forward(self, x: np.ndarray) -> np.ndarray:
        return x.copy()

    def backward(self, g: Tensor) -> Tensor:
        raise KeyError("inside")


def test_anomaly_mode_names_the_forward_line_of_a_nan() -> None:
    x = Tensor(np.array([0.0]), requires_grad=True)
    with tinyconv.detect_anomaly():
        y = x.sqrt()  # NaN comes from here
        z = (y * 0).sum()
        with pytest.raises(RuntimeError) as error:
            z.backward()
    assert f"{__file__}:{_line_of('NaN comes from here')}" in str(error.value)
    assert "Sqrt" in str(error.value)
    z = (x.sqrt() * 0).sum()
    z.backward()  # outside, a NaN is a value like any other
    assert np.isnan(x.grad.item())


def test_anomaly_mode_names_the_forward_line_of_an_exception() -> None:
    x = leaf(2)
    with tinyconv.detect_anomaly():
        y = Failing()(x)  # fails from here
        with pytest.raises(RuntimeError) as error:
            y.sum().backward()
    assert f"{__file__}:{_line_of('fails from here')}" in str(error.value)
    assert isinstance(error.value.__cause__, KeyError)
    with pytest.raises(KeyError):
        Failing()(x).sum().backward()


# --------------------------------------------------------------------------------------------------
# gradcheck


class Square(Function):
    """y = x^2 with a backward to be spoiled."""

    saves = (0,)

    def forward(self, x: np.ndarray) -> np.ndarray:
        return x * x

    def backward(self, g: Tensor) -> Tensor:
        (x,) = self.saved_inputs
        return g * x * 2


class WrongFactor(Square):
    def backward(self, g: Tensor) -> Tensor:
        return super().backward(g) * 1.01


class IgnoresItsCotangent(Square):
    def backward(self, g: Tensor) -> Tensor:
        return super().backward(g * 0 + 1)


class TakesItsCotangentForOnes(Square):
    """Right for a cotangent of ones and for zeros, and so for whoever tries no other."""

    def backward(self, g: Tensor) -> Tensor:
        return super().backward(g.sign().abs())


class WrongShape(Square):
    def backward(self, g: Tensor) -> Tensor:
        return super().backward(g).reshape(-1)


class WrongDtype(Square):
    def backward(self, g: Tensor) -> Tensor:
        return super().backward(g).float()


class Random(Square):
    def backward(self, g: Tensor) -> Tensor:
        return super().backward(g) + np.random.default_rng().standard_normal(g.shape)


class WrongSecond(Square):
    """Right at first order; its backward is hidden from the tape."""

    def backward(self, g: Tensor) -> Tensor:
        (x,) = self.saved_inputs
        return g * x.detach() * 2


class SkipsAnElement(Square):
    def backward(self, g: Tensor) -> Tensor:
        mask = np.ones(g.shape)
        mask.flat[-1] = 0
        return super().backward(g) * mask


@pytest.mark.parametrize("fast", [False, True])
def test_gradcheck_takes_what_is_right(fast: bool) -> None:
    assert tinyconv.gradcheck(lambda x: Square()(x), leaf(2, 3), fast=fast)
    assert tinyconv.gradgradcheck(lambda x: Square()(x), leaf(2, 3), fast=fast)
    assert tinyconv.gradcheck(lambda x, w: (x @ w, x.sum()), [leaf(2, 3), leaf(3, 2)], fast=fast)


WRONG_BACKWARDS = [
    WrongFactor,
    IgnoresItsCotangent,
    TakesItsCotangentForOnes,
    WrongShape,
    WrongDtype,
    Random,
    SkipsAnElement,
]


@pytest.mark.parametrize("kind", WRONG_BACKWARDS)
@pytest.mark.parametrize("fast", [False, True])
def test_gradcheck_refuses_what_is_wrong(kind: Any, fast: bool) -> None:
    with pytest.raises(RuntimeError, match="gradcheck|backward"):
        tinyconv.gradcheck(lambda x: kind()(x), leaf(2, 3), fast=fast)


def test_gradgradcheck_refuses_a_wrong_second_derivative() -> None:
    assert tinyconv.gradcheck(lambda x: WrongSecond()(x), leaf(2, 3))
    with pytest.raises(RuntimeError, match="gradcheck"):
        tinyconv.gradgradcheck(lambda x: WrongSecond()(x), leaf(2, 3))


def test_gradcheck_says_what_it_needs() -> None:
    with pytest.raises(TypeError, match="float64"):
        tinyconv.gradcheck(lambda x: x * 2, leaf(2, dtype="float32"))
    with pytest.raises(ValueError, match="requires_grad=True"):
        tinyconv.gradcheck(lambda x: x * 2, Tensor(np.ones(2)))


# --------------------------------------------------------------------------------------------------
# Memory


def _kept() -> int:
    return sum(issubclass(type(o), Tensor | Function) for o in gc.get_objects())


def test_no_growth_with_the_collector_off() -> None:
    """A step leaves no cycle behind: reference counting alone frees graph and tensors."""
    import tinyconv.functional as F

    w = leaf(3, 2, 3, 3)
    x = Tensor(rng.standard_normal((2, 2, 6, 6)))

    def step() -> None:
        w.grad = None
        y = F.relu(F.conv2d(x, w, padding=1))
        y.retain_grad()
        y.register_hook(lambda g: g * 2)
        pooled = F.max_pool2d(y, 2)
        loss = F.cross_entropy(pooled.flatten(1), Tensor(np.array([0, 1])))
        loss.backward(retain_graph=True)
        (g,) = grad(loss, w, create_graph=True)
        (g * g).sum().backward()

    step()
    gc.collect()
    gc.disable()
    try:
        step()
        before = _kept()
        for _ in range(5):
            step()
        assert _kept() == before
        assert gc.collect() == 0 or _kept() == before
    finally:
        gc.enable()


def test_a_freed_tape_holds_no_arrays() -> None:
    x = leaf(3)
    middle = x.exp()
    y = (middle * middle).sum()
    node = y.grad_fn
    y.backward()
    assert node.released or not node.saved_inputs


def test_one_function_object_is_one_application() -> None:
    """A second call would overwrite what the first one's backward needs."""
    x = tinyconv.tensor([2.0], requires_grad=True)
    square = Square()
    square(x)
    with pytest.raises(RuntimeError, match="Square.*new one"):
        square(x)
