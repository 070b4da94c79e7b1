"""The real processor, one instruction at a time: a child process under ptrace(2).

x86-64 Linux only. The child sees the guest's memory at the guest's addresses (regions are shared
mappings, which mremap(2) with an old size of 0 maps a second time) and has no system calls of its
own to make. Registers go in and out as user_regs_struct and user_fpregs_struct, an FXSAVE image
(arch/x86/include/asm/user_64.h); with AVX and AVX-512, as an XSAVE area (NT_X86_XSTATE), whose
layout CPUID tells. RFLAGS.TF belongs to the tracer: PUSHF stores it set.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import struct
import sys
from ctypes import c_int, c_long, c_size_t, c_ulong, c_void_p
from typing import TYPE_CHECKING, Final

from emulator import extended, fxsave
from emulator.hooks import host_address, machine_code_hooks
from emulator.registers import GENERAL

if TYPE_CHECKING:
    from emulator.memory import Memory
    from emulator.registers import Registers

_TRACEME, _GETREGS, _SETREGS, _GETFPREGS, _SETFPREGS, _SINGLESTEP = 0, 12, 13, 14, 15, 9
_SETOPTIONS, _EXITKILL = 0x4200, 0x10_0000
_GETSIGINFO, _GETREGSET, _SETREGSET = 0x4202, 0x4204, 0x4205
_NT_X86_XSTATE: Final = 0x202
_XSTATE_ROOM: Final = 1 << 16
_XCR0_AT: Final = 464  # where ptrace stores the features that the kernel uses
_XSTATE_BV_AT: Final = 512
_HEADER: Final = slice(512, 576)
_SI_ADDR: Final = 16
_PR_SET_PDEATHSIG: Final = 1
_MREMAP_MAYMOVE, _MREMAP_FIXED = 1, 2

# user_regs_struct, in its order.
_USER_REGS: Final = (
    "R15", "R14", "R13", "R12", "RBP", "RBX", "R11", "R10", "R9", "R8", "RAX", "RCX", "RDX", "RSI",
    "RDI", "orig_rax", "RIP", "cs", "RFLAGS", "RSP", "ss", "FS_BASE", "GS_BASE",
    "ds", "es", "fs", "gs",
)  # fmt: skip
_BLOCK: Final = struct.Struct("<20Q")  # the start of Registers.block
_BLOCK_REGS: Final = (*GENERAL, "RIP", "RFLAGS", "FS_BASE", "GS_BASE")
_TO_BLOCK: Final = tuple(_USER_REGS.index(name) for name in _BLOCK_REGS)
_REGS: Final = struct.Struct("<27Q")
_RIP_AT: Final = 8 * _USER_REGS.index("RIP")
_FIXED: Final = {"orig_rax": 2**64 - 1, "cs": 0x33, "ss": 0x2B}  # -1: not in a system call
_FROM_BLOCK: Final = tuple(
    _BLOCK_REGS.index(name) if name in _BLOCK_REGS else -1 for name in _USER_REGS
)


# RDI = leaf, RSI = subleaf, RDX = where EAX, EBX, ECX and EDX go.
CPUID_TEXT: Final = """
        push    rbx
        mov     r8, rdx
        mov     eax, edi
        mov     ecx, esi
        cpuid
        mov     [r8], eax
        mov     [r8 + 4], ebx
        mov     [r8 + 8], ecx
        mov     [r8 + 12], edx
        pop     rbx
        ret
"""
CPUID: Final = bytes.fromhex("534989d089f889f10fa241890041895804418948084189500c5bc3")


class NativeUnavailableError(RuntimeError):
    """This host does not let a process be traced, or cannot map the guest's addresses."""


def cpuid(leaf: int, subleaf: int = 0) -> tuple[int, int, int, int]:
    """EAX, EBX, ECX and EDX of this host's CPUID; raises NativeUnavailableError."""
    made = machine_code_hooks({"CPUID": CPUID})
    if made is None:
        raise NativeUnavailableError("this host does not allow machine code in memory")
    found = (ctypes.c_uint32 * 4)()
    function = ctypes.CFUNCTYPE(None, ctypes.c_uint32, ctypes.c_uint32, c_void_p)
    function(made[1]["CPUID"])(leaf, subleaf, ctypes.addressof(found))
    return found[0], found[1], found[2], found[3]


