"""The GPU as a whole: is there one, and waiting for it."""

from __future__ import annotations

from tinyconv.autograd.gpu import guarded, load_cupy, settle


def is_available() -> bool:
    """True where x.to('cuda') works: with CuPy, a driver and a GPU."""
    try:
        load_cupy("is_available")
    except RuntimeError:
        return False
    return True


def synchronize() -> None:
    """Wait until the GPU has done all that it was given, for example to take the time; its errors come out here.

    RuntimeError where there is no GPU.
    """
    guarded("synchronize", load_cupy("synchronize").cuda.Device().synchronize)
    settle()
