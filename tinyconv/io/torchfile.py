"""What torch.save writes, read without torch and without executing it.

Such a file is a zip: ``data.pkl``, a pickle that says how the tensors lie in memory, and one member for the memory of
each. A pickle is a program for a small stack machine, and one of its instructions calls any function of any library:
loading a pickle runs what its author wanted. So it is not unpickled here. pickletools splits it into instructions, and
:class:`_Machine` follows the few that a state dict needs. The only functions it knows are OrderedDict and those that
rebuild a tensor, and these are not called either: it does what they mean, on NumPy arrays.
"""

from __future__ import annotations

import pickletools
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from tinyconv.io.archive import named_arrays, zipped

_STORAGES = {
    "torch DoubleStorage": "<f8",
    "torch FloatStorage": "<f4",
    "torch HalfStorage": "<f2",
    "torch LongStorage": "<i8",
    "torch IntStorage": "<i4",
    "torch ShortStorage": "<i2",
    "torch CharStorage": "|i1",
    "torch ByteStorage": "|u1",
    "torch BoolStorage": "|b1",
}
_DICT, _TENSOR = "collections OrderedDict", "torch._utils _rebuild_tensor_v2"
_FUNCTIONS = (_DICT, _TENSOR, "torch._utils _rebuild_parameter", "torch Size")
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_PUSHED = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE"}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


@dataclass
class _Global:
    """The name of a function or class on the stack, which stays a name."""

    name: str


@dataclass
class _Storage:
    """The memory of tensors. Only what has come from a member of the file is one: the bounds of a tensor are held
    against its size, and a tensor taken for a storage, say one of stride 0, would claim more than it has.
    """

    numbers: np.ndarray[Any, Any]


def decode(members: Mapping[str, bytes], pickle: str) -> Any:
    """The dicts, lists and arrays that ``members[pickle]`` describes. ValueError: anything else is in it."""
    folder = pickle.removesuffix("data.pkl")
    data = {
        name.removeprefix(f"{folder}data/"): content
        for name, content in members.items()
        if name.startswith(f"{folder}data/")
    }
    if members.get(folder + "byteorder", b"little") != b"little":
        raise ValueError("it was written on a machine of the other byte order")
    return _Machine(data).run(members[pickle])


