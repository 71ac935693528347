"""Files: tensors to disk and back, without pickle, and networks as ONNX."""

from tinyconv.io.onnx import save_onnx
from tinyconv.io.weights import load, save

__all__ = ["load", "save", "save_onnx"]
