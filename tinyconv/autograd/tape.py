"""The walk back over the tape: gradients of outputs with respect to inputs.

The nodes are visited from the outputs to the leaves, each one once, after everything that uses it: first the
users of each node are counted, then a node is ready when its last user has been visited. No recursion,
and a diamond (y = x + x, again and again) costs as many visits as it has nodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tinyconv.autograd.function import Edge, Function
from tinyconv.autograd.mode import amp_paused, enable_grad, no_grad, switches
from tinyconv.autograd.tensor import Array, Tensor
from tinyconv.kernels.arrays import array_module


def backward(
    tensors: Tensor | Sequence[Tensor],
    grad_tensors: Tensor | Sequence[Tensor | None] | None = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
) -> None:
    """Add d(tensors)/d(leaf), weighted by ``grad_tensors``, to ``leaf.grad`` of every leaf that requires a gradient.

    ``grad_tensors`` has the shapes of ``tensors`` and may be left out for one-element tensors (it is 1 then).
    ``create_graph`` records the walk itself, for higher derivatives; ``retain_graph`` keeps the tape for another walk.
    Raises RuntimeError where nothing was recorded or the tape has been freed.
    """
    roots, grads = _roots("backward", tensors, grad_tensors)
    _walk(roots, grads, None, create_graph if retain_graph is None else retain_graph, create_graph)


def grad(
    outputs: Tensor | Sequence[Tensor],
    inputs: Tensor | Sequence[Tensor],
    grad_outputs: Tensor | Sequence[Tensor | None] | None = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    allow_unused: bool = False,
) -> tuple[Tensor | None, ...]:
    """d(outputs)/d(inputs), weighted by ``grad_outputs``: one gradient an input, no ``.grad`` touched.

    ``inputs`` may be leaves or results. Walks only the part of the tape between ``inputs`` and ``outputs``. Raises
    RuntimeError for an input that the outputs do not depend on, unless ``allow_unused``, which gives None for it.
    """
    roots, grads = _roots("grad", outputs, grad_outputs)
    wanted = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    for position, t in enumerate(wanted):
        if not isinstance(t, Tensor) or not t.requires_grad:
            raise RuntimeError(
                f"grad: inputs[{position}] does not require a gradient. Set requires_grad=True before it is used."
            )
    targets = [(t, 0) if t.grad_fn is None else (t.grad_fn, t.output_index) for t in wanted]
    found = _walk(roots, grads, targets, create_graph if retain_graph is None else retain_graph, create_graph)
    result = tuple(found.get((id(node), index)) for node, index in targets)
    if not allow_unused and any(g is None for g in result):
        position = [g is None for g in result].index(True)
        raise RuntimeError(
            f"grad: outputs do not depend on inputs[{position}]. Pass allow_unused=True to get None for it."
        )
    return result


def _roots(op: str, outputs: Any, grads: Any) -> tuple[list[Tensor], list[Tensor]]:
    """The outputs and one cotangent for each, checked."""
    outputs = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    grads = [grads] * len(outputs) if grads is None or isinstance(grads, Tensor) else list(grads)
    if len(grads) != len(outputs):
        raise ValueError(f"{op}: {len(outputs)} outputs need {len(outputs)} gradients, but {len(grads)} were given.")
    full = []
    for out, g in zip(outputs, grads):
        if not isinstance(out, Tensor) or not out.requires_grad:
            raise RuntimeError(
                f"{op}: this tensor has no history. Set requires_grad=True on an input before computing it, "
                f"outside no_grad()."
            )
        if g is None:
            if out.data.size != 1:
                raise RuntimeError(
                    f"{op}: a gradient can be left out only for one element, but the output has shape {out.shape}. "
                    f"Reduce it (y.sum().backward()) or pass a gradient of that shape."
                )
            g = Tensor.wrap(array_module(out.data).ones(out.shape, out.dtype))
        g = g if isinstance(g, Tensor) else Tensor(g)
        if g.device != out.device:
            raise RuntimeError(
                f"{op}: the gradient must be on the output's device {str(out.device)!r}, but is on {str(g.device)!r}. "
                f"Move it: gradient.to({str(out.device)!r})."
            )
        if g.shape != out.shape or g.dtype != out.dtype:
            raise ValueError(
                f"{op}: the gradient must have the output's shape {out.shape} and dtype {out.dtype}, "
                f"but has {g.shape} and {g.dtype}."
            )
        full.append(g)
    return outputs, full


def _count_users(roots: list[Tensor]) -> dict[int, int]:
    """How many edges lead to each node (by id) from the nodes above it."""
    users: dict[int, int] = {}
    top = {id(t.grad_fn): t.grad_fn for t in roots if t.grad_fn is not None}
    seen, stack = set(top), list(top.values())
    while stack:
        for edge in stack.pop().edges:
            if edge is None:
                continue
            node = edge[0]
            users[id(node)] = users.get(id(node), 0) + 1
            if isinstance(node, Function) and id(node) not in seen:
                seen.add(id(node))
                stack.append(node)
    return users


def _leading_to(roots: list[Tensor], targets: list[Edge]) -> set[int]:
    """Ids of the nodes from which a target can be reached: the only ones that ``grad`` has to visit."""
    goal = {id(node) for node, _ in targets}
    leading: set[int] = set(goal)
    state: dict[int, bool] = {}
    stack = [(t.grad_fn, False) for t in roots if t.grad_fn is not None]
    while stack:  # depth first, each node seen before and after what lies below it
        node, done = stack.pop()
        below = [edge[0] for edge in node.edges if edge is not None]
        if done:
            if any(id(n) in leading for n in below):
                leading.add(id(node))
        elif id(node) not in state:
            state[id(node)] = True
            stack.append((node, True))
            stack.extend((n, False) for n in below if isinstance(n, Function) and id(n) not in state)
    return leading


def _walk(
    roots: list[Tensor], grads: list[Tensor], targets: list[Edge] | None, retain: bool, create: bool
) -> dict[tuple[int, int], Tensor]:
    """Visit the tape. With targets: return their gradients by (id of node, output). Without: add to the leaves'
    ``grad``.
    """
    users = _count_users(roots)
    leading = None if targets is None else _leading_to(roots, targets)
    wanted = set() if targets is None else {(id(node), index) for node, index in targets}
    found: dict[tuple[int, int], Tensor] = {}
    pending: dict[int, dict[int, Tensor]] = {}  # id of node -> output -> gradient so far
    # Arrays that somebody else holds already: a leaf that is given one of them takes a copy.
    held = {id(g.data): g.data for g in grads}

    with amp_paused(), enable_grad() if create else no_grad():
        ready: dict[int, Any] = {}
        for t, g in zip(roots, grads):
            node = t if t.grad_fn is None else t.grad_fn
            _add(pending.setdefault(id(node), {}), t.output_index, g)
            if not users.get(id(node)):
                ready[id(node)] = node
        stack = list(ready.values())
        while stack:
            node = stack.pop()
            received = _hooked(node, pending.pop(id(node), {}))
            for index, g in received.items():
                if (id(node), index) in wanted:
                    found[id(node), index] = g
            if isinstance(node, Tensor):
                if targets is None and 0 in received:
                    _accumulate(node, received[0], held)
                continue
            useful = bool(received) and (
                leading is None or any(e is not None and id(e[0]) in leading for e in node.edges)
            )
            results = _visit(node, received) if useful else (None,) * len(node.edges)
            for edge, result in zip(node.edges, results):
                if edge is None:
                    continue
                below, index = edge
                if result is not None:
                    _add(pending.setdefault(id(below), {}), index, result)
                users[id(below)] -= 1
                if users[id(below)] == 0:
                    stack.append(below)
            if useful and not retain:
                node.release()
    return found


def _add(slots: dict[int, Tensor], index: int, g: Tensor) -> None:
    slots[index] = slots[index] + g if index in slots else g


def _hooked(node: Any, received: dict[int, Tensor]) -> dict[int, Tensor]:
    """The gradients of a node's outputs after the hooks registered on them."""
    if not node.hooks:
        return received
    hooks = {0: node.hooks} if isinstance(node, Tensor) else node.hooks
    for index in received:
        for hook in hooks.get(index, ()):
            changed = hook(received[index])
            if changed is not None:
                received[index] = changed
    return received


