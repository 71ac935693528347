"""Files: tensors to disk and back, without pickle."""

from tinyconv.io.tree import load, save

__all__ = ["load", "save"]
