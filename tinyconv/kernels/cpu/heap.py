"""Freed arrays stay with the process: asked for again in every training step, their pages would be fresh each time.

The C library gives the end of its heap back to the system where more than a little of it is free, and takes large
arrays from the system one by one. Each page of 4 KiB then costs a fault when it is first written: 5 to 15 % of the
training step of a small U-Net.
"""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_KEPT, _LARGEST = 512 << 20, 64 << 20  # bytes: free at the heap's end; of an array


def keep_freed_memory() -> None:
    """Let glibc keep up to 512 MiB of freed memory for arrays of up to 64 MiB; nothing elsewhere."""
    if sys.platform == "linux":
        library = ctypes.CDLL(None)
        if hasattr(library, "gnu_get_libc_version"):
            library.mallopt(_M_TRIM_THRESHOLD, _KEPT)
            library.mallopt(_M_MMAP_THRESHOLD, _LARGEST)
