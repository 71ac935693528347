"""Groups of a module's parameters, for options of their own."""

from __future__ import annotations

from typing import Any

from tinyconv.nn import Module, Parameter
from tinyconv.nn.norm import _Norm


def decay_groups(module: Module, weight_decay: float) -> list[dict[str, Any]]:
    """[{weights, weight_decay}, {all others, 0}]: decay for the weights of layers, none for norms and biases.

        optimizer = AdamW(decay_groups(model, 0.05), lr=1e-3)

    A bias shifts and a norm's weight scales whatever the size of the numbers, so that a small value there is not a
    simpler network. Without decay are the parameters of norms, those named bias, and those of fewer than two axes;
    frozen ones are left out, and so is an empty group. Source: He et al., "Bag of tricks", CVPR 2019, section 3.1.
    """
    in_norms = {id(p) for m in module.modules() if isinstance(m, _Norm) for p in m.parameters(recurse=False)}
    decayed: list[Parameter] = []
    others: list[Parameter] = []
    for name, p in module.named_parameters():
        if p.requires_grad:
            spared = id(p) in in_norms or p.ndim < 2 or name.split(".")[-1] == "bias"
            (others if spared else decayed).append(p)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]
