"""Gradient checkpointing: forget what a part of the network computed, and compute it again in backward.

A network of n equal layers holds n layers' worth of values until backward. Cut into sqrt(n) parts that are each called
through :func:`checkpoint`, it holds the inputs of the parts and the values of one part, for one more forward pass.
Source: Chen et al., "Training deep nets with sublinear memory cost", 2016.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tinyconv.autograd import Function, Tensor, enable_grad, grad, is_grad_enabled
from tinyconv.autograd.mode import repeating
from tinyconv.autograd.tensor import Array
from tinyconv.ops.random import get_rng_state, set_rng_state


def checkpoint(function: Callable[..., Any], *args: Any) -> Any:
    """``function(*args)``, a Tensor or a tuple of Tensors, of which nothing but the arguments is kept for backward.

    Backward calls ``function`` again, with the random numbers of the first call (dropout drops the same elements) and
    without counting the batch a second time in running statistics. What ``function`` uses besides its arguments, such
    as parameters, gets its gradients too, if it is a leaf: results of other operators must come as arguments. It must
    compute the same both times: leave train() and eval() alone in between, and give no generator of your own to a
    random operator.

    Errors: TypeError for another result. RuntimeError in backward for create_graph=True, and where an argument or a
    parameter was changed in place since. As torch.utils.checkpoint.checkpoint.
    """
    if not is_grad_enabled():
        return function(*args)
    random = get_rng_state()
    inputs = [_cut(a) for a in args]
    result = function(*inputs)
    outputs = result if isinstance(result, tuple) else (result,)
    if not all(isinstance(y, Tensor) for y in outputs):
        raise TypeError(f"checkpoint: function must return a Tensor or a tuple of them, but returned {type(result)}.")
    places = [i for i, a in enumerate(args) if isinstance(a, Tensor)]
    others = [leaf for leaf in _leaves(outputs) if not any(leaf is x for x in inputs)]
    arrays = tuple([y.data for y in outputs])
    node = _Checkpoint(function, args, places, others, random, arrays if isinstance(result, tuple) else arrays[0])
    return node(*[args[i] for i in places], *others)


class _Checkpoint(Function):
    """A call of ``function`` as one node of the tape. Inputs: its arguments that are tensors, then the leaves that it
    reached without them.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        places: list[int],
        others: list[Tensor],
        random: dict[str, Any],
        result: Any,
    ) -> None:
        self.function, self.random, self.places = function, random, places
        self.args = [None if i in places else a for i, a in enumerate(args)]
        self.saves = tuple(range(len(places) + len(others)))
        self.result = result

    def forward(self, *arrays: Array) -> Any:
        result = self.result
        del self.result  # the tape must not hold it
        return result

    def backward(self, *grads: Tensor) -> Any:
        if is_grad_enabled():
            raise RuntimeError(
                "checkpoint: second derivatives (create_graph=True) do not pass it. Call the function itself."
            )
        saved = self.saved_inputs
        tensors, others = [_cut(t) for t in saved[: len(self.places)]], list(saved[len(self.places) :])
        args = list(self.args)
        for i, t in zip(self.places, tensors):
            args[i] = t
        present = get_rng_state()
        set_rng_state(self.random)
        try:
            with enable_grad(), repeating():
                result = self.function(*args)
        finally:
            set_rng_state(present)
        outputs = result if isinstance(result, tuple) else (result,)
        reached = [(y, g) for y, g in zip(outputs, grads) if y.requires_grad]
        targets = [t for t in [*tensors, *others] if t.requires_grad]
        found = grad([y for y, _ in reached], targets, [g for _, g in reached], allow_unused=True)
        rest = iter(found)
        return tuple([next(rest) if t.requires_grad else None for t in [*tensors, *others]])


def _cut(value: Any) -> Any:
    """A tensor without its history; anything else as it is."""
    if not isinstance(value, Tensor):
        return value
    cut = value.detach()
    cut.requires_grad = value.requires_grad
    return cut


def _leaves(outputs: tuple[Tensor, ...]) -> list[Tensor]:
    """The leaves that ``outputs`` were computed from, each once."""
    leaves: dict[int, Tensor] = {}
    stack: list[Any] = [y if y.grad_fn is None else y.grad_fn for y in outputs if y.requires_grad]
    seen = {id(node) for node in stack}
    while stack:
        node = stack.pop()
        if isinstance(node, Tensor):
            leaves[id(node)] = node
            continue
        for edge in node.edges:
            if edge is not None and id(edge[0]) not in seen:
                seen.add(id(edge[0]))
                stack.append(edge[0])
    return list(leaves.values())
