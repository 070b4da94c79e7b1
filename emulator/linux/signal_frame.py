"""The signal frame: what the kernel puts on a user stack before it enters a handler.

struct rt_sigframe of arch/x86/include/asm/sigframe.h, built as arch/x86/kernel/signal.c
(get_sigframe, handle_signal) and signal_64.c (x64_setup_rt_frame, restore_sigcontext) of Linux 6
do. From the frame's address, which is RSP at handler entry:

    +0    pretcode: the restorer's address, where the handler's RET goes
    +8    ucontext (304 bytes): uc_flags, uc_link, uc_stack, sigcontext, uc_sigmask
    +312  siginfo (128 bytes)

The floating-point state lies above it, at a multiple of 64 (see fpstate).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from emulator.fault import GuestStopped
from emulator.linux import fpstate
from emulator.linux.signal_abi import AltStack, SaFlags, SigAction, SigInfo
from emulator.linux.uaccess import AccessFault, check_writable, copy_from_user, copy_to_user
from emulator.registers import LAYOUT, Flags, Registers

if TYPE_CHECKING:
    from emulator.memory import Memory

RED_ZONE: Final = 128  # bytes below RSP that belong to the interrupted function (System V ABI)
FRAME_ALIGNMENT: Final = 16
UCONTEXT: Final = 8
SIGINFO: Final = 312
FRAME_SIZE: Final = SIGINFO + SigInfo.SIZE

UC_FP_XSTATE: Final = 1
UC_SIGCONTEXT_SS: Final = 2
UC_STRICT_RESTORE_SS: Final = 4
USER_CS: Final = 0x33
USER_SS: Final = 0x2B

# Offsets in the ucontext; registers under Intel's names, the rest under the kernel's.
SIGCONTEXT_REGISTERS: Final = (
    "R8", "R9", "R10", "R11", "R12", "R13", "R14", "R15",
    "RDI", "RSI", "RBP", "RBX", "RDX", "RAX", "RCX", "RSP", "RIP", "RFLAGS",
)  # fmt: skip
OFFSETS: Final[dict[str, int]] = (
    {"uc_flags": 0, "uc_link": 8, "ss_sp": 16, "ss_flags": 24, "ss_size": 32}
    | {name: 40 + 8 * i for i, name in enumerate(SIGCONTEXT_REGISTERS)}
    | {"cs": 184, "gs": 186, "fs": 188, "ss": 190}
    | {"err": 192, "trapno": 200, "oldmask": 208, "cr2": 216, "fpstate": 224}
    | {"uc_sigmask": 296}
)

# The user's to change through a frame (FIX_EFLAGS of arch/x86/include/asm/sighandling.h).
FIX_EFLAGS: Final = int(
    Flags.AC | Flags.OF | Flags.DF | Flags.TF | Flags.SF | Flags.ZF | Flags.AF | Flags.PF
    | Flags.CF | Flags.RF
)  # fmt: skip
_RF: Final = int(Flags.RF)
_TF: Final = int(Flags.TF)
_CLEARED_AT_ENTRY: Final = int(Flags.DF | Flags.RF | Flags.TF)

_ADDRESS: Final = 0xFFFF_FFFF_FFFF_FFFF
_ALTSTACK_AT: Final = UCONTEXT + OFFSETS["ss_sp"]
_SIGMASK_AT: Final = UCONTEXT + OFFSETS["uc_sigmask"]
_SIGCONTEXT_AT: Final = UCONTEXT + OFFSETS["R8"]
_UC_HEAD: Final = struct.Struct("<QQQ")  # pretcode, uc_flags, uc_link
_SIGCONTEXT: Final = struct.Struct("<18Q4H5Q")  # up to and with fpstate; reserved1 is not written
_BLOCK: Final = struct.Struct("<18Q")  # RAX .. R15, RIP, RFLAGS at the start of Registers.block
_BLOCK_ORDER: Final = tuple(LAYOUT)[:18]
_TO_SIGCONTEXT: Final = tuple(_BLOCK_ORDER.index(name) for name in SIGCONTEXT_REGISTERS)
_FROM_SIGCONTEXT: Final = tuple(SIGCONTEXT_REGISTERS.index(name) for name in _BLOCK_ORDER)


@dataclass(frozen=True, slots=True)
class Trap:
    """The thread's last processor exception: error code, vector, CR2; kept until the next."""

    err: int = 0
    trapno: int = 0
    cr2: int = 0


@dataclass(frozen=True, slots=True)
class Frame:
    """Where the parts of a frame were put, and whether it lies on the alternate stack."""

    address: int
    fpstate: int
    onstack: bool

    @property
    def ucontext(self) -> int:
        """The address of the ucontext: the handler's third argument."""
        return self.address + UCONTEXT

    @property
    def siginfo(self) -> int:
        """The address of the siginfo: the handler's second argument."""
        return self.address + SIGINFO


