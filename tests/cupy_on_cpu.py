"""A module that takes the place of ``cupy`` where there is no GPU: its arrays are NumPy's, behind CuPy's rules.

    with installed() as cupy:
        x = cupy.asarray(numpy_array)

What is imitated of CuPy 14, as its documentation and its source have it:

- ``ndarray`` is no numpy.ndarray. ``numpy.asarray(x)`` raises TypeError, and so does an operator or a function that is
  given a NumPy array beside it; Python's and NumPy's numbers are fine. numpy.add(x, y) and numpy.sum(x) reach the
  functions of this module (``__array_ufunc__``, ``__array_function__``).
- Only names that the real package has exist, and functions and methods take its arguments, no others. The elementwise
  functions compute in the dtypes of the real ones (``types``).
- A reduction and an index of one element give an array of no axes. ``get``, ``item``, ``tolist``, int(), float() and
  bool() read the device, and so does what depends on values: an index by a mask, nonzero, bincount, unique. Lists
  and NumPy arrays as indices, asarray and array send values to the device. ``gpu_on_cpu.watching`` refuses both.
- Integer arrays as indices wrap around instead of raising. Of several values that an assignment sends to one place it
  is not the last that stays (undefined on a GPU). ``empty`` holds garbage.
- Memory: ``installed(limit=bytes)`` lets what is beyond it raise OutOfMemoryError; a pool keeps what was freed.
- ``RawKernel`` and ``RawModule`` run in tinyconv.cuda_on_cpu, watched unless ``installed(checked=False)``.
- ``state.later``: an error of a kernel, raised where the device is next waited for.

Not imitated: speed, streams (everything has happened when a call returns), several devices, the order of sums, the last
bits of elementary functions, byte orders, and functions that the engine does not use in another way than NumPy's.
"""

from __future__ import annotations

import functools
import inspect
import re
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from gpu_on_cpu import CUDA, Device, MemoryPool, State, block_of, note, real, state
from tinyconv import cuda_on_cpu
from tinyconv.kernels.precision import rounded

NUMBERS = (bool, int, float, complex, np.generic)
#: Functions that look at values to know a size, and so wait for the device.
READING = {"bincount", "nonzero", "flatnonzero", "argwhere", "unique", "compress", "extract", "histogram", "delete"}
#: Functions that take lists and NumPy arrays, and send them to the device.
SENDING = {"ix_", "take", "take_along_axis"}


# --------------------------------------------------------------------------------------------------
# Arrays


def wrap(value: Any) -> Any:
    """Arrays and NumPy's numbers as arrays on the device, also inside tuples and lists."""
    if isinstance(value, np.ndarray | np.generic):
        made = ndarray.__new__(ndarray)
        made.host = np.asarray(value)
        made.block = block_of(made.host)
        return made
    if isinstance(value, tuple | list):
        return type(value)(map(wrap, value)) if not hasattr(value, "_fields") else tuple(map(wrap, value))
    return value


def unwrap(value: Any) -> Any:
    """The NumPy arrays behind the arrays."""
    if isinstance(value, ndarray):
        return value.host
    if isinstance(value, tuple | list):
        return type(value)(map(unwrap, value))
    return value


def send(value: Any, dtype: Any = None) -> np.ndarray:
    """A list, a number or a NumPy array as it arrives on the device."""
    array = np.asarray(unwrap(value), dtype)
    if array.dtype.kind not in "biufc" or not array.dtype.isnative:
        raise ValueError(f"Unsupported dtype {array.dtype}")
    note("sent")
    return array


def _refuse_hosts(values: Any) -> None:
    for value in values:
        if isinstance(value, np.ndarray):
            raise TypeError(f"Unsupported type {type(value)}")
        if isinstance(value, tuple | list):
            _refuse_hosts(value)


class Flags:
    """c_contiguous, f_contiguous and owndata: CuPy's have no others."""

    def __init__(self, array: np.ndarray) -> None:
        self.c_contiguous, self.f_contiguous = array.flags.c_contiguous, array.flags.f_contiguous
        self.owndata = array.base is None


