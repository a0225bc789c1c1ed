"""The C interface of libronde, as include/ronde.h has it. `tests/test_layout.py` compares the two."""

from __future__ import annotations

import ctypes
import os
from ctypes import POINTER, c_char_p, c_double, c_int, c_int32, c_int64, c_size_t, c_uint16, c_uint32, c_uint64, c_void_p
from pathlib import Path

STATUSES = (
    "OK IN_PROGRESS INVALID_ARGUMENT PEER_LOST TIMEOUT MISMATCH ABORTED EXPELLED RESOURCE JOIN_FAILED CLOSED INTERNAL "
    "DIVERGED CANCELLED"
).split()
DTYPES = "I8 U8 I16 U16 I32 U32 I64 U64 F16 BF16 F32 F64 BOOL C64 C128 F8E4M3 F8E5M2".split()
REDUCTIONS = "SUM PROD MIN MAX AVG BAND BOR BXOR".split()
COLLECTIVES = (
    "ALL_REDUCE REDUCE_SCATTER ALL_GATHER ALL_TO_ALL BROADCAST REDUCE GATHER SCATTER BARRIER SEND RECV ALL_GATHER_V "
    "REDUCE_SCATTER_V ALL_TO_ALL_V GATHER_V SCATTER_V"
).split()
TOLERANCES = "RECOVER NONE PER_WINDOW".split()

OK, IN_PROGRESS, INVALID_ARGUMENT = range(3)


class Sized(ctypes.Structure):
    """A struct that begins with its size."""

    def __init__(self, **fields: object) -> None:
        super().__init__(size=ctypes.sizeof(type(self)), **fields)


class Config(Sized):
    _fields_ = [
        ("size", c_size_t),
        ("coordinator", c_char_p),
        ("token", c_char_p),
        ("advertise", c_char_p),
        ("transports", c_char_p),
        ("interfaces", c_char_p),
        ("id", c_void_p),
        ("store", c_void_p),
        ("timeout_ms", c_int64),
        ("connect_timeout_ms", c_int64),
        ("rank", c_int32),
        ("ranks", c_int32),
        ("preset", c_int32),
        ("insecure", c_int32),
        ("streams", c_int32),
        ("first_port", c_uint16),
        ("last_port", c_uint16),
        ("min_peers", c_int32),
        ("max_peers", c_int32),
        ("shrink_only", c_int32),
        ("newcomer", c_int32),
        ("job", c_char_p),
    ]


class Id(ctypes.Structure):
    _fields_ = [("bytes", ctypes.c_ubyte * 256)]


class Change(Sized):
    _fields_ = [
        ("size", c_size_t),
        ("changed", c_int32),
        ("generation", c_uint32),
        ("rank", c_int32),
        ("ranks", c_int32),
        ("joined", c_int32),
        ("gone", c_int32),
        ("gone_ranks", POINTER(c_int32)),
    ]


class Options(Sized):
    _fields_ = [
        ("size", c_size_t),
        ("timeout_ms", c_int64),
        ("algorithm", c_char_p),
        ("tag", c_uint32),
        ("tolerance", c_int32),
        ("strict_commit", c_int32),
        ("reserved", c_int32),
    ]


class Part(ctypes.Structure):
    _fields_ = [
        ("first", c_size_t),
        ("count", c_size_t),
        ("absent", POINTER(c_int32)),
        ("absent_count", c_size_t),
        ("contributors", c_uint32),
        ("reserved", c_uint32),
    ]


class Hole(ctypes.Structure):
    _fields_ = [("first", c_size_t), ("bytes", c_size_t), ("call", c_size_t)]


class Outcome(Sized):
    _fields_ = [
        ("size", c_size_t),
        ("epoch", c_uint64),
        ("seq", c_uint64),
        ("bytes_sent", c_uint64),
        ("bytes_received", c_uint64),
        ("algorithm", c_char_p),
        ("contributors", c_uint32),
        ("interruptions", c_uint32),
        ("interrupted_ns", c_uint64),
        ("absent", POINTER(c_int32)),
        ("absent_count", c_size_t),
        ("parts", c_void_p),
        ("part_count", c_size_t),
        ("stable_through", c_uint64),
        ("generation", c_uint32),
        ("reserved", c_uint32),
        ("weight", c_double),
        ("part_size", c_size_t),
        ("detected_ns", c_uint64),
        ("holes", c_void_p),
        ("hole_count", c_size_t),
        ("hole_size", c_size_t),
    ]


