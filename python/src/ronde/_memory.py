"""The memory of arrays of any library: where it is, how many elements of which type, without a copy.

NumPy arrays say so by `__array_interface__`, those of PyTorch, JAX and others by DLPack (https://dmlc.github.io/dlpack),
`bytearray`, `array.array` and the like by the buffer protocol.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any

from ._library import DTYPES

_DTYPES = {name: number for number, name in enumerate(DTYPES)}
SIZES = [1, 1, 2, 2, 4, 4, 8, 8, 2, 2, 4, 8, 1, 8, 16, 1, 1]

# Of NumPy's type strings the part behind the byte order.
_OF_NUMPY = {
    "i1": "I8", "u1": "U8", "i2": "I16", "u2": "U16", "i4": "I32", "u4": "U32", "i8": "I64", "u8": "U64",
    "f2": "F16", "f4": "F32", "f8": "F64", "b1": "BOOL", "c8": "C64", "c16": "C128",
}  # fmt: skip
# Names of types that NumPy has from others, such as ml_dtypes.
_OF_NAMES = {"bfloat16": "BF16", "float8_e4m3fn": "F8E4M3", "float8_e5m2": "F8E5M2"}
# DLPack's type code and bits.
_OF_DLPACK = {
    (0, 8): "I8", (1, 8): "U8", (0, 16): "I16", (1, 16): "U16", (0, 32): "I32", (1, 32): "U32", (0, 64): "I64",
    (1, 64): "U64", (2, 16): "F16", (4, 16): "BF16", (2, 32): "F32", (2, 64): "F64", (6, 8): "BOOL", (5, 64): "C64",
    (5, 128): "C128", (10, 8): "F8E4M3", (12, 8): "F8E5M2",
}  # fmt: skip
# Formats of the module struct, in native order and size.
_OF_FORMATS = {
    "b": "I8", "B": "U8", "c": "U8", "h": "I16", "H": "U16", "i": "I32", "I": "U32", "q": "I64", "Q": "U64",
    "l": "I64" if ctypes.sizeof(ctypes.c_long) == 8 else "I32",
    "L": "U64" if ctypes.sizeof(ctypes.c_long) == 8 else "U32",
    "e": "F16", "f": "F32", "d": "F64", "?": "BOOL",
}  # fmt: skip
_NATIVE = "<" if sys.byteorder == "little" else ">"

_CPU = 1
# Of devices whose memory a processor can read: those of CUDA hosts and ROCm hosts too.
_HOST_DEVICES = {_CPU, 3, 11}
_READ_ONLY = 1


class Memory:
    """Elements in a row. Whoever has this keeps them alive."""

    __slots__ = ("address", "count", "dtype", "read_only", "owner")

    def __init__(self, address: int, count: int, dtype: str, read_only: bool, owner: object) -> None:
        self.address = address
        self.count = count
        self.dtype = _DTYPES[dtype]
        self.read_only = read_only
        self.owner = owner

    @property
    def bytes(self) -> int:
        return self.count * SIZES[self.dtype]


def memory_of(array: Any, to_write: bool = False, name: str = "the array") -> Memory:
    """Where an array is. One that is to be written must let itself be."""
    interface = getattr(array, "__array_interface__", None)
    if interface is not None:
        memory = _of_interface(array, interface, name)
    elif hasattr(array, "__dlpack__"):
        memory = _of_dlpack(array, name)
    else:
        memory = _of_buffer(array, name)
    if to_write and memory.read_only:
        raise ValueError(f"{name} is read-only, and receives: give a writable one")
    return memory


def _product(shape: Any) -> int:
    count = 1
    for length in shape:
        count *= length
    return count


def _not_in_a_row(name: str) -> ValueError:
    return ValueError(f"{name} is not contiguous: give a contiguous copy of it (numpy.ascontiguousarray, .contiguous())")


def _no_dtype(name: str, said: object) -> TypeError:
    return TypeError(f"{name} has elements of {said}, of which Ronde knows nothing: it has {', '.join(DTYPES).lower()}")


def _of_interface(array: Any, interface: dict[str, Any], name: str) -> Memory:
    typestr = interface["typestr"]
    dtype = _OF_NUMPY.get(typestr[1:]) if typestr[0] in (_NATIVE, "|") else None
    if dtype is None:
        dtype = _OF_NAMES.get(str(getattr(array, "dtype", typestr)))
    if dtype is None:
        raise _no_dtype(name, getattr(array, "dtype", typestr))
    if interface.get("strides") is not None:
        raise _not_in_a_row(name)
    address, read_only = interface["data"]
    return Memory(address, _product(interface["shape"]), dtype, read_only, array)


class _Device(ctypes.Structure):
    _fields_ = [("kind", ctypes.c_int32), ("number", ctypes.c_int32)]


class _Tensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device", _Device),
        ("dimensions", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


class _Managed(ctypes.Structure):
    _fields_ = [("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p)]


class _Versioned(ctypes.Structure):
    _fields_ = [
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", _Tensor),
    ]


_capsule_name = ctypes.pythonapi.PyCapsule_GetName
_capsule_name.argtypes, _capsule_name.restype = [ctypes.py_object], ctypes.c_char_p
_capsule_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_capsule_pointer.argtypes, _capsule_pointer.restype = [ctypes.py_object, ctypes.c_char_p], ctypes.c_void_p


def _of_dlpack(array: Any, name: str) -> Memory:
    device = getattr(array, "__dlpack_device__", lambda: (_CPU, 0))()
    if device[0] not in _HOST_DEVICES:
        raise TypeError(f"{name} is in the memory of device {device}: copy it to the memory of the host first")
    try:
        capsule = array.__dlpack__(max_version=(1, 1))
    except TypeError:
        capsule = array.__dlpack__()
    # The capsule is not consumed: it frees what it holds when it goes, and until then it is the owner.
    said = _capsule_name(capsule)
    if said == b"dltensor_versioned":
        versioned = _Versioned.from_address(_capsule_pointer(capsule, said))
        if versioned.major != 1:
            raise TypeError(f"{name} speaks DLPack {versioned.major}, and Ronde 1")
        tensor, read_only = versioned.tensor, bool(versioned.flags & _READ_ONLY)
    elif said == b"dltensor":
        tensor, read_only = _Managed.from_address(_capsule_pointer(capsule, said)).tensor, False
    else:
        raise TypeError(f"{name} gives no tensor by DLPack")
    dtype = _OF_DLPACK.get((tensor.code, tensor.bits)) if tensor.lanes == 1 else None
    if dtype is None:
        raise _no_dtype(name, getattr(array, "dtype", (tensor.code, tensor.bits)))
    shape = tensor.shape[: tensor.dimensions]
    count = _product(shape)
    if tensor.strides and count and not _is_in_a_row(shape, tensor.strides[: tensor.dimensions]):
        raise _not_in_a_row(name)
    return Memory((tensor.data or 0) + tensor.byte_offset, count, dtype, read_only, (array, capsule))


def _is_in_a_row(shape: list[int], strides: list[int]) -> bool:
    expected = 1
    for length, stride in zip(reversed(shape), reversed(strides)):
        if length != 1 and stride != expected:
            return False
        expected *= length
    return True


class _Buffer(ctypes.Structure):
    """Py_buffer of the buffer protocol (PEP 3118)."""

    _fields_ = [
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.py_object),
        ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("format", ctypes.c_char_p),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("suboffsets", ctypes.c_void_p),
        ("internal", ctypes.c_void_p),
    ]


_get_buffer = ctypes.pythonapi.PyObject_GetBuffer
_get_buffer.argtypes, _get_buffer.restype = [ctypes.py_object, ctypes.POINTER(_Buffer), ctypes.c_int], ctypes.c_int
_release_buffer = ctypes.pythonapi.PyBuffer_Release
_release_buffer.argtypes, _release_buffer.restype = [ctypes.POINTER(_Buffer)], None


def _of_buffer(array: Any, name: str) -> Memory:
    try:
        view = memoryview(array)
    except TypeError:
        raise TypeError(
            f"{name} is a {type(array).__name__}: give a NumPy array, anything with DLPack, or a buffer such as bytearray"
        ) from None
    if not view.c_contiguous:
        raise _not_in_a_row(name)
    dtype = _OF_FORMATS.get(view.format.lstrip("@="))
    if dtype is None:
        raise _no_dtype(name, f"format {view.format!r}")
    buffer = _Buffer()
    # A simple buffer: only its address is wanted. The view holds it for as long as it lives.
    _get_buffer(view, ctypes.byref(buffer), 0)
    address = buffer.buf or 0
    _release_buffer(ctypes.byref(buffer))
    return Memory(address, view.nbytes // view.itemsize, dtype, view.readonly, view)
