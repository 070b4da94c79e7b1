"""Unicorn's C interface through ctypes, without the Python binding's cost per call.

Specified in Unicorn's include/unicorn/unicorn.h and x86.h; the numbers are those of 2.1.4, and a
test compares them with the package's own constants. The package itself is not imported: it takes
several times as long as its library.
"""

from __future__ import annotations

import ctypes
import importlib.util
from ctypes import byref, c_char, c_int, c_size_t, c_uint32, c_uint64, c_void_p
from enum import IntEnum
from pathlib import Path
from typing import Any, Final

ARCH_X86: Final = 4
MODE_64: Final = 8
PROT_ALL: Final = 7
TLB_VIRTUAL: Final = 1

HOOK_INTR: Final = 1
HOOK_INSN: Final = 2
HOOK_CODE: Final = 4
HOOK_BLOCK: Final = 8
HOOK_MEM_READ: Final = 0x400
HOOK_MEM_WRITE: Final = 0x800
HOOK_MEM_INVALID: Final = 0x3F0
HOOK_TLB_FILL: Final = 0x20000

MEM_READ: Final = 16
MEM_WRITE: Final = 17
MEM_FETCH: Final = 18

INS_RDTSC: Final = 608
INS_RDTSCP: Final = 609
INS_SYSCALL: Final = 699

CTL_TB_REMOVE_CACHE: Final = 9
CTL_TB_FLUSH: Final = 10
CTL_TLB_FLUSH: Final = 11
CTL_TLB_TYPE: Final = 12
_CTL_WRITE: Final = 1

MSR_EFER: Final = 0xC000_0080
MSR_STAR: Final = 0xC000_0081


class Error(IntEnum):
    """The values of uc_err that a run can return."""

    OK = 0
    INSN_INVALID = 10
    EXCEPTION = 21


class Register(IntEnum):
    """Numbers of enum uc_x86_reg that stand for themselves; the others follow as ranges."""

    RAX = 35
    RBP = 36
    RBX = 37
    RCX = 38
    RDI = 39
    RDX = 40
    RIP = 41
    CS = 11
    RSI = 43
    RSP = 44
    CR0 = 50
    FPSW = 31
    FP0 = 82
    R8 = 106
    XMM0 = 122
    FPCW = 246
    FPTAG = 247
    MSR = 248
    MXCSR = 249
    FS_BASE = 250
    GS_BASE = 251
    RFLAGS = 253


class UnicornError(RuntimeError):
    """A call into Unicorn failed that cannot fail: the engine is not what it was built for."""


class TlbEntry(ctypes.Structure):
    """uc_tlb_entry: what a TLB_FILL hook answers."""

    _fields_ = (("paddr", c_uint64), ("perms", c_uint32))


class _Msr(ctypes.Structure):
    _fields_ = (("rid", c_uint32), ("value", c_uint64))


def _load() -> ctypes.CDLL:
    spec = importlib.util.find_spec("unicorn")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError("the unicorn package is not installed")
    folder = Path(next(iter(spec.submodule_search_locations))) / "lib"
    for name in ("libunicorn.so.2", "libunicorn.2.dylib", "unicorn.dll"):
        if (folder / name).exists():
            return ctypes.CDLL(str(folder / name))
    raise ImportError(f"no Unicorn library in {folder}")


library: Final = _load()
for _name, _types in {
    "uc_open": (c_int, c_int, c_void_p),
    "uc_close": (c_void_p,),
    "uc_emu_start": (c_void_p, c_uint64, c_uint64, c_uint64, c_size_t),
    "uc_emu_stop": (c_void_p,),
    "uc_reg_read": (c_void_p, c_int, c_void_p),
    "uc_reg_write": (c_void_p, c_int, c_void_p),
    "uc_reg_read_batch": (c_void_p, c_void_p, c_void_p, c_int),
    "uc_reg_write_batch": (c_void_p, c_void_p, c_void_p, c_int),
    "uc_mem_map_ptr": (c_void_p, c_uint64, c_uint64, c_uint32, c_void_p),
    "uc_hook_del": (c_void_p, c_size_t),
    "uc_mem_read": (c_void_p, c_uint64, c_void_p, c_size_t),
    "uc_mem_unmap": (c_void_p, c_uint64, c_uint64),
    "uc_context_alloc": (c_void_p, c_void_p),
    "uc_context_save": (c_void_p, c_void_p),
    "uc_context_restore": (c_void_p, c_void_p),
    "uc_context_free": (c_void_p,),
}.items():
    getattr(library, _name).argtypes = _types
    getattr(library, _name).restype = c_int


