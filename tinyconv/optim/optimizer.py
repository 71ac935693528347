"""What all optimisers share: groups of parameters with options of their own, state for each parameter, and saving
both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tinyconv.autograd import Tensor, enable_grad
from tinyconv.autograd.gpu import guarded
from tinyconv.autograd.tensor import Array
from tinyconv.kernels.arrays import array_module, moved


class Optimizer:
    """``params``: Tensors, or dicts ``{"params": [...], "lr": ...}`` with options for that group alone.

    A subclass defines ``update``, the step of one parameter. ``state`` holds what it remembers of each parameter,
    ``param_groups`` the groups with all their options, which may be changed between steps.
    """

    def __init__(self, params: Iterable[Any], defaults: dict[str, Any]) -> None:
        self.defaults = defaults
        self.state: dict[Tensor, dict[str, Any]] = {}
        self.param_groups: list[dict[str, Any]] = []
        if isinstance(params, Tensor):
            raise TypeError(
                f"{self._name}: params must be a list of Tensors or of dicts, but is one Tensor. Use [tensor]."
            )
        listed = list(params)
        if not listed:
            raise ValueError(
                f"{self._name}: params is empty. Pass model.parameters(), once; an iterator serves only once."
            )
        for group in listed if isinstance(listed[0], dict) else [{"params": listed}]:
            self.add_param_group(group)

    @property
    def _name(self) -> str:
        return type(self).__name__

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters with options of their own; those not given are the optimiser's."""
        given = param_group["params"]
        params = [given] if isinstance(given, Tensor) else list(given)
        known = {id(p) for group in self.param_groups for p in group["params"]}
        for position, p in enumerate(params):
            if not isinstance(p, Tensor):
                raise TypeError(
                    f"{self._name}: params must hold Tensors, but number {position} is a {type(p).__name__}."
                )
            if p.grad_fn is not None:
                raise ValueError(f"{self._name}: only leaves can be trained, but parameter {position} is a result.")
            if id(p) in known:
                raise ValueError(f"{self._name}: parameter {position} of a group is listed twice.")
            known.add(id(p))
        unknown = set(param_group) - set(self.defaults) - {"params", "initial_lr"}
        if unknown:
            raise ValueError(f"{self._name}: there is no option {', '.join(sorted(unknown))}.")
        group = {**self.defaults, **param_group, "params": params}
        self.check(group)
        self.param_groups.append(group)

    def check(self, group: Mapping[str, Any]) -> None:
        """Refuse options that make no sense."""
        for name in ("lr", "weight_decay", "momentum", "eps"):
            if name in group and not group[name] >= 0:
                raise ValueError(f"{self._name}: {name} must not be negative, but is {group[name]}.")
        for beta in group.get("betas", ()):
            if not 0 <= beta < 1:
                raise ValueError(f"{self._name}: betas must lie in [0, 1), but are {group['betas']}.")

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients of all parameters, or set them to zero."""
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = None if set_to_none or p.grad is None else p.grad.detach() * 0

    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """One update of all parameters that have a gradient; ``closure`` computes the loss anew before and is
        returned.
        """
        loss = None
        if closure is not None:
            with enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    state = self.state.setdefault(p, {})
                    self._check_device(p, state)
                    guarded(f"{self._name}.step", self.update, _vector(p), _vector(p.grad), state, group)
                    p.changed()
        return loss

    def _check_device(self, p: Tensor, state: dict[str, Any]) -> None:
        """RuntimeError unless the gradient of a parameter and its state are where it is."""
        for name, a in (("gradient", p.grad.data), *state.items()):  # type: ignore[union-attr]
            if hasattr(a, "dtype") and type(a) is not type(p.data):
                mend = "Move the module, not p.data: module.to(device) takes the gradients with it."
                if name != "gradient":
                    mend = "Move the model before the first step, or optimizer.load_state_dict(optimizer.state_dict())."
                raise RuntimeError(
                    f"{self._name}.step: a parameter is on {str(p.device)!r}, but its {name} is not. {mend}"
                )

    def update(self, x: Array, g: Array, state: dict[str, Any], group: Mapping[str, Any]) -> None:
        """Change the values x of a parameter in place, given their gradient, their state and their group's
        options.
        """
        raise NotImplementedError(f"{self._name}: update is not written.")

    def state_dict(self) -> dict[str, Any]:
        """{"state": {number of the parameter: its state}, "param_groups": [options, with numbers as "params"]}.

        The arrays are those of the optimiser, not copies: save them, or copy them, before the next step.
        """
        number = {id(p): str(i) for i, p in enumerate(self._parameters())}
        groups = [{**group, "params": [number[id(p)] for p in group["params"]]} for group in self.param_groups]
        return {"state": {number[id(p)]: dict(state) for p, state in self.state.items()}, "param_groups": groups}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken, to the same bits. ValueError if the groups are not of the same
        sizes.
        """
        saved = state_dict["param_groups"]
        sizes, own = [len(g["params"]) for g in saved], [len(g["params"]) for g in self.param_groups]
        if sizes != own:
            raise ValueError(f"{self._name}: the saved groups have {sizes} parameters, this optimiser's have {own}.")
        number = {str(n): p for g, mine in zip(saved, self.param_groups) for n, p in zip(g["params"], mine["params"])}
        state = {}
        for n, values in state_dict["state"].items():
            p = number[str(n)]
            state[p] = {key: _restored(value, p, f"{self._name}: {key} of {n}") for key, value in values.items()}
        self.state = state
        for group, options in zip(self.param_groups, saved):
            for key, value in options.items():
                if key != "params":
                    group[key] = tuple(value) if isinstance(value, list) else value

    def _parameters(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    def __repr__(self) -> str:
        groups = [
            ", ".join(f"{key}={value}" for key, value in group.items() if key != "params")
            + f", {len(group['params'])} parameters"
            for group in self.param_groups
        ]
        return f"{self._name}({'; '.join(groups)})"


def _vector(t: Tensor) -> Array:
    """The array of a tensor, with an axis if it has none: arithmetic on 0-d arrays gives scalars, which have no
    ``out``.
    """
    return t.data if t.ndim else t.data[None]


def _restored(value: Any, p: Tensor, what: str) -> Any:
    """A copy of a saved array where the parameter is; numbers as they are."""
    if isinstance(value, Tensor):
        value = value.data
    if not hasattr(value, "shape"):
        return value
    if value.shape == ():
        return value.item()  # torch keeps the number of steps in a tensor
    like = _vector(p)
    if value.shape != like.shape:
        raise ValueError(f"{what} has shape {value.shape}, but the parameter has {p.shape}.")
    return array_module(like).array(moved(value, like), dtype=like.dtype)