class NativeCpu:
    """A processor that executes the code of `memory`, as it is mapped when this is made.

    Raises NativeUnavailableError. Use it from one thread only: ptrace insists on that. With
    `wide`, `Registers.extended` is loaded and saved, too; `features` are the components that this
    processor has, as bits of XCR0.
    """

    def __init__(self, memory: Memory, *, wide: bool = False) -> None:
        if sys.platform != "linux" or platform.machine() != "x86_64":
            raise NativeUnavailableError("stepping the real processor needs x86-64 Linux")
        self.memory = memory
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._libc.ptrace.restype = c_long
        self._libc.ptrace.argtypes = (c_long, c_long, c_void_p, c_void_p)
        self._libc.mremap.restype = c_void_p
        self._libc.mremap.argtypes = (c_void_p, c_size_t, c_size_t, c_int, c_void_p)
        self._libc.mprotect.argtypes = (c_void_p, c_size_t, c_int)
        self._regs = bytearray(_REGS.size)
        self._fpregs = bytearray(fxsave.SIZE)
        self._regs_at = host_address(memoryview(self._regs))
        self._fpregs_at = host_address(memoryview(self._fpregs))
        self.features = 0
        self._offsets: dict[int, int] = {}  # of the components that are loaded and saved
        # os.fork would run every library's at-fork handlers, and warns where there are threads.
        self.pid = ctypes.PyDLL(None).fork()
        if self.pid == 0:
            self._become_guest()
        status = os.waitpid(self.pid, 0)[1]
        if not os.WIFSTOPPED(status):
            self.pid = 0
            raise NativeUnavailableError("the host does not allow ptrace, or has no room there")
        self._ptrace(_SETOPTIONS, _EXITKILL)
        if wide:
            self._open_extended()

    def _open_extended(self) -> None:
        self._fpregs = bytearray(_XSTATE_ROOM)
        self._fpregs_at = host_address(memoryview(self._fpregs))
        self._vector = (c_size_t * 2)(self._fpregs_at, _XSTATE_ROOM)
        self._ptrace(_GETREGSET, ctypes.addressof(self._vector), _NT_X86_XSTATE)
        self.features = int.from_bytes(self._fpregs[_XCR0_AT : _XCR0_AT + 8], "little")
        for bit in extended.COMPONENTS:
            if self.features & bit:
                self._offsets[bit] = cpuid(0xD, bit.bit_length() - 1)[1]

    def _become_guest(self) -> None:
        try:
            os.setsid()
            self._libc.prctl(_PR_SET_PDEATHSIG, c_ulong(signal.SIGKILL))
            if self._libc.ptrace(_TRACEME, 0, None, None) == 0:
                for region in self.memory.regions:
                    source, flags = host_address(region.view), _MREMAP_MAYMOVE | _MREMAP_FIXED
                    place = self._libc.mremap(source, 0, region.size, flags, region.start)
                    assert place == region.start
                    assert self._libc.mprotect(region.start, region.size, int(region.prot)) == 0
                os.kill(os.getpid(), signal.SIGSTOP)
        finally:
            os._exit(1)

    def _ptrace(self, request: int, data: int, address: int = 0) -> None:
        if self._libc.ptrace(request, self.pid, address, data) < 0:
            error = ctypes.get_errno()
            raise OSError(error, f"ptrace request {request}: {os.strerror(error)}")

    def close(self) -> None:
        """Ends the child."""
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.pid = 0

    def load(self, registers: Registers) -> None:
        """Sets all registers."""
        values = _BLOCK.unpack_from(registers.block)
        fixed = _FIXED.get
        user = (
            values[i] if i >= 0 else fixed(name, 0)
            for name, i in zip(_USER_REGS, _FROM_BLOCK, strict=True)
        )
        _REGS.pack_into(self._regs, 0, *user)
        self._ptrace(_SETREGS, self._regs_at)
        if not self._offsets:
            self._fpregs[: fxsave.SIZE] = fxsave.store(registers)
            self._ptrace(_SETFPREGS, self._fpregs_at)
            return
        self._fpregs[:_XCR0_AT] = fxsave.store(registers)[:_XCR0_AT]
        state = extended.whole(registers.extended)
        present = 3 | extended.in_use(state)  # x87 and SSE
        self._fpregs[_HEADER] = present.to_bytes(8, "little").ljust(64, b"\0")
        for bit, at in self._offsets.items():
            offset, size = extended.COMPONENTS[bit]
            self._fpregs[at : at + size] = state[offset : offset + size]
        self._ptrace(_SETREGSET, ctypes.addressof(self._vector), _NT_X86_XSTATE)

    def save(self, registers: Registers) -> None:
        """Stores all registers into the given block."""
        self._ptrace(_GETREGS, self._regs_at)
        if self._offsets:
            self._save_extended(registers)
        else:
            self._ptrace(_GETFPREGS, self._fpregs_at)
        values = _REGS.unpack_from(self._regs)
        _BLOCK.pack_into(registers.block, 0, *[values[i] for i in _TO_BLOCK])
        fxsave.load_sse(registers, self._fpregs)
        fxsave.load_x87(registers, self._fpregs)

    def jump(self, rip: int) -> None:
        """Sets RIP; all other registers are those that `save` has just stored."""
        struct.pack_into("<Q", self._regs, _RIP_AT, rip)
        self._ptrace(_SETREGS, self._regs_at)

    def _save_extended(self, registers: Registers) -> None:
        self._ptrace(_GETREGSET, ctypes.addressof(self._vector), _NT_X86_XSTATE)
        state = bytearray(extended.SIZE)
        for bit, at in self._offsets.items():
            offset, size = extended.COMPONENTS[bit]
            state[offset : offset + size] = self._fpregs[at : at + size]
        registers.extended = extended.normal(state)

    def fault_address(self) -> int:
        """si_addr of the signal that the last step raised."""
        info = bytearray(128)
        self._ptrace(_GETSIGINFO, host_address(memoryview(info)))
        return int.from_bytes(info[_SI_ADDR : _SI_ADDR + 8], "little")

    def step(self) -> int:
        """Executes one instruction, or one iteration of a REP instruction.

        Returns 0, or the number of the signal that the instruction raised instead.
        """
        self._ptrace(_SINGLESTEP, 0)
        status = os.waitpid(self.pid, 0)[1]
        if not os.WIFSTOPPED(status):
            self.pid = 0
            raise NativeUnavailableError(f"the child is gone, wait status {status:#x}")
        number = os.WSTOPSIG(status)
        return 0 if number == signal.SIGTRAP else number
