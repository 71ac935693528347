"""What a rule is given: one node of an ONNX graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tinyconv.autograd import Tensor

#: NumPy's dtype for the numbers by which ONNX calls the types that a Tensor can hold (TensorProto.DataType).
DTYPES: dict[int, np.dtype[Any]] = {
    number: np.dtype(name)
    for number, name in {
        **{1: "float32", 10: "float16", 11: "float64", 9: "bool"},
        **{2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 12: "uint32", 13: "uint64"},
    }.items()
}


@dataclass(frozen=True)
class Node:
    """An operator with its attributes, and the names of its inputs ('' where one is left out) and outputs."""

    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]
    opset: int  # the version of ONNX's operators that the file was written for

    def get(self, attribute: str, default: Any = None) -> Any:
        return self.attributes.get(attribute, default)

    def __str__(self) -> str:
        return f"{self.kind} ({self.name or 'makes ' + repr(self.outputs[0] if self.outputs else '')})"


def integers(t: Tensor) -> list[int]:
    """The elements of a shape, of axes, of an index, ... as Python's ints."""
    return [int(n) for n in t.detach().to("cpu").data.reshape(-1)]