def place(rsp: int, flags: int, altstack: AltStack, size: int = fpstate.FRAME_SIZE) -> Frame:
    """Where get_sigframe puts the frame of a thread with this RSP.

    `size` is that of the floating-point state.

    Raises AccessFault where it would not fit on the alternate stack.
    """
    sp = rsp - RED_ZONE & _ADDRESS
    entering = bool(flags & SaFlags.ONSTACK) and altstack.status(sp) == 0
    if entering:
        sp = altstack.sp + altstack.size
    area = (sp - size) & _ADDRESS & -64
    address = ((area - FRAME_SIZE) & -FRAME_ALIGNMENT) - 8 & _ADDRESS
    onstack = entering or altstack.on(rsp)
    if onstack and not altstack.holds(address):
        raise AccessFault(address)
    return Frame(address, area, onstack)


def build(
    memory: Memory,
    registers: Registers,
    info: SigInfo,
    action: SigAction,
    *,
    sigmask: int = 0,
    altstack: AltStack | None = None,
    trap: Trap | None = None,
) -> Frame:
    """Builds the frame for a signal and sets the registers for the handler's entry.

    `sigmask` is what the handler's return restores. Raises AccessFault, with registers and
    memory unchanged, where the kernel would answer with SIGSEGV: a stack that is not writable,
    an alternate stack that overflows, an action without SA_RESTORER.
    """
    altstack = altstack or AltStack()
    trap = trap or Trap()
    if not action.flags & SaFlags.RESTORER:
        raise AccessFault(action.restorer)
    values = _BLOCK.unpack_from(registers.block)
    size = fpstate.frame_size(registers)
    frame = place(registers["RSP"], action.flags, altstack, size)
    head = (
        _UC_HEAD.pack(action.restorer, UC_FP_XSTATE | UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS, 0)
        + AltStack.FORMAT.pack(altstack.sp, altstack.flags, altstack.size)
        + _SIGCONTEXT.pack(
            *(values[i] for i in _TO_SIGCONTEXT),
            *(USER_CS, 0, 0, USER_SS),
            *(trap.err, trap.trapno, sigmask, trap.cr2, frame.fpstate),
        )
    )
    tail = sigmask.to_bytes(8, "little")
    if action.flags & SaFlags.SIGINFO:
        tail += info.pack()
    check_writable(memory, frame.address, frame.fpstate + size - frame.address)
    copy_to_user(memory, frame.fpstate, fpstate.pack(registers))
    copy_to_user(memory, frame.address, head)
    copy_to_user(memory, frame.address + _SIGMASK_AT, tail)
    registers["RDI"] = info.signo
    registers["RAX"] = 0  # for handlers declared without a prototype
    registers["RSI"] = frame.siginfo
    registers["RDX"] = frame.ucontext
    registers["RIP"] = action.handler
    registers["RSP"] = frame.address
    registers["RFLAGS"] &= ~_CLEARED_AT_ENTRY
    fpstate.reset(registers)
    return frame


def read_sigmask(memory: Memory, frame: int) -> int:
    """uc_sigmask of the frame at an address; raises AccessFault."""
    return int.from_bytes(copy_from_user(memory, frame + _SIGMASK_AT, 8), "little")


def read_altstack(memory: Memory, frame: int) -> AltStack:
    """uc_stack of the frame at an address; raises AccessFault."""
    data = copy_from_user(memory, frame + _ALTSTACK_AT, AltStack.FORMAT.size)
    return AltStack(*AltStack.FORMAT.unpack(data))


def restore_sigcontext(memory: Memory, frame: int, registers: Registers) -> None:
    """Takes every register from the frame at an address, whoever has changed it since.

    Raises AccessFault where the frame or its floating-point state is bad, and GuestStopped where
    it asks for what this machine has not: other segments, or the trap flag.
    """
    data = copy_from_user(memory, frame + _SIGCONTEXT_AT, _SIGCONTEXT.size)
    uc_flags = int.from_bytes(copy_from_user(memory, frame + UCONTEXT, 8), "little")
    values = _SIGCONTEXT.unpack(data)
    code, stack, area = values[18] | 3, values[21] | 3, values[26]
    if code != USER_CS or (uc_flags & UC_STRICT_RESTORE_SS and stack != USER_SS):
        raise GuestStopped(
            f"rt_sigreturn to segments CS={code:#x} SS={stack:#x}: not 64-bit user code",
            registers=registers.copy(),
        )
    flags = registers["RFLAGS"]
    _BLOCK.pack_into(registers.block, 0, *(values[i] for i in _FROM_SIGCONTEXT))
    flags = (flags & ~FIX_EFLAGS) | (registers["RFLAGS"] & FIX_EFLAGS)
    # The processor clears RF as soon as an instruction has executed; nothing here reads it.
    registers["RFLAGS"] = flags & ~_RF
    if flags & _TF:
        raise GuestStopped(
            "rt_sigreturn sets the trap flag: single-stepping by the guest is not modelled",
            registers=registers.copy(),
        )
    fpstate.restore(memory, area, registers)