def refuse_bare_pickle(data: bytes) -> None:
    """ValueError, for a file that begins like the pickles that torch wrote before version 1.6."""
    if data[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        raise ValueError("a bare pickle, as of torch before 1.6: load it there, and torch.save its state_dict() again")


class _Machine:
    """Follows a pickle instruction by instruction. ``data`` are the storages' bytes; the rest is the machine's own:

    ``stack``, ``outer``, the stacks that wait since a MARK began the items of a tuple, list or dict, and ``memo``.
    """

    def __init__(self, data: Mapping[str, bytes]) -> None:
        self.data = data
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[tuple[str, str], _Storage] = {}

    def run(self, program: bytes) -> Any:
        argument: Any
        for instruction, argument, _ in pickletools.genops(program):
            name = instruction.name
            if name == "STOP":
                break
            if name in _CONSTANTS:
                self.stack.append(_CONSTANTS[name])
            elif name in _PUSHED:
                self.stack.append(argument)
            elif name == "GLOBAL":
                self.stack.append(self.allow(argument))
            elif name in ("BINPUT", "LONG_BINPUT"):
                self.memo[argument] = self.stack[-1]
            elif name in ("BINGET", "LONG_BINGET"):
                self.stack.append(self.recall(argument))
            elif name != "PROTO":
                self.build(name)
            elif argument != 2:
                raise ValueError(f"its pickle is of protocol {argument}, but torch.save writes 2 unless told otherwise")
        (result,) = self.stack
        return _plain(result)

    def build(self, name: str) -> None:
        """The instructions that make one thing of several."""
        items: Any
        if name in ("APPENDS", "SETITEMS", "TUPLE"):
            items, self.stack = self.stack, self.outer.pop()
        stack = self.stack
        if name == "MARK":
            self.outer.append(stack)
            self.stack = []
        elif name in ("EMPTY_TUPLE", "EMPTY_LIST", "EMPTY_DICT"):
            stack.append({"EMPTY_TUPLE": (), "EMPTY_LIST": [], "EMPTY_DICT": {}}[name])
        elif name in _TUPLES:
            stack[-_TUPLES[name] :] = [tuple(stack[-_TUPLES[name] :])]
        elif name == "TUPLE":
            stack.append(tuple(items))
        elif name in ("APPEND", "APPENDS"):
            added = items if name == "APPENDS" else [stack.pop()]
            _of(stack[-1], list).extend(map(_plain, added))
        elif name in ("SETITEM", "SETITEMS"):
            items = items if name == "SETITEMS" else [stack.pop(-2), stack.pop()]
            if not all(isinstance(key, str | int) for key in items[::2]):
                raise ValueError("a key of a dict in it is neither a string nor a whole number")
            _of(stack[-1], dict).update(zip(items[::2], map(_plain, items[1::2])))
        elif name == "BINPERSID":
            stack.append(self.storage(*_of(stack.pop(), tuple)))
        elif name == "REDUCE":
            arguments = _of(stack.pop(), tuple)
            stack.append(self.call(_of(stack.pop(), _Global).name, arguments))
        elif name == "BUILD":  # attributes of an OrderedDict: torch notes versions of modules there
            stack.pop()
            _of(stack[-1], dict)
        else:
            raise ValueError(f"its pickle has the instruction {name}, which no state dict needs")

    def allow(self, name: str) -> _Global:
        if name in _FUNCTIONS or name in _STORAGES:
            return _Global(name)
        asked = name.replace(" ", ".")[:80]
        if name.startswith("torch ") and name.endswith("Storage"):
            raise ValueError(
                f"it holds a {asked}, a type of number that NumPy lacks: convert by .float() before saving"
            )
        raise ValueError(f"its pickle asks for {asked}, which is not run: save model.state_dict() instead")

    def recall(self, place: int) -> Any:
        """From the memo, but no dict or list: then nothing can contain itself or double with every instruction."""
        value = self.memo[place]
        if isinstance(value, dict | list) or (
            isinstance(value, tuple) and any(isinstance(v, dict | list | tuple) for v in value)
        ):
            raise ValueError("its pickle uses a container twice")
        return value

    def storage(self, kind: str, dtype: _Global, key: str, device: str, size: int) -> _Storage:
        """The memory under ``key`` as a vector; tensors that share it share it here."""
        if kind != "storage" or key not in self.data:
            raise ValueError(f"the storage {str(key)[:80]!r} is missing")
        where = (key, dtype.name)
        if where not in self.storages:
            numbers = np.frombuffer(bytearray(self.data[key]), _STORAGES[dtype.name])
            if numbers.dtype == np.bool_:  # any byte is there in a damaged file, and NumPy counts on 0 and 1
                numbers = numbers.view(np.uint8) != 0
            self.storages[where] = _Storage(numbers)
        found = self.storages[where]
        if size != len(found.numbers):
            raise ValueError(f"the storage {key[:80]!r} claims {size} numbers, but has {len(found.numbers)}")
        return found

    def call(self, name: str, arguments: tuple[Any, ...]) -> Any:
        if name == _DICT and not arguments:
            return {}
        if name == _TENSOR:
            storage, offset, shape, stride = arguments[:4]
            return self.tensor(_of(storage, _Storage).numbers, offset, shape, stride)
        if name == "torch._utils _rebuild_parameter":
            return _of(arguments[0], np.ndarray)
        if name == "torch Size":
            return _of(arguments[0], tuple)
        raise ValueError(f"its pickle calls {name.replace(' ', '.')} in a way that no state dict needs")

    def tensor(
        self, storage: np.ndarray[Any, Any], offset: int, shape: tuple[int, ...], stride: tuple[int, ...]
    ) -> np.ndarray[Any, Any]:
        """A view of the storage, which must lie in it and not be larger, as a stride of 0 could make it."""
        if len(shape) != len(stride) or len(shape) > 32 or min((offset, *shape, *stride)) < 0:
            raise ValueError(f"a tensor has {len(shape)} sizes and {len(stride)} strides, or negative ones")
        size = prod(shape)
        last = offset + sum((n - 1) * step for n, step in zip(shape, stride)) if size else -1
        if max(last + 1, size) > len(storage):
            raise ValueError(f"a tensor of shape {shape} does not fit in its storage of {len(storage)} numbers")
        return np.lib.stride_tricks.as_strided(storage[offset:], shape, [step * storage.itemsize for step in stride])


def _plain(value: Any) -> Any:
    """``value``, which goes into the result: no name of a function, and no bare memory."""
    if isinstance(value, _Global | _Storage):
        raise ValueError(f"its pickle keeps a {type(value).__name__.strip('_').lower()} as a value")
    if isinstance(value, tuple):
        for part in value:
            _plain(part)
    return value


def _of(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"its pickle has a {type(value).__name__} where a {kind.__name__.strip('_').lower()} must be")
    return value


# --------------------------------------------------------------------------------------------------
# Writing


def encode(state: Any) -> bytes:
    """The bytes of a file that torch.load(path, weights_only=True) reads as name -> tensor."""
    types = {np.dtype(code): name for name, code in _STORAGES.items()}
    program, contents = [b"\x80\x02}"], {}
    for key, (name, array) in enumerate(named_arrays(state, ".pt").items()):
        dtype = array.dtype.newbyteorder("<")
        if dtype not in types:
            raise TypeError(f"save: {name} is of {array.dtype}, for which torch has no storage.")
        array = array.astype(dtype, order="C")
        contents[f"archive/data/{key}"] = array.tobytes()
        stride = [prod(array.shape[i + 1 :]) for i in range(array.ndim)]
        storage = _text("storage") + _global(types[dtype]) + _text(str(key)) + _text("cpu") + _number(array.size)
        arguments = b"(" + storage + b"tQ" + _number(0) + _numbers(array.shape) + _numbers(stride)
        hooks = b"\x89" + _global(_DICT) + b")R"  # requires_grad=False, and no backward hooks
        program.append(_text(name) + _global(_TENSOR) + b"(" + arguments + hooks + b"tRs")
    head = {"archive/data.pkl": b"".join([*program, b"."]), "archive/byteorder": b"little"}
    return zipped({**head, **contents, "archive/version": b"3\n"})


def _text(value: str) -> bytes:
    coded = value.encode()
    return b"X" + struct.pack("<I", len(coded)) + coded


def _global(name: str) -> bytes:
    return b"c" + name.replace(" ", "\n").encode() + b"\n"


def _number(value: int) -> bytes:
    return b"\x8a\x08" + struct.pack("<q", value)


def _numbers(values: Any) -> bytes:
    return b"(" + b"".join(map(_number, values)) + b"t"
