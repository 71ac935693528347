"""The traces of the layers inside a network, for one real forward pass."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any

from tinyconv import nn
from tinyconv.autograd import Tensor
from tinyconv.explain.steps import Trace
from tinyconv.explain.trace import trace


class record(Mapping[str, Trace]):  # noqa: N801 - used like a function
    """Keep what each layer of ``model`` is given, and trace a layer when it is asked for.

        with explain.record(model) as rec:
            model(x)
        rec["conv1"].at(output=(0, 3, 10, 10))

    The names are those of ``model.named_modules()``, of the layers that hold no others; of several calls of a layer the
    last counts. Ask before the weights change. Raises KeyError for a layer that did not run, ValueError for one that
    slides no window.
    """

    def __init__(self, model: nn.Module, max_terms: int = 1_000_000) -> None:
        self.model, self.max_terms = model, max_terms
        self._layers = {module: name for name, module in model.named_modules() if not list(module.children())}
        self._calls: dict[str, tuple[nn.Module, tuple[Any, ...]]] = {}

    def __enter__(self) -> record:
        self._handles = [module.register_forward_hook(self._keep) for module in self._layers]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()

    def _keep(self, module: nn.Module, args: tuple[Any, ...], _: Any) -> None:
        copies = tuple(Tensor(a.data.copy()) if isinstance(a, Tensor) else a for a in args)  # safe from in-place layers
        self._calls[self._layers[module]] = module, copies

    def __getitem__(self, name: str) -> Trace:
        if name not in self._calls:
            raise KeyError(f"record: no layer {name!r} ran; those that did are {', '.join(self._calls) or 'none'}.")
        module, args = self._calls[name]
        made = trace(module, *args, max_terms=self.max_terms)
        made.name = name
        return made

    def __iter__(self) -> Iterator[str]:
        return iter(self._calls)

    def __len__(self) -> int:
        return len(self._calls)
