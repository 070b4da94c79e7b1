"""Capstone's disassembler through ctypes: its Python package takes longer to import than a run.

The package's own library is opened, and nothing else of it; the tables of all other processors are
what takes the time. `cs_insn` is as in capstone.h of version 5. Where the library is not found so,
or is another version, the package does it.
"""

from __future__ import annotations

import ctypes
import importlib.util
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

_MAJOR: Final = 5
_X86: Final = 3  # CS_ARCH_X86
_MODE_64: Final = 8  # CS_MODE_64

Row = tuple[int, int, str, str]  # address, size, mnemonic, operands


class _Insn(ctypes.Structure):
    _fields_ = (
        ("id", ctypes.c_uint),
        ("address", ctypes.c_uint64),
        ("size", ctypes.c_uint16),
        ("bytes", ctypes.c_ubyte * 24),
        ("mnemonic", ctypes.c_char * 32),
        ("op_str", ctypes.c_char * 160),
        ("detail", ctypes.c_void_p),
    )


def _library() -> ctypes.CDLL | None:
    spec = importlib.util.find_spec("capstone")
    for place in (spec.submodule_search_locations or ()) if spec is not None else ():
        for path in sorted(Path(place, "lib").glob("libcapstone.*")):
            library = ctypes.CDLL(str(path))
            if library.cs_version(None, None) >> 8 == _MAJOR:
                return library
    return None


@cache
def reader() -> Callable[[bytes, int], list[Row]]:
    """What disassembles x86-64 code: bytes and their address to rows, up to what is none."""
    library = _library()
    if library is None:
        import capstone

        engine: Any = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
        return lambda data, address: list(engine.disasm_lite(data, address))
    handle = ctypes.c_size_t()
    status = library.cs_open(_X86, _MODE_64, ctypes.byref(handle))
    if status:
        raise RuntimeError(f"Capstone does not open: error {status}")
    disasm, free = library.cs_disasm, library.cs_free
    size, u64, pointer = ctypes.c_size_t, ctypes.c_uint64, ctypes.POINTER(_Insn)
    disasm.restype = size
    disasm.argtypes = (size, ctypes.c_char_p, size, u64, size, ctypes.POINTER(pointer))
    free.restype, free.argtypes = None, (pointer, size)

    def read(data: bytes, address: int) -> list[Row]:
        rows = pointer()
        count = disasm(handle, data, len(data), address, 0, ctypes.byref(rows))
        if not count:
            return []
        found = [
            (rows[n].address, rows[n].size, rows[n].mnemonic.decode(), rows[n].op_str.decode())
            for n in range(count)
        ]
        free(rows, count)
        return found

    return read
