"""Files: tensors to disk and back, without pickle, and networks as ONNX."""

from tinyconv.io.onnx import load_onnx, save_onnx
from tinyconv.io.weights import load, save

__all__ = ["load", "load_onnx", "save", "save_onnx"]