def _indices(key: Any, shape: tuple[int, ...]) -> tuple[tuple[Any, ...], bool]:
    """The key with its arrays on the host, integers wrapped around; and whether it has arrays."""
    parts = list(key) if isinstance(key, tuple) else [key]
    for i, part in enumerate(parts):
        if isinstance(part, list | tuple | np.ndarray) or isinstance(part, bool | np.bool_):
            array = send(part)
            parts[i] = wrap(array.astype(np.int32) if array.size == 0 and isinstance(part, list | tuple) else array)
    taken = [0 if p is None or p is Ellipsis else _axes_of(p) for p in parts]
    axis, several = 0, False
    for i, part in enumerate(parts):
        if part is Ellipsis:
            axis = len(shape) - sum(taken[i:])
        elif isinstance(part, ndarray):
            several = True
            if part.dtype.kind == "b":
                note("read")  # how many there are is a size
                parts[i] = part.host
            elif part.dtype.kind in "iu":
                parts[i] = part.host % max(shape[axis], 1)
            else:
                raise IndexError("arrays used as indices must be of integer or boolean type.")
        axis += taken[i]
    return tuple(parts), several


def _axes_of(part: Any) -> int:
    return part.ndim if isinstance(part, ndarray) and part.dtype.kind == "b" else 1


