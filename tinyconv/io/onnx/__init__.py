"""Networks as ONNX files: written for other programs, and those of other programs read.

``export`` watches a forward pass, and ``writer`` notes its operators as nodes, by ``export_rules``. ``load`` reads a
file and checks it; ``graph`` is the module that runs its nodes, by the rules of ``layers``, ``arrays``, ``resize``.
"""

from tinyconv.io.onnx.export import save_onnx
from tinyconv.io.onnx.load import load_onnx

__all__ = ["load_onnx", "save_onnx"]
