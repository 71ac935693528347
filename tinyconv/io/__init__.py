"""Files: tensors to disk and back, without pickle."""

from tinyconv.io.weights import load, save

__all__ = ["load", "save"]