class ndarray:
    """An array on the device; ``host`` is where it really is."""

    __slots__ = ("host", "block", "__weakref__")
    __array_priority__ = 100
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, shape: Any, dtype: Any = float, memptr: Any = None, strides: Any = None, order: str = "C"):
        self.host = _garbage(np.empty(shape, dtype, order))
        self.block = block_of(self.host)

    shape = property(lambda self: self.host.shape)
    strides = property(lambda self: self.host.strides)
    dtype = property(lambda self: self.host.dtype)
    size = property(lambda self: self.host.size)
    ndim = property(lambda self: self.host.ndim)
    itemsize = property(lambda self: self.host.itemsize)
    nbytes = property(lambda self: self.host.nbytes)
    flags = property(lambda self: Flags(self.host))
    T = property(lambda self: wrap(self.host.T))
    mT = property(lambda self: wrap(self.host.mT))
    base = property(lambda self: None if self.host.base is None else wrap(self.host.base))
    device = property(lambda self: Device(0))
    data = property(lambda self: types.SimpleNamespace(ptr=self.host.ctypes.data, device=Device(0), device_id=0))

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        at = (self.host.ctypes.data, False)
        return {"shape": self.shape, "typestr": self.dtype.str, "version": 3, "strides": self.strides, "data": at}

    # Reading

    def get(self, stream: Any = None, order: str = "C", out: Any = None, blocking: bool = True) -> np.ndarray:
        note("read")
        return np.array(self.host, order=order)

    def item(self) -> Any:
        if self.size != 1:
            raise ValueError("can only convert an array of size 1 to a Python scalar")
        return self.get().item()

    def tolist(self) -> Any:
        return self.get().tolist()

    def tobytes(self, order: str = "C") -> bytes:
        return self.get().tobytes(order)

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        raise TypeError(
            "Implicit conversion to a NumPy array is not allowed. "
            "Please use `.get()` to construct a NumPy array explicitly."
        )

    def __len__(self) -> int:
        if self.ndim == 0:
            raise TypeError("len() of unsized object")
        return self.shape[0]

    def __iter__(self) -> Iterator[ndarray]:
        if self.ndim == 0:
            raise TypeError("iteration over a 0-d array")
        return (self[i] for i in range(len(self)))

    def __copy__(self) -> ndarray:
        return wrap(self.host.copy())

    def __deepcopy__(self, memo: Any) -> ndarray:
        return wrap(self.host.copy())

    def __dlpack__(self, **options: Any) -> Any:
        return self.host.__dlpack__()

    def __dlpack_device__(self) -> tuple[int, int]:
        return (2, 0)  # kDLCUDA

    # Changing

    def __getitem__(self, key: Any) -> ndarray:
        return wrap(self.host[_indices(key, self.shape)[0]])

    def __setitem__(self, key: Any, value: Any) -> None:
        at, several = _indices(key, self.shape)
        if isinstance(value, ndarray):
            value = value.host
        elif isinstance(value, NUMBERS) or isinstance(value, np.ndarray) and value.ndim == 0 and not several:
            value = np.asarray(value)
        elif several:
            value = send(value)
        else:
            raise ValueError("non-scalar numpy.ndarray cannot be used for fill")
        value = value.astype(self.dtype)
        integers = [part for part in at if isinstance(part, np.ndarray) and part.dtype.kind in "iu"]
        if not several or not integers:
            self.host[at] = value
            return
        places = np.arange(self.size).reshape(self.shape)[at]
        self.host.flat[places.ravel()[::-1]] = np.broadcast_to(value, places.shape).ravel()[::-1]

    def fill(self, value: Any) -> None:
        self[...] = value

    def set(self, arr: np.ndarray, stream: Any = None) -> None:
        note("sent")
        self.host[...] = arr

    # Methods that share memory, or take other arguments than NumPy's

    def astype(self, dtype: Any, order: str = "K", casting: Any = None, subok: Any = None, copy: bool = True) -> Any:
        if casting is not None or subok is not None:
            raise TypeError("casting and subok are not supported yet")
        found = self.host.astype(dtype, order=order, copy=copy)
        return self if found is self.host else wrap(found)

    def argsort(self, axis: int | None = -1, kind: Any = None) -> ndarray:
        if kind not in (None, "stable"):
            raise ValueError("kind can only be None or 'stable'")
        return wrap(self.host.argsort(axis=axis, kind="stable"))

    def view(self, dtype: Any = None, type: Any = None) -> ndarray:  # noqa: A002
        return wrap(self.host.view() if dtype is None else self.host.view(dtype))

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        out = kwargs.get("out")
        if out is not None:
            if len(out) != 1:
                raise ValueError("The 'out' parameter must have exactly one array value")
            kwargs["out"] = out[0]
        if method != "__call__" or not hasattr(real, ufunc.__name__):
            return NotImplemented
        for x in (*inputs, *(out or ())):
            if not isinstance(x, ndarray | np.ndarray | bool | int | float | complex | np.generic):
                return NotImplemented
        if ufunc.__name__ in ("greater", "greater_equal", "less", "less_equal", "equal", "not_equal"):
            inputs = tuple(x.item() if isinstance(x, np.ndarray) and x.ndim == 0 else x for x in inputs)
        return getattr(module, ufunc.__name__)(*inputs, **kwargs)

    def __array_function__(self, func: Any, kinds: Any, args: Any, kwargs: Any) -> Any:
        try:
            home = functools.reduce(getattr, func.__module__.split(".")[1:], module)
            ours = getattr(home, func.__name__)
        except AttributeError:
            return NotImplemented
        if any(kind not in (ndarray, np.ndarray) for kind in kinds):
            return NotImplemented
        return ours(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if hasattr(real.ndarray, name):
            raise NotImplementedError(f"cupy_on_cpu does not imitate ndarray.{name}")
        raise AttributeError(f"cupy.ndarray has no attribute {name!r}")


def _reading(name: str) -> Callable[..., Any]:
    return lambda self, *args: getattr(self.get(), name)(*args)


for _name in ("__int__", "__float__", "__bool__", "__complex__", "__repr__", "__str__", "__format__"):
    setattr(ndarray, _name, _reading(_name))


def _method(name: str) -> Callable[..., Any]:
    """The NumPy method of that name, with the arguments that CuPy's documentation of it names."""
    signature = re.match(rf"\w+\.{name}\(self,? ?(.*?)\)", getattr(real.ndarray, name).__doc__ or "")
    known = set(re.findall(r"(?:^|, )(?:\w+ )?\*?(\w+)", signature[1])) if signature else set()

    def call(self: ndarray, *args: Any, **kwargs: Any) -> Any:
        if not set(kwargs) <= known:
            raise TypeError(f"cupy.ndarray.{name} takes {sorted(known)}, but was given {sorted(kwargs)}")
        if name in READING:
            note("read")
        hosts = [a for a in (*args, *kwargs.values()) if isinstance(a, np.ndarray)]
        if hosts and name != "take":
            _refuse_hosts(hosts)
        for _ in hosts:
            note("sent")
        with np.errstate(all="ignore"):
            found = getattr(self.host, name)(*unwrap(args), **{k: unwrap(v) for k, v in kwargs.items()})
        return kwargs["out"] if kwargs.get("out") is not None else wrap(found)

    return call


for _name in (
    "all any argmax argmin clip copy cumsum diagonal dot flatten max mean min nonzero prod ravel repeat "
    "reshape round searchsorted squeeze std sum swapaxes take transpose var".split()
):
    setattr(ndarray, _name, _method(_name))


# --------------------------------------------------------------------------------------------------
# Functions


class ufunc:
    """An elementwise function, in the dtypes of the real one."""

    def __init__(self, name: str) -> None:
        self.name, self.real, self.host = name, getattr(real, name), getattr(np, name)
        self.nin, self.nout, self.types = self.real.nin, self.real.nout, self.real.types

    def __call__(self, *args: Any, out: Any = None, dtype: Any = None, casting: str = "same_kind") -> Any:
        if len(args) > self.nin:
            *args, out = args
        for x in args:
            if not isinstance(x, (ndarray, *NUMBERS)):
                raise TypeError(f"Unsupported type {type(x)}")
        if out is not None and not isinstance(out, ndarray):
            raise TypeError("return arrays must be cupy.ndarray")
        hosts = _common(unwrap(list(args)))
        takes, gives = self._loop(tuple(h.dtype for h in hosts))
        with np.errstate(all="ignore"):
            found = self.host(*(h.astype(d, copy=False) for h, d in zip(hosts, takes)))
        found = np.asarray(found).astype(gives[0] if dtype is None else dtype, copy=False)
        if out is None:
            return wrap(found)
        np.copyto(out.host, found, casting=casting)
        return out

    @functools.cache  # noqa: B019 - there are as many as CuPy has functions
    def _loop(self, dtypes: tuple[np.dtype, ...]) -> tuple[list[np.dtype], list[np.dtype]]:
        for kinds in self.types:
            if not set(kinds) & set("EV"):  # bfloat16 and structures
                takes, gives = ([np.dtype(c) for c in side] for side in kinds.split("->"))
                if all(map(np.can_cast, dtypes, takes)):
                    return takes, gives
        raise TypeError(f"Wrong type {dtypes} of arguments for cupy.{self.name}")

    def at(self, a: ndarray, indices: Any, b: Any = None) -> None:
        if self.real._scatter_op is None:
            raise TypeError(f"cupy.{self.name}.at is not supported")
        if self.name == "add" and a.dtype not in map(np.dtype, "ieIfdLQ"):
            raise TypeError("scatter_add only supports int32, float16, float32, float64, uint32, uint64, as data type")
        self.host.at(a.host, _indices(indices, a.shape)[0], unwrap(b))


def _common(values: list[Any]) -> list[np.ndarray]:
    """Arrays; Python's numbers take the dtype that they have beside the others."""
    strong = [v.dtype for v in values if isinstance(v, np.ndarray | np.generic)]
    return [
        np.asarray(v)
        if isinstance(v, np.ndarray | np.generic) or not strong
        else np.asarray(v, np.result_type(*strong, v))
        for v in values
    ]


def _function(name: str, theirs: Callable[..., Any], numpys: Callable[..., Any]) -> Callable[..., Any]:
    """The NumPy function, refused what the real one refuses."""
    try:
        signature = inspect.signature(theirs)
    except (TypeError, ValueError):
        signature = None

    def call(*args: Any, **kwargs: Any) -> Any:
        if signature is not None:
            signature.bind(*args, **kwargs)
        given = (*args, *kwargs.values())
        if name in SENDING:
            for a in given:
                if isinstance(a, list | np.ndarray):
                    note("sent")
        elif name not in ("full", "full_like", "copyto"):
            _refuse_hosts(given)
        if name in READING:
            note("read")
        with np.errstate(all="ignore"):
            found = numpys(*unwrap(args), **{k: unwrap(v) for k, v in kwargs.items()})
        out = kwargs.get("out")
        return out if out is not None else wrap(found)

    return call


def _garbage(array: np.ndarray) -> np.ndarray:
    """What nobody has written to: NaN, the least integer, True."""
    kind = array.dtype.kind
    array[...] = np.nan if kind in "fc" else np.iinfo(array.dtype).min if kind == "i" else 1
    return array


def array(obj: Any, dtype: Any = None, copy: bool = True, order: str = "K", subok: bool = False, ndmin: int = 0) -> Any:
    """From the host, or a copy on the device."""
    if isinstance(obj, ndarray):
        found = obj.host.astype(dtype or obj.dtype, order=order, copy=copy)
        return obj if found is obj.host and ndmin <= obj.ndim else wrap(np.array(found, ndmin=ndmin, copy=None))
    return wrap(np.array(send(obj, dtype), copy=True, ndmin=ndmin, order=order))


def asarray(a: Any, dtype: Any = None, order: str | None = None, *, copy: Any = None, blocking: bool = False) -> Any:
    """``a`` itself where it is on the device."""
    return array(a, dtype, copy=bool(copy), order=order or "K")


def ascontiguousarray(a: Any, dtype: Any = None) -> Any:
    """As CuPy's, it gives 0-d arrays an axis."""
    found = array(a, dtype, copy=False, order="C")
    return found.reshape(1) if found.ndim == 0 else found


def asnumpy(a: Any, stream: Any = None, order: str = "C", out: Any = None, *, blocking: bool = True) -> np.ndarray:
    """On the host."""
    return a.get(order=order) if isinstance(a, ndarray) else np.asarray(a, order=order)


def empty(shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
    """Garbage."""
    return wrap(_garbage(np.empty(shape, dtype, order)))


def empty_like(a: Any, dtype: Any = None, order: str = "K", subok: Any = None, shape: Any = None) -> ndarray:
    """Garbage."""
    return wrap(_garbage(np.empty_like(a.host, dtype, order, shape=shape)))


def argsort(a: ndarray, axis: int | None = -1, kind: Any = None) -> ndarray:
    """Stable."""
    return a.argsort(axis, kind)


def from_dlpack(array: Any) -> ndarray:
    """The same memory."""
    return wrap(array.host if isinstance(array, ndarray) else np.from_dlpack(array))


class RawKernel:
    """cupy.RawKernel, in the emulator."""

    def __init__(
        self, code: str, name: str, options: tuple[str, ...] = (), backend: str = "nvrtc", **more: Any
    ) -> None:
        kept = tuple(option for option in options if option.startswith("-D"))
        self.kernel = cuda_on_cpu.RawKernel(code, name, kept, checked=state.checked)
        self.max_dynamic_shared_size_bytes = 48 << 10

    def __call__(self, grid: Any, block: Any, args: Any, *, shared_mem: int = 0, **more: Any) -> None:
        if shared_mem > self.max_dynamic_shared_size_bytes:
            raise real.cuda.driver.CUDADriverError(1)  # CUDA_ERROR_INVALID_VALUE
        for parameter, a in zip(self.kernel.parameters, args):
            if parameter.pointer and not isinstance(a, ndarray):
                raise TypeError(f"Unsupported type {type(a)}")
        self.kernel(grid, block, tuple(unwrap(list(args))), shared_mem=shared_mem)


class RawModule:
    """cupy.RawModule, in the emulator."""

    def __init__(
        self, *, code: str | None = None, path: str | None = None, options: tuple[str, ...] = (), **more: Any
    ) -> None:
        self.code = Path(str(path)).read_text() if code is None else code
        self.options = options

    def get_function(self, name: str) -> RawKernel:
        return RawKernel(self.code, name, self.options)


# --------------------------------------------------------------------------------------------------
# cuBLAS and the precision of its products

_linalg = real._core._routines_linalg
_compute_types: dict[Any, int] = {}
_products = types.SimpleNamespace(
    COMPUTE_TYPE_TF32=_linalg.COMPUTE_TYPE_TF32,
    COMPUTE_TYPE_BF16=_linalg.COMPUTE_TYPE_BF16,
    get_compute_type=lambda dtype: _compute_types.get(np.dtype(dtype), _linalg.COMPUTE_TYPE_TBD),
    set_compute_type=lambda dtype, kind: _compute_types.update({np.dtype(dtype): kind}),
)


_product = _function("matmul", real.matmul, np.matmul)


def matmul(a: Any, b: Any, *args: Any, **kwargs: Any) -> Any:
    """cupy.matmul, which rounds float32 numbers as far as it was told to."""
    kind = _products.get_compute_type(np.float32)
    name = {_products.COMPUTE_TYPE_TF32: "tf32", _products.COMPUTE_TYPE_BF16: "bf16"}.get(kind)
    if name and a.dtype == np.float32:
        a, b = (wrap(rounded(unwrap(x), name)) for x in (a, b))
    return _product(a, b, *args, **kwargs)


# --------------------------------------------------------------------------------------------------
# The module

_OWN: dict[str, Any] = dict(
    ndarray=ndarray, array=array, asarray=asarray, ascontiguousarray=ascontiguousarray, asnumpy=asnumpy, empty=empty,
    empty_like=empty_like, from_dlpack=from_dlpack, RawKernel=RawKernel, RawModule=RawModule,
    get_default_memory_pool=MemoryPool, cuda=types.SimpleNamespace(**CUDA), argsort=argsort, matmul=matmul,
    _core=types.SimpleNamespace(_routines_linalg=_products),
)  # fmt: skip


class _Module(types.ModuleType):
    """``cupy``, or its part of the name ``path``."""

    def __init__(self, path: str = "") -> None:
        super().__init__("cupy" + path)
        self.path = path

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        there = functools.reduce(getattr, self.path.split(".")[1:], real)
        if not hasattr(there, name):
            raise AttributeError(f"module 'cupy{self.path}' has no attribute {name!r}")
        theirs, numpys = getattr(there, name), functools.reduce(getattr, self.path.split(".")[1:], np)
        if not self.path and name in _OWN:
            found = _OWN[name]
        elif isinstance(theirs, types.ModuleType):
            found = _Module(f"{self.path}.{name}")
        elif isinstance(theirs, real.ufunc):
            found = ufunc(name)
        elif isinstance(theirs, type) or not callable(theirs):
            found = theirs  # dtypes and constants are NumPy's own
        else:
            found = _function(name, theirs, getattr(numpys, name))
        setattr(self, name, found)
        return found


module = _Module()

# Operators: through the functions, with NotImplemented for what they do not know.
_BINARY = dict(
    add="add", sub="subtract", mul="multiply", truediv="true_divide", floordiv="floor_divide", mod="remainder",
    pow="power", matmul="matmul", and_="bitwise_and", or_="bitwise_or", xor="bitwise_xor", lshift="left_shift",
    rshift="right_shift",
)  # fmt: skip
_COMPARE = dict(eq="equal", ne="not_equal", lt="less", le="less_equal", gt="greater", ge="greater_equal")


def _operator(function: str, reflected: bool = False, in_place: bool = False) -> Callable[..., Any]:
    def operate(self: ndarray, other: Any) -> Any:
        if not isinstance(other, (ndarray, *NUMBERS)) and getattr(other, "__array_ufunc__", None) is None:
            return NotImplemented
        if isinstance(other, np.ndarray) and function != "matmul" or not isinstance(other, (ndarray, *NUMBERS)):
            return getattr(np, function)(*((other, self) if reflected else (self, other)))
        pair = (other, self) if reflected else (self, other)
        return getattr(module, function)(*pair, out=self) if in_place else getattr(module, function)(*pair)

    return operate


for _name, _target in _BINARY.items():
    _name = _name.rstrip("_")
    setattr(ndarray, f"__{_name}__", _operator(_target))
    setattr(ndarray, f"__r{_name}__", _operator(_target, reflected=True))
    if _name != "matmul":
        setattr(ndarray, f"__i{_name}__", _operator(_target, in_place=True))
for _name, _target in _COMPARE.items():
    setattr(ndarray, f"__{_name}__", _operator(_target))
for _name, _target in dict(neg="negative", pos="positive", abs="absolute", invert="invert").items():
    setattr(ndarray, f"__{_name}__", functools.partialmethod(lambda self, f: getattr(module, f)(self), _target))


@contextmanager
def installed(limit: int | None = None, checked: bool = True, **more: Any) -> Iterator[State]:
    """Inside, ``import cupy`` finds this module; gives the state of its device."""
    before = sys.modules.get("cupy")
    old = {name: getattr(state, name) for name in ("limit", "checked", "devices", "later")}
    state.limit, state.checked, state.later = None, checked, None
    for name, value in more.items():
        setattr(state, name, value)
    if limit is not None:
        state.leave(limit)
    sys.modules["cupy"] = module
    try:
        yield state
    finally:
        for name, value in old.items():
            setattr(state, name, value)
        if before is None:
            del sys.modules["cupy"]
        else:
            sys.modules["cupy"] = before
