"""One line to stderr when a process is the first to need a kernel: compiling takes seconds, and only once."""

from __future__ import annotations

import sys

from numba.core import event


class _Notice(event.Listener):
    """Says once a process that kernels are compiled, and which is the first. Numba compiles what its cache lacks."""

    def __init__(self) -> None:
        self.said = False

    def on_start(self, event: event.Event) -> None:
        kernel = event.data["dispatcher"].py_func
        if not self.said and kernel.__module__.startswith("tinyconv."):
            self.said = True
            print(
                f"tinyconv: compiling kernels for this machine, once (kept in a cache): {kernel.__name__} ...",
                file=sys.stderr,
            )

    def on_end(self, event: event.Event) -> None:
        """Nothing is said: the next kernel may follow."""


event.register("numba:compile", _Notice())
