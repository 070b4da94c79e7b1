"""ptrace(2) of one child: its registers, its stops, and how it goes on.

Registers go in and out as user_regs_struct (arch/x86/include/asm/user_64.h) and as an XSAVE area
(NT_X86_XSTATE), whose layout CPUID tells. All calls must come from the thread that the child was
made by.
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct
from ctypes import c_long, c_size_t, c_void_p
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Final

from emulator import extended, fxsave
from emulator.hooks import host_address
from emulator.host_cpuid import NativeUnavailableError, cpuid
from emulator.registers import GENERAL, USER_RFLAGS

if TYPE_CHECKING:
    from emulator.registers import Registers


class Request(IntEnum):
    """Requests of ptrace(2)."""

    TRACEME = 0
    CONT = 7
    SINGLESTEP = 9
    GETREGS = 12
    SETREGS = 13
    SETOPTIONS = 0x4200
    GETEVENTMSG = 0x4201
    GETSIGINFO = 0x4202
    GETREGSET = 0x4204
    SETREGSET = 0x4205
    GET_RSEQ_CONFIGURATION = 0x420F


O_TRACESECCOMP, O_EXITKILL = 1 << 7, 1 << 20
EVENT_SECCOMP: Final = 7

_NT_X86_XSTATE: Final = 0x202
_XSTATE_ROOM: Final = 1 << 16
_PKRU: Final = 1 << 9  # the rights of protection keys, which the kernel gives a thread
_XCR0_AT: Final = 464  # where ptrace stores the features that the kernel uses
_HEADER: Final = slice(512, 576)
_SIGINFO: Final = struct.Struct("<iii4xQ")  # si_signo, si_errno, si_code, si_addr
_RSEQ: Final = struct.Struct("<QIIII")

# user_regs_struct, in its order.
USER_REGS: Final = (
    "R15", "R14", "R13", "R12", "RBP", "RBX", "R11", "R10", "R9", "R8", "RAX", "RCX", "RDX", "RSI",
    "RDI", "orig_rax", "RIP", "cs", "RFLAGS", "RSP", "ss", "FS_BASE", "GS_BASE",
    "ds", "es", "fs", "gs",
)  # fmt: skip
USER: Final = struct.Struct("<27Q")
_BLOCK: Final = struct.Struct("<20Q")  # the start of Registers.block
_BLOCK_REGS: Final = (*GENERAL, "RIP", "RFLAGS", "FS_BASE", "GS_BASE")
_TO_BLOCK: Final = tuple(USER_REGS.index(name) for name in _BLOCK_REGS)
_NO_CALL: Final = 2**64 - 1  # of orig_rax
_FIXED: Final = {"orig_rax": _NO_CALL, "cs": 0x33, "ss": 0x2B}
_FROM_BLOCK: Final = tuple(
    _BLOCK_REGS.index(name) if name in _BLOCK_REGS else -1 for name in USER_REGS
)
RIP_AT: Final = 8 * USER_REGS.index("RIP")
RFLAGS_AT: Final = 8 * USER_REGS.index("RFLAGS")
_ORIG_RAX_AT: Final = 8 * USER_REGS.index("orig_rax")
_RAX_AT: Final = 8 * USER_REGS.index("RAX")
_ARGUMENTS: Final = ("RDI", "RSI", "RDX", "R10", "R8", "R9")


@dataclass(frozen=True, slots=True)
class Halt:
    """Why a child stopped.

    `signo` is the signal that it got, with si_code and si_addr, or that of a wait status; 0 after
    a step, and where `call` is the number of a system call that it was about to make: RIP is
    behind it, RCX and R11 are the processor's. `foreign`: by INT 0x80 or SYSENTER, whose numbers
    are others.
    """

    signo: int = 0
    code: int = 0
    address: int = 0
    call: int | None = None
    foreign: bool = False


STEPPED: Final = Halt()


class ChildGoneError(NativeUnavailableError):
    """The child has ended, which it cannot do by itself: somebody has killed it."""


class Tracee:
    """A stopped child that this thread traces. `features` are its processor's, as bits of XCR0."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._libc.ptrace.restype = c_long
        self._libc.ptrace.argtypes = (c_long, c_long, c_void_p, c_void_p)
        self.user = bytearray(USER.size)  # of the last stop
        self._user_at = host_address(memoryview(self.user))
        self._area = bytearray(_XSTATE_ROOM)
        self._vector = (c_size_t * 2)(host_address(memoryview(self._area)), _XSTATE_ROOM)
        self._vector_at = ctypes.addressof(self._vector)
        self._info = bytearray(128)
        self.features = 0
        self._offsets: dict[int, int] = {}  # of the components that are loaded and saved

    def open_extended(self) -> None:
        """Finds out which extended components there are; raises NativeUnavailableError."""
        self.request(Request.GETREGSET, self._vector_at, _NT_X86_XSTATE)
        self.features = int.from_bytes(self._area[_XCR0_AT : _XCR0_AT + 8], "little")
        for bit in extended.COMPONENTS:
            if self.features & bit:
                self._offsets[bit] = cpuid(0xD, bit.bit_length() - 1)[1]

    def request(self, request: int, data: int = 0, address: int = 0) -> None:
        """One ptrace request; raises ChildGoneError and OSError."""
        if self._libc.ptrace(request, self.pid, address, data) < 0:
            error = ctypes.get_errno()
            if error == 3:  # ESRCH
                raise ChildGoneError("the process that guest code runs in was killed")
            raise OSError(error, f"ptrace request {request}: {os.strerror(error)}")

    # Registers.

    def load(self, registers: Registers) -> None:
        """Sets all registers; raises NativeUnavailableError for those that this processor lacks."""
        present = 3 | extended.in_use(registers.extended)  # x87 and SSE
        missing = present & ~3 & ~self.features
        if missing:
            raise NativeUnavailableError(
                f"this processor lacks registers that are in use (components {missing:#x} of XCR0)"
            )
        values = _BLOCK.unpack_from(registers.block)
        fixed = _FIXED.get
        user = (
            values[i] if i >= 0 else fixed(name, 0)
            for name, i in zip(USER_REGS, _FROM_BLOCK, strict=True)
        )
        USER.pack_into(self.user, 0, *user)
        self.request(Request.SETREGS, self._user_at)
        area = self._area
        area[:_XCR0_AT] = fxsave.store(registers)[:_XCR0_AT]
        state = extended.whole(registers.extended)
        present |= area[_HEADER.start + 1] << 8 & _PKRU
        area[_HEADER] = present.to_bytes(8, "little").ljust(64, b"\0")
        for bit, at in self._offsets.items():
            if present & bit:
                offset, size = extended.COMPONENTS[bit]
                area[at : at + size] = state[offset : offset + size]
        self.request(Request.SETREGSET, self._vector_at, _NT_X86_XSTATE)

    def save(self, registers: Registers) -> None:
        """Stores all registers into the given block."""
        self.request(Request.GETREGS, self._user_at)
        self.request(Request.GETREGSET, self._vector_at, _NT_X86_XSTATE)
        values = USER.unpack_from(self.user)
        _BLOCK.pack_into(registers.block, 0, *[values[i] for i in _TO_BLOCK])
        area = self._area
        fxsave.load_sse(registers, area)
        fxsave.load_x87(registers, area)
        present = int.from_bytes(area[512:520], "little") & extended.FEATURES
        if not present:
            registers.extended = extended.INITIAL
            return
        state = bytearray(extended.SIZE)
        for bit, at in self._offsets.items():
            if present & bit:
                offset, size = extended.COMPONENTS[bit]
                state[offset : offset + size] = area[at : at + size]
        registers.extended = extended.normal(state)

    def jump(self, rip: int) -> None:
        """Sets RIP; all other registers are those of the last stop, or of `save`."""
        struct.pack_into("<Q", self.user, RIP_AT, rip)
        self.request(Request.SETREGS, self._user_at)

    def rip(self) -> int:
        """RIP at the last stop."""
        return int.from_bytes(self.user[RIP_AT : RIP_AT + 8], "little")

    def flags(self) -> int:
        """RFLAGS at the last stop."""
        return int.from_bytes(self.user[RFLAGS_AT : RFLAGS_AT + 8], "little")

    def restartable(self) -> tuple[int, int, int]:
        """Address, size and signature of the area that rseq(2) was told of; zeros if none."""
        room = bytearray(_RSEQ.size)
        at = host_address(memoryview(room))
        try:
            self.request(Request.GET_RSEQ_CONFIGURATION, at, _RSEQ.size)
        except OSError:
            return 0, 0, 0  # Linux before 5.13; a C library that registers none
        address, size, signature, _, _ = _RSEQ.unpack(room)
        return address, size, signature

    # Going on.

    def wait(self) -> int:
        """The wait status of its next stop; raises ChildGoneError."""
        status = os.waitpid(self.pid, 0)[1]
        if not os.WIFSTOPPED(status):
            pid, self.pid = self.pid, 0
            how = f"signal {status & 0x7F}" if status & 0x7F else f"status {status >> 8}"
            raise ChildGoneError(f"the process {pid} that guest code runs in has ended: {how}")
        return status

    def go(self, request: Request, signo: int = 0) -> Halt:
        """Goes on by CONT or SINGLESTEP, and says what stops it; `user` is then current.

        A system call is not made: the child is left behind it.
        """
        self.request(request, signo)
        status = self.wait()
        self.request(Request.GETREGS, self._user_at)
        if status == signal.SIGTRAP << 8 | 0x7F and request is Request.SINGLESTEP:
            return STEPPED
        if status >> 16 == EVENT_SECCOMP:
            return self._refuse_call()
        self.request(Request.GETSIGINFO, host_address(memoryview(self._info)))
        signo, _, code, address = _SIGINFO.unpack_from(self._info)
        return Halt(os.WSTOPSIG(status), code, address)

    def _refuse_call(self) -> Halt:
        message = bytearray(8)
        self.request(Request.GETEVENTMSG, host_address(memoryview(message)))
        number = int.from_bytes(self.user[_ORIG_RAX_AT : _ORIG_RAX_AT + 8], "little")
        user = bytearray(self.user)
        struct.pack_into("<Q", self.user, _ORIG_RAX_AT, _NO_CALL)
        self.request(Request.SETREGS, self._user_at)
        self.request(Request.SINGLESTEP)
        self.wait()  # behind the call that is none, without an instruction of the guest's
        self.user[:] = user
        struct.pack_into("<Q", self.user, _ORIG_RAX_AT, _NO_CALL)
        struct.pack_into("<Q", self.user, _RAX_AT, number)
        self.request(Request.SETREGS, self._user_at)
        return Halt(call=number, foreign=bool(message[0]))

    def call(self, at: int, number: int, *arguments: int) -> int:
        """Makes a system call in the child's name, by the SYSCALL at an address.

        Returns what the kernel returns, an error as a negative number. RIP and all general
        registers are lost.
        """
        values = dict(zip(_ARGUMENTS, arguments, strict=False)) | _FIXED
        values |= {"RAX": number, "RIP": at, "RFLAGS": USER_RFLAGS}
        USER.pack_into(self.user, 0, *(values.get(name, 0) for name in USER_REGS))
        self.request(Request.SETREGS, self._user_at)
        while True:
            self.request(Request.SINGLESTEP)
            status = self.wait()
            if status >> 16 == EVENT_SECCOMP:
                continue  # we are the one who may
            if os.WSTOPSIG(status) == signal.SIGTRAP:
                break
            if os.WSTOPSIG(status) in (signal.SIGSEGV, signal.SIGBUS, signal.SIGILL):
                raise NativeUnavailableError(f"system call {number} could not be made")
        self.request(Request.GETREGS, self._user_at)
        return int.from_bytes(self.user[_RAX_AT : _RAX_AT + 8], "little", signed=True)
