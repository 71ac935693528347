"""Module: parameters, buffers and other modules under names, and a forward."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from difflib import get_close_matches
from typing import Any, NamedTuple, TypeVar

from tinyconv.autograd import Function, Tensor
from tinyconv.autograd.dtypes import is_float
from tinyconv.autograd.tensor import Array
from tinyconv.methods import Handle
from tinyconv.ops.convert import read_targets

M = TypeVar("M", bound="Module")


class Parameter(Tensor):
    """A Tensor that a Module takes for one of its parameters when it is assigned to an attribute.

    ``data`` is an array, or a Tensor whose memory it shares; ``requires_grad`` is True unless said otherwise.
    """

    __slots__ = ()

    def __init__(self, data: Array, requires_grad: bool = True) -> None:
        super().__init__(data, requires_grad)


class LoadResult(NamedTuple):
    """Names that load_state_dict found missing, and names it had no use for."""

    missing_keys: list[str]
    unexpected_keys: list[str]


class Module:
    """A part of a network. A subclass calls ``super().__init__()``, assigns its parts, and defines ``forward``:

        class Block(nn.Module):
            def __init__(self, channels):
                super().__init__()
                self.conv = nn.Conv2d(channels, channels, 3, padding=1)

            def forward(self, x):
                return F.relu(self.conv(x)) + x

    Calling it runs ``forward`` and the hooks. ``training`` is True until ``eval()``.
    """

    shown: tuple[str, ...] = ()  # attributes that the representation shows
    training: bool
    _parameters: dict[str, Parameter | None]
    _buffers: dict[str, Tensor | None]
    _modules: dict[str, Module | None]

    def __init__(self) -> None:
        attributes = self.__dict__  # past __setattr__, which needs these to exist
        attributes["_parameters"], attributes["_buffers"], attributes["_modules"] = {}, {}, {}
        attributes["_temporary"] = set()  # names of buffers that the state dict leaves out
        attributes["_pre_hooks"], attributes["_hooks"], attributes["_backward_hooks"] = [], [], []
        attributes["training"] = True

    # ----------------------------------------------------------------------------------------------
    # Attributes

    def __setattr__(self, name: str, value: Any) -> None:
        registries = [self.__dict__.get(kind) for kind in ("_parameters", "_buffers", "_modules")]
        if registries[0] is None:
            if isinstance(value, Parameter | Module):
                raise AttributeError(f"{type(self).__name__}: call super().__init__() before assigning self.{name}.")
            object.__setattr__(self, name, value)
            return
        parameters, buffers, modules = registries
        if isinstance(value, Parameter):
            home = parameters
        elif isinstance(value, Module):
            home = modules
        else:
            home = next((r for r in registries if r is not None and name in r), None)
            if home is None:
                object.__setattr__(self, name, value)
                return
            if value is not None and not (home is buffers and isinstance(value, Tensor)):
                kind = "Parameter" if home is parameters else "Module" if home is modules else "Tensor"
                raise TypeError(
                    f"{type(self).__name__}: self.{name} is registered, so it must stay a {kind} or None, but is "
                    "assigned "
                    f"a {type(value).__name__}. To change its values, write to self.{name}.data."
                )
        if home is not None:
            for other in (*registries, self.__dict__):
                if other is not None and other is not home:
                    other.pop(name, None)
            home[name] = value

    def __getattr__(self, name: str) -> Any:  # only called for what is not in __dict__
        for kind in ("_parameters", "_buffers", "_modules"):
            registry = self.__dict__.get(kind, {})
            if name in registry:
                return registry[name]
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}.")

    def __delattr__(self, name: str) -> None:
        for registry in (self._parameters, self._buffers, self._modules):
            if name in registry:
                del registry[name]
                return
        object.__delattr__(self, name)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self._parameters, *self._buffers, *self._modules})

    def register_parameter(self, name: str, param: Parameter | None) -> None:
        """``self.name = param``; None reserves the name, for a parameter that an option leaves out."""
        if param is not None and not isinstance(param, Parameter):
            raise TypeError(f"register_parameter: {name} must be a Parameter or None, but is {type(param).__name__}.")
        self._parameters[name] = param

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """``self.name = tensor``: it moves with the module and is saved (if ``persistent``), but it is not
        trained.
        """
        if tensor is not None and not isinstance(tensor, Tensor):
            raise TypeError(f"register_buffer: {name} must be a Tensor or None, but is {type(tensor).__name__}.")
        self._buffers[name] = tensor
        self._temporary.discard(name) if persistent else self._temporary.add(name)

    def add_module(self, name: str, module: Module | None) -> None:
        """``self.name = module``, also for names that are no identifiers, such as '0'."""
        if module is not None and not isinstance(module, Module):
            raise TypeError(f"add_module: {name} must be a Module or None, but is {type(module).__name__}.")
        self._modules[name] = module

    # ----------------------------------------------------------------------------------------------
    # Running

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the module computes; a subclass defines it."""
        raise NotImplementedError(f"{type(self).__name__}: forward(self, ...) is not defined.")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not (self._pre_hooks or self._hooks or self._backward_hooks):
            return self.forward(*args, **kwargs)
        for hook in list(self._pre_hooks):
            changed = hook(self, args)
            if changed is not None:
                args = changed if isinstance(changed, tuple) else (changed,)
        if self._backward_hooks:
            crossing = _Crossing(self, list(self._backward_hooks))
            args = crossing.enter(args)
            result = crossing.leave(self.forward(*args, **kwargs))
        else:
            result = self.forward(*args, **kwargs)
        for hook in list(self._hooks):
            changed = hook(self, args, result)
            result = result if changed is None else changed
        return result

    def register_forward_pre_hook(self, hook: Callable[[Module, tuple[Any, ...]], Any]) -> Handle:
        """Call ``hook(module, args)`` before forward; what it returns, if not None, takes the place of the
        arguments.
        """
        self._pre_hooks.append(hook)
        return Handle(self._pre_hooks, hook)

    def register_forward_hook(self, hook: Callable[[Module, tuple[Any, ...], Any], Any]) -> Handle:
        """Call ``hook(module, args, output)`` after forward; what it returns, if not None, takes the output's
        place.
        """
        self._hooks.append(hook)
        return Handle(self._hooks, hook)

    def register_full_backward_hook(self, hook: Callable[[Module, Any, Any], Any]) -> Handle:
        """Call ``hook(module, grad_input, grad_output)`` when the gradients of the module's arguments are known.

        Both are tuples with a Tensor or None an argument, or output. What the hook returns, if not None, takes the
        place of ``grad_input``.
        """
        self._backward_hooks.append(hook)
        return Handle(self._backward_hooks, hook)

    # ----------------------------------------------------------------------------------------------
    # Walking

    def children(self) -> Iterator[Module]:
        """The modules assigned to this one, each once."""
        return (module for _, module in self.named_children())

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """(name, module) of :meth:`children`."""
        seen = set()
        for name, module in self._modules.items():
            if module is not None and module not in seen:
                seen.add(module)
                yield name, module

    def modules(self) -> Iterator[Module]:
        """This module and all below it, each once."""
        return (module for _, module in self.named_modules())

    def named_modules(self, memo: set[Module] | None = None, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """(dotted name, module) of :meth:`modules`; this one's name is ``prefix``, '' by default."""
        memo = set() if memo is None else memo
        if self not in memo:
            memo.add(self)
            yield prefix, self
            for name, module in self._modules.items():
                if module is not None:
                    yield from module.named_modules(memo, f"{prefix}.{name}" if prefix else name)

    def parameters(self, recurse: bool = True) -> Iterator[Parameter]:
        """All parameters, each once."""
        return (p for _, p in self.named_parameters(recurse=recurse))

    def named_parameters(self, prefix: str = "", recurse: bool = True) -> Iterator[tuple[str, Parameter]]:
        """(dotted name, parameter) of :meth:`parameters`."""
        return self._named("_parameters", prefix, recurse)

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]:
        """All buffers, each once."""
        return (b for _, b in self.named_buffers(recurse=recurse))

    def named_buffers(self, prefix: str = "", recurse: bool = True) -> Iterator[tuple[str, Tensor]]:
        """(dotted name, buffer) of :meth:`buffers`."""
        return self._named("_buffers", prefix, recurse)

    def _named(self, kind: str, prefix: str, recurse: bool) -> Iterator[tuple[str, Any]]:
        seen: set[int] = set()
        for path, module in self.named_modules(prefix=prefix) if recurse else [(prefix, self)]:
            for name, tensor in module.__dict__[kind].items():
                if tensor is not None and id(tensor) not in seen:
                    seen.add(id(tensor))
                    yield f"{path}.{name}" if path else name, tensor

    def get_submodule(self, target: str) -> Module:
        """The module below this one with the dotted name ``target``."""
        found: Any = self
        for name in target.split(".") if target else []:
            found = found._modules.get(name)
            if found is None:
                raise AttributeError(f"get_submodule: {type(self).__name__} has no module {target!r}.")
        return found

    # ----------------------------------------------------------------------------------------------
    # State

    def train(self: M, mode: bool = True) -> M:
        """Training mode here and below: dropout drops, batch norm uses the batch's statistics unless frozen."""
        self.training = mode
        for module in self.children():
            module.train(mode)
        return self

    def eval(self: M) -> M:
        """The opposite of :meth:`train`."""
        return self.train(False)

    def requires_grad_(self: M, requires_grad: bool = True) -> M:
        """Train the parameters, or freeze them."""
        for p in self.parameters():
            p.requires_grad = requires_grad
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients of the parameters, or set them to zero."""
        for p in self.parameters():
            p.grad = None if set_to_none or p.grad is None else p.grad.detach() * 0

    def apply(self: M, fn: Callable[[Module], object]) -> M:
        """Call ``fn`` on every module below this one and then on this one, e.g. to initialise weights."""
        for module in self.children():
            module.apply(fn)
        fn(self)
        return self

    def to(self: M, *targets: Any, device: str | None = None, dtype: Any = None) -> M:
        """Move parameters, their gradients and buffers to 'cpu' or 'cuda', cast the floating ones to a dtype, or both.

        In place, all or nothing; returns self. The parameters stay the same objects, so that an optimiser made before
        goes on with them.
        """
        place, kind = read_targets("Module.to", targets, device, dtype)
        if kind is not None and not is_float(kind):
            raise TypeError(
                f"Module.to: a module holds floats, so target must be a device or a float dtype, but is {kind}."
            )
        parts = [part for t in [*self.parameters(), *self.buffers()] for part in (t, t.grad) if part is not None]
        arrays = [p.detach().to(device=place, dtype=kind if is_float(p.dtype) else None).data for p in parts]
        for part, array in zip(parts, arrays):
            part.data = array
        return self

    def cpu(self: M) -> M:
        """self.to('cpu')"""
        return self.to("cpu")

    def cuda(self: M) -> M:
        """self.to('cuda')"""
        return self.to("cuda")

    def state_dict(self, prefix: str = "") -> dict[str, Tensor]:
        """Name -> Tensor of all parameters and persistent buffers. They share the module's memory: training goes on
        in them.
        """
        state = {prefix + n: t.detach() for n, t in self._parameters.items() if t is not None}
        for name, buffer in self._buffers.items():
            if buffer is not None and name not in self._temporary:
                state[prefix + name] = buffer.detach()
        for name, module in self._modules.items():
            if module is not None:
                state.update(module.state_dict(f"{prefix}{name}."))
        return state

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> LoadResult:
        """Copy Tensors or arrays of ``state_dict`` into the parameters and buffers of the same names.

        All or nothing: ValueError, which lists the missing, unexpected and misshapen names (five of each at most, with
        near names), comes before the first copy. ``strict=False`` allows missing and unexpected names and returns them.
        """
        own = self.state_dict()
        missing = [name for name in own if name not in state_dict]
        unexpected = [name for name in state_dict if name not in own]
        given = {name: _array(state_dict[name], name) for name in own if name in state_dict}
        faults = [
            f"{name} has shape {array.shape}, but the module's has {own[name].shape}"
            for name, array in given.items()
            if array.shape != own[name].shape
        ]
        faults = [_some(faults, separator="; ")] if faults else []
        if strict and unexpected:
            faults.insert(0, f"unexpected: {_some(unexpected, missing)}")
        if strict and missing:
            faults.insert(0, f"missing: {_some(missing)}")
        if faults:
            raise ValueError(f"load_state_dict: this is not the state of a {type(self).__name__}: {'; '.join(faults)}.")
        for name, array in given.items():
            target = own[name]
            target.data[...] = Tensor(array).to(target.device).data
            target.changed()
        return LoadResult(missing, unexpected)

    # ----------------------------------------------------------------------------------------------
    # Looking

    def extra_repr(self) -> str:
        """What stands in the parentheses of the representation: the attributes named in ``shown``."""
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in self.shown)

    def __repr__(self) -> str:
        lines = [self.extra_repr()] if self.extra_repr() else []
        below = [f"({name}): {module!r}".replace("\n", "\n  ") for name, module in self._modules.items()]
        if not below:
            return f"{type(self).__name__}({', '.join(lines)})"
        body = "\n  ".join(lines + below)
        return f"{type(self).__name__}(\n  {body}\n)"


def _some(names: list[str], wanted: Collection[str] = (), separator: str = ", ") -> str:
    """The first five, each with that of ``wanted`` which it resembles, and how many more there are."""
    near = {name: get_close_matches(str(name), wanted, n=1) for name in names[:5]}
    listed = [f"{name} (near {match[0]})" if match else str(name) for name, match in near.items()]
    return separator.join(listed + ([f"and {len(names) - 5} more"] if len(names) > 5 else []))


def _array(value: Any, name: str) -> Array:
    if isinstance(value, Tensor):
        return value.data
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return value
    raise TypeError(f"load_state_dict: {name} must be a Tensor or an array, but is {type(value).__name__}.")


# --------------------------------------------------------------------------------------------------
# Backward hooks: two identities on the tape, around the module, see the gradients pass


class _Pass(Function):
    """y = x for several tensors at once; their gradients go through ``seen`` on the way back."""

    def __init__(self, seen: Callable[[tuple[Tensor, ...]], tuple[Tensor, ...]]) -> None:
        self.seen = seen

    def forward(self, *arrays: Array) -> tuple[Array, ...]:
        return arrays

    def backward(self, *grads: Tensor) -> tuple[Tensor, ...]:
        return self.seen(grads)


def _through(seen: Callable[[tuple[Tensor, ...]], tuple[Tensor, ...]], values: tuple[Any, ...]) -> tuple[Any, ...]:
    """``values`` with those Tensors that require gradients sent through a :class:`_Pass`."""
    where = [i for i, v in enumerate(values) if isinstance(v, Tensor) and v.requires_grad]
    if not where:
        return values
    passed = dict(zip(where, _Pass(seen)(*[values[i] for i in where])))
    for i, t in passed.items():
        t.version = values[i].version  # the same memory
    return tuple(passed.get(i, v) for i, v in enumerate(values))


class _Crossing:
    """One call of a module with backward hooks: remembers the gradients of the outputs until those of the inputs
    come.
    """

    def __init__(self, module: Module, hooks: list[Callable[[Module, Any, Any], Any]]) -> None:
        self.module, self.hooks = module, hooks
        self.inputs: list[int] = []
        self.arguments = 0
        self.grad_output: tuple[Tensor | None, ...] = ()

    def enter(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        self.arguments = len(args)
        self.inputs = [i for i, a in enumerate(args) if isinstance(a, Tensor) and a.requires_grad]
        return _through(self._call, args)

    def leave(self, result: Any) -> Any:
        several = isinstance(result, tuple)
        outputs = result if several else (result,)
        count = len(outputs)  # `seen` must not hold the outputs themselves: they hold the tape, which holds `seen`
        places = [i for i, v in enumerate(outputs) if isinstance(v, Tensor) and v.requires_grad]

        def seen(grads: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            by_place = dict(zip(places, grads))
            self.grad_output = tuple(by_place.get(i) for i in range(count))
            if not self.inputs:  # nothing will come below
                self._call(())
            return grads

        outputs = _through(seen, outputs)
        return outputs if several else outputs[0]

    def _call(self, grads: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        by_place: dict[int, Tensor] = dict(zip(self.inputs, grads))
        grad_input: tuple[Any, ...] = tuple(by_place.get(i) for i in range(self.arguments))
        for hook in self.hooks:
            changed = hook(self.module, grad_input, self.grad_output)
            if changed is not None:
                grad_input = changed if isinstance(changed, tuple) else (changed,)
        return tuple(grad_input[i] for i in self.inputs)