class Call(Sized):
    _fields_ = [
        ("size", c_size_t),
        ("collective", c_int),
        ("dtype", c_int),
        ("reduction", c_uint64),
        ("count", c_size_t),
        ("send", c_void_p),
        ("recv", c_void_p),
        ("send_counts", POINTER(c_size_t)),
        ("send_offsets", POINTER(c_size_t)),
        ("recv_counts", POINTER(c_size_t)),
        ("recv_offsets", POINTER(c_size_t)),
        ("options", POINTER(Options)),
        ("peer", c_int32),
        ("reserved", c_int32),
    ]


_handle = c_void_p
_place = POINTER(c_void_p)

# Function → what it takes. All give a status, but for those of _GIVES.
_TAKES = {
    "version": [],
    "version_string": [],
    "last_error": [],
    "status_name": [c_int],
    "id_create": [POINTER(Config), POINTER(Id)],
    "id_free": [POINTER(Id)],
    "join": [POINTER(Config), _place],
    "close": [_handle],
    "group_free": [_handle],
    "abort": [_handle, c_char_p],
    "rank": [_handle],
    "size": [_handle],
    "failure": [_handle],
    "transport": [_handle, c_int32],
    "host": [_handle, c_int32],
    "recent_calls": [_handle, c_char_p, c_size_t],
    "split": [_handle, c_int32, c_int32, _place],
    "mem_alloc": [_handle, c_size_t, _place],
    "mem_free": [_handle, c_void_p],
    "update": [_handle, POINTER(Change)],
    "generation": [_handle],
    "reduction_premulsum": [c_int, c_void_p, POINTER(c_uint64)],
    "reduction_weighted_avg": [c_double, POINTER(c_uint64)],
    "reduction_free": [c_uint64],
    "agree": [_handle, c_int32, POINTER(c_int32), POINTER(Outcome)],
    "share": [_handle, c_void_p, c_size_t, c_int32, POINTER(Outcome)],
    "start": [_handle, POINTER(Call), _place],
    "commit_begin": [_handle, POINTER(Options), c_size_t, _place],
    "commit_start": [_handle, POINTER(Call)],
    "commit_seal": [_handle, _place],
    "op_test": [_handle, POINTER(Outcome)],
    "op_wait_for": [_handle, c_int64, POINTER(Outcome)],
    "op_cancel": [_handle],
    "op_descriptor": [_handle, POINTER(c_int)],
    "op_free": [_handle],
}
_GIVES = {
    "version": c_uint32,
    "version_string": c_char_p,
    "last_error": c_char_p,
    "status_name": c_char_p,
    "group_free": None,
    "rank": c_int32,
    "size": c_int32,
    "transport": c_char_p,
    "host": c_char_p,
    "recent_calls": c_size_t,
    "generation": c_uint32,
    "op_free": None,
}


def path() -> Path:
    """Where libronde.so is: beside this file, or where RONDE_LIBRARY says."""
    named = os.environ.get("RONDE_LIBRARY")
    return Path(named) if named else Path(__file__).parent / "_lib" / "libronde.so"


def _load() -> ctypes.CDLL:
    where = path()
    try:
        library = ctypes.CDLL(str(where))
    except OSError as error:
        raise ImportError(
            f"libronde cannot be loaded from {where}: {error}. Install the package again (pip install torch_ronde), or say "
            "with RONDE_LIBRARY where a libronde.so of this machine is"
        ) from None
    for name, takes in _TAKES.items():
        function = getattr(library, "ronde_" + name)
        function.argtypes = takes
        function.restype = _GIVES.get(name, c_int)
    return library


library = _load()
