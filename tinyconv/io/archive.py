"""Zip files of arrays: what NumPy's npz and torch's .pt have in common, and npz itself.

A zip file can be a bomb: a few bytes that unpack to terabytes, or members that overlap and so are counted many times.
np.savez and torch.save do not compress, so compressed members are refused, and so are members that together are larger
than the file.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np

from tinyconv.autograd import Tensor


def members(data: bytes) -> dict[str, bytes]:
    """Name -> content of all members of a zip file. ValueError: compressed, encrypted, or more than the file holds."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = archive.infolist()
        for entry in entries:
            if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
                raise ValueError(
                    f"member {entry.filename[:80]!r} is compressed or encrypted; np.savez and torch.save do neither"
                )
        claimed = sum(max(entry.file_size, entry.compress_size) for entry in entries)
        if claimed > len(data):
            raise ValueError(f"its members claim {claimed} bytes, but the file has {len(data)}")
        if len({entry.filename for entry in entries}) < len(entries):
            raise ValueError("two members have one name")
        return {entry.filename: archive.read(entry) for entry in entries}


def zipped(contents: Mapping[str, bytes]) -> bytes:
    """A zip file with these members, not compressed, the same bytes at any time."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in contents.items():
            archive.writestr(zipfile.ZipInfo(name), content)  # its date is 1980
    return buffer.getvalue()


def named_arrays(state: Any, kind: str) -> dict[str, np.ndarray[Any, Any]]:
    """``state`` as name -> NumPy array of numbers. TypeError: anything else, which only safetensors keeps."""
    if not isinstance(state, Mapping):
        raise TypeError(
            f"save: a {kind} file keeps a dict of names and arrays, but was given a {type(state).__name__}."
        )
    arrays = {}
    for name, value in state.items():
        value = value.detach().to("cpu").data if isinstance(value, Tensor) else value
        value = value.get() if hasattr(value, "__cuda_array_interface__") else value
        numbers = isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biuf"
        if not isinstance(name, str) or not numbers:
            raise TypeError(
                f"save: a {kind} file keeps arrays of numbers under names, but {name!r} is a {type(value).__name__}. "
                "Save model.state_dict(), or everything as .safetensors."
            )
        arrays[name] = np.asarray(value)
    return arrays


def encode_npz(state: Any) -> bytes:
    """The bytes of an npz file that holds ``state``, name -> array."""
    contents = {}
    for name, array in named_arrays(state, ".npz").items():
        buffer = io.BytesIO()
        np.lib.format.write_array(buffer, array, allow_pickle=False)
        contents[f"{name}.npy"] = buffer.getvalue()
    return zipped(contents)


def decode_npz(contents: Mapping[str, bytes]) -> dict[str, np.ndarray[Any, Any]]:
    """Name -> array of the members of an npz file."""
    if not contents or not all(name.endswith(".npy") for name in contents):
        raise ValueError("a zip file, but neither npz nor what torch.save writes")
    return {name.removesuffix(".npy"): _npy(content, name) for name, content in contents.items()}


def _npy(content: bytes, name: str) -> np.ndarray[Any, Any]:
    """One array. np.load would allocate what the header says before it looks for the numbers."""
    file = io.BytesIO(content)
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"{name[:80]!r} is of npy version {version}")
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read_header(file)
    if dtype.kind not in "biuf":
        raise ValueError(f"{name[:80]!r} holds no numbers but {dtype}, which could be a pickle")
    rest = bytearray(content[file.tell() :])  # an array on a bytearray can be written to
    if any(size < 0 for size in shape) or prod(shape) * dtype.itemsize != len(rest):
        raise ValueError(f"{name[:80]!r} claims {shape} of {dtype}, but has {len(rest)} bytes")
    return np.frombuffer(rest, dtype).reshape(shape, order="F" if fortran else "C")