def _visit(node: Function, received: dict[int, Tensor]) -> tuple[Tensor | None, ...]:
    """Gradients of a node's inputs; an output that nobody used contributes zeros."""
    if node.released:
        raise RuntimeError(
            f"{node.name}: the tape was freed by an earlier backward. Pass retain_graph=True there to walk it twice."
        )
    xp = array_module(next(iter(received.values())).data)
    grads = [
        received[i] if i in received else Tensor.wrap(xp.zeros(shape, dtype))
        for i, (shape, dtype) in enumerate(node.outputs)
    ]
    try:
        results = node.backward(*grads)
    except Exception as error:
        if node.stack is None:
            raise
        raise RuntimeError(f"{node.name}: backward failed ({error}). {_forward_line(node)}") from error
    results = results if isinstance(results, tuple) else (results,)
    if len(results) != len(node.edges):
        raise RuntimeError(f"{node.name}: backward returned {len(results)} gradients for {len(node.edges)} inputs.")
    if switches.anomaly:
        for position, g in enumerate(results):
            if g is not None and node.needs_grad(position) and np.isnan(float(g.data.sum())):
                raise RuntimeError(f"{node.name}: backward gave NaN for input {position}. {_forward_line(node)}")
    return results


def _forward_line(node: Function) -> str:
    stack = "".join(node.stack) if node.stack is not None else ""
    return f"The forward call was at {node.place}\nTraceback of the forward call:\n{stack}"


def _accumulate(leaf: Tensor, g: Tensor, held: dict[int, Array]) -> None:
    """leaf.grad += g, never sharing memory with another tensor's gradient."""
    if g.shape != leaf.shape or g.dtype != leaf.dtype:
        raise RuntimeError(
            f"backward: a gradient of shape {g.shape} and dtype {g.dtype} reached a leaf of shape {leaf.shape} and "
            f"dtype {leaf.dtype}. The backward of the operator that used the leaf is wrong."
        )
    if leaf.grad is not None:
        leaf.grad = leaf.grad + g
        return
    if id(g.data) in held or g.data.base is not None:
        g = g.clone()
    held[id(g.data)] = g.data
    leaf.grad = g
