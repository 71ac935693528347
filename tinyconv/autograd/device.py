"""The names of the devices."""

from __future__ import annotations

import re


class device(str):  # noqa: N801 - torch's name
    """'cpu' or 'cuda', as a string that is nothing else. 'cuda:0' is 'cuda'; ValueError for other names."""

    __slots__ = ()

    def __new__(cls, type: str) -> device:
        name = str(type)
        if name not in ("cpu", "cuda", "cuda:0"):
            mend = " Choose another GPU with CUDA_VISIBLE_DEVICES=1." if re.fullmatch(r"cuda:\d+", name) else ""
            raise ValueError(f"device: must be 'cpu' or 'cuda', but is {type!r}.{mend}")
        return super().__new__(cls, name.removesuffix(":0"))

    @property
    def type(self) -> str:
        """'cpu' or 'cuda'."""
        return str(self)

    def __repr__(self) -> str:
        return f"device(type={str(self)!r})"


CPU, CUDA = device("cpu"), device("cuda")