def function_address(name: str) -> int:
    """Where a function of the library lies, for machine code that calls it."""
    return ctypes.cast(getattr(library, name), c_void_p).value or 0


def check(error: int, what: str) -> None:
    """Raises UnicornError unless a call returned UC_ERR_OK."""
    if error:
        raise UnicornError(f"Unicorn: {what}: error {error}")


class Engine:
    """An open uc_engine in 64-bit mode. `handle` is its address."""

    def __init__(self) -> None:
        pointer = c_void_p()
        check(library.uc_open(ARCH_X86, MODE_64, byref(pointer)), "uc_open")
        self.handle: int = pointer.value or 0
        self._kept: list[Any] = []
        self._context: int | None = None

    def __del__(self) -> None:
        if self._context is not None:
            library.uc_context_free(self._context)
        library.uc_close(self.handle)

    def map(self, start: int, view: memoryview, protection: int = PROT_ALL) -> None:
        """Maps host memory at a guest address; in virtual TLB mode the TLB hook protects it."""
        memory = (c_char * len(view)).from_buffer(view)
        self._kept.append(memory)
        error = library.uc_mem_map_ptr(
            self.handle, start, len(view), protection, ctypes.addressof(memory)
        )
        check(error, f"uc_mem_map_ptr {start:#x}+{len(view):#x}")

    def unmap(self, start: int, size: int) -> None:
        """Takes a mapping back."""
        check(library.uc_mem_unmap(self.handle, start, size), f"uc_mem_unmap {start:#x}")

    def hook(
        self,
        kind: int,
        callback: int,
        data: int,
        instruction: int = 0,
        at: int | None = None,
        last: int | None = None,
    ) -> int:
        """Adds a hook over all addresses, or from `at` on to `last`, which is `at` if not given.

        `callback` and `data` are host addresses.

        Returns what `unhook` takes.
        """
        number = c_size_t()
        error = library.uc_hook_add(
            c_void_p(self.handle),
            byref(number),
            c_int(kind),
            c_void_p(callback),
            c_void_p(data),
            c_uint64(1 if at is None else at),
            c_uint64(0 if at is None else at if last is None else last),
            c_int(instruction),
        )
        check(error, f"uc_hook_add {kind:#x}")
        return number.value

    def unhook(self, number: int) -> None:
        """Takes a hook back."""
        check(library.uc_hook_del(self.handle, number), "uc_hook_del")
        self.control(CTL_TB_FLUSH)

    def control(self, command: int, *arguments: c_int | c_uint64) -> None:
        """uc_ctl with a command that writes."""
        word = command | len(arguments) << 26 | _CTL_WRITE << 30
        error = library.uc_ctl(c_void_p(self.handle), c_int(word), *arguments)
        check(error, f"uc_ctl {command}")

    def read(self, register: int) -> int:
        """A register of up to 64 bits."""
        value = c_uint64()
        check(library.uc_reg_read(self.handle, register, byref(value)), "uc_reg_read")
        return value.value

    def write(self, register: int, value: int) -> None:
        """Sets a register of up to 64 bits."""
        check(library.uc_reg_write(self.handle, register, byref(c_uint64(value))), "uc_reg_write")

    def write_msr(self, number: int, value: int) -> None:
        """Sets a model-specific register."""
        msr = _Msr(number, value)
        check(library.uc_reg_write(self.handle, Register.MSR, byref(msr)), "write of an MSR")

    def start(self, address: int, until: int = 0, count: int = 0) -> int:
        """uc_emu_start; returns the error."""
        error: int = library.uc_emu_start(self.handle, address, until, 0, count)
        return error

    def keep_context(self) -> None:
        """Remembers the whole state of the CPU, hidden parts included."""
        pointer = c_void_p()
        check(library.uc_context_alloc(self.handle, byref(pointer)), "uc_context_alloc")
        self._context = pointer.value or 0
        check(library.uc_context_save(self.handle, self._context), "uc_context_save")

    def restore_context(self) -> None:
        """Returns to the state that `keep_context` saw."""
        check(library.uc_context_restore(self.handle, self._context), "uc_context_restore")
