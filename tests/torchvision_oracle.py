"""torchvision beside a torch without CUDA: the reference of the networks that both have.

The plain wheel's extension is linked against CUDA and does not load beside a CPU torch; importing torchvision then
fails because its operators are not declared. Its networks are pure Python and need the declarations only.
"""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

#: The operators of the extension that torchvision registers a shape function for when it is imported.
SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)

_library: Any = None  # the declarations live as long as this


def torchvision_models() -> Any:
    """The module torchvision.models; skips what asks for it, by name, where torchvision is absent."""
    global _library
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        pytest.skip("torchvision is not installed: pip install --no-deps torchvision", allow_module_level=True)
    if not hasattr(torch.ops.torchvision, "nms"):
        try:
            for extension in Path(spec.origin).parent.glob("_C.*"):
                torch.ops.load_library(str(extension))
        except OSError:
            pass
    if not hasattr(torch.ops.torchvision, "nms"):
        _library = torch.library.Library("torchvision", "DEF")
        for schema in SCHEMAS:
            _library.define(schema)
    return importlib.import_module("torchvision.models")
