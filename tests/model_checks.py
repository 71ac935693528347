"""What the tests of networks share: networks without drawn weights, and one network beside its reference."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from tinyconv import Tensor, nn
from tinyconv.nn import init


@contextmanager
def undrawn() -> Iterator[None]:
    """Networks made here keep weights of zeros, which cost neither time nor memory: for shapes and counts."""
    fill, generator_for = init._fill, init.generator_for

    class Zeros:
        def uniform(self, *_: Any) -> float:
            return 0.0

        normal = uniform

    init._fill, init.generator_for = (lambda tensor, _: tensor), (lambda *_: Zeros())
    try:
        yield
    finally:
        init._fill, init.generator_for = fill, generator_for


def parameters(model: nn.Module) -> int:
    return sum(p.data.size for p in model.parameters())


def shapes(state: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(t.shape) for name, t in state.items()}


def randomise(model: torch.nn.Module, seed: int = 0) -> None:
    """He-like weights, biases, and running statistics that are neither 0 nor 1, in float64."""
    model.double()
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, t in model.state_dict().items():
            if t.ndim > 1:
                t.normal_(0, (2 / t[0].numel()) ** 0.5)
            elif t.is_floating_point():
                t.uniform_(0.5, 1.5) if name.endswith(("weight", "var")) else t.uniform_(-0.2, 0.2)


def compare(
    ours: nn.Module,
    theirs: torch.nn.Module,
    shape: tuple[int, ...],
    rename: dict[str, str] | None = None,
    seed: int = 0,
    own: set[str] | None = None,
) -> None:
    """Random weights of ``theirs`` loaded into ours; both modes: outputs of all layers, gradients, statistics.

    float64, where two orders of summation differ by some 1e-15 a layer. ``rename``: our name of each of their layers,
    where they differ. Layers of the same name must give the same in the order of their calls; only those in ``own`` may
    be without a counterpart.
    """
    randomise(theirs, seed)
    rename = {} if rename is None else rename

    def our_name(name: str) -> str:
        layer, _, last = name.rpartition(".")
        return f"{rename.get(layer, layer)}.{last}" if layer else name

    ours.to("float64").load_state_dict({our_name(n): t.numpy() for n, t in theirs.state_dict().items()})
    for module in [*ours.modules(), *theirs.modules()]:
        if type(module).__name__.startswith("Dropout"):
            module.p = 0.0
    rng = np.random.default_rng(seed)
    for mode in ("eval", "train"):
        getattr(ours, mode)()
        getattr(theirs, mode)()
        x = rng.standard_normal(shape)
        _one_mode(ours, theirs, x, our_name, rename, mode, own or set())
    state = ours.state_dict()
    for name, t in theirs.state_dict().items():  # running statistics after a step
        np.testing.assert_allclose(state[our_name(name)].data, t.numpy(), rtol=1e-8, atol=1e-12, err_msg=name)


def _record(model: Any, rename: dict[str, str], array: Callable[[Any], Any]) -> tuple[dict[str, list[Any]], list[Any]]:
    """A dict that the coming forward pass fills with the outputs of each layer, and the hooks to remove after it."""
    seen: dict[str, list[Any]] = {}
    handles = []
    for name, module in model.named_modules():
        if not list(module.children()):

            def note(_: Any, __: Any, y: Any, name: str = rename.get(name, name)) -> None:
                seen.setdefault(name, []).append(array(y))

            handles.append(module.register_forward_hook(note))
    return seen, handles


def _one_mode(
    ours: nn.Module, theirs: torch.nn.Module, x: Any, our_name: Any, rename: Any, mode: str, own: set[str]
) -> None:
    seen, handles = _record(ours, {}, lambda y: (y[0] if isinstance(y, tuple) else y).data.copy())
    expected, more = _record(theirs, rename, lambda y: y.detach().clone().numpy())  # ReLU in place may follow
    a, b = Tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    ours.zero_grad()
    theirs.zero_grad()
    y, z = ours(a), theirs(b)
    for handle in [*handles, *more]:
        handle.remove()
    assert set(seen) - set(expected) <= own, f"without counterpart: {sorted(set(seen) - set(expected))}"
    for name in seen.keys() & expected.keys():
        values = seen[name]
        assert len(values) == len(expected[name]), f"{name} is called {len(values)} times"
        for value, reference in zip(values, expected[name]):
            close(value, reference, f"{mode}: output of {name}")
    outputs = zip(y, z) if isinstance(y, tuple) else [(y, z)]
    for position, (p, q) in enumerate(outputs):
        close(p.data, q.detach().numpy(), f"{mode}: output {position}")
        v = np.random.default_rng(position).standard_normal(p.shape)
        p.backward(Tensor(v), retain_graph=True)
        q.backward(torch.tensor(v), retain_graph=True)
    close(a.grad.data, b.grad.numpy(), f"{mode}: gradient of the image")
    gradients = dict(ours.named_parameters())
    largest = max(float(p.grad.abs().max()) for p in theirs.parameters() if p.grad is not None)
    for name, p in theirs.named_parameters():
        found = gradients[our_name(name)].grad
        if p.grad is None:
            assert found is None, f"{mode}: {name} has a gradient"
        else:
            close(found.data, p.grad.numpy(), f"{mode}: gradient of {name}", 1e-12 * largest)


def close(found: Any, expected: Any, what: str, rounding: float = 1e-300) -> None:
    """|found - expected| below 1e-8 of the largest |expected|, and ``rounding``.

    A gradient may be zero but for rounding: that of a bias before a norm.
    """
    assert found.shape == expected.shape, f"{what}: shape {found.shape}, the reference has {expected.shape}"
    scale = np.abs(expected).max(initial=0.0)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-8 * scale + rounding, err_msg=what)
